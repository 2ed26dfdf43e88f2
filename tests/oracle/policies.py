"""Five schedulers: each says in `plan` who takes part in the next step."""

from collections.abc import Sequence

from .engine import Engine, Step
from .jobs import Job


class VLLMv1(Engine):
    """One budget: those who run, in the order of admission, then new prompts.

    The rules are those that the engine's own runs show (``tests/engine_oracle``).
    """

    def plan(self) -> Step | None:
        """Who runs has its tokens first; then what is left is spent on who waits."""
        self.memory.begin_step()
        self.planned: dict[Job, int] = {}
        self.evictions = self.memory.evictions
        longest = self.longest()
        run = self.run_in_order if self.memory.in_order else self.run_together
        self.gave_way = run(longest)
        if not self.gave_way:
            self.begin_prompts(longest)
        prefilling = self.prefilling
        return self.step([(job, n) for job, n in self.planned.items() if job in prefilling])

    def longest(self) -> int:
        """Most tokens of a prompt in a step: a request that is alone has no threshold."""
        alone = len(self.running) + len(self.waiting) <= 1 and self.limits.waives_threshold
        return (not alone and self.limits.threshold) or self.limits.max_num_batched_tokens

    def left(self) -> int:
        """Tokens of this step that nobody has yet."""
        decoding = [job for job in self.decoding if job not in self.resting]
        prompts = sum(count for job, count in self.planned.items() if job in self.prefilling)
        return self.limits.max_num_batched_tokens - prompts - sum(job.samples for job in decoding)

    def run_in_order(self, longest: int) -> bool:
        """Tokens and blocks for one after the other; tell whether anybody gave way."""
        gave_way = False
        budget = self.limits.max_num_batched_tokens
        for job in list(self.running):
            if job not in self.running or job in self.gone:
                continue
            decodes = job in self.decoding
            count = job.samples if decodes else min(job.target - job.computed, budget, longest)
            if not decodes:
                count = self.memory.cut(job, job.computed, count)
            if count > budget or count == 0:
                if decodes:
                    self.resting.append(job)
                continue
            while not self.grown(job, 1 if decodes else count):
                gave_way = True
                victim = self.victim(self.running)
                budget += self.planned.pop(victim, 0)
                self.preempt(victim)
                if victim is job:
                    break
            if job in self.running:
                self.planned[job] = count
                budget -= count
        return gave_way

    def grown(self, job: Job, count: int) -> bool:
        """Make room for so many tokens more of a job that runs."""
        held = self.memory.held
        fits = self.memory.extend(job, job.computed + count, 0, [])
        if job in self.decoding:  # what does not fit may have given something back
            self.opened[job] = self.opened.get(job, 0) + self.memory.held - held
        return fits

    def run_together(self, longest: int) -> bool:
        """Room for all who decode, then for more of the prompts begun."""
        gave_way = self.make_room()
        for job in list(self.prefilling):
            if job not in self.prefilling:
                continue
            count = min(job.target - job.computed, self.left(), longest)
            if count <= 0:
                break
            while not self.extend(job, count):
                gave_way = True
                victim = self.victim(self.running)
                self.planned.pop(victim, None)
                self.preempt(victim)
                if victim is job:
                    break
            if job in self.prefilling:
                self.planned[job] = count
        return gave_way

    def begin_prompts(self, longest: int) -> None:
        """Admit from the head of the queue."""
        while self.has_slot() and self.left() > 0:
            if self.waiting[0].swapped:
                job = self.waiting[0]
                if not self.resume(self.spare()):
                    break
                if self.memory.in_order:
                    assert self.grown(job, 1)
                continue
            admitted = self.admit(min(self.waiting[0].target, self.left(), longest), self.spare())
            if admitted is None:
                break
            job, count = admitted
            self.planned[job] = count

    def spare(self) -> int:
        """Blocks that an admission leaves."""
        return 0 if self.memory.in_order else self.opening()


class Sarathi(VLLMv1):
    """V1 with a watermark."""

    def spare(self) -> int:
        """Blocks that an admission leaves."""
        return super().spare() + self.watermark()


class VLLMv0(Engine):
    """Prompts in steps of their own, before any decode."""

    in_chunks = False

    def servable(self, job: Job) -> bool:
        """A prompt is computed in one step."""
        return job.prompt <= self.limits.max_num_batched_tokens and super().servable(job)

    def plan(self) -> Step | None:
        """Prompts if there are any that fit, else decodes."""
        prompts = self.prompts()
        if not prompts and self.make_room() and not self.running:
            prompts = self.prompts()
        return self.step(prompts, decodes=not prompts)

    def prompts(self) -> list[tuple[Job, int]]:
        """Whole prompts from the head of the queue; the first may exceed the budget."""
        prompts: list[tuple[Job, int]] = []
        while self.has_slot():
            job = self.waiting[0]
            if job.swapped:
                if prompts or not self.resume(self.opening() + self.watermark()):
                    break
                continue
            spent = sum(count for _, count in prompts)
            if prompts and spent + job.target > self.limits.max_num_batched_tokens:
                break
            admitted = self.admit(job.target, self.watermark())
            if admitted is None:
                break
            prompts.append(admitted)
        return prompts


class Orca(Engine):
    """Whole prompts beside decodes."""

    in_chunks = False

    def plan(self) -> Step | None:
        """Admit whoever fits, unless somebody had to give way."""
        gave_way = self.make_room()
        return self.step([] if gave_way and self.running else self.prompts())

    def prompts(self) -> list[tuple[Job, int]]:
        """Whole prompts from the head of the queue."""
        prompts: list[tuple[Job, int]] = []
        while self.has_slot():
            if self.waiting[0].swapped:
                if not self.resume(self.opening()):
                    break
                continue
            admitted = self.admit(self.waiting[0].target, self.opening())
            if admitted is None:
                break
            prompts.append(admitted)
        return prompts


class Static(Orca):
    """A batch runs until its last member has ended."""

    def plan(self) -> Step | None:
        """A new batch when there is none; the end of one when its last worker gave way."""
        step = super().plan()
        return Step([], False, 0) if step is None and self.running else step

    def prompts(self) -> list[tuple[Job, int]]:
        """Nobody joins a batch."""
        return [] if self.running else super().prompts()

    def victim(self, among: Sequence[Job]) -> Job:
        """The newest who still works."""
        return super().victim(self.decoding)

    def leaving(self, done: list[Job]) -> list[Job]:
        """All together, in the order in which they ended."""
        self.ended += done
        if self.prefilling or self.decoding:
            return []
        ended, self.ended = self.ended, []
        return ended


ENGINES: dict[str, type[Engine]] = {
    "vllm-v1": VLLMv1,
    "vllm-v0": VLLMv0,
    "orca": Orca,
    "static": Static,
    "sarathi": Sarathi,
}
