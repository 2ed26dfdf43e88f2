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

from kvsim.workload.traces.base import Head, Reading, TraceFormat, TraceRow, csv_rows, length

__all__ = ["AZURE"]

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d{1,9})?(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII
)
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


def _rows(reading: Reading) -> Iterator[TraceRow]:
    first: list[tuple[int, int]] = []

    def to_row(line: int, fields: list[str]) -> TraceRow:
        prompt, output = length(fields[1], _COLUMNS[1]), length(fields[2], _COLUMNS[2])
        whole_seconds, nanoseconds = _ticks(fields[0])
        if not first:
            first.append((whole_seconds, nanoseconds))
        arrival = (whole_seconds - first[0][0]) + (nanoseconds - first[0][1]) * 1e-9
        return TraceRow(line, arrival, prompt, output)

    return csv_rows(reading, _COLUMNS, to_row)


def _matches(head: Head) -> bool:
    return head.has_columns(*_COLUMNS)


AZURE = TraceFormat(
    "azure", "Azure LLM inference CSV, 2023 and 2024", _matches, _rows, columns=_COLUMNS
)
