"""Orca: iteration-level batching, whole prompts beside decodes, no token budget."""

from __future__ import annotations

from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.steps import StepPlan

__all__ = ["Orca"]


class Orca(Scheduler):
    """Requests join and leave at every iteration, first come first served.

    An iteration computes the whole prompts of those that just joined together with one token
    of everybody else (selective batching). Memory is allocated at admission; with an allocator
    that grows, the request admitted last gives way.
    """

    mimics = "Orca (OSDI 2022), iteration-level scheduling with selective batching"
    bounds_step_tokens = in_chunks = False

    def schedule(self, now: float) -> StepPlan | None:
        """Admit whoever fits, and decode everybody."""
        preempted = self._make_room_to_decode()
        prefills = [] if preempted and self.running else self._admit(now)
        if prefills or self.moved_tokens:
            return self._compute(prefills, decodes=True)
        return self._decode(int(preempted))

    def _admit(self, now: float) -> list[tuple[Request, int]]:
        """Admit whole prompts from the head of the queue while slots and memory last."""
        prefills: list[tuple[Request, int]] = []
        while self._has_slot():
            request = self.waiting.head()
            if request.swapped:
                if not self._resume(request, self.batch.opening):
                    break
                continue
            spare = self.batch.opening
            cached = self.allocator.allocate(request, request.prefill_tokens, spare_blocks=spare)
            if cached is None:
                break
            self._start(request, cached, now)
            self.prefilling[request] = None
            prefills.append((request, request.prefill_tokens - cached))
        return prefills
