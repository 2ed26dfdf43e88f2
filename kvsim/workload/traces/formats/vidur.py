"""Vidur's request CSV: ``arrived_at,num_prefill_tokens,num_decode_tokens``, seconds.

Source: microsoft/vidur, MIT.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.workload.traces.base import Head, Reading, TraceFormat, TraceRow, plain_rows

__all__ = ["VIDUR", "VIDUR_COLUMNS"]

VIDUR_COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def _rows(reading: Reading) -> Iterator[TraceRow]:
    return plain_rows(reading, VIDUR_COLUMNS)


def _matches(head: Head) -> bool:
    return set(VIDUR_COLUMNS) <= set(head.columns)


VIDUR = TraceFormat("vidur", "Vidur CSV, seconds", _matches, _rows, columns=VIDUR_COLUMNS)
