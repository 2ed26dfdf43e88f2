"""Azure's LLM inference traces of 2023 and 2024.

``TIMESTAMP,ContextTokens,GeneratedTokens``; the timestamp is ``YYYY-MM-DD HH:MM:SS`` with 7
fractional digits (2023), 6 digits and ``+00:00`` (2024), or no fraction at all. UTC is assumed
where no offset is written. No block identities: nothing is shared.

Source: Azure/AzurePublicDataset, CC-BY-4.0; Patel et al., Splitwise, ISCA 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np

from kvsim.workload.base import Ints
from kvsim.workload.traces.base import Head, Reading, TraceFormat, csv_rows, length
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_lines import CsvBlock, NotPlain, PlainLines

__all__ = ["AZURE"]

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d{1,9})?(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_HOUR, _CLOCK = len("YYYY-MM-DD HH"), len("YYYY-MM-DD HH:MM:SS")
_EPOCH = datetime(2000, 1, 1)


@lru_cache(maxsize=64)
def _whole_seconds(stamp: str) -> int:
    return (datetime.fromisoformat(stamp) - _EPOCH) // timedelta(seconds=1)


def _ticks(stamp: str) -> tuple[int, int]:
    """Whole seconds and nanoseconds of a timestamp: a float would round the 7th digit."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        raise ValueError(f"TIMESTAMP {stamp[:40]!r} is not YYYY-MM-DD HH:MM:SS[.fffffff][+00:00]")
    clock, fraction, sign, hours, minutes = match.groups()
    offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1) if sign else 0
    nanoseconds = int((fraction or ".0")[1:].ljust(9, "0"))
    return _whole_seconds(clock) - offset, nanoseconds


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    first: list[tuple[int, int]] = []

    def to_row(line: int, fields: list[str]) -> TraceRow:
        prompt, output = length(fields[1], _COLUMNS[1]), length(fields[2], _COLUMNS[2])
        whole_seconds, nanoseconds = _ticks(fields[0])
        if not first:
            first.append((whole_seconds, nanoseconds))
        arrival = (whole_seconds - first[0][0]) + (nanoseconds - first[0][1]) * 1e-9
        return TraceRow(line, arrival, prompt, output)

    def to_columns(block: CsvBlock) -> Columns:
        lengths = block.integers(1), block.integers(2)
        whole_seconds, nanoseconds = _all_ticks(block)
        if not first:
            first.append((int(whole_seconds[0]), int(nanoseconds[0])))
        arrivals = (whole_seconds - first[0][0]) + (nanoseconds - first[0][1]) * 1e-9
        return Columns(block.lines.numbers(), arrivals, *lengths)

    return csv_rows(reading, _COLUMNS, to_row, to_columns)


def _all_ticks(block: CsvBlock) -> tuple[Ints, Ints]:
    """`_ticks` of a block whose timestamps have one length and no offset but of nought."""
    starts, ends = block.span(0)
    stamps = block.lines
    size = int(ends[0] - starts[0])
    if not (ends - starts == size).all() or size < _CLOCK:
        raise NotPlain
    whole_seconds = _clocks(stamps, starts)
    zone = b"+00:00" if stamps.content[starts[0] : ends[0]].endswith(b"+00:00") else b""
    stamps.require(ends - len(zone), zone)
    digits = size - len(zone) - _CLOCK - 1
    if digits == -1:
        return whole_seconds, np.zeros_like(whole_seconds)
    if not 1 <= digits <= 9:
        raise NotPlain
    stamps.require(starts + _CLOCK, b".")
    fraction = stamps.integers(starts + _CLOCK + 1, ends - len(zone))
    return whole_seconds, fraction * 10 ** (9 - digits)


def _clocks(stamps: PlainLines, starts: Ints) -> Ints:
    """Whole seconds since 2000 of the timestamps at `starts`, few of which differ by the hour."""
    hours = starts + _HOUR
    minutes, second = (stamps.integers(starts + at, starts + at + 2) for at in (14, 17))
    stamps.require(hours, b":")
    stamps.require(hours + 3, b":")
    if minutes.max() > 59 or second.max() > 59:
        raise NotPlain
    rows = np.lib.stride_tricks.sliding_window_view(stamps.codes, _HOUR)[starts]
    changed = np.concatenate(([True], (rows[1:] != rows[:-1]).any(axis=1)))
    try:
        begun = [_hour(stamps.content[at : at + _HOUR]) for at in starts[changed].tolist()]
    except ValueError:
        raise NotPlain from None
    of_hour: Ints = np.array(begun, dtype=np.int64)[np.cumsum(changed) - 1]
    return of_hour + 60 * minutes + second


def _hour(stamp: bytes) -> int:
    return _ticks(f"{stamp.decode()}:00:00")[0]


def _matches(head: Head) -> bool:
    return head.has_columns(*_COLUMNS)


AZURE = TraceFormat(
    "azure", "Azure LLM inference CSV, 2023 and 2024", _matches, _rows, columns=_COLUMNS
)
