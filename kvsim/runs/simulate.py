"""Run a scenario: the one place where workload, scheduler, memory and clock meet time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from kvsim.errors import InputError
from kvsim.results.result import SimulationResult
from kvsim.simulator.arrival_queue import ArrivalQueue
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup, make_clock, make_scheduler, prepare
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, Watch, run_replica
from kvsim.simulator.scenario import Scenario
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

__all__ = ["collector_paused", "run_setup", "simulate"]


def simulate(
    scenario: Scenario,
    seed: int | None = None,
    *,
    watch: Watch | None = None,
    camera: Camera | None = None,
) -> SimulationResult:
    """Run one scenario once.

    Parameters
    ----------
    scenario : Scenario
        The question; see `kvsim.load_scenario`.
    seed : int, optional
        Seed of every random stream; the scenario's own when left out.
    watch : callable, optional
        ``watch(simulated_seconds, requests_done, pool_usage)``, called now and then; done is
        who was finished or refused. A ``KeyboardInterrupt`` raised anywhere ends the run and
        keeps what was finished.
    camera : Camera, optional
        Keeps frames of who holds which blocks; see `kvsim.simulator.camera`.

    Raises
    ------
    InputError, UnsupportedError
        For a scenario that cannot be run; see the message.
    """
    start = scenario.run.seed if seed is None else seed
    return run_setup(prepare(scenario), start, watch=watch, camera=camera)


def run_setup(
    setup: Setup, seed: int, *, watch: Watch | None = None, camera: Camera | None = None
) -> SimulationResult:
    """Run a prepared scenario with one seed; see `simulate`."""
    scenario, recorder = setup.scenario, Recorder()
    with _located(scenario):
        workload = build_workload(scenario.workload, scenario.folder)
        arrivals = ArrivalQueue(workload, Streams(seed), recorder)
    scheduler = make_scheduler(setup, recorder)
    replica = Replica(scheduler, make_clock(setup), arrivals, recorder, watch=watch)
    replica.camera = camera
    interrupted = False
    with collector_paused(), _located(scenario):
        try:
            run_replica(replica, scenario.run.max_seconds or inf)
        except KeyboardInterrupt:
            interrupted = True
    report = getattr(workload, "report", None)  # of a trace's reader
    notes = tuple(report.lines()) if report is not None else ()
    return SimulationResult(setup, seed, recorder, replica.now, interrupted, notes)


@contextmanager
def _located(scenario: Scenario) -> Iterator[None]:
    """Say of a key of the workload that turns out wrong where it was given."""
    try:
        yield
    except InputError as error:
        if not error.where.startswith("workload."):
            raise
        raise InputError(error.what, where=scenario.where(error.where), fix=error.fix) from None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cycle collector: a run makes millions of objects and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
