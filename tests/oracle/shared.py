"""Blocks that remember what they hold: prefix caching, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass

from .jobs import Job
from .memory import Memory


@dataclass(eq=False)
class Block:
    """A block of the pool; `name` is of the whole prefix up to its end, if it is known."""

    name: object = None
    holders: int = 0
    uses: int = 0
    first_idle: int = 0
    last_idle: int = 0


class SharedBlocks(Memory):
    """Every block is an object; the idle ones stand in a list in the order of their release."""

    names_decodes = False  # as they are planned, and not when they are released

    def __init__(self, total: int, block_size: int, eviction: str = "fifo") -> None:
        self.total, self.block_size, self.eviction = total, block_size, eviction
        self.idle = [Block() for _ in range(total)]
        self.known: dict[object, Block] = {}
        self.clock = 0

    # ---- single blocks --------------------------------------------------------------------

    def _next(self) -> Block:
        """Choose the idle block to be taken next."""
        anonymous = [block for block in self.idle if block.name is None]
        if anonymous:
            return anonymous[0]
        if self.eviction == "fifo":
            return min(self.idle, key=lambda block: block.first_idle)
        return min(self.idle, key=lambda block: (block.uses, block.last_idle))

    def _take(self) -> Block:
        block = self._next()
        self.idle.remove(block)
        if block.name is not None:
            self.evictions += self.block_size
        self._forget(block)
        block.holders = 1
        return block

    def _forget(self, block: Block) -> None:
        """The block no longer holds what its name says."""
        if block.name is not None:
            del self.known[block.name]
        block.name, block.uses, block.first_idle = None, 0, 0

    def _let_go(self, block: Block, keep: bool) -> None:
        block.holders -= 1
        block.uses += 1
        if block.holders:
            return
        if not keep:
            self._forget(block)
        self.clock += 1
        block.last_idle = self.clock
        block.first_idle = block.first_idle or self.clock
        self.idle.append(block)

    # ---- a job's blocks: its first sequence's, then what the other samples own ------------

    def _own(self, job: Job) -> list[list[Block]]:
        return job.memory or [[]]

    def _need(self, job: Job, tokens: int, lists: Sequence[Sequence[Block]]) -> int:
        """Blocks to take so that `lists` have room for `tokens` tokens."""
        blocks = (tokens + self.block_size - 1) // self.block_size
        need = blocks - len(lists[0])
        if tokens >= job.prompt:
            own = blocks - job.prompt // self.block_size
            for number in range(1, job.samples):
                need += own - (len(lists[number]) if number < len(lists) else 0)
        return need

    def _grow(self, job: Job, tokens: int) -> None:
        """Take those blocks."""
        blocks = (tokens + self.block_size - 1) // self.block_size
        lists = self._own(job)
        while len(lists[0]) < blocks:
            lists[0].append(self._take())
        if tokens >= job.prompt:
            while len(lists) < job.samples:
                lists.append([])
            for own in lists[1:]:
                while len(own) < blocks - job.prompt // self.block_size:
                    own.append(self._take())
        job.memory = lists

    def _name(self, job: Job, tokens: int) -> None:
        """Name the blocks that are full now; a second copy of known content stays anonymous."""
        names = job.names(self.block_size, tokens)
        if names is None:
            return
        for at in range(job.named, tokens // self.block_size):
            if names[at] not in self.known:
                job.memory[0][at].name = names[at]
                self.known[names[at]] = job.memory[0][at]
        job.named = max(job.named, tokens // self.block_size)

    # ---- what an engine asks --------------------------------------------------------------

    def ever_holds(self, job: Job) -> bool:
        """Whether the pool has blocks enough for its last token."""
        return self._need(job, job.final, [[]]) <= self.total

    def _hits(self, job: Job) -> list[Block]:
        """Known blocks from the start of the prompt on; the last token is always computed."""
        hits = []
        names = job.names(self.block_size, job.target) or []
        for name in names[: (job.target - 1) // self.block_size]:
            if name not in self.known:
                break
            hits.append(self.known[name])
        return hits

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Hold the hits; the rest of the prompt must fit beside them."""
        hits = self._hits(job)
        revived = sum(block.holders == 0 for block in hits)
        if self._need(job, job.target, [hits]) + revived + spare > len(self.idle):
            return None
        for block in hits:
            if block.holders == 0:
                self.idle.remove(block)
            block.holders += 1
        job.memory, job.named = [hits], len(hits)
        cached = len(hits) * self.block_size
        end = min(cached + chunk, job.target)
        self._grow(job, end)
        self._name(job, end)
        return cached

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Another chunk."""
        if self._need(job, tokens, self._own(job)) + spare > len(self.idle):
            return False
        self._grow(job, tokens)
        if tokens <= job.target or self.names_decodes:
            self._name(job, tokens)
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Come back from the host into new blocks."""
        if self._need(job, job.computed + 1, [[]]) + spare > len(self.idle):
            return False
        self._grow(job, job.computed)
        self._name(job, job.computed)
        return True

    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks that one token more of each takes."""
        return sum(self._need(job, job.computed + 1, job.memory) for job in decoding)

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether there are as many."""
        return self.opening(decoding) <= len(self.idle)

    def write(self, decoding: Sequence[Job]) -> int:
        """One token of each, in turn."""
        for job in decoding:
            self._grow(job, job.computed + 1)
        return 0

    def release(self, job: Job, *, preempted: bool) -> None:
        """The tail first; what can be found again keeps its name."""
        job.preempted = job.preempted or preempted
        keep = preempted or job.content is not None
        if keep:
            self._name(job, job.computed)
        for own in reversed(job.memory[1:]):
            for block in reversed(own):
                self._let_go(block, keep)
        for block in reversed(job.memory[0]):
            self._let_go(block, keep)
        job.memory, job.named = None, 0

    @property
    def held(self) -> int:
        """Slots of the blocks that are not idle."""
        return (self.total - len(self.idle)) * self.block_size

    def shared(self, copies: Sequence[tuple[Job, int]]) -> int:
        """Holders of a block beyond the first, and samples of a job beyond its first."""
        held = {block for job, _ in copies for own in self._own(job) for block in own}
        again = sum(block.holders - 1 for block in held)
        for job, sequences in copies:
            again += (sequences - 1) * (job.prompt // self.block_size)
        return again * self.block_size

    @property
    def cached(self) -> int:
        """Slots of idle blocks with a name."""
        return sum(block.name is not None for block in self.idle) * self.block_size


class NamedBlocks(SharedBlocks):
    """vLLM's own order: the least recently freed block is taken next, a nameless one before it.

    A block has its name as soon as the step that fills it is planned, and several may have one.
    """

    in_order = names_decodes = True

    def __init__(self, total: int, block_size: int, unknown: int = 0) -> None:
        super().__init__(total, block_size)
        self.unknown = unknown  # newest tokens of a decode whose content is not known yet
        self.copies: dict[object, list[Block]] = {}

    def _next(self) -> Block:
        return self.idle[0]

    def _forget(self, block: Block) -> None:
        if block.name is not None:
            self.copies[block.name].remove(block)
        block.name = None

    def _let_go(self, block: Block, keep: bool) -> None:
        block.holders -= 1
        if not block.holders:
            self.idle.insert(0 if block.name is None else len(self.idle), block)

    def _name(self, job: Job, tokens: int) -> None:
        tokens = max(min(tokens, job.target), tokens - self.unknown)
        for at in range(job.named, tokens // self.block_size):
            block = job.memory[0][at]
            block.name = self._names(job, tokens)[at]
            self.copies.setdefault(block.name, []).append(block)
        job.named = max(job.named, tokens // self.block_size)

    def _names(self, job: Job, tokens: int) -> Sequence[object]:
        own = [("own", job.row, at) for at in range(tokens // self.block_size)]
        return own if job.content is None else job.names(self.block_size, tokens) or own

    def _hits(self, job: Job) -> list[Block]:
        hits = []
        for name in self._names(job, job.target)[: (job.target - 1) // self.block_size]:
            if not self.copies.get(name):
                break
            hits.append(self.copies[name][0])
        return hits

    def write(self, decoding: Sequence[Job]) -> int:
        """One token of each, in turn."""
        for job in decoding:
            self._grow(job, job.computed + 1)
            self._name(job, job.computed + 1)
        return 0

    def release(self, job: Job, *, preempted: bool) -> None:
        """The tail first; what has ended is known to its last token."""
        if not preempted:
            self.unknown, unknown = 0, self.unknown
            self._name(job, job.computed)
            self.unknown = unknown
        for own in reversed(job.memory):
            for block in reversed(own):
                self._let_go(block, keep=True)
        job.memory, job.named = None, 0
