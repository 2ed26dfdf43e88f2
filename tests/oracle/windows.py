"""Memory in blocks, of which windows give back what they have left behind."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .jobs import Job
from .memory import Memory


class Moving(NamedTuple):
    """Layers with a block every `size` tokens, which look back on a window or a chunk, or on all.

    An admission asks for no more than `admitted` blocks. One that `stays` has a single block.
    """

    size: int
    window: int | None = None
    chunk: int | None = None
    admitted: int | None = None
    stays: bool = False

    def seen(self, tokens: int) -> int:
        """First block that whoever comes after so many tokens looks back on."""
        if self.chunk is not None:
            return tokens // self.chunk * self.chunk // self.size
        if self.window is not None:
            return max(0, tokens - self.window + 1) // self.size
        return 0

    def blocks(self, tokens: int) -> range:
        """Numbers of the blocks of so many tokens."""
        return range(1 if self.stays and tokens else -(-tokens // self.size) * (not self.stays))


class Windows(Memory):
    """Of every job the numbers of the blocks that it holds, group by group."""

    in_order = True
    in_chunks = True  # whether no step computes more of a prompt than its budget

    def __init__(self, total: int, groups: Iterable[Moving], *, waits: bool = True) -> None:
        self.total, self.groups, self.waits = total, list(groups), waits
        self.sets: dict[Job, list[set[int]]] = {}  # in the order of admission
        self.left: dict[Job, int] = {}
        self.closing: dict[Job, int] = {}  # given back by decodes that are planned
        self.block_slots = 1
        while any(self.block_slots % group.size for group in self.groups):
            self.block_slots += 1

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self.total - sum(len(group) for job in self.sets.values() for group in job)

    def missing(self, job: Job, tokens: int) -> list[set[int]]:
        """Blocks to take before a job has room for so many tokens."""
        last = job.computed if job in self.sets else 0
        sets = self.sets.get(job) or [set() for _ in self.groups]
        firsts = [group.seen(last) if job in self.sets else 0 for group in self.groups]
        return [
            {number for number in group.blocks(tokens) if number >= first} - held - self._past(held)
            for group, held, first in zip(self.groups, sets, firsts, strict=True)
        ]

    def _past(self, held: set[int]) -> set[int]:
        """Blocks before those that are held: they are not taken again."""
        return set(range(min(held))) if held else set()

    def need(self, job: Job, tokens: int) -> int:
        """How many those are."""
        return sum(map(len, self.missing(job, tokens)))

    def gate(self, tokens: int) -> int:
        """Blocks that an admission asks for."""
        counts = [len(group.blocks(tokens)) for group in self.groups]
        return sum(
            count if group.admitted is None else min(count, group.admitted)
            for count, group in zip(counts, self.groups, strict=True)
        )

    def _grow(self, job: Job, tokens: int) -> None:
        missing = self.missing(job, tokens)
        sets = self.sets.setdefault(job, [set() for _ in self.groups])
        for held, more in zip(sets, missing, strict=True):
            held |= more

    def _leave(self, job: Job) -> None:
        """Give back what no token to come looks back on: a step in flight still does."""
        gone, processed = 0, job.computed - (job.flying if self.waits else 0)
        for group, held in zip(self.groups, self.sets[job], strict=True):
            behind = {number for number in held if number < group.seen(processed)}
            held -= behind
            gone += len(behind)
        self.left[job] = self.left.get(job, 0) + gone
        if job.computed >= job.target:
            self.closing[job] = self.closing.get(job, 0) + gone

    def ever_holds(self, job: Job) -> bool:
        """Whether the pool has blocks enough for its last token."""
        if self.in_chunks:
            return self.gate(job.final) <= self.total
        return sum(len(group.blocks(job.final)) for group in self.groups) <= self.total

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Room for the whole prompt or nothing; and for the first chunk, which leaves nothing."""
        chunk = min(chunk, job.target)
        if max(self.gate(job.target), self.need(job, chunk)) + spare > self.free:
            return None
        self._grow(job, chunk)
        return 0

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Another chunk, after giving back what is behind."""
        self._leave(job)
        if self.need(job, tokens) + spare > self.free:
            return False
        self._grow(job, tokens)
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """What its windows still see, with room for the next token."""
        sets = [
            {number for number in group.blocks(job.computed) if number >= group.seen(job.computed)}
            for group in self.groups
        ]
        opening = sum(
            len(group.blocks(job.computed + 1)) - len(group.blocks(job.computed))
            for group in self.groups
        )
        if sum(map(len, sets)) + opening + spare > self.free:
            return False
        self.sets[job] = sets
        self.left[job] = sum(group.seen(job.computed) for group in self.groups)
        return True

    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks that one token more of each takes."""
        return sum(self.need(job, job.computed + 1) for job in decoding)

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether each in turn finds room, with what it gives back itself."""
        before = {job: [set(held) for held in sets] for job, sets in self.sets.items()}
        left, closing = dict(self.left), dict(self.closing)
        fits = all(
            self.extend(job, job.computed + 1, 0, []) for job in self.sets if job in decoding
        )
        self.sets, self.left, self.closing = before, left, closing
        return fits

    def write(self, decoding: Sequence[Job]) -> int:
        """One token of each, in the order of admission."""
        for job in self.sets:
            if job in decoding:
                assert self.extend(job, job.computed + 1, 0, [])
        return 0

    def closed(self) -> int:
        """Slots that decodes have given back since the last call."""
        blocks = sum(self.closing.values())
        self.closing.clear()
        return blocks * self.block_slots

    def release(self, job: Job, *, preempted: bool) -> None:
        """Every block back."""
        del self.sets[job]
        self.left.pop(job, None)
        self.closing.pop(job, None)

    @property
    def held(self) -> int:
        """Slots of the blocks that are not free."""
        return (self.total - self.free) * self.block_slots

    def shared(self, copies: Sequence[tuple[Job, int]]) -> int:
        """Slots of the tokens that are left behind, but for what the planned decodes do."""
        blocks = sum(self.left.get(job, 0) - self.closing.get(job, 0) for job, _ in copies)
        return blocks * self.block_slots

    def filled(self, tokens: int) -> int:
        """Slots of every token that was written, left behind or not."""
        if not tokens:
            return 0
        return sum(
            self.block_slots if group.stays else tokens * self.block_slots // group.size
            for group in self.groups
        )
