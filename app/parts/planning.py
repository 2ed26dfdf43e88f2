"""Plans, computed once for every question that anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

import kvsim

__all__ = ["Options", "Subject", "planned"]

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
