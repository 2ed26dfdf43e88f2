"""Decode: how much arithmetic per byte read, what binds it, and how fast it should go."""

from __future__ import annotations

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import matmul_flops_per_token
from kvsim.memory.weights import WeightReads, weight_reads
from kvsim.planning.plan_types import Decode, DecodeBatch
from kvsim.planning.sizing import Sizing
from kvsim.specs.precision import weight_format
from kvsim.steptime.bands import TimeBand, time_band
from kvsim.steptime.kv_reads import attended_layers
from kvsim.steptime.model import StepLoad, StepTimeModel

__all__ = ["batch_sizes", "decode"]


def batch_sizes(largest: int) -> list[int]:
    """List the powers of two below `largest`, and `largest`; nothing below 1.

    Examples
    --------
    >>> batch_sizes(100), batch_sizes(0)
    ([1, 2, 4, 8, 16, 32, 64, 100], [])
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest] if largest > 0 else []


def _token_flops(sizing: Sizing, context: int) -> float:
    """FLOPs of one sequence in a decode step, on all tensor-parallel ranks: GEMMs and attention."""
    model = sizing.deployment.model
    attention = sum(count * cache.decode_flops(context) for count, cache in attended_layers(model))
    return matmul_flops_per_token(model) + attention


def _read_weights(sizing: Sizing) -> WeightReads:
    """The weights that a decode step reads on one rank, once for all of its sequences."""
    deployment = sizing.deployment
    return weight_reads(
        deployment.model,
        _all_stages(sizing),
        dtype=deployment.weight_dtype,
        quantization=deployment.quantization,
    )


def decode(sizing: Sizing, context: int) -> Decode:
    """Predict decode steps of growing batches, up to what may run at `context` tokens.

    The ridge point is the datasheet's: FLOP/s in the weights' compute dtype over bytes/s.
    The device's part of a step with fewer FLOPs per byte is bound by bandwidth; the step may be
    by the host or the link.
    """
    curve = sizing.read_curve
    steps = StepTimeModel.from_deployment(sizing.deployment, engine=sizing.engine)
    largest = max(1, sizing.running(context))
    weights, flops = _read_weights(sizing), _token_flops(sizing, context)
    batches = [
        _batch(
            steps,
            _load(batch, batch * curve.bytes_at(context)),
            weights,
            batch * flops / sizing.rank.tp,
        )
        for batch in batch_sizes(largest)
    ]
    intensity, ridge = batches[-1].arithmetic_intensity, ridge_point(sizing)
    return Decode(
        batch=largest,
        context_len=context,
        arithmetic_intensity=intensity,
        ridge_point=ridge,
        bound_by=batches[-1].bound_by,
        batches=tuple(batches),
        source=steps.provenance,
        band=_band(sizing),
    )


def _band(sizing: Sizing) -> TimeBand:
    """How sure a step is: as sure as the mean time between a request's tokens."""
    deployment = sizing.deployment
    return time_band(sizing.engine.name, deployment.accelerator, deployment.model, "tpot")


def _all_stages(sizing: Sizing) -> Rank:
    """A step passes through all stages: as if one rank of each were one."""
    return Rank(tp=sizing.rank.tp)


def ridge_point(sizing: Sizing) -> float:
    """FLOPs per byte at which the card's arithmetic and its memory take equally long."""
    accelerator, model = sizing.deployment.accelerator, sizing.deployment.model
    weights = weight_format(sizing.deployment.quantization or model.quantization or model.dtype)
    return accelerator.flops_per_s(weights.compute) / accelerator.bandwidth_bytes_per_s


def _load(batch: int, kv_read_bytes: float) -> StepLoad:
    return StepLoad(tokens=batch, sequences=batch, kv_read_bytes=kv_read_bytes)


def _batch(steps: StepTimeModel, load: StepLoad, weights: WeightReads, flops: float) -> DecodeBatch:
    """One row: a step reads the weights once, and each sequence's KV."""
    cost = steps.cost(load)
    return DecodeBatch(
        batch=load.sequences,
        step_seconds=cost.seconds,
        tokens_per_s=load.sequences / cost.seconds,
        arithmetic_intensity=flops / (weights.bytes_of(load.tokens) + load.kv_read_bytes),
        bound_by=cost.bound_by,
    )
