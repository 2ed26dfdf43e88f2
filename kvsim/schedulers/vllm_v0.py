"""vLLM V0: prompts first, in steps of their own; whole prompts; a watermark of free blocks."""

from __future__ import annotations

from kvsim.request import Request
from kvsim.schedulers.base import Scheduler, StepPlan

__all__ = ["WATERMARK", "VLLMv0"]

WATERMARK = 0.01  # share of the pool that an admission must leave free


class VLLMv0(Scheduler):
    """The default scheduler of vLLM up to 0.7.

    A step is either prefill or decode. As long as a prompt at the head of the queue fits,
    above the watermark, the step computes prompts, and decoding stalls; otherwise it decodes.
    Victims are those admitted last; they are computed again or swapped back in, and nothing
    new is admitted before them.
    """

    name = "vllm-v0"
    mimics = "vLLM 0.6 (V0 scheduler, no chunked prefill)"

    def servable(self, request: Request) -> bool:
        """Whole prompts must also fit one step, and leave the watermark."""
        room = self.allocator.total_blocks - self._watermark_blocks()
        prompt_blocks = self.allocator.held_blocks(request, request.prompt_tokens)
        fits_step = request.prompt_tokens <= self.limits.max_num_batched_tokens
        return fits_step and prompt_blocks <= room and super().servable(request)

    def plan(self, now: float) -> StepPlan | None:
        """Compute prompts if any can be admitted, else decode."""
        prefills = self._admit(now)
        if prefills:
            return StepPlan(prefills, False, 1, self._take_moved_tokens())
        self._make_room_to_decode()
        if not self.batch.sequences:
            return self._admit_after_preemption(now)
        if self.moved_tokens:
            return StepPlan([], True, 1, self._take_moved_tokens())
        limit = self.batch.steps_to_change()
        return StepPlan([], True, self.allocator.decode_steps(self.batch, limit))

    def _admit_after_preemption(self, now: float) -> StepPlan | None:
        """Plan the prompts that fit once decoding has given way to the last sequence."""
        prefills = self._admit(now) if self.waiting else []
        return StepPlan(prefills, False, 1, self._take_moved_tokens()) if prefills else None

    def _admit(self, now: float) -> list[tuple[Request, int]]:
        """Admit whole prompts from the head of the queue while they fit."""
        prefills: list[tuple[Request, int]] = []
        budget = self.limits.max_num_batched_tokens
        while self._has_slot():
            request = self.waiting.head()
            if request.swapped:
                if prefills or not self._resume(request, now):
                    break
                continue
            tokens = request.prefill_tokens
            if prefills and tokens > budget:
                break
            spare = self._watermark_blocks()
            cached = self.allocator.admit(request, tokens, spare_blocks=spare)
            if cached is None:
                break
            self._start(request, cached, now)
            self.prefilling[request] = None
            prefills.append((request, tokens - cached))
            budget -= tokens - cached
        return prefills

    def _watermark_blocks(self) -> int:
        return int(WATERMARK * self.allocator.total_blocks)
