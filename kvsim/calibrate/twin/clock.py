"""The real clock: what a planned step takes is found out by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvsim.calibrate.twin.engine import TwinEngine
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.clock import StepClock
from kvsim.simulator.schedulers import StepPlan
from kvsim.steptime.model import ConstantStepTime, StepLoad

__all__ = ["StepSample", "WallClock"]

Pairs = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class StepSample:
    """A step that was run: what it had to do, and how long it took."""

    load: StepLoad
    seconds: float


class WallClock(StepClock):
    """Runs each step in torch and answers with its seconds, from the end of the last one.

    So the scheduler's own time counts, as in any engine. Where nothing is to be done the
    replica skips to the next arrival instead of sleeping: the device is kept warm, and only
    idle time differs from the wall's.

    Parameters
    ----------
    engine : TwinEngine
        Runs the plans.
    pairs : callable
        ``pairs(start, count)``: query-key pairs of a prompt chunk, per layer.
    now : callable
        Seconds, the device's work included.

    Attributes
    ----------
    samples : list of StepSample
        Every step, in order.
    """

    def __init__(self, engine: TwinEngine, pairs: Pairs, now: Callable[[], float]) -> None:
        super().__init__(ConstantStepTime(1.0), pairs)
        self.samples: list[StepSample] = []
        self._engine = engine
        self._now = now
        self._mark = now()

    def mixed_seconds(self, plan: StepPlan, batch: DecodeBatch) -> float:
        """Run one step; return its seconds."""
        load = self._load(plan, batch)
        self._engine.step(plan)
        before, self._mark = self._mark, self._now()
        seconds = self._mark - before
        self.samples.append(StepSample(load, seconds))
        return seconds

    def decode_run(
        self, batch: DecodeBatch, limit: int, gap: float, beyond: int = 0
    ) -> tuple[int, float, float]:
        """Run one step of what could be many: reality has no closed form."""
        return 1, self.mixed_seconds(StepPlan([], decodes=True), batch), 0.0

    def _load(self, plan: StepPlan, batch: DecodeBatch) -> StepLoad:
        """What the step has to do, in the terms of the step-time model."""
        decoding = batch.sequences if plan.decodes else 0
        chunks = [(request.computed_tokens, count) for request, count in plan.prefills]
        return StepLoad(
            tokens=decoding + sum(count for _, count in chunks),
            sequences=decoding + len(chunks),
            kv_read_bytes=batch.kv_bytes if decoding else 0,
            prefill_pairs=sum(self._pairs(start, count) for start, count in chunks),
        )
