"""Gather the layers of a decoder that are alike into named groups."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from kvsim.readers.huggingface.attention import (
    attention_of,
    compressed_of,
    latent_of,
    sourced_of,
)
from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields
from kvsim.readers.huggingface.layers import LayerKind, layer_kinds
from kvsim.readers.huggingface.mlp import MlpPlan
from kvsim.specs.attention import Attention, RecurrentState
from kvsim.specs.model import DenseMlp, LayerGroup, Mlp, MoeMlp

__all__ = ["layer_groups"]


class _Layer(NamedTuple):
    """What makes two layers alike."""

    kind: LayerKind
    mlp: Mlp | None
    shares_kv: bool


def layer_groups(fields: Fields, family: Family) -> tuple[LayerGroup, ...]:
    """Resolve every layer, then gather those that are alike.

    Returns
    -------
    tuple of LayerGroup
        In the order of their first layers; each layer is in exactly one.

    Raises
    ------
    InputError
        When a layer's kind, heads or state cannot be read.
    """
    members: dict[_Layer, list[int]] = {}
    for index, layer in enumerate(_layers(fields, family)):
        members.setdefault(layer, []).append(index)
    caches = {layer.kind: _caches(fields, family, layer.kind) for layer in members}
    names = _names(list(members), caches)
    return tuple(
        LayerGroup(
            name=names[layer],
            layers=tuple(indices),
            caches=caches[layer.kind],
            mlp=layer.mlp,
            shares_kv_with=_owner(fields, layer, names) if layer.shares_kv else None,
        )
        for layer, indices in members.items()
    )


def _layers(fields: Fields, family: Family) -> list[_Layer]:
    if family.layout == "blocks":
        from kvsim.readers.huggingface.blocks import blocks

        return [_Layer(kind, mlp, False) for kind, mlp in blocks(fields)]
    kinds = layer_kinds(fields, family)
    plan = MlpPlan(fields, family)
    shared = fields.first_integer("num_kv_shared_layers", default=0)
    if shared >= len(kinds):
        raise fields.error(f"num_kv_shared_layers {shared} leaves no layer with K and V")
    owners = len(kinds) - shared
    return [
        _Layer(kind, _mlp(fields, plan, kind, index, index >= owners), index >= owners)
        for index, kind in enumerate(kinds)
    ]


def _mlp(fields: Fields, plan: MlpPlan, kind: LayerKind, index: int, shares: bool) -> Mlp | None:
    """The layer's MLP: Nemotron-H's mixers have none, its MLP layers nothing else."""
    if "hybrid_override_pattern" in fields or "mamba_num_heads" in fields:
        is_mlp = kind.name in {"mlp", "moe"}
        return plan.of_kind(moe=kind.name == "moe") if is_mlp else None
    mlp = plan.at(index)
    if shares and fields.flag("use_double_wide_mlp") and isinstance(mlp, DenseMlp):
        return mlp.model_copy(update={"intermediate_size": 2 * mlp.intermediate_size})
    return mlp


def _caches(fields: Fields, family: Family, kind: LayerKind) -> tuple[Attention, ...]:
    match kind.name:
        case "mlp" | "moe":
            return ()
        case "latent":
            return (latent_of(fields, shares_indexer=kind.shares_indexer),)
        case "compressed":
            return (compressed_of(fields, kind.ratio),)
        case "sourced":
            return (sourced_of(fields, kind.ratio, is_source=kind.is_source, picks=kind.picks),)
        case "linear" | "mamba" | "mamba2":
            return (_state(fields, family, kind.name),)
        case "parallel":
            return (attention_of(fields, family, "full"), _state(fields, family, "mamba2"))
    return (attention_of(fields, family, kind.name, kind.kv_heads),)


def _state(fields: Fields, family: Family, kind: str) -> RecurrentState:
    # Few models have such layers: the others start without the reader of them.
    from kvsim.readers.huggingface.hybrids import linear_state, mamba2_state, mamba_state

    if kind == "linear":
        return linear_state(fields, family)
    return mamba_state(fields) if kind == "mamba" else mamba2_state(fields)


def _names(
    layers: list[_Layer], caches: dict[LayerKind, tuple[Attention, ...]]
) -> dict[_Layer, str]:
    """Name each group after its kind; add what tells it apart only where that is needed."""
    plain = {layer: _plain_name(layer, caches[layer.kind]) for layer in layers}
    times = Counter(plain.values())
    names = {
        layer: name if times[name] == 1 else f"{name}_{_mlp_word(layer.mlp)}"
        for layer, name in plain.items()
    }
    times = Counter(names.values())
    return {
        layer: name if times[name] == 1 else f"{name}_{place}"
        for place, (layer, name) in enumerate(names.items())
    }


def _plain_name(layer: _Layer, caches: tuple[Attention, ...]) -> str:
    name = {"latent": "mla", "parallel": "full_mamba2"}.get(layer.kind.name, layer.kind.name)
    if layer.kind.name == "compressed":
        name = f"compressed_{layer.kind.ratio}" if layer.kind.ratio else "sliding_state"
    if layer.kind.name == "sourced":
        name = _sourced_name(layer.kind)
    if len(caches) == 1 and isinstance(caches[0], RecurrentState):
        name = caches[0].flavour
    return f"{name}_shared" if layer.shares_kv or layer.kind.shares_indexer else name


def _sourced_name(kind: LayerKind) -> str:
    if not kind.ratio:
        return "window"
    role = "source" if kind.is_source else "indexed" if kind.picks else "reader"
    return f"{role}_{kind.ratio}"


def _mlp_word(mlp: Mlp | None) -> str:
    return "moe" if isinstance(mlp, MoeMlp) else "dense"


def _owner(fields: Fields, layer: _Layer, names: dict[_Layer, str]) -> str:
    """The last group of the same kind that keeps its own K and V."""
    for other in reversed(names):
        if other.kind == layer.kind and not other.shares_kv:
            return names[other]
    raise fields.error(f"no earlier {layer.kind.name} layer has K and V to share")
