"""Who is admitted first: queues behind one small protocol.

A preempted request goes back to the *front* of a first-come queue, as in vLLM; in a sorted
queue it takes the place that its key gives it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Protocol

from kvsim.registry import Policies
from kvsim.simulator.request import Request

__all__ = ["ADMISSION_POLICIES", "FirstComeQueue", "SortedQueue", "WaitingQueue", "importance"]


class WaitingQueue(Protocol):
    """Requests that wait for admission."""

    @property
    def arrivals_can_overtake(self) -> bool:
        """Whether a new arrival may become the head while others wait."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
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


class SortedQueue(ABC):
    """A queue in the order of a key, then of arrival."""

    arrivals_can_overtake = True

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in sorted(self._heap))

    @abstractmethod
    def key(self, request: Request) -> float:
        """What requests are sorted by, the smallest first; it never changes while one waits."""

    def push(self, request: Request) -> None:
        """Add a request where its key puts it."""
        heappush(self._heap, (self.key(request), request.row, request))

    push_back = push

    def head(self) -> Request:
        """Return the request with the smallest key."""
        return self._heap[0][2]

    def pop(self) -> Request:
        """Remove the request with the smallest key."""
        return heappop(self._heap)[2]


class PriorityQueue(SortedQueue):
    """The most important first: the smallest number, as in vLLM."""

    def key(self, request: Request) -> float:
        """Its priority."""
        return request.priority


class ShortestFirstQueue(SortedQueue):
    """The shortest prompt first."""

    def key(self, request: Request) -> float:
        """Its prompt's tokens."""
        return request.prompt_tokens


ADMISSION_POLICIES: Policies[WaitingQueue] = Policies(
    "admission policy",
    "kvsim.admissions",
    WaitingQueue,
    {"fcfs": FirstComeQueue, "priority": PriorityQueue, "shortest-first": ShortestFirstQueue},
)


def importance(request: Request) -> tuple[int, int]:
    """Order of requests under priorities, the most important first (vLLM's)."""
    return request.priority, request.row
