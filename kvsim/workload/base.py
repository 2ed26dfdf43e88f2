"""The two kinds of workload, and the table of requests that both hand to the simulator.

::

    open loop      tables(streams)  ->  RequestTable, RequestTable, ...      arrivals are given
    closed loop    start(streams)   ->  RequestTable                         first requests
                   following(row, finish_seconds) -> NextRequest | None      arrivals answer
                   branches(row, finish_seconds)  -> (NextRequest, ...)      completions

Closed loop, row numbers: `start` hands out rows 0, 1, ...; each `NextRequest` then gets the
next row, in the order in which they are handed out. When request `row` finishes, the simulator
calls `following` once, then `branches` once, each with the finish time in seconds.
``workload.content`` (also ``table.content`` of the start table) knows every row handed out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.specs.numbers import LONGEST_SECONDS
from kvsim.workload.content import PrefixContent
from kvsim.workload.streams import Streams

__all__ = [
    "BATCH_ROWS",
    "CHUNK_ROWS",
    "ClosedLoop",
    "Floats",
    "Ints",
    "NextRequest",
    "PrefixContent",
    "RequestTable",
    "Workload",
    "cut",
    "in_time_order",
    "rechunked",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_ROWS = 16_384  # most rows of one table
BATCH_ROWS = 4_096  # draws are made in batches of this size, whatever the chunk


@dataclass(frozen=True, eq=False)
class RequestTable:
    """Requests in order of arrival, one column a property.

    Parameters
    ----------
    arrival_seconds : float64 array (requests,)
        Seconds from the start of the run; never decreasing.
    prompt_tokens, output_tokens : int64 array (requests,)
        At least 1 each; the prompt includes any shared prefix and earlier turns.
    session : int64 array, optional
        Conversation each request belongs to.
    priority : int64 array, optional
        Smaller is served first, as in vLLM.
    samples : int64 array, optional
        Parallel samples of each request (``n``).
    content : PrefixContent, optional
        Block identities; None means that nothing is shared.

    Raises
    ------
    InputError
        For columns of unequal length, times that go back, or lengths below 1.
    """

    arrival_seconds: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    session: Ints | None = None
    priority: Ints | None = None
    samples: Ints | None = None
    content: PrefixContent | None = None

    def __post_init__(self) -> None:
        for name, column in self._columns().items():
            if column is not None and len(column) != len(self):
                raise InputError(f"column {name} has {len(column)} rows, not {len(self)}")
        if len(self) == 0:
            return
        if not np.isfinite(self.arrival_seconds).all():
            raise InputError("arrival_seconds holds a value that is not finite")
        if self.arrival_seconds.max() > LONGEST_SECONDS:
            raise InputError(
                f"a request arrives at {self.arrival_seconds.max():.3g} s;"
                f" the clock goes to {LONGEST_SECONDS:.0e} s",
                where="workload",
                fix="raise the rate, or end the workload earlier",
            )
        if (np.diff(self.arrival_seconds) < 0).any():
            raise InputError("arrival_seconds goes back in time")
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise InputError("prompt_tokens and output_tokens must be at least 1")

    def _columns(self) -> dict[str, NDArray[Any] | None]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "content"}

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    def take(self, rows: Sequence[int] | slice | NDArray[Any]) -> RequestTable:
        """Return the chosen rows, in the order given."""
        columns = {
            name: None if column is None else column[rows]
            for name, column in self._columns().items()
        }
        content = None if self.content is None else self.content.take(rows)
        return RequestTable(**columns, content=content)  # type: ignore[arg-type]

    def rows(self, start: int, stop: int) -> RequestTable:
        """Return rows `start` up to, not including, `stop`."""
        if start == 0 and stop >= len(self):
            return self
        return self.take(slice(start, stop))

    @classmethod
    def concat(cls, tables: Iterable[RequestTable]) -> RequestTable:
        """Return the rows of all `tables`, one after the other.

        Raises
        ------
        InputError
            Where an optional column is present in some tables and absent in others, or a
            table starts before the one in front of it ends.
        """
        parts = list(tables)
        return parts[0] if len(parts) == 1 else cls(**_stacked(parts))

    @classmethod
    def merged(cls, tables: Iterable[RequestTable]) -> RequestTable:
        """Return the rows of all `tables` in order of arrival; ties keep the tables' order."""
        parts = list(tables)
        return parts[0] if len(parts) == 1 else cls.in_order(**_stacked(parts))

    @classmethod
    def in_order(cls, **columns: Any) -> RequestTable:
        """Return a table of columns (and content) that need not be sorted yet."""
        order = np.argsort(columns["arrival_seconds"], kind="stable")
        content = columns.pop("content", None)
        chosen: dict[str, Any] = {
            name: None if column is None else column[order] for name, column in columns.items()
        }
        chosen["content"] = None if content is None else content.take(order)
        return cls(**chosen)

    @classmethod
    def of_requests(
        cls, requests: Sequence[NextRequest], content: PrefixContent | None
    ) -> RequestTable:
        """Return a table of a closed loop: `requests` in order of arrival."""
        arrivals, *counts = zip(*requests, strict=True)
        prompts, outputs, sessions, samples = (np.array(count, np.int64) for count in counts)
        return cls(
            np.array(arrivals, dtype=np.float64),
            prompts,
            outputs,
            sessions,
            samples=samples if samples.max() > 1 else None,
            content=content,
        )


def _stacked(parts: list[RequestTable]) -> dict[str, Any]:
    if not parts:
        nothing = np.empty(0, np.int64)
        return {"arrival_seconds": np.empty(0), "prompt_tokens": nothing, "output_tokens": nothing}
    stacked: dict[str, Any] = {
        name: _joined(name, [part._columns()[name] for part in parts])
        for name in parts[0]._columns()
    }
    contents = [part.content for part in parts if part.content is not None]
    if contents and len(contents) < len(parts):
        raise InputError("cannot join tables with and without content")
    stacked["content"] = contents[0].joined(contents[1:]) if contents else None
    return stacked


def _joined(name: str, columns: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [column for column in columns if column is not None]
    if present and len(present) < len(columns):
        raise InputError(f"cannot join tables with and without the column {name}")
    return np.concatenate(present) if present else None


@runtime_checkable
class Workload(Protocol):
    """Open loop: arrivals do not depend on what the server does."""

    def tables(self, streams: Streams, chunk_rows: int = CHUNK_ROWS) -> Iterator[RequestTable]:
        """Yield the requests in time order, at most `chunk_rows` at once.

        The requests follow from the seed of `streams` alone, not from `chunk_rows`. The
        iterator ends at the workload's own limit (requests, duration, or the trace's end).
        """
        ...


class NextRequest(NamedTuple):
    """A request that a completion brings about; the workload gives it the next row number."""

    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    session: int
    samples: int = 1


@runtime_checkable
class ClosedLoop(Protocol):
    """Closed loop: each client waits for its answer, thinks, and asks again."""

    content: PrefixContent | None

    def start(self, streams: Streams) -> RequestTable:
        """Begin a run: return every client's first request, rows 0, 1, ... ."""
        ...

    def following(self, row: int, finish_seconds: float) -> NextRequest | None:
        """Return what the client of `row` asks next, or None when it has nothing left."""
        ...

    def branches(self, row: int, finish_seconds: float) -> tuple[NextRequest, ...]:
        """Return the further requests that the same completion starts: sub-agents."""
        ...


def rechunked(tables: Iterable[RequestTable], chunk_rows: int) -> Iterator[RequestTable]:
    """Yield the same rows in tables of `chunk_rows`, the last one shorter."""
    if chunk_rows < 1:
        raise InputError(f"chunk_rows {chunk_rows} is not at least 1")
    held: list[RequestTable] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        if count >= chunk_rows:
            whole = RequestTable.concat(held)
            full = count - count % chunk_rows
            for at in range(0, full, chunk_rows):
                yield whole.rows(at, at + chunk_rows)
            held, count = [whole.rows(full, count)], count - full
    if count:
        yield RequestTable.concat(held)


def cut(
    tables: Iterable[RequestTable], requests: int | None, duration_seconds: float | None
) -> Iterator[RequestTable]:
    """Yield the rows up to a number of requests and before a time, whichever comes first."""
    left = requests
    for table in tables:
        stop = len(table) if left is None else min(left, len(table))
        if duration_seconds is not None:
            stop = min(stop, int(np.searchsorted(table.arrival_seconds, duration_seconds)))
        if stop:
            yield table.rows(0, stop)
        if left is not None:
            left -= stop
        if stop < len(table) or left == 0:
            return


def in_time_order(batches: Iterable[tuple[RequestTable, float]]) -> Iterator[RequestTable]:
    """Merge batches whose rows overlap in time.

    Parameters
    ----------
    batches : iterable of (RequestTable, float)
        Each with a horizon in seconds before which no later batch has a row.

    Notes
    -----
    Ties keep the order of the batches, so the result is deterministic::

        batch 1   |--x--x------x|---x--------x
        batch 2                 |--x---x------|---x
                     emitted    ^ horizon: the rest waits for batch 2
    """
    waiting: RequestTable | None = None
    for table, horizon in batches:
        waiting = RequestTable.merged([table] if waiting is None else [waiting, table])
        ready = int(np.searchsorted(waiting.arrival_seconds, horizon, side="right"))
        if ready:
            yield waiting.rows(0, ready)
            waiting = waiting.rows(ready, len(waiting))
    if waiting is not None and len(waiting):
        yield waiting
