"""Compare vLLM's own planning of the KV cache with kvsim's layout.

::

    KVSIM_VLLM=FOLDER python -m tests.engine_oracle.layout [--card CARD] [MODEL ...]

FOLDER holds the Python of vLLM 0.33.0 (``pip download --no-deps vllm==0.33.0``, unpacked: the
package ``vllm``). Beside it: torch for the CPU, triton, and the pure-Python packages that the
wheel's metadata asks for. What is replaced to import and run it without a GPU is listed in
`layout_stub`; which steps of the engine's start are run is said in `layout_engine`.

For every model of the catalogue (or those named) and every case of `layout_cases`: blocks, tokens,
concurrency, bytes of a block on every stage, and layers, tokens and bytes of a block of every
group. One line for each case that differs, and a last one with the counts; exit code 1 when any
differs, 2 when there is no engine to ask.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable

from kvsim.catalog.models import find_model, model_names
from kvsim.errors import KVSimError, UnsupportedError
from tests.engine_oracle.layout_cases import Case, Planned, cases_of
from tests.engine_oracle.layout_ours import config_of, plan_here
from tests.engine_oracle.layout_stub import CARDS, SOURCES, import_engine

__all__ = ["compare", "is_same", "main", "ready"]

_LONGEST = 16_384


def compare(models: Iterable[str], card: str) -> Counter[str]:
    """Compare all cases of `models` on a card; print those that differ."""
    counts: Counter[str] = Counter()
    for model in models:
        try:
            length = min(_LONGEST, find_model(model).max_position_embeddings)
        except UnsupportedError:  # an encoder, which keeps nothing
            counts["models without a cache"] += 1
            continue
        for case in cases_of(model, card, length):
            outcome = _judge(case)
            counts[outcome] += 1
    return counts


def _judge(case: Case) -> str:
    engine, here = _engine(case), _here(case)
    if isinstance(engine, Planned) and isinstance(here, Planned):
        if is_same(engine, here):
            return "same"
        print(
            f"{_said(case)}: vLLM {_differing(engine, here)}, kvsim {_differing(here, engine)}",
            flush=True,
        )
        return "differ"
    if isinstance(engine, str) and isinstance(here, str):
        return "refused by both"
    print(f"{_said(case)}: vLLM {engine}, kvsim {here}", flush=True)
    return "refused by one"


def _engine(case: Case) -> Planned | str:
    from tests.engine_oracle.layout_engine import plan_in_engine

    try:
        return plan_in_engine(case, config_of(case.model))
    except Exception as error:  # whatever stops its start
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _here(case: Case) -> Planned | str:
    try:
        planned = plan_here(case)
    except KVSimError as error:
        return f"refuses: {error}"[:160]
    return planned


def is_same(one: Planned, other: Planned) -> bool:
    """Whether two plans agree, in concurrency to nine digits."""
    near = abs(one.concurrency - other.concurrency) < 1e-9 * one.concurrency
    return near and one._replace(concurrency=0.0) == other._replace(concurrency=0.0)


def _differing(one: Planned, other: Planned) -> dict[str, object]:
    return {name: value for name, value in one._asdict().items() if value != getattr(other, name)}


def _said(case: Case) -> str:
    default = Case(case.model)
    changed = (f"{n}={v}" for n, v in case._asdict().items() if v != getattr(default, n))
    return " ".join([case.model, *(c for c in changed)])


def ready(card: str) -> str:
    """Import the engine as on a card; return why it cannot be, or nothing."""
    if SOURCES not in os.environ:
        return f"{SOURCES} is unset: name a folder that holds the package vllm"
    try:
        import_engine(CARDS[card])
    except ImportError as error:
        return f"vLLM cannot be imported: {error}"
    return ""


def main(words: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine_oracle.layout")
    parser.add_argument("models", nargs="*", choices=[[], *model_names()], metavar="MODEL")
    parser.add_argument("--card", choices=CARDS, default="h100")
    asked = parser.parse_args(words)
    if error := ready(asked.card):
        print(error, file=sys.stderr)
        return 2
    counts = compare(asked.models or model_names(), asked.card)
    print("layout:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 1 if counts["differ"] + counts["refused by one"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
