"""Read a JSON object from a file that may be truncated, binary, huge or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvsim.errors import InputError
from kvsim.specs.files import MAX_JSON_BYTES, read_text
from kvsim.specs.numbers import shown

__all__ = ["RepeatedKeyError", "each_key_once", "read_json_object"]


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


class RepeatedKeyError(ValueError):
    """An object has a key twice, of which Python would keep the last."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {shown(name)} is given twice")


def each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of its pairs: what `json.loads` takes as its ``object_pairs_hook``.

    Raises
    ------
    RepeatedKeyError
        When a key comes twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return found


def _parse(content: str, where: str) -> object:
    try:
        return json.loads(content, object_pairs_hook=each_key_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"is not whole JSON: {error.msg} at {place}", where=where) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None
    except RepeatedKeyError as error:
        raise InputError(str(error), where=where) from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"is not usable JSON: {error}", where=where) from None
