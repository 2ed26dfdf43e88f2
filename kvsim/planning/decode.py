"""Decode: how much arithmetic per byte read, what binds it, and how fast it should go."""

from __future__ import annotations

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import matmul_flops_per_token
from kvsim.memory.weights import decode_read_bytes
from kvsim.planning.plan_types import Decode, DecodeBatch
from kvsim.planning.sizing import Sizing
from kvsim.specs.precision import weight_format
from kvsim.steptime.kv_reads import attended_layers
from kvsim.steptime.model import StepLoad, StepTimeModel

__all__ = ["batch_sizes", "decode", "step_flops", "step_read_bytes"]


def batch_sizes(largest: int) -> list[int]:
    """List the powers of two below `largest`, and `largest`; nothing below 1.

    Examples
    --------
    >>> batch_sizes(100), batch_sizes(0)
    ([1, 2, 4, 8, 16, 32, 64, 100], [])
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest] if largest > 0 else []


def step_flops(sizing: Sizing, batch: int, context: int) -> float:
    """FLOPs of one decode step on one rank: ``batch * (GEMMs + attention) / tp``."""
    model = sizing.deployment.model
    attention = sum(count * cache.decode_flops(context) for count, cache in attended_layers(model))
    return batch * (matmul_flops_per_token(model) + attention) / sizing.rank.tp


def step_read_bytes(sizing: Sizing, batch: int, kv_read_bytes: float) -> float:
    """Bytes that one decode step reads on one rank: the weights once, each sequence's KV."""
    options = sizing.deployment.options
    weights = decode_read_bytes(
        sizing.deployment.model,
        batch,
        _all_stages(sizing),
        dtype=sizing.deployment.weight_dtype,
        quantization=options.quantization,
    )
    return weights + kv_read_bytes


def decode(sizing: Sizing, context: int) -> Decode:
    """Predict decode steps of growing batches, up to what may run at `context` tokens.

    The ridge point is the datasheet's: FLOP/s in the weights' compute dtype over bytes/s.
    The device's part of a step with fewer FLOPs per byte is bound by bandwidth; the step may be
    by the host or the link.
    """
    curve = sizing.read_curve
    steps = StepTimeModel.from_deployment(sizing.deployment, engine=sizing.engine.name)
    largest = max(1, sizing.running(context))
    batches = [
        _batch(sizing, steps, batch, batch * curve.bytes_at(context), context)
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
    )


def _all_stages(sizing: Sizing) -> Rank:
    """A step passes through all stages: as if one rank of each were one."""
    return Rank(tp=sizing.rank.tp)


def ridge_point(sizing: Sizing) -> float:
    """FLOPs per byte at which the card's arithmetic and its memory take equally long."""
    accelerator, options = sizing.deployment.accelerator, sizing.deployment.options
    model = sizing.deployment.model
    weights = weight_format(options.quantization or model.quantization or model.dtype)
    return accelerator.flops_per_s(weights.compute) / accelerator.bandwidth_bytes_per_s


def _batch(
    sizing: Sizing, steps: StepTimeModel, batch: int, kv_read_bytes: float, context: int
) -> DecodeBatch:
    cost = steps.cost(StepLoad(tokens=batch, sequences=batch, kv_read_bytes=kv_read_bytes))
    flops = step_flops(sizing, batch, context)
    return DecodeBatch(
        batch=batch,
        step_seconds=cost.seconds,
        tokens_per_s=batch / cost.seconds,
        arithmetic_intensity=flops / step_read_bytes(sizing, batch, kv_read_bytes),
        bound_by=cost.bound_by,
    )
