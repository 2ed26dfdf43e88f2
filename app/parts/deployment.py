"""The question of a plan: a model, cards, engines and flags, asked with search boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

import streamlit as st

import kvsim
from app.parts import planning, uploads
from app.parts.words import safe_name
from app.state import Choice, Count, Field, Flag, PageState, Several, Share
from kvsim import EngineOptions, KVSimError, Plan

__all__ = ["FIELDS", "Answer", "Answers", "Question", "answer", "ask"]

UPLOAD_LIMIT_BYTES = 2**20
MOST_PLANS = 24
UPLOADED = "uploaded"
"""Name, in a link, of what only this visitor has."""

# Asked for by widgets of their own, or by several values at once.
_ASKED_APART = ("kv_cache_dtype",)
_MAIN_FLAGS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_model_len",
    "gpu_memory_utilization",
    "quantization",
    "max_num_seqs",
)
_SHORT = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    "decode_context_parallel_size": "dcp",
}


def _dtypes() -> list[str]:
    return ["auto", "fp8", *kvsim.kv_format_names()]


def _yes_no() -> list[str]:
    return ["yes", "no"]


def _flag_field(name: str) -> Field:
    """The field that asks for an option of an engine, by its type."""
    info = EngineOptions.model_fields[name]
    kinds = set(get_args(info.annotation)) or {info.annotation}
    words = {"key": _SHORT.get(name, name), "label": name, "help": f"--{name.replace('_', '-')}"}
    if kinds == {bool}:
        return Flag(**words)
    if bool in kinds:
        return Choice(**words, options=_yes_no, empty="engine's default")
    if float in kinds:
        return Share(**words, least=0.01)
    if str in kinds:
        return Choice(**words, options=_words_for(name), empty="engine's default")
    default = None if NoneType in kinds else info.default
    least = 0 if any(getattr(rule, "ge", None) == 0 for rule in info.metadata) else 1
    return Count(**words, default=default, least=least)


def _words_for(name: str) -> Any:
    """Where the names of a text option come from."""
    lists = {"quantization": kvsim.weight_format_names, "kv_cache_dtype_v": kvsim.kv_format_names}
    return lists.get(name, lambda: ["auto", "bf16", "fp16", "fp32"])


_FLAGS = {
    name: _flag_field(name) for name in EngineOptions.model_fields if name not in _ASKED_APART
}

FIELDS: tuple[Field, ...] = (
    Choice(
        key="model",
        label="Model",
        default="llama3.1-8b",
        options=lambda: [*_uploaded("model"), *planning.models()],
        spellings=planning.spelled_models,
        help="Type to search the catalogue.",
    ),
    Several(
        key="gpu",
        label="Cards",
        default=("A100-SXM4-80GB", "H100-SXM5-80GB"),
        options=lambda: [*_uploaded("gpu"), *planning.cards()],
        spellings=planning.spelled_cards,
        show=planning.card_named,
        help="Up to eight, set side by side.",
    ),
    Several(
        key="engine",
        label="Engines",
        default=("vllm",),
        options=kvsim.engine_names,
        help="Each with its own rules for dividing memory.",
    ),
    Several(
        key="kv",
        label="KV cache dtypes",
        default=("auto", "fp8"),
        options=_dtypes,
        most=6,
        help="The first one counts for the bars; the others get a line in the curve.",
    ),
    Count(
        key="context",
        label="Tokens of a typical request",
        help="--context-len: the length that the tables are about.",
    ),
    Choice(
        key="look",
        label="Look closely at",
        default="0",
        options=lambda: [str(at) for at in range(MOST_PLANS)],
    ),
    *_FLAGS.values(),
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
    return planning.plan_cached(
        _content("model", question.model),
        _content("gpu", card),
        engine,
        tuple(sorted(options.items())),
        question.context_len,
    )


# --- asking --------------------------------------------------------------------------------


def ask(state: PageState) -> Question:
    """Draw the inputs and return the question that they ask."""
    with st.expander("Bring your own: a config.json or a profile", icon=":material/upload:"):
        _ask_files(state)
    left, middle, right = st.columns([2, 3, 2])
    with left:
        model = state.ask("model")
    with middle:
        cards = state.ask("gpu")
    with right:
        engines = state.ask("engine")
    row = st.columns(4)
    with row[0]:
        dtypes = state.ask("kv") or ("auto",)
    with row[1]:
        context_len = state.ask("context")
    options: dict[str, Any] = {}
    for at, name in enumerate(_MAIN_FLAGS[:2]):
        with row[2 + at]:
            options[name] = state.ask(_FLAGS[name].key)
    options |= _ask_flags(state)
    return Question(model, cards, engines, dtypes, context_len, _given(options))


def _ask_flags(state: PageState) -> dict[str, Any]:
    """Every other flag of an engine, folded away."""
    options: dict[str, Any] = {}
    rest = [name for name in _FLAGS if name not in _MAIN_FLAGS]
    names = [*_MAIN_FLAGS[2:], *sorted(rest, key=lambda name: isinstance(_FLAGS[name], Flag))]
    with st.expander("All flags", icon=":material/tune:"):
        for start in range(0, len(names), 4):
            for column, name in zip(st.columns(4), names[start : start + 4], strict=False):
                with column:
                    options[name] = state.ask(_FLAGS[name].key)
    return options


def _given(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options that differ from an engine's default, yes and no as what they mean."""
    given = {}
    for name, value in options.items():
        default = EngineOptions.model_fields[name].default
        meant = {"yes": True, "no": False}.get(value, value) if isinstance(value, str) else value
        if meant is not None and meant != default:
            given[name] = meant
    return tuple(sorted(given.items()))


# --- uploads -------------------------------------------------------------------------------


def _ask_files(state: PageState) -> None:
    """Read a model's or a card's file into this visitor's session."""
    left, right = st.columns(2)
    with left:
        _ask_file(state, "model", "A model's config.json", kvsim.find_model, "config.json")
    with right:
        _ask_file(state, "gpu", "A card's profile", kvsim.load_accelerator, "profile.yaml")
    st.caption(
        "A file is read here and forgotten when you leave; it is never part of a link."
        f" At most {UPLOAD_LIMIT_BYTES // 2**20} MiB."
    )


def _ask_file(state: PageState, what: str, label: str, read: Any, name: str) -> None:
    suffix = name.rpartition(".")[2]
    found = uploads.upload(
        label,
        read,
        key=f"upload {what}",
        name=name,
        types=[suffix, "yml"] if suffix == "yaml" else [suffix],
        limit_bytes=UPLOAD_LIMIT_BYTES,
    )
    kept, place = st.session_state.get(_place(what)), _place(what)
    if found is None:
        st.session_state.pop(place, None)
    else:
        title = safe_name(found[0].rpartition(".")[0])
        content = found[1].model_copy(update={"name": f"{UPLOADED}: {title}"}).model_dump_json()
        st.session_state[place] = (found[0], content)
        if kept != st.session_state[place]:
            state.set(what, UPLOADED if what == "model" else (UPLOADED,))


def _place(what: str) -> str:
    return f"uploaded {what}"


def _uploaded(what: str) -> list[str]:
    return [UPLOADED] if _place(what) in st.session_state else []


def _content(what: str, name: str) -> str:
    """A catalogue name, or the JSON of what this visitor brought under it."""
    kept: str = st.session_state[_place(what)][1] if name == UPLOADED else name
    return kept


def _on_disk(what: str, name: str) -> str:
    """The name for a command line: of an upload, the file as the visitor has it."""
    return f"./{st.session_state[_place(what)][0]}" if name == UPLOADED else name
