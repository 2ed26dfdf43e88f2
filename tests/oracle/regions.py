"""Contiguous memory: an array that says of every slot whose it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .jobs import Job
from .memory import Memory, Ready


@dataclass(eq=False)
class Region:
    """Slots ``[start, start + length)``."""

    start: int
    length: int


class Space:
    """Slots, each of which belongs to a region or to nobody."""

    def __init__(self, size: int, placement: str) -> None:
        self.owner: list[Region | None] = [None] * size
        self.placement = placement

    def copy(self) -> "Space":
        """The same regions in another space."""
        other = Space(0, self.placement)
        other.owner = list(self.owner)
        return other

    @property
    def held(self) -> int:
        """Slots that belong to a region."""
        return sum(owner is not None for owner in self.owner)

    def rounded(self, length: int) -> int:
        """Slots that a region of `length` takes."""
        power = 1
        while power < length:
            power *= 2
        return power if self.placement == "buddy" else length

    def holes(self) -> list[tuple[int, int]]:
        """``(start, length)`` of every free span: as it is, or cut into buddies."""
        if self.placement == "buddy":
            return self._buddies()
        holes, start = [], 0
        for at in range(len(self.owner) + 1):
            if at == len(self.owner) or self.owner[at] is not None:
                if at > start:
                    holes.append((start, at - start))
                start = at + 1
        return holes

    def _buddies(self) -> list[tuple[int, int]]:
        """The largest free buddies: the space is cut into powers of two, and those in halves."""
        found, start, left = [], 0, len(self.owner)
        while left:
            length = 1
            while length * 2 <= left:
                length *= 2
            found += self._free_halves(start, length)
            start, left = start + length, left - length
        return found

    def _free_halves(self, start: int, length: int) -> list[tuple[int, int]]:
        owners = set(self.owner[start : start + length])
        if owners == {None}:
            return [(start, length)]
        if len(owners) == 1:
            return []
        half = length // 2
        return self._free_halves(start, half) + self._free_halves(start + half, half)

    def find(self, length: int) -> int | None:
        """Where a region of `length` would go."""
        length = self.rounded(length)
        fitting = [hole for hole in self.holes() if hole[1] >= length]
        if not fitting:
            return None
        if self.placement == "first-fit":
            return fitting[0][0]
        return min(fitting, key=lambda hole: (hole[1], hole[0]))[0]

    def put(self, length: int) -> Region | None:
        """Place a region."""
        start = self.find(length)
        if start is None:
            return None
        region = Region(start, self.rounded(length))
        for at in range(start, start + region.length):
            assert self.owner[at] is None
            self.owner[at] = region
        return region

    def clear(self, region: Region) -> None:
        """Free its slots."""
        assert region in self.owner
        self.owner = [None if owner is region else owner for owner in self.owner]

    def slide(self) -> int:
        """Slide every region down; return the slots of those that moved."""
        moved, at = 0, 0
        owner: list[Region | None] = [None] * len(self.owner)
        for region in dict.fromkeys(r for r in self.owner if r is not None):
            moved += region.length if region.start != at else 0
            region.start = at
            owner[at : at + region.length] = [region] * region.length
            at += region.length
        self.owner = owner
        return moved


class Reserved(Ready):
    """A region for all that a job may ever write, from the first chunk on."""

    def __init__(
        self,
        slots: int,
        length: Callable[[Job], int],
        placement: str = "first-fit",
        *,
        compaction: bool = False,
    ) -> None:
        self.space = Space(slots, placement)
        self.length, self.compaction = length, compaction
        self.moved = 0
        self.jobs: list[Job] = []

    def ever_holds(self, job: Job) -> bool:
        """Whether an empty space is long enough."""
        return self.space.rounded(self.length(job)) <= len(self.space.owner)

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Place the whole of it, sliding the others together if that helps."""
        job.memory = self.space.put(self.length(job))
        free = len(self.space.owner) - self.space.held
        movable = self.compaction and self.space.placement != "buddy"
        if job.memory is None and movable and free >= self.length(job):
            self.moved += self.space.slide()
            job.memory = self.space.put(self.length(job))
        if job.memory is None:
            return None
        self.jobs.append(job)
        return 0

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """The room is there."""
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Nobody who has a reservation gives way."""
        raise AssertionError

    def release(self, job: Job, *, preempted: bool) -> None:
        """Free the region."""
        self.space.clear(job.memory)
        self.jobs.remove(job)
        job.memory = None

    @property
    def held(self) -> int:
        """Slots that were asked for; what a buddy system rounds up by is external."""
        return sum(self.length(job) for job in self.jobs)

    def reserved(self, written: int, coming: int) -> int:
        """What the live jobs will have written at their ends, less what is written."""
        return sum(job.samples * job.final for job in self.jobs) - written

    def external(self, head: Job | None) -> int:
        """The rounding, and every free slot while the head of the queue finds no hole."""
        stuck = head is not None and self.space.find(self.length(head)) is None
        free = len(self.space.owner) - self.space.held
        return self.space.held - self.held + (free if stuck else 0)

    def copied(self) -> int:
        """Slots that compaction moved."""
        moved, self.moved = self.moved, 0
        return moved


class Growing(Memory):
    """A tensor a job, made anew one token longer at every step."""

    def __init__(
        self, slots: int, slots_of: Callable[[int], int], placement: str = "first-fit"
    ) -> None:
        self.space = Space(slots, placement)
        self.slots_of = slots_of
        self.peak = 0

    def _length(self, job: Job, tokens: int) -> int:
        return job.samples * self.slots_of(tokens)

    def ever_holds(self, job: Job) -> bool:
        """Whether the last copy fits beside its original."""
        length = self.space.rounded(self._length(job, job.final))
        if job.output > 1:
            length += self.space.rounded(self._length(job, max(1, job.final - 1)))
        return length <= len(self.space.owner)

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Try it in a copy of the space."""
        space = self.space.copy()
        for job in decoding:
            if space.put(self._length(job, job.computed + 1)) is None:
                return False
            space.clear(job.memory)
        return True

    def _make(self, job: Job, tokens: int, decoding: Sequence[Job]) -> bool:
        """Place a tensor unless it would keep those who decode from copying theirs."""
        job.memory = self.space.put(self._length(job, tokens))
        if job.memory is None:
            return False
        if not self.can_write(decoding):
            self.space.clear(job.memory)
            job.memory = None
            return False
        self.peak = max(self.peak, self.space.held)
        return True

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """The prompt's tensor, whole."""
        return 0 if self._make(job, job.target, decoding) else None

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """The tensor is whole."""
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """The tensor again; it is copied in the same step."""
        return self._make(job, job.computed, [*decoding, job])

    def opening(self, decoding: Sequence[Job]) -> int:
        """There are no blocks."""
        return 0

    def write(self, decoding: Sequence[Job]) -> int:
        """Copy every tensor in turn."""
        copied = 0
        for job in decoding:
            longer = self.space.put(self._length(job, job.computed + 1))
            assert longer is not None
            self.peak = max(self.peak, self.space.held)
            self.space.clear(job.memory)
            job.memory = longer
            copied += job.samples * job.computed
        return copied

    def release(self, job: Job, *, preempted: bool) -> None:
        """Free the tensor."""
        self.space.clear(job.memory)
        job.memory = None

    @property
    def held(self) -> int:
        """Slots in tensors."""
        return self.space.held

    def external(self, head: Job | None) -> int:
        """Every free slot, while the head's prompt finds no hole."""
        stuck = head is not None and self.space.find(self._length(head, head.target)) is None
        return len(self.space.owner) - self.space.held if stuck else 0
