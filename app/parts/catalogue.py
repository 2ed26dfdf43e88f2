"""What kvsim ships, to choose from: models, cards, KV dtypes; and the fields that ask for them."""

from __future__ import annotations

from typing import Any

import streamlit as st

import kvsim
from app.state import Choice, Several

__all__ = [
    "card_field",
    "cards",
    "cards_field",
    "kv_dtype_field",
    "kv_dtypes",
    "kv_dtypes_field",
    "model_field",
    "models",
]


# --- fields --------------------------------------------------------------------------------


def model_field(**settings: Any) -> Choice:
    """A search box for a model; `settings` are a Choice's, such as its default."""
    own = {"key": "model", "label": "Model", "options": models, "spellings": _spelled_models}
    return Choice(**own | settings)


def card_field(**settings: Any) -> Choice:
    """A search box for a card."""
    return Choice(**_CARD | {"label": "Card"} | settings)


def cards_field(**settings: Any) -> Several:
    """A search box for several cards."""
    return Several(**_CARD | {"label": "Cards"} | settings)


def kv_dtype_field(**settings: Any) -> Choice:
    """A search box for the format of K and V."""
    return Choice(**_DTYPE | {"label": "KV cache dtype", "default": "auto"} | settings)


def kv_dtypes_field(**settings: Any) -> Several:
    """A search box for several formats of K and V."""
    return Several(**_DTYPE | {"label": "KV cache dtypes"} | settings)


# --- names ---------------------------------------------------------------------------------


@st.cache_data(show_spinner=False)
def models() -> list[str]:
    """Names of the catalogue's models."""
    return kvsim.model_names()


@st.cache_data(show_spinner=False)
def cards() -> list[str]:
    """Names of the catalogue's accelerators."""
    return kvsim.accelerator_names()


def kv_dtypes() -> list[str]:
    """Formats of K and V: the model's own, whichever fp8 the engine has, or a certain one."""
    return ["auto", "fp8", *kvsim.kv_format_names()]


@st.cache_data(show_spinner=False)
def _spelled_models() -> dict[str, str]:
    """Aliases and hub ids, lower case, with the name that each means."""
    return {
        word.lower(): row["name"]
        for row in kvsim.describe_models()
        for word in (row.get("hf_id") or "", *row.get("aliases", ()))
        if word
    }


@st.cache_data(show_spinner=False)
def _spelled_cards() -> dict[str, str]:
    """Aliases of accelerators, lower case, with the name that each means."""
    return {
        word.lower(): row["name"]
        for row in kvsim.describe_accelerators()
        for word in row["aliases"]
    }


@st.cache_data(show_spinner=False)
def _card_facts() -> dict[str, str]:
    return {
        row["name"]: f"{row['name']} · {row['memory_bytes'] / 2**30:,.0f} GiB"
        for row in kvsim.describe_accelerators()
    }


def _card_named(name: str) -> str:
    """A card's name with its memory."""
    return _card_facts().get(name, name)


_CARD: dict[str, Any] = {
    "key": "gpu",
    "options": cards,
    "spellings": _spelled_cards,
    "show": _card_named,
}
_DTYPE: dict[str, Any] = {"key": "kv", "options": kv_dtypes}
