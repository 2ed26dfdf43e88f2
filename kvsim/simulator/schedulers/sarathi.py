"""Sarathi-Serve: stall-free batching, chunked prefill under a token budget, a watermark."""

from __future__ import annotations

from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.schedulers.steps import SchedulerLimits
from kvsim.simulator.schedulers.vllm_v0 import VLLMv0
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

__all__ = ["Sarathi"]


class Sarathi(VLLMv1):
    """Decodes first, then chunks of prompts up to the budget, so that no decode ever stalls.

    vLLM V1 descends from it; what differs here is V0's watermark at admission, which an idle
    engine waives as in V0.
    """

    mimics = "Sarathi-Serve (OSDI 2024), stall-free batching"
    watermark = VLLMv0.watermark
    plans_ahead = False

    def __init__(
        self, limits: SchedulerLimits, allocator: Allocator, batch: DecodeBatch, recorder: Recorder
    ) -> None:
        super().__init__(limits, allocator, batch, recorder)
