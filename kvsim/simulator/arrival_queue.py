"""Requests in the order in which they come, whatever kind of workload they come from."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import chain, repeat
from math import inf

from kvsim.errors import InputError
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.workload.base import ClosedLoop, NextRequest, RequestTable, Workload
from kvsim.workload.streams import Streams

__all__ = ["ArrivalQueue"]

_MOST_REFUSALS = 10_000  # at one instant
_SLICE_ROWS = 512  # of a table, turned into Python's numbers at once: they stay in the cache


class ArrivalQueue:
    """The next arrivals of a workload, open or closed loop.

    Parameters
    ----------
    workload : Workload or ClosedLoop
        Where requests come from.
    streams : Streams
        Its random streams.
    recorder : Recorder
        Told of every table of arrivals, so that rows have their place.

    Attributes
    ----------
    next_seconds : float
        Time of the next arrival that is known; infinite when there is none.
    popped : int
        Arrivals handed out.
    is_closed_loop : bool
        Whether completions bring about arrivals.
    """

    def __init__(
        self, workload: Workload | ClosedLoop, streams: Streams, recorder: Recorder
    ) -> None:
        self._recorder = recorder
        self._closed = workload if isinstance(workload, ClosedLoop) else None
        self.is_closed_loop = self._closed is not None
        self._tables: Iterator[RequestTable] = iter(())
        self._chunk: Iterator[Request] = iter(())
        self._following: list[tuple[float, int, Request]] = []
        self._rows = 0
        self._head: Request | None = None
        self.next_seconds = inf
        self.popped = 0
        self._refusals, self._refused_at = 0, -inf
        if isinstance(workload, ClosedLoop):
            for request in self._requests(workload.start(streams)):
                self._queue(request)
        else:
            self._tables = workload.tables(streams)
        self._advance()

    def pop(self) -> Request:
        """Hand out the next arrival.

        Raises
        ------
        IndexError
            When none is known.
        """
        request = self._head
        if request is None:
            raise IndexError("no arrival is known")
        self.popped += 1
        self._advance()
        return request

    def finished(self, requests: list[Request], now: float) -> None:
        """Tell a closed loop's workload that requests ended; others follow them."""
        if self._closed is None:
            return
        for request in requests:
            following = self._closed.following(request.row, now)
            for nxt in (following, *self._closed.branches(request.row, now)):
                if nxt is not None:
                    self._follow(nxt)
        if self._head is None:
            self._advance()

    def refused(self, request: Request) -> None:
        """Tell a closed loop's workload that a request was refused: its client goes on.

        The answer is an error, at once; so the client thinks and asks its next.

        Raises
        ------
        InputError
            When clients that do not think are refused for ever.
        """
        self._refusals = self._refusals + 1 if request.arrival_seconds == self._refused_at else 1
        self._refused_at = request.arrival_seconds
        if self._refusals > _MOST_REFUSALS:
            raise InputError(
                f"{_MOST_REFUSALS:,} requests in a row are refused at the same instant",
                where="think",
                fix="shorten the requests, or let the clients think",
            )
        self.finished([request], request.arrival_seconds)

    def _follow(self, nxt: NextRequest) -> None:
        """Queue an arrival that a completion brought about."""
        (request,) = self._requests(RequestTable.of_requests([nxt], None))
        if self._closed is not None and self._closed.content is not None:
            request.content, request.content_row = self._closed.content, request.row
        self._queue(request)
        if self._head is not None and request.arrival_seconds < self.next_seconds:
            self._queue(self._head)
            self._advance()

    def _queue(self, request: Request) -> None:
        """Put an arrival of a closed loop in its place in time."""
        heappush(self._following, (request.arrival_seconds, request.row, request))

    def _advance(self) -> None:
        """Find the next arrival: the earliest of a closed loop, or a table's next row."""
        head = heappop(self._following)[2] if self._following else next(self._chunk, None)
        self._head = head = head or self._from_next_table()
        self.next_seconds = head.arrival_seconds if head else inf

    def _from_next_table(self) -> Request | None:
        """Start the next table that has rows."""
        for table in self._tables:
            self._chunk = self._requests(table)
            first = next(self._chunk, None)
            if first is not None:
                return first
        return None

    def _requests(self, table: RequestTable) -> Iterator[Request]:
        """Note a table with the recorder and make its requests, each when it is asked for."""
        self._recorder.arrive(table)
        start, self._rows = self._rows, self._rows + len(table)
        requests = chain.from_iterable(
            map(
                Request,
                range(start + at, self._rows),
                table.arrival_seconds[at : at + _SLICE_ROWS].tolist(),
                table.prompt_tokens[at : at + _SLICE_ROWS].tolist(),
                table.output_tokens[at : at + _SLICE_ROWS].tolist(),
            )
            for at in range(0, len(table), _SLICE_ROWS)
        )
        if table.priority is None and table.samples is None and table.content is None:
            return requests
        return _with_options(requests, table)


def _with_options(requests: Iterator[Request], table: RequestTable) -> Iterator[Request]:
    """Give every request what the table says beyond times and lengths."""
    priorities = repeat(0) if table.priority is None else table.priority.tolist()
    samples = repeat(1) if table.samples is None else table.samples.tolist()
    options = zip(priorities, samples, strict=False)
    for at, (request, (priority, count)) in enumerate(zip(requests, options, strict=False)):
        request.priority, request.samples = priority, count
        request.content, request.content_row = table.content, at
        yield request
