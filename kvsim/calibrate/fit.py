"""Fit step-time coefficients to measured steps, by bounded robust least squares.

What is minimised is ``sum soft_l1((predicted / measured - 1) / 3 %)``: relative, so that a
2 ms decode step counts as much as a 200 ms prefill, and robust, so that a row where the
form is wrong does not bend all others. Rates stay within 0.3 to 1.0 of the datasheet:
where weights dominate, some are weakly identified and would otherwise run away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kvsim.calibrate.minimise import Free, least_squares
from kvsim.calibrate.rows import Floats, StepRows
from kvsim.errors import InputError
from kvsim.specs.hardware import ExpertRates, GemmRates, Link, StepCoefficients
from kvsim.units import KIB, MIB

__all__ = [
    "Datasheet",
    "Fit",
    "fit_gemms",
    "fit_link",
    "fit_steps",
    "gemms_beside",
    "percent_errors",
    "predict",
    "rates_times",
    "round_significant",
    "split_factors",
    "unfitted",
]

_Rates = TypeVar("_Rates", StepCoefficients, GemmRates)
_Reached = TypeVar("_Reached", GemmRates, ExpertRates)
_FACTOR_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_FACTOR_STIFFNESS = 0.5  # how strongly tile factors are pulled towards 1
_FEWEST_ROWS = 12
_NOTHING = 1e-15  # an optimiser's way of saying zero
_FEWEST_SIZES = 3
_LINK_BYTES = (4 * KIB, 128 * MIB)
_LARGE = 8 * MIB


@dataclass(frozen=True, slots=True)
class Datasheet:
    """What a fit may not exceed: bytes/s and bf16 FLOP/s."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients and how well they describe the rows that they were fitted on.

    Parameters
    ----------
    coefficients : StepCoefficients
        The answer.
    error_percent : float
        Mean absolute percentage error on those rows.
    row_count : int
        Number of rows.
    """

    coefficients: StepCoefficients
    error_percent: float
    row_count: int


# Rates are shares of the datasheet; times are in the unit that keeps them near 1. A layer
# launches at least ten kernels, of 1.5 us and more each; no table's largest GEMV reads its
# weights at more than 95 % of the datasheet.
_STEP_PARAMETERS = (
    Free("weight_bytes_per_s", 0.85, 0.3, 0.95, "bandwidth"),
    Free("flops_per_s", 0.8, 0.3, 1.0, "flops"),
    Free("layer_seconds", 35.0, 15.0, 500.0, "us"),
    Free("norm", 2.5, 2.0, 4.0),
    Free("kv_bytes_per_s", 0.85, 0.3, 1.0, "bandwidth"),
    Free("head_seconds", 12.0, 0.0, 200.0, "ns"),
    Free("mixed_kv_factor", 1.2, 1.0, 4.0),
    Free("mixed_head_seconds", 20.0, 0.0, 1000.0, "ns"),
    Free("attention_flops_per_s", 0.5, 0.3, 1.0, "flops"),
    Free("attention_token_seconds", 0.5, 0.0, 3.0, "ns"),
)


def predict(rows: StepRows, rates: StepCoefficients, *, weights: str = "") -> Floats:
    """Seconds of every row (n): the terms of `kvsim.steptime.terms`, column by column.

    Parameters
    ----------
    rows : StepRows
        Steps; their measured seconds are not looked at.
    rates : StepCoefficients
        Coefficients.
    weights : str
        Format of the weights, of `StepCoefficients.gemms`, with KV in fp8; "": all is bf16.
    """
    if weights:
        rates = _narrow(rates, rates.gemms[weights])
    weight = rows.weight_bytes / rates.weight_bytes_per_s
    tiles = _tile_factors(rows.tokens, rates.token_factors)
    compute = tiles * rows.flops / rates.flops_per_s
    decoding = rows.phase != "prefill"
    mixed = rows.phase == "mixed"
    slowed = np.where(mixed, rates.mixed_kv_factor, 1.0)
    start = rates.head_seconds + mixed * rates.mixed_head_seconds
    device = (
        rows.layers * rates.layer_seconds
        + _roofline(weight, compute, rates.norm)
        + slowed * rows.kv_bytes / rates.kv_bytes_per_s
        + decoding * rows.sequences * rows.kv_heads * start
        + rows.attention_flops / rates.attention_flops_per_s
        + rows.query_tokens * rates.attention_token_seconds
        + _link_seconds(rows, rates.collectives)
    )
    each = rates.launch_seconds + rows.sequences * rates.sequence_launch_seconds
    ends = rates.host_seconds + rows.sequences * rates.sequence_seconds
    return np.asarray(ends + np.maximum(rows.layers * each, device))


def _roofline(weight: Floats, compute: Floats, norm: float) -> Floats:
    large, small = np.maximum(weight, compute), np.minimum(weight, compute)
    return np.asarray(large * (1 + (small / large) ** norm) ** (1 / norm))


def _tile_factors(tokens: Floats, factors: Mapping[int, float]) -> Floats:
    if not factors:
        return np.ones_like(tokens)
    known = sorted(factors)
    levels = [factors[n] for n in known]
    return np.asarray(np.interp(np.log2(tokens), np.log2(known), levels))


def _link_seconds(rows: StepRows, links: Mapping[int, Link]) -> Floats:
    total = np.zeros_like(rows.seconds)
    for degree, link in links.items():
        message = rows.message_bytes
        each = link.seconds + message / link.bytes_per_s
        if link.large_from_bytes is not None:
            large = link.large_seconds + message / (link.large_bytes_per_s or link.bytes_per_s)
            each = np.where(message < link.large_from_bytes, each, large)
        total += np.where(rows.tp == degree, 2 * rows.layers * each, 0.0)
    return total


def _narrow(rates: StepCoefficients, gemms: GemmRates) -> StepCoefficients:
    """Return the rates that steps with these GEMMs and KV in fp8 see."""
    return rates.model_copy(
        update={
            "weight_bytes_per_s": gemms.bytes_per_s,
            "flops_per_s": gemms.flops_per_s,
            "token_factors": gemms.token_factors,
            "kv_bytes_per_s": rates.kv_bytes_per_s * rates.fp8_kv_speedup / 2,
            "layer_seconds": rates.layer_seconds + gemms.seconds,
        }
    )


def percent_errors(rows: StepRows, rates: StepCoefficients, *, weights: str = "") -> Floats:
    """Signed errors (n) of the prediction, percent of the measurement; `weights`: see `predict`."""
    return 100 * (predict(rows, rates, weights=weights) / rows.seconds - 1)


# --- fitting -------------------------------------------------------------------------------------


def fit_steps(
    rows: StepRows,
    datasheet: Datasheet,
    base: StepCoefficients,
    *,
    tiles: bool = True,
    summed: bool = False,
) -> Fit:
    """Fit the rates and fixed costs to measured steps.

    Parameters
    ----------
    rows : StepRows
        Steps of one card.
    datasheet : Datasheet
        Bounds of the rates.
    base : StepCoefficients
        Engine, source, links and host costs, which are kept; GEMMs in narrower formats stay as
        many times bf16's.
    tiles : bool
        Whether to fit `token_factors` too.
    summed : bool
        Whether mixed steps are sums of separate kernels: then they say nothing about
        attention over prefill and decode at once.

    Raises
    ------
    InputError
        For fewer than 12 kinds of rows.
    MissingExtraError
        Without scipy.
    """
    if (kinds := rows.distinct()) < _FEWEST_ROWS:
        of_kinds = f" of {kinds} kinds" if kinds < len(rows) else ""
        raise InputError(
            f"{len(rows)} rows{of_kinds} are too few to fit",
            fix=f"give at least {_FEWEST_ROWS}, over several batches, contexts and prompts",
        )
    free = _identified(rows, summed=summed) + (_factors_within(rows) if tiles else ())

    def build(values: Floats) -> StepCoefficients:
        return base.model_copy(update=_updates(free, values, datasheet))

    def residuals(values: Floats) -> Floats:
        errors = predict(rows, build(values)) / rows.seconds - 1
        return np.concatenate([errors, _pulls(free, values, len(rows))])

    found = build(least_squares(residuals, free))
    return _graded(found.model_copy(update={"gemms": gemms_beside(found, base)}), rows)


def _pulls(free: tuple[Free, ...], values: Floats, rows: int) -> Floats:
    """Residuals that pull tile factors towards 1."""
    stiffness = np.sqrt(rows / 1000) * _FACTOR_STIFFNESS
    pulls = [v - 1 for p, v in zip(free, values, strict=True) if p.name.startswith("factor")]
    return np.asarray(stiffness * np.array(pulls))


def _identified(rows: StepRows, *, summed: bool) -> tuple[Free, ...]:
    """Leave out the parameters that no row says anything about."""
    absent: set[str] = set()
    if not rows.kv_bytes.any():
        absent |= {"kv_bytes_per_s", "head_seconds"}
    if not rows.attention_flops.any():
        absent |= {"attention_flops_per_s", "attention_token_seconds"}
    if summed or not (rows.phase == "mixed").any():
        absent |= {"mixed_kv_factor", "mixed_head_seconds"}
    return tuple(parameter for parameter in _STEP_PARAMETERS if parameter.name not in absent)


def _factors_within(rows: StepRows) -> tuple[Free, ...]:
    """Tile factors at the token counts that rows reach."""
    most = rows.tokens.max()
    return tuple(Free(f"factor_{n}", 1.0, 0.8, 1.5) for n in _FACTOR_TOKENS if n <= most)


def fit_gemms(rows: StepRows, base: StepCoefficients, name: str) -> Fit:
    """Fit one narrower format's GEMMs to steps with such weights and KV in fp8; all else is kept.

    With "fp8" goes what KV in fp8 gains, which other formats' steps find known.

    Parameters
    ----------
    rows : StepRows
        Steps of one card.
    base : StepCoefficients
        The card's, in bf16.
    name : str
        Key of `StepCoefficients.gemms`.
    """
    free: tuple[Free, ...] = (
        Free("bytes_per_s", 0.9, 0.4, 1.05),
        Free("flops_per_s", 1.6, 0.8, 8.0),
        Free("seconds", 20.0, 0.0, 500.0, "us"),
        *_factors_within(rows),
    )
    if name == "fp8":
        free = (*free, Free("fp8_kv_speedup", 1.7, 0.8, 2.2))

    def build(values: Floats) -> StepCoefficients:
        found = _updates(free, values, None)
        updates = {key: found.pop(key) for key in ("fp8_kv_speedup",) if key in found}
        found["bytes_per_s"] *= base.weight_bytes_per_s
        found["flops_per_s"] *= base.flops_per_s
        updates["gemms"] = {**base.gemms, name: GemmRates(**found)}
        return base.model_copy(update=updates)

    def residuals(values: Floats) -> Floats:
        errors = predict(rows, build(values), weights=name) / rows.seconds - 1
        return np.concatenate([errors, _pulls(free, values, len(rows))])

    return _graded(build(least_squares(residuals, free)), rows, weights=name)


def fit_link(times: Mapping[int, float]) -> Link:
    """Fit ``a + bytes / bandwidth`` to all-reduce times by message bytes, relative errors.

    Messages from 4 KiB to 128 MiB count, which is what steps send. Those of 8 MiB and more
    are fitted apart: engines hand them to another algorithm.
    """
    small = {size: time for size, time in times.items() if _LINK_BYTES[0] <= size < _LARGE}
    large = {size: time for size, time in times.items() if _LARGE <= size <= _LINK_BYTES[1]}
    start, rate = _affine(small)
    link = Link(seconds=start, bytes_per_s=rate)
    if len(large) < _FEWEST_SIZES:
        return link
    start, rate = _affine(large)
    return Link(
        seconds=link.seconds,
        bytes_per_s=link.bytes_per_s,
        large_from_bytes=_LARGE,
        large_seconds=start,
        large_bytes_per_s=rate,
    )


def _affine(times: Mapping[int, float]) -> tuple[float, float]:
    """Start-up seconds and bytes/s of one regime."""
    if len(times) < _FEWEST_SIZES:
        raise InputError(f"{len(times)} message sizes are too few to fit a link")
    sizes = np.array(sorted(times), dtype=np.float64)
    seconds = np.array([times[int(size)] for size in sizes])
    free = (Free("seconds", 5.0, 0.1, 1000.0), Free("bytes_per_s", 200.0, 0.1, 5000.0))

    def residuals(values: Floats) -> Floats:
        return np.asarray((values[0] * 1e-6 + sizes / (values[1] * 1e9)) / seconds - 1)

    start, rate = least_squares(residuals, free)
    return round_significant(start * 1e-6), round_significant(rate * 1e9)


def _graded(coefficients: StepCoefficients, rows: StepRows, *, weights: str = "") -> Fit:
    """Round to what a fit can claim, then measure the error of what is left."""
    gemms = {name: _rounded(each) for name, each in coefficients.gemms.items()}
    coefficients = _rounded(coefficients).model_copy(update={"gemms": gemms})
    error = float(np.mean(np.abs(percent_errors(rows, coefficients, weights=weights))))
    return Fit(coefficients, round(error, 2), len(rows))


def _rounded(known: _Rates) -> _Rates:
    """Its numbers and tile factors with the digits that a fit can claim."""
    factors = {key: round_significant(value) for key, value in known.token_factors.items()}
    numbers = {name: round_significant(value) for name, value in known if type(value) is float}
    return known.model_copy(update={**numbers, "token_factors": factors})


def _updates(free: tuple[Free, ...], values: Floats, datasheet: Datasheet | None) -> dict[str, Any]:
    """Turn a vector of parameters into the fields of `StepCoefficients`, SI units."""
    units = {"": 1.0, "us": 1e-6, "ns": 1e-9}
    if datasheet is not None:
        units |= {"bandwidth": datasheet.bytes_per_s, "flops": datasheet.flops_per_s}
    scale = np.array([units[parameter.unit] for parameter in free])
    updates, factors = split_factors(free, values * scale)
    return {**updates, "token_factors": factors} if factors else {**updates}


def split_factors(
    free: tuple[Free, ...], values: Floats
) -> tuple[dict[str, float], dict[int, float]]:
    """Split parameters into those with names of their own, and tile factors by tokens."""
    named = {p.name: float(value) for p, value in zip(free, values, strict=True)}
    factors = {
        int(name.removeprefix("factor_")): named.pop(name)
        for name in [*named]
        if name.startswith("factor_")
    }
    return named, factors


def unfitted(**known: Any) -> StepCoefficients:
    """Return coefficients with what is known of them (engine, source, date); a fit does the rest.

    Rates are 1 and times 0 until then.
    """
    rates = ("weight_bytes_per_s", "flops_per_s", "kv_bytes_per_s", "attention_flops_per_s")
    unknown: dict[str, Any] = dict.fromkeys(rates, 1.0)
    return StepCoefficients(**unknown, layer_seconds=0.0, **known)


def rates_times(
    known: Mapping[str, _Reached], reading: float, multiplying: float
) -> dict[str, _Reached]:
    """Rates by format, with their bandwidths and their arithmetic multiplied."""
    return {
        name: each.model_copy(
            update={
                "bytes_per_s": round_significant(reading * each.bytes_per_s),
                "flops_per_s": round_significant(multiplying * each.flops_per_s),
            }
        )
        for name, each in known.items()
    }


def gemms_beside(rates: StepCoefficients, known: StepCoefficients) -> dict[str, GemmRates]:
    """GEMMs in narrower formats beside a card's in bf16: as many times those as on a known card."""
    return rates_times(
        known.gemms,
        rates.weight_bytes_per_s / known.weight_bytes_per_s,
        rates.flops_per_s / known.flops_per_s,
    )


def round_significant(value: float, digits: int = 4) -> float:
    """Keep so many significant digits: more than a fit can claim."""
    return float(f"{value:.{digits}g}") if abs(value) > _NOTHING else 0.0
