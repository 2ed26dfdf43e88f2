"""What four replications cost beside one: wall time of whole commands, the least of some rounds.

    python benchmarks/cores.py [ROUNDS]

Goal on two free cores, of 30,000 requests each: at most 1.6 times one. The commands are
interleaved, so that a busy machine slows all of them; a busy one has no second core to give.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

GOAL = 1.6
COMMANDS = {
    "one": (30_000, "1"),
    "four": (30_000, "4"),
    "four, one process": (30_000, "4", "--jobs", "1"),
    "four of 1,000": (1_000, "4"),
    "four of 1,000, one process": (1_000, "4", "--jobs", "1"),
}


def seconds(requests: int, replications: str, *flags: str) -> float:
    """Wall time of one command."""
    words = ["simulate", "peer-w", "--set", f"workload.requests={requests}", *flags]
    command = [sys.executable, "-m", "kvsim", *words, "--replications", replications]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Print the table; the exit code says whether the goal is met."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rounds = [{name: seconds(*case) for name, case in COMMANDS.items()} for _ in range(count)]
    least = {name: min(each[name] for each in rounds) for name in COMMANDS}
    print(f"least of {count} rounds, {os.cpu_count()} processors")
    for name, spent in least.items():
        print(f"{name:<28} {spent:>6.2f} s {spent / least['one']:>6.2f}")
    ratio = least["four"] / least["one"]
    print(f"four over one: {ratio:.2f} (goal {GOAL})")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
