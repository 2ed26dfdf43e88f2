"""Who is admitted first: queues behind one small protocol.

A preempted request goes back to the *front* of a first-come queue, as in vLLM; in a sorted
queue it takes the place that its key gives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Protocol

from kvsim.registry import Registry
from kvsim.simulator.request import Request

__all__ = ["ADMISSION_POLICIES", "FirstComeQueue", "SortedQueue", "WaitingQueue"]


class WaitingQueue(Protocol):
    """Requests that wait for admission."""

    @property
    def arrivals_can_overtake(self) -> bool:
        """Whether a new arrival may become the head while others wait."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def push(self, request: Request) -> None:
        """Add an arrival."""

    def push_back(self, request: Request) -> None:
        """Return a preempted request."""

    def head(self) -> Request:
        """Return the next request to admit, leaving it in place (IndexError when empty)."""

    def pop(self) -> Request:
        """Remove and return the head."""


class FirstComeQueue(deque[Request]):
    """First come, first served."""

    arrivals_can_overtake = False

    push = deque.append
    push_back = deque.appendleft
    pop = deque.popleft

    def head(self) -> Request:
        """Return the request that has waited longest."""
        return self[0]


class SortedQueue:
    """A queue in the order of a key, then of arrival."""

    arrivals_can_overtake = True

    def __init__(self, key: Callable[[Request], int]) -> None:
        self._key = key
        self._heap: list[tuple[int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in sorted(self._heap))

    def push(self, request: Request) -> None:
        """Add a request where its key puts it."""
        heappush(self._heap, (self._key(request), request.row, request))

    push_back = push

    def head(self) -> Request:
        """Return the request with the smallest key."""
        return self._heap[0][2]

    def pop(self) -> Request:
        """Remove the request with the smallest key."""
        return heappop(self._heap)[2]


ADMISSION_POLICIES: Registry[Callable[[], WaitingQueue]] = Registry(
    "admission policy",
    {
        "fcfs": FirstComeQueue,
        "priority": lambda: SortedQueue(lambda request: request.priority),
        "shortest-first": lambda: SortedQueue(lambda request: request.prompt_tokens),
    },
)
