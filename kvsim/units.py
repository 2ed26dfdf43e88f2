"""Sizes and durations: parse what people write, print what they read.

GB is 10**9 and GiB is 2**30, always; kvsim computes in bytes and seconds and prints GiB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from kvsim.errors import InputError

__all__ = [
    "GB",
    "GIB",
    "KIB",
    "MIB",
    "ceil_div",
    "digits",
    "format_bytes",
    "format_seconds",
    "parse_bytes",
    "parse_count",
    "parse_seconds",
]

KIB = 2**10
MIB = 2**20
GIB = 2**30
GB = 10**9

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": GB,
    "tb": 10**12,
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 2**40,
}
_SECOND_UNITS = {
    "": 1.0,
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
}
_COUNT = re.compile(r"([0-9][0-9_]{0,18})([kKmMgG]?)")
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": KIB, "M": MIB, "G": GIB}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def _parse(text: str | float, units: Mapping[str, float], what: str, example: str) -> float:
    match = _QUANTITY.fullmatch(str(text))
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in units:
        known = ", ".join(name for name in units if name)
        fix = f"write a number and a unit of {known}, such as {example}"
        raise InputError(f"{text!r} is not a {what}", fix=fix)
    value = float(match.group(1)) * units[unit]
    if not math.isfinite(value):
        raise InputError(f"{text!r} is not a finite {what}")
    return value


def parse_count(text: str) -> int:
    """Read a whole number; "32k" is 32,000 and "32K" 32,768, as in vLLM.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> parse_count("4096"), parse_count("32k"), parse_count("32K")
    (4096, 32000, 32768)
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise InputError("should be a whole number, such as 4096 or 32k")
    return int(match.group(1)) * _COUNT_UNITS[match.group(2)]


def parse_bytes(text: str | float) -> int:
    """Read a size in bytes; a bare number is bytes.

    Raises
    ------
    InputError
        For a negative, non-finite or malformed size or an unknown unit.

    Examples
    --------
    >>> parse_bytes("80GB"), parse_bytes("80GiB"), parse_bytes("1.5 MiB")
    (80000000000, 85899345920, 1572864)
    """
    return int(_parse(text, _BYTE_UNITS, "size", "20GiB"))


def parse_seconds(text: str | float) -> float:
    """Read a duration in seconds; a bare number is seconds, "m" and "min" are minutes.

    Raises
    ------
    InputError
        For a negative, non-finite or malformed duration or an unknown unit.

    Examples
    --------
    >>> parse_seconds("50ms"), parse_seconds("10m"), parse_seconds(2)
    (0.05, 600.0, 2.0)
    """
    return _parse(text, _SECOND_UNITS, "duration", "30s")


def format_bytes(size: float) -> str:
    """Print a size with a binary unit, three to four significant digits.

    Examples
    --------
    >>> format_bytes(524288), format_bytes(85_049_999_360), format_bytes(12)
    ('512 KiB', '79.21 GiB', '12 B')
    """
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{size:g} B"


def format_seconds(seconds: float) -> str:
    """Print a duration in the unit that keeps it readable.

    Examples
    --------
    >>> format_seconds(0.0173), format_seconds(95e-6), format_seconds(75)
    ('17.3 ms', '95 us', '75 s')
    """
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.4g} s"
    unit, name = (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "us")
    return f"{seconds / unit:.3g} {name}"


def digits(value: float, count: int = 3) -> str:
    """Write a number in so many digits, and in more rather than with an exponent.

    Examples
    --------
    >>> digits(23.94), digits(1192.4), digits(0.02912)
    ('23.9', '1,192', '0.0291')
    """
    return f"{value:,.{count}g}" if abs(value) < 10**count else f"{value:,.0f}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Divide integers, rounding up: ``ceil_div(17, 16) == 2``."""
    return -(-numerator // denominator)
