"""Append-only records of a run: one row a step run, one column entry a moment of a request.

Nothing is judged here; ``kvsim.results`` turns these arrays into statistics afterwards.
"""

from __future__ import annotations

from array import array
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
_ROWS_PER_PAGE = 1 << 15
_NEVER = float("nan")


class Recorder:
    """Collects what happened; the scheduler and the replica write, nobody reads until the end.

    Attributes
    ----------
    scheduled_seconds, first_token_seconds, finish_seconds : array of float
        By request row; NaN until it happens.
    preemptions, cached_tokens : array of int
        By request row.
    recomputed_tokens, rejected, queried_tokens, hit_tokens : int
        Totals.
    """

    def __init__(self) -> None:
        self.tables: list[RequestTable] = []
        self.scheduled_seconds = array("d")
        self.first_token_seconds = array("d")
        self.finish_seconds = array("d")
        self.preemptions: dict[int, int] = {}
        self.cached_tokens: dict[int, int] = {}
        self.rejected_rows: list[int] = []
        self.recomputed_tokens = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.step_rows = 0
        self._row = Struct(f"{len(STEP_COLUMNS)}d")
        self._pages: list[bytearray] = []
        self._page = bytearray()
        self._offset = 0

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
        """Note a preemption and the cached tokens that it threw away or moved."""
        self.preemptions[request.row] = self.preemptions.get(request.row, 0) + 1
        self.recomputed_tokens += request.computed_tokens * request.samples

    def steps(self, *row: float) -> None:
        """Append one row of `STEP_COLUMNS`."""
        if self._offset == len(self._page):
            self._page = bytearray(_ROWS_PER_PAGE * self._row.size)
            self._pages.append(self._page)
            self._offset = 0
        self._row.pack_into(self._page, self._offset, *row)
        self._offset += self._row.size
        self.step_rows += 1

    def step_array(self) -> npt.NDArray[np.float64]:
        """Return all step rows, shape (rows, columns)."""
        pages = [np.frombuffer(page, dtype=np.float64) for page in self._pages]
        flat = np.concatenate(pages) if pages else np.empty(0)
        return flat.reshape(-1, len(STEP_COLUMNS))[: self.step_rows]
