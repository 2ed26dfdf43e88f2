"""Independent runs of one scenario, and what their numbers are on average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from kvsim.errors import InputError, InvariantError
from kvsim.interrupts import held, released
from kvsim.results.latencies import (
    TIME_BANDS,
    bands_record,
    grows_with_the_run,
    without_growing,
)
from kvsim.results.result import SimulationResult
from kvsim.results.statistics import Interval, confidence_interval
from kvsim.runs.copies import at_once, gather
from kvsim.runs.simulate import run_setup
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario

__all__ = ["Asked", "Replications", "mean_interval", "numbers", "replicate", "replicate_each"]


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
        Whether an interrupt came, so that no other run was begun.
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

    @property
    def time_bands(self) -> dict[str, Any]:
        """How sure the latencies are, as the summary's ``time_bands``.

        Of several whole runs the intervals are of the means over them, and hold chance as well
        as the band: see `kvsim.steptime.bands.TimeBand.around_mean`.
        """
        if len(self.whole) < 2:
            return dict(self.summary[TIME_BANDS])
        return bands_record(self.first.time_bands, self.summary, self.intervals)


def replicate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    replications: int | None = None,
    watch: Watch | None = None,
    camera: Camera | None = None,
    jobs: int | None = None,
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
        See `kvsim.simulate`; shown the runs of this process. An interrupt ends the run it falls
        in and begins no other.
    camera : Camera, optional
        Keeps frames of the first run; see `kvsim.simulator.camera`.
    jobs : int, optional
        Processes that work at once; left out, one a core, where that pays. The answer is the
        same; see `kvsim.runs.copies`.

    Raises
    ------
    InputError, UnsupportedError
        As `kvsim.simulate`, and for a number of runs or jobs below 1.
    KeyboardInterrupt
        When nothing at all was finished before it.
    """
    asked = Asked(scenario, seed=seed, replications=replications)
    found, stopped = replicate_each([asked], watch=watch, camera=camera, jobs=jobs)
    return replace(found[0], stopped=stopped)


@dataclass
class Asked:
    """A scenario that is to be run with some seeds.

    Parameters
    ----------
    scenario : Scenario
        The question.
    seed, replications
        See `replicate`.
    """

    scenario: Scenario
    seed: int | None = None
    replications: int | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise InputError(f"{self.runs} runs answer nothing", where="replications")

    @property
    def runs(self) -> int:
        """How many there are to be."""
        own = self.scenario.run.replications
        return own if self.replications is None else self.replications

    @cached_property
    def setup(self) -> Setup:
        """The scenario prepared, for all of its runs."""
        with released():
            return prepare(self.scenario)

    def run(self, place: int, watch: Watch | None, camera: Camera | None) -> SimulationResult:
        """Do one of the runs, counted from 0."""
        start = self.scenario.run.seed if self.seed is None else self.seed
        return run_setup(self.setup, start + place, watch=watch, camera=camera)


def replicate_each(
    asked: Sequence[Asked],
    *,
    watch: Watch | None = None,
    camera: Camera | None = None,
    jobs: int | None = None,
) -> tuple[list[Replications], bool]:
    """Run several scenarios, as `replicate` does one.

    Returns
    -------
    list of Replications
        In the order asked. An interrupt leaves the runs before the first that did not end, and
        what was finished of that one, if it was cut in this process.
    bool
        Whether there was an interrupt.

    Raises
    ------
    KeyboardInterrupt
        When nothing at all was finished before it.
    """
    work = _Work(asked, watch, camera)
    tasks = len(work.places)
    stopped = True
    with suppress(KeyboardInterrupt), held():  # but for the runs: one that ended is judged
        import_module("numpy.random")  # swallows an interrupt that comes meanwhile
        processes = at_once(jobs, work.requests)
        gather(work.runs, work.here, work.there, tasks=tasks, processes=processes)
        stopped = False
    ended = work.ended()
    each_ended = [(list(islice(ended, each.runs)), each.runs) for each in asked]
    found = [_together(runs, count) for runs, count in each_ended if runs]
    if not found:
        raise KeyboardInterrupt
    return found, stopped


class _Run(NamedTuple):
    """A run that ended; all of it where it is the first of its scenario."""

    summary: dict[str, Any]
    result: SimulationResult | None


def _together(runs: Sequence[_Run], asked: int) -> Replications:
    first = runs[0].result
    if first is None:
        raise InvariantError("the first run of a scenario was not kept")
    return Replications(first, tuple(run.summary for run in runs), stopped=len(runs) < asked)


@dataclass
class _Work:
    """Every run of some scenarios, numbered in order."""

    asked: Sequence[Asked]
    watch: Watch | None
    camera: Camera | None
    runs: dict[int, _Run] = field(default_factory=dict)

    @cached_property
    def places(self) -> list[tuple[Asked, int]]:
        """The scenario of each run, and which of its runs it is."""
        return [(each, place) for each in self.asked for place in range(each.runs)]

    @property
    def requests(self) -> int | None:
        """Requests of all runs together; None where a scenario does not say."""
        counts = [each.scenario.workload.limits.requests for each, _ in self.places]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def here(self, number: int) -> _Run:
        """Do one for somebody who watches; what an interrupt cuts is the last."""
        run = self._run(number, self.watch, self.camera if number == 0 else None)
        if run.summary["interrupted"]:
            self.runs[number] = run
            raise KeyboardInterrupt
        return run

    def there(self, number: int) -> _Run:
        """Do one in a copy of this process."""
        return self._run(number, None, None)

    def _run(self, number: int, watch: Watch | None, camera: Camera | None) -> _Run:
        asked, place = self.places[number]
        result = asked.run(place, watch, camera)
        return _Run(result.summary, result if place == 0 else None)

    def ended(self) -> Iterator[_Run]:
        """Yield the runs in order, up to one that was cut or did not end."""
        for number in range(len(self.places)):
            if number not in self.runs:
                return
            yield self.runs[number]
            if self.runs[number].summary["interrupted"]:
                return


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a summary by dotted key; None is a quantity without observations.

    Bands of times are not among them: they are the same in every run.
    """
    for key, value in summary.items():
        if key == TIME_BANDS:
            continue
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        elif not isinstance(value, bool):
            yield prefix + key, value


def mean_interval(samples: Sequence[float | None]) -> Interval | None:
    """Interval of what was observed; None where nothing was."""
    known = [sample for sample in samples if sample is not None]
    return confidence_interval(np.array(known, dtype=float)) if known else None
