"""What every request of a trace must fulfil, of one row and of thousands at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.specs.numbers import LONGEST_SECONDS
from kvsim.units import ceil_div
from kvsim.workload.base import Floats
from kvsim.workload.traces.base import Reading, TraceFormat
from kvsim.workload.traces.columns import Columns, TraceRow

__all__ = ["Checks"]

_MOST_TOKENS = 2**31


class Checks:
    """What every row must fulfil, whatever its format.

    Parameters
    ----------
    format : TraceFormat
        What the file is read as.
    reading : Reading
        The pass, whose report counts what is left out.
    """

    def __init__(self, format: TraceFormat, reading: Reading) -> None:
        self._reading, self._report = reading, reading.report
        self._arrival, self._prompt, self._output = format.columns
        self._recorded = format.arrivals == "recorded"
        self._keeps_empty_outputs = format.arrivals == "closed-loop"
        self._last = 0.0
        self._shape: tuple[bool, ...] | None = None

    def passed(self, row: TraceRow) -> TraceRow | None:
        """Return the row, or None when it was counted as left out."""
        self._check_lengths(row)
        if row.output_tokens == 0 and not self._keeps_empty_outputs:
            self._report.dropped["no output token"] += 1
            return None
        reason = self._ids_reason(row) or self._shape_reason(row)
        if reason:
            self._report.malform(row.line, reason)
            return None
        self._check_time(row)
        return row

    def all_pass(self, rows: Columns) -> bool:
        """Whether every row would pass, and is kept; who is told no asks about each."""
        fewest_output = 0 if self._keeps_empty_outputs else 1
        alike = (rows.session is None, rows.priority is None, rows.samples is None)
        if (
            _within(rows.prompt_tokens, 1, _MOST_TOKENS)
            and _within(rows.output_tokens, fewest_output, _MOST_TOKENS)
            and (self._shape or alike) == alike
            and self._ids_fit(rows)
            and self._times_pass(rows.arrival_seconds)
        ):
            self._shape = alike
            return True
        return False

    def _ids_fit(self, rows: Columns) -> bool:
        size = self._reading.hash_block_size
        if rows.block_ids is None or size is None:
            return True
        counts = np.array([-1 if ids is None else len(ids) for ids in rows.block_ids])
        full, most = rows.prompt_tokens // size, -(-rows.prompt_tokens // size)
        return bool(((counts == full) | (counts == most) | (counts < 0)).all())

    def _times_pass(self, times: Floats | None) -> bool:
        """Whether the times are in order, of which the last is then kept."""
        if times is None:
            return True
        in_order = not self._recorded or (
            times[0] >= self._last and bool((times[1:] >= times[:-1]).all())
        )
        if not (in_order and _within(times, 0, LONGEST_SECONDS)):
            return False
        self._last = float(times[-1])
        return True

    def _fail(self, row: TraceRow, key: str, what: str) -> InputError:
        return InputError(what, where=f"{self._report.path}:{row.line}: {key}")

    def _check_lengths(self, row: TraceRow) -> None:
        if not 1 <= row.prompt_tokens <= _MOST_TOKENS:
            raise self._fail(row, self._prompt, f"a prompt of {_number(row.prompt_tokens)} tokens")
        if not 0 <= row.output_tokens <= _MOST_TOKENS:
            raise self._fail(row, self._output, f"an output of {_number(row.output_tokens)} tokens")

    def _check_time(self, row: TraceRow) -> None:
        at = row.arrival_seconds
        if at is None:
            return
        if not (math.isfinite(at) and at >= 0):
            raise self._fail(row, self._arrival, f"an arrival at {at} s")
        if at > LONGEST_SECONDS:
            late = f"an arrival at {at:.3g} s; times go to {LONGEST_SECONDS:.0e} s"
            raise self._fail(row, self._arrival, late)
        if self._recorded and at < self._last:
            raise self._fail(
                row, self._arrival, f"the time goes back from {self._last} s to {at} s"
            )
        self._last = at

    def _ids_reason(self, row: TraceRow) -> str:
        size = self._reading.hash_block_size
        if row.block_ids is None or size is None:
            return ""
        count, most = len(row.block_ids), ceil_div(row.prompt_tokens, size)
        if most - 1 <= count <= most and count >= row.prompt_tokens // size:
            return ""
        return f"{count} ids for {row.prompt_tokens} tokens in blocks of {size}"

    def _shape_reason(self, row: TraceRow) -> str:
        shape = (row.session is None, row.priority is None, row.samples is None)
        self._shape = self._shape or shape
        if shape == self._shape:
            return ""
        return "session, priority or samples present in some rows and absent in others"

    def empty(self) -> InputError:
        """Describe a trace that gave no request."""
        report = self._report
        left_out = report.malformed + sum(report.dropped.values())
        why = f"all {left_out} rows were left out" if left_out else "the trace is empty"
        first = f" (first: {report.first_problem})" if report.examples else ""
        dropped = "".join(f"; {count} because {why}" for why, count in report.dropped.items())
        return InputError(f"no request: {why}{first}{dropped}", where=str(report.path))


def _within(values: Any, least: float, most: float) -> bool:
    """Whether all values are; not of NaN."""
    return bool(values.min() >= least and values.max() <= most)


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**18 else f"over {10**18:.0e}"
