"""What vLLM did in a few small runs of every family, by release, kept for machines without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from kvsim.engines.vllm.rules import Rules

from .seen import Seen
from .vllm_cases import FAMILIES, case_of, lacks
from .vllm_stub import release

__all__ = ["record", "recorded"]

_FILE = Path(__file__).with_name("vllm_recorded.json")
_EACH = 4  # runs a family
_MOST_JOBS = 9
_TELLING = {  # seeds that once disagreed
    "turns": (468,),  # who decodes fills a block that the blocked head begins with
    "async-turns": (862,),  # who has ended is known but for its last token
    "priority": (24,),  # who gave way for itself ends the step for those behind, before 0.33
    "async-priority": (0,),  # one that has ended gives way: the next is passed over, before 0.28
    "async-threshold": (41,),  # who has ended gives way, and the pool is asked no more
    # who runs fills a block in the step in which another is admitted; one that ended is freed
    # before the step in which others go on
    "alike": (357, 1262),
    # who fails to grow has not written yet, whoever gives way for it; several turns in one step;
    # the newest token of who has ended is known last
    "async-alike": (516, 414, 2520, 101, 347),
    "states-prefix": (229,),  # a decode leaves behind what was never held
    "async-states-turns": (320,),  # a decode writes the state that the blocked head waits for
}


def _small(family: str) -> Iterator[int]:
    """Seeds whose workloads are small."""
    return (seed for seed in count() if 3 <= len(case_of(family, seed).jobs) <= _MOST_JOBS)


def record() -> None:
    """Run the engine and write what it does in place of what its release did."""
    from . import vllm_driver

    ours, runs = release(), []
    for family in FAMILIES:
        if lacks(family, Rules.of(ours)):
            continue
        for seed in (*islice(_small(family), _EACH), *_TELLING.get(family, ())):
            seen = vllm_driver.run(case_of(family, seed))
            runs.append([ours, family, seed, sorted(seen.events), sorted(seen.used.items())])
    others = [run for run in _rows() if run[0] != ours]
    lines = [json.dumps(run, separators=(",", ":")) for run in others + runs]
    _FILE.write_text("[" + ",\n".join(lines) + "]\n")


def recorded() -> dict[tuple[str, str, int], Seen]:
    """What the engine did, by release, family and seed."""
    return {
        (of, family, seed): Seen([tuple(event) for event in events], dict(used))
        for of, family, seed, events, used in _rows()
    }


def _rows() -> list[Any]:
    rows: list[Any] = json.loads(_FILE.read_text())
    return rows
