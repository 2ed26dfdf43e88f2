"""What a trace format is, and the two loops (CSV, JSON lines) that most formats share.

A format's own file says how to recognise it and how one record becomes a `TraceRow`. A record
that cannot be understood raises ValueError inside that function and is counted as malformed;
one that is understood and of no use (a failed request) raises `Dropped`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kvsim.errors import InputError
from kvsim.readers.json_file import RepeatedKeyError, each_key_once
from kvsim.specs.numbers import finite, shown, whole
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_json import JsonBlock
from kvsim.workload.traces.plain_lines import CsvBlock, NotPlain, PlainLines
from kvsim.workload.traces.report import ReadReport
from kvsim.workload.traces.source import LineSource, lines_of

__all__ = [
    "Dropped",
    "Head",
    "Reading",
    "TraceFormat",
    "TraceRow",
    "block_ids",
    "csv_rows",
    "json_object",
    "json_rows",
    "length",
    "plain_format",
    "seconds",
    "whole_list",
]


_PART_LINES = 128  # read together where a larger block is not plain


class Dropped(Exception):  # noqa: N818 - an answer about a row, not an error
    """A row that is understood and left out, with the reason to count it under."""


@dataclass
class Reading:
    """One pass over a trace: where from, what is found, and what is learnt on the way.

    Parameters
    ----------
    path : Path
        File or folder.
    report : ReadReport
        Counts rows left out.
    hash_block_size : int, optional
        Tokens behind one block identity; None where the trace has none.
    """

    path: Path
    report: ReadReport
    hash_block_size: int | None = None

    @cached_property
    def source(self) -> LineSource:
        """The file, line by line."""
        return LineSource(self.path)


@dataclass(frozen=True)
class Head:
    """The first 64 KiB of a file, as the formats look at it to recognise themselves."""

    text: str

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names in the first line of a CSV file; empty for JSON, and for what is neither."""
        first = self.text.lstrip().split("\n", 1)[0].strip()
        if first[:1] in "{[":
            return ()
        try:
            return tuple(name.strip().strip('"') for name in _split(first))
        except ValueError:
            return ()

    def has_columns(self, *names: str) -> bool:
        """Whether this is CSV with all these columns."""
        return set(names) <= set(self.columns)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys seen in the first JSON object, at any depth; empty for CSV."""
        text = self.text.lstrip()
        if not text.startswith("{"):
            return frozenset()
        line = text.split("\n", 1)[0]
        return frozenset(
            re.findall(r'"([^"\\]{1,60})"\s*:', line if len(line.strip()) > 2 else text)
        )


@dataclass(frozen=True)
class TraceFormat:
    """A format kvsim reads.

    Parameters
    ----------
    name : str
        As written after ``--format``.
    what : str
        One line for people.
    matches : callable
        Whether a `Head` is of this format, beyond doubt: units are never guessed.
    rows : callable
        Yields the requests of a `Reading`, in rows or many at a time in `Columns`.
    arrivals : str
        "recorded", "closed-loop" (think times), "rates" (a generator) or "none" (lengths).
    hash_block_size : int, optional
        Where the format fixes it.
    columns : tuple of three str
        What the file calls arrival, prompt and output, to name them in messages.
    """

    name: str
    what: str
    matches: Callable[[Head], bool]
    rows: Callable[[Reading], Iterator[TraceRow | Columns]]
    arrivals: Literal["recorded", "closed-loop", "rates", "none"] = "recorded"
    hash_block_size: int | None = None
    columns: tuple[str, str, str] = ("arrival", "prompt", "output")


def length(value: Any, key: str) -> int:
    """Read a whole number, of tokens mostly; `key` names it in the message."""
    try:
        return whole(value)
    except ValueError as error:
        raise ValueError(f"{key} {shown(value, 40)} is not a whole number") from error


def seconds(value: Any, key: str) -> float:
    """Read a time as written; NaN and infinity pass, to be refused with their line."""
    try:
        return finite(value)
    except ValueError as error:
        number = _endless(value)
        if number is None:
            raise ValueError(f"{key} {shown(value, 40)} is not a number") from error
        return number


def _endless(value: Any) -> float | None:
    """NaN, infinity, or what is too large for a double; None of what is no number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.inf if isinstance(value, int) else None
    return None if math.isfinite(number) else number


def whole_list(value: Any, key: str) -> list[int]:
    """Read a list of whole numbers of 0 or more."""
    if not isinstance(value, list) or any(type(entry) is not int for entry in value):
        raise ValueError(f"{key} is not a list of whole numbers")
    if value and min(value) < 0:
        raise ValueError(f"{key} holds a negative number")
    return value


def block_ids(record: dict[str, Any], key: str) -> tuple[int, ...] | None:
    """Read the names of the prompt's blocks under `key`; None where the row has none."""
    ids = record.get(key)
    return None if ids is None else tuple(whole_list(ids, key))


def _split(line: str) -> list[str]:
    if "\r" in line:
        raise ValueError("a bare carriage return within the line")
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise ValueError(f"not a CSV row: {error}") from error


def csv_rows(
    reading: Reading,
    columns: Sequence[str],
    to_row: Callable[[int, list[str]], TraceRow],
    to_columns: Callable[[CsvBlock], Columns],
) -> Iterator[TraceRow | Columns]:
    """Yield the rows of a CSV file with a header.

    Parameters
    ----------
    reading : Reading
        The pass.
    columns : sequence of str
        Columns to pick, in this order, wherever the file has them.
    to_row : callable
        Makes a row of (line number, picked fields).
    to_columns : callable
        Makes the same of many lines at once, or raises `NotPlain`.
    """
    number, header = next(reading.source.lines(), (1, ""))
    try:
        names = [name.strip() for name in _split(header)]
    except ValueError as error:
        raise InputError(str(error), where=f"{reading.path}:{number}") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"no column {', '.join(missing)}; the header has {', '.join(names)[:200]}",
            where=f"{reading.path}:{number}",
        )
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise InputError(f"the column {twice[0]} is there twice", where=f"{reading.path}:{number}")
    places = [names.index(name) for name in columns]

    def parse(line: int, text: str) -> TraceRow:
        fields = _split(text)
        if len(fields) != len(names):
            raise ValueError(f"{len(fields)} fields under a header of {len(names)}")
        return to_row(line, [fields[place].strip() for place in places])

    def parse_all(lines: PlainLines) -> Columns:
        return to_columns(CsvBlock(lines, len(names), places))

    yield from _each(reading, 1, parse, parse_all)


def plain_format(name: str, what: str, columns: tuple[str, str, str]) -> TraceFormat:
    """Describe a CSV format whose columns are arrival (s), prompt and output tokens."""

    def to_row(line: int, fields: list[str]) -> TraceRow:
        prompt, output = length(fields[1], columns[1]), length(fields[2], columns[2])
        return TraceRow(line, seconds(fields[0], columns[0]), prompt, output)

    def to_columns(block: CsvBlock) -> Columns:
        lengths = block.integers(1), block.integers(2)
        return Columns(block.lines.numbers(), block.reals(0), *lengths)

    return TraceFormat(
        name,
        what,
        lambda head: head.has_columns(*columns),
        lambda reading: csv_rows(reading, columns, to_row, to_columns),
        columns=columns,
    )


def json_rows(
    reading: Reading,
    to_row: Callable[[int, dict[str, Any]], TraceRow],
    to_columns: Callable[[JsonBlock], Columns] | None = None,
    skip_lines: int = 0,
) -> Iterator[TraceRow | Columns]:
    """Yield the rows of a file of one JSON object per line, after `skip_lines` of header.

    `to_columns` makes of many lines at once what `to_row` makes of each, or raises `NotPlain`.
    """

    def parse(line: int, text: str) -> TraceRow:
        return to_row(line, json_object(text))

    def parse_all(lines: PlainLines) -> Columns:
        if to_columns is None:
            raise NotPlain
        return to_columns(JsonBlock(lines))

    yield from _each(reading, skip_lines, parse, parse_all)


def json_object(text: str) -> dict[str, Any]:
    """Parse one JSON object; anything else raises ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=each_key_once)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except RepeatedKeyError:
        raise
    except ValueError as error:
        raise ValueError(f"not JSON: {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _each(
    reading: Reading,
    skip_lines: int,
    parse: Callable[[int, str], TraceRow],
    parse_all: Callable[[PlainLines], Columns],
) -> Iterator[TraceRow | Columns]:
    """Yield what the lines hold: of a block at once if it is plain, else of its parts, of each."""
    for number, block in reading.source.blocks(skip_lines):
        try:
            yield parse_all(PlainLines.of(number, block))
        except NotPlain:
            for first, part in _parts(number, block):
                try:
                    yield parse_all(PlainLines.of(first, part))
                except NotPlain:
                    yield from _one_by_one(reading, lines_of(first, part), parse)


def _parts(number: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Split whole lines into fewer, with the number of each part's first."""
    lines = block.split(b"\n")
    for at in range(0, len(lines), _PART_LINES):
        yield number + at, b"\n".join(lines[at : at + _PART_LINES])


def _one_by_one(
    reading: Reading, lines: Iterator[tuple[int, str]], parse: Callable[[int, str], TraceRow]
) -> Iterator[TraceRow]:
    for number, text in lines:
        if not text.strip():
            continue
        try:
            row = parse(number, text)
        except Dropped as reason:
            reading.report.dropped[str(reason)] += 1
        except KeyError as error:
            reading.report.malform(number, f"no key {error}")
        except ValueError as error:
            reading.report.malform(number, str(error))
        else:
            yield row
