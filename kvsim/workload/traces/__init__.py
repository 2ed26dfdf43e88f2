"""Readers of request traces: each format a small file, told apart by name or by content.

A file that no format (or more than one) recognises is refused: units are never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.workload.base import Ints
from kvsim.workload.traces.base import Head, Reading, TraceFormat
from kvsim.workload.traces.checks import Checks
from kvsim.workload.traces.columns import Columns, TraceRow
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
        """Yield the requests of a pass one by one; see `pieces`."""
        for piece in self.pieces(reading):
            if isinstance(piece, TraceRow):
                yield piece
            else:
                yield from piece.rows()

    def pieces(self, reading: Reading) -> Iterator[TraceRow | Columns]:
        """Yield the requests of a pass, checked, in the order of the file.

        Where thousands of lines are alike and nothing is wrong with any, they come together.

        Raises
        ------
        InputError
            For a time that is not finite, negative, absurdly late or goes back, a prompt below 1
            token, a negative output (each with file, line and key), or when no request is left.
        """
        checks, report = Checks(self.format, reading), reading.report
        for piece in self.format.rows(reading):
            if not isinstance(piece, TraceRow) and checks.all_pass(piece):
                report.rows += len(piece)
                yield piece
                continue
            for row in [piece] if isinstance(piece, TraceRow) else piece.rows():
                kept = checks.passed(row)
                if kept is not None:
                    report.rows += 1
                    yield kept
        if not reading.report.rows:
            raise checks.empty()


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
    pieces = [
        Columns.of_rows([piece]) if isinstance(piece, TraceRow) else piece
        for piece in trace.pieces(trace.reading())
    ]
    prompt = np.concatenate([piece.prompt_tokens for piece in pieces])
    return prompt, np.maximum(np.concatenate([piece.output_tokens for piece in pieces]), 1)
