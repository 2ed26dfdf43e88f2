"""Plans, computed once for every question that anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

import kvsim

__all__ = [
    "Options",
    "Subject",
    "card_named",
    "cards",
    "models",
    "planned",
    "spelled_cards",
    "spelled_models",
]

# A question's options as sorted pairs: hashable, and the same however they were given.
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model or a card: a catalogue name, or what this visitor brought."""

    name: str
    brought: Any = None

    @property
    def content(self) -> Any:
        """What `kvsim.plan` takes."""
        return self.name if self.brought is None else self.brought

    @property
    def identity(self) -> str:
        """Everything that it is, as text: the same for the same content only."""
        return self.name if self.brought is None else f"{self.name}\n{self.brought!r}"


def planned(
    model: Subject,
    card: Subject,
    engine: str = "vllm",
    options: Options = (),
    context_len: int | None = None,
    retention: tuple[str, ...] = (),
) -> kvsim.Plan:
    """Plan, or remember the same question's plan.

    Raises
    ------
    KVSimError
        Whatever `kvsim.plan` says.
    """
    who = (model.identity, card.identity)
    return _planned(who, model, card, engine, options, context_len, retention)


# Streamlit tells questions apart by every argument whose name has no underscore before it.
@st.cache_data(max_entries=512, show_spinner=False)
def _planned(
    who: tuple[str, str],
    _model: Subject,
    _card: Subject,
    engine: str,
    options: Options,
    context_len: int | None,
    retention: tuple[str, ...],
) -> kvsim.Plan:
    return kvsim.plan(
        _model.content,
        _card.content,
        engine=engine,
        context_len=context_len,
        retention=retention,
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
