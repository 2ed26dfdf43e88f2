"""How often a block cache of a given size would hit: replacement policies on bare references.

One cache for all requests; each request's blocks are looked up and, if absent, inserted, one by
one from its head. No request pins anything and outputs are not counted, so a simulated engine
differs; the study bounds what an engine can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Protocol

from kvsim.errors import InputError, UnknownNameError
from kvsim.simulator.allocators.idle import EVICTION_POLICIES

__all__ = ["POLICIES", "hit_ratio"]


class _Cache(Protocol):
    def touch(self, block: int, depth: int) -> bool:
        """Look `block` up, insert it if absent, and say whether it was there."""
        ...


class _Unlimited:
    def __init__(self) -> None:
        self._seen: set[int] = set()

    def touch(self, block: int, depth: int) -> bool:
        known = block in self._seen
        self._seen.add(block)
        return known


class _Limited:
    """So many blocks, evicted in the order of the simulator's own prefix cache."""

    def __init__(self, capacity: int, policy: str) -> None:
        self._capacity = capacity
        self._blocks = EVICTION_POLICIES.find(policy)()

    def holds(self, block: int) -> bool:
        return block in self._blocks

    def touch(self, block: int, depth: int) -> bool:
        if block in self._blocks:
            self._blocks.renew(block)
            return True
        if self._blocks.cached >= self._capacity:
            self._blocks.evict(1)
        self._blocks.add(block)
        return False


class _LeastFrequentDeepest:
    """LFU by uses since insertion; the deepest of the least used goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rank: dict[int, tuple[int, int, int]] = {}  # uses, -depth, time of last use
        self._heap: list[tuple[tuple[int, int, int], int]] = []
        self._now = 0

    def touch(self, block: int, depth: int) -> bool:
        rank = self._rank.get(block)
        if rank is None and len(self._rank) >= self._capacity:
            self._evict()
        self._now += 1
        self._rank[block] = ((rank[0] if rank else 0) + 1, -depth, self._now)
        heappush(self._heap, (self._rank[block], block))
        return rank is not None

    def _evict(self) -> None:
        rank, victim = heappop(self._heap)
        while self._rank.get(victim) != rank:  # outdated by a later use, or gone
            rank, victim = heappop(self._heap)
        del self._rank[victim]


class _Furthest:
    """Belady's offline optimum among policies that always admit: the furthest next use goes."""

    def __init__(self, capacity: int, references: Sequence[int]) -> None:
        self._capacity = capacity
        self._next_use = _next_uses(references)
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._now = 0

    def touch(self, block: int, depth: int) -> bool:
        known = block in self._due
        if not known and len(self._due) >= self._capacity:
            self._evict()
        self._due[block] = self._next_use[self._now]
        heappush(self._heap, (-self._due[block], block))
        self._now += 1
        return known

    def _evict(self) -> None:
        due, victim = heappop(self._heap)
        while self._due.get(victim) != -due:
            due, victim = heappop(self._heap)
        del self._due[victim]


def _next_uses(references: Sequence[int]) -> list[int]:
    """Index of each reference's next occurrence; past the end where there is none."""
    ahead: dict[int, int] = {}
    uses = [0] * len(references)
    for at in range(len(references) - 1, -1, -1):
        uses[at] = ahead.get(references[at], len(references) + at)
        ahead[references[at]] = at
    return uses


_ONLINE: dict[str, Callable[[int], _Cache]] = {
    **{name: partial(_Limited, policy=name) for name in EVICTION_POLICIES},
    "lfu-deepest-first": _LeastFrequentDeepest,
}
POLICIES = (*_ONLINE, "lru-tail-first", "belady")


def hit_ratio(
    ids_iterable: Iterable[Sequence[int]], capacity_blocks: int | None, policy: str = "lru"
) -> float:
    """Return the share of block references that a cache answers.

    Parameters
    ----------
    ids_iterable : iterable of sequence of int
        Block identities of each request, head first, in order of arrival.
    capacity_blocks : int or None
        Size of the cache in blocks; None never evicts.
    policy : str
        "lru"; "lru-tail-first" (a request is looked up whole, then its blocks are touched from
        its tail, so that its head is the most recent); "fifo"; "lfu" (uses since insertion,
        least recent first among equals); "lfu-deepest-first" (deepest first among equals);
        "belady" (offline optimum).

    Returns
    -------
    float
        Hits over references, 0 where there is no reference.

    Raises
    ------
    UnknownNameError, InputError
        For another policy, or a capacity below 1.

    Examples
    --------
    >>> hit_ratio([[1, 2], [3], [1, 2]], 2, "lru"), hit_ratio([[1, 2], [3], [1, 2]], 2, "belady")
    (0.0, 0.2)
    """
    if policy not in POLICIES:
        raise UnknownNameError("cache policy", policy, POLICIES)
    if capacity_blocks is not None and capacity_blocks < 1:
        raise InputError(f"a cache of {capacity_blocks} blocks holds nothing")
    if capacity_blocks is None:
        return _replayed(ids_iterable, _Unlimited())
    if policy == "lru-tail-first":
        return _replayed_tail_first(ids_iterable, capacity_blocks)
    if policy == "belady":
        requests = list(ids_iterable)
        references = [block for ids in requests for block in ids]
        return _replayed(requests, _Furthest(capacity_blocks, references))
    return _replayed(ids_iterable, _ONLINE[policy](capacity_blocks))


def _replayed(requests: Iterable[Sequence[int]], cache: _Cache) -> float:
    touch = cache.touch
    hits = references = 0
    for ids in requests:
        hits += sum([touch(block, depth) for depth, block in enumerate(ids)])
        references += len(ids)
    return hits / references if references else 0.0


def _replayed_tail_first(requests: Iterable[Sequence[int]], capacity: int) -> float:
    cache = _Limited(capacity, "lru")
    hits = references = 0
    for ids in requests:
        hits += sum([cache.holds(block) for block in ids])
        references += len(ids)
        for block in reversed(ids):
            cache.touch(block, 0)
    return hits / references if references else 0.0
