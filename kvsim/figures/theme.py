"""How every figure looks: colours, axes with units, and the one import of plotly.

The colours are Okabe and Ito's eight, which people with any of the common colour-vision
deficiencies tell apart. No text, grid or background has a colour of its own here: a
dashboard gives those its theme, light or dark, and a file gets `LIGHT` or `DARK`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.errors import MissingExtraError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "CACHED_COLOUR",
    "CATEGORIES",
    "CYCLE",
    "DARK",
    "LIGHT",
    "MEMORY_COLOURS",
    "ONE_TWO_FIVE",
    "PALETTE",
    "Axis",
    "bars",
    "draw",
    "label",
    "muted",
    "reference_line",
    "series_colour",
]

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "red": "#D55E00",
    "yellow": "#F0E442",
    "grey": "#8C8C8C",
}
"""Okabe and Ito, "Color Universal Design" (2008); grey stands in for black, which no dark
page shows."""

CYCLE = tuple(PALETTE.values())

MEMORY_COLOURS = {
    "weights": PALETTE["blue"],
    "activations": PALETTE["orange"],
    "outside torch": PALETTE["pink"],
    "graphs": PALETTE["yellow"],
    "KV cache": PALETTE["green"],
    "left alone": "rgba(140,140,140,0.35)",
}

CACHED_COLOUR = "rgba(150,150,150,0.75)"
"""Of blocks that keep a finished prefix: between a request's and free, light or dark."""

LONGEST_LABEL = 48
_LEGEND_ROW = 19  # pixels

ONE_TWO_FIVE: Mapping[str, Any] = {"dtick": "D2", "tickformat": "~g"}
"""Settings of a logarithmic axis of few decades: 1, 2, 5 and 10 are labelled."""

LIGHT = {"paper": "#ffffff", "text": "#1f2328", "line": "#d0d7de"}
DARK = {"paper": "#0e1117", "text": "#e6edf3", "line": "#3d444d"}


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows.

    Parameters
    ----------
    title : str
        The quantity, in words.
    unit : str
        Its unit; "" only for categories.
    log : bool
        Whether decades are equally far apart.
    settings : mapping
        Anything else that plotly knows of an axis.
    """

    title: str = ""
    unit: str = ""
    log: bool = False
    settings: Mapping[str, Any] | None = None

    def to_plotly(self) -> dict[str, Any]:
        """Return plotly's words for it."""
        text = f"{self.title} ({self.unit})" if self.unit else self.title
        axis: dict[str, Any] = {"title": {"text": text}, "automargin": True}
        if self.log:
            # Only decades are labelled: on a narrow screen there is room for no more.
            axis |= {"type": "log", "dtick": 1, "tickformat": "~s", "minor": {"dtick": "D1"}}
        return axis | dict(self.settings or {})


CATEGORIES = Axis(settings={"type": "category", "autorange": "reversed"})
"""A vertical axis of names, the first on top."""


def draw(
    traces: Iterable[Mapping[str, Any]],
    *,
    x: Axis,
    y: Axis,
    height: int = 380,
    **layout: Any,
) -> Figure:
    """Draw traces on two axes with the house's margins and legend.

    Parameters
    ----------
    traces : iterable of mapping
        plotly traces as dicts, ``{"type": "bar", ...}``.
    x, y : Axis
        The axes.
    height : int
        Pixels.
    **layout
        Anything else that plotly knows of a layout.

    Raises
    ------
    MissingExtraError
        When plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ModuleNotFoundError:
        raise MissingExtraError("plotly", "dashboard", "drawing a figure") from None
    house: dict[str, Any] = {
        "xaxis": x.to_plotly(),
        "yaxis": y.to_plotly(),
        "height": height,
        "margin": {"l": 10, "r": 14, "t": 30, "b": 10},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "yanchor": "bottom",
            "y": 1.02,
            "x": 0,
            "xanchor": "left",
        },
        "colorway": list(CYCLE),
        "hoverlabel": {"namelength": -1},
    }
    return go.Figure(data=list(traces), layout=house | layout)


def bars(
    traces: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    *,
    x: Axis,
    thick: int,
    **layout: Any,
) -> Figure:
    """Draw horizontal bars, each label above its own: a narrow screen has no room beside them.

    There the legend takes several rows, so the height leaves room for as many pairs of names.

    Parameters
    ----------
    traces : sequence of mapping
        Bars over the escaped `labels`.
    labels : sequence of str
        Names from anywhere, as the traces' ``y`` has them after `label`.
    x : Axis
        The axis of the amounts.
    thick : int
        Pixels of one label's bars.
    **layout
        Anything else that plotly knows of a layout.
    """
    slot = thick + 34
    words = [
        {
            "text": label(text),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": at - thick / slot / 2,  # the upper edge of the bars, whatever their height
            "yanchor": "bottom",
            "yshift": 2,
            "showarrow": False,
        }
        for at, text in enumerate(labels)
    ]
    return draw(
        traces,
        x=x,
        y=Axis(settings={"type": "category", "autorange": "reversed", "showticklabels": False}),
        height=140 + slot * len(labels) + _LEGEND_ROW * ((len(traces) - 1) // 2),
        bargap=1 - thick / slot,
        annotations=words,
        **layout,
    )


def series_colour(number: int) -> str:
    """Return the colour of a series by its number; they come round again after eight."""
    return CYCLE[number % len(CYCLE)]


def reference_line(
    name: str, x: Sequence[float | None], y: Sequence[float | None], **settings: Any
) -> dict[str, Any]:
    """Return a dashed grey line to compare with: an objective, a limit, a diagonal.

    Parameters
    ----------
    name : str
        What it marks, for the legend.
    x, y : sequence of float
        Its points.
    **settings
        Anything else that plotly knows of a trace, in place of these.
    """
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": PALETTE["grey"], "dash": "dash"},
    }
    return line | (settings if "hovertemplate" in settings else {"hoverinfo": "skip", **settings})


def label(text: str) -> str:
    """Make a name safe and short enough to stand in a figure: it may be anybody's.

    Examples
    --------
    >>> label("<b>llama</b>")
    '&lt;b&gt;llama&lt;/b&gt;'
    """
    short = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
    return html.escape(short)


def muted(hex_colour: str, share: float = 0.65) -> str:
    """Mix a hex colour with grey: quieter, and readable on a light page and on a dark one.

    Examples
    --------
    >>> muted("#0072B2", 1.0), muted("#0072B2", 0.0)
    ('#9e9e9e', '#0072b2')
    """
    own = (int(hex_colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * part + share * 0x9E):02x}" for part in own)
