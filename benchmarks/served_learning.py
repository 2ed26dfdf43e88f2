"""What ``kvsim calibrate served`` learns of one load, and how well that predicts the others.

    python benchmarks/served_learning.py [--data FOLDER]

FOLDER holds ``reference/served``; the default is $KVSIM_DATA. Qwen3-14B under vLLM 0.23.0 on an
H100 was measured at five loads, request by request. The terms are learned from half of the first
(`LEARNED_FROM`); its other half and the four other loads say how well they predict. Loads at the
client's cap of requests in flight are simulated as what they were, a closed loop. Prints the
learned terms and a table in Markdown for docs/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reference_data import parsed, parser

from kvsim.calibrate.served.learn import LearnedServer, learn_served
from kvsim.calibrate.served.replay import METRICS, measured, replaying
from kvsim.calibrate.served.requests import ServedRequests, read_served_requests
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.workload.spec import parse_workload

PREFIX = "qwen3-14b_h100_vllm0.23.0_"
LEARNED_FROM = "sweep_rate_agg_4rps"
LOADS = {
    "sweep_rate_agg_4rps": "4 requests/s",
    "sweep_tenants_3T_agg_6rps": "6 requests/s, three tenants",
    "sweep_rate_agg_8rps": "8 requests/s",
    "w5_sweep_agg18": "256 clients",
    "w7_sweep_agg18": "256 clients, long and short prompts",
}
CAP = 256  # requests in flight, at most, of the client
_PAIRS_EVERY = 10  # lengths of a closed loop are drawn from every tenth request
ENGINE = {
    "name": "vllm",
    "version": "0.23.0",
    "max_model_len": 40960,
    "max_num_seqs": CAP,
    "max_num_batched_tokens": 8192,
    "num_gpu_blocks_override": 18038,  # as the server printed
}


@dataclass(frozen=True, slots=True)
class Load:
    """How far means of a load are off, percent, by metric: with the shipped card, and learned."""

    name: str
    requests: int
    before: dict[str, float]
    after: dict[str, float]


def scenario() -> Scenario:
    """What served; the workload is not looked at."""
    lengths = {"kind": "fixed", "tokens": 1000}
    workload = {
        "arrivals": {"kind": "constant", "rate": 1.0},
        "lengths": {"prompt": lengths, "output": lengths},
        "requests": 1,
    }
    return Scenario.model_validate(
        {"model": "qwen3-14b", "accelerator": "h100", "engine": ENGINE, "workload": workload}
    )


def learned(folder: Path) -> LearnedServer:
    """Learn from the first load."""
    return learn_served(folder / f"{PREFIX}{LEARNED_FROM}.csv.gz", scenario())


def others(folder: Path, found: LearnedServer) -> Iterator[Load]:
    """Predict the loads that nothing was learned from."""
    for name in LOADS:
        if name == LEARNED_FROM:
            continue
        requests = read_served_requests(folder / f"{PREFIX}{name}.csv.gz")
        cards = (found.server.accelerator, found.profile)
        yield Load(name, len(requests), *(mean_errors(requests, card) for card in cards))


def mean_errors(requests: ServedRequests, card: AcceleratorProfile) -> dict[str, float]:
    """How far the means of a load are off on a card, percent."""
    theirs = measured(requests)
    if int(requests.in_flight.max()) >= CAP:
        ours = _closed_loop(requests, card)
    else:
        with replaying(requests, scenario(), card) as replay:
            ours = replay.latencies(card)
    means = {name: (np.nanmean(ours[name]), np.nanmean(theirs[name])) for name in METRICS}
    return {name: float(100 * (mine / real - 1)) for name, (mine, real) in means.items()}


def _closed_loop(
    requests: ServedRequests, card: AcceleratorProfile
) -> dict[str, np.typing.NDArray[np.float64]]:
    """Latencies of as many clients as the cap, with the lengths of the load."""
    lengths = np.column_stack([requests.prompt_tokens, requests.output_tokens])[::_PAIRS_EVERY]
    workload = parse_workload(
        {
            "arrivals": {"kind": "closed_loop", "clients": CAP},
            "lengths": {"kind": "pairs", "pairs": lengths.tolist()},
            "requests": min(len(requests), 8000),
        }
    )
    asked = scenario().model_copy(update={"workload": workload})
    return run_setup(prepare(asked, accelerator=card), 0).latencies


def table(found: LearnedServer, loads: list[Load]) -> Iterator[str]:
    """The rows of docs/accuracy.md."""
    yield (
        "| load | requests | fitted, before: TTFT, TPOT, E2E | fitted, after | not fitted, before |"
        " not fitted, after |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    cells = [
        _cell({name: error.mean_percent for name, error in errors[part].items() if error})
        for part in ("fitted", "not_fitted")
        for errors in (found.before, found.after)
    ]
    parts = f"{found.parts.fitted.sum():,} + {found.parts.judged.sum():,}"
    yield f"| {LOADS[LEARNED_FROM]} | {parts} | {' | '.join(cells)} |"
    for load in loads:
        errors = f"{_cell(load.before)} | {_cell(load.after)}"
        yield f"| {LOADS[load.name]} | {load.requests:,} | - | - | {errors} |"


def _cell(errors: dict[str, float]) -> str:
    return ", ".join(f"{errors[name]:+.1f}" for name in METRICS) + " %"


def main() -> None:
    folder = parsed(parser(__doc__)).data / "reference" / "served"
    found = learned(folder)
    for term in found.terms:
        told = f"+- {term.deviation:.2g}" if term.identified else f"not identified: {term.reason}"
        print(f"{term.name:17}{term.before:>10.4g} -> {term.after:.4g} {term.unit}  {told}")
    print()
    print("\n".join(table(found, list(others(folder, found)))))


if __name__ == "__main__":
    main()
