"""vLLM V1: one token budget, running requests first, chunked prefill, last-in recompute."""

from __future__ import annotations

from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler, StepPlan, importance

__all__ = ["VLLMv1"]


class VLLMv1(Scheduler):
    """The scheduler of vLLM's V1 engine.

    Every step has ``max_num_batched_tokens`` to spend: one for each decoding sequence, then
    prompts already begun, then new ones, first come first served. A new prompt is admitted
    only when all of it fits in the free blocks (there is no watermark), and only in a step
    that preempted nobody. When blocks run out, the request that was admitted last (under
    priorities, the least important) gives its own up and is computed again later.
    """

    mimics = "vLLM 0.33 (V1 scheduler, chunked prefill, full-prompt admission)"

    def schedule(self, now: float) -> StepPlan | None:
        """Decode everything, then spend what is left of the budget on prompts."""
        preempted = not self.allocator.can_decode(self.batch) and self._make_room_to_decode()
        if not self.waiting and not self.prefilling and not self.moved_tokens:
            return self._decode()
        prefills: list[tuple[Request, int]] = []
        if self.prefilling:
            preempted = self._continue_prefills(prefills) or preempted
        if self.waiting and not (preempted and self.running):
            self._admit(prefills, now)
        if prefills or self.moved_tokens:
            return self._compute(prefills, decodes=True)
        return self._decode(once=preempted)

    def _budget(self, prefills: list[tuple[Request, int]]) -> int:
        """Tokens left to spend on prompts."""
        budget = self.limits.max_num_batched_tokens - self.batch.sequences
        for _, tokens in prefills:
            budget -= tokens
        return budget

    def _continue_prefills(self, prefills: list[tuple[Request, int]]) -> bool:
        """Give each prompt already begun its next chunk; return whether others gave way for it.

        Victims come later in this order, so nobody loses a chunk that was planned.
        """
        preempted = False
        for request in self._begun():
            if request not in self.prefilling:
                continue  # it was preempted for one before it
            rest = request.prefill_tokens - request.computed_tokens
            tokens = min(rest, self._budget(prefills), self._longest_chunk)
            if tokens <= 0:
                break
            fits = self._extend(request, tokens)
            while not fits:
                preempted = True
                victim = self._victim()
                self._preempt(victim)
                if victim is request:
                    break
                fits = self._extend(request, tokens)
            if fits:
                prefills.append((request, tokens))
        return preempted

    def _begun(self) -> list[Request]:
        """Prompts already begun: in the order of admission, or of importance."""
        if self._by_importance:
            return sorted(self.prefilling, key=importance)
        return list(self.prefilling)

    def _extend(self, request: Request, tokens: int) -> bool:
        """Grow a prompt by a chunk, leaving the blocks that this step's decodes will open."""
        end = request.computed_tokens + tokens
        return self.allocator.append_slots(request, end, spare_blocks=self.batch.opening)

    def _admit(self, prefills: list[tuple[Request, int]], now: float) -> None:
        """Admit from the head of the queue while slots, budget and blocks last."""
        waiting, longest, seats = self.waiting, self._longest_chunk, self.limits.max_num_seqs
        budget, opening = self._budget(prefills), self.batch.opening
        beside_others = opening + self._watermark_blocks
        while waiting and budget > 0:
            request = waiting.head()
            if self.running_sequences + request.samples > seats:
                break
            spare = beside_others if self.running else opening
            if request.swapped:
                if not self._resume(request, spare):
                    break
                budget -= request.samples
                beside_others = self.batch.opening + self._watermark_blocks
                continue
            chunk = request.prefill_tokens
            if chunk > budget or chunk > longest:
                chunk = min(budget, longest)
            cached = self.allocator.allocate(request, chunk, spare_blocks=spare)
            if cached is None:
                break
            self._start(request, cached, now)
            tokens = min(chunk, request.prefill_tokens - cached) if cached else chunk
            self.prefilling[request] = None
            prefills.append((request, tokens))
            budget -= tokens
