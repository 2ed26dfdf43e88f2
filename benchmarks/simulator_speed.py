"""How many requests per second the simulator answers, beside its plain oracle and DynoSim.

    python benchmarks/simulator_speed.py [--requests 10000 100000] [--repeat 3]

Everything is timed in one run on one core, best of the repeats, statistics included for kvsim.
DynoSim (the package ``ai-dynamo-runtime``) is timed where it can be imported, with the same
blocks, batch cap and token budget; its own timing model decides how long its steps are, so the
two simulate the same requests on different clocks. The oracle is ``tests/oracle``: one loop per
step, one object per sequence, timed on a few hundred requests because it is slow.

Cases
-----
peer-w             512 + 128 tokens at 4/s: every arrival and completion is a change
overload           the same at a rate that neither simulator's engine keeps up with
pressed            a pool so small that about 3 % of requests are preempted, prefix cache on
long outputs       output length times ten: time per request must not grow
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from kvsim import load_scenario, simulate
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.workload.spec import build_workload

ROOT = Path(__file__).resolve().parent.parent
ORACLE_REQUESTS = 300


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    overrides: dict[str, object]
    rate: float
    output_tokens: int = 128
    blocks: int = 3700
    prefix_caching: bool = False


CASES = (
    Case("peer-w, 4/s", {}, 4),
    Case("peer-w, 20/s", {}, 20),
    Case("overload, 200/s", {}, 200),
    Case(
        "pressed, prefix cache on",
        {"num_gpu_blocks_override": 1200, "enable_prefix_caching": True},
        20,
        blocks=1200,
        prefix_caching=True,
    ),
    Case(
        "long outputs, 4/s",
        {"workload.lengths.output.tokens": 1280, "num_gpu_blocks_override": 37_000},
        4,
        output_tokens=1280,
        blocks=37_000,
    ),
)


def scenario_of(case: Case, requests: int) -> Scenario:
    """The case as a scenario."""
    rate = {"workload.arrivals.rate": case.rate, "workload.requests": requests}
    return load_scenario("peer-w", {**rate, **case.overrides})


def best_rate(run: Callable[[], object], requests: int, repeat: int) -> float:
    """Requests per second of CPU time, best of `repeat`."""
    least = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        run()
        least = min(least, time.process_time() - start)
    return requests / least


def kvsim_run(case: Case, requests: int) -> dict[str, object]:
    """Simulate and judge."""
    return simulate(scenario_of(case, requests)).summary


def oracle_run(case: Case) -> None:
    """Step through a few hundred requests with the plain engine of the tests."""
    oracle = importlib.import_module("oracle")
    scenario = scenario_of(case, ORACLE_REQUESTS)
    setup = prepare(scenario)
    model, options = setup.deployment.model, setup.deployment.options
    reads = KVReadCurve.from_model(model, setup.kv, setup.rank)
    blocks, block_size = setup.num_blocks, setup.curve.block_size
    oracle.ENGINES["vllm-v1"](
        oracle.NamedBlocks(blocks, block_size, int(options.async_scheduling))
        if case.prefix_caching
        else oracle.Blocks(blocks, [oracle.Group(block_size)]),
        oracle.Limits(
            options.max_num_seqs,
            options.max_num_batched_tokens,
            options.max_model_len,
            asynchronous=options.async_scheduling,
        ),
        oracle.Costs(setup.step_time, partial(prefill_pairs, model), reads.bytes_at),
        oracle.Arrivals(build_workload(scenario.workload, scenario.folder)),
    ).run()


def dynosim() -> ModuleType | None:
    """DynoSim's extension module, where it is installed."""
    try:
        return importlib.import_module("dynamo._core")
    except ImportError:
        return None


def dynosim_run(core: ModuleType, case: Case, requests: int) -> None:
    """The same requests through DynoSim."""
    engine = {
        "backend": "vllm",
        "num_gpu_blocks": case.blocks,
        "block_size": 16,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "enable_prefix_caching": case.prefix_caching,
    }
    core.run_mocker_synthetic_trace_replay(
        512,
        case.output_tokens,
        requests,
        request_rate=float(case.rate),
        extra_engine_args={"engine": engine},
        capture_planner_details=False,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    core = dynosim()
    if core is None:
        print("DynoSim is not installed (pip install ai-dynamo-runtime): its column is empty")
    print(f"Python {sys.version.split()[0]}; requests per second of CPU time\n")
    print(f"{'case':26} {'requests':>9} {'kvsim':>9} {'oracle':>8} {'DynoSim':>9} {'ratio':>6}"
          f" {'preempted':>9}")  # fmt: skip
    for case in CASES:
        for requests in arguments.requests:
            print_row(case, requests, arguments.repeat, core)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the whole run: {peak:.2f} GiB")


def print_row(case: Case, requests: int, repeat: int, core: ModuleType | None) -> None:
    """Time one case at one size."""
    summary = kvsim_run(case, requests)
    ours = best_rate(lambda: kvsim_run(case, requests), requests, repeat)
    stepped = best_rate(lambda: oracle_run(case), ORACLE_REQUESTS, 1)
    theirs = core and best_rate(lambda: dynosim_run(core, case, requests), requests, repeat)
    print(
        f"{case.name:26} {requests:>9,} {ours:>9,.0f} {stepped:>8,.0f}"
        f" {theirs or 0:>9,.0f} {ours / theirs if theirs else 0:>6.1f}"
        f" {int(str(summary['preemptions'])) / requests:>9.1%}"
    )


if __name__ == "__main__":
    main()
