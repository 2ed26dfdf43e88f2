"""Write a trace in another format: kvsim's own, Vidur's CSV, or Mooncake's JSONL.

=========  ==================================  =======================================
to         keeps                               loses
=========  ==================================  =======================================
kvsim      times, lengths, identities,         think times of a closed loop
           sessions, priorities, samples
vidur      times, lengths                      the rest
mooncake   times to the millisecond, lengths,  identities of blocks finer than 512 when
           sharing in blocks of 512            the sharing ends within a block
=========  ==================================  =======================================
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from kvsim.csv_text import csv_lines
from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.interrupts import held, released
from kvsim.units import ceil_div
from kvsim.workload.content import HashedContent
from kvsim.workload.traces import ReadReport, Trace, TraceRow, open_trace
from kvsim.workload.traces.base import Reading
from kvsim.workload.traces.formats.kvsim_format import kvsim_lines
from kvsim.workload.traces.formats.vidur import VIDUR_COLUMNS

__all__ = ["TARGETS", "ConvertInterrupted", "convert_trace"]

_MOONCAKE_BLOCK = 512

# What a row may have and a format has no place for: field of a row, and its name in a note.
_EXTRAS = {"session": "session", "priority": "priority", "samples": "samples"}
_NO_PLACE = {"kvsim": {}, "vidur": {"block_ids": "prefix", **_EXTRAS}, "mooncake": _EXTRAS}


def _vidur_lines(rows: Iterable[TraceRow], reading: Reading) -> Iterator[str]:
    sizes = ((row.arrival_seconds, row.prompt_tokens, row.output_tokens) for row in rows)
    yield from csv_lines(chain([VIDUR_COLUMNS], sizes))


def _mooncake_lines(rows: Iterable[TraceRow], reading: Reading) -> Iterator[str]:
    renumbered: dict[object, int] = {}  # in order of first use, as in the published traces
    for number, row in enumerate(rows):
        names = _mooncake_names(row, reading.hash_block_size, number)
        record = {
            "timestamp": round((row.arrival_seconds or 0.0) * 1000),
            "input_length": row.prompt_tokens,
            "output_length": row.output_tokens,
            "hash_ids": [renumbered.setdefault(name, len(renumbered)) for name in names],
        }
        yield json.dumps(record)


def _mooncake_names(row: TraceRow, size: int | None, number: int) -> list[object]:
    """Name every 512-token block of the prompt, the partial last one too."""
    count = ceil_div(row.prompt_tokens, _MOONCAKE_BLOCK)
    if row.block_ids is None or size is None:
        return [("private", number, index) for index in range(count)]
    if size == _MOONCAKE_BLOCK and len(row.block_ids) == count:
        return list(row.block_ids)
    content = HashedContent([row.block_ids], [number], [row.prompt_tokens], size)
    full: Sequence[int] = content.block_ids(0, _MOONCAKE_BLOCK, row.prompt_tokens)
    tail = [] if len(full) == count else [("private", number, len(full))]
    return [*full, *tail]


def _kvsim_lines(rows: Iterable[TraceRow], reading: Reading) -> Iterator[str]:
    return kvsim_lines(rows, reading.hash_block_size)


TARGETS: dict[str, Callable[[Iterable[TraceRow], Reading], Iterator[str]]] = {
    "kvsim": _kvsim_lines,
    "vidur": _vidur_lines,
    "mooncake": _mooncake_lines,
}


class ConvertInterrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM, in the middle of a file.

    Parameters
    ----------
    requests : int
        How many were written.
    partial : Path
        Where they are.
    """

    def __init__(self, requests: int, partial: Path) -> None:
        super().__init__(f"{requests:,} requests are in {partial}")
        self.requests, self.partial = requests, partial


def convert_trace(
    source: Path | str, target: Path | str, to: str, format_name: str | None = None
) -> ReadReport:
    """Write the requests of `source` to `target`.

    Parameters
    ----------
    source : Path or str
        A trace with recorded arrivals, or WEKA conversations: their requests are written at
        the times recorded, all conversations starting at 0.
    target : Path or str
        File to write. It appears only when it is complete. What an interrupt leaves behind is
        called ``TARGET.*.partial``, with letters of its own for each conversion.
    to : str
        "kvsim", "vidur" or "mooncake".
    format_name : str, optional
        Format of `source`; by default told by the content.

    Returns
    -------
    ReadReport
        Rows written, rows left out, and under ``notes`` what rows lost on the way.

    Raises
    ------
    InputError
        For a source that cannot be read, or a target that cannot be written.
    UnsupportedError
        For a source without arrivals.
    ConvertInterrupted
        When Ctrl-C is pressed; whole lines have been written.
    """
    if to not in TARGETS:
        raise UnknownNameError("trace format to write", to, TARGETS)
    trace = open_trace(source, format_name)
    if trace.format.arrivals not in ("recorded", "closed-loop"):
        raise UnsupportedError(f"{source}: {trace.format.name} has no requests with arrival times")
    reading = trace.reading()
    rows = _rows(trace, reading)
    first = list(islice(rows, 1))  # the first row tells the size of the hash blocks
    counted = _Counted(_noting(chain(first, rows), reading, to))
    _write(Path(target), TARGETS[to](counted, reading), counted)
    return reading.report


class _Counted:
    """Rows on their way, and how many have passed."""

    def __init__(self, rows: Iterable[TraceRow]) -> None:
        self._rows = iter(rows)
        self.passed = 0

    def __iter__(self) -> Iterator[TraceRow]:
        for row in self._rows:
            yield row
            self.passed += 1  # its line has been written when the next is asked for


def _rows(trace: Trace, reading: Reading) -> Iterator[TraceRow]:
    """Yield the rows in order of time, each with at least one output token."""
    rows = trace.rows(reading)
    if trace.format.arrivals == "recorded":
        for row in rows:
            _require_time(row, reading)
            yield row
        return
    for row in sorted(rows, key=lambda row: row.arrival_seconds or 0.0):
        if row.output_tokens == 0:
            reading.report.notes["no output token; written with one"] += 1
        yield row._replace(output_tokens=max(row.output_tokens, 1))


def _noting(rows: Iterable[TraceRow], reading: Reading, to: str) -> Iterator[TraceRow]:
    """Pass rows on, and note what of each is not written."""
    notes, size = reading.report.notes, reading.hash_block_size
    coarser = to == "mooncake" and size not in (None, _MOONCAKE_BLOCK)
    for row in rows:
        lost = [what for field, what in _NO_PLACE[to].items() if _says(getattr(row, field))]
        if lost:
            notes[f"{to} has no place for {', '.join(lost)}"] += 1
        if coarser and row.block_ids:
            notes[f"blocks of {size} tokens became blocks of {_MOONCAKE_BLOCK}"] += 1
        yield row


def _says(value: object) -> bool:
    """Whether a field of a row has something to lose."""
    return value is not None and value != ()


def _require_time(row: TraceRow, reading: Reading) -> None:
    if row.arrival_seconds is None:
        raise UnsupportedError(f"{reading.path}: the file has lengths and no arrival times")


def _write(target: Path, lines: Iterator[str], rows: _Counted) -> None:
    """Write beside `target` and move into place, so that a failure leaves nothing half done."""
    if target.is_dir():
        raise InputError("is a folder", where=str(target), fix="name a file")
    if not target.parent.is_dir():
        raise InputError("its folder does not exist", where=str(target))
    if target.exists() and not target.is_file():  # a pipe or a device: nothing to take place of
        with _writing(target), target.open("w", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        return
    target = target.resolve()  # a link stays one
    with _writing(target), held():
        handle, name = tempfile.mkstemp(".partial", f"{target.name}.", target.parent)
        beside = Path(name)
        try:
            _write_lines(handle, lines)
            beside.chmod(0o644)
            beside.replace(target)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and rows.passed:
                raise ConvertInterrupted(rows.passed, beside) from None
            beside.unlink(missing_ok=True)
            raise


def _write_lines(handle: int, lines: Iterator[str]) -> None:
    """Write line by line; what an interrupt leaves are whole lines, all of them in the file."""
    with open(handle, "w", newline="\n", encoding="utf-8") as file, released():
        file.writelines(f"{line}\n" for line in lines)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the system says about `target` into one clear line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror or error}", where=str(target)
        ) from None
