"""Whether prefixes are cached: as the scenario says, else as the engine does, where modelled.

::

    said                                    cached
    memory.allocator, or the engine's flag  as it says; refused where it is not modelled
    nothing                                 by vLLM's V1 scheduler and SGLang's where their engine
                                            does so by default, if it is modelled for what is asked
"""

from __future__ import annotations

from kvsim.engines.vllm.rules import NEWEST, Rules
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.planning.sizing import Sizing
from kvsim.simulator.allocators.prefix import hybrid_error
from kvsim.simulator.scenario import Scenario
from kvsim.simulator.schedulers import SCHEDULERS
from kvsim.simulator.schedulers.sglang import SGLang
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

__all__ = ["caches_prefixes", "refusal", "rules_of", "says_caching"]

_OWN = {"vllm": VLLMv1, "sglang": SGLang}  # the schedulers that stand for an engine's own
_PAGED = "set memory.allocator to paged"


def caches_prefixes(scenario: Scenario, sizing: Sizing) -> bool:
    """Whether a simulation of the scenario caches prefixes."""
    if says_caching(scenario):
        return scenario.memory.caches_prefixes
    is_own = SCHEDULERS.find(str(scenario.scheduler.policy)) is _OWN.get(sizing.engine.name)
    does_so = bool(sizing.deployment.options.enable_prefix_caching)
    return is_own and does_so and refusal(scenario, sizing) is None


def says_caching(scenario: Scenario) -> bool:
    """Whether the scenario says if prefixes are cached, by either of its keys."""
    said = scenario.memory.model_fields_set
    return "allocator" in said or scenario.engine.enable_prefix_caching is not None


def rules_of(sizing: Sizing) -> Rules:
    """Those of vLLM's release; where another engine is served by its scheduler, the newest."""
    engine = sizing.engine
    return Rules.of(engine.version if engine.name == "vllm" else NEWEST)


def refusal(scenario: Scenario, sizing: Sizing) -> InputError | None:
    """Why prefixes cannot be cached in what a scenario asks for, if so."""
    pools = sizing.pools
    windowed = any(group.growth.window is not None for group in pools.main.groups)
    if not windowed:
        return None if len(pools.pools) == 1 and pools.main.is_plain else hybrid_error()
    has_states = any(cache.fixed_bytes() for _, cache in layer_caches(sizing.deployment.model))
    if has_states and (error := _refusal_of_states(scenario, sizing)):
        return error
    if scenario.memory.eviction != "lru":
        return InputError(
            f"memory.eviction {scenario.memory.eviction}: windows and recurrent states give their"
            " blocks back in vLLM's order",
            fix="set it to lru",
        )
    if scenario.workload.samples > 1:
        return InputError(
            "prefixes of windows and recurrent states are kept for one sample a request",
            fix=f"set workload.samples to 1, or {_PAGED.removeprefix('set ')}",
        )
    return None


def _refusal_of_states(scenario: Scenario, sizing: Sizing) -> InputError | None:
    """The same of recurrent states."""
    growths = [group.growth for group in sizing.pools.main.groups]
    growing = [growth for growth in growths if growth.most_blocks != 0]
    rules = rules_of(sizing)
    if not (rules.value("chunks_end_at_states") and any(each.is_state for each in growing)):
        return hybrid_error()
    sizes = sorted({growth.block_size for growth in growing})
    if len(sizes) > 1:
        return InputError(
            "prefixes of recurrent models are kept in blocks of one size, and these layers have"
            f" {', '.join(map(str, sizes))} tokens",
            fix=_PAGED,
        )
    policy = scenario.scheduler.policy
    if issubclass(SCHEDULERS.find(policy), VLLMv1):
        return None
    return InputError(
        f"{policy} does not end chunks where recurrent states are kept",
        where="scheduler.policy",
        fix=f"set it to vllm-v1, or {_PAGED.removeprefix('set ')}",
    )
