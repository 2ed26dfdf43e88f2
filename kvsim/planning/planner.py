"""Plan: from a model and an accelerator to bytes, blocks and concurrent requests.

::

    names ──find──▶ Deployment ──size──▶ Sizing ──┬─▶ tables (kinds, concurrency, ...)
                                                  ├─▶ decode estimate
                                                  ├─▶ warnings, suggestions
                                                  └─▶ Plan

Closed form and in milliseconds: nothing is simulated and nothing is downloaded unless the
model's name says so (``hf:org/name``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, get_engine
from kvsim.engines.base import (
    Band,
    Capacity,
    Deployment,
    MemoryBudget,
    ResolvedDeployment,
)
from kvsim.errors import InputError, KVSimError, UnsupportedError, few, nearest
from kvsim.memory.growth import Growth
from kvsim.memory.tensors import parameter_count
from kvsim.planning.decode import decode
from kvsim.planning.formula import kv_kinds
from kvsim.planning.notes import alias_warning, warnings
from kvsim.planning.plan_types import (
    AcceleratorFacts,
    CapacityTokens,
    EngineFacts,
    GroupFacts,
    KVCache,
    ModelFacts,
    Parallelism,
    Plan,
    PoolFacts,
    Suggestion,
    part_of,
)
from kvsim.planning.retained import retention_choices
from kvsim.planning.sizing import (
    Sizing,
    concurrency,
    context_lengths,
    contiguous_vs_paged,
    fragmentation,
    overridden,
    size,
)
from kvsim.planning.verdict import verdict
from kvsim.specs.checked import defaults, read
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

__all__ = [
    "EngineComparison",
    "Plan",
    "engine_options",
    "plan",
    "plan_engines",
]

AnyModel: TypeAlias = str | Path | ModelSpec
AnyAccelerator: TypeAlias = str | Path | AcceleratorProfile

# A chat turn with its history; --context-len sets another.
TYPICAL_CONTEXT = 2048

# Larger than any length or size that a device could hold.
ABSURD = 10**15

REGIMES = {
    "admission": "what the engine's start-up check charges a request, and its log states",
    "steady": "what resident sequences really occupy, windows honoured",
    "all_full": "if every growing layer kept every token",
}


def plan(
    model: AnyModel,
    gpu: AnyAccelerator,
    *,
    engine: str = "vllm",
    engine_version: str = "",
    context_len: int | None = None,
    retention: str | Iterable[str] = (),
    suggests: bool = True,
    **options: Any,
) -> Plan:
    """Plan a deployment: what fits on the accelerator, and how many requests that is.

    Parameters
    ----------
    model : str, Path or ModelSpec
        Catalogue name or alias, path of a config or GGUF file, "hf:org/name", or a model.
    gpu : str, Path or AcceleratorProfile
        Catalogue name or alias, path of a YAML profile, or a profile.
    engine, engine_version : str
        Serving engine and release; "" is the newest whose rules are known.
    context_len : int, optional
        Tokens of the sequences that the tables are about: 2,048, or ``max_model_len`` where
        that is less.
    retention : str or iterable of str
        Retention policies to set beside full retention, as "window:4096".
    suggests : bool
        Whether a deployment that does not fit is planned a hundred times more, for what would.
    **options
        Fields of `EngineOptions`, under vLLM's names: ``tensor_parallel_size=2``.

    Returns
    -------
    Plan
        Sizes in bytes of one rank. ``fits`` is False when not one request of
        ``max_model_len`` fits; that is an answer, not an error.

    Raises
    ------
    InputError
        For an unknown name, a bad value, contradictory flags or an impossible sharding.
    UnsupportedError
        For a model whose attention keeps nothing that could be cached.

    Examples
    --------
    >>> from kvsim import plan
    >>> answer = plan("llama2-7b", "a100")
    >>> answer.kv_cache.bytes_per_token
    524288
    """
    chosen = get_engine(engine, engine_version)
    sizing = size(chosen, overridden(_deployment(model, gpu, options), model, chosen))
    return _plan(sizing, gpu, context_len, retention, suggests=suggests)


class EngineComparison(NamedTuple):
    """The same question put to several engines: their plans, and who refused and why."""

    plans: tuple[Plan, ...]
    refused: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plans as JSON-ready values."""
        return {
            "schema_version": "1",
            "plans": [each.to_dict() for each in self.plans],
            "refused": dict(self.refused),
        }


def plan_engines(
    model: AnyModel,
    gpu: AnyAccelerator,
    *,
    engines: Iterable[str] = ENGINE_NAMES,
    context_len: int | None = None,
    retention: str | Iterable[str] = (),
    **options: Any,
) -> EngineComparison:
    """Plan the same deployment under several engines; an engine that cannot says why.

    Raises
    ------
    InputError
        When the model or the accelerator is unknown, or an option no engine could mean.
    UnsupportedError
        When no engine can, with the first reasons.
    """
    deployment = _deployment(model, gpu, options)
    plans: list[Plan] = []
    refused: list[tuple[str, str]] = []
    for name in engines:
        try:
            engine = get_engine(name)
            sizing = size(engine, overridden(deployment, model, engine))
            plans.append(_plan(sizing, gpu, context_len, retention))
        except KVSimError as error:
            refused.append((name, str(error)))
    if not plans:
        raise UnsupportedError(few(f"{name}: {reason}" for name, reason in refused))
    return EngineComparison(tuple(plans), tuple(refused))


def _deployment(model: AnyModel, gpu: AnyAccelerator, options: dict[str, Any]) -> Deployment:
    return Deployment(
        model=model if isinstance(model, ModelSpec) else find_model(model),
        accelerator=gpu if isinstance(gpu, AcceleratorProfile) else find_accelerator(gpu),
        options=engine_options(options),
    )


def engine_options(options: dict[str, Any]) -> EngineOptions:
    """Check engine flags given by name.

    Raises
    ------
    InputError
        For an option that does not exist (with the nearest that do) or a value out of range.
    """
    unknown = sorted(set(options) - set(defaults(EngineOptions)))
    if unknown:
        close = nearest(unknown[0], defaults(EngineOptions))
        fix = f"did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"no engine option {unknown[0]!r}", fix=fix)
    for name, value in options.items():
        if isinstance(value, int) and value > ABSURD:
            raise InputError(f"{value} is absurd", where=name, fix="at most 10**15 is accepted")
    return read(EngineOptions, options)


def _suggestions(sizing: Sizing) -> tuple[Suggestion, ...]:
    if sizing.fits:
        return ()
    from kvsim.planning.suggestions import suggest

    return suggest(sizing)


def _context(asked: int | None, max_model_len: int) -> int:
    if asked is None:
        return min(TYPICAL_CONTEXT, max_model_len)
    if asked < 1:
        raise InputError(f"{asked} tokens are no sequence", where="context_len")
    if asked > max_model_len:
        raise InputError(
            f"{asked:,} tokens exceed max_model_len, {max_model_len:,}",
            where="context_len",
            fix="raise max_model_len or lower context_len",
        )
    return asked


def _plan(
    sizing: Sizing,
    gpu: AnyAccelerator,
    context_len: int | None,
    retention: str | Iterable[str],
    *,
    suggests: bool = True,
) -> Plan:
    engine = sizing.engine
    deployment, budget, capacity = sizing.deployment, sizing.budget, sizing.capacity
    context = _context(context_len, capacity.max_model_len)
    policies = (retention,) if isinstance(retention, str) else retention
    fragments, band = fragmentation(sizing, context), _kv_band(sizing)
    return Plan(
        model=_model_facts(deployment),
        accelerator=part_of(AcceleratorFacts, deployment.accelerator),
        engine=part_of(EngineFacts, engine),
        parallelism=_parallelism(deployment.options),
        options=deployment.options.model_dump(),
        memory=sizing.memory if deployment.options.pool_is_stated else budget,
        kv_band=band,
        kv_cache=_kv_cache(capacity),
        capacity_tokens=_capacity_tokens(capacity),
        kv_kinds=kv_kinds(deployment.model, sizing.kv_format, context, sizing.rank),
        pools=tuple(part_of(PoolFacts, pool) for pool in capacity.pools),
        groups=_groups(capacity),
        concurrency=concurrency(sizing, context_lengths(context, capacity.max_model_len)),
        contiguous_vs_paged=contiguous_vs_paged(sizing, context),
        fragmentation=fragments,
        decode=decode(sizing, context),
        retention=retention_choices(sizing, capacity.max_model_len, policies),
        regimes=dict(REGIMES),
        fits=sizing.fits,
        verdict=verdict(sizing),
        command=engine.command(sizing.asked),
        warnings=(*alias_warning(sizing, gpu), *warnings(sizing, fragments, band)),
        suggestions=_suggestions(sizing) if suggests else (),
        provenance=_provenance(deployment, budget),
    )


def _kv_band(sizing: Sizing) -> Band:
    """How sure the KV size is; what the user gave is not estimated."""
    if sizing.has_given_pool:
        flag = sizing.deployment.options.pool_key.replace("_", "-")
        return Band.exact(f"given: --{flag}")
    return sizing.engine.kv_band(sizing.deployment, sizing.budget)


def _model_facts(deployment: ResolvedDeployment) -> ModelFacts:
    model, options = deployment.model, deployment.options
    return part_of(
        ModelFacts,
        model,
        parameters=parameter_count(model),
        dtype=options.dtype,
        quantization=deployment.quantization or model.quantization,
    )


def _parallelism(options: EngineOptions) -> Parallelism:
    return Parallelism(
        tp=options.tensor_parallel_size,
        pp=options.pipeline_parallel_size,
        dp=options.data_parallel_size,
    )


def _kv_cache(capacity: Capacity) -> KVCache:
    dtype, logged = capacity.kv_cache_dtype, capacity.logged_tokens
    return part_of(KVCache, capacity, dtype=dtype, capacity_tokens=logged)


def _most_blocks(growth: Growth) -> int | None:
    """Blocks at which a group stops growing, beside its fixed ones."""
    return None if growth.most_blocks is None else growth.width * growth.most_blocks


def _groups(capacity: Capacity) -> tuple[GroupFacts, ...]:
    """Every pool's groups, and how they grow."""
    return tuple(
        part_of(
            GroupFacts,
            group,
            pool=pool.name,
            most_blocks=_most_blocks(group.growth),
            fixed_blocks=group.growth.fixed_blocks,
        )
        for pool in capacity.pools
        for group in pool.groups
    )


def _capacity_tokens(capacity: Capacity) -> CapacityTokens:
    return CapacityTokens(
        admission=capacity.admission_tokens,
        steady=capacity.steady_tokens,
        all_full=capacity.all_full_tokens,
    )


def _provenance(deployment: ResolvedDeployment, budget: MemoryBudget) -> dict[str, str]:
    """Where each number comes from: sources of the model, the card and the engine's terms."""
    model, card = deployment.model, deployment.accelerator
    weights = "computed from the shapes"
    if model.weight_bytes_on_disk is not None:
        draft = ", less that of layers that only draft" if model.draft else ""
        weights = f"the checkpoint's own size{draft}"
    return {
        "model": model.source,
        "weights": weights,
        "total": card.memory.source,
        "bandwidth": card.bandwidth.source,
        **{term.removesuffix("_bytes"): source for term, source in budget.provenance},
    }
