"""The independent stepping engine of `tests.oracle`, in the worlds that it understands."""

from __future__ import annotations

from functools import partial

from kvsim.engines.vllm.rules import Rules
from kvsim.simulator.allocators.grow import caching_allocator_slots
from kvsim.simulator.allocators.virtual import tokens_per_page
from kvsim.simulator.assemble import _tensor_token_bytes
from kvsim.simulator.prepare import Setup
from kvsim.simulator.replica import Replica
from kvsim.steptime.kv_reads import prefill_pairs
from tests import oracle
from tests.soak.checkers import LawError
from tests.soak.policies import NAMES
from tests.soak.runs import workload_of
from tests.support.compared import compare_requests, compare_steps
from tests.support.memories import RESERVATIONS, plain_memory
from tests.support.parts import Log

__all__ = ["agree", "understands"]

_OF_OTHERS = {name for policies in NAMES.values() for name in policies}


def understands(setup: Setup) -> bool:
    """Whether the oracle knows all that this world is made of.

    It knows no policy that somebody registered, and no contiguous memory beside fixed states.
    """
    memory, scheduler = setup.scenario.memory, setup.scenario.scheduler
    asked = {str(name) for name in (memory.allocator, scheduler.policy, scheduler.admission)}
    if memory.allocator == "prefix":
        asked.add(str(memory.eviction))
    if _is_contiguous(setup):
        asked.add(str(memory.placement))
    if asked & _OF_OTHERS or {"sglang", "prefix"} <= asked:  # its radix cache: tests.engine_oracle
        return False
    if "scheduler_recv_interval" in scheduler.policy.parameters:
        return False
    windows = any(group.growth.window for group in setup.pools.main.groups)
    if windows and memory.allocator == "prefix":  # tests.engine_oracle
        return False
    whole = memory.allocator in ("paged", "prefix", "none")
    return whole or not setup.curve.fixed


def _watermark(setup: Setup, replica: Replica) -> int:
    """Blocks that an admission leaves: by the flag, of all with the null block, or by the class."""
    blocks = replica.scheduler.allocator.total_blocks
    told = setup.scenario.scheduler.policy.parameters.get("watermark")
    return int(told * (blocks + 1)) if told else int(replica.scheduler.watermark * blocks)


def _is_contiguous(setup: Setup) -> bool:
    return setup.scenario.memory.allocator in ("grow", *RESERVATIONS)


def _memory(setup: Setup, unknown: int) -> oracle.Memory:
    memory, slots, engine = setup.scenario.memory, setup.pool_slots, setup.sizing.engine
    name = str(memory.allocator)
    if name == "none":
        return oracle.Nothing()
    if name == "prefix":
        size = setup.curve.block_size
        if memory.eviction == "lru":
            return oracle.NamedBlocks(setup.num_blocks, size, unknown)
        return oracle.SharedBlocks(setup.num_blocks, size, str(memory.eviction))
    if name == "virtual":
        tokens = tokens_per_page(memory.page_bytes, _tensor_token_bytes(setup))
        return oracle.Blocks(slots // tokens, [oracle.Group(tokens)])
    if name == "grow":
        rounding = partial(caching_allocator_slots, tensor_token_bytes=_tensor_token_bytes(setup))
        return oracle.Growing(slots, rounding, str(memory.placement))
    if name in RESERVATIONS:
        length, most = RESERVATIONS[name][1], setup.deployment.options.max_model_len
        return oracle.Reserved(
            slots,
            lambda job: job.samples * length(job, most),
            str(memory.placement),
            compaction=memory.compaction,
        )
    return plain_memory(
        setup.pools,
        moves=setup.scenario.workload.samples == 1,
        waits=engine.name != "vllm" or Rules.of(engine.version).value("in_flight_batches"),
    )


def agree(setup: Setup, log: Log, replica: Replica) -> None:
    """Take every step of the world, and compare all that both wrote down."""
    bounds, scheduler = replica.scheduler.limits, replica.scheduler
    limits = oracle.Limits(
        bounds.max_num_seqs,
        bounds.max_num_batched_tokens,
        bounds.max_model_len,
        bounds.long_prefill_token_threshold,
        bounds.waives_threshold,
        scheduler.is_async,
        str(bounds.admission),
        bounds.preemption == "swap",
        _watermark(setup, replica),
    )
    link = setup.scenario.scheduler.host_link_bytes_per_s
    costs = oracle.Costs(
        setup.step_time,
        partial(prefill_pairs, setup.deployment.model),
        scheduler.batch.reads.bytes_at,
        setup.token_bytes / link,
        2 * setup.token_bytes / setup.deployment.accelerator.bandwidth_bytes_per_s,
        setup.scenario.memory.allocator == "none",
    )
    make = oracle.ENGINES[str(setup.scenario.scheduler.policy)]
    transit = setup.step_time.front_end.transit_seconds
    arrivals = oracle.Arrivals(workload_of(setup), setup.scenario.run.seed, transit)
    engine = make(_memory(setup, int(scheduler.is_async)), limits, costs, arrivals).run()
    try:
        compare_requests(log, engine)
        compare_steps(log, engine)
    except AssertionError as other:
        raise LawError(f"the stepping engine disagrees: {other}") from None
