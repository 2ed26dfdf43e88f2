"""The command of both engines: one line a disagreement, then a count."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from .shrink import shrunk

__all__ = ["Engine", "run"]


class Engine(NamedTuple):
    """An engine's own scheduler, and how it is asked.

    Parameters
    ----------
    families : collection of str
        Names of its families of workloads.
    case_of : callable
        ``case_of(family, seed)``.
    disagreement : callable
        ``disagreement(case)``: where the two differ, or None.
    record : callable
        Write down what the engine does in a few of them.
    missing : callable
        What the environment lacks to run it, in one line, or None.
    lacks : callable, optional
        ``lacks(family)``: what this release of the engine lacks for a family, or None.
    """

    families: Collection[str]
    case_of: Callable[[str, int], Any]
    disagreement: Callable[[Any], str | None]
    record: Callable[[], None]
    missing: Callable[[], str | None]
    lacks: Callable[[str], str | None] = lambda family: None


def run(engine: Engine, prog: str) -> None:
    """Run families; exit with 1 when a seed disagrees, with 2 when the engine is missing."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("family", choices=[*engine.families, "all"], nargs="?", default="all")
    parser.add_argument("count", type=int, nargs="?", default=20)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--record", action="store_true", help="write down what the engine does")
    parser.add_argument("--shrink", action="store_true", help="make the first disagreement small")
    given = parser.parse_args()
    lacks = engine.missing()
    if lacks:
        print(lacks, file=sys.stderr)
        sys.exit(2)
    if given.record:
        engine.record()
        return
    families = engine.families if given.family == "all" else [given.family]
    seeds = range(given.first, given.first + given.count)
    agree = [_compare(engine, family, seeds, shrink=given.shrink) for family in families]
    sys.exit(not all(agree))


def _compare(engine: Engine, family: str, seeds: range, *, shrink: bool) -> bool:
    """Run a family; tell whether all seeds agree, or the release cannot run it."""
    absent = engine.lacks(family)
    if absent:
        print(f"{family}: left out, {absent}", flush=True)
        return True
    cases = {seed: engine.case_of(family, seed) for seed in seeds}
    found = {seed: engine.disagreement(case) for seed, case in cases.items()}
    bad = {seed: said for seed, said in found.items() if said}
    for seed, said in bad.items():
        print(f"{family} {seed}: {said}")
    if bad and shrink:
        small = shrunk(cases[next(iter(bad))], lambda case: bool(engine.disagreement(case)))
        print(small, engine.disagreement(small), sep="\n")
    print(f"{family}: {len(seeds) - len(bad)} of {len(seeds)} agree", flush=True)
    return not bad
