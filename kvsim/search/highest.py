"""The simulations of one search: the throughput under overload, then the knee, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, floor, inf, log, log2
from statistics import fmean
from time import monotonic

import numpy as np

from kvsim.errors import InputError, KVSimError
from kvsim.results.result import SimulationResult
from kvsim.results.statistics import Interval, confidence_interval
from kvsim.runs.simulate import run_setup
from kvsim.search.bisection import bisect, bracket, near
from kvsim.search.load import OVERLOAD_RATE, Load, load_of
from kvsim.search.objectives import Objective, objectives_of
from kvsim.search.observed import (
    common_slope,
    in_flight,
    most_running,
    sustained_throughput,
    variability,
)
from kvsim.search.rate import (
    Probe,
    RateSearch,
    SearchSettings,
    judge,
    relaxation_requests,
)
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import SLO, Scenario

__all__ = [
    "Search",
    "TimeIsUpError",
    "highest_rate",
    "refuse_cut",
    "require_end",
]

_MOST_REQUESTS = 60_000
_EFFORT, _OVERLOAD = 30, 10  # times the requests asked for: the most of a probe, and of overload
_MEMORIES = 20  # of a queue: the least length of a run
_STAYS = 5  # the same, in requests in flight
_GENERATIONS = 20  # of the batch, under overload
_SURE_GENERATIONS = 5  # with fewer the throughput hangs on where the window opens
_FIRST_USERS = 64.0
_PLENTY = 2.0  # times the demand: users beyond are not asked for, since their runs are long
_FAR = 0.8  # of the throughput: below, how it differs between seeds is of no account
_AROUND_KNEE = log(1.2)
_LONGER, _TIMES = 4, 2  # times the requests, where seeds differ by more than the tolerance


class TimeIsUpError(KVSimError):
    """The time that was allowed for a search is over."""


def highest_rate(
    scenario: Scenario,
    slo: SLO | Sequence[Objective] | None = None,
    settings: SearchSettings | None = None,
    *,
    watch: Watch | None = None,
) -> RateSearch:
    """Find the highest load at which one replica meets its objectives for as long as it lasts.

    Parameters
    ----------
    scenario : Scenario
        The replica and its traffic: arrivals with one rate (poisson, gamma, weibull, constant),
        a recorded trace, or the users of a closed loop.
    slo : SLO or sequence of Objective, optional
        What must be met; the scenario's own limits when left out, each by `settings.share` of the
        requests. Without any, a rate passes when the queue does not grow all run long.
    settings : SearchSettings, optional
        Share, requests, tolerance, seeds.
    watch : callable, optional
        See `kvsim.simulate`; a ``KeyboardInterrupt`` raised in it ends the search.

    Returns
    -------
    RateSearch
        Never more than the throughput under overload, with an interval over seeds.

    Raises
    ------
    UnsupportedError
        For arrivals without one rate.
    InputError
        For a scenario that cannot be run, and users without an objective.
    TimeIsUpError
        When `settings.max_seconds` were over before the first seed's answer.
    """
    chosen = settings or SearchSettings()
    stated = scenario.slo if slo is None else slo
    asked = objectives_of(stated, chosen.share) if isinstance(stated, SLO) else tuple(stated)
    load = load_of(scenario)
    return Search(prepare(scenario), load, asked, chosen, watch).run()


def require_end(load: Load, objectives: Sequence[Objective]) -> None:
    """Refuse a search that nothing would end (InputError)."""
    if not load.is_open and not objectives:
        raise InputError(
            "users wait for their answers, so any number of them is served in the end",
            fix="give an objective, such as a p99 TTFT",
        )


def refuse_cut(scenario: Scenario) -> None:
    """Refuse runs that would be cut before they say anything (InputError)."""
    if scenario.run.max_seconds is not None:
        where = scenario.where("run.max_seconds", short=True)
        raise InputError("it would cut the runs of a search", where=where, fix="leave it out")


@dataclass
class _Knees:
    """Brackets (passes, fails) of some seeds, if any differ, and the throughput of each."""

    settings: SearchSettings
    is_drawn: bool
    first: tuple[float, float]
    brackets: list[tuple[float, float]]
    throughputs: list[float]

    @property
    def _middle(self) -> Interval:
        return confidence_interval(np.array([fmean(bracket) for bracket in self.brackets]))

    @property
    def are_sure(self) -> bool:
        """Whether there are enough, and their mean's interval is within the tolerance."""
        enough = len(self.brackets) >= self.settings.replications or not self.is_drawn
        mean, low, high = self._middle
        return enough and high - low <= 2 * self.settings.tolerance * mean

    @property
    def interval(self) -> tuple[float, float]:
        """95 % over seeds, and no narrower than what a seed's bisection left open."""
        _, least, most = self._middle
        low, high = (fmean(side) for side in zip(*self.brackets, strict=True))
        return min(low, max(0.0, least)), min(max(high, most), fmean(self.throughputs))


@dataclass
class Search:
    """The simulations of one search, and their verdicts.

    Parameters
    ----------
    setup : Setup
        The replica and its traffic.
    load : Load
        What is raised.
    objectives : tuple of Objective
        What must be met.
    settings : SearchSettings
        What is asked.
    watch : callable, optional
        See `kvsim.simulate`.
    ends : float, optional
        When its time is over, as `time.monotonic` counts; by default after the settings'.
    known_throughput, variability, generations : float
        What `throughput` found for the first seed, where it is known; generations are how often
        the batch was replaced under overload.
    demand : float, optional
        What one replica may be asked to carry alone: a load that is tried before none is said to
        pass, and twice which is as many users as are tried.

    Attributes
    ----------
    probes : list of Probe
        Loads that were judged.
    simulations : int
        How many have been run.
    """

    setup: Setup
    load: Load
    objectives: tuple[Objective, ...]
    settings: SearchSettings
    watch: Watch | None = None
    ends: float | None = None
    known_throughput: float | None = None
    variability: float = 2.0
    generations: float = inf
    demand: float | None = None
    probes: list[Probe] = field(default_factory=list)
    simulations: int = 0
    _last_passed: SimulationResult | None = None
    _fewest: int = 0

    def __post_init__(self) -> None:
        require_end(self.load, self.objectives)
        refuse_cut(self.setup.scenario)
        if self.ends is None:
            self.ends = monotonic() + self.settings.max_seconds
        self._fewest = self.settings.requests

    @property
    def first_seed(self) -> int:
        """The seed that others count up from."""
        return self.settings.first_seed(self.setup.scenario)

    def run(self) -> RateSearch:
        """Search from the beginning."""
        ceiling = self.known_throughput or self.throughput(self.first_seed)
        first = self._first(ceiling)
        passed = self._last_passed
        if first is None or passed is None:
            failed = min((probe.rate for probe in self.probes), default=None)
            return self._found(None, failed, [ceiling])
        summary = passed.summary
        if first[1] == inf:
            found = replace(self._found((first[0], first[0]), None, []), is_floor=True)
            return replace(
                found, bound_by=summary["bound_by"], memory_limited=summary["memory_limited"]
            )
        knees = _Knees(self.settings, self.load.is_drawn, first, [first], [ceiling])
        with suppress(TimeIsUpError):
            self._replicate(knees)
        found = self._found(knees.interval, knees.brackets[0][1], knees.throughputs)
        is_sure = knees.are_sure and (len(knees.brackets) > 1 or not knees.is_drawn)
        return replace(
            found,
            is_sure=is_sure and found.is_long,
            steepness=self._steepness(knees.brackets[0]),
            bound_by=summary["bound_by"],
            memory_limited=summary["memory_limited"],
        )

    def _replicate(self, knees: _Knees) -> None:
        """Look for the knees of other seeds, in longer runs where that does not make sure."""
        while self.load.is_drawn and not knees.are_sure:
            if len(knees.brackets) < self.settings.most_replications:
                self._add(knees)
            elif self._fewest < _LONGER**_TIMES * self.settings.requests:
                self._fewest *= _LONGER
                longer = replace(knees, brackets=[], throughputs=knees.throughputs[:1])
                self._add(longer)
                knees.brackets, knees.throughputs = longer.brackets, longer.throughputs
            else:
                break

    def _add(self, knees: _Knees) -> None:
        """Look for the knee of the next seed near that which was found first."""
        seed, ceiling = self.first_seed + len(knees.brackets), knees.throughputs[0]
        if knees.first[1] > _FAR * ceiling:
            ceiling = self.throughput(seed)
        passes = partial(self.passes, ceiling=ceiling, seed=seed)
        found = near(passes, knees.first, ceiling, self.load.rounded)
        knees.brackets.append(found)
        knees.throughputs.append(ceiling)

    def throughput(self, seed: int) -> float:
        """Requests per second under overload; no limit of users."""
        if not self.load.is_open:
            return inf
        requests = self._fewest
        while True:
            result = self.simulate(OVERLOAD_RATE, requests, seed)
            found = sustained_throughput(result)
            if not found:
                raise InputError(
                    "no request fits: every one was rejected",
                    fix="raise max_model_len or the pool, or shorten the requests",
                )
            enough = min(self._most(_OVERLOAD), ceil(_GENERATIONS * most_running(result)))
            if requests >= enough or not self.load.is_drawn:
                gaps = self.load.gap_variability(self.setup.scenario.workload)
                self.variability = gaps + variability(result)
                self.generations = len(result.columns["finish_seconds"]) / most_running(result)
                return found
            requests = enough

    def _first(self, ceiling: float) -> tuple[float, float] | None:
        """The first seed's knee; None when even the lowest load fails."""
        passes = partial(self.passes, ceiling=ceiling, seed=self.first_seed)
        start = 2.0 ** floor(log2(ceiling)) if self.load.is_open else _FIRST_USERS
        enough = inf if self.load.is_open or not self.demand else _PLENTY * self.demand
        low, high = bracket(passes, start, ceiling, self.load.rounded, enough)
        if low is None:
            asked = self.demand or inf
            if high is None or asked >= high or not passes(asked):
                return None
            low = asked
        if high is None:
            return low, inf
        return bisect(passes, low, high, self.settings.tolerance, self.load.rounded)

    def _found(
        self, interval: tuple[float, float] | None, failed: float | None, ceilings: list[float]
    ) -> RateSearch:
        return RateSearch(
            rate=(self.load.floored(interval[0]) or None) if interval else None,
            interval=interval,
            failed_rate=failed,
            throughput=fmean(ceilings) if self.load.is_open and ceilings else None,
            probes=tuple(self.probes),
            simulations=self.simulations,
            settings=self.settings,
            objectives=self.objectives,
            unit=self.load.unit,
            is_long=self.generations >= _SURE_GENERATIONS,
        )

    def _steepness(self, knee: tuple[float, float]) -> float | None:
        """Slope of the limiting latency's logarithm over that of the load, around the knee.

        Only runs on the same requests are compared.
        """
        goals = (p.goal for p in self.probes[::-1] if p.rate == knee[1])
        goal = next((each for each in goals if each is not None), None)
        if not knee[0] or goal is None:
            return None
        by_run: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for probe in self.probes:
            at = log(probe.rate / knee[0])
            latency = probe.reached_ms.get(goal.name)
            if latency and not probe.saturated and abs(at) <= _AROUND_KNEE:
                by_run.setdefault((probe.seed, probe.requests), []).append((at, log(latency)))
        return common_slope(by_run.values())

    def passes(self, rate: float, *, ceiling: float, seed: int) -> bool:
        """Whether a load meets the objectives."""
        result = self.serve(rate, ceiling, seed)
        probe = judge(rate, result, self.objectives, self.settings.share)
        self.probes.append(probe)
        if probe.passed and seed == self.first_seed:
            self._last_passed = result
        return probe.passed

    def serve(self, rate: float, ceiling: float, seed: int) -> SimulationResult:
        """Serve the requests at a load, for long enough to be believed."""
        requests = self._enough(rate, ceiling)
        while True:
            result = self.simulate(rate, requests, seed)
            wanted = min(self._most(_EFFORT), ceil(_STAYS * in_flight(result)))
            probe = judge(rate, result, self.objectives, self.settings.share)
            if requests >= wanted or not probe.passed or not self.load.is_drawn:
                return result
            requests = min(self._most(_EFFORT), ceil(1.3 * wanted))  # more are in flight then

    def _most(self, times: int) -> int:
        """The most requests of a run, by how many were asked for."""
        return min(_MOST_REQUESTS, times * self._fewest)

    def _enough(self, rate: float, ceiling: float) -> int:
        """Requests of a run that forgets its empty start many times over."""
        share = min(rate / ceiling, 0.999)
        memory = relaxation_requests(share, self.variability)
        requests = max(self._fewest, ceil(_MEMORIES * memory))
        return self.load.fewest(rate, min(self._most(_EFFORT), requests))

    def simulate(self, rate: float, requests: int, seed: int) -> SimulationResult:
        """Serve so many of the same requests at a load: one simulation."""
        if monotonic() > (inf if self.ends is None else self.ends):
            raise TimeIsUpError(f"not found within {self.settings.max_seconds:g} s")
        self.simulations += 1
        result = run_setup(self.load.at(self.setup, rate, requests), seed, watch=self.watch)
        if result.recording.interrupted:
            raise KeyboardInterrupt
        return result
