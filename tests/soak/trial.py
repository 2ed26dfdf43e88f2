"""Run one world in every way, and let every checker judge it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

import kvsim
from kvsim.results.outputs import write_outputs
from kvsim.results.result import SimulationResult
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from tests.soak import runs
from tests.soak.agreement import agree, understands
from tests.soak.checkers import CHECKERS, LawError, Told, hold, is_prefix, same
from tests.soak.policies import registered
from tests.soak.worlds import World, draw_world

__all__ = ["LawError", "try_seed"]


def try_seed(seed: int) -> Counter[str]:
    """Draw a world and try it; count what there was in it.

    Raises
    ------
    Exception
        Whatever goes wrong: a law that is broken, or an error of the simulator itself.
    """
    with TemporaryDirectory() as place, registered():
        folder = Path(place)
        world = draw_world(seed, folder)
        return _tried(world, world.written(folder), folder)


def _tried(world: World, scenario: Scenario, folder: Path) -> Counter[str]:
    whole = _judged(kvsim.simulate(scenario))
    same(whole, Told(kvsim.simulate(scenario)), "the same world, twice")
    seen = Counter(_features(world, whole))
    _look_at(world, scenario, whole)
    seen["that the oracle can play agreed with it"] += _in_company(world, scenario, whole)
    _cut(world, scenario, whole)
    _interrupt(world, scenario, whole)
    _publish(whole, folder / "out")
    return seen


def _judged(result: SimulationResult, *, whole: bool = True) -> Told:
    told = Told(result, whole)
    for check in CHECKERS:
        try:
            check(told)
        except LawError as wrong:
            raise LawError(f"{check.__name__}: {wrong}") from None
    return told


def _features(world: World, whole: Told) -> dict[str, int]:
    """What the world had in it, for the report."""
    summary = whole.result.summary
    return {
        "worlds": 1,
        "requests": len(whole.requests["row"]),
        "with preemptions": int(whole.preemptions > 0),
        "with refusals": int(summary["rejected"] > 0),
        "with prefix hits": int(summary["prefix_cache"]["hits"] > 0),
        "closed loops": int(whole.setup.scenario.workload.arrivals is not None
                            and whole.setup.scenario.workload.arrivals.kind == "closed_loop"),
        "traces": int(bool(world.trace)),
    }  # fmt: skip


def _look_at(world: World, scenario: Scenario, whole: Told) -> None:
    """A camera and a watch change no request; what the camera keeps is a pool that adds up."""
    result, camera, seen = runs.looked_at(scenario, world.frames)
    looked = _judged(result)
    for name, column in looked.requests.items():
        alike = np.allclose(column, whole.requests[name], rtol=1e-9, atol=1e-12, equal_nan=True)
        hold(alike, f"a run that is looked at has another {name}")
    for frame in camera.frames:
        blocks = frame.held + frame.cached + frame.free
        hold(min(frame.free, frame.cached) >= 0, "a frame with less than no blocks")
        hold(blocks == camera.total_blocks, f"a frame of {blocks} blocks of {camera.total_blocks}")
    hold(len(camera.frames) <= world.frames, "more frames than a camera keeps")
    hold(all(0 <= usage <= 1 for *_, usage in seen), "a watch saw a pool over its size")


def _in_company(world: World, scenario: Scenario, whole: Told) -> bool:
    """Beside other processes the run is the same; an independent engine agrees with it."""
    setup = prepare(scenario)
    log, replica = runs.beside_others(setup, world.onlookers, world.seed)
    for name, column in log.step_columns().items():
        hold(np.array_equal(column, whole.steps[name]), f"in company, steps differ in {name}")
    finish = np.array(log.finish_seconds)[whole.requests["row"].astype(int)]
    alike = np.array_equal(finish, whole.requests["finish_seconds"], equal_nan=True)
    hold(alike, "in company, requests finish at other times")
    _every_admission(setup.scenario.scheduler.preemption, log)
    allocator = replica.scheduler.allocator
    held = allocator.total_blocks - allocator.free_blocks
    hold(held == 0, f"{held} blocks are held when everybody has gone")
    if not understands(setup):
        return False
    agree(setup, log, replica)
    return True


def _every_admission(preemption: str, log: runs.Log) -> None:
    """Who is preempted is admitted once more, or brought back from the host.

    But for who had ended, and had to give its memory up before the next step was planned.
    """
    admitted = Counter(row for row, *_ in log.admissions)
    starts, finish = log.step_columns()["start_seconds"], log.finish_seconds
    preemptions = Counter(
        row for row, step in log.preempted if step >= len(starts) or starts[step] != finish[row]
    )
    for row, times in admitted.items():
        most = 1 + preemptions[row]
        hold(times <= most, f"request {row} was admitted {times} times of {most}")
        if preemption == "recompute":
            hold(times == most, f"request {row} was admitted {times} times, not {most}")


def _cut(world: World, scenario: Scenario, whole: Told) -> None:
    """A run with a horizon is the beginning of the whole one."""
    seconds = world.cut_share * whole.result.recording.end_seconds
    if seconds > 0:
        part = _judged(runs.cut(scenario, seconds), whole=False)
        is_prefix(part, whole, seconds)


def _interrupt(world: World, scenario: Scenario, whole: Told) -> None:
    """Ctrl-C at any moment leaves what was recorded until then, and it can be judged."""
    calls = int(world.interrupt_share * runs.calls_of(scenario))
    if calls > 0:
        result = runs.interrupted(scenario, calls)
        hold(result.summary["interrupted"], "an interrupted run does not say so")
        part = _judged(result, whole=False)
        last = part.steps["start_seconds"].max(initial=0.0)
        is_prefix(part, whole, float(last))


def _publish(told: Told, folder: Path) -> None:
    """The files of a run say what its tables say."""
    write_outputs(told.result, folder)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    for key, value in told.result.summary.items():
        hold(summary[key] == value, f"summary.json has another {key}")
    timeline = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    hold(timeline, "the timeline is empty")
    for name in ("requests", "steps"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        hold(table.equals(getattr(told.result, name)), f"{name}.parquet differs from the table")
