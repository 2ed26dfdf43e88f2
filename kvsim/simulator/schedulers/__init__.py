"""Schedulers: who runs in the next step, one small file each."""

from __future__ import annotations

from kvsim.registry import Policies
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.orca import Orca
from kvsim.simulator.schedulers.sarathi import Sarathi
from kvsim.simulator.schedulers.sglang import SGLang
from kvsim.simulator.schedulers.static import Static
from kvsim.simulator.schedulers.steps import SchedulerLimits, StepPlan
from kvsim.simulator.schedulers.vllm_v0 import VLLMv0
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

__all__ = ["SCHEDULERS", "Scheduler", "SchedulerLimits", "StepPlan"]

SCHEDULERS: Policies[Scheduler] = Policies(
    "scheduler",
    "kvsim.schedulers",
    Scheduler,
    {
        "vllm-v1": VLLMv1,
        "vllm-v0": VLLMv0,
        "sglang": SGLang,
        "orca": Orca,
        "static": Static,
        "sarathi": Sarathi,
    },
    arguments=4,
)
