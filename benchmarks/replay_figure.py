"""A recorded run and its simulation over time: KV usage, running and waiting requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.figures.chart import Chart
from kvsim.figures.theme import PALETTE, Axis, draw

__all__ = ["SeriesPair", "replay_figure"]


@dataclass(frozen=True, slots=True)
class SeriesPair:
    """One quantity over time, measured and simulated.

    Parameters
    ----------
    name : str
        Stem of the columns' names: "running".
    unit : str
        Unit of both: "requests", "%".
    measured, simulated : sequence of float
        One value per sampled moment each.
    """

    name: str
    unit: str
    measured: Sequence[float]
    simulated: Sequence[float]

    @property
    def mean_difference(self) -> float:
        """Mean absolute difference, in the unit."""
        return sum(self._differences()) / len(self.measured)

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference, in the unit."""
        return max(self._differences())

    def _differences(self) -> list[float]:
        pairs = zip(self.measured, self.simulated, strict=True)
        return [abs(measured - simulated) for measured, simulated in pairs]


def replay_figure(
    seconds: Sequence[float], pairs: Sequence[SeriesPair], *, name: str, title: str
) -> Chart:
    """Draw each pair in a strip of its own, one below the other on the same time axis.

    Parameters
    ----------
    seconds : sequence of float
        Sampled moments, seconds from the first arrival.
    pairs : sequence of SeriesPair
        What to draw, from the top down.
    name, title : str
        Stem of the files it is kept in, and what it is.
    """
    traces = [trace for at in range(len(pairs)) for trace in _lines(seconds, pairs[at], at)]
    axes = {f"yaxis{at + 1}": _strip(pairs, at) for at in range(1, len(pairs))}
    last = "y" if len(pairs) == 1 else f"y{len(pairs)}"
    figure = draw(
        traces,
        x=Axis("time since the first arrival", "s", settings={"anchor": last}),
        y=Axis(settings=_strip(pairs, 0)),
        height=120 + 180 * len(pairs),
        **axes,
    )
    return Chart(name, title, _rows(seconds, pairs), _alt(pairs), figure)


def _lines(seconds: Sequence[float], pair: SeriesPair, at: int) -> list[dict[str, Any]]:
    styles = (
        ("measured", pair.measured, {"color": PALETTE["grey"], "width": 3}),
        ("kvsim", pair.simulated, {"color": PALETTE["blue"], "width": 1.8, "dash": "dash"}),
    )
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": who,
            "legendgroup": who,
            "showlegend": at == 0,
            "x": list(seconds),
            "y": list(values),
            "yaxis": f"y{at + 1}" if at else "y",
            "line": line,
            "hovertemplate": f"{who}, %{{x:,.1f}} s<br>%{{y:,.1f}} {pair.unit}<extra></extra>",
        }
        for who, values, line in styles
    ]


def _strip(pairs: Sequence[SeriesPair], at: int) -> dict[str, Any]:
    """Axis of one strip: an equal share of the height, the first at the top."""
    share = 1 / len(pairs)
    top = 1 - at * share
    axis = Axis(pairs[at].name, pairs[at].unit).to_plotly()
    return axis | {"domain": [top - 0.86 * share, top], "rangemode": "tozero"}


def _rows(seconds: Sequence[float], pairs: Sequence[SeriesPair]) -> list[Mapping[str, float]]:
    return [
        {"seconds": moment}
        | {f"{pair.name} measured ({pair.unit})": pair.measured[at] for pair in pairs}
        | {f"{pair.name} simulated ({pair.unit})": pair.simulated[at] for pair in pairs}
        for at, moment in enumerate(seconds)
    ]


def _alt(pairs: Sequence[SeriesPair]) -> str:
    parts = (
        f"{pair.name} {pair.mean_difference:,.1f} {pair.unit} (at most"
        f" {pair.largest_difference:,.1f})"
        for pair in pairs
    )
    return f"Measured and simulated lines differ on average by: {', '.join(parts)}."
