"""Plans, computed once for every question that anybody asks."""

from __future__ import annotations

from typing import Any

import streamlit as st

import kvsim

__all__ = ["card_named", "cards", "models", "plan_cached", "spelled_cards", "spelled_models"]

# A question's options as sorted pairs: hashable, and the same however they were given.
Options = tuple[tuple[str, Any], ...]


@st.cache_data(max_entries=512, show_spinner=False)
def plan_cached(
    model: str, card: str, engine: str, options: Options, context_len: int | None
) -> kvsim.Plan:
    """Plan; `model` and `card` are catalogue names, or an uploaded one's own JSON.

    Raises
    ------
    KVSimError
        Whatever `kvsim.plan` says.
    """
    return kvsim.plan(
        kvsim.ModelSpec.model_validate_json(model) if model.startswith("{") else model,
        kvsim.AcceleratorProfile.model_validate_json(card) if card.startswith("{") else card,
        engine=engine,
        context_len=context_len,
        **dict(options),
    )


@st.cache_data(show_spinner=False)
def models() -> list[str]:
    """Names of the catalogue's models."""
    return kvsim.model_names()


@st.cache_data(show_spinner=False)
def cards() -> list[str]:
    """Names of the catalogue's accelerators."""
    return kvsim.accelerator_names()


@st.cache_data(show_spinner=False)
def spelled_models() -> dict[str, str]:
    """Aliases and hub ids, lower case, with the name that each means."""
    return {
        word.lower(): row["name"]
        for row in kvsim.describe_models()
        for word in (row.get("hf_id") or "", *row.get("aliases", ()))
        if word
    }


@st.cache_data(show_spinner=False)
def spelled_cards() -> dict[str, str]:
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


def card_named(name: str) -> str:
    """A card's name with its memory, for a search box."""
    return _card_facts().get(name, name)
