"""Compare a family of workloads: one line a disagreement, then a count."""

from __future__ import annotations

import argparse
import sys

from .cases import FAMILIES, Case, case_of
from .seen import differences


def disagreement(case: Case) -> str | None:
    """Where the two differ in a case, if they do."""
    from . import our_side, vllm_side

    return differences(our_side.run(case), vllm_side.run(case))


def compare(family: str, seeds: range, *, shrink: bool) -> bool:
    """Run a family; tell whether all seeds agree."""
    bad = [(seed, found) for seed in seeds if (found := disagreement(case_of(family, seed)))]
    for seed, found in bad:
        print(f"{family} {seed}: {found}")
    if bad and shrink:
        from .shrink import shrunk

        small = shrunk(case_of(family, bad[0][0]), lambda case: bool(disagreement(case)))
        print(small, disagreement(small), sep="\n")
    print(f"{family}: {len(seeds) - len(bad)} of {len(seeds)} agree", flush=True)
    return not bad


def main() -> None:
    """Run one family or all of them; exit with 1 when a seed disagrees."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine_oracle", description=__doc__)
    parser.add_argument("family", choices=[*FAMILIES, "all"], nargs="?", default="all")
    parser.add_argument("count", type=int, nargs="?", default=20)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--shrink", action="store_true", help="make the first disagreement small")
    parser.add_argument("--record", action="store_true", help="write what the engine did in a few")
    given = parser.parse_args()
    if given.record:
        from .recorded import record

        record()
        return
    families = FAMILIES if given.family == "all" else [given.family]
    seeds = range(given.first, given.first + given.count)
    agree = [compare(family, seeds, shrink=given.shrink) for family in families]
    sys.exit(not all(agree))


if __name__ == "__main__":
    main()
