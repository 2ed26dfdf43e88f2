"""Real vLLM runs, replayed request by request: measured beside simulated.

    python benchmarks/replay_accuracy.py [--data FOLDER] [--plot FOLDER]

FOLDER holds ``reference/gpu/llmservingsim/bench_*``; the default is $KVSIM_DATA. Each run is
simulated from what was known before it started: model, card, release, flags, arrivals and
lengths. Where the run's own files tell its pool (vLLM's ``num_gpu_blocks``, or the usage that it
printed), it is simulated a second time with that pool, as ``--num-gpu-blocks-override`` would
set it: that separates an error in capacity from one in time. A table at the end sets both side
by side. Nothing here was fitted on these runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from bench_runs import (
    BenchRun,
    Floats,
    bench_runs,
    latencies_of,
    own_pool,
    scenario_of,
    series_lag_seconds,
    shared_block_ids,
    write_trace,
)
from numpy.typing import NDArray
from reference_data import parsed, parser
from replay_figure import SeriesPair, replay_figure

from kvsim.errors import UnsupportedError
from kvsim.figures import html_page
from kvsim.results.result import SimulationResult
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import FrontEnd
from kvsim.steptime.model import StepTimeModel

Ints = NDArray[np.intp]

GOAL_PERCENT = 5.0
GOAL_POINTS = 3.0
GOALS = ("ttft", "tpot", "e2el")
POOLS = {
    "rules": "predicted before the run",
    "recorded": "recorded by the run itself",
    "read": "read off the run's KV usage",
}
STATISTICS: dict[str, Callable[[Floats], float]] = {
    "mean": lambda values: float(np.nanmean(values)),
    "median": lambda values: float(np.nanmedian(values)),
    "p99": lambda values: float(np.nanpercentile(values, 99)),
}


@dataclass(frozen=True)
class Replay:
    """A run beside its simulation.

    Parameters
    ----------
    run : BenchRun
        What was measured.
    result : SimulationResult
        What was simulated.
    pool : str
        Where the size of the pool comes from, a key of `POOLS`.
    shares_prefixes : bool
        Whether the contents of the prompts were known.
    """

    run: BenchRun
    result: SimulationResult
    pool: str
    shares_prefixes: bool

    @cached_property
    def simulated(self) -> dict[str, Floats]:
        """Latencies of every simulated request, seconds."""
        columns = self.result.columns
        moments = ("arrival", "scheduled", "first_token", "finish")
        tokens = columns["output_tokens"]
        return latencies_of(*(columns[f"{at}_seconds"] for at in moments), output_tokens=tokens)

    @cached_property
    def measured(self) -> dict[str, Floats]:
        """Latencies of every measured request, seconds."""
        return self.run.latencies()

    def error_percent(self, latency: str, statistic: str = "mean") -> float:
        """How far a statistic of a latency is off, percent; too long is positive."""
        of = STATISTICS[statistic]
        return 100 * (of(self.simulated[latency]) / of(self.measured[latency]) - 1)

    @cached_property
    def moments(self) -> Floats:
        """Seconds from the first arrival at which the series was sampled."""
        return self.run.series["t"] - series_lag_seconds(self.run)

    @cached_property
    def pairs(self) -> list[SeriesPair]:
        """What the series holds: KV usage, running and waiting."""
        series, steps = self.run.series, Steps.of(self.result)
        waiting = steps.waiting(self.moments)
        columns = self.result.columns
        arrived = _count_until(columns["arrival_seconds"], self.moments)
        running = arrived - waiting - _count_until(columns["finish_seconds"], self.moments)
        pairs = [
            SeriesPair("running", "requests", series["running"].tolist(), running.tolist()),
            SeriesPair("waiting", "requests", series["waiting"].tolist(), waiting.tolist()),
        ]
        return [self._usage(steps), *pairs]

    def _usage(self, steps: Steps) -> SeriesPair:
        """KV usage as recorded; where the recorder wrote zeros, rebuilt from timestamps.

        Rebuilt usage is right for a run without preemptions, and is made the same way on
        both sides: tokens of the requests between their first and last token.
        """
        run, slots = self.run, self.result.setup.pool_slots
        if run.series["kv_cache_pct"].any():
            usage = 100 * steps.held_slots(self.moments) / slots
            return SeriesPair("KV usage", "%", run.series["kv_cache_pct"].tolist(), usage.tolist())
        theirs = tokens_in_flight(
            (run.requests["first_token_s"], run.requests["last_token_s"]),
            (run.requests["input_toks"], run.requests["output_toks"]),
            self.moments,
        )
        columns = self.result.columns
        ours = tokens_in_flight(
            (columns["first_token_seconds"], columns["finish_seconds"]),
            (columns["prompt_tokens"], columns["output_tokens"]),
            self.moments,
        )
        measured, simulated = (100 * tokens / slots for tokens in (theirs, ours))
        return SeriesPair("KV rebuilt", "%", measured.tolist(), simulated.tolist())

    @property
    def usage(self) -> SeriesPair:
        """KV usage, recorded or rebuilt."""
        return self.pairs[0]


@dataclass(frozen=True)
class Steps:
    """The simulated steps, to be asked about any moment; before and after them all is idle."""

    columns: dict[str, Floats]

    @classmethod
    def of(cls, result: SimulationResult) -> Steps:
        """Take the steps of a result."""
        return cls(result.recording.recorder.step_columns())

    def held_slots(self, moments: Floats) -> Floats:
        """Token slots held; blocks open evenly within a run of steps."""
        at, share = self._at(moments)
        columns = self.columns
        held = columns["held_slots"][at] + share * columns["grown_slots"][at]
        return np.where(self._busy(moments, at), held, 0.0)

    def waiting(self, moments: Floats) -> Floats:
        """Requests in the queue."""
        at, _ = self._at(moments)
        return np.where(self._busy(moments, at), self.columns["waiting"][at], 0.0)

    def _at(self, moments: Floats) -> tuple[Ints, Floats]:
        """Run of steps that each moment falls into, and the share of it that is over."""
        starts, seconds = self.columns["start_seconds"], self.columns["seconds"]
        at = np.maximum(np.searchsorted(starts, moments, side="right") - 1, 0)
        return at, np.clip((moments - starts[at]) / seconds[at], 0.0, 1.0)

    def _busy(self, moments: Floats, at: Ints) -> NDArray[np.bool_]:
        starts, seconds = self.columns["start_seconds"], self.columns["seconds"]
        return np.asarray((moments >= starts[0]) & (moments <= starts[at] + seconds[at]))


def tokens_in_flight(
    spans: tuple[Floats, Floats], lengths: tuple[Floats, Floats], moments: Floats
) -> Floats:
    """Cached tokens of the requests that decode at each moment; outputs grow evenly.

    Parameters
    ----------
    spans : pair of float array (requests,)
        First and last token of every request, seconds.
    lengths : pair of float array (requests,)
        Prompt and output tokens.
    moments : float array (moments,)
        Seconds.

    Examples
    --------
    >>> first, last, prompt, output = (np.array([number]) for number in (1.0, 3.0, 10.0, 5.0))
    >>> tokens_in_flight((first, last), (prompt, output), np.array([0.0, 1.0, 2.0, 3.0]))
    array([ 0., 10., 12.,  0.])
    """
    (first, last), (prompt, output) = spans, lengths
    at = moments[:, np.newaxis]
    decoding = (first <= at) & (at < last)
    progress = (at - first) / np.maximum(last - first, 1e-9)
    return np.asarray(np.sum(decoding * (prompt + progress * (output - 1)), axis=1))


def _count_until(seconds: Floats, moments: Floats) -> Floats:
    return np.searchsorted(np.sort(seconds), moments, side="right").astype(np.float64)


def engine_alone(scenario: Scenario) -> SimulationResult:
    """Simulate without a front end: the recorders stood inside the engine."""
    setup = prepare(scenario)
    steps = setup.step_time
    assert isinstance(steps, StepTimeModel)
    host = steps.host.model_copy(update={"front_end": FrontEnd()})
    return run_setup(replace(setup, step_time=replace(steps, host=host)), scenario.run.seed)


def replay(run: BenchRun, data: Path, num_blocks: int | None = None, pool: str = "rules") -> Replay:
    """Simulate a run.

    Parameters
    ----------
    run : BenchRun
        The run.
    data : Path
        Reference folder, for what the prompts contain.
    num_blocks : int, optional
        Pool to use in place of the one that the engine's rules predict.
    pool : str
        Where that pool comes from, a key of `POOLS`.

    Raises
    ------
    UnsupportedError
        As `bench_runs.scenario_of`.
    """
    ids = shared_block_ids(run, data)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "run.jsonl"
        write_trace(run, ids, trace)
        result = engine_alone(scenario_of(run, trace, num_blocks))
    return Replay(run, result, pool, ids is not None)


# ---- the report ------------------------------------------------------------------------------


def lines(replayed: Replay) -> Iterator[str]:
    """Say how a replay compares."""
    run, result = replayed.run, replayed.result
    options = result.setup.deployment.options
    yield (
        f"\n{run.name}, vLLM {run.version}, {len(run.requests['arrival_s'])} requests,"
        f" max_num_seqs {options.max_num_seqs}"
    )
    contents = "known" if replayed.shares_prefixes else "unknown: nothing is shared"
    yield (
        f"  pool {result.setup.num_blocks:,} blocks, {POOLS[replayed.pool]};"
        f" prompts' contents {contents}"
    )
    yield f"  {'':16}{'measured':>12}{'simulated':>12}{'error':>9}"
    yield from _latency_lines(replayed)
    for pair in replayed.pairs:
        yield (
            f"  {pair.name:16}differs by {pair.mean_difference:.2f} {pair.unit} on average,"
            f" {pair.largest_difference:.1f} at most, over {len(pair.measured)} seconds"
        )
    if replayed.usage.name == "KV rebuilt":
        yield "  KV rebuilt      from timestamps on both sides: the recorder wrote 0 in every row"
    prefix = result.summary["prefix_cache"]
    yield (
        f"  preemptions     {result.summary['preemptions']} simulated, not recorded by the run;"
        f" prefix hits {100 * prefix['hits'] / prefix['queries']:.1f} % of"
        f" {prefix['queries']:,} tokens, also not recorded"
    )
    yield "  goals           " + ", ".join(_goals(replayed))


def _latency_lines(replayed: Replay) -> Iterator[str]:
    for latency, values in replayed.measured.items():
        unit, scale = ("ms", 1e3) if latency in ("tpot", "prefill") else ("s", 1.0)
        for name, statistic in STATISTICS.items():
            measured = scale * statistic(values)
            simulated = scale * statistic(replayed.simulated[latency])
            error = replayed.error_percent(latency, name)
            label = f"{name} {latency} ({unit})"
            yield f"  {label:16}{measured:12.2f}{simulated:12.2f}{error:+8.1f}%"


def _goals(replayed: Replay) -> Iterator[str]:
    for latency in GOALS:
        error = replayed.error_percent(latency)
        verdict = "met" if abs(error) <= GOAL_PERCENT else "MISSED"
        yield f"mean {latency} within {GOAL_PERCENT:g} % {verdict}"
    usage = replayed.usage
    verdict = "met" if usage.mean_difference <= GOAL_POINTS else "MISSED"
    yield f"{usage.name} within {GOAL_POINTS:g} points on average {verdict}"


def write_plot(replayed: Replay, folder: Path) -> Path:
    """Write the series as a self-contained HTML page; return its path."""
    run, pool = replayed.run, replayed.pool
    name = f"replay-{run.name.replace(' ', '-').lower()}-{pool}"
    title = f"{run.name}, vLLM {run.version}: pool {POOLS[pool]}"
    moments = replayed.moments.tolist()
    figure = replay_figure(moments, replayed.pairs, name=name, title=title)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.html"
    path.write_text(html_page(figure.title, [figure]), encoding="utf-8")
    return path


def replays(data: Path) -> Iterator[Replay]:
    """Simulate every run by the rules, and once more where its own pool is known."""
    for run in bench_runs(data):
        try:
            yield replay(run, data)
        except UnsupportedError as error:
            print(f"\nleft out: {error}", file=sys.stderr)
            continue
        own = own_pool(run)
        if own is not None:
            yield replay(run, data, *own)


def side_by_side(found: list[Replay]) -> Iterator[str]:
    """Set every run's two pools beside each other: error of each goal's quantity."""
    heads = "".join(f"{head:>9}" for head in ("blocks", "TTFT", "TPOT", "E2E"))
    yield f"\n{'off by':34}{'pool':>10}{heads}{'KV usage':>12}"
    for each in found:
        cells = "".join(f"{each.error_percent(latency):+8.1f}%" for latency in GOALS)
        usage = f"{each.usage.mean_difference:.2f} points"
        blocks = each.result.setup.num_blocks
        yield f"{each.run.name:34}{each.pool:>10}{blocks:9,}{cells}{usage:>12}  {_verdict(each)}"


def _verdict(replayed: Replay) -> str:
    """Say whether all goals are met, or which are not."""
    missed = [name for name in GOALS if abs(replayed.error_percent(name)) > GOAL_PERCENT]
    missed += ["usage"] * (replayed.usage.mean_difference > GOAL_POINTS)
    return f"missed: {', '.join(missed)}" if missed else "all goals met"


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--plot", type=Path, help="write one HTML page per replay into this folder"
    )
    chosen = parsed(options)
    found = []
    for replayed in replays(chosen.data):
        found.append(replayed)
        print("\n".join(lines(replayed)))
        if chosen.plot:
            print(f"  plot            {write_plot(replayed, chosen.plot)}")
    print("\n".join(side_by_side(found)))


if __name__ == "__main__":
    main()
