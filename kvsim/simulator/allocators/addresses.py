"""A real address space: where contiguous reservations lie, and the holes between them.

::

    0        100   140        300  320                512
    |###A####|     |####B#####|    |########C#########|
             `hole `           `hole                   free = 60, largest hole = 40

External fragmentation is that a request of 50 does not fit although 60 are free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort

from kvsim.errors import InvariantError
from kvsim.registry import Policies

__all__ = ["PLACEMENTS", "AddressSpace"]


class AddressSpace(ABC):
    """Contiguous regions in ``[0, size)``.

    Parameters
    ----------
    size : int
        Slots of the whole space.

    Attributes
    ----------
    free_slots : int
        Slots that belong to no region.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free_slots = size
        self._regions: dict[int, int] = {}

    def region_size(self, length: int) -> int:
        """Slots that a region of `length` takes (a buddy system rounds up)."""
        return length

    def length(self, address: int) -> int:
        """Slots of the region at `address`."""
        return self._regions[address]

    def regions(self) -> list[tuple[int, int]]:
        """``(address, length)`` of every region, by address."""
        return sorted(self._regions.items())

    def check(self) -> None:
        """State that regions and free spans tile the space.

        Raises
        ------
        InvariantError
            When they overlap, leave a gap, or `free_slots` is miscounted.
        """
        free = self._free_spans()
        at = 0
        for address, length in sorted([*free, *self._regions.items()]):
            if address != at:
                raise InvariantError(f"address {at} belongs to nothing, or to two things")
            at += length
        if at != self.size or self.free_slots != sum(length for _, length in free):
            raise InvariantError("free slots of the address space are miscounted")

    @abstractmethod
    def allocate(self, length: int) -> int | None:
        """Reserve a region; return its address, or None when nothing is long enough."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Free the region at `address` and join what is free around it."""

    @abstractmethod
    def can_allocate(self, length: int) -> bool:
        """Whether ``allocate(length)`` would succeed."""

    @abstractmethod
    def compact(self) -> dict[int, int]:
        """Slide every region down; return new addresses of those that moved, by old address."""

    @abstractmethod
    def _free_spans(self) -> list[tuple[int, int]]:
        """``(address, length)`` of everything free."""


class _Holes(AddressSpace):
    """An address space that keeps an ordered list of holes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._holes: list[tuple[int, int]] = [(0, size)] if size else []

    def allocate(self, length: int) -> int | None:
        """Reserve the start of the chosen hole."""
        hole = self._choose(length)
        if hole is None:
            return None
        start, end = self._holes.pop(hole)
        if start + length < end:
            self._holes.insert(hole, (start + length, end))
        self._regions[start] = length
        self.free_slots -= length
        return start

    def free(self, address: int) -> None:
        """Turn a region into a hole, joined with its neighbours."""
        length = self._regions.pop(address)
        start, end = address, address + length
        at = bisect_left(self._holes, (start, end))
        if at < len(self._holes) and self._holes[at][0] == end:
            end = self._holes.pop(at)[1]
        if at and self._holes[at - 1][1] == start:
            start = self._holes.pop(at - 1)[0]
        insort(self._holes, (start, end))
        self.free_slots += length

    def can_allocate(self, length: int) -> bool:
        """Whether some hole is long enough."""
        return self._choose(length) is not None

    def compact(self) -> dict[int, int]:
        """Leave one hole, at the top."""
        moved, at = {}, 0
        regions = self.regions()
        self._regions = {}
        for address, length in regions:
            if address != at:
                moved[address] = at
            self._regions[at] = length
            at += length
        self._holes = [(at, self.size)] if at < self.size else []
        return moved

    def _free_spans(self) -> list[tuple[int, int]]:
        return [(start, end - start) for start, end in self._holes]

    @abstractmethod
    def _choose(self, length: int) -> int | None:
        """Index of the hole to use for `length`."""


class FirstFit(_Holes):
    """The lowest hole that is long enough."""

    def _choose(self, length: int) -> int | None:
        return next((i for i, (a, b) in enumerate(self._holes) if b - a >= length), None)


class BestFit(_Holes):
    """The shortest hole that is long enough, the lowest of equals."""

    def _choose(self, length: int) -> int | None:
        fitting = [(b - a, i) for i, (a, b) in enumerate(self._holes) if b - a >= length]
        return min(fitting)[1] if fitting else None


class Buddy(AddressSpace):
    """Regions of 2**n slots at multiples of their length; a half is joined with its twin."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._halves: dict[int, list[int]] = {}
        at = 0
        for bit in reversed(range(size.bit_length())):
            if size & (1 << bit):
                self._halves[1 << bit] = [at]
                at += 1 << bit

    def region_size(self, length: int) -> int:
        """The next power of two."""
        return 1 << (length - 1).bit_length()

    def allocate(self, length: int) -> int | None:
        """Split the smallest block that is long enough down to the region's size."""
        want = self.region_size(length)
        have = self._smallest(want)
        if have is None:
            return None
        address = self._halves[have].pop(0)
        while have > want:
            have //= 2
            insort(self._halves.setdefault(have, []), address + have)
        self._regions[address] = want
        self.free_slots -= want
        return address

    def free(self, address: int) -> None:
        """Free a block and join it with its twin for as long as that is free too."""
        length = self._regions.pop(address)
        self.free_slots += length
        while (twin := address ^ length) in self._halves.get(length, ()):
            self._halves[length].remove(twin)
            address, length = min(address, twin), 2 * length
        insort(self._halves.setdefault(length, []), address)

    def can_allocate(self, length: int) -> bool:
        """Whether a block of the region's size, or a larger one, is free."""
        return self._smallest(self.region_size(length)) is not None

    def compact(self) -> dict[int, int]:
        """A buddy system has fixed addresses: nothing moves."""
        return {}

    def _free_spans(self) -> list[tuple[int, int]]:
        return [(at, size) for size, blocks in self._halves.items() for at in blocks]

    def _smallest(self, want: int) -> int | None:
        """Size of the smallest free block of at least `want`."""
        return min((s for s, blocks in self._halves.items() if blocks and s >= want), default=None)


PLACEMENTS: Policies[AddressSpace] = Policies(
    "placement",
    "kvsim.placements",
    AddressSpace,
    {"first-fit": FirstFit, "best-fit": BestFit, "buddy": Buddy},
    arguments=1,
)
