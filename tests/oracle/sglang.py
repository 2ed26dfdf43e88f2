"""SGLang: prompts in steps of their own, admitted by what everybody will still need."""

from math import ceil, inf
from typing import Any

from .blocks import Apart, Blocks
from .engine import Engine, Step
from .jobs import Job
from .memory import Memory, Nothing
from .shared import SharedBlocks
from .windows import Windows


def free(memory: Memory) -> float:
    """Tokens that the memory has room for: of the first pool, if there are several."""
    if isinstance(memory, Nothing):
        return inf
    if isinstance(memory, Apart):
        return free(memory.pools[0])
    if isinstance(memory, Blocks):
        return len(memory.free) * page(memory)
    if isinstance(memory, Windows):
        return memory.free * page(memory)
    if isinstance(memory, SharedBlocks):
        return len(memory.idle) * memory.block_size
    space: Any = memory
    return float(len(space.space.owner) - space.space.held)


def page(memory: Memory) -> int:
    """Tokens of a block; the smallest group's of the first pool."""
    if isinstance(memory, Apart):
        return page(memory.pools[0])
    if isinstance(memory, Blocks | Windows):
        return min([group.size for group in memory.groups if not group.stays] or [1])
    return memory.block_size if isinstance(memory, SharedBlocks) else 1


class Pass:
    """What one pass over the queue has spent."""

    def __init__(self, memory: Memory, chunk: int, foreseen: float) -> None:
        self.size, self.room = page(memory), free(memory)
        self.chunk, self.most, self.now, self.foreseen = chunk, chunk, 0, foreseen
        self.prompts: list[tuple[Job, int]] = []

    @property
    def over(self) -> bool:
        """Whether the memory is given away."""
        return self.room <= self.foreseen or self.room <= self.now

    def pages(self, tokens: int) -> int:
        """Tokens of whole pages."""
        return ceil(tokens / self.size) * self.size

    def first(self, job: Job) -> int:
        """Tokens of a first chunk; a step narrower than a page is refused by the engine."""
        if self.size > self.most:
            return min(job.target, self.chunk)
        whole = self.pages(job.target) <= self.chunk
        return job.target if whole else self.chunk // self.size * self.size

    def further(self, job: Job) -> int:
        """Tokens of a further chunk."""
        most = int(min(self.chunk, self.room - self.foreseen))
        return min(job.target - job.computed, most if most > 0 else self.chunk)

    def take(self, job: Job, count: int) -> None:
        """Spend on a job."""
        pages = self.pages(count)
        self.chunk -= pages
        self.now += pages + self.size
        self.foreseen += pages + self.size
        if job.computed + count == job.target:
            self.foreseen += job.samples * min(job.output, 4096)
        self.prompts.append((job, count))


class SGLang(Engine):
    """The rules of SGLang 0.5, without overlap, with its default settings."""

    ratio = 0.7
    full = False

    def plan(self) -> Step | None:
        """Prompts if there are any, else decodes."""
        prompts = self.prompts()
        if prompts:
            return self.step(prompts, decodes=False)
        self.gave_way = self.retract()
        if self.gave_way and not self.running:
            prompts = self.prompts()
            if prompts:
                return self.step(prompts, decodes=False)
        step = self.step([])
        if step is None:
            self.ratio = 0.7
        return step

    def end(self, step: Step, decoding: Any) -> None:
        """With every step that decodes, fewer of the outputs to come are reckoned with."""
        running = len(self.running)
        if step.decodes and not self.gave_way:
            least = 0.7 * 0.14
            self.ratio = max(self.ratio - (0.7 - least) / 600, least)
        super().end(step, decoding)
        if len(self.running) < running:
            self.full = False

    def prompts(self) -> list[tuple[Job, int]]:
        """The prompt under way, then those whose need is foreseen to fit."""
        begun = list(self.prefilling)
        if begun:
            self.full = False
        if not begun and (self.full or not self.waiting):
            return []
        foreseen = sum([self.left(job) * self.ratio for job in self.decoding])
        spent = Pass(self.memory, self.limits.max_num_batched_tokens, foreseen)
        for job in begun:
            count = spent.further(job)
            while not self.memory.extend(job, job.computed + count, 0, self.decoding):
                self.preempt(self.victim(self.running))
            spent.take(job, count)
        while self.waiting and (spent.chunk > 0 or spent.over) and self.another(spent):
            pass
        if not self.decoding:
            self.full = False
        return spent.prompts

    def another(self, spent: "Pass") -> bool:
        """Admit the head of the queue; tell whether the next may be asked."""
        job = self.waiting[0]
        if not self.has_slot():
            self.full = True
            return False
        if job.swapped or self.moved:
            return self.back(job, spent)
        count = spent.first(job)
        if self.running and job.target + self.left(job) + spent.size >= spent.room - spent.foreseen:
            self.full = True
            return False
        if count <= 0:
            return False
        admitted = self.admit(count, 0)
        if admitted is None:
            self.full = bool(self.running)
            return False
        spent.take(*admitted)
        self.full = self.full or spent.over
        return not spent.over

    def back(self, job: Job, spent: "Pass") -> bool:
        """Bring a swapped job back; with it come no prompts."""
        if spent.prompts or not job.swapped:
            return False
        if self.resume(self.opening()):
            return True
        self.full = bool(self.running)
        return False

    def left(self, job: Job) -> int:
        """Output tokens still to come."""
        return job.samples * min(job.output - job.generated, 4096)

    def retract(self) -> bool:
        """When the next tokens do not fit, send one after the other back."""
        gave_way = False
        while self.decoding and not self.memory.can_write(self.decoding):
            self.preempt(self.victim(self.decoding))
            gave_way = True
        if gave_way:
            self.full = False
            done = sum(job.generated + 20 for job in self.decoding)
            self.ratio = min(1.0, done / (sum(job.output for job in self.decoding) + 1))
        return gave_way

    def victim(self, among: Any) -> Job:
        """The fewest tokens so far; of those the longest prompt; of those the last to join."""
        order = {job: at for at, job in enumerate(self.decoding)}
        return min(self.decoding, key=lambda job: (job.generated, -job.prompt, -order[job]))

    def preempt(self, job: Job) -> None:
        """Whoever comes back stands behind all others."""
        super().preempt(job)
        if self.limits.admission == "fcfs":
            self.waiting.append(self.waiting.pop(0))
