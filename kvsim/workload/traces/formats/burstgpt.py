"""BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``.

Version 3 adds ``Session ID`` and ``Elapsed time``. Times are in seconds. A request without
response tokens failed: it is dropped and counted. No identities: nothing is shared.

Source: HPMLL/BurstGPT, CC-BY-4.0; Wang et al., arXiv 2401.17644.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.workload.traces.base import (
    Dropped,
    Head,
    Reading,
    TraceFormat,
    TraceRow,
    csv_rows,
    length,
    seconds,
)

__all__ = ["BURSTGPT"]

_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_SESSION = "Session ID"


def _rows(reading: Reading) -> Iterator[TraceRow]:
    sessions: dict[str, int] = {}
    has_sessions = _SESSION in Head(reading.source.head).columns
    columns = (*_COLUMNS, _SESSION) if has_sessions else _COLUMNS

    def to_row(line: int, fields: list[str]) -> TraceRow:
        arrival = seconds(fields[0], _COLUMNS[0])
        prompt, output = length(fields[1], _COLUMNS[1]), length(fields[2], _COLUMNS[2])
        if output == 0:
            raise Dropped("the request failed (0 response tokens)")
        session = sessions.setdefault(fields[3], len(sessions)) if has_sessions else None
        return TraceRow(line, arrival, prompt, output, session=session)

    return csv_rows(reading, columns, to_row)


def _matches(head: Head) -> bool:
    return head.has_columns(*_COLUMNS, "Log Type")


BURSTGPT = TraceFormat(
    "burstgpt", "BurstGPT CSV, versions 1 to 3", _matches, _rows, columns=_COLUMNS
)
