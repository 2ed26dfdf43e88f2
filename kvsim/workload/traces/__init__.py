"""Readers of request traces: each format a small file, told apart by name or by content.

A file that no format (or more than one) recognises is refused: units are never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.specs.numbers import LONGEST_SECONDS
from kvsim.units import ceil_div
from kvsim.workload.base import Ints
from kvsim.workload.traces.base import Head, Reading, TraceFormat, TraceRow
from kvsim.workload.traces.formats.azure import AZURE
from kvsim.workload.traces.formats.bailian import BAILIAN
from kvsim.workload.traces.formats.burstgpt import BURSTGPT
from kvsim.workload.traces.formats.kvsim_format import KVSIM
from kvsim.workload.traces.formats.lengths_csv import LENGTHS
from kvsim.workload.traces.formats.llmservingsim import LLMSERVINGSIM
from kvsim.workload.traces.formats.mooncake import MOONCAKE
from kvsim.workload.traces.formats.servegen import SERVEGEN, is_servegen
from kvsim.workload.traces.formats.splitwise import SPLITWISE
from kvsim.workload.traces.formats.vidur import VIDUR
from kvsim.workload.traces.formats.vllm_bench import VLLM_BENCH
from kvsim.workload.traces.formats.weka import WEKA
from kvsim.workload.traces.report import ReadReport
from kvsim.workload.traces.source import LineSource

__all__ = ["FORMATS", "ReadReport", "Trace", "TraceRow", "open_trace", "read_lengths"]

FORMATS: dict[str, TraceFormat] = {
    known.name: known
    for known in (
        AZURE, MOONCAKE, BAILIAN, WEKA, BURSTGPT, VIDUR, SPLITWISE, LLMSERVINGSIM, SERVEGEN,
        LENGTHS, VLLM_BENCH, KVSIM,
    )
}  # fmt: skip

_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Trace:
    """A trace file whose format is known.

    Parameters
    ----------
    path : Path
        File or folder.
    format : TraceFormat
        How it is read.
    hash_block_size : int, optional
        Tokens behind an identity, where it differs from what the format fixes.
    """

    path: Path
    format: TraceFormat
    hash_block_size: int | None = None

    def reading(self) -> Reading:
        """Begin a pass with a report of its own."""
        size = self.hash_block_size or self.format.hash_block_size
        return Reading(self.path, ReadReport(self.path, self.format.name), size)

    def rows(self, reading: Reading) -> Iterator[TraceRow]:
        """Yield the requests of a pass, checked, in the order of the file.

        Raises
        ------
        InputError
            For a time that is not finite, negative, absurdly late or goes back, a prompt below 1
            token, a negative output (each with file, line and key), or when no request is left.
        """
        checks = _Checks(self, reading)
        for row in self.format.rows(reading):
            kept = checks.passed(row)
            if kept is not None:
                reading.report.rows += 1
                yield kept
        if not reading.report.rows:
            raise checks.empty()


class _Checks:
    """What every row must fulfil, whatever its format."""

    def __init__(self, trace: Trace, reading: Reading) -> None:
        self._reading, self._report = reading, reading.report
        self._arrival, self._prompt, self._output = trace.format.columns
        self._recorded = trace.format.arrivals == "recorded"
        self._keeps_empty_outputs = trace.format.arrivals == "closed-loop"
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


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**18 else f"over {10**18:.0e}"


def open_trace(
    path: Path | str, format_name: str | None = None, *, hash_block_size: int | None = None
) -> Trace:
    """Find out what format a trace has.

    Parameters
    ----------
    path : Path or str
        File (plain or gzip) or ServeGen folder.
    format_name : str, optional
        One of `FORMATS`; by default the content tells.
    hash_block_size : int, optional
        Tokens behind one block identity, where a file deviates from its format.

    Raises
    ------
    UnknownNameError
        For a format that kvsim does not read.
    InputError
        For a file that cannot be read, is empty, binary or a git-LFS pointer, or whose
        content no format recognises.
    """
    path = Path(path)
    if format_name is not None and format_name not in FORMATS:
        raise UnknownNameError("trace format", format_name, FORMATS)
    if format_name == SERVEGEN.name or (format_name is None and is_servegen(path)):
        return Trace(path, SERVEGEN, hash_block_size)
    if path.is_dir():
        raise InputError(
            "is a folder, and holds none of ServeGen's files", where=str(path), fix="name a file"
        )
    text = LineSource(path).head  # refuses what is no text, whatever format it is said to have
    found = FORMATS[format_name] if format_name is not None else _detect(path, text)
    return Trace(path, found, hash_block_size)


def _detect(path: Path, text: str) -> TraceFormat:
    head = Head(text)
    found = [known for known in FORMATS.values() if known.matches(head)]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(sorted(head.keys) if head.keys else head.columns)[:160]
    what = "fits several formats" if found else "is no trace format kvsim knows"
    names = ", ".join(known.name for known in found) or ", ".join(FORMATS)
    raise InputError(
        f"the content ({seen}) {what}", where=str(path), fix=f"name the format: one of {names}"
    )


def read_lengths(path: Path | str, format_name: str | None = None) -> tuple[Ints, Ints]:
    """Read the (prompt, output) lengths of every request of a file, in tokens.

    Raises
    ------
    InputError
        As `open_trace` and `Trace.rows`.
    UnsupportedError
        For ServeGen, which holds histograms and not pairs.
    """
    trace = open_trace(path, format_name)
    if trace.format.arrivals == "rates":
        raise UnsupportedError(f"{path}: ServeGen holds histograms, not (prompt, output) pairs")
    pairs = [(row.prompt_tokens, max(row.output_tokens, 1)) for row in trace.rows(trace.reading())]
    prompt, output = np.array(pairs, dtype=np.int64).T
    return prompt, output
