"""What the study finds: growth exponents, and the common claims that its numbers contradict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kvsim.catalog.models import find_model
from kvsim.memory.footprint import bytes_per_token
from kvsim.specs.precision import kv_format
from kvsim.units import format_bytes

__all__ = ["Claim", "Study", "StudyRow", "claims_of", "exponents_of", "growth_exponent"]

_CLAIMED_GPT3_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One cache, one batch, one length of the answer: measured, and as simulated.

    Parameters
    ----------
    cache : str
        "none", "grow", "preallocated" or "paged".
    batch, tokens : int
        Sequences; tokens generated for each.
    token_seconds, total_seconds : float
        The step at that length (median of those around it), and all steps up to it.
    kv_peak_bytes, total_bytes : int
        Most K and V held up to there, copies in flight included; the weights with it.
    torch_peak_bytes : int or None
        Torch's own counter; None on a device without one.
    read_bytes_per_token : float
        Bytes that each new token has read: its share of the weights, its context's K and V,
        and what was copied for it.
    computed_per_token : int
        Tokens computed for each new one.
    simulated_seconds, simulated_kv_bytes
        The simulator's total and peak.
    """

    cache: str
    batch: int
    tokens: int
    token_seconds: float
    total_seconds: float
    kv_peak_bytes: int
    total_bytes: int
    torch_peak_bytes: int | None
    read_bytes_per_token: float
    computed_per_token: int
    simulated_seconds: float
    simulated_kv_bytes: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Something often said, whether it holds, and the numbers that say so."""

    claim: str
    holds: bool
    finding: str


@dataclass(frozen=True, slots=True)
class Study:
    """The whole study.

    Parameters
    ----------
    model, device, clock, torch_version : str
        What ran where, and what was counted.
    dtype : str
        Of weights and cache.
    weight_bytes, token_bytes, prompt_tokens, longest : int
        The decoder's weights; K and V of a token; lengths.
    checked_tokens : int
        Tokens that all four caches generated alike before anything was timed.
    rows : tuple of StudyRow
        The measurements.
    exponents : dict
        ``exponents[cache][batch]``: growth of "token" and "total" seconds, measured and
        simulated.
    claims : tuple of Claim
        What follows.
    interrupted : bool
        Whether batches are missing, because the study was cut.
    stopped : str
        Why they are, where memory ran out or the device failed.
    left_out : tuple of str
        Batches whose largest cache the device cannot hold, a line each.
    """

    model: str
    device: str
    clock: str
    torch_version: str
    dtype: str
    weight_bytes: int
    token_bytes: int
    prompt_tokens: int
    longest: int
    checked_tokens: int
    rows: tuple[StudyRow, ...]
    exponents: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    interrupted: bool = False
    stopped: str = ""
    left_out: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The study as JSON."""
        return {"kind": "kvsim-cache-study", **asdict(self)}


def growth_exponent(lengths: Sequence[float], values: Sequence[float]) -> float:
    """Slope of values over lengths, both in logarithms: 1 is linear, 2 is quadratic.

    Examples
    --------
    >>> round(growth_exponent([100, 200, 400], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    slope, _ = np.polyfit(np.log(lengths), np.log(values), 1)
    return float(slope)


def exponents_of(rows: Sequence[StudyRow], prompt_tokens: int) -> dict[str, Any]:
    """Growth of every cache's seconds, by batch: of one token's over its context, and in all."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, batch in dict.fromkeys((row.cache, row.batch) for row in rows):
        mine = [row for row in rows if (row.cache, row.batch) == (name, batch)]
        tokens = [row.tokens for row in mine]
        if len(mine) < 2:
            continue
        contexts = [prompt_tokens + count for count in tokens]
        found.setdefault(name, {})[str(batch)] = {
            "token": growth_exponent(contexts, [row.token_seconds for row in mine]),
            "total": growth_exponent(tokens, [row.total_seconds for row in mine]),
            "simulated_total": growth_exponent(tokens, [row.simulated_seconds for row in mine]),
        }
    return found


def claims_of(rows: Sequence[StudyRow], token_bytes: int, block_tokens: int) -> tuple[Claim, ...]:
    """Hold what is commonly said against the rows."""
    most = max((row.batch, row.tokens) for row in rows)
    few = max(row.batch for row in rows), min(row.tokens for row in rows)
    at = {(row.cache, row.batch, row.tokens): row for row in rows}
    return (
        _paging_uses_more(at, few, most, token_bytes * block_tokens),
        _gpt3_token(),
        _cache_makes_it_flat(at, most),
        _growing_is_free(at, most),
    )


RowsByCase = dict[tuple[str, int, int], StudyRow]


def _paging_uses_more(
    at: RowsByCase, few: tuple[int, int], most: tuple[int, int], block_bytes: int
) -> Claim:
    def held(name: str, case: tuple[int, int]) -> int:
        return at[name, *case].kv_peak_bytes

    parts = [
        f"at {case[1]} tokens, batch {case[0]}: paged {format_bytes(held('paged', case))},"
        f" growing {format_bytes(held('grow', case))},"
        f" preallocated {format_bytes(held('preallocated', case))}"
        for case in (few, most)
    ]
    worst = max(held("paged", case) - held("grow", case) for case in (few, most))
    return Claim(
        "A paged cache uses more memory than a plain one",
        holds=held("paged", few) > held("preallocated", few) or worst > few[0] * block_bytes,
        finding="; ".join(parts) + "; paging rounds each sequence up by less than a block",
    )


def _gpt3_token() -> Claim:
    size = bytes_per_token(find_model("gpt3-175b"), kv_format("fp16"))
    return Claim(
        "A token of GPT-3 175B takes about 20 KB of cache",
        holds=size <= 2 * _CLAIMED_GPT3_BYTES,
        finding=f"2 * 96 layers * 12,288 * 2 bytes in fp16 = {size:,} bytes ="
        f" {format_bytes(size)}, {size / _CLAIMED_GPT3_BYTES:,.0f} times as much",
    )


def _cache_makes_it_flat(at: RowsByCase, most: tuple[int, int]) -> Claim:
    none, kept = at["none", *most], at["preallocated", *most]
    gain = none.total_seconds / kept.total_seconds
    read = kept.read_bytes_per_token / at["preallocated", most[0], _least(at)].read_bytes_per_token
    return Claim(
        "With a cache, a token costs the same however long the context",
        holds=read <= 1.0,
        finding=f"generating {most[1]} tokens at batch {most[0]} takes {gain:.1f} times less than"
        f" without; yet each token reads its whole context: {read:.2f} times the bytes of the"
        " shortest answer's",
    )


def _growing_is_free(at: RowsByCase, most: tuple[int, int]) -> Claim:
    grow, kept = at["grow", *most], at["preallocated", *most]
    return Claim(
        "Concatenating the cache at every step costs nothing but memory",
        holds=grow.read_bytes_per_token <= kept.read_bytes_per_token,
        finding=f"at {most[1]} tokens each new token has moved"
        f" {format_bytes(grow.read_bytes_per_token)} instead of"
        f" {format_bytes(kept.read_bytes_per_token)}: the copies grow with the context, so their"
        " sum grows with its square",
    )


def _least(at: RowsByCase) -> int:
    return min(tokens for _, _, tokens in at)
