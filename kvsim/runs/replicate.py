"""Independent runs of one scenario, and what their numbers are on average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.interrupts import held, released
from kvsim.results.result import SimulationResult, grows_with_the_run, without_growing
from kvsim.results.statistics import Interval, confidence_interval
from kvsim.runs.simulate import run_setup
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario

__all__ = ["Replications", "mean_interval", "numbers", "replicate"]


@dataclass(frozen=True)
class Replications:
    """Independent runs of one scenario.

    Parameters
    ----------
    first : SimulationResult
        The run with the scenario's own seed, in full.
    summaries : tuple of dict
        Every run's summary; seeds count up from the first.
    stopped : bool
        Whether an interrupt fell between two runs, so that the rest were never begun.
    """

    first: SimulationResult
    summaries: tuple[dict[str, Any], ...]
    stopped: bool = False

    @property
    def summary(self) -> dict[str, Any]:
        """The first run's summary; if any run was saturated, as that of a saturated one."""
        first = self.summaries[0]
        return without_growing(first) if self.saturated else first

    @property
    def interrupted(self) -> bool:
        """Whether the last run was cut short, or the rest were never begun."""
        return self.stopped or bool(self.summaries[-1]["interrupted"])

    @property
    def whole(self) -> tuple[dict[str, Any], ...]:
        """Summaries of the runs that came to their end."""
        return tuple(summary for summary in self.summaries if not summary["interrupted"])

    @property
    def saturated(self) -> bool:
        """Whether any run was past saturation."""
        return any(summary["saturated"] for summary in self.summaries)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader of the numbers must know first."""
        return (*self.first.setup.warnings, *self._cautions())

    def _cautions(self) -> Iterator[str]:
        """Say what the runs themselves showed."""
        summary = self.summary
        if self.saturated:
            yield (
                "saturated: requests came faster than they could be served, so TTFT, E2E and"
                " queue grow for as long as the run goes on; no mean of them is printed"
            )
        if summary["rejected"]:
            yield (
                f"{summary['rejected']:,} requests rejected at arrival: longer than max_model_len"
                " or than the whole pool holds"
            )
        if not summary["completed"]:
            yield "no request was completed"
        if summary["unfinished"] and not summary["interrupted"]:
            yield self._cut(summary)
        if summary["interrupted"]:
            yield "interrupted: these are the requests that were finished"
        elif self.interrupted:
            count = len(self.whole)
            whole = "1 whole run" if count == 1 else f"{count} whole runs"
            yield f"interrupted: intervals are over the {whole}"

    def _cut(self, summary: Mapping[str, Any]) -> str:
        """Say what run.max_seconds left out; latencies are of what was seen before it."""
        scenario = self.first.setup.scenario
        left = f"{summary['unfinished']:,} requests unfinished"
        asked = scenario.workload.requests
        came = summary["completed"] + summary["rejected"] + summary["unfinished"]
        if asked is not None and asked > came:
            left += f" and {asked - came:,} not yet there"
        where = scenario.where("run.max_seconds", short=True)
        return f"{where} cut the run: {summary['completed']:,} requests finished, {left}"

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and 95 % interval of every number of the summary, by dotted key.

        Of the runs that came to their end, if there is one: a run that was cut answers a
        shorter question. What grows with a saturated run has no mean.
        """
        rows = [dict(numbers(summary)) for summary in self.whole or self.summaries]
        keys = [key for key in rows[0] if not (self.saturated and grows_with_the_run(key))]
        samples = {key: [row.get(key) for row in rows] for key in keys}
        return {key: found for key in keys if (found := mean_interval(samples[key])) is not None}


def replicate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    replications: int | None = None,
    watch: Watch | None = None,
    camera: Camera | None = None,
) -> Replications:
    """Run a scenario several times with seeds that count up.

    Parameters
    ----------
    scenario : Scenario
        The question.
    seed : int, optional
        Seed of the first run; the scenario's own when left out.
    replications : int, optional
        Number of runs; the scenario's own when left out.
    watch : callable, optional
        See `kvsim.simulate`. An interrupt ends the run it falls in and begins no other.
    camera : Camera, optional
        Keeps frames of the first run; see `kvsim.simulator.camera`.

    Raises
    ------
    InputError, UnsupportedError
        As `kvsim.simulate`, and for a number of runs below 1.
    KeyboardInterrupt
        When nothing at all was finished before it.
    """
    runs = scenario.run.replications if replications is None else replications
    if runs < 1:
        raise InputError(f"{runs} runs answer nothing", where="replications")
    with released():
        setup = prepare(scenario)
    start = scenario.run.seed if seed is None else seed
    first: SimulationResult | None = None
    summaries: list[dict[str, Any]] = []
    stopped = False
    try:
        with held():  # but for the runs themselves: one that ended is judged whatever comes
            while len(summaries) < runs and not (summaries and summaries[-1]["interrupted"]):
                kept = camera if first is None else None
                result = run_setup(setup, start + len(summaries), watch=watch, camera=kept)
                summaries.append(result.summary)
                first = first or result
    except KeyboardInterrupt:  # between two runs: those before it are whole
        stopped = True
    if first is None:
        raise KeyboardInterrupt
    return Replications(first, tuple(summaries), stopped)


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a summary by dotted key; None is a quantity without observations."""
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        elif not isinstance(value, bool):
            yield prefix + key, value


def mean_interval(samples: Sequence[float | None]) -> Interval | None:
    """Interval of what was observed; None where nothing was."""
    known = [sample for sample in samples if sample is not None]
    return confidence_interval(np.array(known, dtype=float)) if known else None
