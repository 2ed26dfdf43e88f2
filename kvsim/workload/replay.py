"""Open-loop replay of a recorded trace, with time scaling and seeded jitter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.workload.base import BATCH_ROWS, CHUNK_ROWS, RequestTable, cut, in_time_order, rechunked
from kvsim.workload.content import HashedContent
from kvsim.workload.generated import Limits
from kvsim.workload.streams import Streams
from kvsim.workload.traces import ReadReport, Trace, TraceRow

__all__ = ["TraceReplay", "table_of"]


@dataclass
class TraceReplay:
    """A trace's requests at the times it recorded.

    Parameters
    ----------
    trace : Trace
        A format with recorded arrivals.
    time_scale : float
        Multiplies every time; 0.5 doubles the request rate.
    jitter_seconds : float
        Each request is moved by a uniform draw from 0 to this, in the trace's own seconds and
        before scaling: 3 for Mooncake, whose clock ticks every 3 s. Stream "arrivals".
    limits : Limits
        Where to end, in requests and in (scaled) seconds.

    Attributes
    ----------
    report : ReadReport or None
        Of the pass begun last: complete once its tables are exhausted.
    """

    trace: Trace
    time_scale: float = 1.0
    jitter_seconds: float = 0.0
    limits: Limits = field(default_factory=Limits)
    report: ReadReport | None = None

    def tables(self, streams: Streams, chunk_rows: int = CHUNK_ROWS) -> Iterator[RequestTable]:
        """Yield the requests in time order; see `kvsim.workload.base.Workload.tables`.

        The file streams: at most a batch of rows (and those a jitter holds back) is in memory.
        """
        ordered = in_time_order(self._batches(streams.stream("arrivals")))
        limited = cut(ordered, self.limits.requests, self.limits.duration_seconds)
        return rechunked(limited, chunk_rows)

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[RequestTable, float]]:
        reading = self.trace.reading()
        self.report = reading.report
        rows = self.trace.rows(reading)
        first = 0
        while batch := list(islice(rows, BATCH_ROWS)):
            table = self._moved(table_of(batch, reading.hash_block_size, first), rng)
            yield table, self.time_scale * (batch[-1].arrival_seconds or 0.0)
            first += len(batch)

    def _moved(self, table: RequestTable, rng: np.random.Generator) -> RequestTable:
        if self.jitter_seconds == 0 and self.time_scale == 1:
            return table
        arrival = table.arrival_seconds
        if self.jitter_seconds:
            arrival = arrival + self.jitter_seconds * rng.random(len(table))
        return RequestTable.in_order(
            **{**vars(table), "arrival_seconds": arrival * self.time_scale}
        )


def table_of(rows: list[TraceRow], hash_block_size: int | None, first_row: int) -> RequestTable:
    """Make a table of trace rows.

    Parameters
    ----------
    rows : list of TraceRow
        With arrivals, in order.
    hash_block_size : int or None
        Tokens behind an identity; None shares nothing.
    first_row : int
        Number of the first row within the trace: keeps private blocks apart between tables.

    Raises
    ------
    InputError
        For rows without arrivals: a file of lengths only.
    """
    if rows[0].arrival_seconds is None:
        raise InputError(
            "the file has lengths and no arrival times",
            where="trace",
            fix="use it as lengths: {kind: pairs, file: ...} beside arrivals",
        )
    content = None
    if hash_block_size is not None:
        ids = [() if row.block_ids is None else row.block_ids for row in rows]
        numbers = range(first_row, first_row + len(rows))
        content = HashedContent(ids, numbers, [row.prompt_tokens for row in rows], hash_block_size)
    return RequestTable(
        np.array([row.arrival_seconds for row in rows], dtype=float),
        _column(row.prompt_tokens for row in rows),
        _column(row.output_tokens for row in rows),
        _optional(row.session for row in rows),
        _optional(row.priority for row in rows),
        _optional(row.samples for row in rows),
        content,
    )


def _column(values: Iterable[int]) -> Any:
    return np.fromiter(values, dtype=np.int64)


def _optional(values: Iterable[int | None]) -> Any:
    listed = list(values)
    return None if listed[0] is None else np.array(listed, dtype=np.int64)
