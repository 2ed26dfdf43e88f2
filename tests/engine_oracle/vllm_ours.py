"""The same case through kvsim's ``vllm-v1`` scheduler."""

from __future__ import annotations

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

from .product import LONGEST, serve, watched
from .seen import Seen
from .vllm_cases import Case

__all__ = ["run"]

_POLICY = watched(VLLMv1)


def run(case: Case) -> Seen:
    """Serve a case's requests with the product's scheduler."""
    limits = SchedulerLimits(
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_model_len=LONGEST,
        long_prefill_token_threshold=case.threshold,
        admission=case.policy,
        async_scheduling=case.asynchronous,
    )
    return serve(
        case,
        _POLICY,
        _memory(case),
        limits,
        watermark=case.watermark,
        max_num_active_seqs=case.active,
        long_prefill_token_threshold_adaptive=case.adaptive and case.threshold > 0,
        prefill_schedule_interval=case.interval,
        scheduler_reserve_full_isl=case.reserve_full,
    )


def _memory(case: Case) -> Allocator:
    """Plain attention has a policy of its own; see `kvsim.simulator.assemble`."""
    if any(growth.window for growth in case.growths):
        return BlockTables(
            case.blocks,
            case.growths,
            caching=case.caching,
            retention_interval=case.retention_interval,
        )
    return (PrefixRuns if case.caching else Paged)(case.blocks, BlockCurve(case.block_size))
