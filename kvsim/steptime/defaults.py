"""Step-time coefficients of devices that nobody measured: their class's share of the datasheet."""

from __future__ import annotations

from kvsim.specs.hardware import AcceleratorProfile, ExpertRates, Link, StepCoefficients

__all__ = [
    "CLASS_SECONDS",
    "CLASS_SHARES",
    "ELEMENTWISE_SHARE",
    "EXPERT_SHARES",
    "accelerator_class",
    "class_coefficients",
]

# Medians over the measured cards of each class (datacentre: A100, H100, H200; workstation:
# L40S, RTX 4090, RTX PRO 6000) of the coefficients in their profiles, rates as shares of the
# datasheet; a test recomputes them.
CLASS_SHARES: dict[str, dict[str, float]] = {
    "datacentre": {"bandwidth": 0.89, "flops": 0.82, "kv": 0.90, "attention": 0.60},
    "workstation": {"bandwidth": 0.95, "flops": 0.71, "kv": 0.88, "attention": 0.49},
}
CLASS_SECONDS: dict[str, dict[str, float]] = {
    "datacentre": {"layer": 41e-6, "head": 16e-9},
    "workstation": {"layer": 46e-6, "head": 10e-9},
}
# Routed experts: start of a layer, and shares of the datasheet's bandwidth and bf16 FLOP/s; medians
# over the cards that vLLM's grouped GEMMs were measured on, by format; a test recomputes them.
EXPERT_SHARES: dict[str, tuple[float, float, float]] = {
    "bf16": (24e-6, 0.93, 0.28),
    "fp8": (27e-6, 1.0, 0.38),
    "fp4": (31e-6, 0.96, 0.84),
}
# Of the bandwidth of KV reads, what norms, rotary and activation functions reach: 0.63 and 0.69
# on Vidur's H100 and A100 (Qwen-72B, 2,048 tokens: 369 and 653 us a layer).
ELEMENTWISE_SHARE = 0.65
_FAST_LINK_BYTES_PER_S = 200e9  # NVLink, Infinity Fabric, ICI; a PCIe card has far less


def accelerator_class(accelerator: AcceleratorProfile) -> str:
    """Class of a card: "datacentre" with a fast device-to-device link, else "workstation"."""
    fast = accelerator.interconnect.bytes_per_s >= _FAST_LINK_BYTES_PER_S
    return "datacentre" if fast else "workstation"


def class_coefficients(accelerator: AcceleratorProfile) -> StepCoefficients:
    """Return the coefficients of an unmeasured device: its datasheet times class medians.

    Examples
    --------
    A card of 2 TB/s in a class that reaches 84 % is given 1.68 TB/s.
    """
    name = accelerator_class(accelerator)
    share, seconds = CLASS_SHARES[name], CLASS_SECONDS[name]
    bandwidth = accelerator.bandwidth_bytes_per_s
    flops = accelerator.flops_per_s("bf16")
    return StepCoefficients(
        engine="vllm",
        source=f"class median: {name} cards' share of their datasheet",
        date="2026-11-21",
        weight_bytes_per_s=bandwidth * share["bandwidth"],
        flops_per_s=flops * share["flops"],
        kv_bytes_per_s=bandwidth * share["kv"],
        attention_flops_per_s=flops * share["attention"],
        elementwise_bytes_per_s=bandwidth * share["kv"] * ELEMENTWISE_SHARE,
        layer_seconds=seconds["layer"],
        head_seconds=seconds["head"],
        experts={
            name: ExpertRates(seconds=start, bytes_per_s=read * bandwidth, flops_per_s=rate * flops)
            for name, (start, read, rate) in EXPERT_SHARES.items()
        },
        collectives=_class_links(accelerator),
        fp8_weight_speedup=1.8,
        fp8_kv_speedup=1.7,
    )


def _class_links(accelerator: AcceleratorProfile) -> dict[int, Link]:
    """All-reduce by degree: half the one-way link rate on a fast fabric, PCIe otherwise."""
    if accelerator_class(accelerator) == "datacentre":
        rate = accelerator.interconnect.bytes_per_s / 4
        return {degree: Link(seconds=5e-6, bytes_per_s=rate) for degree in (2, 4, 8)}
    # L40S over PCIe: step_time_findings, fitted a degree
    measured = {2: (5.3e-6, 19e9), 4: (12.7e-6, 2.5e9), 8: (23e-6, 1.2e9)}
    return {tp: Link(seconds=a, bytes_per_s=rate) for tp, (a, rate) in measured.items()}
