"""A table, and a table with its picture: what every figure function returns.

Whoever shows one needs no more than it carries: a title, a sentence that says what is to be
seen (for those who cannot see it), the rows behind it, and the forms to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.csv_text import csv_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Chart", "Row", "Table", "rounded"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Parameters
    ----------
    name : str
        Stem of the files it is kept in: "memory".
    title : str
        What it is, in words.
    rows : sequence of mapping
        All with the same keys; a key of a number names its unit.
    """

    name: str
    title: str
    rows: Sequence[Row]

    def to_csv(self) -> str:
        """Write the rows as CSV with a header; texts cannot become formulas."""
        if not self.rows:
            return ""
        return csv_text([tuple(self.rows[0]), *(tuple(row.values()) for row in self.rows)])

    def to_json(self) -> str:
        """Write title and rows as JSON."""
        return json.dumps(self._content(), indent=2, default=str)

    def _content(self) -> dict[str, Any]:
        return {"title": self.title, "rows": [dict(row) for row in self.rows]}


@dataclass(frozen=True)
class Chart(Table):
    """A picture and the rows that it draws.

    Parameters
    ----------
    alt : str
        What is to be seen, in one sentence.
    figure : plotly.graph_objects.Figure
        The picture, without a title and without colours for text and background.
    """

    alt: str
    figure: Figure

    def _content(self) -> dict[str, Any]:
        return super()._content() | {"alt": self.alt, "figure": json.loads(self.figure.to_json())}


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Round to significant digits: five say all that a simulation can.

    Examples
    --------
    >>> rounded(1234.5678), rounded(None)
    (1234.6, None)
    """
    return None if value is None else float(f"{value:.{digits}g}")
