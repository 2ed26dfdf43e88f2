"""How many requests per second the simulator answers, beside its plain oracle and DynoSim.

    PYTHONPATH=.:benchmarks python benchmarks/simulator_speed.py [--requests 10000 100000]

Everything is timed in one run on one core in user CPU time, kvsim and DynoSim in turn, the best of
the repeats, statistics included for kvsim. DynoSim (the package ``ai-dynamo-runtime``) is timed
where it can be imported, with the same blocks, batch cap and token budget; its own timing model
decides how long its steps are, so the two simulate the same requests on different clocks. The
oracle is ``tests/oracle``: one loop per step, one object per sequence, timed on a few hundred
requests because it is slow. Recorded traces are read from the folder ``KVSIM_DATA``.

The cases and their goals are in ``speed_cases.py``. A goal is met, missed, or lost, where DynoSim
is the faster of the two. Two more tables follow:

processes          ``kvsim simulate`` from the command line, and DynoSim from a script's
chunked prompts    what the prefix cache adds to prompts that are computed in hundreds of steps
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from unittest import mock

from speed_cases import CASES, Case, Generated
from speed_rivals import dynosim, dynosim_run, oracle_run

from kvsim import load_scenario, simulate

ROOT = Path(__file__).resolve().parent.parent
ORACLE_REQUESTS = 300
PROCESS_GOAL, CHUNKS_GOAL = 1.4, 2.0

_DYNOSIM_PROCESS = """
from dynamo._core import run_mocker_synthetic_trace_replay
run_mocker_synthetic_trace_replay(
    512, 128, 10_000, request_rate=4.0, capture_planner_details=False,
    extra_engine_args={"engine": {
        "backend": "vllm", "num_gpu_blocks": 3699, "block_size": 16, "max_num_seqs": 256,
        "max_num_batched_tokens": 2048, "enable_prefix_caching": False}})
"""


def least_seconds(
    runs: Sequence[Callable[[], object]], repeat: int, who: int = resource.RUSAGE_SELF
) -> list[float]:
    """User CPU seconds of each, run in turn, the best of `repeat`."""
    least = [float("inf")] * len(runs)
    for _ in range(repeat):
        for at, run in enumerate(runs):
            start = resource.getrusage(who).ru_utime
            run()
            least[at] = min(least[at], resource.getrusage(who).ru_utime - start)
    return least


def verdict(ratio: float, goal: float, even: float = 1.0) -> str:
    """What became of a goal."""
    if ratio >= goal:
        return "met"
    return "missed" if ratio >= even else "lost"


def print_case(case: Case, wanted: int, repeat: int, core: ModuleType | None, folder: Path) -> None:
    """Time one case at one size, and print its row."""
    scenario = case.scenario_of(wanted, folder)
    summary = simulate(scenario).summary
    requests = int(str(summary["completed"]))
    runs: list[Callable[[], object]] = [lambda: simulate(case.scenario_of(wanted, folder)).summary]
    if core and case.rival_runs_it:
        runs.append(lambda: dynosim_run(core, case, wanted, folder))
    seconds = least_seconds(runs, repeat)
    ours, stepped, theirs, ratio = requests / seconds[0], "-", "-", "-"
    became = ""
    if case.steps_oracle:
        (slow,) = least_seconds([lambda: oracle_run(case, ORACLE_REQUESTS, folder)], 1)
        stepped = f"{ORACLE_REQUESTS / slow:,.0f}"
    if len(seconds) > 1:
        times = seconds[1] / seconds[0]
        theirs, ratio, became = (
            f"{requests / seconds[1]:,.0f}",
            f"{times:.2f}",
            verdict(times, case.goal),
        )
    elif not case.rival_runs_it:
        became = verdict(ours, case.goal, case.goal)
    goal = f"{case.goal:g}" if case.rival_runs_it else f"{case.goal:,}/s"
    preempted = int(str(summary["preemptions"])) / requests
    print(f"| {case.name} | {requests:,} | {preempted:.1%} | {ours:,.0f} | {stepped} | {theirs}"
          f" | {ratio} | {goal} | {became} |", flush=True)  # fmt: skip


def print_processes(repeat: int, core: ModuleType | None) -> None:
    """Time whole processes, from the first import to the last line."""
    ours = [sys.executable, "-m", "kvsim", "simulate", "peer-w"]
    theirs = [sys.executable, "-c", _DYNOSIM_PROCESS]
    commands = [ours, theirs] if core else [ours]
    runs = [lambda words=words: _run_quietly(words) for words in commands]
    seconds = least_seconds(runs, repeat, resource.RUSAGE_CHILDREN)
    print("\n| process | kvsim | DynoSim | kvsim / DynoSim | goal | |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    if core:
        times = seconds[1] / seconds[0]
        print(f"| `kvsim simulate peer-w` | {seconds[0]:.2f} s | {seconds[1]:.2f} s | {times:.2f}"
              f" | {PROCESS_GOAL} | {verdict(times, PROCESS_GOAL)} |")  # fmt: skip
    else:
        print(f"| `kvsim simulate peer-w` | {seconds[0]:.2f} s | - | - | {PROCESS_GOAL} | |")


def _run_quietly(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def print_chunks(repeat: int) -> None:
    """Time prompts that are computed in hundreds of chunks, with the prefix cache and without."""
    keys = {
        **Generated(120_000, 16, 0.001).keys(), "workload.requests": 50, "max_model_len": 131_072,
        "max_num_batched_tokens": 512, "num_gpu_blocks_override": 20_000,
    }  # fmt: skip

    def run(cached: bool) -> object:
        scenario = load_scenario("peer-w", {**keys, "enable_prefix_caching": cached})
        return simulate(scenario).summary

    cached, plain = least_seconds([lambda: run(True), lambda: run(False)], repeat)
    print(
        "\n| 50 prompts of 120,000 tokens, in chunks of 512 | cache on | off | on / off | goal | |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    became = "met" if cached / plain <= CHUNKS_GOAL else "missed"
    print(f"| seconds | {cached:.2f} | {plain:.2f} | {cached / plain:.2f} | at most"
          f" {CHUNKS_GOAL:g} | {became} |")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="cases with this in their name")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    # the longest of WEKA's prompts go beyond what the model was trained for
    with mock.patch.dict(os.environ, {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}):
        print_all(arguments)


def print_all(arguments: argparse.Namespace) -> None:
    """Time what was asked for, and print it."""
    core = dynosim()
    if core is None:
        print("DynoSim is not installed (pip install ai-dynamo-runtime): its column is empty")
    print(f"Python {sys.version.split()[0]}; requests per second of user CPU time\n")
    print("| case | requests | preempted | kvsim | stepping | DynoSim | kvsim / DynoSim | goal | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    with TemporaryDirectory() as folder:
        for case in CASES:
            if arguments.only not in case.name or not case.is_there:
                continue
            for requests in arguments.requests if case.takes_a_size else [0]:
                print_case(case, requests, arguments.repeat, core, Path(folder))
    if arguments.only in "processes":
        print_processes(arguments.repeat, core)
    if arguments.only in "chunked prompts":
        print_chunks(arguments.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the whole run: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
