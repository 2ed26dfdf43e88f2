"""Requests in the order in which they come, whatever kind of workload they come from."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf

import numpy as np

from kvsim.recorder import Recorder
from kvsim.request import Request
from kvsim.streams import Streams
from kvsim.workload.base import ClosedLoop, NextRequest, RequestTable, Workload

__all__ = ["ArrivalQueue"]


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
    """

    def __init__(
        self, workload: Workload | ClosedLoop, streams: Streams, recorder: Recorder
    ) -> None:
        self._recorder = recorder
        self._closed = workload if isinstance(workload, ClosedLoop) else None
        self._tables: Iterator[RequestTable] = iter(())
        self._chunk: Iterator[Request] = iter(())
        self._following: list[tuple[float, int, Request]] = []
        self._rows = 0
        self._head: Request | None = None
        self.next_seconds = inf
        self.popped = 0
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

    @property
    def is_closed_loop(self) -> bool:
        """Whether completions bring about arrivals."""
        return self._closed is not None

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

    def _follow(self, nxt: NextRequest) -> None:
        """Queue an arrival that a completion brought about."""
        table = RequestTable(
            np.array([nxt.arrival_seconds]),
            np.array([nxt.prompt_tokens]),
            np.array([nxt.output_tokens]),
            session=np.array([nxt.session]),
        )
        (request,) = self._requests(table)
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
        self._head = heappop(self._following)[2] if self._following else next(self._chunk, None)
        if self._head is None:
            self._head = self._from_next_table()
        self.next_seconds = inf if self._head is None else self._head.arrival_seconds

    def _from_next_table(self) -> Request | None:
        """Start the next table that has rows."""
        for table in self._tables:
            self._chunk = iter(self._requests(table))
            first = next(self._chunk, None)
            if first is not None:
                return first
        return None

    def _requests(self, table: RequestTable) -> list[Request]:
        """Turn a table into requests and note it with the recorder."""
        self._recorder.arrive(table)
        start, self._rows = self._rows, self._rows + len(table)
        requests = [
            Request(row, arrival, prompt, output)
            for row, arrival, prompt, output in zip(
                range(start, self._rows),
                table.arrival_seconds.tolist(),
                table.prompt_tokens.tolist(),
                table.output_tokens.tolist(),
                strict=True,
            )
        ]
        _fill_optional(requests, table)
        return requests


def _fill_optional(requests: list[Request], table: RequestTable) -> None:
    """Copy the optional columns that the table has."""
    if table.priority is not None:
        for request, priority in zip(requests, table.priority.tolist(), strict=True):
            request.priority = priority
    if table.samples is not None:
        for request, samples in zip(requests, table.samples.tolist(), strict=True):
            request.samples = samples
    if table.content is not None:
        for row, request in enumerate(requests):
            request.content, request.content_row = table.content, row
