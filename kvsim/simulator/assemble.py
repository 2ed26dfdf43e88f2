"""The living parts of a replica, each chosen by one word of the scenario."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

from kvsim.engines.vllm.rules import NEWEST, Rules
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import BlockCurve, Growth
from kvsim.simulator.allocators import ALLOCATORS, Allocator
from kvsim.simulator.allocators.apart import PagedApart
from kvsim.simulator.allocators.grow import Grow, caching_allocator_slots
from kvsim.simulator.allocators.no_cache import NoCache
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.allocators.radix import Radix
from kvsim.simulator.allocators.reserve import RESERVATIONS, Reservation, Reserve
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.allocators.virtual import Virtual, tokens_per_page
from kvsim.simulator.batch import decode_batch
from kvsim.simulator.blame import blaming
from kvsim.simulator.caching import refusal, rules_of
from kvsim.simulator.clock import RecomputeClock, StepClock
from kvsim.simulator.prepare import Setup
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.schedulers import Scheduler, SchedulerLimits
from kvsim.simulator.schedulers.sglang import SGLang
from kvsim.simulator.schedulers.vllm_settings import release_limits
from kvsim.steptime.kv_reads import attended_layers, prefill_pairs
from kvsim.units import ceil_div

__all__ = ["make_clock", "make_scheduler"]


def _virtual(setup: Setup) -> Allocator:
    tokens = tokens_per_page(setup.scenario.memory.page_bytes, _tensor_token_bytes(setup))
    pages = ceil_div(setup.curve.fixed, tokens)
    return Virtual(setup.pool_slots // tokens, BlockCurve(tokens, fixed=pages))


def _grow(setup: Setup) -> Allocator:
    rounding = partial(caching_allocator_slots, tensor_token_bytes=_tensor_token_bytes(setup))
    fixed, placement = setup.curve.fixed, setup.scenario.memory.placement

    @cache
    def slots_of(tokens: int) -> int:
        return fixed + rounding(tokens)

    return Grow(setup.pool_slots, slots_of, placement=placement)


def _paged(setup: Setup) -> Allocator:
    pools = setup.pools
    if _moves_on(setup) and setup.scenario.workload.samples == 1:
        return _tables(setup, caching=False)
    if len(pools.pools) == 1:
        return Paged(setup.num_blocks, setup.curve)
    weighed = zip(pools, pools.slot_weights, strict=True)
    return PagedApart([(pool.given_blocks, pool.curve, weight) for pool, weight in weighed])


def _moves_on(setup: Setup) -> bool:
    """Whether windows give blocks back while a request runs."""
    return any(growth.window is not None for growth in _growths(setup))


def _growths(setup: Setup) -> tuple[Growth, ...]:
    """Groups of the first pool."""
    return tuple(group.growth for group in setup.pools.main.groups)


def _prefix(setup: Setup) -> Allocator:
    if error := refusal(setup.scenario, setup.sizing):
        raise error
    if _moves_on(setup):
        return _tables(setup, caching=True)
    eviction = setup.scenario.memory.eviction
    if issubclass(setup.scheduler, SGLang):
        return Radix(setup.num_blocks, setup.curve, eviction)
    if eviction == "lru":
        first = rules_of(setup.sizing).value("nameless_blocks_first")
        return PrefixRuns(setup.num_blocks, setup.curve, nameless_first=first)
    return Prefix(setup.num_blocks, setup.curve, eviction)


def _tables(setup: Setup, *, caching: bool) -> Allocator:
    rules = rules_of(setup.sizing)
    return BlockTables(
        setup.num_blocks,
        _growths(setup),
        caching=caching,
        retention_interval=rules.value("prefix_cache_retention_interval"),
        nameless_first=rules.value("nameless_blocks_first"),
        waits=rules.value("in_flight_batches"),
    )


def _reserve(setup: Setup) -> Allocator:
    memory = setup.scenario.memory
    return Reserve(
        setup.pool_slots,
        setup.deployment.options.max_model_len,
        _beside(setup.curve.fixed, RESERVATIONS.find(memory.allocator)),
        placement=memory.placement,
        compaction=memory.compaction,
    )


def _beside(fixed: int, reservation: Reservation) -> Reservation:
    """Reserve for what a sequence takes whatever its length, too."""
    return lambda request, most: fixed + reservation(request, most)


_BUILT_IN: dict[type[Allocator], Callable[[Setup], Allocator]] = {
    NoCache: lambda setup: NoCache(setup.pool_slots),
    Reserve: _reserve,
    Grow: _grow,
    Paged: _paged,
    Prefix: _prefix,
    Virtual: _virtual,
}


def _make_allocator(setup: Setup) -> Allocator:
    """Make the memory: the built-in ones here, all others by their own `from_setup`."""
    policy: Any = ALLOCATORS.find(setup.scenario.memory.allocator)
    make = _BUILT_IN.get(policy)
    allocator: Allocator = make(setup) if make else policy.from_setup(setup)
    apart = [pool.name for pool in setup.pools]
    if len(allocator.growths) != len(apart) and policy is not NoCache:
        raise InputError(
            f"{policy.__name__} hands out one pool, and {setup.sizing.engine.name} keeps"
            f" {len(apart)} apart: {', '.join(apart)}",
            where="allocator",
            fix="derive it from PagedApart, or set contiguous = True to get all bytes as one pool",
        )
    return allocator


def make_scheduler(setup: Setup, recorder: Recorder) -> Scheduler:
    """Make a replica's scheduler, with its memory and its batch."""
    scenario, options = setup.scenario, setup.deployment.options
    with blaming(scenario, "memory.allocator"):
        allocator = _make_allocator(setup)
    reads, rules = setup.sizing.read_curve, rules_of(setup.sizing)
    limits = SchedulerLimits(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        long_prefill_token_threshold=scenario.scheduler.long_prefill_token_threshold,
        admission=scenario.scheduler.admission,
        preemption=scenario.scheduler.preemption,
        async_scheduling=options.async_scheduling,
        **release_limits(rules),
    )
    batch = decode_batch(allocator.growths, reads)
    with blaming(scenario, "scheduler.policy"):
        _refuse_flags(setup, rules)
        return setup.scheduler(limits, allocator, batch, recorder)


def _refuse_flags(setup: Setup, rules: Rules) -> None:
    """Refuse parameters of the scheduler that are flags of another release."""
    has, known = rules.value("scheduler_flags"), Rules.of(NEWEST).value("scheduler_flags")
    for name in setup.scenario.scheduler.policy.parameters:
        if name in known and name not in has:
            first = rules.first("scheduler_flags", name)
            raise InputError(
                f"vLLM {rules.said} has no {name}",
                fix=f"leave it out, or choose release {first} or newer",
            )


def make_clock(setup: Setup) -> StepClock:
    """Make a replica's clock."""
    clock = RecomputeClock if setup.scenario.memory.allocator == "none" else StepClock
    bandwidth = setup.deployment.accelerator.bandwidth_bytes_per_s
    return clock(
        setup.step_time,
        _pairs(setup),
        link_seconds_per_token=setup.token_bytes / setup.scenario.scheduler.host_link_bytes_per_s,
        copy_seconds_per_token=2 * setup.token_bytes / bandwidth,
    )


def _tensor_token_bytes(setup: Setup) -> int:
    """Bytes of one token in one tensor: K of one layer, on one rank."""
    layers = sum(count for count, cache in layer_caches(setup.deployment.model) if cache.states(1))
    return max(1, setup.token_bytes // (2 * layers))


def _pairs(setup: Setup) -> Callable[[int, int], float]:
    """Query-key pairs of a prefill chunk; remembered where a mean of layers makes them costly."""
    model = setup.deployment.model
    attending = {cache for _, cache in attended_layers(model) if cache.pair_flops}
    if len(attending) == 1:
        return attending.pop().pairs
    return lru_cache(maxsize=1 << 16)(partial(prefill_pairs, model))
