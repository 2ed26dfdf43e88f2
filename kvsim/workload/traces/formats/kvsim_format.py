"""kvsim's own trace format: JSON lines that stream, with identities and sessions.

The first line names the schema; then one request per line, times in seconds, never going back::

    {"schema": "kvsim-trace/1", "hash_block_size": 512}
    {"arrival_seconds": 0.0, "prompt_tokens": 6758, "output_tokens": 500, "block_ids": [0, 1]}

`block_ids` (one chained identity per `hash_block_size` tokens of the prompt, the last may be of
a partial block), `session`, `priority` and `samples` are optional, `hash_block_size` too where
no row has `block_ids`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kvsim.errors import InputError
from kvsim.workload.traces.base import (
    Head,
    Reading,
    TraceFormat,
    block_ids,
    json_object,
    json_rows,
    length,
    seconds,
)
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_json import JsonBlock
from kvsim.workload.traces.plain_lines import NotPlain

__all__ = ["KVSIM", "SCHEMA", "kvsim_lines"]

SCHEMA = "kvsim-trace/1"
_REQUIRED = ("arrival_seconds", "prompt_tokens", "output_tokens")
_MOST_SAMPLES = 1024
_OPTIONAL = ("block_ids", "session", "priority", "samples")


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    reading.hash_block_size = _header(reading)

    def to_row(line: int, record: dict[str, Any]) -> TraceRow:
        unknown = set(record) - {*_REQUIRED, *_OPTIONAL}
        if unknown:
            raise ValueError(f"unknown key {min(unknown)!r}")
        arrival, prompt, output = (record[key] for key in _REQUIRED)
        if record.get("block_ids") is not None and reading.hash_block_size is None:
            raise ValueError("block_ids without a hash_block_size in the header")
        if not 1 <= length(record.get("samples", 1), "samples") <= _MOST_SAMPLES:
            raise ValueError(f"samples is not between 1 and {_MOST_SAMPLES}")
        return TraceRow(
            line,
            seconds(arrival, "arrival_seconds"),
            length(prompt, "prompt_tokens"),
            length(output, "output_tokens"),
            block_ids(record, "block_ids"),
            *(
                None if record.get(key) is None else length(record[key], key)
                for key in _OPTIONAL[1:]
            ),
        )

    def to_columns(block: JsonBlock) -> Columns:
        if block.keys - {*_REQUIRED, *_OPTIONAL} or not _may_name(block, reading):
            raise NotPlain
        found = Columns(
            block.lines.numbers(),
            block.reals("arrival_seconds"),
            block.integers("prompt_tokens"),
            block.integers("output_tokens"),
            block.lists("block_ids"),
            *(block.integers(key) if key in block.keys else None for key in _OPTIONAL[1:]),
        )
        if (
            found.samples is not None
            and not 1 <= found.samples.min() <= found.samples.max() <= 1024
        ):
            raise NotPlain
        return found

    return json_rows(reading, to_row, to_columns, skip_lines=1)


def _may_name(block: JsonBlock, reading: Reading) -> bool:
    return "block_ids" not in block.keys or reading.hash_block_size is not None


def _header(reading: Reading) -> int | None:
    number, text = next(reading.source.lines(), (1, ""))
    where = f"{reading.path}:{number}"
    try:
        header = json_object(text)
        size = header.get("hash_block_size")
        size = None if size is None else length(size, "hash_block_size")
    except ValueError as error:
        raise InputError(str(error), where=where) from error
    if header.get("schema") != SCHEMA:
        raise InputError(f"schema {header.get('schema')!r} is not {SCHEMA!r}", where=where)
    if size is not None and not 1 <= size <= 2**20:
        raise InputError(f"hash_block_size {size} is not between 1 and 2**20", where=where)
    return size


def kvsim_lines(rows: Iterable[TraceRow], hash_block_size: int | None) -> Iterator[str]:
    """Yield the lines (without line ends) of a file in kvsim's format."""
    yield json.dumps({"schema": SCHEMA, "hash_block_size": hash_block_size})
    for row in rows:
        record: dict[str, Any] = {key: getattr(row, key) for key in _REQUIRED}
        if row.block_ids is not None:
            record["block_ids"] = list(row.block_ids)
        extras = {key: getattr(row, key) for key in _OPTIONAL[1:]}
        record.update({key: value for key, value in extras.items() if value is not None})
        yield json.dumps(record)


def _matches(head: Head) -> bool:
    return "schema" in head.keys and SCHEMA.split("/")[0] in head.text[:200]


KVSIM = TraceFormat("kvsim", "kvsim's own JSONL", _matches, _rows, columns=_REQUIRED)
