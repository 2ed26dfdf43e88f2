"""Five schedulers: each says in `plan` who takes part in the next step."""

from collections.abc import Sequence

from .engine import Engine, Step
from .jobs import Job


class VLLMv1(Engine):
    """One budget: decodes, then prompts begun, then new ones."""

    def plan(self) -> Step | None:
        """Decode; then spend what is left."""
        gave_way = self.make_room()
        prompts: list[tuple[Job, int]] = []
        gave_way = self.continue_prompts(prompts) or gave_way
        if not (gave_way and self.running):
            self.begin_prompts(prompts)
        return self.step(prompts)

    def chunk(self, tokens: int, prompts: list[tuple[Job, int]]) -> int:
        """Tokens of a prompt that still fit this step."""
        left = self.limits.max_num_batched_tokens - sum(count for _, count in prompts)
        left -= sum(job.samples for job in self.decoding)
        return min(tokens, left, self.limits.threshold or tokens)

    def continue_prompts(self, prompts: list[tuple[Job, int]]) -> bool:
        """Compute more of the prompts begun; tell whether anybody gave way for it."""
        gave_way = False
        begun = list(self.prefilling)
        if self.limits.admission == "priority":
            begun.sort(key=lambda job: (job.priority, job.row))
        for job in begun:
            if job not in self.prefilling:
                continue
            count = self.chunk(job.target - job.computed, prompts)
            if count <= 0:
                break
            while not self.extend(job, count):
                gave_way = True
                victim = self.victim(self.running)
                self.preempt(victim)
                if victim is job:
                    break
            if job in self.prefilling:
                prompts.append((job, count))
        return gave_way

    def begin_prompts(self, prompts: list[tuple[Job, int]]) -> None:
        """Admit from the head of the queue."""
        while self.has_slot():
            chunk = self.chunk(self.waiting[0].target, prompts)
            if chunk <= 0:
                break
            if self.waiting[0].swapped:
                if not self.resume(self.spare()):
                    break
                continue
            admitted = self.admit(chunk, self.spare())
            if admitted is None:
                break
            prompts.append(admitted)

    def spare(self) -> int:
        """Blocks that an admission leaves."""
        return self.opening()


class Sarathi(VLLMv1):
    """V1 with a watermark."""

    def spare(self) -> int:
        """Blocks that an admission leaves."""
        return self.opening() + self.watermark()


class VLLMv0(Engine):
    """Prompts in steps of their own, before any decode."""

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
