"""LLMServingSim's JSONL: ``input_toks, output_toks, arrival_time_ns`` and maybe token ids.

Where a row carries `input_tok_ids`, its full 16-token blocks are named by a chained hash of the
tokens, so that equal prefixes get equal identities.

Source: casys-kaist/LLMServingSim, MIT.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from kvsim.workload.traces.base import (
    Head,
    Reading,
    TraceFormat,
    json_rows,
    length,
    seconds,
    whole_list,
)
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_json import JsonBlock
from kvsim.workload.traces.plain_lines import NotPlain

__all__ = ["LLMSERVINGSIM"]

_COLUMNS = ("arrival_time_ns", "input_toks", "output_toks")
_BLOCK = 16


def chained_ids(tokens: list[int], block_size: int) -> list[int]:
    """Name each full block by 63 bits of BLAKE2b over the block and the name before it.

    Examples
    --------
    >>> a, b = chained_ids([1] * 32, 16), chained_ids([1] * 16 + [2] * 16, 16)
    >>> a[0] == b[0], a[1] == b[1], len(a)
    (True, False, 2)
    """
    ids, last = [], 0
    for at in range(0, len(tokens) - block_size + 1, block_size):
        block = struct.pack(f"<{block_size + 1}Q", last, *tokens[at : at + block_size])
        last = int.from_bytes(hashlib.blake2b(block, digest_size=8).digest(), "little") >> 1
        ids.append(last)
    return ids


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    def to_row(line: int, record: dict[str, Any]) -> TraceRow:
        prompt = length(record["input_toks"], "input_toks")
        output = length(record["output_toks"], "output_toks")
        arrival = seconds(record["arrival_time_ns"], "arrival_time_ns") * 1e-9
        return TraceRow(line, arrival, prompt, output, _ids(record, prompt))

    def to_columns(block: JsonBlock) -> Columns:
        if "input_tok_ids" in block.keys:
            raise NotPlain  # each row's tokens are hashed
        arrival = block.reals("arrival_time_ns") * 1e-9
        lengths = block.integers("input_toks"), block.integers("output_toks")
        return Columns(block.lines.numbers(), arrival, *lengths)

    return json_rows(reading, to_row, to_columns)


def _ids(record: dict[str, Any], prompt: int) -> tuple[int, ...] | None:
    if "input_tok_ids" not in record:
        return None
    tokens = whole_list(record["input_tok_ids"], "input_tok_ids")
    if len(tokens) != prompt:
        raise ValueError(f"{len(tokens)} input_tok_ids for input_toks {prompt}")
    if tokens and max(tokens) >= 2**64:
        raise ValueError("input_tok_ids holds a number over 64 bits")
    return tuple(chained_ids(tokens, _BLOCK))


def _matches(head: Head) -> bool:
    return head.keys >= set(_COLUMNS)


LLMSERVINGSIM = TraceFormat(
    "llmservingsim",
    "LLMServingSim JSONL, nanoseconds",
    _matches,
    _rows,
    hash_block_size=_BLOCK,
    columns=_COLUMNS,
)
