"""Writing what was found: a JSON record, a page that draws it, a profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, MissingExtraError

__all__ = ["write_record", "write_text"]

Page = Callable[[Mapping[str, Any]], str]


def write_record(
    folder: Path, stem: str, record: Mapping[str, Any], page: Page | None = None
) -> list[str]:
    """Write ``STEM.json``, and ``STEM.html`` where there is a page and plotly to draw it.

    An earlier record of that name is replaced, and its page never stays beside this record.

    Returns
    -------
    list of str
        A line per file, or why there is no page.

    Raises
    ------
    InputError
        When the folder cannot be written to.
    """
    from kvsim.results.outputs.folder import write_together

    files = {f"{stem}.json": json.dumps(record, indent=2, allow_nan=False) + "\n"}
    missing = []
    if page is not None:
        try:
            files[f"{stem}.html"] = page(record)
        except MissingExtraError as error:
            missing = [f"no {stem}.html: {error}"]
    try:
        contents = [(name, text.encode()) for name, text in files.items()]
        write_together(folder, contents, (f"{stem}.json", f"{stem}.html"))
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    return [f"written: {folder / name}" for name in files] + missing


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises
    ------
    InputError
        When it cannot be written; what was there is left alone.
    """
    from kvsim.results.outputs.folder import write_whole

    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
