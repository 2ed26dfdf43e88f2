"""Memory without any, and memory in blocks: every sequence has a list of blocks a group."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .jobs import Job


class Memory(ABC):
    """What an engine asks of its memory."""

    cached = 0  # slots of finished prefixes

    @abstractmethod
    def ever_holds(self, job: Job) -> bool:
        """Whether the job fits when it is alone."""

    @abstractmethod
    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Make room for the first chunk if the whole target would fit; return what is cached."""

    @abstractmethod
    def extend(self, job: Job, tokens: int, spare: int) -> bool:
        """Make room for the first `tokens` tokens."""

    @abstractmethod
    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Make room for a swapped-out job, and for one token more."""

    @abstractmethod
    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks that one token more of each takes."""

    @abstractmethod
    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether one token more of each fits."""

    @abstractmethod
    def write(self, decoding: Sequence[Job]) -> int:
        """Write one token of each; return the tokens copied on the way."""

    @abstractmethod
    def release(self, job: Job, *, preempted: bool) -> None:
        """Take everything back."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Token slots that are held."""

    def reserved(self, written: int) -> int:
        """Held slots that will be written later."""
        return 0

    def external(self, head: Job | None) -> int:
        """Free slots that the head of the queue cannot use."""
        return 0

    def copied(self) -> int:
        """Tokens copied by compaction since the last call."""
        return 0


class Nothing(Memory):
    """No cache."""

    held = 0

    def ever_holds(self, job: Job) -> bool:
        """Nothing is held."""
        return True

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Nothing is cached."""
        return 0

    def extend(self, job: Job, tokens: int, spare: int) -> bool:
        """Nothing to do."""
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Nothing to do."""
        return True

    def opening(self, decoding: Sequence[Job]) -> int:
        """No blocks."""
        return 0

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """There is nothing to write."""
        return True

    def write(self, decoding: Sequence[Job]) -> int:
        """There is nothing to write."""
        return 0

    def release(self, job: Job, *, preempted: bool) -> None:
        """Nothing to do."""


class Blocks(Memory):
    """A list of free block numbers; a list of blocks for each group of each sequence.

    `growing` groups take a block every `block_size` tokens, the group of each cap stops at
    its cap, and a fixed group takes one block for ever. Samples share the full blocks of the
    prompt in the growing groups.
    """

    def __init__(
        self,
        total: int,
        block_size: int,
        growing: int = 1,
        caps: Sequence[int] = (),
        fixed: int = 0,
    ) -> None:
        self.free = list(range(total))
        self.total, self.block_size = total, block_size
        self.growing, self.caps, self.fixed = growing, list(caps), fixed

    def _lengths(self, tokens: int) -> list[int]:
        """Blocks in each group's list."""
        blocks = (tokens + self.block_size - 1) // self.block_size
        lengths = [blocks] * self.growing + [min(blocks, cap) for cap in self.caps]
        return lengths + [1] * self.fixed

    def _lists(self, job: Job, tokens: int) -> list[list[list[int]]]:
        """The lists a job would have, new blocks numbered from -1 down; nothing is taken."""
        new = -1
        lists = [[list(group) for group in sequence] for sequence in job.memory or []]
        sequences = job.samples if tokens >= job.prompt else 1
        shared = job.prompt // self.block_size
        for number in range(sequences):
            if number == len(lists):
                first = lists[0] if lists else []
                lists.append(
                    [
                        list(first[group][:shared]) if number and group < self.growing else []
                        for group in range(len(self._lengths(0)))
                    ]
                )
            for group, length in zip(lists[number], self._lengths(tokens), strict=True):
                while len(group) < length:
                    group.append(new)
                    new -= 1
        return lists

    def need(self, job: Job, tokens: int) -> int:
        """Blocks to take before the job has room for `tokens` tokens."""
        lists = self._lists(job, tokens)
        return len({block for sequence in lists for g in sequence for block in g if block < 0})

    def _grow(self, job: Job, tokens: int) -> None:
        """Take those blocks."""
        names: dict[int, int] = {}
        lists = self._lists(job, tokens)
        for sequence in lists:
            for group in sequence:
                for at, block in enumerate(group):
                    if block < 0:
                        if block not in names:
                            names[block] = self.free.pop()
                        group[at] = names[block]
        job.memory = lists

    def ever_holds(self, job: Job) -> bool:
        """Whether the pool has blocks enough for its last token."""
        return self.need(job, job.final) <= self.total

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Whole prompt or nothing."""
        if self.need(job, job.target) + spare > len(self.free):
            return None
        self._grow(job, min(chunk, job.target))
        return 0

    def extend(self, job: Job, tokens: int, spare: int) -> bool:
        """Another chunk."""
        if self.need(job, tokens) + spare > len(self.free):
            return False
        self._grow(job, tokens)
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """All of its tokens again, with room for the next one."""
        if self.need(job, job.computed + 1) + spare > len(self.free):
            return False
        self._grow(job, job.computed)
        return True

    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks that one token more of each takes."""
        return sum(self.need(job, job.computed + 1) for job in decoding)

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether there are as many."""
        return self.opening(decoding) <= len(self.free)

    def write(self, decoding: Sequence[Job]) -> int:
        """One token of each, in turn."""
        for job in decoding:
            self._grow(job, job.computed + 1)
        return 0

    def release(self, job: Job, *, preempted: bool) -> None:
        """Every block back."""
        blocks = {block for sequence in job.memory for group in sequence for block in group}
        self.free.extend(blocks)
        job.memory = None

    @property
    def held(self) -> int:
        """Slots of the blocks that are not free."""
        return (self.total - len(self.free)) * self.block_size
