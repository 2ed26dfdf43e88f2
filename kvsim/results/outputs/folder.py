"""Write a run's files, each one whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError, MissingExtraError
from kvsim.results.outputs.prometheus import prometheus_text
from kvsim.results.outputs.provenance import provenance
from kvsim.results.outputs.timeline import timeline
from kvsim.results.result import SimulationResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_outputs", "write_whole"]


def write_outputs(
    result: SimulationResult, folder: Path | str, extra: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write everything about a run into a folder, which is made if need be.

    Parameters
    ----------
    result : SimulationResult
        The run.
    folder : Path or str
        Where; files of an earlier run are replaced.
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
    folder = Path(folder)
    summary = {**result.summary, **(extra or {}), "provenance": provenance(result)}
    texts = {
        "summary.json": (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode(),
        "trace.json.gz": _gzipped(json.dumps(timeline(result), separators=(",", ":"))),
        "metrics.prom": prometheus_text(result).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [write_whole(folder / name, content) for name, content in texts.items()]
        tables = {"requests": result.requests, "steps": result.steps, "memory": result.memory}
        for name, frame in tables.items():
            written.append(write_whole(folder / f"{name}.parquet", _parquet(frame)))
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    return written


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside the file, then take its place: nobody ever reads half of it.

    Raises
    ------
    OSError
        When the folder or the file cannot be written; what was there is left alone.
    """
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


def _parquet(frame: pd.DataFrame) -> bytes:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "export", "writing the tables as parquet") from None
    stream = io.BytesIO()
    parquet.write_table(arrow.Table.from_pandas(frame, preserve_index=False), stream)
    return stream.getvalue()
