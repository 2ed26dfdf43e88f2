"""Charts and tables on a page, each with its downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import streamlit as st

from app.parts.words import plain
from kvsim import figures

__all__ = ["cautions", "chart", "downloads", "metrics", "table"]


def _page(what: figures.Table) -> str:
    """One figure alone, as a page that needs nothing from outside."""
    return figures.html_page(what.title, [what])


_FORMS = {"csv": figures.Table.to_csv, "json": figures.Table.to_json, "html": _page}
_MIME = {
    "csv": "text/csv",
    "json": "application/json",
    "html": "text/html",
    "yaml": "application/yaml",
}


def cautions(lines: Sequence[str]) -> None:
    """Show what a reader must know first, all of it in one box."""
    if lines:
        st.warning("\n".join(f"- {plain(line)}" for line in lines))


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


def metrics(numbers: Mapping[str, object]) -> None:
    """Show numbers beside each other, each under its name."""
    row = st.container(horizontal=True)
    for name, value in numbers.items():
        row.metric(name, value, width="content")


def downloads(files: Mapping[str, tuple[str, Callable[[], str]]]) -> None:
    """Offer files to keep.

    Parameters
    ----------
    files : mapping of str to (str, callable)
        By the words of its button: a file's name, and what makes its text once it is asked for.
    """
    row = st.container(horizontal=True)
    for words, (name, make) in files.items():
        row.download_button(
            words,
            data=make,
            file_name=f"kvsim-{name}",
            mime=_MIME[name.rpartition(".")[2]],
            key=words,
            on_click="ignore",
        )


def _heading(what: figures.Table, key: str, note: str) -> None:
    row = st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    )
    row.markdown(f"##### {plain(what.title)}")
    with row.popover("Download", key=f"keep-{what.name}{key}"):
        for suffix, write in _FORMS.items():
            st.download_button(
                suffix.upper(),
                data=partial(write, what),  # called when it is clicked, not before
                file_name=f"kvsim-{what.name}.{suffix}",
                mime=_MIME[suffix],
                key=f"{suffix}-{what.name}{key}",
                on_click="ignore",
                width="stretch",
            )
    if note:
        st.caption(note)
