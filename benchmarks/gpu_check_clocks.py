"""What ``make gpu-check`` makes of what the driver says of clocks, power and heat under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_check_verdicts import LOOK, OK, Verdict

SLOW_CLOCK = 0.7  # of the SM clock's maximum
# NVML's nvmlClocksEventReasons; bit 0 is an idle card.
REASONS = {
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}


def judge_clocks(found: Mapping[str, Any], peak: float | None) -> Verdict:
    """Judge the clocks under large products.

    Parameters
    ----------
    found : mapping
        ``flops_per_s``; ``answers``, nvidia-smi's by field, empty where it gave none; and
        ``reasons``, its bit field of what holds the clocks down, as text.
    peak : float or None
        The datasheet's FLOP/s.
    """
    rate, answers = found["flops_per_s"], found["answers"]
    share = f" ({rate / peak:.0%} of the datasheet's)" if peak else ""
    under = f"under products of {rate / 1e12:,.1f} TFLOP/s{share}"
    if not answers:
        return Verdict("clocks", LOOK, f"{under} nvidia-smi says nothing of clocks")
    now, most = (number(answers[name]) for name in ("clocks.sm", "clocks.max.sm"))
    held = throttled(found["reasons"])
    said = ", ".join(f"{name} {value}" for name, value in answers.items())
    says = f"{under}: {said}; held down by {', '.join(held) or 'nothing'}"
    slow = now is not None and most is not None and now < SLOW_CLOCK * most
    says += f"; the SM clock is {now / most:.0%} of its most" if now and most else ""
    return Verdict("clocks", LOOK if held or slow else OK, says)


def number(text: str) -> float | None:
    """Read a number with its unit; None for "[N/A]".

    Examples
    --------
    >>> number("1980 MHz"), number("[N/A]")
    (1980.0, None)
    """
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None


def throttled(reasons: str) -> list[str]:
    """Name what holds clocks down, of a bit field in hexadecimal.

    Examples
    --------
    >>> throttled("0x0000000000000024"), throttled("0x1"), throttled("[N/A]")
    (['power cap', 'heat (software)'], [], [])
    """
    try:
        bits = int(reasons, 16)
    except ValueError:
        return []
    return [word for bit, word in REASONS.items() if bits & bit]
