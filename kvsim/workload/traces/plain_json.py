"""JSON lines with the keys of the first, their numbers found in the bytes.

What stands between the numbers of the first line has to stand between those of each other, to
the byte, so that all are JSON if the first is; see `kvsim.workload.traces.plain_lines`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kvsim.workload.base import Floats, Ints
from kvsim.workload.content import IdRuns
from kvsim.workload.traces.plain_lines import LONGEST_REAL, NotPlain, PlainLines

__all__ = ["JsonBlock"]

_POINT, _ZERO = b".0"
_LIST = rb"[0-9]+(?:, ?[0-9]+)*"
_KEY_AND_VALUE = rb'"([A-Za-z_]+)": ?(?:([0-9]+(?:\.[0-9]+)?)|\[(' + _LIST + rb")\])"
_PAIR = re.compile(_KEY_AND_VALUE)
_OBJECT = re.compile(rb"\{" + _KEY_AND_VALUE + rb"(?:, ?" + _KEY_AND_VALUE + rb")*\}")


@dataclass(frozen=True)
class _Pattern:
    """A line of JSON without its numbers.

    Parameters
    ----------
    pieces : tuple of bytes
        What stands before each value, and after the last.
    keys : tuple of str
        Each value's key.
    listed : int or None
        Which value is a list: its piece before ends in the bracket.
    separator : bytes
        Between the members of the list.
    """

    pieces: tuple[bytes, ...]
    keys: tuple[str, ...]
    listed: int | None
    separator: bytes

    @classmethod
    def of(cls, line: bytes) -> _Pattern:
        """Take a line apart: an object of numbers and at most one list of them, not empty."""
        if not _OBJECT.fullmatch(line):
            raise NotPlain
        pairs = list(_PAIR.finditer(line))
        spans = [pair.span(2) if pair[3] is None else pair.span(3) for pair in pairs]
        edges = [0, *(edge for span in spans for edge in span), len(line)]
        pieces = [line[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        keys = [pair[1].decode("ascii") for pair in pairs]
        lists = [at for at, pair in enumerate(pairs) if pair[3] is not None]
        if len(lists) > 1 or len(set(keys)) != len(keys):
            raise NotPlain
        listed = pairs[lists[0]][3] if lists else b""
        spaced = b", " in listed if b"," in listed else b": " in line  # as its writer would
        separator = b", " if spaced else b","
        return cls(tuple(pieces), tuple(keys), lists[0] if lists else None, separator)


class JsonBlock:
    """Lines of JSON, each an object with the keys of the first.

    Parameters
    ----------
    lines : PlainLines
        The lines.

    Raises
    ------
    NotPlain
        When a line is not the first one with other numbers.
    """

    def __init__(self, lines: PlainLines) -> None:
        self.lines = lines
        self._pattern = _Pattern.of(lines.content[: int(lines.ends[0])])
        self.keys = frozenset(self._pattern.keys)
        codes = lines.codes
        numeric = (codes - np.uint8(_ZERO) < 10) | (codes == _POINT)
        edges = np.flatnonzero(numeric[1:] != numeric[:-1]) + 1  # a line starts and ends in none
        if numeric[0] or len(edges) % 2:
            raise NotPlain
        self._starts, self._ends = edges[0::2], edges[1::2]
        self._line_up()

    def _line_up(self) -> None:
        """Find each line's numbers, and hold all that stands between them to the pattern."""
        pattern, values = self._pattern, len(self._pattern.keys)
        bounds = np.searchsorted(self._starts, np.concatenate(([0], self.lines.ends)))
        self._first, past = bounds[:-1], bounds[1:]
        counts = past - self._first
        if counts.min() < values or (pattern.listed is None and counts.max() > values):
            raise NotPlain
        self._members = counts - (values - 1)  # of the list, where there is one
        leading = np.zeros(len(self._starts), bool)  # the numbers that are no further members
        for value, piece in enumerate(pattern.pieces[:-1]):
            at = self._at(value)
            leading[at] = True
            self._require_gap(self._ends[at - 1] if value else self.lines.starts, at, piece)
        within = np.flatnonzero(~leading)
        self._require_gap(self._ends[within - 1], within, pattern.separator)
        last = self._ends[past - 1]
        self._require(last, self.lines.ends, pattern.pieces[-1])
        self._require_numbers()

    def _at(self, value: int) -> Ints:
        """Which number of the block is each line's `value`-th; of a list, its first member."""
        listed = self._pattern.listed
        behind = listed is not None and value > listed
        return self._first + value + (self._members - 1 if behind else 0)

    def _require_gap(self, ends: Ints, numbers: Ints, piece: bytes) -> None:
        self._require(ends, self._starts[numbers], piece)

    def _require(self, starts: Ints, ends: Ints, piece: bytes) -> None:
        if not (ends - starts == len(piece)).all():
            raise NotPlain
        self.lines.require(starts, piece)

    def _require_numbers(self) -> None:
        """Hold what is written in digits and points to JSON's numbers: no 01, no 1., no 1.2.3."""
        codes, starts, sizes = self.lines.codes, self._starts, self._ends - self._starts
        zeros = starts[(codes[starts] == _ZERO) & (sizes > 1)]
        points = np.flatnonzero(codes == _POINT)
        beside = codes[np.concatenate((points - 1, points + 1))] - np.uint8(_ZERO)
        pointed = np.searchsorted(starts, points, side="right")
        whole = sizes.max() <= LONGEST_REAL and (beside < 10).all() and (np.diff(pointed) > 0).all()
        if not whole or (codes[zeros + 1] != _POINT).any():
            raise NotPlain

    def _span(self, key: str) -> tuple[Ints, Ints]:
        if key not in self.keys or self._pattern.keys.index(key) == self._pattern.listed:
            raise NotPlain
        at = self._at(self._pattern.keys.index(key))
        return self._starts[at], self._ends[at]

    def integers(self, key: str) -> Ints:
        """Read the whole number under a key."""
        return self.lines.integers(*self._span(key))

    def reals(self, key: str) -> Floats:
        """Read the decimal under a key."""
        return self.lines.reals(*self._span(key))

    def lists(self, key: str) -> Sequence[Sequence[int]] | None:
        """Read the list of whole numbers under a key; None where the lines have no such key."""
        listed = self._pattern.listed
        if key not in self.keys:
            return None
        if listed is None or self._pattern.keys[listed] != key:
            raise NotPlain
        others = [value for value in range(len(self._pattern.keys)) if value != listed]
        members = np.ones(len(self._starts), bool)
        for value in others:
            members[self._at(value)] = False
        flat = self.lines.integers(self._starts[members], self._ends[members])
        return _parted(flat, np.concatenate(([0], np.cumsum(self._members))))


def _parted(flat: Ints, bounds: Ints) -> list[tuple[int, ...]] | list[IdRuns]:
    """Part a list at bounds: into runs where most members follow another."""
    begins = np.ones(len(flat), bool)
    begins[1:] = np.diff(flat) != 1
    begins[bounds[:-1]] = True
    at = np.flatnonzero(begins)
    if 2 * len(at) > len(
        flat
    ):  # tuples of numbers are looked at once by Python's garbage collector
        members, edges = tuple(flat.tolist()), bounds.tolist()
        return [members[start:end] for start, end in pairwise(edges)]
    stops = flat[at] + np.diff(np.concatenate((at, bounds[-1:])))
    runs = list(map(range, flat[at].tolist(), stops.tolist()))
    return [
        IdRuns(runs[start:end]) for start, end in pairwise(np.searchsorted(at, bounds).tolist())
    ]
