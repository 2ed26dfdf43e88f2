"""Run a scenario: the one place where workload, scheduler, memory and clock meet time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from kvsim.interrupts import released
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.assemble import make_clock, make_scheduler
from kvsim.simulator.blame import blaming
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, Watch, run_replica
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

__all__ = ["Recording", "collector_paused", "record"]


@dataclass(frozen=True)
class Recording:
    """What happened in one run, not judged yet.

    Parameters
    ----------
    setup : Setup
        The scenario and everything derived from it.
    seed : int
        Seed of the run.
    recorder : Recorder
        What happened.
    end_seconds : float
        Simulated time at the end.
    interrupted : bool
        Whether the run was cut before its last request.
    notes : tuple of str
        What the reader of a trace left out or changed.
    """

    setup: Setup
    seed: int
    recorder: Recorder
    end_seconds: float
    interrupted: bool = False
    notes: tuple[str, ...] = ()


def record(
    setup: Setup, seed: int, *, watch: Watch | None = None, camera: Camera | None = None
) -> Recording:
    """Run a prepared scenario with one seed.

    Parameters
    ----------
    setup : Setup
        See `kvsim.simulator.prepare.prepare`.
    seed : int
        Seed of every random stream.
    watch, camera
        See `kvsim.simulate`. A ``KeyboardInterrupt`` raised anywhere ends the run and keeps
        what was finished.

    Raises
    ------
    InputError
        For a workload that cannot be built, or that nobody can serve.
    """
    scenario, recorder = setup.scenario, Recorder()
    with released(), blaming(scenario):
        workload = build_workload(scenario.workload, scenario.folder)
        front_end = setup.step_time.front_end
        arrivals = arrival_queue(workload, Streams(seed), recorder, front_end)
    scheduler = make_scheduler(setup, recorder)
    replica = Replica(scheduler, make_clock(setup), arrivals, recorder, watch=watch)
    replica.camera = camera
    interrupted = False
    with collector_paused(), blaming(scenario):
        try:
            with released():
                run_replica(replica, scenario.run.max_seconds or inf)
        except KeyboardInterrupt:
            interrupted = True
    report = getattr(workload, "report", None)  # of a trace's reader
    notes = tuple(report.lines()) if report is not None else ()
    return Recording(setup, seed, recorder, replica.now, interrupted, notes)


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
