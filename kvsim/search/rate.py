"""How much traffic one replica carries: bisection over simulations, seed by seed.

::

    requests/s    1      2      4           C       C: throughput under overload, never passed
    octaves       ok     ok     missed      |       double or halve from below C
    bisection            2 -ok--ok-x- 4             geometric, to a relative tolerance
    other seeds               [  |  ]               from there; their knees give an interval

Within a seed every probe serves the same requests; only the gaps between them shrink with the
rate. Where to probe follows from the outcomes alone, so a looser objective can only end higher.

A replica that starts empty flatters itself twice: the first requests find no queue and small
batches, and near its throughput C a queue takes ever longer to become what it will be. So a run's
length is that of its queue's memory (`relaxation_requests`) many times over, long beside what is
in flight (rate times mean latency, Little's law), and its first part is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from kvsim.errors import InputError
from kvsim.results.result import SimulationResult
from kvsim.search.load import FEWEST_REQUESTS
from kvsim.search.objectives import Objective, percentile_ms, shares_of
from kvsim.simulator.scenario import Scenario

__all__ = [
    "SHARE",
    "Probe",
    "RateSearch",
    "SearchSettings",
    "judge",
    "relaxation_requests",
]

_ROUNDING = 1e-9
SHARE = 0.99
"""Share of the requests that must meet an objective without a percentile of its own."""


@dataclass(frozen=True)
class SearchSettings:
    """How a rate is searched.

    Parameters
    ----------
    share : float
        Share of the requests that must meet each objective of a scenario: 0.99 for "p99".
    requests : int
        Requests of each simulation, at least.
    tolerance : float
        Relative width at which the bisection of a seed stops, and half the relative width that
        the interval over seeds must have.
    seed : int or None
        First seed; None takes the scenario's.
    replications : int
        Seeds, at least; one gives no interval.
    most_replications : int
        Seeds, at most, where the interval is wider than the tolerance; if it still is, runs
        become longer.
    max_seconds : float
        Wall-clock time after which no other simulation is begun.
    """

    share: float = SHARE
    requests: int = 2000
    tolerance: float = 0.03
    seed: int | None = None
    replications: int = 3
    most_replications: int = 5
    max_seconds: float = inf

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share = {self.share:g} is not above 0 and at most 1")
        if self.requests < FEWEST_REQUESTS:
            raise InputError(
                f"{self.requests} requests say nothing of a percentile",
                fix=f"simulate at least {FEWEST_REQUESTS}",
            )
        if not 0.001 <= self.tolerance <= 1:
            raise InputError(f"tolerance = {self.tolerance:g} is not from 0.001 to 1")
        if not 1 <= self.replications <= self.most_replications:
            raise InputError(
                f"{self.replications} replications are not from 1 to {self.most_replications}"
            )
        if not self.max_seconds > 0:
            raise InputError(f"max_seconds = {self.max_seconds:g} is not above 0")

    def first_seed(self, scenario: Scenario) -> int:
        """The seed that others count up from."""
        return scenario.run.seed if self.seed is None else self.seed


@dataclass(frozen=True)
class Probe:
    """One simulation of a search.

    Parameters
    ----------
    rate : float
        The load, in the search's unit.
    seed : int
        Of its random streams.
    saturated : bool
        Whether the queue grew all run long.
    passed : bool
        Not saturated, and enough requests met each objective.
    requests : int
        Requests of the run.
    missed : mapping of str to float
        Share of the judged requests that missed each objective ("ttft_p99").
    limit : str
        The latency whose objective was missed most ("ttft"), "saturation", "rejected", or "" when
        it passed.
    goal : Objective or None
        That objective.
    reached_ms : mapping of str to float or None
        What each objective's latency is at its own percentile, ms, by the objective's name.
    latency_ms : mapping of str to float or None
        Each latency at the percentile that is asked of it, ms; None: no observation.
    """

    rate: float
    seed: int
    saturated: bool
    passed: bool
    requests: int
    missed: Mapping[str, float]
    limit: str
    latency_ms: Mapping[str, float | None]
    goal: Objective | None = None
    reached_ms: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RateSearch:
    """What a search found.

    Parameters
    ----------
    rate : float or None
        What is sustained: the low end of `interval`; None when even the lowest load failed.
    interval : (float, float) or None
        Where the highest sustained load lies: 95 % over seeds, and a bracket wide at least.
    failed_rate : float or None
        Lowest load above it that failed for the first seed; None: none was tried.
    throughput : float or None
        Requests per second under overload, without ramp-up and drain; None for users.
    probes : tuple of Probe
        Every load that was judged, in order.
    simulations : int
        How many simulations it took.
    settings : SearchSettings
        What was asked.
    objectives : tuple of Objective
        What had to be met.
    unit : str
        "requests/s", or "users" of a closed loop.
    is_sure : bool
        Whether the interval over seeds is within the tolerance, of runs that are long enough.
    is_long : bool
        Whether the requests are enough to fill the batch some times over; a trace has as many as
        it has.
    is_floor : bool
        Whether nothing beyond `rate` was tried: so many users, and more, are carried.
    steepness : float or None
        Per cent that the limiting latency grows with each per cent of load, at the end.
    bound_by : mapping of str to float
        Share of the busy time that each resource binds, at the last load that passed.
    memory_limited : float or None
        Share of the time that memory kept requests waiting, there.
    """

    rate: float | None
    interval: tuple[float, float] | None
    failed_rate: float | None
    throughput: float | None
    probes: tuple[Probe, ...]
    simulations: int
    settings: SearchSettings
    objectives: tuple[Objective, ...] = ()
    unit: str = "requests/s"
    is_sure: bool = False
    is_long: bool = True
    is_floor: bool = False
    steepness: float | None = None
    bound_by: Mapping[str, float] = field(default_factory=dict)
    memory_limited: float | None = None

    @property
    def limit(self) -> str:
        """What ends it: a latency missed beyond ("ttft"), "saturation", "rejected"; "" nothing."""
        ended = self.ended
        if self.is_floor:
            return ""
        return ended.limit if ended else "saturation"  # beyond the throughput nothing is tried

    @property
    def ended(self) -> Probe | None:
        """The last probe of `failed_rate` that failed."""
        at = [p for p in self.probes if p.rate == self.failed_rate and not p.passed]
        return at[-1] if at else None

    @property
    def goal(self) -> Objective | None:
        """The objective that is missed beyond it."""
        ended = self.ended
        return ended.goal if ended else None


def relaxation_requests(load: float, variability: float) -> float:
    """Requests that pass while a queue forgets where it began.

    Parameters
    ----------
    load : float
        Rate over throughput, below 1.
    variability : float
        Squared coefficients of variation of the gaps and of the work of a request, added: 2 for
        M/M/1, 1 for M/D/1.

    Notes
    -----
    A queue near saturation is a reflected Brownian motion, whose relaxation time is twice its
    variance over its drift squared: ``2 load**2 variability / (1 - load)**2`` requests. Of M/M/1
    the exact time is ``1 / (mu (1 - sqrt(load))**2)``, which has the same limit (Asmussen, Applied
    Probability and Queues, 2003; Abate and Whitt, Advances in Applied Probability 19, 1987).

    Examples
    --------
    >>> round(relaxation_requests(0.9, 2.0))
    324
    """
    return 2 * load**2 * variability / (1 - load) ** 2


def judge(
    rate: float,
    result: SimulationResult,
    objectives: Sequence[Objective],
    share: float = 0.99,
) -> Probe:
    """Say whether a run met its objectives.

    Parameters
    ----------
    rate : float
        Its load.
    result : SimulationResult
        The run.
    objectives : sequence of Objective
        What had to be met.
    share : float
        Percentile of the latencies that nothing is asked of.
    """
    judged = result.judged
    finished = ~np.isnan(result.columns["finish_seconds"][judged])
    missed = {
        each.name: each.missed(1e3 * result.latencies[each.latency][judged], finished)
        for each in objectives
    }
    passed = not result.saturated and all(each.is_met(missed[each.name]) for each in objectives)
    passed = passed and (bool(objectives) or float(finished.mean()) >= share)
    limit, goal = ("", None) if passed else _limit(missed, objectives)
    refused = float(result.columns["rejected"][judged].mean())
    if not passed and refused > 1 - min((each.share for each in objectives), default=share):
        limit, goal = "rejected", None
    return Probe(
        rate=rate,
        seed=result.recording.seed,
        saturated=result.saturated,
        passed=passed,
        requests=len(result.columns["finish_seconds"]),
        missed=missed,
        limit=limit,
        latency_ms={
            latency: percentile_ms(result, latency, asked)
            for latency, asked in shares_of(objectives, share).items()
        },
        goal=goal,
        reached_ms={
            each.name: percentile_ms(result, each.latency, each.share) for each in objectives
        },
    )


def _limit(
    missed: Mapping[str, float], objectives: Sequence[Objective]
) -> tuple[str, Objective | None]:
    """Name what is missed most, beside what may be missed of it."""
    beyond = [(missed[each.name] - (1 - each.share), each) for each in objectives]
    worst = max(beyond, key=lambda pair: pair[0], default=None)
    if worst is None or worst[0] <= _ROUNDING:
        return "saturation", None
    return worst[1].latency, worst[1]
