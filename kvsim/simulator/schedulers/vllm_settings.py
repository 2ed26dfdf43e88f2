"""What vLLM's scheduler can be told beside the limits of a step, and what is refused of it."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError
from kvsim.simulator.schedulers.steps import SchedulerLimits

__all__ = ["VLLMv1Settings", "release_limits"]


def release_limits(rules: Rules) -> dict[str, bool]:
    """Limits of `SchedulerLimits` that a release sets, where no flag does."""
    return {
        "waives_threshold": rules.value("waives_threshold"),
        "scheduler_reserve_full_isl": rules.value("reserves_full_prompt"),
        "goes_on_after_own_preemption": rules.value("goes_on_after_own_preemption"),
        "skips_behind_idle_victims": rules.value("skips_behind_idle_victims"),
    }


class VLLMv1Settings(NamedTuple):
    """The parameters of `VLLMv1`, by the engine's names."""

    watermark: float
    max_num_active_seqs: int | None
    long_prefill_token_threshold_adaptive: bool
    prefill_schedule_interval: int
    scheduler_reserve_full_isl: bool | None

    def check(self, limits: SchedulerLimits) -> None:
        """Refuse what ``SchedulerConfig`` refuses.

        Raises
        ------
        InputError
            With the name, the value and what it should be.
        """
        for name, what in self._wrong(limits):
            raise InputError(f"{name} = {getattr(self, name)!r:.60} should be {what}")
        if self.long_prefill_token_threshold_adaptive and not limits.long_prefill_token_threshold:
            raise InputError(
                "long_prefill_token_threshold_adaptive raises a threshold, and there is none",
                fix="set scheduler.long_prefill_token_threshold",
            )

    def _wrong(self, limits: SchedulerLimits) -> list[tuple[str, str]]:
        """Names of wrong values, with what they should be."""
        wrong = []
        if type(self.watermark) not in (int, float) or not 0 <= self.watermark < 1:
            wrong.append(("watermark", "a number from 0 to below 1"))
        seats, most = self.max_num_active_seqs, limits.max_num_seqs
        if seats is not None and (type(seats) is not int or not 1 <= seats <= most):
            wrong.append(("max_num_active_seqs", f"a whole number from 1 to {most}, max_num_seqs"))
        interval = self.prefill_schedule_interval
        if type(interval) is not int or interval < 1:
            wrong.append(("prefill_schedule_interval", "a whole number of at least 1"))
        if type(self.long_prefill_token_threshold_adaptive) is not bool:
            wrong.append(("long_prefill_token_threshold_adaptive", "true or false"))
        if type(self.scheduler_reserve_full_isl) not in (bool, type(None)):
            wrong.append(("scheduler_reserve_full_isl", "true or false"))
        return wrong
