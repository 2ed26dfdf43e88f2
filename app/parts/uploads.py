"""Files that a visitor brings: small, read at once, kept for this visitor only.

A file lies on disk only while it is read, in a folder of its own, under what is left of its
name without anything that a path could use. What is kept is the parsed, validated object, in
this visitor's session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import streamlit as st

from app.parts.trouble import say
from app.parts.words import safe_name
from kvsim import KVSimError

__all__ = ["read_file", "upload"]

T = TypeVar("T")


def upload(
    label: str,
    read: Callable[[Path], T],
    *,
    key: str,
    types: Sequence[str],
    limit_bytes: int,
    **settings: Any,
) -> tuple[str, T] | None:
    """Ask for a file and return its harmless name and what was read from it.

    Parameters
    ----------
    label : str
        What to bring.
    read : callable
        Reads the file; a KVSimError it raises is shown in place.
    key : str
        Widget key.
    types : sequence of str
        Suffixes that are accepted, without the dot.
    limit_bytes : int
        Largest file that is read.

    Returns
    -------
    tuple of str and T, or None
        None when there is no file, or it was refused.
    """
    megabytes = -(-limit_bytes // 2**20)
    file = st.file_uploader(label, type=list(types), key=key, max_upload_size=megabytes, **settings)
    if file is None:
        return None
    name = safe_name(file.name)
    if name.rpartition(".")[2].lower() not in types:
        say(f"{name}: only {', '.join(types)} is read here")
    elif file.size > limit_bytes:
        say(f"{name}: {file.size:,} bytes, and {limit_bytes:,} are accepted")
    else:
        try:
            return name, read_file(file.getvalue(), read, name)
        except KVSimError as error:
            say(f"{name}: {error}")
    return None


def read_file(content: bytes, read: Callable[[Path], T], name: str) -> T:
    """Read bytes through a file that exists only meanwhile.

    Parameters
    ----------
    content : bytes
        The file.
    read : callable
        Reads it.
    name : str
        Its harmless name.

    Raises
    ------
    KVSimError
        What `read` says, without the place where the file lay for a moment.
    """
    with TemporaryDirectory(prefix="kvsim-upload-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read(path)
        except KVSimError as error:
            message = str(error).replace(f"{path}: ", "").replace(f"{path}", name)
            raise KVSimError(message.replace(folder, "upload")) from None
