"""Step-time coefficients of devices that nobody measured: their class's share of the datasheet."""

from __future__ import annotations

from kvsim.hardware import AcceleratorProfile, Link, StepCoefficients

__all__ = ["accelerator_class", "class_coefficients"]

# Median shares of the datasheet reached by the measured cards of each class, and their fixed
# costs: benchmarks/steptime_accuracy.py prints the rows that these are medians of.
_CLASS_EFFICIENCY: dict[str, dict[str, float]] = {
    "datacentre": {"bandwidth": 0.84, "flops": 0.80, "kv": 0.88, "attention": 0.50},
    "workstation": {"bandwidth": 0.85, "flops": 0.80, "kv": 0.88, "attention": 0.50},
}
_CLASS_SECONDS = {"layer": 39e-6, "host": 3e-3, "sequence": 20e-6}
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
    share = _CLASS_EFFICIENCY[name]
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
        layer_seconds=_CLASS_SECONDS["layer"],
        host_seconds=_CLASS_SECONDS["host"],
        sequence_seconds=_CLASS_SECONDS["sequence"],
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
