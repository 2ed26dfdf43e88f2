"""Static batching: a batch is formed, runs until its longest member ends, and leaves whole."""

from __future__ import annotations

from kvsim.errors import InvariantError
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.orca import Orca
from kvsim.simulator.schedulers.queues import importance
from kvsim.simulator.schedulers.steps import StepPlan

__all__ = ["Static"]


class Static(Orca):
    """What serving looked like before continuous batching (FasterTransformer, 2021).

    Nobody joins a running batch. A member that has produced its last token computes nothing
    more, but keeps its slot and its memory, and its answer, until the whole batch is done.
    """

    mimics = "FasterTransformer 5 (request-level batching)"
    keeps_batch_closed = True

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._ended: dict[Request, None] = {}

    def schedule(self, now: float) -> StepPlan | None:
        """As Orca; when all who still worked gave way, the batch is over, in no time."""
        plan = super().schedule(now)
        return StepPlan([], False) if plan is None and self._ended else plan

    def finish(self, plan: StepPlan, steps: int, now: float) -> list[Request]:
        """Hold finished members back until nobody of the batch is left."""
        super().finish(plan, steps, now)
        if self.prefilling or self.batch.sequences:
            return []
        done, self._ended = list(self._ended), {}
        for request in done:
            super()._complete(request, now)
        return done

    def cached_tokens_in_all(self) -> int:
        """Members that have ended still hold theirs."""
        ended = sum(request.computed_tokens * request.samples for request in self._ended)
        return super().cached_tokens_in_all() + ended

    def filled_slots(self) -> int:
        """What members that have ended have filled stays filled."""
        slots_of = self.batch.slots_of
        ended = sum(slots_of(request.computed_tokens) * request.samples for request in self._ended)
        return super().filled_slots() + ended

    def shared_slots(self) -> int:
        """Samples of members that have ended share on."""
        return super().shared_slots() + sum(map(self.batch.shared_slots_of, self._ended))

    def check(self) -> None:
        """As the base, with the members that wait for the batch to end counted in."""
        working = len(self.prefilling) + len(self.batch.members)
        if len(self.running) != working + len(self._ended):
            raise InvariantError("a member of the batch is counted twice or not at all")
        self._check_memory()

    def _admit(self, now: float) -> list[tuple[Request, int]]:
        """Form a batch only when the last one is gone."""
        return [] if self.running else super()._admit(now)

    def _complete(self, request: Request, now: float) -> None:
        """Keep a finished member until the batch is done."""
        self._ended[request] = None

    def _victim(self) -> Request:
        """The newest member that still decodes; under priorities the least important."""
        if self._by_importance:
            return max(self.batch.members, key=importance)
        return next(reversed(self.batch.members))
