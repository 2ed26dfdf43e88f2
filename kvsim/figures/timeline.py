"""A run over simulated time: the queue and the batch, and where the pool's slots went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.figures.chart import Chart
from kvsim.figures.theme import CACHED_COLOUR, PALETTE, Axis, draw, label
from kvsim.results.time_bins import TimeBins
from kvsim.results.words import PARTS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "PART_COLOURS",
    "axis_number",
    "panel_title",
    "queue_chart",
    "split_chart",
    "stacked_panels",
]

PART_COLOURS = {
    "token_states": PALETTE["green"],
    "reserved": PALETTE["sky"],
    "internal": PALETTE["orange"],
    "external": PALETTE["red"],
    "cached": CACHED_COLOUR,
    "free": "rgba(140,140,140,0.15)",
}
_DECODING = {"color": PALETTE["blue"], "width": 2}
_WAITING = {"color": PALETTE["orange"], "width": 2}
PANEL_PIXELS = 150
TIME = Axis("simulated time", "s", settings={"rangemode": "tozero"})


def queue_chart(bins: TimeBins, *, at_seconds: float | None = None) -> Chart:
    """Draw the batch, the queue, and a mark where requests were preempted.

    Parameters
    ----------
    bins : TimeBins
        The run.
    at_seconds : float, optional
        A moment to mark.
    """
    figure = draw(
        _queue_traces(bins),
        x=TIME,
        y=Axis("decoding or waiting", "requests", settings={"rangemode": "tozero"}),
        height=330,
    )
    _mark(figure, at_seconds)
    rows = [
        {
            "from_seconds": float(bins.edges[at]),
            "to_seconds": float(bins.edges[at + 1]),
            "decoding": float(bins.decoding[at]),
            "waiting": float(bins.waiting[at]),
            "most_waiting": int(bins.most_waiting[at]),
            "preemptions": int(bins.preemptions[at]),
        }
        for at in range(len(bins.decoding))
    ]
    alt = (
        f"The batch decodes {bins.decoding.mean():,.1f} sequences on average; the queue is at"
        f" most {bins.most_waiting.max():,.0f} long; {bins.preemptions.sum():,} preemptions."
    )
    return Chart("queue", "Queue and batch over time", rows, alt, figure)


def split_chart(bins: TimeBins, *, at_seconds: float | None = None) -> Chart:
    """Draw where the pool's slots are over time, as a stacked area in percent of the pool."""
    figure = draw(_split_traces(bins), x=TIME, y=_percent("share of the pool"), height=330)
    _mark(figure, at_seconds)
    return Chart("split", "Where the pool's slots go", _split_rows(bins), _split_alt(bins), figure)


def stacked_panels(
    named: Sequence[tuple[str, TimeBins]], *, queue: bool = False, title: str, name: str
) -> Chart:
    """Draw several runs below each other on shared axes.

    Parameters
    ----------
    named : sequence of (str, TimeBins)
        The runs, with bins that end at the same moment.
    queue : bool
        Draw queue and batch; by default the pool's split.
    title, name : str
        Of the chart.
    """
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": []}
    room = 1 / len(named)
    for at, (text, bins) in enumerate(named):
        top = 1 - at * room
        axis = f"yaxis{axis_number(at)}"
        layout[axis] = _panel_axis(queue) | {"domain": [top - 0.84 * room, top - 0.2 * room]}
        layout[axis] |= {"matches": "y"} if at else {}
        layout["annotations"].append(panel_title(text, top - 0.19 * room))
        panel = _queue_traces(bins) if queue else _split_traces(bins)
        place = {"yaxis": f"y{axis_number(at)}", "showlegend": at == 0}
        traces += [trace | place | _own_stack(trace, at) for trace in panel]
    last = f"y{axis_number(len(named) - 1)}"
    figure = draw(
        traces,
        x=Axis(TIME.title, TIME.unit, settings={"anchor": last, "rangemode": "tozero"}),
        y=Axis(),
        height=110 + PANEL_PIXELS * len(named),
    )
    figure.update_layout(**layout)
    rows = [{"variant": text, **row} for text, bins in named for row in _panel_rows(bins, queue)]
    alts = [f"{text}: {_panel_alt(bins, queue)}" for text, bins in named]
    return Chart(name, title, rows, " ".join(alts), figure)


# --- parts ---------------------------------------------------------------------------------


def _queue_traces(bins: TimeBins) -> list[dict[str, Any]]:
    seconds = bins.middles.round(4).tolist()
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "legendgroup": name,
            "x": seconds,
            "y": values.round(3).tolist(),
            "line": line,
            "hovertemplate": f"%{{x:,.1f}} s: %{{y:,.1f}} {name}<extra></extra>",
        }
        for name, values, line in (
            ("decoding", bins.decoding, _DECODING),
            ("waiting", bins.waiting, _WAITING),
        )
    ]
    return [*lines, _preemption_marks(bins)] if bins.preemptions.any() else lines


def _preemption_marks(bins: TimeBins) -> dict[str, Any]:
    """A cross at the height of the batch, larger where more were preempted."""
    hit = np.flatnonzero(bins.preemptions)
    counts = bins.preemptions[hit]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "preempted",
        "legendgroup": "preempted",
        "x": bins.middles[hit].round(4).tolist(),
        "y": bins.decoding[hit].round(3).tolist(),
        "customdata": counts.tolist(),
        "marker": {
            "symbol": "x-thin",
            "size": (4 + 1.5 * np.sqrt(counts)).clip(max=11).round(1).tolist(),
            "line": {"width": 1.5, "color": PALETTE["red"]},
        },
        "hovertemplate": "%{x:,.1f} s: %{customdata:,} preempted<extra></extra>",
    }


def _split_traces(bins: TimeBins) -> list[dict[str, Any]]:
    pool = sum(bins.slots.values())
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": words,
            "legendgroup": words,
            "stackgroup": "pool",
            "x": bins.middles.round(4).tolist(),
            "y": (100 * bins.slots[part] / pool).round(4).tolist(),
            "line": {"width": 0},
            "fillcolor": PART_COLOURS[part],
            "hovertemplate": f"%{{x:,.1f}} s: %{{y:.1f}} % {words}<extra></extra>",
        }
        for part, words in PARTS.items()
        if bins.slots[part].any()
    ]


def _own_stack(trace: dict[str, Any], at: int) -> dict[str, Any]:
    return {"stackgroup": f"pool{at}"} if "stackgroup" in trace else {}


def _percent(title: str) -> Axis:
    return Axis(title, "%", settings={"range": [0, 100]})


def _panel_axis(queue: bool) -> dict[str, Any]:
    axis = Axis("requests", settings={"rangemode": "tozero"}) if queue else _percent("pool")
    return axis.to_plotly()


def axis_number(panel: int) -> str:
    """Return plotly's number of a panel's axes, the panels counted from 0; the first has none."""
    return str(panel + 1) if panel else ""


def panel_title(text: str, top: float) -> dict[str, Any]:
    """Put a name above a panel, at its left."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left"}
    return {"text": f"<b>{label(text)}</b>", "showarrow": False, "yanchor": "bottom", **place}


def _panel_rows(bins: TimeBins, queue: bool) -> Sequence[dict[str, Any]]:
    if not queue:
        return _split_rows(bins)
    return [
        {"seconds": float(at), "decoding": float(batch), "waiting": float(line)}
        for at, batch, line in zip(bins.middles, bins.decoding, bins.waiting, strict=True)
    ]


def _panel_alt(bins: TimeBins, queue: bool) -> str:
    if not queue:
        return _split_alt(bins)
    return (
        f"{bins.decoding.mean():,.1f} decode and {bins.waiting.mean():,.1f} wait on average,"
        f" {bins.preemptions.sum():,} preemptions."
    )


def _split_rows(bins: TimeBins) -> list[dict[str, Any]]:
    return [
        {"seconds": float(seconds)}
        | {f"{part}_slots": round(float(bins.slots[part][at]), 1) for part in PARTS}
        for at, seconds in enumerate(bins.middles)
    ]


def _split_alt(bins: TimeBins) -> str:
    pool = sum(values.mean() for values in bins.slots.values()) or 1
    parts = [
        f"{words} {100 * bins.slots[part].mean() / pool:.1f} %"
        for part, words in PARTS.items()
        if bins.slots[part].any()
    ]
    return f"Of the pool, on average over the run: {', '.join(parts)}."


def _mark(figure: Figure, at_seconds: float | None) -> None:
    """Stroke the moment that is looked at."""
    if at_seconds is not None:
        figure.add_vline(x=at_seconds, line={"color": PALETTE["red"], "width": 2, "dash": "dot"})
