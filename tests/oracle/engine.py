"""The engine: a loop in which every turn is one step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from kvsim.steptime.model import StepCost, StepLoad

from .jobs import Arrivals, Job
from .memory import Memory


class StepTime(Protocol):
    """What a step costs."""

    def cost(self, load: StepLoad) -> StepCost:
        """Terms of one step."""


@dataclass(frozen=True)
class Limits:
    """What bounds a step; `watermark` is a share of the pool's blocks."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    threshold: int = 0
    waives_threshold: bool = True
    asynchronous: bool = False
    admission: str = "fcfs"
    swap: bool = False
    watermark_blocks: int = 0


@dataclass(frozen=True)
class Costs:
    """What time depends on."""

    step_time: StepTime
    pairs: Callable[[int, int], float]
    read_bytes: Callable[[int], int]
    link_seconds_per_token: float = 0.0
    copy_seconds_per_token: float = 0.0
    no_cache: bool = False


@dataclass(frozen=True)
class StepRow:
    """One step, as it looked when it began; `held_after` when it had ended."""

    start: float
    seconds: float
    sequences: int
    prefill_tokens: int
    read_bytes: int
    waiting: int
    filled: int
    filling: int
    held: int
    grown: int
    reserved: int
    external: int
    cached: int
    left: int
    held_after: int


@dataclass
class Step:
    """What a step computes."""

    prompts: list[tuple[Job, int]]
    decodes: bool
    moved: int


@dataclass
class Engine:
    """What all schedulers share; each says in `plan` who takes part in a step."""

    memory: Memory
    limits: Limits
    costs: Costs
    arrivals: Arrivals
    now: float = 0.0
    seen: float = 0.0  # until when arrivals are known to whoever plans
    gone: list[Job] = field(default_factory=list)  # ended, and there until the next step is planned
    gave_way: bool = False  # whether somebody did, and nobody was admitted after it
    moved: int = 0
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)  # in the order of admission
    prefilling: list[Job] = field(default_factory=list)
    decoding: list[Job] = field(default_factory=list)  # in the order of joining
    resting: list[Job] = field(default_factory=list)  # for whom this step has no token
    opened: dict[Job, int] = field(default_factory=dict)  # slots taken for a decode in planning
    evictions: int = 0  # of the memory, when the step began to be planned
    ended: list[Job] = field(default_factory=list)  # kept by static batching
    admissions: list[tuple[int, float, int]] = field(default_factory=list)
    preemptions: list[tuple[int, int]] = field(default_factory=list)
    swapped_tokens: int = 0  # moved out
    recomputed_tokens: int = 0  # thrown away
    rejected: list[int] = field(default_factory=list)
    scheduled: dict[int, float] = field(default_factory=dict)
    first_token: dict[int, float] = field(default_factory=dict)
    finished: dict[int, float] = field(default_factory=dict)
    rows: list[StepRow] = field(default_factory=list)
    in_chunks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.memory.in_chunks = self.in_chunks

    # ---- the loop -------------------------------------------------------------------------

    def run(self) -> "Engine":
        """Serve everything."""
        while True:
            while (job := self.arrivals.due(self.seen)) is not None:
                self.submit(job)
            step = self.plan()
            if step is not None:
                self.take(step)
            elif self.gone or self.seen < self.now or self.gave_way:
                self.settle()
                self.seen = self.now
            elif self.arrivals.coming:
                self.now = self.seen = self.arrivals.coming[0].arrival
            else:
                assert not self.waiting
                assert not self.running
                return self

    def submit(self, job: Job) -> None:
        """Queue a job, or refuse it."""
        if self.servable(job):
            self.waiting.append(job)
            self.sort_waiting()
        else:
            self.rejected.append(job.row)
            self.arrivals.finished(job.row, job.arrival)

    def servable(self, job: Job) -> bool:
        """Whether it can be served at all."""
        fits = job.prompt + job.output <= self.limits.max_model_len
        return fits and job.samples <= self.limits.max_num_seqs and self.memory.ever_holds(job)

    def sort_waiting(self) -> None:
        """Keep the queue in order; first come, first served is left as it is."""
        if self.limits.admission == "priority":
            self.waiting.sort(key=lambda job: (job.priority, job.row))
        elif self.limits.admission == "shortest-first":
            self.waiting.sort(key=lambda job: (job.prompt, job.row))

    def plan(self) -> Step | None:
        """Decide who takes part in the next step."""
        raise NotImplementedError

    def take(self, step: Step) -> None:
        """Let a step happen."""
        decoding = [job for job in self.decoding if job not in self.resting]
        decoding = decoding if step.decodes else []
        self.resting = []
        opened = sum(self.opened.values())
        if step.prompts or step.moved:  # who may have what decodes have given back
            opened += self.memory.closed()
        held, before = self.memory.held - opened, self.row_before(step, decoding)
        evicted = min(max(0, opened), self.memory.evictions - self.evictions)
        before["cached"] += evicted  # if taken last
        self.opened, self.evictions = {}, self.memory.evictions
        copied = self.memory.copied() + self.memory.write(decoding)
        grown, left = self.memory.held - held, self.memory.closed()
        seconds = self.seconds(step, decoding) + copied * self.costs.copy_seconds_per_token
        start, self.now = self.now, self.now + seconds
        self.seen = start if self.limits.asynchronous else self.now
        self.settle()
        self.end(step, decoding)
        after = {"grown": grown, "left": left, "held_after": self.memory.held}
        row = StepRow(start, seconds, **before, held=held, **after)
        self.rows.append(row)

    def row_before(self, step: Step, decoding: Sequence[Job]) -> dict[str, int]:
        """Describe the engine as the step begins."""
        copies = [(job, self.copies(job)) for job in self.running]
        written = sum(job.computed * count for job, count in copies)
        filled = sum(self.memory.filled(job.computed) * count for job, count in copies)
        coming = self.filling(step.prompts)
        read = sum(job.samples * self.costs.read_bytes(job.computed + 1) for job in decoding)
        return {
            "sequences": sum(job.samples for job in decoding),
            "prefill_tokens": sum(count for _, count in step.prompts),
            "read_bytes": read,
            "waiting": len(self.waiting),
            "filled": filled - self.memory.shared(copies),
            "filling": coming + self.filling([(job, 1) for job in decoding]),
            "reserved": self.memory.reserved(written, coming),
            "external": self.memory.external(self.waiting[0] if self.waiting else None),
            "cached": self.memory.cached,
        }

    def filling(self, written: Sequence[tuple[Job, int]]) -> int:
        """Slots that so many tokens more of these jobs fill."""
        filled = self.memory.filled
        return sum(
            (filled(job.computed + count) - filled(job.computed)) * self.copies(job)
            for job, count in written
        )

    def copies(self, job: Job) -> int:
        """Sequences that have written `computed` tokens: a prompt is written once."""
        return 1 if job in self.prefilling else job.samples

    def seconds(self, step: Step, decoding: Sequence[Job]) -> float:
        """Ask the step-time model."""
        moving = step.moved * self.costs.link_seconds_per_token
        if self.costs.no_cache:
            spans = [(0, job.computed + 1, job.samples) for job in decoding]
            spans += [(0, job.computed + count, 1) for job, count in step.prompts]
        else:
            spans = [(job.computed, count, 1) for job, count in step.prompts]
        tokens = sum(count * copies for _, count, copies in spans)
        pairs = sum(self.costs.pairs(start, count) * copies for start, count, copies in spans)
        sequences, read = len(step.prompts), 0
        for job in decoding:
            sequences += job.samples
            if not self.costs.no_cache:
                tokens += job.samples
                read += job.samples * self.costs.read_bytes(job.computed + 1)
        if not tokens:
            return moving
        return self.costs.step_time.cost(StepLoad(tokens, sequences, read, pairs)).seconds + moving

    def end(self, step: Step, decoding: Sequence[Job]) -> None:
        """Count the tokens of a step that has just ended."""
        done = []
        for job in self.running:
            job.flying = 0
        if self.limits.asynchronous:
            for job, count in [*step.prompts, *((job, 1) for job in decoding)]:
                job.flying = count
        for job in decoding:
            job.computed += 1
            job.generated += 1
            if job.generated == job.output:
                self.decoding.remove(job)
                done.append(job)
        for job, count in step.prompts:
            job.computed += count
            if job.computed == job.target:
                self.prefilling.remove(job)
                self.first_token.setdefault(job.row, self.now)
                job.generated += 1
                (done if job.generated == job.output else self.decoding).append(job)
        done.sort(key=self.running.index)
        for job in self.leaving(done):
            self.finished[job.row] = self.now
            self.gone.append(job)
            if not self.limits.asynchronous:
                self.settle()
            self.arrivals.finished(job.row, self.now)

    def settle(self) -> None:
        """Those who ended give up their seats and their memory."""
        for job in self.gone:
            self.running.remove(job)
            self.memory.release(job, preempted=False)
        self.gone = []

    def leaving(self, done: list[Job]) -> list[Job]:
        """Who leaves at the end of a step in which `done` produced their last tokens."""
        return done

    # ---- what schedulers do ---------------------------------------------------------------

    def has_slot(self) -> bool:
        """Whether the head of the queue may run."""
        taken = sum(job.samples for job in self.running)
        return bool(self.waiting) and taken + self.waiting[0].samples <= self.limits.max_num_seqs

    def watermark(self) -> int:
        """Blocks that an admission leaves free, unless nobody else runs."""
        return self.limits.watermark_blocks if self.running else 0

    def opening(self) -> int:
        """Blocks that the decodes of this step take."""
        return self.memory.opening(self.decoding)

    def admit(self, chunk: int, spare: int) -> tuple[Job, int] | None:
        """Admit the head of the queue; return it with the tokens of its first chunk."""
        job = self.waiting[0]
        cached = self.memory.admit(job, chunk, spare, self.decoding)
        if cached is None:
            return None
        self.waiting.remove(job)
        job.computed = cached
        self.running.append(job)
        self.prefilling.append(job)
        self.admissions.append((job.row, self.now, cached))
        self.scheduled.setdefault(job.row, self.now)
        return job, self.memory.cut(job, cached, min(chunk, job.target - cached))

    def extend(self, job: Job, count: int) -> bool:
        """Make room for a further chunk of a prompt."""
        return self.memory.extend(job, job.computed + count, self.opening(), self.decoding)

    def resume(self, spare: int) -> bool:
        """Bring the head of the queue back from the host; it decodes in this step."""
        job = self.waiting[0]
        if not self.memory.restore(job, spare, self.decoding):
            return False
        self.waiting.remove(job)
        self.running.append(job)
        self.decoding.append(job)
        self.moved += job.computed * job.samples
        job.swapped = False
        return True

    def make_room(self) -> bool:
        """Preempt until everybody who decodes can write a token; tell whether anybody was."""
        preempted = False
        while self.decoding and not self.memory.can_write(self.decoding):
            self.preempt(self.victim(self.running))
            preempted = True
        return preempted

    def victim(self, among: Sequence[Job]) -> Job:
        """Who gives way."""
        if self.limits.admission == "priority":
            return max(among, key=lambda job: (job.priority, job.row))
        return among[-1]

    def preempt(self, job: Job) -> None:
        """Send a running job back to the queue."""
        self.preemptions.append((job.row, len(self.rows)))
        if job in self.gone:  # it has ended, and does not come back
            self.gone.remove(job)
            self.running.remove(job)
            self.memory.release(job, preempted=True)
            return
        swap = self.limits.swap and job in self.decoding
        lost = job.computed * self.copies(job)
        self.opened.pop(job, None)
        self.running.remove(job)
        (self.decoding if job in self.decoding else self.prefilling).remove(job)
        self.memory.release(job, preempted=True)
        job.preempted = True
        if swap:
            job.swapped = True
            self.moved += lost
            self.swapped_tokens += lost
        else:
            self.recomputed_tokens += lost
            job.target = job.prompt + job.generated
            job.computed = 0
        self.waiting.insert(0, job)
        self.sort_waiting()

    def step(self, prompts: list[tuple[Job, int]], *, decodes: bool = True) -> Step | None:
        """The step that was planned, unless there is nothing in it."""
        moved, self.moved = self.moved, 0
        works = prompts or moved or (decodes and self.decoding)
        return Step(prompts, decodes, moved) if works else None
