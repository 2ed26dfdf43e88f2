"""What vLLM's scheduler can be told beside the limits of a step, and what is refused of it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError
from kvsim.simulator.schedulers.steps import SchedulerLimits

__all__ = ["Pace", "VLLMv1Settings", "release_limits"]


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

    def within(self, limits: SchedulerLimits) -> SchedulerLimits:
        """The limits with what the settings say in place of theirs."""
        if self.max_num_active_seqs is not None:
            limits = replace(limits, max_num_seqs=self.max_num_active_seqs)
        if self.scheduler_reserve_full_isl is not None:
            limits = replace(limits, scheduler_reserve_full_isl=self.scheduler_reserve_full_isl)
        return limits

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


class Pace:
    """How much of a prompt a step computes, and when it computes any.

    Parameters
    ----------
    limits : SchedulerLimits
        What bounds a step.
    settings : VLLMv1Settings
        What the scheduler was told.

    Attributes
    ----------
    last_prefill_step : int
        Number of the step that computed prompts last.
    is_bound_by_capacity : bool
        Whether the last step that was to admit left somebody waiting.
    """

    def __init__(self, limits: SchedulerLimits, settings: VLLMv1Settings) -> None:
        self._limits, self._settings = limits, settings
        self.last_prefill_step = -settings.prefill_schedule_interval
        self.is_bound_by_capacity = False

    def longest_chunk(self, requests: int) -> int:
        """Most tokens of one prompt, among so many requests (0.33.0 scheduler.py:754-768)."""
        limits = self._limits
        most, threshold = limits.max_num_batched_tokens, limits.long_prefill_token_threshold
        if not threshold or (requests <= 1 and limits.waives_threshold):
            return most
        if self._settings.long_prefill_token_threshold_adaptive:
            threshold = max(threshold, most // requests)
        return threshold

    def steps_held_back(self, steps_taken: int) -> int:
        """Steps for which prompts are held back, so that decodes go on undisturbed.

        `prefill_schedule_interval`: not when the last release left somebody waiting
        (0.33.0 scheduler.py:770-792).
        """
        interval = self._settings.prefill_schedule_interval
        if interval == 1 or self.is_bound_by_capacity:
            return 0
        return max(0, self.last_prefill_step + interval - steps_taken - 1)
