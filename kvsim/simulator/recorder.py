"""Append-only records of a run: a row per run of steps, an entry per moment of a request.

Nothing is judged here; ``kvsim.results.result`` turns these arrays into statistics afterwards.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from struct import Struct

import numpy as np
import numpy.typing as npt

from kvsim.simulator.request import Request
from kvsim.workload.base import RequestTable

__all__ = ["DECODE_ROW", "ROW_COLUMNS", "STEP_COLUMNS", "STEP_ROW", "Recorder"]

ROW_COLUMNS = (
    "start_seconds",  # when the run of steps began
    "seconds",  # how long all of its steps took
    "steps",  # engine steps in the run
    "sequences",  # decoding sequences, one token each per step
    "prefill_tokens",  # prompt tokens computed (in runs of one step)
    "kv_read_bytes",  # bytes that the first step's decode attention reads
    "waiting",  # requests in the queue
    "filled_slots",  # slots that hold something at the start: cached tokens, in a plain pool
    "claimed_slots",  # slots that live requests are due at the start, each counted by itself
    "held_slots",  # slots held at the start, by what the pool has left
    "grown_slots",  # slots that the run allocated, less those that windows gave back
    "reserved_slots",  # held slots that will be written later, at the start
    "external_slots",  # free slots that the head of the queue cannot use
    "cached_slots",  # slots of finished prefixes kept for reuse
)
STEP_COLUMNS = (
    *ROW_COLUMNS,
    "filling_slots",  # slots that the run fills
    "left_slots",  # slots that windows leave behind in it, and give back
)
STEP_ROW = Struct(f"2d{len(ROW_COLUMNS) - 2}q")  # times, then counts
# The same row when nobody waits, nobody prefills, and no slot is set apart: pad bytes are zeros.
DECODE_ROW = Struct("2d2q8xq8x4q24x")
_ROW_DTYPE = np.dtype([(name, "f8" if at < 2 else "i8") for at, name in enumerate(ROW_COLUMNS)])
_PAGE_ROWS = 1 << 15
_NEVER = float("nan")


class Recorder:
    """Collects what happened; the scheduler and the replica write, nobody reads until the end.

    Attributes
    ----------
    queued_seconds : array of float
        By request row: when it joined, or will join, the engine's queue; NaN where that depends on
        who else comes.
    scheduled_seconds, first_token_seconds, finish_seconds : array of float
        By request row, NaN until it happens; the scheduler writes them: when it first admits
        a request, and at the end of the steps that produced its first token and its last.
    tables : list of RequestTable
        The arrivals, in order of their rows.
    cached_tokens : dict of int to int
        By request row, of those that have any: the tokens that an admission last found in the
        prefix cache.
    rejected_rows : list of int
        Requests that could never be served.
    preempted : list of (int, int)
        Request row and step row of each preemption, in order; it happened when that run of
        steps began.
    recomputed_tokens, swapped_tokens : int
        Cached tokens that preemptions threw away, and those they moved out to the host.
    queried_tokens, hit_tokens : int
        Prompt tokens looked up in the prefix cache, and those found.
    write_steps : callable
        ``write_steps(STEP_ROW.pack(...))`` appends one row of `ROW_COLUMNS`.
    filling_slots : array of int
        By step row, the slots that it fills; empty where a slot is a token, so that they
        follow from the row.
    left_slots : array of int
        By step row, the slots that windows leave behind in it; empty where none ever does.
    """

    def __init__(self) -> None:
        self.tables: list[RequestTable] = []
        self.queued_seconds = array("d")
        self.scheduled_seconds = array("d")
        self.first_token_seconds = array("d")
        self.finish_seconds = array("d")
        self.preempted: list[tuple[int, int]] = []
        self.cached_tokens: dict[int, int] = {}
        self.rejected_rows: list[int] = []
        self.recomputed_tokens = 0
        self.swapped_tokens = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._rows = BytesIO()
        self.write_steps: Callable[[bytes], object] = self._rows.write
        self.filling_slots = array("q")
        self.left_slots = array("q")

    def arrive(self, table: RequestTable, queued_seconds: npt.NDArray[np.float64]) -> None:
        """Note a table of arrivals: their rows follow those noted before."""
        self.tables.append(table)
        self.queued_seconds.frombytes(np.ascontiguousarray(queued_seconds).tobytes())
        never = array("d", [_NEVER]) * len(table)
        for column in (self.scheduled_seconds, self.first_token_seconds, self.finish_seconds):
            column.extend(never)

    def look_up(self, request: Request, cached_tokens: int) -> None:
        """Note that an admission looked the prefix cache up, and what it found."""
        self.queried_tokens += request.prefill_tokens
        if cached_tokens:
            self.cached_tokens[request.row] = cached_tokens
            self.hit_tokens += cached_tokens

    def reject(self, row: int) -> None:
        """Note a request that could never be served."""
        self.rejected_rows.append(row)

    def preempt(self, request: Request) -> None:
        """Note a preemption; what becomes of its tokens is added to one of the totals."""
        self.preempted.append((request.row, self.step_rows))

    @property
    def preemptions(self) -> Counter[int]:
        """How often each request was preempted, by its row."""
        return Counter(row for row, _ in self.preempted)

    @property
    def step_rows(self) -> int:
        """Rows appended so far."""
        return self._rows.tell() // STEP_ROW.size

    def step_pages(self) -> Iterator[dict[str, npt.NDArray[np.float64]]]:
        """Yield the step rows a page at a time, one float array per column of `STEP_COLUMNS`."""
        for start in range(0, self.step_rows, _PAGE_ROWS):
            yield self._columns(slice(start, start + _PAGE_ROWS))

    def step_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return all step rows, one float array per column of `STEP_COLUMNS`."""
        return self._columns(slice(None))

    def _columns(self, part: slice) -> dict[str, npt.NDArray[np.float64]]:
        """Turn packed rows into a float array per column, with what follows from them."""
        rows = np.frombuffer(self._rows.getbuffer(), dtype=_ROW_DTYPE)[part]
        columns = {name: rows[name].astype(np.float64) for name in ROW_COLUMNS}
        columns["left_slots"] = np.zeros(len(rows))
        if self.left_slots:
            columns["left_slots"] = _numbers(self.left_slots[part], len(rows))
        if self.filling_slots:
            columns["filling_slots"] = _numbers(self.filling_slots[part], len(rows))
            return columns
        prompts, reserved = columns["prefill_tokens"], columns["reserved_slots"]
        columns["filling_slots"] = columns["steps"] * columns["sequences"] + prompts
        # held for this step's prompts, and not yet written
        np.copyto(reserved, prompts, where=reserved == 0)
        return columns


def _numbers(kept: array[int], rows: int) -> npt.NDArray[np.float64]:
    """One number a row: an interrupt may have lost a row."""
    return np.array(kept[:rows], dtype=np.float64)
