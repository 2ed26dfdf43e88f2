"""Look at a card before anything is measured on it: what ``make gpu-check`` runs.

    python benchmarks/gpu_check.py [--device cuda] [--out FOLDER] [--only NAME] [--dry-run]

One verdict a line, as they come: ``ok``, ``look`` or ``BAD``, the check and a sentence with its
numbers; at the end how many there are of each. What is being done, and tables, are on stderr::

    facts       what the card is              calibrate   quick, and what speaks against it
    capture     CUDA graphs, and failed ones  validate    quick, at half of the capacity
    kernels     which, and how fast           study       four caches that agree
    overlap     launches beside the device    memory      a card that somebody else holds
                                              interrupt   Ctrl-C, and --resume
                                              clocks      under load

Exit code 0 without a BAD, 1 with one, 2 for bad arguments, 130 after Ctrl-C. No setting of the
card is changed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Never

from gpu_check_checks import BAD_INPUT, CHECKS, Bench, counted, find_facts, made
from gpu_check_runner import Runner
from gpu_check_verdicts import BAD, Verdict

from kvsim.errors import InputError, KVSimError, nearest
from kvsim.interrupts import stopping

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 540.0
INTERRUPTED = 130


def say(line: str) -> None:
    """Say a line on stderr: stdout is the verdicts'."""
    print(line, file=sys.stderr, flush=True)


class OneLine(argparse.ArgumentParser):
    """A parser whose refusal is one line."""

    def error(self, message: str) -> Never:
        """Say it and leave."""
        self.exit(BAD_INPUT, f"gpu-check: {message}\n")


def main(
    words: Sequence[str] | None = None, make_runner: Callable[[float], Runner] = Runner
) -> int:
    """Make the checks; return the exit code.

    Parameters
    ----------
    words : sequence of str, optional
        The arguments.
    make_runner : callable
        What runs kvsim and the probes for so many seconds.
    """
    chosen = _arguments(words)
    report = Report(as_json=chosen.format == "json")
    with stopping(lambda: None) as stop:
        try:
            names = _known(chosen.only)
            bench = _bench(chosen, make_runner(chosen.limit))
            if chosen.dry_run:
                return _print_plan(bench, names, as_json=report.as_json)
            for name in names:
                say(f"{name}: about {CHECKS[name].seconds(bench):.0f} s")
                for verdict in made(bench, name):
                    report.add(verdict)
        except KVSimError as error:
            say(f"gpu-check: {error}")
            return BAD_INPUT
        except KeyboardInterrupt:
            report.close(None)
            say("gpu-check: interrupted")
            return stop.exit_code or INTERRUPTED
    report.close(bench.runner.spent_seconds)
    return int(any(verdict.word == BAD for verdict in report.verdicts))


class Report:
    """Prints verdicts as they come, or all of them at the end as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.verdicts: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        """Print one."""
        self.verdicts.append(verdict)
        print(verdict.line, file=sys.stderr if self.as_json else sys.stdout, flush=True)
        for note in verdict.notes:
            say(f"     {note}")

    def close(self, seconds: float | None) -> None:
        """Print the end; without seconds it was interrupted, and there is no summary."""
        if self.as_json:
            found: dict[str, Any] = {
                "verdicts": [verdict._asdict() for verdict in self.verdicts],
                "seconds": seconds,
                "interrupted": seconds is None,
            }
            print(json.dumps(found, indent=1))
        elif seconds is not None:
            print(f"{counted(self.verdicts)} in {seconds:.0f} s", flush=True)


def _print_plan(bench: Bench, names: Sequence[str], *, as_json: bool) -> int:
    """Print the seconds that each check should take."""
    seconds = {name: round(CHECKS[name].seconds(bench), 1) for name in names}
    total = round(sum(seconds.values()), 1)
    if as_json:
        print(json.dumps({"expected_seconds": seconds, "total_seconds": total}))
        return 0
    for name, each in {**seconds, "all": total}.items():
        print(f"{name:<10}{each:>7.0f} s")
    return 0


def _known(names: Sequence[str] | None) -> list[str]:
    """The checks that were asked for, in their own order."""
    for name in names or ():
        if name not in CHECKS:
            close = ", ".join(nearest(name, CHECKS) or CHECKS)
            raise InputError(
                f"no check {name!r}; did you mean {close}?",
                where="--only",
                fix=f"there are {', '.join(CHECKS)}",
            )
    return [name for name in CHECKS if not names or name in names]


def _bench(chosen: argparse.Namespace, runner: Runner) -> Bench:
    facts = find_facts(runner, chosen.device)
    if facts.kind not in ("cuda", "cpu"):
        raise InputError(f"no checks for {facts.kind}", where="--device", fix="choose cuda or cpu")
    if not chosen.dry_run:
        try:
            chosen.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot be made ({error.strerror})", where=f"--out {chosen.out}"
            ) from None
    return Bench(chosen.device, facts, chosen.out, runner)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLine(prog="gpu-check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="torch's name: cuda, cuda:1, cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu-check", help="its files")
    parser.add_argument("--only", action="append", metavar="NAME", help="one check; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="print the seconds, no more")
    parser.add_argument(
        "--limit", type=_seconds, default=LIMIT_SECONDS, help="seconds for all of it"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(words)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
