"""Step-time coefficients of devices that nobody measured: their architecture's efficiency."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.engines.vllm.rules import architecture
from kvsim.specs.hardware import AcceleratorProfile, ExpertRates, StepCoefficients
from kvsim.steptime.links import fabric_links

__all__ = [
    "EFFICIENCIES",
    "ELEMENTWISE_SHARE",
    "EXPERT_SHARES",
    "Efficiency",
    "architecture_of",
    "class_coefficients",
]


class Efficiency(NamedTuple):
    """What the measured cards of an architecture reach, medians.

    Parameters
    ----------
    bandwidth, kv : float
        Shares of the datasheet's memory bandwidth, of weights and of KV.
    flops, attention : float
        Shares of its bf16 FLOP/s, of GEMMs and of prefill attention.
    layer_seconds, head_seconds : float
        Times, which have no datasheet.
    within : float
        Share of a step's time that nine in ten steps of each of its cards lie within, when the card
        is given the others' medians (all other cards', where it is the only one).
    """

    bandwidth: float
    kv: float
    flops: float
    attention: float
    layer_seconds: float
    head_seconds: float
    within: float


# Of A100; H100 and H200; B200, B300 and RTX PRO 6000; L40S and RTX 4090; and of all of them. Tests
# recompute them from the profiles, the last column as `benchmarks/steptime_accuracy.py` prints it.
EFFICIENCIES: dict[str, Efficiency] = {
    "ampere": Efficiency(0.734, 0.746, 0.815, 0.376, 49.9e-6, 0.0, 0.24),
    "hopper": Efficiency(0.902, 0.901, 0.814, 0.676, 38.9e-6, 17e-9, 0.11),
    "blackwell": Efficiency(0.862, 0.930, 0.749, 0.461, 34.3e-6, 1.3e-9, 0.22),
    "ada": Efficiency(0.879, 0.852, 0.770, 0.697, 36.8e-6, 22e-9, 0.40),
}
_OTHERS = Efficiency(0.875, 0.901, 0.809, 0.514, 36.2e-6, 8e-9, 0.40)
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


def architecture_of(accelerator: AcceleratorProfile) -> str:
    """Architecture whose measured cards stand in for a card: "hopper"; "" where none does."""
    if accelerator.vendor != "NVIDIA":
        return ""
    name = architecture(accelerator)
    return name if name in EFFICIENCIES else ""


def efficiency_of(accelerator: AcceleratorProfile) -> Efficiency:
    """Shares of the datasheet that stand in for a card: its architecture's, or all cards'."""
    return EFFICIENCIES.get(architecture_of(accelerator), _OTHERS)


def class_coefficients(accelerator: AcceleratorProfile) -> StepCoefficients:
    """Return the coefficients of an unmeasured device: its datasheet times medians.

    They are those of its architecture's measured cards, and of all of them for another's.

    Examples
    --------
    A card of 2 TB/s whose architecture reaches 84 % is given 1.68 TB/s.
    """
    name, share = architecture_of(accelerator), efficiency_of(accelerator)
    whose = f"{name.capitalize()} cards" if name else "all measured cards"
    bandwidth = accelerator.bandwidth_bytes_per_s
    flops = accelerator.flops_per_s("bf16")
    return StepCoefficients(
        engine="vllm",
        source=f"medians of {whose}, within {100 * share.within:.0f} % of nine in ten steps",
        date="2026-11-30",
        weight_bytes_per_s=bandwidth * share.bandwidth,
        flops_per_s=flops * share.flops,
        kv_bytes_per_s=bandwidth * share.kv,
        attention_flops_per_s=flops * share.attention,
        elementwise_bytes_per_s=bandwidth * share.kv * ELEMENTWISE_SHARE,
        layer_seconds=share.layer_seconds,
        head_seconds=share.head_seconds,
        experts={
            name: ExpertRates(seconds=start, bytes_per_s=read * bandwidth, flops_per_s=rate * flops)
            for name, (start, read, rate) in EXPERT_SHARES.items()
        },
        collectives=fabric_links(accelerator),
        fp8_kv_speedup=1.7,
    )
