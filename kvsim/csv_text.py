"""Rows as CSV, the one way in which kvsim writes it: no cell can become a formula.

A spreadsheet runs a cell that begins with ``=`` ``+`` ``-`` ``@``, a tab or a carriage return, and
names in a CSV (a model, a scenario, a trace's file) may come from anybody. Such a text gets an
apostrophe before it, which a spreadsheet takes as "text follows"; a plain number stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["csv_cell", "csv_lines", "csv_text"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-](\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]inf", re.ASCII | re.IGNORECASE)


def csv_cell(value: Any) -> Any:
    """Return what is written for a value: nothing for None and NaN, no text that is a formula.

    Examples
    --------
    >>> csv_cell("=1+1"), csv_cell("-1.5e3"), csv_cell(-2), csv_cell(None)
    ("'=1+1", '-1.5e3', -2, '')
    """
    if isinstance(value, str):
        is_formula = value.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(value)
        return f"'{value}" if is_formula else value
    return "" if value is None or value != value else value


def csv_lines(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the line of each row, without its end."""
    import csv
    import io

    stream = io.StringIO(newline="")
    end = "\r\n"  # a cell that holds either is quoted
    writer = csv.writer(stream, lineterminator=end)
    for row in rows:
        writer.writerow([csv_cell(value) for value in row])
        yield stream.getvalue().removesuffix(end)
        stream.seek(0)
        stream.truncate()


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Return rows as the text of a CSV file.

    Examples
    --------
    >>> csv_text([("name", "bytes"), ("@a", 1)])
    "name,bytes\n'@a,1\n"
    """
    return "".join(f"{line}\n" for line in csv_lines(rows))
