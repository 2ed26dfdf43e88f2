"""Compare SGLang's own scheduler with ours: one line a disagreement, then a count.

    python -m tests.engine_oracle.sglang FAMILY COUNT [FIRST] [--shrink]
    python -m tests.engine_oracle.sglang --record     write sglang_recorded.json anew

The folder that holds the package ``sglang`` is named by ``KVSIM_SGLANG``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from .sglang_cases import FAMILIES, Case, case_of
from .sglang_seen import differences
from .sglang_stub import RELEASE, missing, prepare

__all__ = ["disagreement", "main", "record", "shrunk"]

_TRIES = 400
_FEW_JOBS = 10
_TELLING = ("prefix 13", "prefix 47", "pressed 72", "prefix-pages 15", "pressed-pages 2")
_RECORDED = Path(__file__).parent / "sglang_recorded.json"


def disagreement(case: Case) -> str | None:
    """Where the two differ in a case, if they do."""
    prepare()
    logging.disable(logging.WARNING)
    from . import sglang_driver, sglang_ours

    return differences(sglang_ours.run(case), sglang_driver.run(case))


def shrunk(case: Case, disagrees: Callable[[Case], bool]) -> Case:
    """Drop requests, shorten them, and take pages away, as long as the two still differ."""
    tries, smaller = 0, True
    while smaller and tries < _TRIES:
        smaller = False
        for one in _smaller(case):
            tries += 1
            if one.jobs and one.least_pages <= one.pages and disagrees(one):
                case, smaller = one, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Cases that are a little smaller."""
    jobs = case.jobs
    half = len(jobs) // 2
    if half:
        yield replace(case, jobs=jobs[:half])
        yield replace(case, jobs=jobs[half:])
    for at in reversed(range(len(jobs))):
        yield replace(case, jobs=jobs[:at] + jobs[at + 1 :])
    for at, job in enumerate(jobs):
        for name, least in (("output", 1), ("prompt", max(1, job.shared)), ("arrival", 0)):
            value = getattr(job, name)
            for less in {least, (value + least) // 2, value - 1}:
                earlier = name == "arrival" and at and less < jobs[at - 1].arrival
                if least <= less < value and not earlier:
                    changed = replace(job, **{name: less})
                    yield replace(case, jobs=(*jobs[:at], changed, *jobs[at + 1 :]))
    yield replace(case, pages=case.pages - 1)
    yield replace(case, pages=case.pages // 2)


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


def main() -> None:
    """Run a family; exit with 1 when a seed disagrees, with 2 when the engine is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine_oracle.sglang")
    parser.add_argument("family", choices=FAMILIES, nargs="?", default="tight")
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--record", action="store_true", help="write down what the engine does")
    parser.add_argument("--shrink", action="store_true", help="make the first disagreement small")
    given = parser.parse_args()
    lacks = missing()
    if lacks:
        print(lacks, file=sys.stderr)
        sys.exit(2)
    if given.record:
        record()
        return
    bad = []
    for seed in range(given.first, given.first + given.count):
        found = disagreement(case_of(given.family, seed))
        if found:
            bad.append(seed)
            print(f"{given.family} {seed}: {found}")
    if bad and given.shrink:
        small = shrunk(case_of(given.family, bad[0]), lambda case: bool(disagreement(case)))
        print(small, disagreement(small), sep="\n")
    print(f"{given.family}: {given.count - len(bad)} of {given.count} agree")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
