"""vLLM V0: prompts first, in steps of their own; whole prompts; a watermark of free blocks."""

from __future__ import annotations

from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.steps import StepPlan

__all__ = ["VLLMv0"]


class VLLMv0(Scheduler):
    """The default scheduler of vLLM up to 0.7.

    A step is either prefill or decode. As long as a prompt at the head of the queue fits,
    above the watermark, the step computes prompts, and decoding stalls; otherwise it decodes.
    Victims are those admitted last; they are computed again or swapped back in, and in a
    first-come queue nothing new is admitted before them. An idle engine waives the watermark,
    so that whatever fits the pool is served in the end.
    """

    mimics = "vLLM's V0 scheduler (prompts first, no chunked prefill)"
    watermark = 0.01
    prefills_stop_decodes = True
    in_chunks = False

    def servable(self, request: Request) -> bool:
        """Whole prompts must also fit one step."""
        fits_step = request.prompt_tokens <= self.limits.max_num_batched_tokens
        return fits_step and super().servable(request)

    def schedule(self, now: float) -> StepPlan | None:
        """Compute prompts if any can be admitted, else decode."""
        prefills = self._admit(now)
        preempted = not prefills and self._make_room_to_decode()
        if preempted and not self.running:
            prefills = self._admit(now)
        if prefills:
            return self._compute(prefills, decodes=False)
        if self.moved_tokens:
            return self._compute([], decodes=True)
        return self._decode(int(preempted))

    def _admit(self, now: float) -> list[tuple[Request, int]]:
        """Admit whole prompts from the head of the queue while they fit."""
        prefills: list[tuple[Request, int]] = []
        budget = self.limits.max_num_batched_tokens
        while self._has_slot():
            request = self.waiting.head()
            spare = self._watermark_blocks if self.running else 0  # this step decodes nobody
            if request.swapped:
                if prefills or not self._resume(request, self.batch.opening + spare):
                    break
                continue
            tokens = request.prefill_tokens
            if prefills and tokens > budget:
                break
            cached = self.allocator.allocate(request, tokens, spare_blocks=spare)
            if cached is None:
                break
            self._start(request, cached, now)
            self.prefilling[request] = None
            prefills.append((request, tokens - cached))
            budget -= tokens - cached
        return prefills
