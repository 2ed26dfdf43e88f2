"""Charts and tables on a page, each with its downloads."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app.parts.words import plain
from kvsim import figures

__all__ = ["chart", "table"]


def _page(what: figures.Table) -> str:
    """One figure alone, as a page that needs nothing from outside."""
    return figures.html_page(what.title, [what])


_FORMS = (
    ("CSV", "text/csv", "csv", figures.Table.to_csv),
    ("JSON", "application/json", "json", figures.Table.to_json),
    ("HTML", "text/html", "html", _page),
)


def chart(what: figures.Chart, *, key: str = "", note: str = "") -> None:
    """Show a chart under its title, with its numbers to keep as CSV, JSON and HTML.

    Parameters
    ----------
    what : Chart
        The chart.
    key : str
        Sets several charts of one name on a page apart.
    note : str
        A sentence under the title, as Markdown.
    """
    _heading(what, key, note)
    st.plotly_chart(
        what.figure, key=f"chart-{what.name}{key}", alt=what.alt, config=figures.PLOTLY_CONFIG
    )


def table(what: figures.Table, *, key: str = "", note: str = "") -> None:
    """Show a table under its title, with the same downloads."""
    import pandas as pd

    _heading(what, key, note)
    frame = pd.DataFrame([dict(row) for row in what.rows])
    numbers = frame.select_dtypes("number").columns
    st.dataframe(
        frame,
        hide_index=True,
        key=f"table-{what.name}{key}",
        alt=what.title,
        placeholder="-",
        column_config={name: st.column_config.NumberColumn(format="localized") for name in numbers},
    )


def _heading(what: figures.Table, key: str, note: str) -> None:
    row = st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    )
    row.markdown(f"##### {plain(what.title)}")
    with row.popover("Download", key=f"keep-{what.name}{key}"):
        for form, mime, suffix, write in _FORMS:
            st.download_button(
                form,
                data=partial(write, what),  # called when it is clicked, not before
                file_name=f"kvsim-{what.name}.{suffix}",
                mime=mime,
                key=f"{suffix}-{what.name}{key}",
                on_click="ignore",
                width="stretch",
            )
    if note:
        st.caption(note)
