"""Write a run's files: all of one run, each one whole or not at all.

::

    FOLDER/.kvsim-x1y2/   1. every file, while a signal waits
    FOLDER/               2. moved here in one go, one process at a time; of an earlier run
                             nothing stays, and a file that is not kvsim's is left alone

The staging folder is inside FOLDER and not beside it, so that FOLDER may be a mount, or lie where
nothing else can be made. One that is found later is of a run that was killed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EISDIR
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError, MissingExtraError
from kvsim.interrupts import held
from kvsim.results.outputs.prometheus import prometheus_text
from kvsim.results.outputs.provenance import provenance
from kvsim.results.outputs.timeline import timeline
from kvsim.results.result import SimulationResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_outputs", "write_together", "write_whole"]

_TABLES = ("requests", "steps", "memory")
_OURS = (
    *("summary.json", "trace.json.gz", "metrics.prom"),
    *(f"{name}.parquet" for name in _TABLES),
)


def write_outputs(
    result: SimulationResult, folder: Path | str, extra: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write everything about a run into a folder, which is made if need be.

    Parameters
    ----------
    result : SimulationResult
        The run.
    folder : Path or str
        Where; an earlier run's files are replaced or removed, others are left alone.
    extra : mapping, optional
        Further keys of ``summary.json``, such as the intervals of replications.

    Returns
    -------
    list of Path
        The files, in the order written.

    Raises
    ------
    InputError
        When the folder cannot be written.
    MissingExtraError
        Without pyarrow; everything but the tables has been written then.
    """
    folder, missing = Path(folder), _missing_pyarrow()
    contents = chain(_texts(result, extra or {}), () if missing else _tables(result))
    try:
        written = write_together(folder, contents, _OURS)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    if missing:
        raise missing
    return written


def _texts(result: SimulationResult, extra: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    summary = {**result.summary, **extra, "provenance": provenance(result)}
    yield "summary.json", (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode()
    yield (
        "trace.json.gz",
        _gzipped(json.dumps(timeline(result), separators=(",", ":"), allow_nan=False)),
    )
    yield "metrics.prom", prometheus_text(result).encode()


def _tables(result: SimulationResult) -> Iterator[tuple[str, bytes]]:
    for name in _TABLES:
        yield f"{name}.parquet", _parquet(getattr(result, name))


def write_together(
    folder: Path, files: Iterable[tuple[str, bytes]], ours: Collection[str]
) -> list[Path]:
    """Write files that belong together: a folder never holds those of two runs.

    Parameters
    ----------
    folder : Path
        Where; it is made if need be.
    files : iterable of (str, bytes)
        Names and contents, made one at a time.
    ours : collection of str
        Every name that such a folder may have; one that is not written now is removed.

    Returns
    -------
    list of Path
        The files, in the order written.

    Raises
    ------
    OSError
        When one cannot be written; what was there is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(), tempfile.TemporaryDirectory(dir=folder, prefix=".kvsim-") as staging:
        staged = [_staged(Path(staging) / name, content) for name, content in files]
        with _alone_in(folder):
            _refuse_folders(folder, ours)
            written = [path.replace(folder / path.name) for path in staged]
            for name in set(ours) - {path.name for path in written}:
                (folder / name).unlink(missing_ok=True)
        return written


def _refuse_folders(folder: Path, names: Collection[str]) -> None:
    """Refuse what no file can take the place of, before the first has moved."""
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(EISDIR, f"{name} is a folder", str(path))


def _staged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process moves files into the folder, where the system can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside the file, then take its place: nobody ever reads half of it.

    A link stays one; a pipe or a device, whose place cannot be taken, is written to.

    Raises
    ------
    OSError
        When the folder or the file cannot be written; what was there is left alone.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return path
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        beside.chmod(0o644)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


def _gzipped(text: str) -> bytes:
    """Compress without the time and the name that gzip would put in."""
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def _missing_pyarrow() -> MissingExtraError | None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return MissingExtraError("pyarrow", "export", "writing the tables as parquet")
    return None


def _parquet(frame: pd.DataFrame) -> bytes:
    import pyarrow as arrow
    from pyarrow import parquet

    stream = io.BytesIO()
    parquet.write_table(arrow.Table.from_pandas(frame, preserve_index=False), stream)
    return stream.getvalue()
