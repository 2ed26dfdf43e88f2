"""Profiles as pictures: what was measured beside the datasheet, and its provenance.

Plots of predictions beside measurements of whole runs are in `kvsim.figures.measured`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.theme import PALETTE, Axis, draw, label, series_colour
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.steptime.defaults import class_coefficients

__all__ = ["coefficients_chart", "coefficients_table", "profile_table"]


class _Rate(NamedTuple):
    """A coefficient that a datasheet speaks of too."""

    name: str
    key: str
    is_bandwidth: bool


_RATES = (
    _Rate("weights read", "weight_bytes_per_s", True),
    _Rate("KV cache read", "kv_bytes_per_s", True),
    _Rate("GEMMs, bf16", "flops_per_s", False),
    _Rate("prefill attention", "attention_flops_per_s", False),
)
_COSTS = {
    "layer_seconds": ("per layer", "s"),
    "host_seconds": ("host, per step", "s"),
    "sequence_seconds": ("host, per sequence and step", "s"),
    "launch_seconds": ("launches of a layer", "s"),
    "sequence_launch_seconds": ("launches of a layer, per sequence", "s"),
    "head_seconds": ("decode, per KV head of a sequence", "s"),
    "mixed_head_seconds": ("the same, added where a step prefills too", "s"),
    "mixed_kv_factor": ("reading KV where a step prefills too", "times"),
    "attention_token_seconds": ("prefill, per query head of a token", "s"),
    "elementwise_bytes_per_s": ("norms, rotary, activations", "B/s"),
    "norm": ("exponent that joins memory and arithmetic", ""),
    "fp8_kv_speedup": ("fp8 KV read", "times as fast"),
}
_GEMM_COSTS = {
    "seconds": ("quantising activations, per layer", "s"),
    "bytes_per_s": ("weights read", "B/s"),
    "flops_per_s": ("GEMMs", "FLOP/s"),
}


# Beside each other on a narrow screen, the names would be turned.
_TWO_LINES = {
    "tickvals": [rate.name for rate in _RATES],
    "ticktext": ["<br>".join(rate.name.rsplit(" ", 1)) for rate in _RATES],
}


def _coefficients(profile: AcceleratorProfile) -> tuple[StepCoefficients, bool]:
    """The profile's own coefficients, or its class's; and whether they are its own."""
    own = profile.coefficients
    return (own, True) if own is not None else (class_coefficients(profile), False)


def _datasheet(profile: AcceleratorProfile, rate: _Rate) -> float:
    return profile.bandwidth_bytes_per_s if rate.is_bandwidth else profile.flops_per_s("bf16")


# --- coefficients beside the datasheet -------------------------------------------------------


def coefficients_chart(profiles: Sequence[AcceleratorProfile]) -> Chart:
    """Draw what each card reaches of its datasheet, percent, with the error of its fit.

    The whisker is the mean error of the step times that the coefficients predict, on the rows
    that they were fitted on: one number per card, not a spread of each coefficient. A card that
    nobody measured shows its architecture's medians, hollow.
    """
    rows = [row for profile in profiles for row in _share_rows(profile)]
    figure = draw(
        [_share_bars(profile, at) for at, profile in enumerate(profiles)],
        x=Axis(settings={"type": "category", **_TWO_LINES}),
        y=Axis("of the datasheet", "%", settings={"range": [0, 110]}),
        height=400,
        barmode="group",
    )
    return Chart("coefficients", "Measured, beside the datasheet", rows, _share_alt(rows), figure)


def _share_rows(profile: AcceleratorProfile) -> list[Row]:
    found, _ = _coefficients(profile)
    return [
        {
            "card": profile.name,
            "coefficient": rate.name,
            "unit": "bytes/s" if rate.is_bandwidth else "FLOP/s",
            "measured": getattr(found, rate.key),
            "datasheet": _datasheet(profile, rate),
            "share": getattr(found, rate.key) / _datasheet(profile, rate),
            "fit_error_percent": found.error_percent,
            "status": profile.step_times,
        }
        for rate in _RATES
    ]


def _share_bars(profile: AcceleratorProfile, number: int) -> dict[str, Any]:
    rows = _share_rows(profile)
    error = rows[0]["fit_error_percent"]
    colour = series_colour(number)
    assumed = rows[0]["status"] == "assumed"
    marker: dict[str, Any] = {"color": colour}
    if assumed:
        marker = {"color": "rgba(0,0,0,0)", "line": {"color": colour, "width": 2}}
    return {
        "type": "bar",
        "name": label(f"{profile.name} (assumed)" if assumed else profile.name),
        "x": [row["coefficient"] for row in rows],
        "y": [100 * row["share"] for row in rows],
        "customdata": [[row["measured"], row["datasheet"], row["unit"]] for row in rows],
        "marker": marker,
        "error_y": {
            "type": "percent",
            "value": error or 0,
            "visible": bool(error),
            "thickness": 1.5,
            "color": PALETTE["grey"],
        },
        "hovertemplate": "%{x}: %{y:.1f} %<br>%{customdata[0]:.4s} of %{customdata[1]:.4s}"
        " %{customdata[2]}",
    }


def _share_alt(rows: Sequence[Row]) -> str:
    said = "; ".join(
        f"{row['card']} {row['coefficient']} {100 * row['share']:.0f} % ({row['status']})"
        for row in rows
    )
    return f"Share of the datasheet that each card reaches: {said}."


def coefficients_table(profile: AcceleratorProfile) -> Table:
    """List every coefficient of a card: the rates beside the datasheet, then the fixed costs."""
    found, is_own = _coefficients(profile)
    rates = [_rate_row(row) for row in _share_rows(profile)]
    costs = [
        _cost_row(words, getattr(found, key), unit)
        for key, (words, unit) in _COSTS.items()
        if getattr(found, key)
    ]
    costs += [
        _cost_row(f"{name}: {words}", getattr(each, key), unit)
        for name, each in found.gemms.items()
        for key, (words, unit) in _GEMM_COSTS.items()
    ]
    kind = "Coefficients" if is_own else "Assumed coefficients"
    return Table("coefficient-list", f"{kind} of {profile.name}", [*rates, *costs])


def _rate_row(row: Row) -> Row:
    """A rate in the unit that people use: GB/s (10**9) or TFLOP/s."""
    scale, unit = (1e9, "GB/s") if row["unit"] == "bytes/s" else (1e12, "TFLOP/s")
    return {
        "coefficient": row["coefficient"],
        "value": round(row["measured"] / scale, 1),
        "unit": unit,
        "datasheet": f"{row['datasheet'] / scale:,.0f} {unit}",
        "of the datasheet": f"{100 * row['share']:.1f} %",
    }


_SHOWN = {"s": (1e6, "µs"), "B/s": (1e-9, "GB/s"), "FLOP/s": (1e-12, "TFLOP/s")}


def _cost_row(words: str, value: float, unit: str) -> Row:
    scale, shown = _SHOWN.get(unit, (1.0, unit))
    if unit == "s" and value < 1e-6:
        scale, shown = 1e9, "ns"
    return {
        "coefficient": words,
        "value": round(value * scale, 3),
        "unit": shown,
        "datasheet": "",
        "of the datasheet": "",
    }


def profile_table(profile: AcceleratorProfile) -> Table:
    """List where each number of a card comes from."""
    found, is_own = _coefficients(profile)
    error = "not stated" if found.error_percent is None else f"{found.error_percent:g} %"
    rows: list[Row] = [
        _origin("memory", f"{profile.memory_bytes:,} bytes", profile.memory),
        _origin("bandwidth", f"{profile.bandwidth.value:.4g} bytes/s", profile.bandwidth),
        *(
            _origin(f"arithmetic, {dtype}", f"{rate.value:.4g} FLOP/s", rate)
            for dtype, rate in profile.flops.items()
        ),
        {
            "what": "step-time coefficients",
            "value": f"mean error {error}" if is_own else "architecture's median",
            "source": ", ".join(filter(None, (found.source, found.date))),
            "confidence": profile.step_times,
        },
    ]
    if found.fitted_on:
        rows.append(
            {
                "what": "fitted on",
                "value": "",
                "source": found.fitted_on,
                "confidence": "",
            }
        )
    return Table("provenance", f"Where the numbers of {profile.name} come from", rows)


def _origin(what: str, value: str, quantity: Any) -> Row:
    return {
        "what": what,
        "value": value,
        "source": quantity.source,
        "confidence": quantity.confidence,
    }
