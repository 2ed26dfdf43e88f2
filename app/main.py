"""The dashboard's entry: ``streamlit run app/main.py``, or ``kvsim dashboard``.

A page is one line of `PAGES` and one file of ``app/views``; README.md states the contract.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

# Pages import each other's parts as `app.parts...`, wherever the server was started.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent)][: "app" not in sys.modules]

# file in views/, title in the menu; the file's name is the page's place in the URL
PAGES = {
    "plan": "Plan",
    # learn
}


def pages() -> list[st.Page]:
    """Make the menu; the first page is the one that opens."""
    folder = Path(__file__).resolve().parent / "views"
    return [
        st.Page(folder / f"{name}.py", title=title, url_path=name, default=at == 0)
        for at, (name, title) in enumerate(PAGES.items())
    ]


# An emoji icon: a material one would be fetched from a font host.
st.set_page_config(page_title="kvsim", page_icon="🧠", layout="wide")
st.navigation(pages(), position="top").run()
