"""Independent runs of one scenario, and what their numbers are on average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kvsim.errors import InputError, InvariantError
from kvsim.interrupts import held, released
from kvsim.results.result import SimulationResult, grows_with_the_run, without_growing
from kvsim.results.statistics import Interval, confidence_interval
from kvsim.runs.crew import Job, Jobs, crew_for, gathered
from kvsim.runs.simulate import run_setup
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario

__all__ = [
    "Question",
    "Replications",
    "mean_interval",
    "numbers",
    "replicate",
    "replicate_all",
]


@dataclass(frozen=True)
class Replications:
    """Independent runs of one scenario.

    Parameters
    ----------
    first : SimulationResult
        The run with the scenario's own seed, in full.
    summaries : tuple of dict
        Every run's summary; seeds count up from the first.
        One that an interrupt cut is the last.
    stopped : bool
        Whether an interrupt kept other runs from being begun, or from their end.
    places : tuple of int
        Which run, from 0, each summary is of, where an interrupt left gaps; empty: of 0, 1, ...
    """

    first: SimulationResult
    summaries: tuple[dict[str, Any], ...]
    stopped: bool = False
    places: tuple[int, ...] = ()

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
    def whole_by_place(self) -> dict[int, dict[str, Any]]:
        """The same by their place, so that runs of two variants can be paired."""
        places = self.places or range(len(self.summaries))
        pairs = zip(places, self.summaries, strict=True)
        return {place: summary for place, summary in pairs if not summary["interrupted"]}

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
    jobs: Jobs = None,
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
    jobs : int, optional
        Processes at once, this one included: 1 is this one alone. Left out, one a core where
        there is work for them (`kvsim.runs.crew`). The answer is the same.

    Raises
    ------
    InputError, UnsupportedError
        As `kvsim.simulate`, and for a number of runs or jobs below 1.
    KeyboardInterrupt
        When nothing at all was finished before it.
    """
    runs = scenario.run.replications if replications is None else replications
    if runs < 1:
        raise InputError(f"{runs} runs answer nothing", where="replications")
    with released():
        setup = prepare(scenario)
    start = scenario.run.seed if seed is None else seed
    question = Question(setup, range(start, start + runs))
    (found,) = replicate_all([question], jobs, watch=watch, camera=camera)
    if found is None:
        raise KeyboardInterrupt
    return found


class Question(NamedTuple):
    """What is run: a prepared scenario with each of some seeds.

    What goes wrong in a run leaves through `naming`, which may say of which question it was.
    """

    setup: Setup
    seeds: range
    naming: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def requests(self) -> int | None:
        """Requests of all runs together, where the scenario says how many."""
        each = self.setup.scenario.workload.limits.requests
        return None if each is None else each * len(self.seeds)


class _Run(NamedTuple):
    """A run that ended: what it comes to, and all of it where it may be the first."""

    summary: dict[str, Any]
    result: SimulationResult | None


class _Runs:
    """The runs of some questions, one task each: a question's runs come one after another."""

    def __init__(
        self, questions: Sequence[Question], watch: Watch | None, camera: Camera | None
    ) -> None:
        self.ended: list[dict[int, _Run]] = [{} for _ in questions]
        self._questions, self._watch, self._camera = questions, watch, camera
        self._places = [
            (at, place) for at, each in enumerate(questions) for place in range(len(each.seeds))
        ]

    @property
    def tasks(self) -> int:
        return len(self._places)

    def here(self, number: int) -> _Run:
        at, place = self._places[number]
        setup, seeds = self._questions[at].setup, self._questions[at].seeds
        camera = self._camera if number == 0 else None
        with self._questions[at].naming():
            result = run_setup(setup, seeds[place], watch=self._watch, camera=camera)
        return _Run(result.summary, result)

    def there(self, number: int) -> Job:
        at, place = self._places[number]
        question = self._questions[at]
        return Job(_run_apart, (question.setup, question.seeds[place], self._may_be_first(number)))

    def keep(self, number: int, run: _Run) -> None:
        at, place = self._places[number]
        self.ended[at][place] = run if self._may_be_first(number) else run._replace(result=None)

    def is_cut(self, run: _Run) -> bool:
        return bool(run.summary["interrupted"])

    def _may_be_first(self, number: int) -> bool:
        """Whether no run of the question that stands before it has ended yet."""
        at, place = self._places[number]
        return all(before > place for before in list(self.ended[at]))


def _run_apart(setup: Setup, seed: int, whole: bool, watch: Watch | None) -> _Run:
    """One run in another process; a recording is sent back only where it may be the first."""
    result = run_setup(setup, seed, watch=watch)
    return _Run(result.summary, SimulationResult(result.recording) if whole else None)


def replicate_all(
    questions: Sequence[Question],
    jobs: Jobs = None,
    *,
    watch: Watch | None = None,
    camera: Camera | None = None,
) -> list[Replications | None]:
    """Run several questions on as many cores as there are.

    Parameters
    ----------
    questions : sequence of Question
        In the order in which they are begun.
    jobs, watch, camera
        See `replicate`; the camera is for the first run of the first question.

    Returns
    -------
    list of Replications or None
        One a question; None where an interrupt came before any of its runs had ended.
    """
    runs = _Runs(questions, watch, camera)
    counts = [question.requests for question in questions]
    requests = None if None in counts else sum(filter(None, counts))
    stopped = True
    with suppress(KeyboardInterrupt):  # one that waited for `held` to end
        with held(), crew_for(jobs, runs.tasks, requests) as crew:
            gathered(crew, runs, watch)
        stopped = False
    pairs = zip(runs.ended, questions, strict=True)
    return [
        _judged(ended, stopped or len(ended) < len(question.seeds)) if ended else None
        for ended, question in pairs
    ]


def _judged(ended: Mapping[int, _Run], stopped: bool) -> Replications:
    """The runs of one question: the whole ones in their order, then one that was cut."""
    places = sorted(ended, key=lambda place: (ended[place].summary["interrupted"], place))
    first = ended[places[0]].result
    if first is None:
        raise InvariantError("the first run of a question was not kept")
    summaries = tuple(ended[place].summary for place in places)
    return Replications(first, summaries, stopped, tuple(places))


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
