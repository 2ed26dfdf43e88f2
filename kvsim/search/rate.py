"""How much traffic one replica carries: bisection over simulations.

::

    requests/s    1      2      4                8
    octaves       ok     ok     ok               missed     double or halve from a first guess
    bisection                   4 --ok--ok--x--- 8          geometric, to a relative tolerance

Every probe serves the same seeded requests; only the gaps between them shrink with the rate.
Where to probe follows from the outcomes alone, so a looser objective can only end higher.

A replica that starts empty flatters itself: the first requests find no queue and small
batches. So a run that passes must be long beside what is in flight (rate times mean latency,
Little's law), else it is run again with more requests; and its first part is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, floor, log2, sqrt

import numpy as np

from kvsim.errors import InputError, UnsupportedError
from kvsim.results.result import SimulationResult
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import SLO, Scenario

__all__ = [
    "OVERLOAD_RATE",
    "Probe",
    "RateSearch",
    "Search",
    "SearchSettings",
    "bisect",
    "bracket",
    "highest_rate",
    "judge",
    "require_steady",
]

# Arrivals that one number speeds up; of others "the rate" depends on when one looks.
_STEADY_KINDS = ("poisson", "gamma", "weibull", "constant")
_MOST_OCTAVES = 8
OVERLOAD_RATE = 1e9
_RUNS_PER_STAY = 5  # least length of a run, in requests in flight
_MOST_REQUESTS = 20_000
_WARMUP = 0.2  # of the run: one stay
_FEWEST_REQUESTS = 100
_OBJECTIVES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2el_ms"}


@dataclass(frozen=True)
class SearchSettings:
    """How a rate is searched.

    Parameters
    ----------
    share : float
        Share of the requests that must meet every objective together: 0.99 for "p99".
    requests : int
        Requests of each simulation; more where so many are served at once that the run would
        be over before it is steady.
    tolerance : float
        Relative width at which the search stops.
    seed : int or None
        Seed of every simulation; None takes the scenario's.
    """

    share: float = 0.99
    requests: int = 2000
    tolerance: float = 0.03
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share = {self.share:g} is not above 0 and at most 1")
        if self.requests < _FEWEST_REQUESTS:
            raise InputError(
                f"{self.requests} requests say nothing of a percentile",
                fix=f"simulate at least {_FEWEST_REQUESTS}",
            )
        if not 0.001 <= self.tolerance <= 1:
            raise InputError(f"tolerance = {self.tolerance:g} is not from 0.001 to 1")


@dataclass(frozen=True)
class Probe:
    """One simulation of a search.

    Parameters
    ----------
    rate : float
        Requests per second.
    met_share : float
        Share of the judged requests that finished within every objective.
    saturated : bool
        Whether the queue grew all run long.
    passed : bool
        Not saturated, and enough requests met the objectives.
    requests : int
        Requests of the run.
    missed : mapping of str to float
        Share of the requests that missed each objective ("ttft", "tpot", "e2el").
    latency_ms : mapping of str to float or None
        Each latency at the percentile that the share asks for, ms; None: no observation.
    """

    rate: float
    met_share: float
    saturated: bool
    passed: bool
    requests: int
    missed: Mapping[str, float]
    latency_ms: Mapping[str, float | None]

    @property
    def limit(self) -> str:
        """What was missed most: "ttft", "tpot", "e2el", "saturation", or "" when it passed."""
        if self.passed:
            return ""
        worst = max(self.missed, key=lambda name: self.missed[name], default="")
        return worst if worst and self.missed[worst] > 0 else "saturation"


@dataclass(frozen=True)
class RateSearch:
    """What a search found.

    Parameters
    ----------
    rate : float or None
        Highest rate that passed, requests/s; None when even the lowest one failed.
    failed_rate : float or None
        Lowest rate above it that failed.
    probes : tuple of Probe
        Every rate that was tried, in order.
    simulations : int
        How many simulations it took, the one that measured the throughput included.
    settings : SearchSettings
        What was asked.
    """

    rate: float | None
    failed_rate: float | None
    probes: tuple[Probe, ...]
    simulations: int
    settings: SearchSettings

    @property
    def limit(self) -> str:
        """What ends it: see `Probe.limit`, of the lowest rate that failed."""
        failed = [probe for probe in self.probes if probe.rate == self.failed_rate]
        return failed[0].limit if failed else ""


def highest_rate(
    scenario: Scenario,
    slo: SLO | None = None,
    settings: SearchSettings | None = None,
    *,
    watch: Watch | None = None,
) -> RateSearch:
    """Find the highest request rate at which one replica meets its objectives.

    Parameters
    ----------
    scenario : Scenario
        The replica and its traffic; its arrivals must have one rate (poisson, gamma, weibull
        or constant).
    slo : SLO, optional
        Objectives in milliseconds; the scenario's own when left out. Without any, a rate
        passes when the queue does not grow all run long.
    settings : SearchSettings, optional
        Share, requests, tolerance and seed.
    watch : callable, optional
        See `kvsim.simulate`; a ``KeyboardInterrupt`` raised in it ends the search.

    Returns
    -------
    RateSearch
        About ten simulations: one overloaded, which tells the throughput and so where to
        begin, a few octaves, and a bisection of the last one.

    Raises
    ------
    UnsupportedError
        For arrivals without one rate.
    InputError
        For a scenario that cannot be run.

    Notes
    -----
    Runs are finite: of a load close to saturation a longer one sees more of the queue, and
    finds a somewhat lower rate.
    """
    require_steady(scenario)
    objectives = scenario.slo if slo is None else slo
    setup = prepare(scenario.model_copy(update={"slo": objectives}))
    return Search(setup, settings or SearchSettings(), watch).run()


def require_steady(scenario: Scenario) -> None:
    """Refuse arrivals that have no one rate to raise (UnsupportedError)."""
    kind = getattr(scenario.workload.arrivals, "kind", "trace")
    if kind not in _STEADY_KINDS:
        raise UnsupportedError(
            f"no highest rate of arrivals of the kind {kind!r}: they have no one rate to raise;"
            f" use {', '.join(_STEADY_KINDS)}"
        )


@dataclass
class Search:
    """The simulations of one search, and their verdicts.

    Parameters
    ----------
    setup : Setup
        The replica, its traffic and its objectives.
    settings : SearchSettings
        What is asked.
    watch : callable, optional
        See `kvsim.simulate`.

    Attributes
    ----------
    probes : list of Probe
        Rates that were tried.
    simulations : int
        How many have been run.
    """

    setup: Setup
    settings: SearchSettings
    watch: Watch | None = None
    probes: list[Probe] = field(default_factory=list)
    simulations: int = 0

    def run(self) -> RateSearch:
        """Search from the beginning."""
        throughput = _throughput(self.simulate(OVERLOAD_RATE, self.settings.requests))
        if not throughput:
            raise InputError(
                "no request fits: every one was rejected",
                fix="raise max_model_len or the pool, or shorten the requests",
            )
        low, high = bracket(self.passes, 2.0 ** floor(log2(throughput)))
        if low is not None and high is not None:
            low, high = bisect(self.passes, low, high, self.settings.tolerance)
        return RateSearch(low, high, tuple(self.probes), self.simulations, self.settings)

    def passes(self, rate: float) -> bool:
        """Whether a rate meets the objectives."""
        probe = judge(rate, self.serve(rate), self.settings.share)
        self.probes.append(probe)
        return probe.passed

    def serve(self, rate: float) -> SimulationResult:
        """Serve the requests at a rate, for long enough to be believed when it passes."""
        requests = self.settings.requests
        while True:
            result = self.simulate(rate, requests)
            enough = min(_MOST_REQUESTS, ceil(_RUNS_PER_STAY * _in_flight(rate, result)))
            if requests >= enough or not judge(rate, result, self.settings.share).passed:
                return result
            requests = min(_MOST_REQUESTS, ceil(1.3 * enough))  # a longer one has more in flight

    def simulate(self, rate: float, requests: int) -> SimulationResult:
        """Serve so many of the same requests at a rate: one simulation."""
        self.simulations += 1
        setup = _at_rate(self.setup, rate, requests)
        seed = self.settings.seed
        start = setup.scenario.run.seed if seed is None else seed
        result = run_setup(setup, start, watch=self.watch)
        if result.recording.interrupted:
            raise KeyboardInterrupt
        return result


def _in_flight(rate: float, result: SimulationResult) -> float:
    """Requests in the replica at once, on average: Little's law."""
    stays = result.latencies["e2el"][result.judged]
    stays = stays[~np.isnan(stays)]
    return rate * float(stays.mean()) if len(stays) else 0.0


def _throughput(result: SimulationResult) -> float:
    """Requests per second of a run whose requests all came at the start."""
    finished = np.count_nonzero(~np.isnan(result.columns["finish_seconds"]))
    return finished / result.recording.end_seconds if finished else 0.0


def _at_rate(setup: Setup, rate: float, requests: int) -> Setup:
    workload = setup.scenario.workload
    if workload.arrivals is None:
        raise UnsupportedError("a trace has no rate to set")
    arrivals = workload.arrivals.model_copy(update={"rate": rate})
    limits = {"requests": requests, "duration_seconds": None}
    workload = workload.model_copy(update={"arrivals": arrivals, **limits})
    run = setup.scenario.run
    run = run.model_copy(update={"warmup_fraction": max(_WARMUP, run.warmup_fraction)})
    changes = {"workload": workload, "run": run}
    return replace(setup, scenario=setup.scenario.model_copy(update=changes))


def bracket(
    passes: Callable[[float], bool], start: float
) -> tuple[float, float | None] | tuple[None, float]:
    """Double or halve from `start` until one rate passes and its double fails.

    Returns
    -------
    tuple
        The one that passes (None: none did) and the one that fails (None: none did).
    """
    rate = start
    if passes(rate):
        for _ in range(_MOST_OCTAVES):
            if not passes(2 * rate):
                return rate, 2 * rate
            rate *= 2
        return rate, None
    for _ in range(_MOST_OCTAVES):
        if passes(rate / 2):
            return rate / 2, rate
        rate /= 2
    return None, rate


def bisect(
    passes: Callable[[float], bool], low: float, high: float, tolerance: float
) -> tuple[float, float]:
    """Narrow (passes, fails) by geometric means until they are `tolerance` apart.

    Examples
    --------
    >>> low, high = bisect(lambda rate: rate <= 3, 2.0, 4.0, 0.01)
    >>> low <= 3 < high <= 1.01 * low
    True
    """
    while high / low > 1 + tolerance:
        middle = sqrt(low * high)
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low, high


def judge(rate: float, result: SimulationResult, share: float) -> Probe:
    """Say whether a run met the objectives of its scenario.

    A request that was rejected or never finished misses them all; one without a second token
    has no TPOT to miss.
    """
    judged = result.judged
    finished = ~np.isnan(result.columns["finish_seconds"][judged])
    met = finished.copy()
    missed: dict[str, float] = {}
    latency: dict[str, float | None] = {}
    for name, key in _OBJECTIVES.items():
        values = 1e3 * result.latencies[name][judged]
        seen = values[~np.isnan(values)]
        latency[name] = float(np.percentile(seen, 100 * share)) if len(seen) else None
        limit = getattr(result.setup.scenario.slo, key)
        if limit is not None:
            within = finished & (np.isnan(values) | (values <= limit))
            missed[name] = float(1 - within.mean())
            met &= within
    met_share = float(met.mean())
    passed = not result.saturated and met_share >= share
    count = len(result.columns["finish_seconds"])
    return Probe(rate, met_share, result.saturated, passed, count, missed, latency)
