"""Append-only records of a run: one row a step run, one column entry a moment of a request.

Nothing is judged here; ``kvsim.results`` turns these arrays into statistics afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.request import Request

if TYPE_CHECKING:
    from kvsim.workload.base import RequestTable

__all__ = ["STEP_COLUMNS", "Recorder"]

STEP_COLUMNS = (
    "start_seconds",  # when the run of steps began
    "seconds",  # how long all of its steps took
    "steps",  # engine steps in the run
    "sequences",  # decoding sequences, one token each a step
    "prefill_tokens",  # prompt tokens computed (in runs of one step)
    "kv_read_bytes",  # bytes that the first step's decode attention reads
    "waiting",  # requests in the queue
    "tokens",  # cached tokens at the start, decoding and prefilling
    "held_slots",  # token slots held at the start
    "grown_slots",  # token slots that the run took
    "reserved_slots",  # held slots that will be written later, at the start
    "external_slots",  # free slots that the head of the queue cannot use
    "cached_slots",  # slots of finished prefixes kept for reuse
)
_ROW = Struct(f"2d{len(STEP_COLUMNS) - 2}q")  # times, then counts
_ROW_DTYPE = np.dtype([(name, "f8" if at < 2 else "i8") for at, name in enumerate(STEP_COLUMNS)])
_PAGE_BYTES = _ROW.size << 15
_NEVER = float("nan")


class Recorder:
    """Collects what happened; the scheduler and the replica write, nobody reads until the end.

    Attributes
    ----------
    scheduled_seconds, first_token_seconds, finish_seconds : array of float
        By request row; NaN until it happens.
    preemptions, cached_tokens : array of int
        By request row.
    preempted : list of (int, int)
        Request row and step row of each preemption, in order; it happened when that run of
        steps began.
    recomputed_tokens, swapped_tokens : int
        Cached tokens that preemptions threw away, and those they moved out to the host.
    queried_tokens, hit_tokens : int
        Prompt tokens looked up in the prefix cache, and those found.
    """

    def __init__(self) -> None:
        self.tables: list[RequestTable] = []
        self.scheduled_seconds = array("d")
        self.first_token_seconds = array("d")
        self.finish_seconds = array("d")
        self.preemptions: dict[int, int] = {}
        self.preempted: list[tuple[int, int]] = []
        self.cached_tokens: dict[int, int] = {}
        self.rejected_rows: list[int] = []
        self.recomputed_tokens = 0
        self.swapped_tokens = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._pages: list[bytearray] = []
        self._page = bytearray()
        self._offset = _PAGE_BYTES

    def arrive(self, table: RequestTable) -> None:
        """Note a table of arrivals: their rows follow those noted before."""
        self.tables.append(table)
        never = array("d", [_NEVER]) * len(table)
        for column in (self.scheduled_seconds, self.first_token_seconds, self.finish_seconds):
            column.extend(never)

    def schedule(self, request: Request, cached_tokens: int, now: float) -> None:
        """Note an admission: the first ends the queueing, every one looks the cache up."""
        self.queried_tokens += request.prefill_tokens
        if request.preemptions == 0:
            self.scheduled_seconds[request.row] = now
        if cached_tokens:
            self.cached_tokens[request.row] = cached_tokens
            self.hit_tokens += cached_tokens

    def first_token(self, row: int, now: float) -> None:
        """Note the end of the step that produced a request's first token."""
        self.first_token_seconds[row] = now

    def finish(self, row: int, now: float) -> None:
        """Note the end of the step that produced a request's last token."""
        self.finish_seconds[row] = now

    def reject(self, row: int) -> None:
        """Note a request that could never be served."""
        self.rejected_rows.append(row)

    def preempt(self, request: Request) -> None:
        """Note a preemption; what becomes of its tokens is added to one of the totals."""
        self.preemptions[request.row] = self.preemptions.get(request.row, 0) + 1
        self.preempted.append((request.row, self.step_rows))

    def steps(self, row: tuple[float, ...]) -> None:
        """Append one row of `STEP_COLUMNS`."""
        offset = self._offset
        if offset == _PAGE_BYTES:
            self._page = bytearray(_PAGE_BYTES)
            self._pages.append(self._page)
            offset = 0
        _ROW.pack_into(self._page, offset, *row)
        self._offset = offset + _ROW.size

    @property
    def step_rows(self) -> int:
        """Rows appended so far."""
        return ((len(self._pages) - 1) * _PAGE_BYTES + self._offset) // _ROW.size

    def step_pages(self) -> Iterator[dict[str, npt.NDArray[np.float64]]]:
        """Yield the step rows a page at a time, one float array a column."""
        left = self.step_rows
        for page in self._pages:
            rows = np.frombuffer(page, dtype=_ROW_DTYPE)[:left]
            left -= len(rows)
            yield {name: rows[name].astype(np.float64) for name in STEP_COLUMNS}

    def step_columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return all step rows, one float array a column."""
        pages = list(self.step_pages())
        return {
            name: np.concatenate([page[name] for page in pages]) if pages else np.empty(0)
            for name in STEP_COLUMNS
        }
