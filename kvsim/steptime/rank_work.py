"""What a model asks of one rank in a step: FLOPs, heads and bytes, whatever the device."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import (
    TensorFamily,
    matmul_flops_per_token,
    stage_share,
    tensor_families,
)
from kvsim.specs.model import DenseMlp, Mlp, ModelSpec
from kvsim.steptime.kv_reads import attended_layers

__all__ = ["ExpertWork", "RankWork", "elementwise_bytes"]


class ExpertWork(NamedTuple):
    """A family of routed experts: FLOPs of one token on a rank, and which of the experts it sees.

    Parameters
    ----------
    flops : float
        All its layers.
    used, units : int
        Experts of a token, of all in a layer.
    """

    flops: float
    used: int
    units: int


class RankWork(NamedTuple):
    """What a model asks of one rank, whatever the device.

    Parameters
    ----------
    layers, expert_layers : int
        Layers that a token passes through, and those of them with routed experts.
    body_flops : float
        GEMM FLOPs of one token, all layers, without those of routed experts.
    experts : tuple of ExpertWork
        Routed experts.
    head_flops : float
        FLOPs of the output head for one sequence.
    pair_flops : float
        Prefill-attention FLOPs of one query-key pair, all layers.
    query_heads, kv_heads : float
        Heads that attend, summed over all layers.
    message_bytes : float
        Activations of one token in a collective, bf16.
    elementwise_bytes : float
        What norms, rotary and activation functions read and write for one token, all layers, bf16
        (`elementwise_bytes`).
    """

    layers: int
    expert_layers: int
    body_flops: float
    experts: tuple[ExpertWork, ...]
    head_flops: float
    pair_flops: float
    query_heads: float
    kv_heads: float
    message_bytes: float
    elementwise_bytes: float = 0.0

    @classmethod
    def from_model(cls, model: ModelSpec, rank: Rank = Rank()) -> RankWork:
        """Share the work of a rank's layers over the ranks of its stage."""
        tp, attended = rank.tp, list(attended_layers(model, rank))
        head = 2.0 * model.hidden_size * model.vocab_size * rank.is_last / tp
        routed = [family for family in tensor_families(model) if family.is_routed]
        experts = tuple(_expert_work(model, family, rank) for family in routed)
        return cls(
            layers=len(rank.layers_of(model)),
            expert_layers=sum(rank.count_of(model, family.layers or ()) for family in routed),
            body_flops=matmul_flops_per_token(model, rank) / tp
            - head
            - sum(e.flops for e in experts),
            experts=experts,
            head_flops=head,
            pair_flops=sum(count * cache.pair_flops for count, cache in attended) / tp,
            query_heads=sum(count * cache.query_heads for count, cache in attended) / tp,
            kv_heads=sum(count * cache.vectors.rank_heads(tp) for count, cache in attended),
            message_bytes=2.0 * model.hidden_size,
            elementwise_bytes=elementwise_bytes(model, rank),
        )


def _expert_work(model: ModelSpec, family: TensorFamily, rank: Rank) -> ExpertWork:
    active = family.active_parameters * stage_share(model, family, rank)
    return ExpertWork(2.0 * active / rank.tp, family.used_units, family.units)


def elementwise_bytes(model: ModelSpec, rank: Rank = Rank()) -> float:
    """What a rank's kernels without a matrix read and write for one token, bf16, all layers.

    ::

        two norms      read and write the stream and its residual   2 * 4 * hidden * 2
        rotary         reads and writes the queries                 2 * heads * head size * 2
        activation     reads gate and up, writes their product      3 * intermediate * 2
        experts        the same for each that a token goes to, and writes and adds up what they
                       give: 2 * hidden * 2 each

    Of attention that is no softmax over keys (states) nothing is counted.
    """
    tp, hidden = rank.tp, model.hidden_size
    norms = 16.0 * hidden * len(rank.layers_of(model))
    # two matrix products of two FLOPs for each element of a query: four FLOPs, four bytes
    rotary = sum(count * cache.pair_flops for count, cache in attended_layers(model, rank)) / tp
    groups = ((rank.count_of(model, group.layers), group.mlp) for group in model.layer_groups)
    return norms + rotary + sum(count * _mlp_bytes(mlp, hidden, tp) for count, mlp in groups)


def _mlp_bytes(mlp: Mlp | None, hidden: int, tp: int) -> float:
    """Bytes of one layer's activation function, and of putting experts' answers together."""
    if mlp is None:
        return 0.0
    width = (6.0 if mlp.gated else 4.0) / tp
    if isinstance(mlp, DenseMlp):
        return width * mlp.intermediate_size
    each = width * mlp.intermediate_size + 4.0 * (mlp.latent_size or hidden)
    return width * mlp.shared_intermediate_size + mlp.experts_per_token * each
