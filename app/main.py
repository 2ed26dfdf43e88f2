"""The dashboard's entry: ``streamlit run app/main.py``, or ``kvsim dashboard``.

A page is one line of `PAGES` and one file of ``app/views``; README.md states the contract.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

# Pages import each other's parts as `app.parts...`, wherever the server was started.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# file in views/, title in the menu; the file's name is the page's place in the URL
PAGES = {
    "plan": "Plan",
    "simulate": "Simulate",
    "compare": "Compare",
    "cache": "Cache",
    "size": "Size it",
    "calibrate": "Calibrate",
    "learn": "Learn",
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
# Streamlit leaves a hand's breadth empty above the title.
st.html("<style>[data-testid=stMainBlockContainer] { padding-top: 4rem }</style>")
st.navigation(pages(), position="top").run()
