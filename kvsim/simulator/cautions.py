"""What a reader of a run must know before its numbers: pools that were stated, keys that are idle.

A key is idle when nothing that the run reads depends on it: an eviction order where nothing is
evicted, a share of the card's memory beside a pool of a stated size. Of policies that others have
added nothing is said: only they know what they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kvsim.planning.idle_options import idle_options
from kvsim.planning.sizing import Sizing, size
from kvsim.simulator.allocators import ALLOCATORS
from kvsim.simulator.allocators.grow import Grow
from kvsim.simulator.allocators.no_cache import NoCache
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.allocators.reserve import Reserve
from kvsim.simulator.allocators.virtual import Virtual
from kvsim.simulator.schedulers import SCHEDULERS
from kvsim.simulator.schedulers.sarathi import Sarathi
from kvsim.simulator.schedulers.sglang import SGLang
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1
from kvsim.steptime.model import StepTimeModel

if TYPE_CHECKING:
    from kvsim.simulator.scenario import Scenario
    from kvsim.specs.engine_options import ResolvedOptions

__all__ = ["idle_keys", "overrides_of_the_plan", "stated_pool"]

# What each allocator of ours reads of a scenario's memory.
_READ_BY: dict[type, frozenset[str]] = {
    NoCache: frozenset(),
    Reserve: frozenset({"placement", "compaction"}),
    Grow: frozenset({"placement"}),
    Paged: frozenset(),
    Prefix: frozenset({"eviction"}),
    Virtual: frozenset({"page_bytes"}),
}
_LACKS = {
    "eviction": "evicts no prefixes",
    "placement": "places no regions",
    "compaction": "has no regions to slide together",
    "page_bytes": "maps no pages",
}
_OURS = ("first-fit", "best-fit", "buddy")
_NEVER_SHORT = (NoCache, Reserve)  # nobody is preempted: all is held from the admission on
_IN_CHUNKS = (VLLMv1, Sarathi)
_BLIND_TO_PRIORITY = ("fcfs", "shortest-first")

Idle = Iterator[tuple[str, str]]


def overrides_of_the_plan(scenario: Scenario, sizing: Sizing) -> Iterator[str]:
    """Say where what is simulated is not what the plan is about: its pool, one replica of many."""
    yield from stated_pool(scenario, sizing)
    replicas = sizing.deployment.options.data_parallel_size
    if replicas > 1:
        yield (
            f"data_parallel_size = {replicas}: one of {replicas} replicas is simulated, and it gets"
            " every request; divide the rate to give it its share"
        )


def idle_keys(scenario: Scenario, sizing: Sizing) -> Iterator[str]:
    """Say which of the scenario's keys change nothing, and why."""
    for key, why in _idle_keys(scenario, sizing):
        yield f"{scenario.where(key, short=True)} changes nothing: {why}"
    for field in sizing.deployment.model.idle_overrides:
        yield f"the overridden field {field} changes nothing here"


def stated_pool(scenario: Scenario, sizing: Sizing) -> Iterator[str]:
    """Say where the pool that the scenario states is not the plan's, with both numbers."""
    options = sizing.deployment.options
    if not options.pool_is_stated:
        return
    free = sizing.asked.options.model_copy(update={options.pool_key: None})
    planned = size(sizing.engine, replace(sizing.asked, options=free)).capacity.num_blocks
    given = sizing.capacity.num_blocks
    stated = options.num_gpu_blocks_override or given
    if given == stated == planned:
        return
    names = f"{sizing.deployment.model.name} on {sizing.deployment.accelerator.name}"
    where = scenario.where(f"engine.{options.pool_key}", short=True)
    if given != stated:
        yield (
            f"{where} asks for {stated:,} blocks; {sizing.engine.name} takes that for the most, and"
            f" {names} has room for {given:,}"
        )
    else:
        yield (
            f"{where} states a pool of {stated:,} blocks; the plan for {names} gives"
            f" {max(0, planned):,}"
        )


def _idle_keys(scenario: Scenario, sizing: Sizing) -> Idle:
    """Find the keys that change nothing, each with the reason."""
    yield from _idle_flags(scenario, sizing)
    yield from _idle_of_memory(scenario)
    yield from _idle_of_scheduler(scenario, sizing.deployment.options)
    yield from _idle_of_workload(scenario)
    step_time = scenario.step_time
    if step_time.seconds is not None and step_time.kind == "profile":
        yield "step_time.seconds", "step_time.kind is profile"


def _idle_flags(scenario: Scenario, sizing: Sizing) -> Idle:
    """Flags of the engine, by what a run reads of its sizing."""
    for name, why in idle_options(sizing, partial(_read_by_run, scenario)):
        yield f"engine.{name}", why


def _read_by_run(scenario: Scenario, sizing: Sizing) -> object:
    """Everything of a sizing that a run reads."""
    options, deployment = sizing.deployment.options, sizing.deployment
    policy = SCHEDULERS.find(scenario.scheduler.policy)
    counts_tokens = policy.bounds_step_tokens
    profiled = scenario.step_time.kind == "profile"
    return (
        sizing.pools,
        sizing.kv_format,
        sizing.read_curve,
        sizing.capacity.logged_tokens,
        options.max_num_seqs,
        options.max_model_len,
        options.max_num_batched_tokens if counts_tokens else None,
        policy.plans_ahead and options.async_scheduling,
        StepTimeModel.from_deployment(deployment, engine=sizing.engine) if profiled else None,
    )


def _idle_of_memory(scenario: Scenario) -> Idle:
    """Parameters of memory policies other than the one that was chosen."""
    memory = scenario.memory
    read = _READ_BY.get(_chosen(scenario))
    for key, lacks in _LACKS.items():
        if read is not None and key not in read and _differs(memory, key):
            yield f"memory.{key}", f"the allocator {memory.allocator} {lacks}"
    if memory.allocator == "reserve-max":  # a hole is as good as any other
        longest = scenario.engine.max_model_len or 0
        rounds = memory.placement == "buddy" and longest & (longest - 1)
        if _differs(memory, "placement") and memory.placement in _OURS and not rounds:
            yield "memory.placement", "all regions are equally long"
        if memory.compaction:
            yield "memory.compaction", "all regions are equally long"


def _idle_of_scheduler(scenario: Scenario, options: ResolvedOptions) -> Idle:
    """What no victim, no chunk and no priority ever asks for."""
    spec, workload = scenario.scheduler, scenario.workload
    if spec.preemption == "recompute" and _differs(spec, "host_link_bytes_per_s"):
        yield "scheduler.host_link_bytes_per_s", "scheduler.preemption is recompute"
    if spec.preemption == "swap" and _chosen(scenario) in _NEVER_SHORT:
        allocator = scenario.memory.allocator
        yield "scheduler.preemption", f"under the allocator {allocator} nobody is preempted"
    whole = not SCHEDULERS.find(spec.policy).in_chunks
    threshold, most = spec.long_prefill_token_threshold, options.max_num_batched_tokens
    if threshold and whole:
        yield (
            "scheduler.long_prefill_token_threshold",
            f"the scheduler {spec.policy} computes prompts whole",
        )
    elif threshold and SCHEDULERS.find(spec.policy) is SGLang:
        yield (
            "scheduler.long_prefill_token_threshold",
            f"the scheduler {spec.policy} bounds a chunk by max_num_batched_tokens alone",
        )
    elif threshold >= most and SCHEDULERS.find(spec.policy) in _IN_CHUNKS:
        yield "scheduler.long_prefill_token_threshold", f"a step has at most {most:,} tokens"
    if spec.admission == "priority" and workload.priorities is None and workload.trace is None:
        yield "scheduler.admission", "all requests have the same priority"


def _idle_of_workload(scenario: Scenario) -> Idle:
    """What tells requests apart, where nothing looks at it."""
    workload, admission = scenario.workload, scenario.scheduler.admission
    if workload.priorities is not None and admission in _BLIND_TO_PRIORITY:
        yield "workload.priorities", f"scheduler.admission is {admission}"
    if _chosen(scenario) in _READ_BY.keys() - {Prefix}:
        for key in ("groups", "exponent"):
            if _differs(workload.prefix, key):
                yield f"workload.prefix.{key}", "without prefix caching nothing is shared"
    elif _differs(workload.prefix, "exponent") and not _differs(workload.prefix, "groups"):
        yield "workload.prefix.exponent", "there is one group"


def _chosen(scenario: Scenario) -> Any:
    return ALLOCATORS.find(scenario.memory.allocator)


def _differs(section: Any, key: str) -> bool:
    """Whether a section has a key whose value is not the standard one."""
    field = type(section).model_fields.get(key)
    return field is not None and getattr(section, key) != field.default
