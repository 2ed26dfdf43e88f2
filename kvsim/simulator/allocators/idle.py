"""Idle blocks, which nobody holds: the order in which they are evicted, and so used again.

Some still carry a finished prefix and can be revived by a lookup; the rest are anonymous and
come in runs, so that freeing or allocating a thousand of them is one operation::

    oldest                                                      newest
    [ 3000 anonymous ] [ id 17 ] [ 2 anonymous ] [ id 5 ] [ id 4 ]
      evicted first                                a tail is freed before its head
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from heapq import heapify, heappop, heappush

from kvsim.registry import Policies

__all__ = ["EVICTION_POLICIES", "IdleBlocks"]


class IdleBlocks(ABC):
    """The idle blocks of a pool, in order of eviction.

    Attributes
    ----------
    cached : int
        Idle blocks that still carry a prefix.
    """

    def __init__(self) -> None:
        self.cached = 0

    @abstractmethod
    def __contains__(self, block_id: object) -> bool:
        """Whether a block with that identity is idle."""

    @abstractmethod
    def __len__(self) -> int:
        """Idle blocks, anonymous and cached."""

    @abstractmethod
    def add(self, block_id: int) -> None:
        """Add a cached block that was just freed."""

    @abstractmethod
    def add_anonymous(self, count: int) -> None:
        """Add blocks without identity."""

    @abstractmethod
    def note_use(self, block_id: int) -> None:
        """Note that one reference to a block is gone, while others remain."""

    @abstractmethod
    def revive(self, block_id: int) -> None:
        """Take a cached block out, because a request found its prefix."""

    def renew(self, block_id: int) -> None:
        """Note that an idle cached block was used and freed again at once."""
        self.revive(block_id)
        self.add(block_id)

    @abstractmethod
    def evict(self, count: int) -> None:
        """Evict `count` blocks in order; their identities are forgotten."""


class LRU(IdleBlocks):
    """Least recently freed first, with or without identity: vLLM's free queue."""

    def __init__(self) -> None:
        super().__init__()
        self._front = 0  # anonymous blocks at the front of the queue, before all that is in:
        self._order: OrderedDict[int | tuple[str, int], int] = OrderedDict()
        self._runs = 0

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._order

    def __len__(self) -> int:
        return self._front + sum(self._order.values())

    def add(self, block_id: int) -> None:
        """Put it at the end of the queue."""
        self._order[block_id] = 1
        self.cached += 1

    def add_anonymous(self, count: int) -> None:
        """Put a run at the end of the queue."""
        if not self._order:
            self._front += count
        elif count:
            self._runs += 1
            self._order["run", self._runs] = count

    def note_use(self, block_id: int) -> None:
        """The last reference decides."""

    def revive(self, block_id: int) -> None:
        """Take it out of the middle."""
        del self._order[block_id]
        self.cached -= 1

    def renew(self, block_id: int) -> None:
        """Move it to the end of the queue."""
        self._order.move_to_end(block_id)

    def evict(self, count: int) -> None:
        """Evict from the front; of a run maybe a part."""
        if count <= self._front:
            self._front -= count
            return
        left = count - self._front
        while left > 0:
            key, run = self._order.popitem(last=False)
            left -= run
            if isinstance(key, int):
                self.cached -= 1
        self._front = -left  # what remains of the run that was begun


class _Ranked(IdleBlocks):
    """Anonymous blocks first, then cached ones by a rank; a heap with lazy deletion."""

    def __init__(self) -> None:
        super().__init__()
        self._anonymous = 0
        self._clock = 0
        self._rank: dict[int, tuple[int, int]] = {}
        self._heap: list[tuple[tuple[int, int], int]] = []

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._rank

    def __len__(self) -> int:
        return self._anonymous + self.cached

    def add(self, block_id: int) -> None:
        """Put it where its rank says."""
        self._clock += 1
        rank = self._rank[block_id] = self._rank_of(block_id)
        heappush(self._heap, (rank, block_id))
        self.cached += 1

    def add_anonymous(self, count: int) -> None:
        """Add to the blocks that are evicted before any cached one."""
        self._anonymous += count

    def revive(self, block_id: int) -> None:
        """Forget its rank; the heap's note of it is stale from now on."""
        del self._rank[block_id]
        self.cached -= 1
        if len(self._heap) > 64 + 4 * len(self._rank):
            self._heap = [(rank, key) for key, rank in self._rank.items()]
            heapify(self._heap)

    def evict(self, count: int) -> None:
        """Evict anonymous blocks, then the lowest ranks."""
        plain = min(count, self._anonymous)
        self._anonymous -= plain
        for _ in range(count - plain):
            rank, block_id = heappop(self._heap)
            while self._rank.get(block_id) != rank:
                rank, block_id = heappop(self._heap)
            del self._rank[block_id]
            self.cached -= 1
            self._forget(block_id)

    @abstractmethod
    def _rank_of(self, block_id: int) -> tuple[int, int]:
        """Rank of a block that is freed now; the lowest is evicted first."""

    @abstractmethod
    def _forget(self, block_id: int) -> None:
        """Drop what is known of an evicted block."""


class FIFO(_Ranked):
    """First in, first out, from the first time that a block was freed; hits renew nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._entered: dict[int, int] = {}

    def note_use(self, block_id: int) -> None:
        """Uses do not count."""

    def renew(self, block_id: int) -> None:
        """Uses do not count."""

    def _rank_of(self, block_id: int) -> tuple[int, int]:
        return self._entered.setdefault(block_id, self._clock), 0

    def _forget(self, block_id: int) -> None:
        del self._entered[block_id]


class LFU(_Ranked):
    """Least frequently used first: held by the fewest requests; the least recent of equals."""

    def __init__(self) -> None:
        super().__init__()
        self._uses: dict[int, int] = {}

    def note_use(self, block_id: int) -> None:
        """Count it."""
        self._uses[block_id] = self._uses.get(block_id, 0) + 1

    def _rank_of(self, block_id: int) -> tuple[int, int]:
        self.note_use(block_id)
        return self._uses[block_id], self._clock

    def _forget(self, block_id: int) -> None:
        del self._uses[block_id]


EVICTION_POLICIES: Policies[IdleBlocks] = Policies(
    "eviction policy", "kvsim.evictions", IdleBlocks, {"lru": LRU, "fifo": FIFO, "lfu": LFU}
)
