"""Running a plan: each row goes to the CSV as it comes, and nothing that goes wrong loses it.

Columns of the CSV, one row per case:

===============================  ==========================================================
``kind``, ``dtype``              what was timed, and in which dtype
sizes (``m`` ... ``sets``)       of the case; empty where it has none of that name
``moved_bytes``, ``flops``       bytes and FLOPs that one call needs
``buffer_bytes``                 bytes allocated, all rotated inputs together
``seconds``                      median of one call, seconds
``q1_seconds``, ``q3_seconds``   quartiles, seconds
``samples``, ``outliers``        samples, and those far outside the quartiles
``captured``                     1 where a CUDA graph was replayed
===============================  ==========================================================

Before the header stand lines of ``# name: value``: device, uuid, torch and driver.
``buffer``, ``message`` are bytes; ``tokens``, ``context``, ``prompt`` are tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kvsim.calibrate.csv_files import CsvRow, read_csv
from kvsim.calibrate.measure.case import Case, Row, Timing
from kvsim.calibrate.measure.failures import is_out_of_memory
from kvsim.calibrate.measure.grid import Plan
from kvsim.calibrate.measure.origin import Origin
from kvsim.calibrate.measure.timing import Bench
from kvsim.csv_text import csv_cell, csv_text
from kvsim.errors import InputError, KVSimError, UnsupportedError, first_line
from kvsim.interrupts import held, released
from kvsim.results.outputs.folder import write_whole
from kvsim.specs.files import MAX_CSV_BYTES, read_text

__all__ = ["COLUMNS", "Session", "kept_timings"]

_SIZES = (
    *("buffer", "m", "n", "k", "model", "layers", "tokens"),
    *("batch", "context", "kv_heads", "group", "heads", "head_dim", "prompt"),
    *("sequences", "vocabulary", "ranks", "message", "sets"),
)
COLUMNS = (
    *("kind", "dtype", *_SIZES, "moved_bytes", "flops", "buffer_bytes"),
    *("seconds", "q1_seconds", "q3_seconds", "samples", "outliers", "captured"),
)

_MOST_HOMELESS = 3  # cases in a row that fit at no size
_FEWEST_LINES = 2  # the header, and a row

Progress = Callable[[int, int, str], None]
Key = tuple[str, ...]  # kind, dtype and sizes, as the CSV spells them


def _say_nothing(done: int, total: int, label: str) -> None:
    """Report no progress."""


@dataclass(slots=True)
class Session:
    """One pass over a plan.

    Parameters
    ----------
    bench : Bench
        What times the cases.
    csv_path : Path
        Where rows are kept.
    progress : callable
        Called before each case with (cases done, cases in all, what comes).
    kept : mapping of Key to Timing
        What an earlier session timed, from `kept_timings`; it is not timed again.
    head : str
        Lines that the CSV begins with: `Origin.head`.
    least_bytes : int
        See `Plan.least_bytes`.

    Attributes
    ----------
    rows : list of Row
        What was timed so far.
    shrunk, skipped : list of str
        Cases for which memory was short, and those that the device lacks; one line each.
    """

    bench: Bench
    csv_path: Path
    progress: Progress = _say_nothing
    kept: Mapping[Key, Timing] = field(default_factory=dict)
    head: str = ""
    least_bytes: int = 0
    rows: list[Row] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _homeless: int = 0

    def run(self, plan: Plan) -> list[Row]:
        """Time every case.

        Raises
        ------
        KeyboardInterrupt
            After a Ctrl-C, saying how many rows the CSV has.
        InputError
            When the CSV cannot be written, or another session is writing it.
        UnsupportedError
            When the device fails at something that every device can do.
        """
        self.rows += self._known(plan)
        known = {row.case for row in self.rows}
        text = self.head + csv_text([COLUMNS, *map(_cells, self.rows)])
        try:
            with held(), self._file_of_its_own(text) as file:
                for case in [case for case in plan.cases if case not in known]:
                    self.progress(len(self.rows), len(plan.cases), case.label)
                    with released():
                        row = self._time(case)
                    if row is not None:
                        self._keep(row, file)
        except KeyboardInterrupt:
            kept = f"stopped: {len(self.rows)} rows are in {self.csv_path}"
            raise KeyboardInterrupt(kept) from None
        except OSError as error:
            raise InputError(
                f"cannot be written ({error.strerror})", where=str(self.csv_path)
            ) from None
        self.progress(len(plan.cases), len(plan.cases), "fitting")
        return self.rows

    @contextmanager
    def _file_of_its_own(self, text: str) -> Iterator[TextIO]:
        """Begin the CSV with `text`, and open it for more rows; no other session may.

        What an earlier one left is there until `text` takes its place.
        """
        path = self.csv_path
        with _alone_with(path):
            write_whole(path, text.encode())
            with _alone_with(path), path.open("a", newline="", encoding="utf-8") as file:
                yield file

    def _known(self, plan: Plan) -> Iterator[Row]:
        """Yield the cases that an earlier session timed."""
        for case in plan.cases:
            timing = self.kept.get(_key(_sizes_of(case)))
            if timing is not None:
                yield Row(case, timing)

    def _keep(self, row: Row, file: TextIO) -> None:
        file.write(csv_text([_cells(row)]))
        file.flush()
        self.rows.append(row)

    def _time(self, case: Case) -> Row | None:
        """Time a case, or the largest smaller one that fits; None when it had to be skipped."""
        for attempt in self._attempts(case):
            try:
                row = Row(attempt, self.bench.time(attempt))
            except (RuntimeError, MemoryError, TypeError, AttributeError, KVSimError) as error:
                if not is_out_of_memory(error):
                    self._skip(attempt, error)
                    return None
            else:
                self._note_shrunk(case, attempt)
                self._homeless = 0
                return row
            # outside the handler: the error's frames would keep the tensors alive
            self._release(attempt)
        self._leave_out(case)
        return None

    def _attempts(self, case: Case) -> Iterator[Case]:
        """Yield a case twice, since what others left has been given back then, and smaller ones."""
        yield case
        attempt: Case | None = case
        while attempt is not None:
            yield attempt
            attempt = self._smaller(case, attempt)

    def _smaller(self, asked: Case, attempt: Case) -> Case | None:
        """The next smaller case, unless a cache would hold it."""
        found = attempt.smaller()
        least = min(asked.buffer_bytes, self.least_bytes)
        return None if found and found.rotates and found.buffer_bytes < least else found

    def _release(self, case: Case) -> None:
        """Give memory back; a device that fails at that is lost."""
        try:
            self.bench.release()
        except RuntimeError as error:
            raise self._failed(case, error) from None

    def _leave_out(self, case: Case) -> None:
        """Note a case that fits at no size; after some in a row the memory is somebody else's."""
        self.shrunk.append(f"{case.label}: does not fit at any size, left out")
        self._homeless += 1
        if self._homeless < _MOST_HOMELESS:
            return
        full = f" ({words})" if (words := self.bench.memory()) else ""
        raise UnsupportedError(
            f"{_MOST_HOMELESS} cases in a row fit at no size{full}; the {len(self.rows)} rows"
            f" before them are in {self.csv_path}: free the device and go on with --resume"
        )

    def _note_shrunk(self, asked: Case, timed: Case) -> None:
        if timed is not asked:
            before, after = asked.sizes(), timed.sizes()
            changed = [
                f"{name} {before[name]} to {after[name]}" for name in _differing(asked, timed)
            ]
            self.shrunk.append(f"{asked.label}: out of memory, {', '.join(changed)}")

    def _skip(self, case: Case, error: Exception) -> None:
        """Note what an optional case lacks; anything else ends the session."""
        if not case.optional and isinstance(error, TypeError | AttributeError):
            raise error  # no device's fault
        if not case.optional:
            raise self._failed(case, error) from None
        self.skipped.append(f"{case.label}: {first_line(error)}")

    def _failed(self, case: Case, error: Exception) -> UnsupportedError:
        return UnsupportedError(
            f"the device failed at {case.label} ({first_line(error)}); the {len(self.rows)} rows"
            f" before it are in {self.csv_path}"
        )


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Keep other processes from a file, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another calibration is writing it", where=str(path), fix="name a profile with -o"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _differing(before: Case, after: Case) -> list[str]:
    old, new = before.sizes(), after.sizes()
    return [name for name in old if old[name] != new[name]]


def kept_timings(path: Path, origin: Origin | None = None) -> dict[Key, Timing]:
    """Read the timings of an earlier session of the same device; none where there is no file.

    A last line that was cut short is left out.

    Parameters
    ----------
    path : Path
        The CSV.
    origin : Origin, optional
        Whose rows they must be.

    Raises
    ------
    InputError
        When the file is no CSV of such a session, with the line that is wrong, or is another
        device's.
    """
    text = read_text(path, max_bytes=MAX_CSV_BYTES) if path.exists() else ""
    if len([line for line in text.splitlines() if not line.startswith("#")]) < _FEWEST_LINES:
        return {}
    if origin is not None:
        origin.refuse_other(Origin.read(text, str(path)), path)
    rows = read_csv(path, COLUMNS, last_may_be_cut=True)
    whole = rows if rows and rows[-1]["captured"] else rows[:-1]
    return {_key(row.cells): _timing(row) for row in whole}


def _timing(row: CsvRow) -> Timing:
    seconds, low, high = map(row.number, ("seconds", "q1_seconds", "q3_seconds"))
    if not seconds > 0:
        raise InputError("seconds = 0 is no timing", where=row.where, fix="delete the line")
    samples, outliers = row.whole("samples"), row.whole("outliers")
    return Timing(seconds, low, high, samples, outliers, row["captured"] == "1")


def _key(line: Mapping[str, Any]) -> Key:
    return tuple(str(csv_cell(line.get(name))) for name in ("kind", "dtype", *_SIZES))


def _sizes_of(case: Case) -> dict[str, Any]:
    return {"kind": case.kind, "dtype": case.dtype, **case.sizes()}


def _cells(row: Row) -> list[Any]:
    """One line of the CSV, in the order of its columns."""
    line = _line(row)
    return [line.get(name) for name in COLUMNS]


def _line(row: Row) -> dict[str, Any]:
    """One line of the CSV, by column; a size that the case has not is left out."""
    case, timing = row.case, row.timing
    return {
        **_sizes_of(case),
        "moved_bytes": f"{case.moved_bytes:.0f}",
        "flops": f"{case.flops:.0f}",
        "buffer_bytes": f"{case.buffer_bytes:.0f}",
        "seconds": f"{timing.seconds:.6g}",
        "q1_seconds": f"{timing.low_seconds:.6g}",
        "q3_seconds": f"{timing.high_seconds:.6g}",
        "samples": timing.samples,
        "outliers": timing.outliers,
        "captured": int(timing.captured),
    }
