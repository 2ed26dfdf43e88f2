"""How much traffic one replica carries, and so how many it takes: bisection over simulations.

::

    requests/s    1      2      4                8
    octaves       ok     ok     ok               missed     double or halve from a first guess
    bisection                   4 --ok--ok--x--- 8          geometric, to a relative tolerance

Every probe serves the same seeded requests; only the gaps between them shrink with the rate.
Where to probe follows from the outcomes alone, so a looser objective can only end higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil, floor, log2, sqrt
from typing import Any

import numpy as np

from kvsim.assembly import Setup, prepare
from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, KVSimError, UnsupportedError
from kvsim.hardware import Price
from kvsim.replica import Watch
from kvsim.results import SimulationResult
from kvsim.scenario import SLO, Scenario, with_overrides
from kvsim.simulation import run_setup

__all__ = [
    "FleetOption",
    "Probe",
    "RateSearch",
    "SearchSettings",
    "highest_rate",
    "size_fleet",
]

# Arrivals that one number speeds up; of others "the rate" depends on when one looks.
_STEADY_KINDS = ("poisson", "gamma", "weibull", "constant")
_MOST_OCTAVES = 8
_OVERLOAD_RATE = 1e9
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
        Requests of each simulation, from an empty replica.
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
        Requests a second.
    met_share : float
        Share of the judged requests that finished within every objective.
    saturated : bool
        Whether the queue grew all run long.
    passed : bool
        Not saturated, and enough requests met the objectives.
    missed : mapping of str to float
        Share of the requests that missed each objective ("ttft", "tpot", "e2el").
    latency_ms : mapping of str to float or None
        Each latency at the percentile that the share asks for, ms; None: no observation.
    """

    rate: float
    met_share: float
    saturated: bool
    passed: bool
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
    Runs are finite and start empty: of a load close to saturation a longer run sees more of
    the queue, and finds a somewhat lower rate.
    """
    _require_steady(scenario)
    objectives = scenario.slo if slo is None else slo
    setup = prepare(scenario.model_copy(update={"slo": objectives}))
    return _Search(setup, settings or SearchSettings(), watch).run()


def _require_steady(scenario: Scenario) -> None:
    kind = getattr(scenario.workload.arrivals, "kind", "trace")
    if kind not in _STEADY_KINDS:
        raise UnsupportedError(
            f"no highest rate of arrivals of the kind {kind!r}: they have no one rate to raise;"
            f" use {', '.join(_STEADY_KINDS)}"
        )


@dataclass
class _Search:
    """The simulations of one search, and their verdicts."""

    setup: Setup
    settings: SearchSettings
    watch: Watch | None = None
    probes: list[Probe] = field(default_factory=list)
    simulations: int = 0

    def run(self) -> RateSearch:
        throughput = _throughput(self.simulate(_OVERLOAD_RATE))
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
        """Whether a rate meets the objectives: one simulation."""
        probe = judge(rate, self.simulate(rate), self.settings.share)
        self.probes.append(probe)
        return probe.passed

    def simulate(self, rate: float) -> SimulationResult:
        """Serve the same requests at another rate."""
        self.simulations += 1
        setup = _at_rate(self.setup, rate, self.settings.requests)
        seed = self.settings.seed
        start = setup.scenario.run.seed if seed is None else seed
        result = run_setup(setup, start, watch=self.watch)
        if result.interrupted:
            raise KeyboardInterrupt
        return result


def _throughput(result: SimulationResult) -> float:
    """Requests a second of a run whose requests all came at the start."""
    finished = np.count_nonzero(~np.isnan(result.columns["finish_seconds"]))
    return finished / result.end_seconds if finished else 0.0


def _at_rate(setup: Setup, rate: float, requests: int) -> Setup:
    workload = setup.scenario.workload
    if workload.arrivals is None:
        raise UnsupportedError("a trace has no rate to set")
    arrivals = workload.arrivals.model_copy(update={"rate": rate})
    limits = {"requests": requests, "duration_seconds": None}
    workload = workload.model_copy(update={"arrivals": arrivals, **limits})
    return replace(setup, scenario=setup.scenario.model_copy(update={"workload": workload}))


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
    return Probe(rate, met_share, result.saturated, passed, missed, latency)


# --- fleets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FleetOption:
    """One card and tensor-parallel degree, as an answer to a demand.

    Parameters
    ----------
    accelerator : str
        Its name.
    tensor_parallel_size : int
        Devices a replica.
    demand : float
        Requests a second that the fleet must carry.
    problem : str
        Why it is no answer; "" when it is one.
    search : RateSearch or None
        What one replica sustains; None when the model does not run on it.
    at_demand : Probe or None
        One replica under its share of the demand.
    bound_by : mapping of str to float
        Share of the busy time that each resource binds, under that load.
    memory_limited : float or None
        Share of the time that memory kept requests waiting, under that load.
    price : Price or None
        Of one device and hour, US dollars; None: the profile has none.
    provenance : str
        Where the step times come from.
    """

    accelerator: str
    tensor_parallel_size: int
    demand: float
    problem: str = ""
    search: RateSearch | None = None
    at_demand: Probe | None = None
    bound_by: Mapping[str, float] = field(default_factory=dict)
    memory_limited: float | None = None
    price: Price | None = None
    provenance: str = ""

    @property
    def highest_rate(self) -> float | None:
        """Requests a second that one replica sustains; None: none."""
        return self.search.rate if self.search else None

    @property
    def replicas(self) -> int | None:
        """How many replicas carry the demand; None when one carries nothing.

        ``replicas = ceil(demand / highest rate)``
        """
        return replicas_for(self.demand, self.highest_rate) if self.highest_rate else None

    @property
    def devices(self) -> int | None:
        """Devices of the whole fleet."""
        return None if self.replicas is None else self.replicas * self.tensor_parallel_size

    @property
    def usd_per_hour(self) -> tuple[float, float] | None:
        """What the fleet costs an hour, low and high; None when no price is known."""
        if self.devices is None or self.price is None:
            return None
        return self.devices * self.price.low, self.devices * self.price.high


def replicas_for(demand: float, rate: float) -> int:
    """Return the fewest replicas that carry a demand: ``ceil(demand / rate)``.

    Examples
    --------
    >>> replicas_for(10, 4), replicas_for(8, 4)
    (3, 2)
    """
    return max(1, ceil(demand / rate))


def size_fleet(
    scenario: Scenario,
    demand: float,
    cards: Iterable[tuple[str, int]],
    settings: SearchSettings | None = None,
    *,
    watch: Watch | None = None,
) -> tuple[FleetOption, ...]:
    """Size a fleet of each card for a demand, under the scenario's objectives.

    Parameters
    ----------
    scenario : Scenario
        Traffic, model, engine and `slo`; its accelerator and degree are replaced.
    demand : float
        Requests a second of the whole fleet, split evenly: of Poisson arrivals a random split
        is Poisson again.
    cards : iterable of (str, int)
        Accelerator and tensor-parallel degree.
    settings, watch
        See `highest_rate`. An interrupt keeps the cards that are finished.

    Returns
    -------
    tuple of FleetOption
        One a card, in the order given; a card that the model does not run on says why.

    Raises
    ------
    InputError
        For a demand that is not above 0, or an unknown card.
    UnsupportedError
        For arrivals without one rate.
    """
    if not 0 < demand < _OVERLOAD_RATE:
        raise InputError(f"a demand of {demand:g} requests/s is not above 0 and finite")
    _require_steady(scenario)
    chosen = settings or SearchSettings()
    options: list[FleetOption] = []
    with suppress(KeyboardInterrupt):
        for card in cards:
            options.append(_option(scenario, demand, card, chosen, watch))
    return tuple(options)


def _option(
    scenario: Scenario,
    demand: float,
    card: tuple[str, int],
    settings: SearchSettings,
    watch: Watch | None,
) -> FleetOption:
    profile = find_accelerator(card[0])
    option = FleetOption(profile.name, card[1], demand, price=profile.price)
    overrides = {"accelerator": card[0], "engine.tensor_parallel_size": card[1]}
    try:
        search = _Search(prepare(with_overrides(scenario, overrides)), settings, watch)
        found = search.run()
    except KVSimError as error:
        return replace(option, problem=str(error))
    option = replace(option, search=found, provenance=search.setup.step_time.provenance)
    if option.replicas is None:
        return replace(option, problem=_hopeless(found))
    result = search.simulate(demand / option.replicas)
    return replace(option, **_under_load(demand / option.replicas, result, settings))


def _hopeless(found: RateSearch) -> str:
    limit = {"saturation": "the queue grows", "": "too few requests meet the objectives"}
    missed = limit.get(found.limit, f"the {found.limit.upper()} objective is missed")
    return f"even at {found.failed_rate:.3g} requests/s {missed}"


def _under_load(rate: float, result: SimulationResult, settings: SearchSettings) -> dict[str, Any]:
    summary = result.summary
    return {
        "at_demand": judge(rate, result, settings.share),
        "bound_by": summary["bound_by"],
        "memory_limited": summary["memory_limited"],
    }
