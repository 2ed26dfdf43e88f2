"""A ``vllm bench serve`` result beside a scenario's prediction of the same requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.calibrate.pairs import Pair, latency_keys, pairs_of
from kvsim.catalog.models import find_model
from kvsim.errors import InputError, KVSimError
from kvsim.readers.json_file import read_json_object
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.files import MAX_RESULT_BYTES
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.numbers import FINITE, finite, shown
from kvsim.workload.spec import parse_workload

__all__ = ["BenchComparison", "compare_bench", "read_bench_result"]

_LISTS = ("start_times", "input_lens")  # what its requests are replayed from
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
    setup : Setup
        What was simulated.
    warnings : tuple of str
        Why the two sides may not be alike.
    """

    path: Path
    replayed: bool
    pairs: tuple[Pair, ...]
    setup: Setup
    warnings: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "kind": "kvsim-bench-comparison",
            "file": self.path.name,
            "scenario": self.setup.scenario.name,
            "model": self.setup.deployment.model.name,
            "accelerator": self.setup.deployment.accelerator.name,
            "replayed": self.replayed,
            "warnings": list(self.warnings),
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
    missing = [key for key in _LISTS if not result.get(key)]
    replayed = not missing
    if replayed:
        trace = {"trace": {"file": str(path.resolve()), "format": "vllm-bench"}}
        scenario = scenario.model_copy(update={"workload": parse_workload(trace)})
    setup = prepare(scenario, accelerator=accelerator)
    run = run_setup(setup, scenario.run.seed if seed is None else seed)
    predicted = run.observed if replayed else run.summary
    unlike = [] if replayed else [*_unlike_load(result, scenario, predicted, missing)]
    warnings = (*setup.warnings, *_unlike_model(result, setup), *unlike)
    return BenchComparison(path, replayed, pairs_of(predicted, result, _KEYS), setup, warnings)


def _unlike_model(result: Mapping[str, Any], setup: Setup) -> Iterator[str]:
    """Say where the result names a model of the catalogue, and it is another."""
    model_id = result.get("model_id")
    if not isinstance(model_id, str):
        return
    try:
        served = find_model(model_id).name
    except KVSimError:  # a folder of the server's, a name of its owner's
        return
    simulated = setup.deployment.model.name
    if served != simulated:
        yield f"the result is of {served} (model_id {shown(model_id)}), simulated is {simulated}"


def _unlike_load(
    result: Mapping[str, Any], scenario: Scenario, predicted: Mapping[str, Any], missing: list[str]
) -> Iterator[str]:
    """Say where the scenario's own requests are more, or come otherwise, than the result's."""
    yield (
        f"the result has no {' and no '.join(missing)}, so the scenario's own requests were"
        " simulated; vllm bench serve --save-detailed writes them"
    )
    sent, came = result.get("completed"), predicted["completed"]
    if sent is not None and sent != came:
        yield f"{came:,} requests were simulated, {sent:,.0f} measured: set workload.requests"
    rate = getattr(scenario.workload.arrivals, "rate", None)
    try:
        asked = float(result.get("request_rate", ""))  # "inf": all at once
    except (TypeError, ValueError, OverflowError):
        return
    if rate is not None and abs(asked - rate) > 0.01 * rate:
        yield f"the scenario sends {rate:g} requests/s, the benchmark {asked:g}"
