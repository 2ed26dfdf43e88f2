"""Vidur's request CSV: ``arrived_at,num_prefill_tokens,num_decode_tokens``, seconds.

Source: microsoft/vidur, MIT.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.workload.readers.base import (
    Head,
    Reading,
    TraceFormat,
    TraceRow,
    csv_rows,
    length,
    seconds,
)

__all__ = ["VIDUR", "VIDUR_COLUMNS"]

VIDUR_COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def _rows(reading: Reading) -> Iterator[TraceRow]:
    def to_row(line: int, fields: list[str]) -> TraceRow:
        prompt, output = length(fields[1], VIDUR_COLUMNS[1]), length(fields[2], VIDUR_COLUMNS[2])
        return TraceRow(line, seconds(fields[0], VIDUR_COLUMNS[0]), prompt, output)

    return csv_rows(reading, VIDUR_COLUMNS, to_row)


def _matches(head: Head) -> bool:
    return set(VIDUR_COLUMNS) <= set(head.columns)


VIDUR = TraceFormat("vidur", "Vidur CSV, seconds", _matches, _rows)
