"""Words that may be anybody's: made harmless before they are shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = ["nearest", "plain", "safe_name"]

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def plain(text: str) -> str:
    r"""Escape a text for Streamlit's Markdown: no image, link, colour, icon or formula.

    Examples
    --------
    >>> plain("![x](y)")
    '\\!\\[x\\]\\(y\\)'
    """
    return _PUNCTUATION.sub(r"\\\1", text)


def safe_name(text: str, *, longest: int = 60) -> str:
    """Reduce the name of somebody's file to letters that mean nothing to anybody.

    Examples
    --------
    >>> safe_name("../../etc/<b>passwd</b>")
    'etc-b-passwd-b'
    """
    return _UNSAFE.sub("-", text).strip("-.")[-longest:] or "upload"


def nearest(name: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Return the few known names that resemble one, best first."""
    return difflib.get_close_matches(name.lower()[:80], known, n=count, cutoff=0.5)
