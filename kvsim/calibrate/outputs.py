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

    Returns
    -------
    list of str
        A line per file, or why there is no page.

    Raises
    ------
    InputError
        When the folder cannot be written to.
    """
    files = {f"{stem}.json": json.dumps(record, indent=2) + "\n"}
    missing = []
    if page is not None:
        try:
            files[f"{stem}.html"] = page(record)
        except MissingExtraError as error:
            missing = [f"no {stem}.html: {error}"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    return [f"written: {folder / name}" for name in files] + missing


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
