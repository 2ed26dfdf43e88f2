"""How long kvsim takes to start, as multiples of an interpreter that does nothing.

Prints the least wall time of N runs of each command, all in one go and interleaved, so that
a busy machine slows all of them alike. Goals: ``kvsim --help`` at most 6 times and
``kvsim plan`` at most 20 times ``python -c pass``. ``kvsim simulate peer-w``, 10,000 requests, has
no goal: what it takes beside the simulation itself is numpy's and pydantic's start.

    python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

KVSIM = str(Path(sysconfig.get_path("scripts")) / "kvsim")
PLAN = [KVSIM, "plan", "--model", "llama2-7b", "--gpu", "a100"]
COMMANDS = {
    "python -c pass": (["-c", "pass"], None),
    "kvsim --help": ([KVSIM, "--help"], 6),
    "kvsim plan": (PLAN, 20),
    "kvsim plan --format json": ([*PLAN, "--format", "json"], 20),
    "kvsim simulate peer-w": ([KVSIM, "simulate", "peer-w"], None),
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one run of this interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def least_seconds(runs: int) -> dict[str, float]:
    """The least wall time of each command over interleaved runs."""
    rounds = [{name: seconds(words) for name, (words, _) in COMMANDS.items()} for _ in range(runs)]
    return {name: min(each[name] for each in rounds) for name in COMMANDS}


def main() -> int:
    """Print the table; the exit code says whether every goal is met."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    least = least_seconds(runs)
    base = least["python -c pass"]
    met = True
    print(f"least of {runs} runs, {os.cpu_count()} processors, Python {sys.version.split()[0]}")
    print(f"{'command':<26} {'ms':>8} {'ratio':>7} {'goal':>6}")
    for name, (_, goal) in COMMANDS.items():
        ratio = least[name] / base
        met &= goal is None or ratio <= goal
        print(f"{name:<26} {least[name] * 1000:>8.1f} {ratio:>7.1f} {goal or '':>6}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
