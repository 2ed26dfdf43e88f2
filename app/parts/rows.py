"""Widgets beside each other, and the one that chooses what to look at closely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.state import Choice, PageState

__all__ = ["ask_look", "ask_row", "look_field"]


def ask_row(state: PageState, *keys: str, widths: Sequence[float] | None = None) -> dict[str, Any]:
    """Draw the widgets of some fields in a row and return their values by key.

    Parameters
    ----------
    state : PageState
        Whose fields they are.
    *keys : str
        The fields, from the left.
    widths : sequence of float, optional
        Of the columns, relative to each other; equal by default.
    """
    values: dict[str, Any] = {}
    for key, column in zip(keys, st.columns(widths or len(keys)), strict=True):
        with column:
            values[key] = state.ask(key)
    return values


def look_field(most: int) -> Choice:
    """Return the field, "look", that chooses one of up to `most` answers by its number."""
    return Choice(
        key="look",
        label="Look closely at",
        default="0",
        options=lambda: [str(at) for at in range(most)],
    )


def ask_look(state: PageState, labels: Sequence[str]) -> int:
    """Ask which answer to look at closely; return its number, and put it into the link."""
    numbers = [str(at) for at in range(len(labels))]
    number = state.ask("look", options=numbers, labels=labels)
    state.publish()
    return int(number)
