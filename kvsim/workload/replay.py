"""Open-loop replay of a recorded trace, with time scaling and seeded jitter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kvsim.errors import InputError
from kvsim.workload.base import BATCH_ROWS, CHUNK_ROWS, RequestTable, cut, in_time_order, rechunked
from kvsim.workload.content import HashedContent
from kvsim.workload.generated import Limits
from kvsim.workload.streams import Streams
from kvsim.workload.traces import ReadReport, Trace
from kvsim.workload.traces.columns import Columns, TraceRow

__all__ = ["TraceReplay", "batched", "table_of"]


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
        first = 0
        for batch in batched(self.trace.pieces(reading), BATCH_ROWS):
            table = table_of(batch, reading.hash_block_size, first)
            yield self._moved(table, rng), self.time_scale * float(table.arrival_seconds[-1])
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


def batched(pieces: Iterable[TraceRow | Columns], rows: int) -> Iterator[Columns]:
    """Yield the requests of `pieces` by `rows`, the last fewer; no piece is asked for too early."""
    held: list[Columns] = []
    single: list[TraceRow] = []
    count = 0
    for piece in pieces:
        if isinstance(piece, TraceRow):
            single.append(piece)
            count += 1
        else:
            held += [*_together(single), piece]
            single, count = [], count + len(piece)
        if count >= rows:
            whole = Columns.concat([*held, *_together(single)])
            full = count - count % rows
            for at in range(0, full, rows):
                yield whole.rows_from(at, at + rows)
            held, single, count = [whole.rows_from(full, count)], [], count - full
    if count:
        yield Columns.concat([*held, *_together(single)])


def _together(rows: list[TraceRow]) -> list[Columns]:
    return [Columns.of_rows(rows)] if rows else []


def table_of(batch: Columns, hash_block_size: int | None, first_row: int) -> RequestTable:
    """Make a table of the requests of a trace.

    Parameters
    ----------
    batch : Columns
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
    if batch.arrival_seconds is None:
        raise InputError(
            "the file has lengths and no arrival times",
            where="trace",
            fix="use it as lengths: {kind: pairs, file: ...} beside arrivals",
        )
    content = None
    if hash_block_size is not None:
        ids = [() if row is None else row for row in batch.names()]
        numbers = range(first_row, first_row + len(batch))
        content = HashedContent(ids, numbers, batch.prompt_tokens.tolist(), hash_block_size)
    return RequestTable(
        batch.arrival_seconds,
        batch.prompt_tokens,
        batch.output_tokens,
        batch.session,
        batch.priority,
        batch.samples,
        content,
    )
