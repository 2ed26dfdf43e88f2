"""Variants of a scenario side by side: small multiples on shared axes, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvsim.figures.chart import Chart, Table, rounded
from kvsim.figures.page import Lines, html_page
from kvsim.figures.simulation import (
    POINTS,
    latency_axis,
    latency_curves,
    latency_line,
    numbers_table,
)
from kvsim.figures.theme import Axis, draw, label, series_colour
from kvsim.figures.timeline import axis_number, panel_title, stacked_panels
from kvsim.results.latencies import grows_with_the_run
from kvsim.results.time_bins import time_bins
from kvsim.results.words import COMPARED, LATENCIES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from kvsim.results.statistics import Interval
    from kvsim.results.time_bins import TimeBins
    from kvsim.runs.compare import SimulationComparison, Variant

__all__ = [
    "bands_table",
    "comparison_report",
    "differences_table",
    "interval_chart",
    "latency_panels",
    "queue_panels",
    "split_panels",
    "values_table",
]

_DRAWN = (
    "mean_ttft_ms",
    "mean_tpot_ms",
    "output_throughput",
    "kv_cache.waste.token_states",
)
_PANELS = ("ttft", "tpot", "e2el", "queue")
_PANEL_PIXELS = 170


# --- tables --------------------------------------------------------------------------------


def values_table(found: SimulationComparison) -> Table:
    """Tabulate what each variant came to, a column per variant."""
    means = [_means(variant) for variant in found.variants]
    rows = [
        {"quantity": quantity.words, "unit": quantity.unit}
        | {
            variant.label: rounded(mean.get(key))
            for variant, mean in zip(found.variants, means, strict=True)
        }
        for key, quantity in COMPARED.items()
        if any(mean.get(key) for mean in means)
    ]
    return Table("values", "The same requests under each", rows)


def bands_table(found: SimulationComparison) -> Table:
    """Tabulate within what each variant's latencies would be measured, by the band of its class."""
    rows = [
        {
            "quantity": COMPARED[key].words,
            "unit": COMPARED[key].unit,
            "variant": variant.label,
            "simulated": rounded(_means(variant).get(key)),
            "from": rounded(span[0]),
            "to": rounded(span[1]),
        }
        for key in COMPARED
        for variant in found.variants
        if (span := variant.runs.time_bands["intervals"].get(key))
    ]
    return Table("bands", "Within what they would be measured", rows)


def differences_table(found: SimulationComparison) -> Table:
    """Tabulate differences from the first variant, paired run by run, with 95 % intervals.

    The interval is there from two runs on; what grows for as long as a saturated run goes on
    is left out.
    """
    first, *others = found.variants
    bases = _means(first)
    rows = [
        row
        for key in bases
        for variant in others
        if (row := _difference(found, variant, key, bases[key])) is not None
    ]
    return Table("differences", f"Differences from {first.label}", rows)


def _difference(
    found: SimulationComparison, variant: Variant, key: str, base: float
) -> dict[str, Any] | None:
    """One quantity of one variant; None where either side has no value."""
    change = found.difference(variant, key)
    if change is None or _says_nothing(variant, key):
        return None
    several = len(variant.runs.whole) > 1
    return {
        "quantity": COMPARED[key].words,
        "unit": COMPARED[key].unit,
        "variant": variant.label,
        f"{found.variants[0].label} has": rounded(base),
        "difference": rounded(change.mean),
        "from": rounded(change.low) if several else None,
        "to": rounded(change.high) if several else None,
        "in percent": rounded(100 * change.mean / base) if base else None,
    }


def _means(variant: Variant) -> dict[str, float]:
    """Means over the variant's runs of what is compared, where they say something."""
    intervals = variant.runs.intervals
    return {
        key: intervals[key].mean
        for key in COMPARED
        if key in intervals and not _says_nothing(variant, key)
    }


def _says_nothing(variant: Variant, key: str) -> bool:
    """Whether a number depends on how long a saturated run went on."""
    return variant.runs.saturated and grows_with_the_run(key)


# --- pictures ------------------------------------------------------------------------------


def split_panels(found: SimulationComparison) -> Chart:
    """Draw where each variant's pool went, below each other."""
    return stacked_panels(_binned(found), title="Where the pool's slots go", name="splits")


def queue_panels(found: SimulationComparison) -> Chart:
    """Draw each variant's queue and batch, below each other on the same scale."""
    return stacked_panels(
        _binned(found), queue=True, title="Queue and batch over time", name="queues"
    )


def _binned(found: SimulationComparison) -> list[tuple[str, TimeBins]]:
    """Each variant's first run, in the same bins of time."""
    end = max(variant.runs.first.recording.end_seconds for variant in found.variants)
    return [
        (variant.label, time_bins(variant.runs.first, end_seconds=end))
        for variant in found.variants
    ]


def latency_panels(found: SimulationComparison) -> Chart:
    """Draw the distributions of four latencies on one axis, a line per variant."""
    curves = {variant.label: latency_curves(variant.runs.first) for variant in found.variants}
    every = [values for each in curves.values() for values in each.values()]
    panels = [
        _Panel(
            f"{LATENCIES[name]} (ms)",
            latency_axis("", every),
            Axis("requests", "%", settings={"range": [0, 101]}),
            [
                _line(text, number, at) | latency_line(each[name])
                for number, (text, each) in enumerate(curves.items())
                if name in each
            ],
        )
        for at, name in enumerate(_PANELS)
    ]
    rows = [
        {"variant": text, "latency": name, "percent": percent, "ms": float(value)}
        for text, each in curves.items()
        for name in _PANELS
        for percent, value in zip(
            np.linspace(0, 100, POINTS + 1).round(2).tolist(), each.get(name, ()), strict=False
        )
    ]
    alt = "; ".join(f"{variant.label}: {_latency_words(variant)}" for variant in found.variants)
    figure = _stacked(panels, height=120 + _PANEL_PIXELS * len(panels))
    return Chart("latencies", "How long requests took", rows, f"{alt}.", figure)


def _latency_words(variant: Variant) -> str:
    summary = variant.runs.summary
    if summary["p50_ttft_ms"] is None:
        return "saturated" if summary["saturated"] else "no request got a token"
    return f"median TTFT {summary['p50_ttft_ms']:,.1f} ms, p99 {summary['p99_ttft_ms']:,.1f} ms"


def interval_chart(found: SimulationComparison) -> Chart:
    """Draw four means, with their 95 % intervals over replications."""
    labels = [label(variant.label) for variant in found.variants]
    intervals = [variant.runs.intervals for variant in found.variants]
    category = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": labels,
        "range": [len(labels) - 0.5, -0.5],
    }
    panels, rows = [], []
    for at, key in enumerate(_DRAWN):
        quantity = COMPARED[key]
        known = [
            (number, variant, intervals[number][key])
            for number, variant in enumerate(found.variants)
            if key in intervals[number] and not _says_nothing(variant, key)
        ]
        dots = [_dot(labels[number], number, at, interval) for number, _, interval in known]
        x = Axis(settings={"rangemode": "tozero"})
        panels.append(_Panel(quantity.label, x, Axis(settings=category), dots))
        rows += [
            {"variant": variant.label, "quantity": quantity.words, "unit": quantity.unit}
            | interval._asdict()
            for _, variant, interval in known
        ]
    figure = _stacked(panels, height=120 + len(panels) * (80 + 26 * len(labels)))
    figure.update_layout(showlegend=False)
    runs = len(found.variants[0].runs.whole)
    alt = "; ".join(f"{row['variant']}: {row['quantity']} {row['mean']:,.4g}" for row in rows)
    title = f"Means of {runs:,} runs each" if runs > 1 else "Numbers of one run each"
    return Chart("means", title, rows, f"{alt}.", figure)


class _Panel(NamedTuple):
    """One of several plots below each other."""

    title: str
    x: Axis
    y: Axis
    traces: list[dict[str, Any]]


def _stacked(panels: Sequence[_Panel], *, height: int) -> Figure:
    """Draw panels below each other, each with axes of its own."""
    room = 1 / len(panels)
    layout: dict[str, Any] = {"annotations": []}
    for at, panel in enumerate(panels):
        number, top = axis_number(at), 1 - at * room
        up = [top - 0.78 * room, top - 0.14 * room]
        layout[f"xaxis{number}"] = panel.x.to_plotly() | {"anchor": f"y{number}"}
        layout[f"yaxis{number}"] = panel.y.to_plotly() | {"anchor": f"x{number}", "domain": up}
        layout["annotations"].append(panel_title(panel.title, up[1]))
    figure = draw(
        [trace for panel in panels for trace in panel.traces], x=Axis(), y=Axis(), height=height
    )
    figure.update_layout(**layout)
    return figure


def _place(at: int) -> dict[str, Any]:
    return {"xaxis": f"x{axis_number(at)}", "yaxis": f"y{axis_number(at)}"}


def _line(text: str, number: int, at: int) -> dict[str, Any]:
    name = label(text)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "showlegend": at == 0,
        "line": {"color": series_colour(number), "width": 2.5},
        "hovertemplate": "%{y:.1f} %: at most %{x:,.4~r} ms<extra>" + name + "</extra>",
        **_place(at),
    }


def _dot(name: str, number: int, at: int, interval: Interval) -> dict[str, Any]:
    half = interval.high - interval.mean
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [interval.mean],
        "y": [name],
        "error_x": {"type": "data", "array": [half], "thickness": 2},
        "marker": {"size": 11, "color": series_colour(number)},
        "hovertemplate": f"%{{y}}: %{{x:,.5~r}} ± {half:,.3g}<extra></extra>",
        **_place(at),
    }


# --- keeping it ----------------------------------------------------------------------------


def comparison_report(found: SimulationComparison, *, command: str = "") -> str:
    """Write variants as one self-contained HTML page.

    Parameters
    ----------
    found : SimulationComparison
        The variants.
    command : str
        The command line that gives this report again.
    """
    first = found.variants[0]
    blocks = [*_blocks(found)]
    if command:
        blocks.append(Lines("command", "This report again", [command]))
    name = first.runs.first.setup.scenario.name
    met = "the same requests by" if found.same_requests else "by"
    return html_page(f"{name}: {met} {', '.join(first.overrides)}", blocks)


def _blocks(found: SimulationComparison) -> Iterator[Table]:
    if cautions := found.cautions():
        yield Lines("caution", "Caution", cautions)
    yield values_table(found)
    if found.how_sure:
        yield bands_table(found)
        yield Lines("sure", "How sure the latencies are", found.how_sure)
    if len(found.variants) > 1:
        yield differences_table(found)
    yield interval_chart(found)
    yield split_panels(found)
    yield queue_panels(found)
    yield latency_panels(found)
    for variant in found.variants:
        numbers = numbers_table(variant.runs.summary)
        yield Table("summary", f"Every number of {variant.label}", numbers.rows)
