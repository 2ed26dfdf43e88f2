"""Print an answer: sections of text, tables and a bar, as a terminal page or as Markdown.

A command builds `Section`s once; the two renderers never meet a plan. The terminal page is
laid out here, in forty lines over click's styles, because importing and running a table
library would cost a fifth of the time that ``kvsim plan`` is allowed.

::

    Concurrent requests (steady regime)                      title, bold
      tokens per request   occupies   fit in memory          headers, dim
      1,024                 512 MiB             117          first column left, the rest right
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from kvsim.csv_text import csv_text

__all__ = ["Bar", "Part", "Section", "Table", "emit", "flatten", "print_records", "short_key"]

BAR_WIDTH = 72
WIDEST = 100
NARROWEST = 16
INDENT, GAP = "  ", "   "
_GLYPHS = "█▓▒▚░·"
_ASCII = "#=+%-."
_COLOURS = ("red", "yellow", "magenta", "cyan", "green", "bright_black")


class Table(NamedTuple):
    """Rows of text under headers.

    Columns after the first hold numbers and align right; with `words` they align left, and
    the last one wraps.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


class Part(NamedTuple):
    """One stretch of a bar: its label, its length and its length in words."""

    label: str
    amount: float
    text: str


class Bar(NamedTuple):
    """At most six parts that share one line."""

    parts: tuple[Part, ...]

    def widths(self, total: int = BAR_WIDTH) -> list[int]:
        """Characters of each part: largest remainders first, so that they add up to `total`."""
        whole = sum(part.amount for part in self.parts)
        if not whole:
            return [0] * len(self.parts)
        exact = [part.amount / whole * total for part in self.parts]
        widths = [int(share) for share in exact]
        short = total - sum(widths)
        by_rest = sorted(range(len(exact)), key=lambda i: widths[i] - exact[i])
        for index in by_rest[:short]:
            widths[index] += 1
        return widths


class Section(NamedTuple):
    """A title and what stands under it."""

    title: str
    blocks: tuple[str | Table | Bar, ...]


def emit(sections: Iterable[Section], content: Any, output_format: str) -> None:
    """Print an answer on stdout in the format asked for.

    Parameters
    ----------
    sections : iterable of Section
        The answer for a person; read for "table" and "markdown" only.
    content : dict, or a callable that makes it
        The same answer as JSON-ready values; made for "json" and "csv" only.
    output_format : str
        "table", "json", "markdown" or "csv".
    """
    if output_format == "json":
        import json

        click.echo(json.dumps(_made(content), indent=2, allow_nan=False))
    elif output_format == "csv":
        click.echo(csv_text([("key", "value"), *flatten(_made(content))]), nl=False)
    elif output_format == "markdown":
        click.echo("\n\n".join(_markdown(section) for section in sections))
    else:
        _print(sections)


def _made(content: Any) -> Any:
    return content() if callable(content) else content


def print_records(
    records: Sequence[Mapping[str, Any]], sections: Iterable[Section], output_format: str
) -> None:
    """Print rows that are alike; as CSV they are one table with a header."""
    if output_format == "csv":
        header = tuple(dict.fromkeys(name for row in records for name in row))
        rows = [tuple(_leaf(row.get(name)) for name in header) for row in records]
        click.echo(csv_text([header, *rows]), nl=False)
    else:
        emit(sections, list(records), output_format)


def flatten(content: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield every leaf of nested lists and dicts with its dotted path."""
    if isinstance(content, Mapping):
        items: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        yield prefix, _leaf(content)
        return
    for key, value in items:
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def short_key(key: str) -> str:
    """The last part of a dotted key, as a column's header; a degree by its flag."""
    return key.rpartition(".")[2].replace("tensor_parallel_size", "tp")


def _leaf(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_leaf(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_leaf(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- Markdown ------------------------------------------------------------------------------


def _markdown(section: Section) -> str:
    blocks = [f"## {section.title}", *(_markdown_block(block) for block in section.blocks)]
    return "\n\n".join(blocks)


def _markdown_block(block: str | Table | Bar) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Bar):
        rows = tuple((part.label, " ".join(part.text.split())) for part in block.parts)
        return _markdown_block(Table(("part", "size"), rows))
    rest = " --- " if block.words else " ---: "
    rule = "|".join(["", " --- ", *[rest for _ in block.headers[1:]], ""])
    lines = [_markdown_row(block.headers), rule, *map(_markdown_row, block.rows)]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# --- a terminal ----------------------------------------------------------------------------


def _print(sections: Iterable[Section]) -> None:
    """Print all sections at once: a call for every line takes longer than laying them out."""
    width = max(40, min(shutil.get_terminal_size().columns, WIDEST))
    pages = []
    for section in sections:
        lines = [_style(textwrap.fill(section.title, width), bold=True)]
        for block in section.blocks:
            inner = _lines(block, width - len(INDENT))
            lines += [(INDENT + line).rstrip() for line in inner]
        pages.append("\n".join(lines))
    if pages:
        click.echo("\n\n".join(pages))


def _style(text: str, **looks: Any) -> str:
    """Style a text, unless the user wants none (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **looks)


def _lines(block: str | Table | Bar, width: int) -> list[str]:
    if isinstance(block, Bar):
        return _bar_lines(block, width)
    if isinstance(block, Table):
        return _table_lines(block, width)
    return [piece for line in block.splitlines() for piece in _wrap(line, width)]


def _wrap(text: str, width: int) -> list[str]:
    """Break a line at spaces; what cannot be broken (a path, a flag) stays whole."""
    hang = "  " if text.startswith("- ") else ""
    pieces = textwrap.wrap(
        text, width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )
    return pieces or [""]


def _table_lines(table: Table, width: int) -> list[str]:
    """Align the columns; the last one of a table of words wraps inside what is left."""
    columns = list(zip(table.headers, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if table.words:
        taken = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        widths[-1] = max(NARROWEST, min(widths[-1], width - taken))
    lines = [_style(_row(table.headers, widths, table.words).rstrip(), dim=True)]
    for row in table.rows:
        pieces = _wrap(row[-1], widths[-1]) if table.words else [row[-1]]
        lines.append(_row((*row[:-1], pieces[0]), widths, table.words))
        empty = ("",) * (len(row) - 1)
        lines += [_row((*empty, piece), widths, table.words) for piece in pieces[1:]]
    return lines


def _row(cells: Sequence[str], widths: Sequence[int], words: bool) -> str:
    first, *rest = zip(cells, widths, strict=True)
    aligned = [cell.ljust(width) if words else cell.rjust(width) for cell, width in rest]
    return GAP.join([first[0].ljust(first[1]), *aligned])


def _bar_lines(bar: Bar, width: int) -> list[str]:
    """Draw the bar, then a legend line per part."""
    glyphs = _GLYPHS if "utf" in (sys.stdout.encoding or "").lower() else _ASCII
    widths = bar.widths(min(width, BAR_WIDTH))
    pieces = [
        _style(glyph * n, fg=c) for glyph, c, n in zip(glyphs, _COLOURS, widths, strict=False)
    ]
    label = max(len(part.label) for part in bar.parts)
    legend = [
        f"{_style(glyph, fg=colour)} {part.label:<{label}}  {part.text}"
        for glyph, colour, part in zip(glyphs, _COLOURS, bar.parts, strict=False)
    ]
    return ["".join(pieces), *legend]
