"""Reading files that somebody else named: bounded, and refused in one line.

Whatever path a user gives (a folder, a device without end, a dangling link), it is opened here
and nowhere else in kvsim; ``tests/test_one_door.py`` holds the source to that.

============================  ==========================================================
``MAX_YAML_BYTES``            a scenario or a profile: some 10 KB as written
``MAX_JSON_BYTES``            a ``config.json``, a comparison
``MAX_CSV_BYTES``             measured steps and public kernel tables
``MAX_LOG_BYTES``             a server's start-up log
``MAX_RESULT_BYTES``          a benchmark's result, with the times of every token
============================  ==========================================================
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kvsim.errors import InputError

__all__ = [
    "LFS_POINTER",
    "MAX_CSV_BYTES",
    "MAX_JSON_BYTES",
    "MAX_LOG_BYTES",
    "MAX_RESULT_BYTES",
    "MAX_YAML_BYTES",
    "open_binary",
    "read_start",
    "read_text",
    "reading",
]

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 16 * 2**20
MAX_CSV_BYTES = 256 * 2**20
MAX_LOG_BYTES = 64 * 2**20
MAX_RESULT_BYTES = 512 * 2**20
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PIECE_BYTES = 2**20


def read_text(path: Path, *, max_bytes: int = MAX_YAML_BYTES, undecodable: str = "strict") -> str:
    """Read a text file of UTF-8.

    Parameters
    ----------
    path : Path
        File to read.
    max_bytes : int
        Largest size accepted, in bytes.
    undecodable : str
        What to do about bytes that are not UTF-8, as `bytes.decode` words it.

    Raises
    ------
    InputError
        When it is missing, a folder, unreadable, too large, binary, or a git-LFS pointer.
    """
    where = str(path)
    try:
        content = _whole(path, max_bytes)
        before, nul, _ = content.partition(b"\0")
        text = before.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors=undecodable)
    except FileNotFoundError:
        raise InputError("no such file", where=where) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text ({_reason(error)})", where=where) from None
    if nul:
        raise InputError("is a binary file, not text", where=where)
    if content.startswith(LFS_POINTER):
        raise InputError("is a git-LFS pointer", where=where, fix="run `git lfs pull` to fetch it")
    return text


def _whole(path: Path, max_bytes: int) -> bytes:
    """Read piece by piece, no further than a zero byte: a device of zeros is known by its first."""
    content = bytearray()
    with _opened(path) as stream:
        while piece := stream.read(min(_PIECE_BYTES, max_bytes + 1 - len(content))):
            content += piece
            if b"\0" in piece:
                break
            if len(content) > max_bytes:
                raise InputError(f"is larger than {max_bytes:,} bytes", where=str(path))
    return bytes(content)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return getattr(error, "strerror", None) or str(error)


def read_start(path: Path, most_bytes: int) -> bytes:
    """Read the first bytes of a file, however long it is.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    with reading(path), _opened(path) as stream:
        return stream.read(most_bytes)


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is read in pieces, each of which the reader bounds.

    Only what lies on disk: a pipe is gone once its first line has been looked at, and a
    device has no end.

    Raises
    ------
    InputError
        When it is no regular file, or cannot be read.
    """
    with reading(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(
                "is a pipe or a device, not a file", where=str(path), fix="save it to a file"
            )
        with _opened(path) as stream:
            yield stream


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except ValueError as error:  # a name that no file can have
        raise InputError(f"cannot be read: {error}", where=repr(str(path))) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says about `path` into one clear line."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
