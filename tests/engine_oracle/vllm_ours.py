"""The same case through kvsim's ``vllm-v1`` scheduler."""

from __future__ import annotations

from kvsim.engines.vllm.rules import Rules
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.simulator.schedulers.vllm_settings import release_limits
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

from .product import LONGEST, serve, watched
from .seen import Seen
from .vllm_cases import Case

__all__ = ["run"]

_POLICY = watched(VLLMv1)


def run(case: Case, rules: Rules) -> Seen:
    """Serve a case's requests with the product's scheduler, by the rules of a release."""
    limits = SchedulerLimits(
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_model_len=LONGEST,
        long_prefill_token_threshold=case.threshold,
        admission=case.policy,
        async_scheduling=case.asynchronous,
        **release_limits(rules),
    )
    return serve(case, _POLICY, _memory(case, rules), limits, **case.flags)


def _memory(case: Case, rules: Rules) -> Allocator:
    """Plain attention has a policy of its own; see `kvsim.simulator.assemble`."""
    first = rules.value("nameless_blocks_first")
    if any(growth.window for growth in case.growths):
        return BlockTables(
            case.blocks,
            case.growths,
            caching=case.caching,
            retention_interval=case.retention_interval,
            nameless_first=first,
            waits=rules.value("in_flight_batches"),
        )
    curve = BlockCurve(case.block_size)
    if not case.caching:
        return Paged(case.blocks, curve)
    return PrefixRuns(case.blocks, curve, nameless_first=first)
