"""Compare SGLang's own scheduler with ours: one line a disagreement, then a count.

    python -m tests.engine_oracle.sglang FAMILY COUNT [FIRST] [--shrink]
    python -m tests.engine_oracle.sglang --record     write sglang_recorded.json anew

The folder that holds the package ``sglang`` is named by ``KVSIM_SGLANG``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from .compare import Engine, run
from .seen import differences
from .sglang_cases import FAMILIES, Case, case_of
from .sglang_stub import RELEASE, missing, prepare

__all__ = ["ENGINE", "disagreement", "record"]

_FEW_JOBS = 10
_TELLING = ("prefix 13", "prefix 47", "pressed 72", "prefix-pages 15", "pressed-pages 2")
_RECORDED = Path(__file__).parent / "sglang_recorded.json"


def disagreement(case: Case) -> str | None:
    """Where the two differ in a case, if they do."""
    prepare()
    logging.disable(logging.WARNING)
    from . import sglang_driver, sglang_ours

    return differences(sglang_ours.run(case), sglang_driver.run(case))


def record(path: Path = _RECORDED) -> None:
    """Write down what the engine does: small workloads of every family, and telling ones.

    In those a leaf is evicted that another order of use would have kept.
    """
    prepare()
    logging.disable(logging.WARNING)
    from . import sglang_driver

    names = [name for family in FAMILIES for name in _busiest(family)]
    runs = {}
    for name in dict.fromkeys((*names, *_TELLING)):
        family, seed = name.split()
        events = sglang_driver.run(case_of(family, int(seed))).events
        runs[name] = sorted(map(list, events))
    lines = (f"  {json.dumps(name)}: {json.dumps(events)}" for name, events in runs.items())
    body = ",\n".join(lines)
    path.write_text(f'{{"engine": "sglang {RELEASE}", "runs": {{\n{body}\n}}}}\n')


def _busiest(family: str) -> list[str]:
    """Two small workloads of a family, those with the most retractions."""
    from . import sglang_driver

    busy = []
    for seed in range(200):
        case = case_of(family, seed)
        if len(case.jobs) <= _FEW_JOBS:
            events = sglang_driver.run(case).events
            busy.append((-sum(word == "preempted" for _, word, _, _ in events), seed))
    return [f"{family} {seed}" for _, seed in sorted(busy)[:2]]


ENGINE = Engine(FAMILIES, case_of, disagreement, record, missing)

if __name__ == "__main__":
    run(ENGINE, "python -m tests.engine_oracle.sglang")
