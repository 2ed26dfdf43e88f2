"""Lengths without arrivals: ``num_prefill_tokens,num_decode_tokens,...``.

Source: project-etalon/etalon (Apache-2.0) and microsoft/vidur (MIT), processed traces.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.workload.traces.base import Head, Reading, TraceFormat, csv_rows, length
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_lines import CsvBlock

__all__ = ["LENGTHS"]

_COLUMNS = ("num_prefill_tokens", "num_decode_tokens")


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    def to_row(line: int, fields: list[str]) -> TraceRow:
        return TraceRow(line, None, length(fields[0], _COLUMNS[0]), length(fields[1], _COLUMNS[1]))

    def to_columns(block: CsvBlock) -> Columns:
        return Columns(block.lines.numbers(), None, block.integers(0), block.integers(1))

    return csv_rows(reading, _COLUMNS, to_row, to_columns)


def _matches(head: Head) -> bool:
    return head.has_columns(*_COLUMNS) and "arrived_at" not in head.columns


LENGTHS = TraceFormat(
    "lengths",
    "prompt and output lengths only (CSV)",
    _matches,
    _rows,
    "none",
    columns=("arrival", *_COLUMNS),
)
