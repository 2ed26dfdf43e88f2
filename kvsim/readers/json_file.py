"""Read a JSON object from a file that may be truncated, binary, huge or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvsim.errors import InputError
from kvsim.specs.files import MAX_JSON_BYTES, read_text
from kvsim.specs.numbers import shown

__all__ = ["read_json_object"]


def read_json_object(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, object]:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    path : path
        UTF-8 JSON.
    max_bytes : int
        Largest size accepted, in bytes.

    Raises
    ------
    InputError
        When the file is missing, a folder, too large, binary, truncated, nested beyond
        reason, a git-LFS pointer, or holds something else than an object.
    """
    where = os.fspath(path)
    document = _parse(read_text(Path(path), max_bytes=max_bytes), where)
    if not isinstance(document, dict):
        raise InputError(f"holds a JSON {type(document).__name__}, not an object", where=where)
    return document


class _RepeatedKeyError(Exception):
    """An object has a key twice, of which Python would keep the last."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _RepeatedKeyError(name)
        found[name] = value
    return found


def _parse(content: str, where: str) -> object:
    try:
        return json.loads(content, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"is not whole JSON: {error.msg} at {place}", where=where) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None
    except _RepeatedKeyError as error:
        raise InputError(f"the key {shown(error.args[0])} is given twice", where=where) from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"is not usable JSON: {error}", where=where) from None
