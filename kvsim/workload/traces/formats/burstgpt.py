"""BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``.

Version 3 adds ``Session ID`` and ``Elapsed time``. Times are in seconds. A request without
response tokens failed: it is dropped and counted. No identities: nothing is shared.

Source: HPMLL/BurstGPT, CC-BY-4.0; Wang et al., arXiv 2401.17644.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvsim.workload.base import Ints
from kvsim.workload.traces.base import (
    Dropped,
    Head,
    Reading,
    TraceFormat,
    csv_rows,
    length,
    seconds,
)
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.plain_lines import CsvBlock, NotPlain

__all__ = ["BURSTGPT"]

_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_SESSION = "Session ID"
_FAILED = "the request failed (0 response tokens)"


def _rows(reading: Reading) -> Iterator[TraceRow | Columns]:
    sessions: dict[str, int] = {}
    has_sessions = _SESSION in Head(reading.source.head).columns
    columns = (*_COLUMNS, _SESSION) if has_sessions else _COLUMNS

    def to_row(line: int, fields: list[str]) -> TraceRow:
        arrival = seconds(fields[0], _COLUMNS[0])
        prompt, output = length(fields[1], _COLUMNS[1]), length(fields[2], _COLUMNS[2])
        if output == 0:
            raise Dropped(_FAILED)
        session = sessions.setdefault(fields[3], len(sessions)) if has_sessions else None
        return TraceRow(line, arrival, prompt, output, session=session)

    def to_columns(block: CsvBlock) -> Columns:
        outputs = block.integers(2)
        kept = np.flatnonzero(outputs)
        if not len(kept):
            raise NotPlain
        arrivals, prompts = block.reals(0)[kept], block.integers(1)[kept]
        named = _numbered(block.texts(3), outputs, sessions) if has_sessions else None
        if len(kept) < len(outputs):
            reading.report.dropped[_FAILED] += len(outputs) - len(kept)
        lines = (block.lines.first + kept).tolist()
        return Columns(lines, arrivals, prompts, outputs[kept], session=named)

    return csv_rows(reading, columns, to_row, to_columns)


def _numbered(names: list[str], outputs: Ints, sessions: dict[str, int]) -> Ints:
    """Number the sessions of the requests that did not fail, in order of first use."""
    kept = (name for name, output in zip(names, outputs.tolist(), strict=True) if output)
    numbers = [sessions.setdefault(name, len(sessions)) for name in kept]
    return np.array(numbers, dtype=np.int64)


def _matches(head: Head) -> bool:
    return head.has_columns(*_COLUMNS, "Log Type")


BURSTGPT = TraceFormat(
    "burstgpt", "BurstGPT CSV, versions 1 to 3", _matches, _rows, columns=_COLUMNS
)
