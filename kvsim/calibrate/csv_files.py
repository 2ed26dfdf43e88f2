"""CSV files that somebody measured: a header, and rows whose every cell is asked for by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kvsim.errors import InputError, nearest
from kvsim.specs.files import MAX_CSV_BYTES, read_text
from kvsim.specs.numbers import finite, shown, whole

__all__ = ["CsvRow", "csv_rows", "read_csv"]

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row: its cells by column, and the file and line that errors name."""

    cells: Mapping[str, str]
    where: str

    def __getitem__(self, column: str) -> str:
        """Return a cell's text.

        Raises
        ------
        InputError
            When the file has no such column, or the text would not print in one line.
        """
        if column not in self.cells:
            raise InputError(f"no column {column}", where=self.where)
        text = self.cells[column]
        if not text.isprintable():
            raise InputError(f"{column} = {shown(text)} is not plain text", where=self.where)
        return text

    def number(self, column: str) -> float:
        """Read one finite number at or above zero.

        Raises
        ------
        InputError
            When the cell is empty, no number, negative or not finite.
        """
        return self._read(column, finite)

    def whole(self, column: str) -> int:
        """Read one whole number at or above zero.

        Raises
        ------
        InputError
            When the cell is empty, no whole number or negative.
        """
        return self._read(column, whole)

    def _read(self, column: str, rule: Callable[[str], Number]) -> Number:
        text = self[column]
        try:
            value = rule(text)
            if value < 0:
                raise ValueError("should be at least 0")
        except ValueError as error:
            raise InputError(f"{column} = {shown(text)}: {error}", where=self.where) from None
        return value


def read_csv(path: Path, columns: Iterable[str], *, last_may_be_cut: bool = False) -> list[CsvRow]:
    """Read a CSV whose header must hold `columns`; lines may end as on any system.

    Lines before the header that begin with ``#`` are passed over.

    Parameters
    ----------
    path : Path
        File to read.
    columns : iterable of str
        What its header must hold, in any order and among others.
    last_may_be_cut : bool
        Whether to leave out a last row of too few cells, as a stopped writer leaves it.

    Raises
    ------
    InputError
        When there is no such file, it is no text, a column is missing or there twice, or a
        row has more or fewer cells than the header.
    """
    text = read_text(path, max_bytes=MAX_CSV_BYTES)
    return csv_rows(text, str(path), columns, last_may_be_cut=last_may_be_cut)


def csv_rows(
    text: str, file: str, columns: Iterable[str], *, last_may_be_cut: bool = False
) -> list[CsvRow]:
    """Read the text of a CSV; see `read_csv`. `file` is what errors name.

    Raises
    ------
    InputError
        As `read_csv`.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    where, header, rows = f"{file}, line 1", None, list[CsvRow]()
    try:
        header = next((row for row in lines if not _is_remark(row)), [])
        where = f"{file}, line {max(1, lines.line_num)}"
        _check_header(header, columns, where)
        for cells in filter(None, lines):
            where = f"{file}, line {lines.line_num}"
            rows.append(CsvRow(dict(zip(header, cells, strict=False)), where))
            if len(cells) != len(header):
                short, rest = len(cells) < len(header), next(lines, None)
                if last_may_be_cut and short and rest is None:
                    return rows[:-1]
                raise InputError(f"{len(cells)} cells under a header of {len(header)}", where=where)
    except csv.Error as error:
        where = f"{file}, line {lines.line_num}"
        raise InputError(f"not a readable CSV ({error})", where=where) from None
    if not rows:
        raise InputError("no rows below the header", where=file)
    return rows


def _is_remark(row: list[str]) -> bool:
    """Whether a line before the header says where the rows come from."""
    return bool(row) and row[0].startswith("#")


def _check_header(header: list[str], columns: Iterable[str], where: str) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        close = [near for name in missing for near in nearest(name, header, 1)]
        fix = f"near it stands {shown(close[0])}" if close else ""
        raise InputError(f"no column {', '.join(missing)}", where=where, fix=fix)
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the column {shown(twice)} is there twice", where=where)
