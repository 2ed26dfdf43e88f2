"""What is raised until a replica is full: a request rate, the users of a chat, a trace's speed.

========================================  ============  =====================================
arrivals                                  unit          at a load
========================================  ============  =====================================
poisson, gamma, weibull, constant         requests/s    the gaps shrink
a recorded trace                          requests/s    its clock runs faster; no more requests
closed_loop                               users         more clients, each as slow to think
========================================  ============  =====================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

import numpy as np

from kvsim.errors import InputError, UnsupportedError
from kvsim.simulator.prepare import Setup
from kvsim.simulator.scenario import Scenario
from kvsim.workload.arrivals import ClosedLoopArrivals
from kvsim.workload.replay import TraceReplay
from kvsim.workload.spec import WorkloadSpec, build_workload
from kvsim.workload.streams import Streams

__all__ = ["FEWEST_REQUESTS", "OVERLOAD_RATE", "WARMUP", "Load", "load_of"]

OVERLOAD_RATE = 1e9
FEWEST_REQUESTS = 100  # that say anything of a percentile
# Arrivals that one number speeds up; of others "the rate" depends on when one looks.
_STEADY_KINDS = ("poisson", "gamma", "weibull", "constant")
_TURNS_EACH = 10  # requests of each user
_DRAWS = 1000  # of times to think, for their mean
WARMUP = 0.2  # of a run: what begins empty flatters itself


class Load(ABC):
    """A number that says how much one replica is asked."""

    unit: ClassVar[str]
    is_open = True  # whether requests come however slowly they are answered
    is_drawn = True  # whether another seed draws other requests

    @abstractmethod
    def workload(self, given: WorkloadSpec, value: float, requests: int) -> WorkloadSpec:
        """Return the workload at a load, of so many requests where it may have them."""

    @abstractmethod
    def stated(self, given: WorkloadSpec) -> float:
        """Return the load that a workload itself states."""

    def fewest(self, value: float, requests: int) -> int:
        """How many requests a run at a load needs at least."""
        return requests

    def rounded(self, value: float) -> float:
        """Return the nearest load that there is."""
        return value

    def floored(self, value: float) -> float:
        """Return the highest load that there is and that is no higher."""
        return value

    def gap_variability(self, given: WorkloadSpec) -> float:
        """Squared coefficient of variation of the gaps between requests; unknown, as Poisson's."""
        return float(getattr(given.arrivals, "cv", 1.0)) ** 2

    def at(self, setup: Setup, value: float, requests: int) -> Setup:
        """Return the replica under a load."""
        scenario = setup.scenario
        workload = self.workload(scenario.workload, value, requests)
        run = scenario.run
        run = run.model_copy(update={"warmup_fraction": max(WARMUP, run.warmup_fraction)})
        changes = {"workload": workload, "run": run}
        return replace(setup, scenario=scenario.model_copy(update=changes))


class _Rate(Load):
    """Arrivals of one rate."""

    unit = "requests/s"

    def workload(self, given: WorkloadSpec, value: float, requests: int) -> WorkloadSpec:
        """Shrink the gaps."""
        if given.arrivals is None:
            raise UnsupportedError("a trace has no rate to set")
        arrivals = given.arrivals.model_copy(update={"rate": value})
        limits = {"requests": requests, "duration_seconds": None}
        return given.model_copy(update={"arrivals": arrivals, **limits})

    def stated(self, given: WorkloadSpec) -> float:
        """Its rate, requests/s."""
        return float(getattr(given.arrivals, "rate", 0.0))

    def gap_variability(self, given: WorkloadSpec) -> float:
        """That of the kind; even gaps have none."""
        even = getattr(given.arrivals, "kind", "") == "constant"
        return 0.0 if even else super().gap_variability(given)


class _Users(Load):
    """Clients of a closed loop, who arrive one after the other within a time to think."""

    unit = "users"
    is_open = False

    def workload(self, given: WorkloadSpec, value: float, requests: int) -> WorkloadSpec:
        """Let more clients in."""
        arrivals = given.arrivals
        if not isinstance(arrivals, ClosedLoopArrivals):
            raise UnsupportedError("only a closed loop has users")
        thought = arrivals.think.draw(np.random.default_rng(0), _DRAWS)
        changes = {
            "clients": int(value),
            "ramp_seconds": max(arrivals.ramp_seconds, float(thought.mean())),
        }
        limits = {"requests": requests, "duration_seconds": None}
        return given.model_copy(update={"arrivals": arrivals.model_copy(update=changes), **limits})

    def stated(self, given: WorkloadSpec) -> float:
        """Its clients."""
        return float(getattr(given.arrivals, "clients", 0))

    def fewest(self, value: float, requests: int) -> int:
        """Some turns of every user."""
        return max(requests, _TURNS_EACH * ceil(value))

    def rounded(self, value: float) -> float:
        """Whole users, one at least."""
        return float(max(1, round(value)))

    def floored(self, value: float) -> float:
        """Whole users; 0 is none."""
        return float(int(value))


@dataclass(frozen=True)
class _Recorded(Load):
    """A trace whose clock runs faster or slower.

    Parameters
    ----------
    own_rate : float
        Requests per second as recorded.
    requests : int
        How many there are.
    """

    own_rate: float
    requests: int
    unit = "requests/s"
    is_drawn = False

    def workload(self, given: WorkloadSpec, value: float, requests: int) -> WorkloadSpec:
        """Scale the recorded times."""
        if given.trace is None:
            raise UnsupportedError("no trace is given")
        trace = given.trace.model_copy(update={"time_scale": self.own_rate / value})
        limits = {"requests": self.requests, "duration_seconds": None}
        return given.model_copy(update={"trace": trace, **limits})

    def stated(self, given: WorkloadSpec) -> float:
        """Its mean rate at its own speed, requests/s."""
        return self.own_rate / (given.trace.time_scale if given.trace else 1.0)


def load_of(scenario: Scenario) -> Load:
    """Say what is raised in a scenario.

    Raises
    ------
    UnsupportedError
        For arrivals that have no one rate to raise.
    InputError
        For a trace that cannot be read.
    """
    workload = scenario.workload
    kind = getattr(workload.arrivals, "kind", "trace")
    if kind in _STEADY_KINDS:
        return _Rate()
    if kind == "closed_loop":
        return _Users()
    if kind == "trace" and (recorded := _recorded(scenario)):
        return recorded
    raise UnsupportedError(
        f"no highest rate of arrivals of the kind {kind!r}: they have no one rate to raise;"
        f" use {', '.join(_STEADY_KINDS)}, closed_loop, or a trace with recorded arrivals"
    )


def _recorded(scenario: Scenario) -> _Recorded | None:
    """Read a trace's own rate; None where its requests have no times, or one time."""
    own = scenario.workload.trace
    replay = build_workload(scenario.workload, scenario.folder)
    if own is None or not isinstance(replay, TraceReplay):
        return None
    arrivals = [table.arrival_seconds for table in replay.tables(Streams(scenario.run.seed))]
    times = np.concatenate(arrivals) / own.time_scale if arrivals else np.empty(0)
    span = float(times.max() - times.min()) if len(times) else 0.0
    if span and len(times) < FEWEST_REQUESTS:
        raise InputError(
            f"its {len(times):,} requests say nothing of a percentile",
            where=f"trace {own.file}",
            fix=f"give at least {FEWEST_REQUESTS}",
        )
    return _Recorded(len(times) / span, len(times)) if span else None
