"""splitwise-sim's CSV: one request a row, arrival in seconds.

``request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size``.

Source: Mutinifni/splitwise-sim, MIT.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.workload.traces.base import Head, Reading, TraceFormat, TraceRow, plain_rows

__all__ = ["SPLITWISE"]

_COLUMNS = ("arrival_timestamp", "prompt_size", "token_size")


def _rows(reading: Reading) -> Iterator[TraceRow]:
    return plain_rows(reading, _COLUMNS)


def _matches(head: Head) -> bool:
    return set(_COLUMNS) <= set(head.columns)


SPLITWISE = TraceFormat(
    "splitwise", "splitwise-sim CSV, seconds", _matches, _rows, columns=_COLUMNS
)
