"""Let a world happen: whole, looked at, cut short, interrupted, beside others, and step by step."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import simpy

import kvsim
from kvsim.results.result import SimulationResult
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.assemble import make_clock, make_scheduler
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.scenario import Scenario
from kvsim.workload.base import ClosedLoop, Workload
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams
from tests.support.parts import Log, watch_laws

__all__ = ["beside_others", "calls_of", "cut", "interrupted", "looked_at", "workload_of"]

Callback = Callable[[FrameType, str, Any], None]


def workload_of(setup: Setup) -> Workload | ClosedLoop:
    """Build the world's workload once more."""
    return build_workload(setup.scenario.workload, setup.scenario.folder)


def cut(scenario: Scenario, seconds: float) -> SimulationResult:
    """Run until some simulated time."""
    return kvsim.simulate(kvsim.with_overrides(scenario, {"run.max_seconds": seconds}))


def looked_at(scenario: Scenario, frames: int) -> tuple[SimulationResult, Camera, list[Any]]:
    """Run with a camera and a watch; return what they saw, too."""
    camera, seen = Camera(frames), list[Any]()
    result = kvsim.simulate(scenario, watch=lambda *what: seen.append(what), camera=camera)
    return result, camera, seen


def beside_others(setup: Setup, onlookers: int, seed: int) -> tuple[Log, Replica]:
    """Run in an environment with other processes, checking the engine's laws at every event."""
    log = Log()
    scheduler = make_scheduler(setup, log)
    log.watch_admissions(scheduler)
    watch_laws(scheduler, log)
    streams = Streams(setup.scenario.run.seed)
    arrivals = arrival_queue(workload_of(setup), streams, log, setup.step_time.front_end)
    replica = Replica(scheduler, make_clock(setup), arrivals, log)
    env = simpy.Environment()
    for number in range(onlookers):
        env.process(_onlooker(env, replica, random.Random(f"{seed} {number}")))
    env.run(env.process(replica.process(env)))
    return log, replica


def _onlooker(
    env: simpy.Environment, replica: Replica, dice: random.Random
) -> Generator[simpy.Event, None, None]:
    while True:
        yield env.timeout(dice.expovariate(5.0))
        assert env.now <= replica.now, "a process of the environment found the replica behind"


# ---- Ctrl-C -------------------------------------------------------------------------------


def calls_of(scenario: Scenario) -> int:
    """Count the calls of functions while the run's time passes."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    with _at_every_call(count):
        kvsim.simulate(scenario)
    return counted


def interrupted(scenario: Scenario, calls: int) -> SimulationResult:
    """Press Ctrl-C at the call of that number.

    Python swallows what is raised while a generator that nobody wants any more is closed, and stops
    watching calls; then Ctrl-C is pressed again, at the next call.
    """
    left, told, watching = calls, sys.unraisablehook, sys.getprofile()

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        nonlocal left
        if issubclass(what.exc_type, KeyboardInterrupt):
            left = 1
            sys.setprofile(watching)
        else:
            told(what)

    sys.unraisablehook = swallowed
    try:
        with _at_every_call(count):
            watching = sys.getprofile()
            return kvsim.simulate(scenario)
    finally:
        sys.unraisablehook = told


@contextmanager
def _at_every_call(told: Callable[[], None]) -> Iterator[None]:
    """Be told of each call, of Python's functions and of C's, in `run_replica`."""
    before = sys.getprofile()
    sys.setprofile(partial(_inside, [False], told))
    try:
        yield
    finally:
        sys.setprofile(before)


def _inside(
    running: list[bool], told: Callable[[], None], frame: FrameType, event: str, arg: Any
) -> None:
    if frame.f_code is run_replica.__code__ and event in ("call", "return"):
        running[0] = event == "call"
    elif running[0] and event in ("call", "c_call"):
        told()
