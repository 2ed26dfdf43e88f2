"""Reading files that somebody else named: bounded, and refused in one line.

Whatever path a user gives (a folder, a device without end, a dangling link), it is opened here
and nowhere else in kvsim; ``tests/test_one_door.py`` holds the source to that. What is made of a
file is remembered here too (`once_per_file`), and made again as soon as the file is another one.

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
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from kvsim.errors import InputError

__all__ = [
    "LFS_POINTER",
    "MAX_CSV_BYTES",
    "MAX_JSON_BYTES",
    "MAX_LOG_BYTES",
    "MAX_RESULT_BYTES",
    "MAX_YAML_BYTES",
    "once_per_file",
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
_MOST_KEPT = 256
# The coarsest clock of a file system in use (FAT's): a file may change twice within it and show
# the same times.
_TICK_NS = 2 * 10**9

Made = TypeVar("Made")


class _Identity(NamedTuple):
    """What tells a file, and a state of it, from every other."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def once_per_file(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
    """Remember what a function makes of a file, for as long as the file stays as it is.

    Parameters
    ----------
    make : callable
        ``make(path)``: of what the file holds alone, and a value that nobody changes.

    Returns
    -------
    callable
        The same, but a file that has neither been written nor replaced is read once. One that
        changed a moment ago is read each time: by its times alone it could change again unseen
        (git's "racy" files). Errors are not remembered.
    """
    kept: dict[str, tuple[_Identity, Made]] = {}

    @wraps(make)
    def made_of(path: Path) -> Made:
        key, identity = os.fspath(path), _identity(path)
        known = kept.get(key)
        if known is not None and known[0] == identity:
            return known[1]
        made = make(path)
        if identity is not None and _is_settled(identity):
            if len(kept) >= _MOST_KEPT:
                kept.clear()
            kept[key] = identity, made
        return made

    return made_of


def _identity(path: Path) -> _Identity | None:
    """None of what is no regular file, or cannot be asked."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    times = found.st_mtime_ns, found.st_ctime_ns
    return _Identity(found.st_dev, found.st_ino, found.st_size, *times)


def _is_settled(identity: _Identity) -> bool:
    return time.time_ns() - max(identity.mtime_ns, identity.ctime_ns) > _TICK_NS


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
