"""Requests in the order in which they come, whatever kind of workload they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain, repeat
from math import inf, nan

from kvsim.errors import InputError
from kvsim.simulator.entrance import Entrance
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.specs.hardware import FrontEnd
from kvsim.workload.base import ClosedLoop, Floats, NextRequest, RequestTable, Workload
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
    entrance : Entrance
        What a request passes before it is queued.

    Attributes
    ----------
    next_seconds : float
        When the next request that is known is queued; infinite when there is none.
    popped : int
        Arrivals handed out.
    is_closed_loop : bool
        Whether completions bring about arrivals.
    """

    is_closed_loop = False

    def __init__(
        self, tables: Iterable[RequestTable], recorder: Recorder, entrance: Entrance
    ) -> None:
        self._recorder = recorder
        self._entrance = entrance
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
        queued = self._queued(table)
        self._recorder.arrive(table, queued)
        start, self._rows = self._rows, self._rows + len(table)
        requests = chain.from_iterable(
            map(
                Request,
                range(start + at, self._rows),
                queued[at : at + _SLICE_ROWS].tolist(),
                table.prompt_tokens[at : at + _SLICE_ROWS].tolist(),
                table.output_tokens[at : at + _SLICE_ROWS].tolist(),
            )
            for at in range(0, len(table), _SLICE_ROWS)
        )
        if table.priority is None and table.samples is None and table.content is None:
            return requests
        return _with_options(requests, table)

    def _queued(self, table: RequestTable) -> Floats:
        """When each request of a table is queued."""
        return self._entrance.take_in_all(table.arrival_seconds, table.prompt_tokens)


class ClosedLoopQueue(ArrivalQueue):
    """The arrivals of a closed loop: each client asks again after its answer.

    Parameters
    ----------
    workload : ClosedLoop
        What the clients ask first, and next.
    streams : Streams
        Its random streams.
    recorder, entrance
        As in `ArrivalQueue`. Who is taken in first is known when its turn comes.
    """

    is_closed_loop = True

    def __init__(
        self, workload: ClosedLoop, streams: Streams, recorder: Recorder, entrance: Entrance
    ) -> None:
        super().__init__((), recorder, entrance)
        self._workload = workload
        self._following: list[tuple[float, int, Request]] = []
        self._refusals, self._refused_at = 0, -inf
        for request in self._requests(workload.start(streams)):
            self._queue(request)

    def pop(self) -> Request:
        """Hand out the earliest arrival that is known (IndexError: none is)."""
        sent, row, request = heappop(self._following)
        queued = self._entrance.take_in(sent, request.prompt_tokens)
        request.arrival_seconds = self._recorder.queued_seconds[row] = queued
        self.popped += 1
        self._look_ahead()
        return request

    def finished(self, requests: list[Request], now: float) -> None:
        """Tell the workload that clients hear of requests that ended; others follow them."""
        heard = now + self._entrance.front_end.transit_seconds
        for request in requests:
            following = self._workload.following(request.row, heard)
            for nxt in (following, *self._workload.branches(request.row, heard)):
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
        """Put an arrival in its place in time; when it is queued is known when its turn comes."""
        self._recorder.queued_seconds[request.row] = nan
        heappush(self._following, (request.arrival_seconds, request.row, request))
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Say when whoever is first in time will be queued."""
        self.next_seconds = inf
        if self._following:
            sent, _, request = self._following[0]
            self.next_seconds = self._entrance.queued_at(sent, request.prompt_tokens)

    def _queued(self, table: RequestTable) -> Floats:
        """When they are sent: others may be before them at the entrance."""
        return table.arrival_seconds


def arrival_queue(
    workload: Workload | ClosedLoop,
    streams: Streams,
    recorder: Recorder,
    front_end: FrontEnd | None = None,
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
    front_end : FrontEnd, optional
        What stands before the queue; nothing without.
    """
    entrance = Entrance(front_end or FrontEnd())
    if isinstance(workload, ClosedLoop):
        return ClosedLoopQueue(workload, streams, recorder, entrance)
    return ArrivalQueue(workload.tables(streams), recorder, entrance)


def _with_options(requests: Iterator[Request], table: RequestTable) -> Iterator[Request]:
    """Give every request what the table says beyond times and lengths."""
    priorities = repeat(0) if table.priority is None else table.priority.tolist()
    samples = repeat(1) if table.samples is None else table.samples.tolist()
    options = zip(priorities, samples, strict=False)
    for at, (request, (priority, count)) in enumerate(zip(requests, options, strict=False)):
        request.priority, request.samples = priority, count
        request.content, request.content_row = table.content, at
        yield request
