"""Read a JSON object from a file that may be truncated, binary, huge or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvsim.errors import InputError
from kvsim.specs.yaml_files import read_text

__all__ = ["LARGEST_JSON_BYTES", "read_json_object"]

LARGEST_JSON_BYTES = 16 * 2**20


def read_json_object(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    path : path
        At most 16 MiB of UTF-8 JSON.

    Raises
    ------
    InputError
        When the file is missing, a folder, too large, binary, truncated, nested beyond
        reason, a git-LFS pointer, or holds something else than an object.
    """
    where = os.fspath(path)
    document = _parse(read_text(Path(path), max_bytes=LARGEST_JSON_BYTES), where)
    if not isinstance(document, dict):
        raise InputError(f"holds a JSON {type(document).__name__}, not an object", where=where)
    return document


def _parse(content: str, where: str) -> object:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"is not whole JSON: {error.msg} at {place}", where=where) from None
    except RecursionError:
        raise InputError("is nested too deeply to be a model configuration", where=where) from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"is not usable JSON: {error}", where=where) from None
