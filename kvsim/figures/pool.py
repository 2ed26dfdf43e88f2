"""The pool as a heat map: one cell a block or a bin of blocks, coloured by who holds it.

The dashboard asks for one moment at a time; a file has no one to ask, so it carries a film.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.figures.chart import Chart, Row
from kvsim.figures.grids import grid, heatmap
from kvsim.figures.theme import CACHED_COLOUR, PALETTE, Axis, muted
from kvsim.results.pool_cells import Use, pool_cells
from kvsim.units import ceil_div

if TYPE_CHECKING:
    import numpy.typing as npt
    from plotly.graph_objects import Figure

    from kvsim.results.pool_cells import Cells
    from kvsim.simulator.camera import Camera

__all__ = ["pool_film", "pool_map"]

_REQUEST_COLOURS = tuple(PALETTE[name] for name in ("blue", "green", "pink", "sky", "yellow"))
_SHADES = len(_REQUEST_COLOURS)
_COLOURS = {
    Use.FREE: "rgba(140,140,140,0.13)",
    Use.CACHED: CACHED_COLOUR,
    Use.SHARED: PALETTE["orange"],
    Use.UNUSED: muted(PALETTE["red"], 0.25),
    Use.WRITTEN: _REQUEST_COLOURS[0],
    Use.COMING: muted(_REQUEST_COLOURS[0]),
}
_WORDS = {
    Use.FREE: "free",
    Use.CACHED: "cached, finished",
    Use.SHARED: "shared by several",
    Use.UNUSED: "held, never used",
    Use.WRITTEN: "one request's tokens",
    Use.COMING: "held for its later tokens",
}
_LONE = (Use.FREE, Use.CACHED, Use.SHARED, Use.UNUSED)  # uses that have one colour each
_SCALE = (
    *(_COLOURS[use] for use in _LONE),
    *_REQUEST_COLOURS,
    *(muted(colour) for colour in _REQUEST_COLOURS),
)
ASPECT = 2.6
FILM_MOMENTS = 24
FILM_CELLS = 4096


def pool_map(cells: Cells) -> Chart:
    """Draw the pool at one moment.

    Requests take five colours in turn, so neighbours in the order of arrival differ.
    """
    title = f"The pool at {cells.frame.seconds:,.2f} s"
    return Chart("pool", title, _rows(cells), _alt(cells), _drawn(cells, [cells], height=430))


def pool_film(camera: Camera) -> Chart:
    """Draw the pool at some moments of a run, with a slider between them.

    It opens at the fullest moment.

    Parameters
    ----------
    camera : Camera
        What was seen of the run; at least one frame.
    """
    count = len(camera.frames)
    fullest = max(range(count), key=lambda at: camera.frames[at].held)
    evenly = np.linspace(0, count - 1, min(count, FILM_MOMENTS)).astype(int).tolist()
    moments = sorted({*evenly, fullest})
    film = [pool_cells(camera, number, most_cells=FILM_CELLS) for number in moments]
    first = moments.index(fullest)
    figure = _drawn(film[first], film, height=520)
    figure.frames = [
        {"name": str(at), "data": [{"type": "heatmap", **_painted(cells)}], "traces": [0]}
        for at, cells in enumerate(film)
    ]
    figure.update_layout(sliders=[_slider(film, first)])
    rows = [_moment(cells) for cells in film]
    alt = _alt(film[first])
    if not film[first].exact:
        alt += " Paged blocks have no addresses that matter: their places are reconstructed."
    return Chart("pool-film", "The pool over time", rows, alt, figure)


def _drawn(cells: Cells, film: Sequence[Cells], *, height: int) -> Figure:
    """Draw a moment, with a legend of what there is at any moment of its film."""
    step, columns = cells.blocks_per_cell, _columns(len(cells.use))
    trace = heatmap(_SCALE, **_painted(cells), gap=1) | {
        "y0": 0,
        "dy": columns * step,
        "x0": 0,
        "dx": step,
        "hoverongaps": False,
    }
    present = {int(use) for each in film for use in np.unique(each.use)}
    unit = "slot" if cells.exact else "block"
    return grid(
        trace,
        {words: _COLOURS[use] for use, words in _WORDS.items() if use in present},
        x=Axis(f"{unit} within the row"),
        y=Axis(f"first {unit} of the row"),
        height=height,
    )


def _painted(cells: Cells) -> dict[str, Any]:
    """What changes from moment to moment: every cell's colour and what is said of it."""
    columns = _columns(len(cells.use))
    return {
        "z": _padded(_colour_numbers(cells), columns),
        "customdata": _padded(np.array(_hovers(cells), dtype=object), columns),
    }


def _slider(film: Sequence[Cells], first: int) -> dict[str, Any]:
    now = {"frame": {"duration": 0, "redraw": True}, "mode": "immediate"}
    steps = [
        {"label": f"{cells.frame.seconds:,.1f} s", "method": "animate", "args": [[str(at)], now]}
        for at, cells in enumerate(film)
    ]
    return {
        "active": first,
        "steps": steps,
        "currentvalue": {"prefix": "simulated time: "},
        "pad": {"t": 60},  # below the axis and its title
    }


def _moment(cells: Cells) -> Row:
    frame = cells.frame
    return {
        "seconds": round(frame.seconds, 3),
        "requests": len(frame.holdings),
        "held blocks": frame.held,
        "shared blocks": frame.shared,
        "cached blocks": frame.cached,
        "free blocks": frame.free,
        "waiting": frame.waiting,
    }


def _columns(count: int) -> int:
    """Cells per row: a wide picture, in whole eights."""
    return max(8, 8 * round(sqrt(count * ASPECT) / 8))


def _colour_numbers(cells: Cells) -> npt.NDArray[np.float64]:
    """Position of each cell's colour in `_SCALE`."""
    lone = np.zeros(len(Use))
    lone[list(_LONE)] = range(len(_LONE))
    shade = len(_LONE) + cells.row % _SHADES
    numbers = np.where(cells.use == Use.WRITTEN, shade, lone[cells.use])
    return np.where(cells.use == Use.COMING, shade + _SHADES, numbers)


def _hovers(cells: Cells) -> list[str]:
    """One short line per cell."""
    step, unit = cells.blocks_per_cell, "slot" if cells.exact else "block"
    holders = [
        _holder(use, row) for use, row in zip(cells.use.tolist(), cells.row.tolist(), strict=True)
    ]
    if step == 1:
        return [f"{unit} {at:,}: {holder}" for at, holder in enumerate(holders)]
    return [f"{unit}s from {at * step:,}: mostly {holder}" for at, holder in enumerate(holders)]


def _holder(use: int, row: int) -> str:
    if use == Use.WRITTEN:
        return f"request {row}"
    if use in (Use.COMING, Use.UNUSED):
        return f"request {row}, {_WORDS[Use(use)]}"
    return _WORDS[Use(use)]


def _padded(values: npt.NDArray[Any], columns: int) -> list[list[Any]]:
    """Rows of cells; the last one is filled up with nothing."""
    filled: list[Any] = [*values.tolist()]
    filled += [None] * (ceil_div(len(filled), columns) * columns - len(filled))
    return [filled[at : at + columns] for at in range(0, len(filled), columns)]


def _rows(cells: Cells) -> list[Row]:
    """Who holds how much, in token slots."""
    size, frame = cells.block_size, cells.frame
    own = [
        (f"request {each.row}", each.written, each.coming, each.unused, each.address)
        for each in frame.holdings
    ]
    rest = [("shared", frame.shared), ("cached", frame.cached), ("free", frame.free)]
    parts = [*own, *((name, blocks, 0, 0, None) for name, blocks in rest)]
    return [
        {
            "holder": holder,
            "slots": (written + coming + unused) * size,
            "for later tokens": coming * size,
            "never used": unused * size,
            "address": address,
        }
        for holder, written, coming, unused, address in parts
    ]


def _alt(cells: Cells) -> str:
    frame = cells.frame
    total = frame.held + frame.cached + frame.free or 1
    unit = "slots" if cells.exact else "blocks"
    parts = [
        f"{len(frame.holdings):,} requests hold {frame.held:,} of {total:,} {unit}"
        f" ({100 * frame.held / total:.0f} %)",
        f"{frame.cached:,} keep finished prefixes" if frame.cached else "",
        f"{frame.free:,} are free, {frame.waiting:,} requests wait",
    ]
    return f"At {frame.seconds:,.2f} s {'; '.join(part for part in parts if part)}."
