"""Schedulers: who runs in the next step, one small file each."""

from __future__ import annotations

from kvsim.errors import UnknownNameError
from kvsim.schedulers.base import Scheduler, SchedulerLimits, StepPlan
from kvsim.schedulers.orca import Orca
from kvsim.schedulers.sarathi import Sarathi
from kvsim.schedulers.static import Static
from kvsim.schedulers.vllm_v0 import VLLMv0
from kvsim.schedulers.vllm_v1 import VLLMv1

__all__ = ["SCHEDULERS", "Scheduler", "SchedulerLimits", "StepPlan", "scheduler_class"]

SCHEDULERS: dict[str, type[Scheduler]] = {
    cls.name: cls for cls in (VLLMv1, VLLMv0, Orca, Static, Sarathi)
}


def scheduler_class(name: str) -> type[Scheduler]:
    """Find a scheduler by name.

    Raises
    ------
    UnknownNameError
        When no scheduler has that name.
    """
    if name not in SCHEDULERS:
        raise UnknownNameError("scheduler", name, SCHEDULERS)
    return SCHEDULERS[name]
