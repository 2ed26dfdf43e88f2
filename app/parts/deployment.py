"""The question of a plan: a model, cards, engines and flags, asked with search boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

import kvsim
from app.parts import catalogue, flags, planning, uploads
from app.parts.rows import ask_row, look_field
from app.state import Count, Field, PageState, Several, Words
from kvsim import KVSimError, Plan

__all__ = ["FIELDS", "Answer", "Answers", "Question", "answer", "ask"]

UPLOAD_LIMIT_BYTES = 2**20
MOST_PLANS = 24
UPLOADED = "uploaded"
"""Name, in a link, of what only this visitor has."""

MAIN_FLAGS = ["tensor_parallel_size"]


FIELDS: tuple[Field, ...] = (
    catalogue.model_field(
        default="llama3.1-8b",
        options=lambda: [*_uploaded("model"), *catalogue.models()],
        help="Type to search the catalogue.",
    ),
    catalogue.cards_field(
        default=("A100-SXM4-80GB", "H100-SXM5-80GB"),
        options=lambda: [*_uploaded("gpu"), *catalogue.cards()],
        help="Up to eight, set side by side.",
    ),
    Several(
        key="engine",
        label="Engines",
        default=("vllm",),
        options=kvsim.engine_names,
        help="Each with its own rules for dividing memory.",
    ),
    catalogue.kv_dtypes_field(
        default=("auto", "fp8"),
        most=6,
        help="The first one counts for the bars; the others get a line in the curve.",
    ),
    Count(
        key="context",
        label="Tokens of a typical request",
        help="--context-len: the length that the tables are about.",
        placeholder="2,048, or the longest",
    ),
    Words(
        key="version",
        label="engine_version",
        longest=30,
        help="Release of the engine, such as 0.19.0; empty: the newest whose rules are known.",
    ),
    look_field(MOST_PLANS),
    *flags.FLAGS.values(),
)


@dataclass(frozen=True)
class Question:
    """What is to be planned; `model` and `cards` are names, or "uploaded"."""

    model: str
    cards: tuple[str, ...]
    engines: tuple[str, ...]
    dtypes: tuple[str, ...]
    context_len: int | None
    options: tuple[tuple[str, Any], ...]

    def commands(self) -> Iterator[dict[str, Any]]:
        """The flags of ``kvsim plan`` for each card and engine."""
        for card in self.cards:
            for engine in self.engines:
                yield {
                    "model": _on_disk("model", self.model),
                    "gpu": _on_disk("gpu", card),
                    "engine": None if engine == "vllm" else engine,
                    "kv_cache_dtype": None if self.dtypes[0] == "auto" else self.dtypes[0],
                    "context_len": self.context_len,
                    **dict(self.options),
                }


@dataclass(frozen=True)
class Answer:
    """A plan with the card and the engine that it is for."""

    card: str
    engine: str
    plan: Plan


@dataclass(frozen=True)
class Answers:
    """The plans of a question, and what was refused and why."""

    question: Question
    plans: tuple[Answer, ...]
    refusals: tuple[str, ...]

    def by_dtype(self, number: int) -> dict[str, Plan]:
        """One of the plans again under every chosen KV dtype that its engine has."""
        chosen, question = self.plans[number], self.question
        found: dict[str, Plan] = {}
        for dtype in question.dtypes:
            try:
                plan = _plan(question, chosen.card, chosen.engine, dtype)
            except KVSimError:
                continue  # the engine has no such format: no line
            found.setdefault(plan.kv_cache.dtype, plan)
        return found


def answer(question: Question) -> Answers:
    """Plan every card under every engine."""
    plans: list[Answer] = []
    refusals: list[str] = []
    pairs = [(card, engine) for card in question.cards for engine in question.engines]
    for card, engine in pairs[:MOST_PLANS]:
        try:
            plans.append(Answer(card, engine, _plan(question, card, engine, question.dtypes[0])))
        except KVSimError as error:
            refusals.append(f"{card}, {engine}: {error}")
    if len(pairs) > MOST_PLANS:
        refusals.append(f"{len(pairs)} plans are too many; the first {MOST_PLANS} are shown")
    return Answers(question, tuple(plans), tuple(dict.fromkeys(refusals)))


def _plan(question: Question, card: str, engine: str, dtype: str) -> Plan:
    options = dict(question.options)
    if dtype != "auto":
        options["kv_cache_dtype"] = dtype
    return planning.planned(
        _subject("model", question.model),
        _subject("gpu", card),
        engine,
        tuple(sorted(options.items())),
        question.context_len,
    )


# --- asking --------------------------------------------------------------------------------


def ask(state: PageState) -> Question:
    """Draw the inputs and return the question that they ask."""
    with st.expander("Bring your own: a config.json or a profile", icon=":material/upload:"):
        _ask_files(state)
    columns = iter(st.columns([3, 6, 3, 3, 2]))
    with next(columns):
        model = state.ask("model")
    with next(columns):
        cards = state.ask("gpu")
    with next(columns):
        engines = state.ask("engine")
    with next(columns):
        dtypes = state.ask("kv") or ("auto",)
    with next(columns):
        options = flags.ask(state, MAIN_FLAGS, columns=1)
    names = [name for name in flags.FLAGS if name not in MAIN_FLAGS]
    fold = st.expander("All flags", icon=":material/tune:", key="all flags", on_change="rerun")
    with fold:  # thirty widgets are drawn only where somebody looks
        context_len, version = (_ask_first if fold.open else _keep_first)(state)
        options |= (flags.ask if fold.open else flags.kept)(state, names)
    release = (("engine_version", version),) if version else ()
    return Question(model, cards, engines, dtypes, context_len, (*release, *flags.given(options)))


def _ask_first(state: PageState) -> tuple[int | None, str]:
    """The two that are no flags of an engine."""
    context_len, version = ask_row(state, "context", "version").values()
    return context_len, version.strip()


def _keep_first(state: PageState) -> tuple[int | None, str]:
    return state.keep("context"), str(state.keep("version")).strip()


# --- uploads -------------------------------------------------------------------------------


def _ask_files(state: PageState) -> None:
    """Read a model's or a card's file into this visitor's session."""
    left, right = st.columns(2)
    with left:
        _ask_file(state, "model", "A model's config.json", kvsim.find_model, "json")
    with right:
        _ask_file(state, "gpu", "A card's profile", kvsim.load_accelerator, "yaml", "yml")
    st.caption(
        "A file is read here and forgotten when you leave; it is never part of a link."
        f" At most {UPLOAD_LIMIT_BYTES // 2**20} MiB."
    )


def _ask_file(
    state: PageState, what: str, label: str, read: Callable[[Path], Any], *types: str
) -> None:
    found = uploads.upload(
        label, read, key=f"upload {what}", types=types, limit_bytes=UPLOAD_LIMIT_BYTES
    )
    place = _place(what)
    if found is None:
        st.session_state.pop(place, None)
        return
    name, content = found
    subject = planning.Subject(f"{UPLOADED}: {name}", content)
    before = st.session_state.get(place)
    st.session_state[place] = subject
    if before is None or before.identity != subject.identity:
        state.set(what, UPLOADED if what == "model" else (UPLOADED,))


def _place(what: str) -> str:
    return f"uploaded {what}"


def _uploaded(what: str) -> list[str]:
    return [UPLOADED] if _place(what) in st.session_state else []


def _subject(what: str, name: str) -> planning.Subject:
    """A catalogue name, or what this visitor brought."""
    if name != UPLOADED:
        return planning.Subject(name)
    brought: planning.Subject = st.session_state[_place(what)]
    return brought


def _on_disk(what: str, name: str) -> str:
    """The name for a command line: of an upload, the file as the visitor has it."""
    return (
        f"./{_subject(what, name).name.removeprefix(f'{UPLOADED}: ')}" if name == UPLOADED else name
    )
