"""Memory in blocks: every sequence has a list of blocks for each group of its layers."""

from collections.abc import Sequence
from typing import NamedTuple

from .jobs import Job
from .memory import Memory


class Group(NamedTuple):
    """Layers with a list of blocks: a block every `size` tokens, but no more than `most`.

    One that `stays` has a single block, whatever the length.
    """

    size: int
    most: int | None = None
    stays: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether samples share the full blocks of their prompt: nothing of it ever leaves."""
        return self.most is None and not self.stays

    def fills(self, tokens: int) -> list[int]:
        """Tokens in each block of the list; a window's blocks are used again when all are full."""
        if self.stays:
            return [self.size]
        blocks = []
        while tokens > 0 and len(blocks) != self.most:
            blocks.append(min(tokens, self.size))
            tokens -= self.size
        return blocks


class Blocks(Memory):
    """A pool: a list of free block numbers, and of every sequence a list for each group.

    A block counts as so many slots that a token of every group fills a whole number of them.
    A `weight` is what a slot counts as beside those of other pools.
    """

    in_order = True

    def __init__(self, total: int, groups: Sequence[Group], weight: int = 1) -> None:
        self.free = list(range(total))
        self.total, self.groups, self.weight = total, list(groups), weight
        self.lists: dict[Job, list[list[list[int]]]] = {}
        self.block_slots = 1
        while any(self.block_slots % group.size for group in groups):
            self.block_slots += 1

    def _lists(self, job: Job, tokens: int) -> list[list[list[int]]]:
        """The lists a job would have, new blocks numbered from -1 down; nothing is taken."""
        new = -1
        lists = [[list(blocks) for blocks in sequence] for sequence in self.lists.get(job, [])]
        sequences = job.samples if tokens >= job.prompt else 1
        for number in range(sequences):
            if number == len(lists):
                lists.append([self._given(job, group, lists) for group in range(len(self.groups))])
            for group, blocks in zip(self.groups, lists[number], strict=True):
                missing = max(0, len(group.fills(tokens)) - len(blocks))
                blocks.extend(range(new, new - missing, -1))
                new -= missing
        return lists

    def _given(self, job: Job, number: int, lists: Sequence[Sequence[list[int]]]) -> list[int]:
        """Blocks of a group that a sequence begins with: the first sequence's, of the prompt."""
        group = self.groups[number]
        if not lists or not group.is_shared:
            return []
        return lists[0][number][: job.prompt // group.size]

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
        self.lists[job] = lists

    def ever_holds(self, job: Job) -> bool:
        """Whether the pool has blocks enough for its last token."""
        return self.need(job, job.final) <= self.total

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Whole prompt or nothing."""
        if self.need(job, job.target) + spare > len(self.free):
            return None
        self._grow(job, min(chunk, job.target))
        return 0

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
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
        lists = self.lists.pop(job)
        self.free.extend({block for sequence in lists for group in sequence for block in group})

    @property
    def held(self) -> int:
        """Slots of the blocks that are not free."""
        return self.weight * (self.total - len(self.free)) * self.block_slots

    def shared(self, copies: Sequence[tuple[Job, int]]) -> int:
        """How often a block stands in the lists of a job's sequences, beyond once."""
        again = 0
        for job, sequences in copies:
            lists = self.lists[job][:sequences]
            blocks = [block for sequence in lists for group in sequence for block in group]
            again += len(blocks) - len(set(blocks))
        return self.weight * again * self.block_slots

    def filled(self, tokens: int) -> int:
        """Block by block, the share of it that is full; before the first token there is none."""
        if not tokens:
            return 0
        return self.weight * sum(
            fill * self.block_slots // group.size
            for group in self.groups
            for fill in group.fills(tokens)
        )


class Apart(Memory):
    """Pools, of which none has a block for another; a job is in all of them or in none.

    The spare blocks that an engine asks for are those of the first pool. In each of the others
    a job that comes leaves room for one token more of everybody who decodes.
    """

    def __init__(self, pools: Sequence[Blocks]) -> None:
        self.pools = list(pools)

    def _spares(self, spare: int, decoding: Sequence[Job]) -> list[int]:
        """Blocks that must stay free in each pool."""
        return [spare] + [pool.opening(decoding) for pool in self.pools[1:]]

    def _has_room(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Whether every pool has room for the first `tokens` tokens of a job."""
        spares = zip(self.pools, self._spares(spare, decoding), strict=True)
        return all(pool.need(job, tokens) + left <= len(pool.free) for pool, left in spares)

    def ever_holds(self, job: Job) -> bool:
        """Whether each pool has blocks enough for its last token."""
        return all(pool.ever_holds(job) for pool in self.pools)

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Whole prompt everywhere, or nothing anywhere."""
        if not self._has_room(job, job.target, spare, decoding):
            return None
        for pool in self.pools:
            pool.admit(job, chunk, 0, [])
        return 0

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Another chunk."""
        if not self._has_room(job, tokens, spare, decoding):
            return False
        return all([pool.extend(job, tokens, 0, []) for pool in self.pools])

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """All of its tokens again, with room for the next one."""
        if not self._has_room(job, job.computed + 1, spare, decoding):
            return False
        return all([pool.restore(job, 0, []) for pool in self.pools])

    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks of the first pool that one token more of each takes."""
        return self.pools[0].opening(decoding)

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether every pool has as many as it needs."""
        return all(pool.can_write(decoding) for pool in self.pools)

    def write(self, decoding: Sequence[Job]) -> int:
        """One token of each, in every pool."""
        return sum(pool.write(decoding) for pool in self.pools)

    def release(self, job: Job, *, preempted: bool) -> None:
        """Every block back, to its own pool."""
        for pool in self.pools:
            pool.release(job, preempted=preempted)

    @property
    def held(self) -> int:
        """Slots of all pools that are not free, each as much as it weighs."""
        return sum(pool.held for pool in self.pools)

    def shared(self, copies: Sequence[tuple[Job, int]]) -> int:
        """In every pool."""
        return sum(pool.shared(copies) for pool in self.pools)

    def filled(self, tokens: int) -> int:
        """Slots that a sequence fills in all pools."""
        return sum(pool.filled(tokens) for pool in self.pools)
