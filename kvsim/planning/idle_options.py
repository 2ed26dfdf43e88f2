"""Flags that were stated and change nothing, found by leaving each of them out.

::

    as stated        ──size──▶ sizing ──reads──▶ what the answer is made of
    less one flag    ──size──▶ sizing ──reads──▶ the same? then the flag is idle

A flag that says what the engine would do anyway is not idle: it has its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from kvsim.errors import KVSimError
from kvsim.planning.sizing import Sizing, size
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import MoeMlp
from kvsim.steptime.model import StepTimeModel

__all__ = ["idle_options", "read_by_plan"]

Reads = Callable[[Sizing], object]

# A replica is planned and simulated alone, and both say so; a config is overridden before it is
# read, and the model says which of its fields were idle.
_CEILINGS = {"kv_cache_memory_bytes", "max_total_tokens", "num_gpu_blocks_override"}
_NAMED_ELSEWHERE = {
    "data_parallel_size",
    "enable_prefix_caching",
    "hf_overrides",
    "rope_scaling",
}


def read_by_plan(sizing: Sizing) -> object:
    """Everything that a plan's numbers are made of.

    What the engine may use is no part of it where the KV cache has a stated size.
    """
    budget = sizing.budget
    if sizing.deployment.options.kv_cache_memory_bytes == budget.kv_cache_bytes:
        budget = replace(budget, budget_bytes=0)
    return (
        budget,
        sizing.capacity,
        sizing.deployment.options.max_num_seqs,
        sizing.deployment.kv_format,
        StepTimeModel.from_deployment(sizing.deployment, engine=sizing.engine),
    )


def idle_options(sizing: Sizing, reads: Reads = read_by_plan) -> Iterator[tuple[str, str]]:
    """Find the stated flags that change nothing, each with the reason.

    Parameters
    ----------
    sizing : Sizing
        The deployment as it was stated.
    reads : callable
        ``reads(sizing)``: what the answer is made of, comparable.

    Yields
    ------
    (str, str)
        The flag's field, and why it is idle.
    """
    standard = defaults(EngineOptions)
    stated = [name for name, value in sizing.asked.options if value != standard[name]]
    for name in stated:
        if name not in _NAMED_ELSEWHERE and _is_idle(sizing, name, reads):
            yield name, _reason(sizing, name, stated, reads)


def _is_idle(sizing: Sizing, name: str, reads: Reads) -> bool:
    """Whether the answer is the same without a flag, although the engine would do otherwise."""
    other = _without(sizing, name)
    if other is None:
        return False  # it cannot be left out
    ours, theirs = sizing.deployment.options, other.deployment.options
    return getattr(ours, name) != getattr(theirs, name) and reads(sizing) == reads(other)


def _without(sizing: Sizing, *names: str) -> Sizing | None:
    """The same deployment less some flags; None where the engine refuses that."""
    standard = defaults(EngineOptions)
    update = {name: standard[name] for name in names}
    options = sizing.asked.options.model_copy(update=update)
    try:
        return size(sizing.engine, replace(sizing.asked, options=options))
    except KVSimError:
        return None


def _reason(sizing: Sizing, name: str, stated: list[str], reads: Reads) -> str:
    """Name the other flag that decides in its place, or what it would need."""
    others = [other for other in stated if other != name]
    for left_out in (*([other] for other in others), others):
        freed = _without(sizing, *left_out)
        if left_out and freed is not None and not _is_idle(freed, name, reads):
            said = left_out[0] if len(left_out) == 1 else "other flags"
            return f"{said} {'decides' if len(left_out) == 1 else 'decide'} in its place"
    return _needs(sizing, name)


def _needs(sizing: Sizing, name: str) -> str:
    """Say what a flag that nothing else overrides would need."""
    if name in _CEILINGS:
        return f"{sizing.engine.name} takes it for the most, and there is room for less"
    if name != "enable_expert_parallel":
        return "nothing here depends on it"
    if not any(isinstance(group.mlp, MoeMlp) for group in sizing.deployment.model.layer_groups):
        return "the model has no experts"
    return "a rank holds as many bytes of experts without it"
