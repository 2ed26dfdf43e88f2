"""KV bytes as sums with their numbers in: the per-kind table and ``kvsim explain``."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.memory import footprint
from kvsim.memory.rank import Rank
from kvsim.planning.plan_types import KVKind
from kvsim.specs.attention import Attention
from kvsim.specs.model import LayerGroup, ModelSpec
from kvsim.specs.precision import KVFormat
from kvsim.units import format_bytes

__all__ = ["Explanation", "explain", "formula", "kv_kinds"]


def formula(layers: int, cache: Attention, fmt: KVFormat, tp: int = 1) -> str:
    """Write the bytes of `layers` alike caches on one rank as a sum with its result.

    Examples
    --------
    >>> from kvsim.specs.attention import FullAttention
    >>> from kvsim.specs.precision import kv_format
    >>> mha = FullAttention(heads=32, kv_heads=32, key_dim=128, value_dim=128)
    >>> formula(32, mha, kv_format("fp16"))
    '32 layers x 32 KV heads x (128 + 128) x 2 bytes = 524,288 bytes per token'
    """
    many = f"{layers:,} layer{'s' if layers != 1 else ''}"
    one = cache.formula(fmt, tp)
    return f"{many} x {one.factors} = {layers * one.total_bytes:,} bytes {one.unit}"


def kv_kinds(
    model: ModelSpec,
    fmt: KVFormat,
    context: int,
    rank: Rank = Rank(),
) -> tuple[KVKind, ...]:
    """Describe what each layer group keeps of a sequence of `context` tokens, on one rank."""
    rows: list[KVKind] = []
    alike = Rank(tp=rank.tp)
    for group in model.layer_groups:
        count = rank.count_of(model, group.layers)
        if count and group.shares_kv_with:
            rows.append(_shared(group, count))
        elif count:
            rows += [
                _owned(_only(model, group, count, cache), cache, fmt, context, alike)
                for cache in group.caches
            ]
    return tuple(rows)


def _shared(group: LayerGroup, count: int) -> KVKind:
    return KVKind(
        group=group.name,
        kind=f"reads the K and V of {group.shares_kv_with}",
        layers=count,
        formula=f"{count:,} layers x 0 bytes = 0 bytes per token",
        bytes_per_token=0,
        fixed_bytes=0,
        context_bytes=0,
        all_full_bytes=0,
        shares_with=group.shares_kv_with,
    )


def _owned(one: ModelSpec, cache: Attention, fmt: KVFormat, context: int, rank: Rank) -> KVKind:
    """Describe one cache of one group: all that `one`, a model of the rank's layers, holds."""
    group = one.layer_groups[0]
    return KVKind(
        group=group.name,
        kind=cache.caption,
        layers=group.count,
        formula=formula(group.count, cache, fmt, rank.tp),
        bytes_per_token=footprint.bytes_per_token(one, fmt, rank),
        fixed_bytes=footprint.fixed_bytes(one, rank),
        context_bytes=footprint.sequence_bytes(one, fmt, context, rank),
        all_full_bytes=footprint.all_full_bytes(one, fmt, context, rank),
    )


def _only(model: ModelSpec, group: LayerGroup, count: int, cache: Attention) -> ModelSpec:
    """The model with nothing but `count` of these layers and this cache.

    So `kvsim.memory.footprint` stays the only place that multiplies.
    """
    one = group.model_copy(update={"layers": tuple(range(count)), "caches": (cache,)})
    return model.model_copy(update={"layer_groups": (one,)})


class Explanation(NamedTuple):
    """A model's KV cache of one sequence: the kinds, their sum and what they amount to."""

    model: str
    kv_cache_dtype: str
    tp: int
    context_len: int
    kinds: tuple[KVKind, ...]
    bytes_per_token: int
    context_bytes: int
    all_full_bytes: int
    takeaway: str


def explain(
    model: ModelSpec, fmt: KVFormat, *, context: int | None = None, rank: Rank = Rank()
) -> Explanation:
    """Explain what one sequence of `context` tokens keeps on one rank.

    Parameters
    ----------
    model : ModelSpec
        The model.
    fmt : KVFormat
        Format of K and V.
    context : int, optional
        Tokens of the sequence; the model's longest context by default.
    rank : Rank
        Whose part is explained.

    Raises
    ------
    InputError
        When the heads cannot be split over ``rank.tp``.
    """
    context = context or model.max_position_embeddings
    steady = footprint.sequence_bytes(model, fmt, context, rank)
    full = footprint.all_full_bytes(model, fmt, context, rank)
    return Explanation(
        model=model.name,
        kv_cache_dtype=fmt.name,
        tp=rank.tp,
        context_len=context,
        kinds=kv_kinds(model, fmt, context, rank),
        bytes_per_token=footprint.bytes_per_token(model, fmt, rank),
        context_bytes=steady,
        all_full_bytes=full,
        takeaway=_takeaway(context, steady, full),
    )


def _takeaway(context: int, steady: int, full: int) -> str:
    """One sentence that names the regime of its number."""
    kept = f"a sequence of {context:,} tokens keeps {format_bytes(steady)} per rank"
    if steady < full:
        saved = f"{1 - steady / full:.0%} less than {format_bytes(full)} with every layer full"
        return f"Steady regime: {kept}, {saved}."
    return f"Every regime: {kept}; no window saves anything."
