"""Which coefficients price a deployment's steps: whose they are, and in which format."""

from __future__ import annotations

from typing import Any

from kvsim.engines.base import Deployment, Engine
from kvsim.specs.hardware import (
    AcceleratorProfile,
    ExpertRates,
    HostCost,
    Link,
    StepCoefficients,
)
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, WeightFormat, weight_format
from kvsim.steptime.defaults import class_coefficients
from kvsim.steptime.hosts import host_cost
from kvsim.steptime.rank_work import RankWork

__all__ = [
    "TWIN",
    "arithmetic_rate",
    "coefficients_of",
    "expert_rates",
    "host_of",
    "kv_rate",
    "layer_seconds",
    "links_of",
    "stored_as",
    "weight_rate",
]

TWIN = "twin"
"""Engine of coefficients that hold for kvsim's own serving loop, host and all."""
_NARROW = ("fp8", "fp4", "int8")  # what activations are quantised to, beside the weights


def coefficients_of(
    device: AcceleratorProfile, given: StepCoefficients | None
) -> tuple[StepCoefficients, str]:
    """Choose the coefficients and say where they come from."""
    chosen = given or device.coefficients
    if chosen is not None:
        sibling = chosen.derived_from
        word = f"derived from {sibling} by the datasheets" if sibling else "fitted"
        return chosen, f"{word}: {chosen.source}, {chosen.date}"
    chosen = class_coefficients(device)
    return chosen, f"assumed: {chosen.source}; {device.name} has no measurement"


def links_of(known: StepCoefficients, engine: Engine | None) -> dict[int, Link]:
    """All-reduces by degree: an engine's own kernels where they differ."""
    own = known.engine_collectives.get(engine.name, {}) if engine is not None else {}
    return {**known.collectives, **own}


def host_of(known: StepCoefficients, engine: Engine | None, *, is_async: bool) -> HostCost:
    """Host costs: this machine's own of the engine, or the catalogue's, or the coefficients'."""
    if engine is not None and known.engine != TWIN:
        own = known.host_costs.get(engine.name) or host_cost(engine, is_async=is_async)
        if own is not None:
            return own
    return HostCost(host_seconds=known.host_seconds, sequence_seconds=known.sequence_seconds)


def stored_as(deployment: Deployment) -> ModelSpec:
    """Return the model with the deployment's dtype and weight format in place of its own."""
    model, options = deployment.model, deployment.options
    changes: dict[str, Any] = {}
    if deployment.dtype != model.dtype:
        changes["dtype"] = deployment.dtype
    if options.quantization not in (None, model.quantization):
        changes["quantization"] = weight_format(str(options.quantization)).name
        changes["family_formats"] = ()
    if not changes:
        return model
    return model.model_copy(update={**changes, "weight_bytes_on_disk": None})


def weight_rate(coefficients: StepCoefficients, weights: WeightFormat) -> float:
    """Bytes/s of weights in this format: half the bytes do not take half the time."""
    loss = coefficients.fp8_weight_speedup / 2 if weights.bits_per_weight < 16 else 1.0
    return coefficients.weight_bytes_per_s * loss


def layer_seconds(
    rates: StepCoefficients, weights: WeightFormat, experts: ExpertRates, work: RankWork
) -> float:
    """Mean fixed cost of a layer: 8-bit GEMMs quantise activations first, experts are chosen."""
    extra = rates.fp8_layer_seconds if weights.compute in _NARROW else 0.0
    return rates.layer_seconds + extra + experts.seconds * work.expert_layers / work.layers


def expert_rates(
    rates: StepCoefficients, weights: WeightFormat, device: AcceleratorProfile
) -> ExpertRates:
    """Rates of experts in the format that they compute in; the dense ones where none are known."""
    compute = weights.compute if weights.compute in device.flops else "bf16"
    known = rates.experts.get(compute) or rates.experts.get("bf16")
    return known or ExpertRates(
        seconds=0.0,
        bytes_per_s=weight_rate(rates, weights),
        flops_per_s=arithmetic_rate(rates, weights, device),
    )


def kv_rate(coefficients: StepCoefficients, fmt: KVFormat) -> float:
    """Bytes/s of KV in this format."""
    loss = coefficients.fp8_kv_speedup / 2 if fmt.bits < 16 else 1.0
    return coefficients.kv_bytes_per_s * loss


def arithmetic_rate(
    coefficients: StepCoefficients, weights: WeightFormat, device: AcceleratorProfile
) -> float:
    """FLOP/s of GEMMs with these weights: bf16's, unless they compute in fewer bits."""
    if weights.compute not in device.flops or weights.compute not in _NARROW:
        return coefficients.flops_per_s
    return coefficients.flops_per_s * coefficients.fp8_flops_speedup
