"""What every reader of checkpoint files owes a broken one: a line that a person can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvsim.errors import KVSimError

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message of an error, which is one line and not a long one."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def size_or_line(read: Callable[[Path], int], path: Path) -> bool:
    """Whether reading gives a size, or an error of ours that is one line."""
    try:
        return read(path) >= 0
    except KVSimError as error:
        return "\n" not in str(error)
