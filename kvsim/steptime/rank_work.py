"""What a model asks of one rank in a step: FLOPs, heads and bytes, whatever the device."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import matmul_flops_per_token, stage_share, tensor_families
from kvsim.specs.model import ModelSpec
from kvsim.steptime.kv_reads import attended_layers

__all__ = ["RankWork"]


class RankWork(NamedTuple):
    """What a model asks of one rank, whatever the device.

    Parameters
    ----------
    layers, expert_layers : int
        Layers that a token passes through, and those of them with routed experts.
    body_flops : float
        GEMM FLOPs of one token, all layers.
    expert_flops : float
        Those among `body_flops` that routed experts do.
    head_flops : float
        FLOPs of the output head for one sequence.
    pair_flops : float
        Prefill-attention FLOPs of one query-key pair, all layers.
    query_heads, kv_heads : float
        Heads that attend, summed over all layers.
    message_bytes : float
        Activations of one token in a collective, bf16.
    """

    layers: int
    expert_layers: int
    body_flops: float
    expert_flops: float
    head_flops: float
    pair_flops: float
    query_heads: float
    kv_heads: float
    message_bytes: float

    @classmethod
    def from_model(cls, model: ModelSpec, rank: Rank = Rank()) -> RankWork:
        """Share the work of a rank's layers over the ranks of its stage."""
        tp, attended = rank.tp, list(attended_layers(model, rank))
        head = 2.0 * model.hidden_size * model.vocab_size * rank.is_last / tp
        experts = [family for family in tensor_families(model) if family.is_routed]
        active = (f.active_parameters * stage_share(model, f, rank) for f in experts)
        return cls(
            layers=len(rank.layers_of(model)),
            expert_layers=sum(rank.count_of(model, family.layers or ()) for family in experts),
            body_flops=matmul_flops_per_token(model, rank) / tp - head,
            expert_flops=2.0 * sum(active) / tp,
            head_flops=head,
            pair_flops=sum(count * cache.pair_flops for count, cache in attended) / tp,
            query_heads=sum(count * cache.query_heads for count, cache in attended) / tp,
            kv_heads=sum(count * cache.vectors.rank_heads(tp) for count, cache in attended),
            message_bytes=2.0 * model.hidden_size,
        )
