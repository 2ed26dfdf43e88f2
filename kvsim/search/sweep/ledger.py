"""What is known of a sweep's runs: one SQLite row a run, committed before it counts as finished.

::

    FOLDER/ledger.sqlite   runs(key, seed, row, reason)    the row, or why there is none
    FOLDER/ledger.lock     held by SQLite while a sweep is at work

The lock is the operating system's, so it goes with the process that holds it, however that ends.
The ledger itself may be read while a sweep is at work (its journal is a write-ahead log). Rows hold
no time and no worker's name, and lie in the order of their keys: the same runs make the same rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvsim.errors import InputError
from kvsim.search.sweep.task import Outcome, StoppedError

__all__ = ["LEDGER", "RESULTS", "Ledger"]

LEDGER, _LOCK = "ledger.sqlite", "ledger.lock"
RESULTS = ("results.parquet", "results.sqlite")
_OURS = {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", f"{LEDGER}-journal", _LOCK, *RESULTS}
_APPLICATION = 0x6B767377  # "kvsw"
_LAYOUT = 1
_TABLE = """
CREATE TABLE runs (
    key TEXT PRIMARY KEY, seed INTEGER NOT NULL, row TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID
"""


class Ledger:
    """The rows of a sweep's folder, for one process at a time.

    Parameters
    ----------
    folder : Path
        Made if need be; an empty one, or one that a sweep has used.

    Raises
    ------
    InputError
        For a folder that cannot be written, holds other things, or in which a sweep is at work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _claim(folder)
        self._lock = _locked(folder / _LOCK)
        try:
            self._rows = _opened(folder / LEDGER)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let the folder go."""
        with suppress(sqlite3.Error):  # a full disk: what was committed stays in the log
            self._rows.close()
        self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self, *, but_failed: bool = False) -> set[str]:
        """Keys of the runs that have a row, or of those that did not fail.

        Raises
        ------
        InputError
            For a damaged ledger.
        """
        of = " WHERE reason = ''" if but_failed else ""
        with self._whole():
            return {key for (key,) in self._rows.execute(f"SELECT key FROM runs{of}")}

    def outcome(self, key: str) -> Outcome:
        """What is known of a run that has a row (InputError for a damaged one)."""
        asked = "SELECT row, reason FROM runs WHERE key = ?"
        with self._whole():
            row, reason = self._rows.execute(asked, (key,)).fetchone()
            if not reason and "saturated" not in json.loads(row):
                raise ValueError(key)
        return Outcome(key, row, reason)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Refuse a ledger that somebody or a disk has damaged."""
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            said = error if isinstance(error, sqlite3.Error) else "a row is no run's"
            raise InputError(
                f"is damaged ({said})",
                where=str(self.folder / LEDGER),
                fix="delete it: its runs are done again",
            ) from None

    def commit(self, outcomes: Iterable[tuple[int, Outcome]]) -> None:
        """Keep what came of runs, given with their seeds: no end of this process loses it.

        Raises
        ------
        StoppedError
            When the disk takes no more.
        """
        rows = [(found.key, seed, found.row, found.reason) for seed, found in outcomes]
        try:
            with self._rows:
                self._rows.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise StoppedError(f"{self.folder / LEDGER}: cannot be written ({error})") from None


def _claim(folder: Path) -> None:
    """Make the folder, or refuse one that holds what no sweep has written."""
    where = str(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be a sweep's folder ({said})", where=where) from None
    foreign = sorted(name for name in names - _OURS if not name.startswith(".results."))
    if foreign and LEDGER not in names:
        raise InputError(
            f"holds {foreign[0]!r:.60} and is no sweep's folder",
            where=where,
            fix="give one that is new or empty",
        )


def _locked(path: Path) -> sqlite3.Connection:
    """Hold the lock until the connection is closed."""
    lock = None
    try:
        lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if lock is not None:
            lock.close()
        raise _refusal(path.parent, error) from None
    return lock


def _refusal(folder: Path, error: sqlite3.Error) -> InputError:
    """Tell a sweep that is at work from all else."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY":
        fix = "wait for it, or give another folder"
        return InputError("another sweep is at work here", where=str(folder), fix=fix)
    return InputError(f"cannot be written ({error})", where=str(folder))


def _opened(path: Path) -> sqlite3.Connection:
    """Open the rows, or begin them."""
    rows = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        _settle(rows, path)
    except sqlite3.DatabaseError as error:
        rows.close()
        if isinstance(error, sqlite3.OperationalError):
            raise InputError(f"cannot be written ({error})", where=str(path)) from None
        fix = "give a folder of its own"
        raise InputError("is no ledger of a sweep", where=str(path), fix=fix) from None
    except InputError:
        rows.close()
        raise
    return rows


def _settle(rows: sqlite3.Connection, path: Path) -> None:
    (application,) = rows.execute("PRAGMA application_id").fetchone()
    (layout,) = rows.execute("PRAGMA user_version").fetchone()
    (tables,) = rows.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and (application, layout) != (_APPLICATION, _LAYOUT):
        fix = "give a folder of its own"
        raise InputError("is no ledger that this release reads", where=str(path), fix=fix)
    rows.execute("PRAGMA journal_mode = WAL")
    # What a killed process committed stays; of a power failure the last seconds' rows may not, and
    # those runs are done again. To flush each of them would take as long as a short run.
    rows.execute("PRAGMA synchronous = NORMAL")
    if not tables:
        with rows:
            rows.execute("BEGIN")
            rows.execute(_TABLE)
            rows.execute(f"PRAGMA application_id = {_APPLICATION}")
            rows.execute(f"PRAGMA user_version = {_LAYOUT}")
