"""Which coefficients price a deployment's steps: whose they are, and in which format."""

from __future__ import annotations

from typing import Any

from kvsim.engines.base import Deployment, Engine
from kvsim.specs.hardware import (
    AcceleratorProfile,
    ExpertRates,
    GemmRates,
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
    "coefficients_of",
    "expert_rates",
    "gemm_rates",
    "host_of",
    "kv_rate",
    "layer_seconds",
    "links_of",
    "stored_as",
]

TWIN = "twin"
"""Engine of coefficients that hold for kvsim's own serving loop, host and all."""
_NARROW = ("fp8", "fp4", "int8")  # what activations are quantised to, beside the weights
# Of a card whose GEMMs nobody timed in 8 bits: of bf16's bandwidth and arithmetic. Half the bytes
# do not take half the time, nor half the width.
_ASSUMED_BANDWIDTH, _ASSUMED_ARITHMETIC = 0.9, 1.6


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
    return HostCost(
        host_seconds=known.host_seconds,
        sequence_seconds=known.sequence_seconds,
        launch_seconds=known.launch_seconds,
        sequence_launch_seconds=known.sequence_launch_seconds,
        graphs=not known.launch_seconds,
    )


def stored_as(deployment: Deployment) -> ModelSpec:
    """Return the model with the deployment's dtype and weight format in place of its own."""
    model, asked = deployment.model, deployment.quantization
    changes: dict[str, Any] = {}
    if deployment.dtype != model.dtype:
        changes["dtype"] = deployment.dtype
    if asked not in (None, model.quantization):
        changes["quantization"] = weight_format(str(asked)).name
        changes["family_formats"] = ()
    if not changes:
        return model
    return model.model_copy(update={**changes, "weight_bytes_on_disk": None})


def gemm_rates(
    rates: StepCoefficients, weights: WeightFormat, device: AcceleratorProfile
) -> GemmRates:
    """Rates of dense GEMMs in this format: its own, those of what it computes in, or of 8 bits.

    Fp8 in blocks of any size takes those of ``fp8_block``. Weights that are widened before they
    are multiplied with are read as those of 8 bits are, and compute as bf16's; so are all narrow
    ones on a card that computes in nothing narrower.
    """
    wide = GemmRates(
        seconds=0.0,
        bytes_per_s=rates.weight_bytes_per_s,
        flops_per_s=rates.flops_per_s,
        token_factors=rates.token_factors,
    )
    if weights.bits_per_weight >= 16:
        return wide
    own = rates.gemms.get(weights.name)
    if own is not None and weights.compute not in _NARROW:
        return own
    of_kin = ("fp8_block",) if weights.name.startswith("fp8_block") else ()
    names = (weights.name, *of_kin, weights.compute, "fp8")
    found = next((rates.gemms[name] for name in names if name in rates.gemms), None)
    narrow = found or wide.model_copy(
        update={
            "bytes_per_s": _ASSUMED_BANDWIDTH * rates.weight_bytes_per_s,
            "flops_per_s": _ASSUMED_ARITHMETIC * rates.flops_per_s,
        }
    )
    if weights.compute in _NARROW and weights.compute in device.flops:
        return narrow
    return wide.model_copy(update={"bytes_per_s": narrow.bytes_per_s})


def layer_seconds(
    rates: StepCoefficients, gemms: GemmRates, experts: ExpertRates, work: RankWork
) -> float:
    """Mean fixed cost of a layer: 8-bit GEMMs quantise activations first, experts are chosen."""
    return rates.layer_seconds + gemms.seconds + experts.seconds * work.expert_layers / work.layers


def expert_rates(
    rates: StepCoefficients,
    weights: WeightFormat,
    device: AcceleratorProfile,
    engine: Engine | None = None,
) -> ExpertRates:
    """Rates of experts in the format that they compute in; the dense ones where none are known."""
    compute = weights.compute if weights.compute in device.flops else "bf16"
    own = rates.engine_experts.get(engine.name, {}) if engine is not None else {}
    experts = {**rates.experts, **own}
    known = experts.get(compute) or experts.get("bf16")
    if known is not None:
        return known
    dense = gemm_rates(rates, weights, device)
    return ExpertRates(seconds=0.0, bytes_per_s=dense.bytes_per_s, flops_per_s=dense.flops_per_s)


def kv_rate(coefficients: StepCoefficients, fmt: KVFormat) -> float:
    """Bytes/s of KV in this format."""
    loss = coefficients.fp8_kv_speedup / 2 if fmt.bits < 16 else 1.0
    return coefficients.kv_bytes_per_s * loss
