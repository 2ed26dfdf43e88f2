"""What goes wrong is said in place, in one line; nothing a visitor does shows a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app.parts.words import plain
from kvsim import KVSimError

__all__ = ["in_place", "say"]


@contextmanager
def in_place() -> Iterator[None]:
    """Show kvsim's own errors where the block stands, and go on after it."""
    try:
        yield
    except KVSimError as error:
        say(str(error))


def say(message: str) -> None:
    """Show one line of trouble; the text may hold anything."""
    st.error(plain(" ".join(message.split())))
