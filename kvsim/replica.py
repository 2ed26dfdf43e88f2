"""The edge between the simulation and time: one SimPy process a replica, one timeout a run.

::

    now ──▶ arrivals that are due join the queue
        ──▶ the scheduler plans                    (None: sleep until the next arrival)
        ──▶ how many steps, and how long?          closed form, cut at the next arrival
        ──▶ yield timeout                          the only place where time passes
        ──▶ finish: tokens, completions            and, in a closed loop, new arrivals
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf

import simpy

from kvsim.arrivals import ArrivalQueue
from kvsim.errors import InvariantError
from kvsim.recorder import Recorder
from kvsim.schedulers.base import Scheduler, StepPlan
from kvsim.stepclock import StepClock

__all__ = ["Replica", "Watch", "run_replica"]

Watch = Callable[[float, int, float], None]
_WATCH_EVERY = 4096  # runs of steps


class Replica:
    """One engine instance on one set of accelerators.

    Parameters
    ----------
    scheduler : Scheduler
        Decides every step.
    clock : StepClock
        Says how long steps take; injected, so that a constant makes this an M/D/1 server.
    arrivals : ArrivalQueue
        The requests, in order of time.
    recorder : Recorder
        Where every run of steps is written down.
    watch : callable, optional
        ``watch(simulated_seconds, arrivals so far, pool usage)``, called now and then.

    Attributes
    ----------
    now : float
        The replica's time, seconds; at or ahead of the environment's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: StepClock,
        arrivals: ArrivalQueue,
        recorder: Recorder,
        *,
        watch: Watch | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.clock = clock
        self.arrivals = arrivals
        self.recorder = recorder
        self.now = 0.0
        self._watch = watch

    def process(
        self, env: simpy.Environment, until: float = inf
    ) -> Generator[simpy.Event, None, None]:
        """Serve until there is nothing left to do, or `until`: a SimPy process.

        The replica runs ahead of the environment's clock for as long as no other process
        has an event before the end of its run: nobody could tell the difference. While it
        does not yield, nobody can add such an event either.
        """
        scheduler, arrivals = self.scheduler, self.arrivals
        now, horizon = env.now, env.peek()
        while now < until:
            while arrivals.next_seconds <= now:
                scheduler.submit(arrivals.pop())
            plan = scheduler.plan(now)
            if plan is None:
                if scheduler.waiting:
                    raise InvariantError(f"idle, while {len(scheduler.waiting)} requests wait")
                if arrivals.next_seconds == inf:
                    break
                now = self.now = arrivals.next_seconds
                yield env.timeout(now - env.now)
                horizon = env.peek()
                continue
            steps, seconds = self._span(plan, now)
            now = self.now = now + self._take(plan, steps, seconds, now)
            if horizon < now:
                yield env.timeout(now - env.now)
                horizon = env.peek()
            for request in scheduler.finish(plan, steps, now):
                arrivals.finished(request, now)
            if self._watch and self.recorder.step_rows % _WATCH_EVERY == 0:
                self._watch(now, arrivals.popped, scheduler.allocator.usage)
        yield env.timeout(max(0.0, now - env.now))

    def _span(self, plan: StepPlan, now: float) -> tuple[int, float]:
        """Steps of the run that starts now, and its seconds."""
        batch = self.scheduler.batch
        if plan.prefills or plan.moved_tokens or not plan.decodes:
            return 1, self.clock.mixed_seconds(plan, batch)
        waiting = self.scheduler.waiting
        if waiting and not waiting.arrivals_can_overtake:
            return self.clock.decode_run(batch, plan.steps, inf)  # behind a blocked queue
        return self.clock.decode_run(batch, plan.steps, self.arrivals.next_seconds - now)

    def _take(self, plan: StepPlan, steps: int, seconds: float, now: float) -> float:
        """Take the run's blocks and write the run down; return its seconds, copies included."""
        scheduler = self.scheduler
        batch, allocator, waiting = scheduler.batch, scheduler.allocator, scheduler.waiting
        tokens = scheduler.cached_tokens_in_all()
        slots = allocator.slots(tokens, waiting.head() if waiting else None)
        size = allocator.curve.block_size
        held = (allocator.total_blocks - allocator.free_blocks) * size - allocator.rounded_slots
        decoding = read = taken = 0
        if plan.decodes and batch.sequences:
            decoding, read = batch.sequences, batch.kv_bytes
            taken = allocator.take(batch, steps) * size
        if allocator.copied_tokens:
            seconds += allocator.copied_tokens * self.clock.copy_seconds_per_token
            allocator.copied_tokens = 0
        prompts = sum([count for _, count in plan.prefills]) if plan.prefills else 0
        run = (now, seconds, steps, decoding, prompts, read, len(waiting), tokens, held, taken)
        self.recorder.steps(run + slots)
        return seconds


def run_replica(replica: Replica, until: float = inf) -> None:
    """Run one replica alone, in an environment of its own, to the end of its work or `until`."""
    env = simpy.Environment()
    env.run(env.process(replica.process(env, until)))
