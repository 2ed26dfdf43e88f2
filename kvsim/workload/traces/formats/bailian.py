"""Qwen-Bailian's traces: one chat turn per line, ids of 16-token blocks.

``chat_id, parent_chat_id (-1 = root), timestamp, input_length, output_length, type, turn,
hash_ids``; `timestamp` is in **seconds**. Each row holds its whole context. The session of a row
is the root of its chain of parents.

Source: alibaba-edu/qwen-bailian-usagetraces-anon.
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

__all__ = ["BAILIAN"]

_KEYS = {"chat_id", "parent_chat_id", "timestamp", "input_length", "output_length"}


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    root_of: dict[int, int] = {}  # only chats that have a parent

    def to_row(line: int, record: dict[str, Any]) -> TraceRow:
        chat, parent = (length(record[key], key) for key in ("chat_id", "parent_chat_id"))
        root = chat if parent == -1 else root_of.get(parent, parent)
        if parent != -1:
            root_of[chat] = root
        return TraceRow(
            line,
            seconds(record["timestamp"], "timestamp"),
            length(record["input_length"], "input_length"),
            length(record["output_length"], "output_length"),
            block_ids(record, "hash_ids"),
            root,
        )

    return json_rows(reading, to_row)


def _matches(head: Head) -> bool:
    return head.keys >= _KEYS


BAILIAN = TraceFormat(
    "bailian",
    "Qwen-Bailian JSONL, seconds, 16-token ids",
    _matches,
    _rows,
    hash_block_size=16,
    columns=("timestamp", "input_length", "output_length"),
)
