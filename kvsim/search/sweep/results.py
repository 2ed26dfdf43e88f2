"""A sweep's results: a row a run, in the order of the space, with every number of its summary.

``results.parquet`` where pyarrow is installed, else ``results.sqlite`` with the one table
``results``. Rows are read from the ledger one at a time, twice: once for the columns, once to be
written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from kvsim.search.sweep.ledger import RESULTS
from kvsim.search.sweep.task import Outcome, StoppedError

__all__ = ["ResultRun", "forget_results", "write_results"]

_ROWS_AT_ONCE = 10_000
Columns = dict[str, type]


class ResultRun(NamedTuple):
    """A run's place in the results."""

    values: dict[str, Any]
    seed: int
    outcome: Outcome


def forget_results(folder: Path) -> None:
    """Remove results, which may be another space's: they are written when all runs are there.

    Raises
    ------
    StoppedError
        When the folder cannot be written.
    """
    try:
        for path in [*(folder / name for name in RESULTS), *folder.glob(".results.*")]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoppedError(f"{folder}: cannot be written ({error.strerror})") from None


def write_results(folder: Path, runs: Callable[[], Iterable[ResultRun]]) -> Path:
    """Write the results, whole or not at all.

    Parameters
    ----------
    folder : Path
        The sweep's.
    runs : callable
        Yields every run in order; called twice.

    Raises
    ------
    StoppedError
        When the disk takes no more.
    """
    columns = _columns(map(_record, runs()))
    name, write = (RESULTS[0], _parquet) if find_spec("pyarrow") else (RESULTS[1], _sqlite)
    beside = folder / f".{name}"
    try:
        write(beside, columns, map(_record, runs()))
        return beside.replace(folder / name)
    except (OSError, sqlite3.Error) as error:
        beside.unlink(missing_ok=True)
        said = getattr(error, "strerror", None) or error
        raise StoppedError(f"{folder / name}: cannot be written ({said})") from None


def _record(run: ResultRun) -> dict[str, Any]:
    values = {key: _plain(value) for key, value in run.values.items()}
    outcome = run.outcome
    numbers = json.loads(outcome.row) if outcome.row else {}
    return {"key": outcome.key, **values, "seed": run.seed, "reason": outcome.reason, **numbers}


def _plain(value: Any) -> Any:
    """A cell: a list or a mapping as JSON."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _columns(records: Iterable[Mapping[str, Any]]) -> Columns:
    """The columns in the order in which they first appear, and the type that holds all cells."""
    found: dict[str, set[type]] = {}
    for record in records:
        for key, value in record.items():
            kinds = found.setdefault(key, set())
            if value is not None:
                kinds.add(type(value))
    return {key: _common(kinds) for key, kinds in found.items()}


def _common(kinds: set[type]) -> type:
    if len(kinds) == 1:
        return next(iter(kinds))
    return float if kinds <= {int, float} else str


def _cell(value: Any, kind: type) -> Any:
    return None if value is None else kind(value)


def _chunks(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    ahead = iter(records)
    while chunk := list(islice(ahead, _ROWS_AT_ONCE)):
        yield chunk


def _parquet(path: Path, columns: Columns, records: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    kinds = {bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(key, kinds[kind]) for key, kind in columns.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(records):
            cells = {
                key: [_cell(record.get(key), kind) for record in chunk]
                for key, kind in columns.items()
            }
            writer.write_table(arrow.table(cells, schema=schema))


def _sqlite(path: Path, columns: Columns, records: Iterable[Mapping[str, Any]]) -> None:
    words = {bool: "INTEGER", int: "INTEGER", float: "REAL", str: "TEXT"}
    named = ", ".join(f"{_quoted(key)} {words[kind]}" for key, kind in columns.items())
    rows = sqlite3.connect(path)
    try:
        with rows:
            rows.execute(f"CREATE TABLE results ({named})")
            marks = ", ".join("?" for _ in columns)
            rows.executemany(f"INSERT INTO results VALUES ({marks})", _tuples(columns, records))
    finally:
        rows.close()


def _tuples(columns: Columns, records: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    for record in records:
        yield [_cell(record.get(key), kind) for key, kind in columns.items()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
