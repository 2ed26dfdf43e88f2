"""Mooncake's traces (Kimi): ``{"timestamp", "input_length", "output_length", "hash_ids"}``.

`timestamp` is in **milliseconds**; `hash_ids` names the prompt's blocks of 512 tokens, the last
of which may be partial. In the conversation trace times come in ticks of 3 s: replay it with
``jitter_seconds: 3``. Rows without `hash_ids` share nothing.

Source: kvcache-ai/Mooncake, Apache-2.0; Qin et al., FAST 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvsim.workload.traces.base import (
    Head,
    Reading,
    TraceFormat,
    block_ids,
    json_rows,
    length,
    seconds,
)
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_json import JsonBlock

__all__ = ["MOONCAKE"]

_KEYS = {"timestamp", "input_length", "output_length"}


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    def to_row(line: int, record: dict[str, Any]) -> TraceRow:
        return TraceRow(
            line,
            seconds(record["timestamp"], "timestamp") / 1000,
            length(record["input_length"], "input_length"),
            length(record["output_length"], "output_length"),
            block_ids(record, "hash_ids"),
        )

    def to_columns(block: JsonBlock) -> Columns:
        return Columns(
            block.lines.numbers(),
            block.reals("timestamp") / 1000,
            block.integers("input_length"),
            block.integers("output_length"),
            block.lists("hash_ids"),
        )

    return json_rows(reading, to_row, to_columns)


def _matches(head: Head) -> bool:
    return head.keys >= _KEYS and "chat_id" not in head.keys


MOONCAKE = TraceFormat(
    "mooncake",
    "Mooncake JSONL, milliseconds, 512-token ids",
    _matches,
    _rows,
    hash_block_size=512,
    columns=("timestamp", "input_length", "output_length"),
)
