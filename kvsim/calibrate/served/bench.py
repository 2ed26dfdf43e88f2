"""A ``vllm bench serve`` result beside a scenario's prediction of the same requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.calibrate.pairs import Pair, latency_keys, pairs_of
from kvsim.errors import InputError
from kvsim.readers.json_file import read_json_object
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.files import MAX_RESULT_BYTES
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.numbers import FINITE, finite, shown
from kvsim.workload.spec import parse_workload

__all__ = ["BenchComparison", "compare_bench", "read_bench_result"]

_KEYS = (
    "completed",
    "duration",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    *latency_keys("ttft", "tpot", "itl", "e2el"),
)


@dataclass(frozen=True, slots=True)
class BenchComparison:
    """A result file beside a prediction.

    Parameters
    ----------
    path : Path
        The result file.
    replayed : bool
        Whether its very requests were simulated (it holds their lengths and start times);
        else the scenario's own workload was.
    pairs : tuple of Pair
        Keys that both have.
    """

    path: Path
    replayed: bool
    pairs: tuple[Pair, ...]

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "kind": "kvsim-bench-comparison",
            "file": self.path.name,
            "replayed": self.replayed,
            "pairs": [pair.record() for pair in self.pairs],
        }


def read_bench_result(path: Path) -> dict[str, Any]:
    """Read the JSON that ``vllm bench serve --save-result`` writes.

    Raises
    ------
    InputError
        When it cannot be read, is not such a result, or a metric is no finite number of 0 or
        more.
    """
    result = read_json_object(path, max_bytes=MAX_RESULT_BYTES)
    if not any(key in result for key in _KEYS):
        raise InputError(
            "no result of vllm bench serve",
            where=str(path),
            fix="run it with --save-result (--save-detailed to replay its requests)",
        )
    return {**result, **{key: _metric(path, key, result[key]) for key in _KEYS if key in result}}


def _metric(path: Path, key: str, value: object) -> float | None:
    """Read one number of the result; what was not measured is null."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            raise ValueError(FINITE)
        number = finite(value)
        if number < 0:
            raise ValueError("should be at least 0")
    except ValueError as error:
        raise InputError(
            f"{key} = {shown(value)}: {error}",
            where=str(path),
            fix="take the file as vllm bench serve wrote it",
        ) from None
    return number


def compare_bench(
    path: Path,
    scenario: Scenario,
    seed: int | None = None,
    *,
    accelerator: AcceleratorProfile | None = None,
) -> BenchComparison:
    """Simulate a result's requests, or the scenario's own where it lists none, and compare.

    Parameters
    ----------
    path : Path
        The result file.
    scenario : Scenario
        What served.
    seed : int, optional
        The scenario's own when left out.
    accelerator : AcceleratorProfile, optional
        In place of the one that the scenario names.

    Raises
    ------
    InputError
        As `read_bench_result`, and as the simulation of the scenario.
    """
    result = read_bench_result(path)
    replayed = bool(result.get("start_times")) and bool(result.get("input_lens"))
    if replayed:
        trace = {"trace": {"file": str(path.resolve()), "format": "vllm-bench"}}
        scenario = scenario.model_copy(update={"workload": parse_workload(trace)})
    setup = prepare(scenario, accelerator=accelerator)
    run = run_setup(setup, scenario.run.seed if seed is None else seed)
    predicted = run.observed if replayed else run.summary
    return BenchComparison(path, replayed, pairs_of(predicted, result, _KEYS))
