"""The trace of a cache study: a small example, or what this visitor brought; and its hits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

import kvsim
from app.parts import uploads
from app.parts.words import plain
from kvsim import PrefixTrace

__all__ = [
    "LIMIT_BYTES",
    "UPLOADED",
    "Subject",
    "ask_file",
    "curves",
    "file_name",
    "is_uploaded",
    "subject",
    "traces",
]

UPLOADED = "uploaded"
LIMIT_BYTES = 16 * 2**20
_PLACE = "uploaded prefixes"


@dataclass(frozen=True)
class Subject:
    """A trace, and everything that tells it from another, as text."""

    trace: PrefixTrace
    identity: str


@dataclass(frozen=True)
class _Brought:
    """What a visitor brought, read up to a limit."""

    trace: PrefixTrace
    digest: str
    most_references: int


def traces() -> list[str]:
    """Names to choose from."""
    brought = [UPLOADED] if _PLACE in st.session_state else []
    return [*brought, *kvsim.example_prefix_names()]


def ask_file(most_references: int) -> bool:
    """Ask for a trace; whether it is another one than before."""
    before: _Brought | None = st.session_state.get(_PLACE)
    found = uploads.upload(
        "A trace that names its prefix blocks",
        lambda path: _read(path, most_references, before),
        key="upload prefixes",
        types=["jsonl", "json", "gz"],
        limit_bytes=LIMIT_BYTES,
    )
    if found is None:
        st.session_state.pop(_PLACE, None)
        return False
    st.session_state[_PLACE] = found[1]
    return before is None or before.digest != found[1].digest


def _read(path: Path, most_references: int, before: _Brought | None) -> _Brought:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if before and (before.digest, before.most_references) == (digest, most_references):
        return before
    trace = kvsim.read_prefixes(path, most_references=most_references)
    return _Brought(trace, digest, most_references)


def subject(name: str, most_references: int, seed: int) -> Subject:
    """The chosen trace, cut to a number of references."""
    if is_uploaded(name):
        brought: _Brought = st.session_state[_PLACE]
        return Subject(brought.trace, f"{brought.digest} {most_references}")
    return Subject(_example(name, most_references, seed), f"{name} {most_references} {seed}")


@st.cache_resource(max_entries=8, show_spinner=False)
def _example(name: str, most_references: int, seed: int) -> PrefixTrace:
    return kvsim.example_prefixes(name, seed=seed, most_references=most_references)


def is_uploaded(name: str) -> bool:
    """Whether it is what the visitor brought."""
    return name == UPLOADED


def file_name(name: str) -> str:
    """What the trace is called on the visitor's machine: an upload by its file."""
    if not is_uploaded(name):
        return name
    brought: _Brought = st.session_state[_PLACE]
    return f"./{brought.trace.name}"


def curves(
    chosen: Subject, policies: Sequence[str], sizes: Sequence[int]
) -> dict[str, list[float]]:
    """Hit ratios by policy, each size computed once; long work shows its progress."""
    done, whole = 0, max(1, len(policies) * len(sizes))
    bar = st.empty()
    found: dict[str, list[float]] = {}
    for policy in policies:
        found[policy] = []
        for size in sizes:
            if chosen.trace.references > 20_000:
                bar.progress(done / whole, text=plain(f"{policy}, {size:,} blocks"))
            found[policy].append(_hit_ratio(chosen.identity, chosen.trace, policy, size))
            done += 1
    bar.empty()
    return found


@st.cache_data(max_entries=4096, show_spinner=False)
def _hit_ratio(identity: str, _trace: PrefixTrace, policy: str, size: int) -> float:
    return next(kvsim.hit_ratio_curve(_trace, policy, [size]))
