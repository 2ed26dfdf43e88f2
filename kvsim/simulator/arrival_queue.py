"""Requests in the order in which they come, whatever kind of workload they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain, repeat
from math import inf

from kvsim.errors import InputError
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.workload.base import ClosedLoop, NextRequest, RequestTable, Workload
from kvsim.workload.streams import Streams

__all__ = ["ArrivalQueue", "arrival_queue"]

_MOST_REFUSALS = 10_000  # at one instant
_SLICE_ROWS = 512  # of a table, turned into Python's numbers at once: they stay in the cache


class ArrivalQueue:
    """The arrivals of an open loop, table by table: whoever is served, others come.

    Parameters
    ----------
    tables : iterable of RequestTable
        Where requests come from, in order of time; each is asked for when its turn comes.
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

    is_closed_loop = False

    def __init__(self, tables: Iterable[RequestTable], recorder: Recorder) -> None:
        self._recorder = recorder
        self._rows = 0
        self._coming = chain.from_iterable(map(self._requests, tables))
        self._head = next(self._coming, None)
        self.next_seconds = self._head.arrival_seconds if self._head else inf
        self.popped = 0

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
        self._head = head = next(self._coming, None)
        self.next_seconds = head.arrival_seconds if head else inf
        return request

    def finished(self, requests: list[Request], now: float) -> None:
        """Hear that requests ended."""

    def refused(self, request: Request) -> None:
        """Hear that a request was refused."""

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


class ClosedLoopQueue(ArrivalQueue):
    """The arrivals of a closed loop: each client asks again after its answer.

    Parameters
    ----------
    workload : ClosedLoop
        What the clients ask first, and next.
    streams : Streams
        Its random streams.
    recorder : Recorder
        As in `ArrivalQueue`.
    """

    is_closed_loop = True

    def __init__(self, workload: ClosedLoop, streams: Streams, recorder: Recorder) -> None:
        super().__init__((), recorder)
        self._workload = workload
        self._following: list[tuple[float, int, Request]] = []
        self._refusals, self._refused_at = 0, -inf
        for request in self._requests(workload.start(streams)):
            self._queue(request)

    def pop(self) -> Request:
        """Hand out the earliest arrival that is known (IndexError: none is)."""
        _, _, request = heappop(self._following)
        self.popped += 1
        self.next_seconds = self._following[0][0] if self._following else inf
        return request

    def finished(self, requests: list[Request], now: float) -> None:
        """Tell the workload that requests ended; others follow them."""
        for request in requests:
            following = self._workload.following(request.row, now)
            for nxt in (following, *self._workload.branches(request.row, now)):
                if nxt is not None:
                    self._follow(nxt)

    def refused(self, request: Request) -> None:
        """Tell the workload that a request was refused: its client goes on.

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
        if self._workload.content is not None:
            request.content, request.content_row = self._workload.content, request.row
        self._queue(request)

    def _queue(self, request: Request) -> None:
        """Put an arrival in its place in time."""
        heappush(self._following, (request.arrival_seconds, request.row, request))
        self.next_seconds = self._following[0][0]


def arrival_queue(
    workload: Workload | ClosedLoop, streams: Streams, recorder: Recorder
) -> ArrivalQueue:
    """Make the queue that a workload needs: open or closed loop.

    Parameters
    ----------
    workload : Workload or ClosedLoop
        Where requests come from.
    streams : Streams
        Its random streams.
    recorder : Recorder
        Told of every table of arrivals.
    """
    if isinstance(workload, ClosedLoop):
        return ClosedLoopQueue(workload, streams, recorder)
    return ArrivalQueue(workload.tables(streams), recorder)


def _with_options(requests: Iterator[Request], table: RequestTable) -> Iterator[Request]:
    """Give every request what the table says beyond times and lengths."""
    priorities = repeat(0) if table.priority is None else table.priority.tolist()
    samples = repeat(1) if table.samples is None else table.samples.tolist()
    options = zip(priorities, samples, strict=False)
    for at, (request, (priority, count)) in enumerate(zip(requests, options, strict=False)):
        request.priority, request.samples = priority, count
        request.content, request.content_row = table.content, at
        yield request
