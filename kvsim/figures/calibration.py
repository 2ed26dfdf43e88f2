"""Profiles as pictures: what was measured beside the datasheet, and its provenance.

Plots of predictions beside measurements of whole runs are in `kvsim.figures.measured`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.theme import CYCLE, ONE_TWO_FIVE, PALETTE, Axis, draw, label
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.steptime.defaults import class_coefficients

__all__ = [
    "bench_chart",
    "bench_table",
    "coefficients_chart",
    "coefficients_table",
    "measured_steps_chart",
    "profile_table",
]


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
    "head_seconds": ("decode, per KV head of a sequence", "s"),
    "mixed_head_seconds": ("the same, added where a step prefills too", "s"),
    "mixed_kv_factor": ("reading KV where a step prefills too", "times"),
    "attention_token_seconds": ("prefill, per query head of a token", "s"),
    "fp8_layer_seconds": ("quantising activations, per layer", "s"),
    "expert_layer_seconds": ("choosing experts, per layer", "s"),
    "expert_flops_share": ("GEMMs of experts", "of the dense rate"),
    "norm": ("exponent that joins memory and arithmetic", ""),
    "fp8_weight_speedup": ("fp8 weights read", "times as fast"),
    "fp8_kv_speedup": ("fp8 KV read", "times as fast"),
    "fp8_flops_speedup": ("8-bit GEMMs", "times as fast"),
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
    nobody measured shows its class's median, hollow.
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
    found, is_own = _coefficients(profile)
    return [
        {
            "card": profile.name,
            "coefficient": rate.name,
            "unit": "bytes/s" if rate.is_bandwidth else "FLOP/s",
            "measured": getattr(found, rate.key),
            "datasheet": _datasheet(profile, rate),
            "share": getattr(found, rate.key) / _datasheet(profile, rate),
            "fit_error_percent": found.error_percent,
            "status": "measured" if is_own else "assumed",
        }
        for rate in _RATES
    ]


def _share_bars(profile: AcceleratorProfile, number: int) -> dict[str, Any]:
    rows = _share_rows(profile)
    error = rows[0]["fit_error_percent"]
    colour = CYCLE[number % len(CYCLE)]
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


def _cost_row(words: str, value: float, unit: str) -> Row:
    scale, shown = 1.0, unit
    if unit == "s":
        scale, shown = (1e6, "µs") if value >= 1e-6 else (1e9, "ns")
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
            "value": f"mean error {error}" if is_own else "class median",
            "source": ", ".join(filter(None, (found.source, found.date))),
            "confidence": "fitted" if is_own else "assumed",
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


# --- what somebody measured ------------------------------------------------------------------


class PredictedPair(Protocol):
    """A quantity predicted and measured, in the unit that its name states."""

    @property
    def name(self) -> str:
        """Its key in the result file."""

    @property
    def predicted(self) -> float:
        """By the simulation."""

    @property
    def measured(self) -> float:
        """By the benchmark."""

    @property
    def error_percent(self) -> float | None:
        """How far off, percent of the measurement; None of nothing."""


def bench_chart(found: Sequence[PredictedPair]) -> Chart:
    """Draw how far each predicted number of a benchmark is off, percent of the measurement."""
    pairs = [pair for pair in found if pair.error_percent is not None]
    figure = draw(
        [
            {
                "type": "bar",
                "orientation": "h",
                "y": [pair.name for pair in pairs],
                "x": [pair.error_percent for pair in pairs],
                "customdata": [[pair.predicted, pair.measured] for pair in pairs],
                "marker": {"color": PALETTE["blue"]},
                "hovertemplate": "%{y}<br>off by %{x:+.1f} %<br>predicted %{customdata[0]:,.4g},"
                " measured %{customdata[1]:,.4g}<extra></extra>",
            }
        ],
        x=Axis("prediction off by", "%"),
        y=Axis(settings={"type": "category", "autorange": "reversed"}),
        height=130 + 24 * len(pairs),
    )
    said = "; ".join(f"{pair.name} {pair.error_percent:+.1f} %" for pair in pairs)
    rows = list(bench_table(found).rows)
    return Chart("bench", "Predicted beside the benchmark", rows, f"Errors: {said}.", figure)


def bench_table(found: Sequence[PredictedPair]) -> Table:
    """List the numbers of a benchmark beside their predictions."""
    rows = [
        {
            "name": pair.name,
            "predicted": pair.predicted,
            "measured": pair.measured,
            "off %": None if pair.error_percent is None else round(pair.error_percent, 1),
        }
        for pair in found
    ]
    return Table("bench-pairs", "Predicted and measured", rows)


def measured_steps_chart(steps: Mapping[str, Any], card: str) -> Chart:
    """Draw measured step times against those that a card's coefficients predict.

    Parameters
    ----------
    steps : mapping of str to array (n,)
        "phase", "tokens", "predicted_seconds" and "measured_seconds".
    card : str
        Whose coefficients predict.
    """
    rows = _binned_steps(steps)
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    ends = [row[key] for row in rows for key in ("predicted_ms", "measured_ms")]
    span = [min(ends, default=1.0), max(ends, default=1.0)]
    figure = draw(
        [
            *(_phase_trace(phase, rows) for phase in phases),
            {
                "type": "scatter",
                "mode": "lines",
                "name": "equal",
                "x": span,
                "y": span,
                "line": {"dash": "dash", "color": PALETTE["grey"]},
                "hoverinfo": "skip",
            },
        ],
        x=Axis("predicted", "ms per step", log=True, settings=ONE_TWO_FIVE),
        y=Axis("measured", "ms per step", log=True, settings=ONE_TWO_FIVE),
        height=440,
    )
    errors = np.abs(steps["predicted_seconds"] / steps["measured_seconds"] - 1)
    alt = (
        f"{len(errors):,} measured steps beside the prediction of {card}: off by"
        f" {100 * errors.mean():.1f} % on average."
    )
    return Chart("measured-steps", f"Your steps beside {card}", rows, alt, figure)


_MOST_POINTS = 3000


def _binned_steps(steps: Mapping[str, Any]) -> list[Row]:
    """Steps as rows, thinned evenly to what a browser draws at ease."""
    count = len(steps["phase"])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))
    return [
        {
            "phase": str(steps["phase"][at]),
            "tokens": int(steps["tokens"][at]),
            "predicted_ms": 1e3 * float(steps["predicted_seconds"][at]),
            "measured_ms": 1e3 * float(steps["measured_seconds"][at]),
            "off %": 100
            * (float(steps["predicted_seconds"][at] / steps["measured_seconds"][at]) - 1),
        }
        for at in chosen.tolist()
    ]


def _phase_trace(phase: str, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row["phase"] == phase]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(phase),
        "x": [row["predicted_ms"] for row in mine],
        "y": [row["measured_ms"] for row in mine],
        "customdata": [[row["tokens"], row["off %"]] for row in mine],
        "hovertemplate": "%{customdata[0]:,} tokens<br>predicted %{x:.3g} ms, measured %{y:.3g} ms"
        "<br>off by %{customdata[1]:+.1f} %<extra></extra>",
    }
