"""One HTML page out of charts, tables and text, with everything it needs inside.

plotly's script is written into the page (it is about 4.5 MB), so that the page opens on a
machine without a network; a page without a chart does without. It follows the reader's
light or dark setting.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.theme import DARK, LIGHT

__all__ = ["PLOTLY_CONFIG", "Lines", "html_page"]

PLOTLY_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "sendChartToCloud"],
    "showSendToCloud": False,
}
"""What every figure's own buttons may do: look closer and save, and never send it anywhere."""

_STYLE = """
:root { color-scheme: light dark; --paper: %(light_paper)s; --text: %(light_text)s;
        --line: %(light_line)s }
@media (prefers-color-scheme: dark) {
  :root { --paper: %(dark_paper)s; --text: %(dark_text)s; --line: %(dark_line)s } }
body { background: var(--paper); color: var(--text); margin: 0 auto; max-width: 66rem;
       padding: 1.2rem; font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .7rem;
      white-space: pre-wrap; overflow-wrap: anywhere }
.alt { font-size: .88rem; opacity: .8 }
"""

# A figure has no colours for text, lines and background; the page gives it its own.
_THEME_SCRIPT = """
const modes = %s;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const mode = dark.matches ? modes.dark : modes.light;
  for (const div of document.querySelectorAll(".js-plotly-plot")) {
    const patch = {paper_bgcolor: mode.paper, plot_bgcolor: mode.paper, "font.color": mode.text};
    for (const axis of Object.keys(div.layout).filter(key => /^[xy]axis/.test(key))) {
      patch[axis + ".gridcolor"] = mode.line;
      patch[axis + ".linecolor"] = mode.line;
      patch[axis + ".zerolinecolor"] = mode.line;
    }
    Plotly.relayout(div, patch);
  }
}
dark.addEventListener("change", paint);
paint();
"""


class Lines(Table):
    """Text to be read as it stands: a command, warnings."""

    def __init__(self, name: str, title: str, lines: Iterable[str]) -> None:
        super().__init__(name, title, [{"line": line} for line in lines])


def html_page(title: str, blocks: Sequence[Table]) -> str:
    """Write a page of charts, tables and lines.

    Parameters
    ----------
    title : str
        Heading, as plain text.
    blocks : sequence of Table
        What stands below it, each under its own title.
    """
    style = _STYLE % {
        f"{mode}_{key}": value
        for mode, colours in (("light", LIGHT), ("dark", DARK))
        for key, value in colours.items()
    }
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{style}</style>",
        *_library(blocks),
        f"</head><body><h1>{html.escape(title)}</h1>",
        *(piece for block in blocks for piece in _block(block, heading=len(blocks) > 1)),
        *_painter(blocks),
        "</body></html>",
    ]
    return "\n".join(parts)


def _has_chart(blocks: Sequence[Table]) -> bool:
    return any(isinstance(block, Chart) for block in blocks)


def _library(blocks: Sequence[Table]) -> Iterator[str]:
    if _has_chart(blocks):
        from plotly.offline import get_plotlyjs

        yield f"<script>{get_plotlyjs()}</script>"


def _painter(blocks: Sequence[Table]) -> Iterator[str]:
    if _has_chart(blocks):
        modes = json.dumps({"light": LIGHT, "dark": DARK})
        yield f"<script>{_THEME_SCRIPT % modes}</script>"


def _block(block: Table, *, heading: bool) -> Iterator[str]:
    yield "<section>"
    if heading:
        yield f"<h2>{html.escape(block.title)}</h2>"
    if isinstance(block, Lines):
        text = "\n".join(str(row["line"]) for row in block.rows)
        yield f"<pre>{html.escape(text)}</pre>"
    elif isinstance(block, Chart):
        yield _picture(block)
        yield f'<p class="alt">{html.escape(block.alt)}</p>'
        yield f"<details><summary>The numbers</summary>{_table(block.rows)}</details>"
    else:
        yield _table(block.rows)
    yield "</section>"


def _picture(chart: Chart) -> str:
    div: str = chart.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config=PLOTLY_CONFIG | {"responsive": True},
        div_id=f"figure-{chart.name}",
        auto_play=False,
    )
    return f'<div role="img" aria-label="{html.escape(chart.alt)}">{div}</div>'


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape('' if value is None else str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return f'<td class="number">{text}</td>'
