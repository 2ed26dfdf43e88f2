"""What several runs cost beside one, on all cores and in one process.

    python benchmarks/cores.py [--requests 30000] [--replications 4] [--repeat 5]

Wall time of whole ``kvsim simulate peer-w`` commands, the least of the repeats, interleaved. Goals
on two cores that are free: four runs of 30,000 requests in at most 1.6 times the time of one, and
four of 500 in at most 1.05 times what they take in one process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from kvsim.runs.crew import cores

SMALL = 500


def seconds(requests: int, replications: int, *flags: str) -> float:
    """Wall time of one command."""
    words = ["simulate", "peer-w", "--set", f"workload.requests={requests}", *flags]
    command = [sys.executable, "-m", "kvsim", *words, "--replications", str(replications)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Print the table; the exit code says whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--replications", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    cases = {
        "one run": (asked.requests, 1),
        "all, one process": (asked.requests, asked.replications, "--jobs", "1"),
        "all, all cores": (asked.requests, asked.replications),
        "small, one process": (SMALL, asked.replications, "--jobs", "1"),
        "small, all cores": (SMALL, asked.replications),
    }
    rounds = [{name: seconds(*case) for name, case in cases.items()} for _ in range(asked.repeat)]
    least = {name: min(each[name] for each in rounds) for name in cases}
    shared = least["all, all cores"] / least["one run"]
    small = least["small, all cores"] / least["small, one process"]
    print(f"least of {asked.repeat}, {cores()} cores, {asked.replications} replications")
    for name, spent in least.items():
        print(f"{name:<20} {spent:>6.2f} s {spent / least['one run']:>6.2f}")
    print(f"all cores over one run: {shared:.2f} (goal 1.6); small: {small:.2f} (goal 1.05)")
    return 0 if shared <= 1.6 and small <= 1.05 else 1


if __name__ == "__main__":
    sys.exit(main())
