"""Grids of named squares: a heat map whose colours mean something and are spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.figures.theme import Axis, draw

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["grid", "heatmap", "named_squares"]


def named_squares(
    names: Sequence[Sequence[str]],
    colours: Mapping[str, str],
    *,
    texts: Sequence[Sequence[str]] | None = None,
    hovers: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return one heat map of named squares.

    Parameters
    ----------
    names : sequence of sequence of str
        What every square is, row by row; keys of `colours`.
    colours : mapping of str to str
        The colour of each name.
    texts, hovers : sequence of sequence of str, optional
        What stands in a square, and what is said of it.
    """
    known = list(colours)
    return heatmap(
        list(colours.values()),
        z=[[known.index(name) for name in row] for row in names],
        customdata=hovers or names,
        gap=2,
    ) | {"text": texts, "texttemplate": "%{text}" if texts else None}


def heatmap(colours: Sequence[str], *, z: Any, customdata: Any, gap: int) -> dict[str, Any]:
    """Return a heat map whose values are positions in a list of colours.

    Parameters
    ----------
    colours : sequence of str
        The colours.
    z, customdata : rows
        Each square's colour by its position, and what is said of it.
    gap : int
        Pixels between squares.
    """
    steps = len(colours)
    return {
        "type": "heatmap",
        "z": z,
        "zmin": -0.5,
        "zmax": steps - 0.5,
        "colorscale": [
            [(at + side) / steps, each] for at, each in enumerate(colours) for side in (0, 1)
        ],
        "showscale": False,
        "xgap": gap,
        "ygap": gap,
        "customdata": customdata,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def grid(
    trace: Mapping[str, Any], legend: Mapping[str, str], *, x: Axis, y: Axis, height: int = 380
) -> Figure:
    """Draw one heat map, its first row on top, with a legend of named colours."""
    keys = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [None],
            "y": [None],
            "marker": {"symbol": "square", "size": 12, "color": colour},
        }
        for name, colour in legend.items()
    ]
    return draw([trace, *keys], x=_bare(x), y=_bare(y, reverse=True), height=height)


def _bare(axis: Axis, *, reverse: bool = False) -> Axis:
    """An axis of squares: no lines between them, the first row on top."""
    settings = {"showgrid": False, "zeroline": False, **(axis.settings or {})}
    if reverse:
        settings["autorange"] = "reversed"
    return Axis(axis.title, axis.unit, axis.log, settings)
