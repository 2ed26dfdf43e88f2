"""The question of a simulation: a shipped scenario or a trace, and what is changed of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import streamlit as st

import kvsim
from app.parts import catalogue, uploads
from app.parts.runs import MOST_REQUESTS
from app.parts.trouble import say
from app.parts.words import plain
from app.state import Choice, Count, Field, Flag, PageState, Share
from kvsim import KVSimError, Scenario

__all__ = ["FIELDS", "OWN", "Question", "Trace", "ask_changes", "ask_scenario", "asked", "on_disk"]

TRACE_LIMIT_BYTES = 16 * 2**20
TRACE_TYPES = ("csv", "jsonl", "json")
OWN = "the scenario's"

# key of the page: dotted key of the scenario
PLACES = {
    "model": "model",
    "gpu": "accelerator",
    "rate": "workload.arrivals.rate",
    "requests": "workload.requests",
    "allocator": "memory.allocator",
    "block": "engine.block_size",
    "scheduler": "scheduler.policy",
    "seqs": "engine.max_num_seqs",
    "ttft": "slo.ttft_ms",
    "tpot": "slo.tpot_ms",
    "e2el": "slo.e2el_ms",
}
_BLOCKS = "engine.num_gpu_blocks_override"

FIELDS: tuple[Field, ...] = (
    catalogue.model_field(empty=OWN),
    catalogue.card_field(empty=OWN),
    Share(key="rate", label="Requests per second", least=0.001, most=10_000.0, step=0.5),
    Count(key="requests", label="Requests", most=MOST_REQUESTS, placeholder=OWN),
    Choice(key="allocator", label="Memory", options=kvsim.allocator_names, empty=OWN),
    Choice(key="scheduler", label="Scheduler", options=kvsim.scheduler_names, empty=OWN),
    Count(key="block", label="Block size (tokens)", most=4096, placeholder=OWN),
    Count(key="seqs", label="Most sequences", most=100_000, placeholder=OWN),
    Count(key="seed", label="Seed", least=0, most=10**9, placeholder=OWN),
    Share(key="ttft", label="TTFT objective (ms)", least=0.1, most=1e7, step=100.0),
    Share(key="tpot", label="TPOT objective (ms)", least=0.1, most=1e7, step=10.0),
    Share(key="e2el", label="End-to-end objective (ms)", least=0.1, most=1e8, step=1000.0),
    Flag(
        key="plan",
        label="Pool from the plan",
        help="Size the pool by the model, the card and the engine, where the scenario states its"
        " number of blocks.",
    ),
)


@dataclass(frozen=True)
class Trace:
    """A trace that this visitor brought."""

    name: str
    content: bytes
    requests: int

    @property
    def digest(self) -> str:
        """What sets its content apart."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Question:
    """A scenario with changes, and the trace that replaces its requests."""

    name: str
    changes: tuple[tuple[str, Any], ...]
    seed: int | None
    trace: Trace | None

    @property
    def scenario(self) -> Scenario:
        """The scenario as it will run.

        Raises
        ------
        KVSimError
            For a change that this scenario does not take.
        """
        overrides: dict[str, Any] = {}
        if self.trace is not None:
            overrides["workload"] = {"trace": {"file": self.trace.name}}
        scenario = kvsim.load_scenario(self.name, overrides | dict(self.changes))
        most = scenario.workload.limits.requests
        if most is not None and most <= MOST_REQUESTS:
            return scenario
        return kvsim.with_overrides(scenario, {"workload.requests": MOST_REQUESTS})

    @property
    def requests(self) -> int | None:
        """How many requests there will be, where that is known."""
        limit = self.scenario.workload.limits.requests
        known = [count for count in (limit, self.trace and self.trace.requests) if count]
        return min(known) if known and min(known) < MOST_REQUESTS else None

    @property
    def identity(self) -> str:
        """Everything that the answer depends on."""
        content = self.trace.digest if self.trace else ""
        return f"{self.scenario.model_dump_json(exclude={'folder'})} {self.seed} {content}"

    def flags(self) -> dict[str, Any]:
        """Flags of ``kvsim simulate`` that ask the same."""
        changes = dict(self.changes)
        return {
            "trace": f"./{self.trace.name}" if self.trace else None,
            "model": changes.pop("model", None),
            "gpu": changes.pop("accelerator", None),
            "set": [f"{key}={_yaml(value)}" for key, value in changes.items()],
            "seed": self.seed,
        }


@contextmanager
def on_disk(question: Question) -> Iterator[Scenario]:
    """Yield the scenario, with its trace in a folder that exists only meanwhile."""
    if question.trace is None:
        yield question.scenario
        return
    with TemporaryDirectory(prefix="kvsim-run-") as folder:
        (Path(folder) / question.trace.name).write_bytes(question.trace.content)
        yield question.scenario.model_copy(update={"folder": Path(folder)})


def ask_scenario(state: PageState) -> tuple[str, Trace | None]:
    """Ask for a scenario, and perhaps a trace to replay in place of its requests."""
    name = state.ask("scenario")
    with st.expander("Bring a trace in place of its requests", icon=":material/upload:"):
        trace = _ask_trace(state.page)
        st.caption(
            "Azure, Mooncake, BurstGPT, Vidur, vLLM bench and other formats are told apart by"
            f" their content; at most {TRACE_LIMIT_BYTES // 2**20} MiB and {MOST_REQUESTS:,}"
            " requests. The file is read here and forgotten when you leave; no link holds it."
        )
    return name, trace


def ask_changes(state: PageState, name: str, keys: list[str]) -> dict[str, Any]:
    """Ask what to change, a box beside the other; each shows what the scenario says."""
    own = _own(name)
    values: dict[str, Any] = {}
    columns = st.columns(min(len(keys), 4))
    for at, key in enumerate(keys):
        if at and at % len(columns) == 0:
            columns = st.columns(len(columns))
        with columns[at % len(columns)]:
            told = {} if key == "plan" else {"placeholder": str(own.get(key, "") or "none")}
            values[key] = state.ask(key, **told)
    return values


def asked(name: str, trace: Trace | None, values: Mapping[str, Any]) -> Question:
    """Make the question out of what was asked."""
    changes = [
        (PLACES[key], value) for key, value in values.items() if key in PLACES and value is not None
    ]
    if values.get("plan"):
        changes.append((_BLOCKS, None))
    return Question(name, tuple(changes), values.get("seed"), trace)


@st.cache_data(show_spinner=False)
def _own(name: str) -> dict[str, Any]:
    """What a shipped scenario itself says, by key of the page."""
    content = kvsim.load_scenario(name).model_dump()
    found = {key: _at(content, place) for key, place in PLACES.items()}
    found["block"] = found["block"] or "the engine's"
    found["seqs"] = found["seqs"] or "the engine's"
    return found | {"seed": str(content["run"]["seed"])}


def _at(content: Any, place: str) -> Any:
    for part in place.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _ask_trace(page: str) -> Trace | None:
    """Read a trace; look through it once, however often the page is drawn."""
    found = uploads.upload(
        "A request trace",
        Path.read_bytes,
        key=f"trace of {page}",
        types=TRACE_TYPES,
        limit_bytes=TRACE_LIMIT_BYTES,
    )
    place = f"read trace of {page}"
    if found is None:
        st.session_state.pop(place, None)
        return None
    name, content = found
    known = st.session_state.get(place)
    if known is None or known[0] != (name, content):
        known = st.session_state[place] = ((name, content), *_looked_through(name, content))
    trace: Trace | None = known[1]
    if trace is None:
        say(f"{name}: {known[2]}")
        return None
    st.success(plain(f"{name}: {trace.requests:,} requests"))
    return trace


def _looked_through(name: str, content: bytes) -> tuple[Trace | None, str]:
    """Return the trace, or why it is none."""
    try:
        stats = uploads.read_file(content, kvsim.trace_stats, name)
    except KVSimError as error:
        return None, str(error)
    return Trace(name, content, stats.requests), ""


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)
