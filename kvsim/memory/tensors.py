"""A model's parameters, counted by tensor family.

A family is a set of tensors that are sharded and quantised alike. This module counts;
`kvsim.memory.weights` says which share of each family a rank holds, and in how many bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from kvsim.memory.rank import Rank
from kvsim.specs.model import (
    QUANTISED_FAMILIES,
    DenseMlp,
    FamilyName,
    LayerGroup,
    Mlp,
    ModelSpec,
    MoeMlp,
)

__all__ = [
    "Sharding",
    "TensorFamily",
    "active_parameter_count",
    "draft_families",
    "matmul_flops_per_token",
    "parameter_count",
    "stage_share",
    "tensor_families",
]

Sharding = Literal["tp", "kv", "replicated", "experts"]

# Read by every token as the operand of a matrix product; the rest is looked up, or scales.
_MATMULS = (*QUANTISED_FAMILIES, "output_head", "router")


class TensorFamily(NamedTuple):
    """Tensors that are sharded and quantised alike.

    A family that some layers store otherwise comes in parts, each with its own layers.

    Parameters
    ----------
    name : str
        What they are.
    layers : tuple of int or None
        The layers they belong to, or None outside the layers.
    parameters : int
        Elements, summed over those layers.
    sharding : str
        "tp" is split evenly; "kv" is split by KV heads, then replicated; "replicated" is
        whole on every rank; "experts" is dealt out by expert, or split like "tp".
    units : int
        What sharding cannot cut: KV heads for "kv", experts for "experts".
    used_units : int
        Experts that one token reads; `units` for everything dense.
    """

    name: FamilyName
    layers: tuple[int, ...] | None
    parameters: int
    sharding: Sharding = "replicated"
    units: int = 1
    used_units: int = 1

    @property
    def quantised(self) -> bool:
        """Whether a weight format applies."""
        return self.name in QUANTISED_FAMILIES

    @property
    def active_parameters(self) -> float:
        """Elements that one token reads."""
        return self.parameters * self.used_units / self.units if self.is_routed else self.parameters

    @property
    def is_routed(self) -> bool:
        """Whether a token reads only some of it."""
        return self.sharding == "experts"

    @property
    def is_matmul(self) -> bool:
        """Whether every token multiplies by it."""
        return self.name in _MATMULS


def tensor_families(model: ModelSpec) -> tuple[TensorFamily, ...]:
    """List a model's tensor families, from the input to the output.

    Rotary tables, query/key norms, attention sinks, convolution taps and hyper-connections
    are left out: each is below 0.1 % of a model. A tied head is one family, "embedding".

    Parameters
    ----------
    model : ModelSpec
        The model.

    Returns
    -------
    tuple of TensorFamily
        Families that have parameters; a layer group yields its own.
    """
    return tuple(family for family in _all_families(model) if family.parameters)


def draft_families(model: ModelSpec) -> tuple[TensorFamily, ...]:
    """List the tensors of a checkpoint's draft layers, of which `tensor_families` has none.

    Each layer joins the hidden state and an embedding by a matrix that is stored unquantised
    (``eh_proj`` of DeepSeek-V3, ``fc`` of Qwen3-Next), and goes on as the decoder's last does.
    """
    draft, hidden = model.draft, model.hidden_size
    if draft is None:
        return ()
    last = model.num_layers - 1
    group = next(group for group in model.layer_groups if last in group.layers)
    tables = model.vocab_size * hidden * draft.keeps_tables
    one = (
        *(family._replace(layers=(last,)) for family in _layer_families(group, hidden)),
        TensorFamily("other", None, 2 * hidden * hidden),
        TensorFamily("embedding", None, tables),
        TensorFamily("output_head", None, tables),
    )
    return tuple(f._replace(parameters=draft.count * f.parameters) for f in one if f.parameters)


def parameter_count(model: ModelSpec) -> int:
    """Count a model's parameters; a tied head counts once.

    Examples
    --------
    Llama-2-7B: 32 layers * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    + 2 * 32000 * 4096 = 6,738,415,616.
    """
    return sum(family.parameters for family in tensor_families(model))


def active_parameter_count(model: ModelSpec) -> int:
    """Count the parameters that one token reads: of the experts, only those routed to."""
    return round(sum(family.active_parameters for family in tensor_families(model)))


def stage_share(model: ModelSpec, family: TensorFamily, rank: Rank) -> float:
    """Share of a family that lies on the rank's stage (a tied head doubles the embedding)."""
    if family.layers is not None:
        return rank.count_of(model, family.layers) / len(family.layers)
    if family.name == "embedding" and model.tie_embeddings:
        return float(rank.is_first or rank.is_last)
    return float(rank.is_last if family.name in ("output_head", "norms") else rank.is_first)


def matmul_flops_per_token(model: ModelSpec, rank: Rank = Rank()) -> float:
    """FLOPs of the weight matrices of the rank's stage for one token: two per parameter.

    Those of all its ranks together, on the last stage with the output head.

    Attention over the cached context is not here; it grows with the context
    (`decode_flops` of each attention kind).
    """
    families = [family for family in tensor_families(model) if family.is_matmul]
    has_tied_head = model.tie_embeddings and rank.is_last
    tied_head = model.vocab_size * model.hidden_size if has_tied_head else 0
    active = sum(f.active_parameters * stage_share(model, f, rank) for f in families)
    return 2.0 * (active + tied_head)


def _all_families(model: ModelSpec) -> Iterator[TensorFamily]:
    table = model.vocab_size * model.hidden_size
    positions = model.position_embeddings * model.hidden_size
    yield TensorFamily("other", None, model.other_parameters, "tp")
    yield TensorFamily("embedding", None, table, "tp")
    yield TensorFamily("position", None, positions)
    for group in model.layer_groups:
        for family in _layer_families(group, model.hidden_size):
            for layers in _stored_alike(model, family.name, group.layers):
                size = family.parameters * len(layers)
                yield family._replace(parameters=size, layers=layers)
    yield TensorFamily("norms", None, model.hidden_size)
    yield TensorFamily("output_head", None, 0 if model.tie_embeddings else table, "tp")


def _stored_alike(
    model: ModelSpec, name: FamilyName, layers: tuple[int, ...]
) -> Iterable[tuple[int, ...]]:
    """Cut a group's layers where a checkpoint stores a family in several formats."""
    own = [each.layers for each in model.family_formats if each.family == name and each.layers]
    if not own:
        return (layers,)
    alike: dict[tuple[bool, ...], list[int]] = {}
    for layer in layers:
        alike.setdefault(tuple(layer in some for some in own), []).append(layer)
    return map(tuple, alike.values())


def _layer_families(group: LayerGroup, hidden: int) -> Iterator[TensorFamily]:
    """Yield the families of one layer; `_all_families` multiplies by the layers."""
    for cache in group.caches:
        for part in cache.weights(hidden):
            yield TensorFamily(part.family, (), part.parameters, part.sharding, part.units)
    if group.mlp is not None:
        yield from _feed_forward(group.mlp, hidden)
    blocks = len(group.caches) + (group.mlp is not None)
    yield TensorFamily("norms", (), blocks * hidden)


def _feed_forward(mlp: Mlp, hidden: int) -> Iterator[TensorFamily]:
    if isinstance(mlp, DenseMlp):
        size = _matrices(mlp, mlp.intermediate_size, hidden)
        yield TensorFamily("mlp", (), size, "tp")
        return
    yield TensorFamily("router", (), mlp.experts * hidden)
    yield TensorFamily(
        "experts",
        (),
        mlp.experts * _matrices(mlp, mlp.intermediate_size, mlp.latent_size or hidden),
        "experts",
        units=mlp.experts,
        used_units=mlp.experts_per_token,
    )
    yield TensorFamily("latent", (), 2 * hidden * (mlp.latent_size or 0))
    if mlp.shared_intermediate_size:
        shared = _matrices(mlp, mlp.shared_intermediate_size, hidden)
        yield TensorFamily("shared_experts", (), shared, "tp")


def _matrices(mlp: DenseMlp | MoeMlp, width: int, hidden: int) -> int:
    """Up and down, with a gate as wide as up where there is one."""
    ups = 2 if mlp.gated else 1
    return (ups + 1) * hidden * width + (ups * width + hidden) * mlp.bias
