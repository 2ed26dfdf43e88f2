"""vLLM V1: one token budget, running requests first, chunked prefill, last-in recompute."""

from __future__ import annotations

from kvsim.request import Request
from kvsim.schedulers.base import Scheduler, StepPlan

__all__ = ["VLLMv1"]


class VLLMv1(Scheduler):
    """The scheduler of vLLM's V1 engine.

    Every step has ``max_num_batched_tokens`` to spend: one for each decoding sequence, then
    prompts already begun, then new ones, first come first served. A new prompt is admitted
    only when all of it fits in the free blocks (there is no watermark), and only in a step
    that preempted nobody. When decoding runs out of blocks, the request that was admitted
    last gives its own up and is computed again later.
    """

    name = "vllm-v1"
    mimics = "vLLM 0.33 (V1 scheduler, chunked prefill, full-prompt admission)"

    def plan(self, now: float) -> StepPlan | None:
        """Decode everything, then spend what is left of the budget on prompts."""
        batch = self.batch
        preempted = self._make_room_to_decode()
        prefills: list[tuple[Request, int]] = []
        budget = self.limits.max_num_batched_tokens - batch.sequences
        if self.prefilling:
            budget, preempted = self._continue_prefills(prefills, budget, preempted)
        if self.waiting and not preempted:
            self._admit(prefills, budget, now)
        if prefills or self.moved_tokens:
            return StepPlan(prefills, True, 1, self._take_moved_tokens())
        if not batch.sequences:
            return None
        limit = batch.steps_to_change()
        return StepPlan(prefills, True, self.allocator.decode_steps(batch, limit))

    def _chunk(self, tokens: int, budget: int) -> int:
        """Tokens of a prompt that this step computes."""
        threshold = self.limits.long_prefill_token_threshold
        return min(tokens, budget, threshold) if threshold else min(tokens, budget)

    def _continue_prefills(
        self, prefills: list[tuple[Request, int]], budget: int, preempted: bool
    ) -> tuple[int, bool]:
        """Give each prompt already begun its next chunk, preempting newer requests for it."""
        for request in list(self.prefilling):
            if request not in self.prefilling:
                continue  # it was preempted for an older one
            tokens = self._chunk(request.prefill_tokens - request.computed_tokens, budget)
            if tokens <= 0:
                break
            while not self._extend(request, request.computed_tokens + tokens):
                preempted = True
                victim = self._victim()
                self._preempt(victim)
                if victim is request:
                    break
            else:
                prefills.append((request, tokens))
                budget -= tokens
        return budget, preempted

    def _extend(self, request: Request, tokens: int) -> bool:
        """Grow a prompt, leaving the blocks that this step's decodes will open."""
        return self.allocator.extend(request, tokens, spare_blocks=self.batch.opening)

    def _spare_blocks(self) -> int:
        """Blocks that an admission must leave: those that this step's decodes open."""
        return self.batch.opening

    def _admit(self, prefills: list[tuple[Request, int]], budget: int, now: float) -> None:
        """Admit from the head of the queue while slots, budget and blocks last."""
        while budget > 0 and self._has_slot():
            request = self.waiting.head()
            if request.swapped:
                if not self._resume(request, now):
                    break
                budget -= request.samples
                continue
            chunk = self._chunk(request.prefill_tokens, budget)
            cached = self.allocator.admit(request, chunk, spare_blocks=self._spare_blocks())
            if cached is None:
                break
            self._start(request, cached, now)
            tokens = min(chunk, request.prefill_tokens - cached)
            self.prefilling[request] = None
            prefills.append((request, tokens))
            budget -= tokens
