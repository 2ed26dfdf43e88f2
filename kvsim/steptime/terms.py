"""The terms of a step's time: one pure function each, bytes and FLOPs in, seconds out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from kvsim.specs.hardware import Link

__all__ = [
    "EXPERT_ROWS",
    "collective_seconds",
    "compute_seconds",
    "expert_padding",
    "head_seconds",
    "kv_seconds",
    "nearest_link",
    "prefill_attention_seconds",
    "roofline_seconds",
    "tile_factor",
    "weight_seconds",
]

# What best describes 22 of 40 tables of grouped GEMMs, of three engines (AISimulate 0.13): 16 rows
# of 1, 16, 64 and 128.
EXPERT_ROWS = 16
_ROUNDING = 1e-9


def weight_seconds(read_bytes: float, bytes_per_s: float) -> float:
    """Time to read weights once: ``bytes / bandwidth``."""
    return read_bytes / bytes_per_s


def compute_seconds(flops: float, flops_per_s: float) -> float:
    """Time of the GEMMs' arithmetic: ``FLOPs / rate``."""
    return flops / flops_per_s


def roofline_seconds(weight: float, compute: float, norm: float) -> float:
    """Join the two arms: ``(weight**p + compute**p) ** (1/p)``, seconds.

    It lies between the larger arm (p large) and the sum of both (p = 1): a kernel overlaps
    reading and computing, not perfectly.

    Examples
    --------
    >>> roofline_seconds(3.0, 4.0, 2.0), roofline_seconds(3.0, 4.0, 1.0)
    (5.0, 7.0)
    """
    large, small = max(weight, compute), min(weight, compute)
    if large == 0:
        return 0.0
    return float(large * (1 + (small / large) ** norm) ** (1 / norm))


def tile_factor(tokens: int, factors: Mapping[int, float]) -> float:
    """How much longer the arithmetic of GEMMs of `tokens` rows takes than its FLOPs say.

    Tiles are computed whole, so that 129 rows may cost as much as 256.

    Linear in log2(tokens) between the entries of `factors`, level outside them, 1 without.

    Examples
    --------
    >>> tile_factor(256, {128: 1.0, 512: 1.2}), tile_factor(9, {}), tile_factor(4096, {512: 1.2})
    (1.1, 1.0, 1.2)
    """
    if not factors:
        return 1.0
    known = sorted(factors)
    right = bisect_right(known, tokens)
    if right in (0, len(known)):
        return factors[known[min(right, len(known) - 1)]]
    low, high = known[right - 1], known[right]
    share = math.log2(tokens / low) / math.log2(high / low)
    return factors[low] + share * (factors[high] - factors[low])


def expert_padding(tokens: float, used: int, units: int) -> float:
    """FLOPs that a grouped GEMM does over those that it was asked for.

    Of `units` experts ``units * (1 - (1 - used / units) ** tokens)`` are touched; each computes
    tiles of 16 rows, whole.

    Examples
    --------
    One token fills one row of 16 of each of its experts; of 256 experts with 8 a token, 8,192
    tokens give each 256 rows.

    >>> expert_padding(1, 8, 256), expert_padding(8192, 8, 256)
    (16.0, 1.0)
    """
    if not tokens:
        return 1.0
    rows = tokens * used
    touched = units * (1 - (1 - used / units) ** tokens)
    tiles = math.ceil(rows / touched / EXPERT_ROWS - _ROUNDING)
    return float(touched * EXPERT_ROWS * tiles / rows)


def kv_seconds(read_bytes: float, bytes_per_s: float) -> float:
    """Decode attention: ``KV bytes / bandwidth``."""
    return read_bytes / bytes_per_s


def head_seconds(sequences: float, kv_heads: float, seconds: float) -> float:
    """Decode attention's cost however short the context: ``sequences * KV heads * seconds``.

    `kv_heads` counts those of all layers of the rank: every sequence starts a tile in each.
    """
    return sequences * kv_heads * seconds


def prefill_attention_seconds(pairs: float, flops_per_pair: float, flops_per_s: float) -> float:
    """Causal prefill attention of all layers: ``pairs * FLOPs a pair / rate``."""
    return pairs * flops_per_pair / flops_per_s


def collective_seconds(count: int, message_bytes: float, link: Link) -> float:
    """`count` collectives of `message_bytes` each: ``count * (a + bytes / bandwidth)``."""
    if link.large_from_bytes is None or message_bytes < link.large_from_bytes:
        return count * (link.seconds + message_bytes / link.bytes_per_s)
    rate = link.large_bytes_per_s or link.bytes_per_s
    return count * (link.large_seconds + message_bytes / rate)


def nearest_link(collectives: Mapping[int, Link], degree: int) -> Link | None:
    """Return the link of the known degree nearest to `degree`; None when none is known."""
    if not collectives:
        return None
    return collectives[min(collectives, key=lambda known: (abs(known - degree), known))]
