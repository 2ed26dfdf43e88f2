"""Measured beside predicted: ``kvsim validate``, a benchmark, and somebody's own steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.page import Lines, html_page
from kvsim.figures.theme import (
    CATEGORIES,
    ONE_TWO_FIVE,
    PALETTE,
    Axis,
    draw,
    label,
    reference_line,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "bench_chart",
    "bench_table",
    "error_chart",
    "measured_steps_chart",
    "step_time_chart",
    "validation_page",
]

Record = Mapping[str, Any]


def _beside_the_diagonal(
    traces: Iterable[Mapping[str, Any]], ends_ms: Sequence[float], *, height: int
) -> Figure:
    """Draw measured over predicted milliseconds per step: a perfect model is the diagonal."""
    span = [min(ends_ms, default=1.0), max(ends_ms, default=1.0)]
    return draw(
        [*traces, reference_line("equal", span, span)],
        x=Axis("predicted", "ms per step", log=True, settings=ONE_TWO_FIVE),
        y=Axis("measured", "ms per step", log=True, settings=ONE_TWO_FIVE),
        height=height,
    )


# ---- validation -----------------------------------------------------------------------------


def validation_page(record: Record) -> str:
    """Write a validation as one self-contained HTML page.

    Parameters
    ----------
    record : mapping
        What ``kvsim validate`` writes as ``comparison.json``.
    """
    blocks: list[Table] = [
        Lines(
            "what",
            "What was run",
            [
                f"{record['model']} on {record['device']}",
                f"torch {record['torch']}, {record['clock']}",
                f"coefficients {record['provenance']}",
            ],
        ),
        step_time_chart(record["runs"]),
        error_chart(record["runs"]),
    ]
    for number, run in enumerate(record["runs"]):
        title = f"{run['label']}: latency and memory"
        blocks.append(Table(f"run-{number}", title, [*run["latency"], *run["memory"]]))
    return html_page("Predicted beside measured", blocks)


def step_time_chart(runs: Sequence[Record]) -> Chart:
    """Draw measured step times against predicted ones: a perfect model is the diagonal."""
    rows = [{"run": run["label"], **group} for run in runs for group in run["step_groups"]]
    traces = [_group_trace(phase, rows) for phase in ("decode", "prefill")]
    ends = [1e3 * row[key] for row in rows for key in ("predicted_seconds", "measured_seconds")]
    figure = _beside_the_diagonal(traces, ends, height=460)
    alt = "Median step times by batch and context, measured over predicted, beside the diagonal."
    return Chart("steps", "Step times", rows, alt, figure)


def _group_trace(phase: str, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row["phase"] == phase]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": phase,
        "x": [1e3 * row["predicted_seconds"] for row in mine],
        "y": [1e3 * row["measured_seconds"] for row in mine],
        "customdata": [[row["sequences"], row["context"], row["steps"]] for row in mine],
        "hovertemplate": "up to %{customdata[0]} sequences, %{customdata[1]} tokens"
        "<br>predicted %{x:.3g} ms, measured %{y:.3g} ms"
        "<br>%{customdata[2]} steps<extra></extra>",
    }


def error_chart(runs: Sequence[Record]) -> Chart:
    """Draw how far every latency and throughput is off, a bar per run."""
    rows = [
        {"run": run["label"], **pair}
        for run in runs
        for pair in run["latency"]
        if pair["error_percent"] is not None
    ]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": run["label"],
            "y": [row["name"] for row in rows if row["run"] == run["label"]],
            "x": [row["error_percent"] for row in rows if row["run"] == run["label"]],
            "hovertemplate": "%{y}: off by %{x:+.1f} %",
        }
        for run in runs
    ]
    figure = draw(
        traces,
        x=Axis("prediction off by", "%"),
        y=CATEGORIES,
        height=460,
        bargap=0.25,
    )
    alt = "Error of every predicted latency and throughput, percent of the measurement."
    return Chart("errors", "Latency and throughput", rows, alt, figure)


# ---- a benchmark ----------------------------------------------------------------------------


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
        y=CATEGORIES,
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


# ---- somebody's own steps -------------------------------------------------------------------


def measured_steps_chart(steps: Mapping[str, Any], card: str) -> Chart:
    """Draw measured step times against those that a card's coefficients predict.

    Parameters
    ----------
    steps : mapping of str to array (n,)
        "phase", "tokens", "predicted_seconds" and "measured_seconds".
    card : str
        Whose coefficients predict.
    """
    rows = _thinned_steps(steps)
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    ends = [row[key] for row in rows for key in ("predicted_ms", "measured_ms")]
    traces = [_phase_trace(phase, rows) for phase in phases]
    figure = _beside_the_diagonal(traces, ends, height=440)
    errors = np.abs(steps["predicted_seconds"] / steps["measured_seconds"] - 1)
    alt = (
        f"{len(errors):,} measured steps beside the prediction of {card}: off by"
        f" {100 * errors.mean():.1f} % on average."
    )
    return Chart("measured-steps", f"Your steps beside {card}", rows, alt, figure)


_MOST_POINTS = 3000


def _thinned_steps(steps: Mapping[str, Any]) -> list[Row]:
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
