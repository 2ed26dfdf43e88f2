"""What vLLM 0.33 did in a few small runs of every family, kept for machines without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from .seen import Seen
from .vllm_cases import FAMILIES, case_of

__all__ = ["record", "recorded"]

_FILE = Path(__file__).with_name("vllm_recorded.json")
_EACH = 4  # runs a family
_MOST_JOBS = 9
_TELLING = {  # seeds that once disagreed
    "turns": (468,),  # who decodes fills a block that the blocked head begins with
    "async-turns": (862,),  # who has ended is known but for its last token
}


def _small(family: str) -> Iterator[int]:
    """Seeds whose workloads are small."""
    return (seed for seed in count() if 3 <= len(case_of(family, seed).jobs) <= _MOST_JOBS)


def record() -> None:
    """Run the engine and write the file."""
    from . import vllm_driver

    runs = []
    for family in FAMILIES:
        for seed in (*islice(_small(family), _EACH), *_TELLING.get(family, ())):
            seen = vllm_driver.run(case_of(family, seed))
            runs.append([family, seed, sorted(seen.events), sorted(seen.used.items())])
    _FILE.write_text(
        "[" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs) + "]\n"
    )


def recorded() -> dict[tuple[str, int], Seen]:
    """What the engine did, by family and seed."""
    return {
        (family, seed): Seen([tuple(event) for event in events], dict(used))
        for family, seed, events, used in json.loads(_FILE.read_text())
    }
