"""Where the simulation meets time: what onlookers are told, and when the process ends."""

from collections.abc import Generator

import numpy as np
import pytest
import simpy

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.parts import Case, Given, Log, Pool, build, table

LIMIT = 200  # tokens that a request may have
CASE = Case(
    "vllm-v1",
    Pool("paged", 60, BlockCurve(4)),
    SchedulerLimits(8, 64, LIMIT),
    step_time=ConstantStepTime(0.5),
)


def crowd(count: int) -> Given:
    """A prompt every second step, so that every run of steps is a short one; one in ten is
    longer than the limit."""
    rows = np.arange(count)
    prompts = np.where(rows % 10 == 7, LIMIT + 1, 5 + rows % 50)
    return Given([table(1.0 * rows, prompts, 9 - rows % 9)])


def watched(count: int) -> tuple[Log, list[tuple[float, int, float]]]:
    """A run, and what its watch was told: seconds, requests done, and usage."""
    log, told = Log(), list[tuple[float, int, float]]()
    made = build(CASE, crowd(count), log)
    replica = Replica(
        made.scheduler,
        made.clock,
        made.arrivals,
        log,
        watch=lambda *what: told.append(what),
    )
    env = simpy.Environment()
    env.run(env.process(replica.process(env)))
    return log, told


def test_a_watch_is_told_who_is_done_and_how_full_the_pool_is() -> None:
    log, told = watched(1500)
    arrivals, ends = np.arange(1500.0), np.array(log.finish_seconds)
    refused = arrivals[np.isnan(ends)]
    assert len(refused) == 150
    rows = log.step_columns()
    after = rows["start_seconds"] + rows["seconds"]
    cached = [5 + row % 50 + 8 - row % 9 for row in range(1500)]  # all tokens but the last
    blocks = np.array([-(-tokens // 4) for tokens in cached])
    assert len(told) >= 3
    for now, done, usage in told:
        finished = np.count_nonzero(ends <= now)
        # Whoever arrives at the very end of a step is taken in when the next one begins.
        waited = np.count_nonzero(refused < now)
        assert done == finished + waited
        (row,) = np.flatnonzero(after == now)
        held = (rows["held_slots"] + rows["grown_slots"])[row]
        given_back = 4 * blocks[ends == now].sum()
        assert usage == pytest.approx((held - given_back) / (60 * 4))


def test_the_environment_s_clock_is_at_the_end_of_the_last_step() -> None:
    """The replica runs ahead of it, and waits for it at the end."""
    env, log = simpy.Environment(), Log()
    replica = build(CASE, crowd(40), log)
    env.run(env.process(replica.process(env)))
    rows = log.step_columns()
    assert env.now == replica.now == (rows["start_seconds"] + rows["seconds"])[-1]


@pytest.mark.parametrize("every", [0.3, 7.0])
def test_an_onlooker_never_sees_the_future(every: float) -> None:
    """Another process looks now and then: no step has begun that begins later than its now."""
    env, log = simpy.Environment(), Log()
    replica = build(CASE, crowd(200), log)
    served = env.process(replica.process(env))
    seen: list[tuple[float, float]] = []

    def look() -> Generator[simpy.Event, None, None]:
        while served.is_alive:
            starts = log.step_columns()["start_seconds"]
            if len(starts):
                seen.append((env.now, starts[-1]))
            yield env.timeout(every)

    env.process(look())
    env.run()
    assert len(seen) > 20
    assert all(begun <= now for now, begun in seen)
    alone = Log()
    run_replica(build(CASE, crowd(200), alone))
    assert log.finish_seconds == pytest.approx(alone.finish_seconds, nan_ok=True)
