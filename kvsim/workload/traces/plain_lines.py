"""Lines that differ in their numbers alone, read a thousand at a time.

A trace of a million requests says the same line a million times with other numbers in it. What
a block of such lines holds is found by NumPy in its bytes; a block with anything else in it (a
quote, a sign, an exponent, a missing field, another order of keys) raises `NotPlain`, and its
lines are read one by one by who knows what is wrong with each::

    CSV     2.5,100,10                   k fields a line, split at commas
    JSON    {"t": 25, "ids": [4, 5]}     see `kvsim.workload.traces.plain_json`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kvsim.workload.base import Floats, Ints

__all__ = ["LONGEST_REAL", "CsvBlock", "NotPlain", "PlainLines"]

_COMMA, _NEWLINE, _ZERO = b",\n0"
_MOST_DIGITS = 18  # always within 63 bits
LONGEST_REAL = 40  # characters
_REAL = re.compile(rb"[0-9]+(?:\.[0-9]+)?")


class NotPlain(Exception):  # noqa: N818 - an answer about lines, not an error
    """Lines that have to be read one by one."""


@dataclass(frozen=True)
class PlainLines:
    """Whole lines of ASCII, each with its line end.

    Parameters
    ----------
    first : int
        Number of the first line.
    content : bytes
        The lines.
    """

    first: int
    content: bytes

    @classmethod
    def of(cls, first: int, content: bytes) -> PlainLines:
        """Take the bytes of whole lines, which may end in CR LF; the last needs no end.

        Raises
        ------
        NotPlain
            For bytes beyond ASCII, and for a carriage return within a line.
        """
        if not content.isascii():
            raise NotPlain
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n")
            if b"\r" in content:
                raise NotPlain
        return cls(first, content if content.endswith(b"\n") else content + b"\n")

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        """The bytes as numbers."""
        return np.frombuffer(self.content, np.uint8)

    @cached_property
    def ends(self) -> Ints:
        """Where each line's end stands."""
        return np.flatnonzero(self.codes == _NEWLINE)

    @cached_property
    def starts(self) -> Ints:
        """Where each line begins."""
        return np.concatenate(([0], self.ends[:-1] + 1))

    def numbers(self) -> range:
        """Return the number of each line."""
        return range(self.first, self.first + len(self))

    def integers(self, starts: Ints, ends: Ints) -> Ints:
        """Read the digits from each start to its end.

        Raises
        ------
        NotPlain
            For anything but 1 to 18 digits.
        """
        sizes = ends - starts
        if not (len(sizes) and sizes.min() > 0 and sizes.max() <= _MOST_DIGITS):
            raise NotPlain
        values = np.empty(len(sizes), np.int64)
        for size in np.flatnonzero(np.bincount(sizes)).tolist():
            alike = np.flatnonzero(sizes == size)
            values[alike] = self._digits(starts[alike], size)
        return values

    def _digits(self, starts: Ints, size: int) -> Ints:
        """Read as many digits from each start."""
        value = np.zeros(len(starts), np.int64)
        for place in range(size):
            digits = self.codes[starts + place] - np.uint8(_ZERO)  # what is below "0" wraps
            if digits.max() > 9:
                raise NotPlain
            value = value * 10 + digits
        return value

    def reals(self, starts: Ints, ends: Ints) -> Floats:
        """Read the decimal from each start to its end, as Python's float does.

        Raises
        ------
        NotPlain
            For anything but digits, and maybe a point with digits around it.
        """
        if not len(starts):
            raise NotPlain
        try:
            return self.integers(starts, ends).astype(np.float64)
        except NotPlain:
            pass
        if (ends - starts).max() > LONGEST_REAL:
            raise NotPlain
        texts = self.texts(starts, ends)
        if not all(map(_REAL.fullmatch, texts)):
            raise NotPlain
        return np.array([float(text) for text in texts])

    def texts(self, starts: Ints, ends: Ints) -> list[bytes]:
        """Return the bytes from each start to its end."""
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return [self.content[start:end] for start, end in spans]

    def require(self, at: Ints, piece: bytes) -> None:
        """Raise NotPlain unless `piece` stands at each place, all within the content."""
        for offset, code in enumerate(piece):
            if not (self.codes[at + offset] == code).all():
                raise NotPlain


@dataclass(frozen=True)
class CsvBlock:
    """Lines of CSV without quotes, each of the same number of fields.

    Parameters
    ----------
    lines : PlainLines
        The lines.
    width : int
        Fields of each.
    places : sequence of int
        Which fields are asked for, by position here.

    Raises
    ------
    NotPlain
        For a quote, or a line of another number of fields.
    """

    lines: PlainLines
    width: int
    places: Sequence[int]

    def __post_init__(self) -> None:
        if b'"' in self.lines.content or self._ends.size == 0:
            raise NotPlain

    @cached_property
    def _ends(self) -> Ints:
        """Where each field ends: (lines, fields)."""
        codes = self.lines.codes
        ends = np.flatnonzero((codes == _COMMA) | (codes == _NEWLINE))
        if len(ends) != len(self.lines) * self.width:
            raise NotPlain
        table = ends.reshape(-1, self.width)
        if not np.array_equal(table[:, -1], self.lines.ends):
            raise NotPlain
        return table

    def span(self, column: int) -> tuple[Ints, Ints]:
        """Return where a column's fields start and end."""
        place = self.places[column]
        starts = self._ends[:, place - 1] + 1 if place else self.lines.starts
        return starts, self._ends[:, place]

    def integers(self, column: int) -> Ints:
        """Read a column of whole numbers."""
        return self.lines.integers(*self.span(column))

    def reals(self, column: int) -> Floats:
        """Read a column of decimals."""
        return self.lines.reals(*self.span(column))

    def texts(self, column: int) -> list[str]:
        """Return a column as text, without space around it."""
        return [text.decode("ascii").strip() for text in self.lines.texts(*self.span(column))]
