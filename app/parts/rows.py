"""Widgets beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.state import PageState

__all__ = ["ask_row"]


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
