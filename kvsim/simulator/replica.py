"""The edge between the simulation and time: one SimPy process per replica, one timeout per run.

::

    now ──▶ arrivals that are due join the queue
        ──▶ the scheduler schedules                (None: sleep until the next arrival)
        ──▶ how many steps, and how long?          closed form, cut at the next arrival
        ──▶ yield timeout                          the only place where time passes
        ──▶ finish: tokens, completions            and, in a closed loop, new arrivals
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf

import simpy

from kvsim.errors import InvariantError
from kvsim.simulator.allocators.base import Allocator, Slots
from kvsim.simulator.arrival_queue import ArrivalQueue
from kvsim.simulator.batch import HybridBatch
from kvsim.simulator.camera import Camera
from kvsim.simulator.clock import StepClock
from kvsim.simulator.recorder import DECODE_ROW, STEP_ROW, Recorder
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.steps import StepPlan

__all__ = ["Replica", "Watch", "run_replica"]

Watch = Callable[[float, int, float], None]
_WATCH_EVERY = 256  # runs of steps

_row, _decode_row = STEP_ROW.pack, DECODE_ROW.pack


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
        ``watch(simulated_seconds, requests done, pool usage)``, called now and then.

    Attributes
    ----------
    now : float
        The replica's time, seconds; at or ahead of the environment's.
    seen : float
        Until when the next plan has seen arrivals, seconds: `now`, or, where a step is
        scheduled while the one before it is computed, the beginning of that one.
    camera : Camera or None
        Looks at the scheduler between two runs, now and then.
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
        self.now = self.seen = 0.0
        self._is_async = scheduler.is_async
        self.camera: Camera | None = None
        self._watch = watch
        self._is_closed_loop = arrivals.is_closed_loop
        self._is_plain = _is_plain(scheduler.allocator)
        self._shares = scheduler.allocator.shares_prefixes
        batch = scheduler.batch
        self._hybrid = batch if isinstance(batch, HybridBatch) else None
        self._slots_per_block = scheduler.allocator.slots_per_block
        # most have no more to say than how many blocks are free
        self._weighs_blocks = type(scheduler.allocator).held_slots is not Allocator.held_slots
        # members of a closed batch that have ended share as well
        self._is_usual = self._is_plain and not (
            scheduler.keeps_batch_closed or self._weighs_blocks or self._hybrid
        )

    def process(
        self, env: simpy.Environment, until: float = inf
    ) -> Generator[simpy.Event, None, None]:
        """Serve until there is nothing left to do, or `until`: a SimPy process.

        The replica runs ahead of the environment's clock for as long as no other process
        has an event before the end of its run: nobody could tell the difference. While it
        does not yield, nobody can add such an event either.

        Raises
        ------
        InvariantError
            When the laws of the scheduler, its batch and its memory do not hold at the end.
        """
        scheduler, arrivals = self.scheduler, self.arrivals
        now = self.now = self.seen = env.now
        closed_loop = self._is_closed_loop
        # whoever waits for a batch to end has that to decide as well
        is_plain = self._is_plain and not (self.camera or scheduler.keeps_batch_closed)
        looked_at = self.camera is not None or self._watch is not None
        horizon = min(until, env.peek())
        while now < until:
            if arrivals.next_seconds <= self.seen:
                self._add_arrivals(self.seen)
            elif (
                is_plain
                and not (scheduler.queued or scheduler.prefilling or scheduler.moved_tokens)
                and self._decode_on(horizon)
            ):
                now = self.now
                continue
            plan = scheduler.schedule(now)
            if plan is None:
                if self._sees_more(now):
                    continue
                if self._is_over():
                    break
                now = self.now = self.seen = arrivals.next_seconds
                yield env.timeout(now - env.now)
                horizon = min(until, env.peek())
                continue
            steps, now = self._take(plan, now)
            if horizon < now:
                yield env.timeout(now - env.now)
                horizon = min(until, env.peek())
            done = scheduler.finish(plan, steps, now)
            if done and closed_loop:
                arrivals.finished(done, now)
            if looked_at:
                self._show(now)
        scheduler.check()  # a block that was lost on the way is missing now
        yield env.timeout(max(0.0, now - env.now))

    def _add_arrivals(self, now: float) -> None:
        """Hand the arrivals that are due to the scheduler."""
        arrivals = self.arrivals
        while arrivals.next_seconds <= now:
            request = arrivals.pop()
            if not self.scheduler.add_request(request):
                arrivals.refused(request)

    def _take(self, plan: StepPlan, now: float) -> tuple[int, float]:
        """Begin a run of steps; return how many, and when they end."""
        scheduler = self.scheduler
        steps, seconds, lead = self._span(plan, now)
        end = self.now = now + self._begin(plan, steps, seconds, now)
        self.seen = now + lead if self._is_async else end
        if scheduler.leaving:
            scheduler.settle()
        return steps, end

    def _sees_more(self, now: float) -> bool:
        """Whether an idle replica sees more than before: nothing is in flight any more.

        What was preempted left room, too.
        """
        seen, self.seen = self.seen, now
        return self.scheduler.settle() or seen < now or self.scheduler.gave_way

    def _is_over(self) -> bool:
        """Whether an idle replica has nothing to wait for.

        Raises
        ------
        InvariantError
            When requests wait that nobody will ever admit.
        """
        if self.scheduler.queued:
            raise InvariantError(f"idle, while {self.scheduler.queued} requests wait")
        return self.arrivals.next_seconds == inf

    def _show(self, now: float) -> None:
        """Let those who look on have their look."""
        if self.camera is not None and now >= self.camera.next_seconds:
            self.camera.shoot(now, self.scheduler)
        if self._watch and self.recorder.step_rows % _WATCH_EVERY == 0:
            scheduler = self.scheduler
            done = self.arrivals.popped - scheduler.queued - len(scheduler.running)
            self._watch(now, done, scheduler.allocator.usage)

    def _decode_on(self, until: float) -> bool:
        """Decode, completion after completion, to the next arrival, a shortage, or `until`.

        Nobody waits and nobody prefills, so every policy does the same, and is not asked.
        Nor is the memory policy, which must have no more to say than how many blocks are held.

        Returns
        -------
        bool
            Whether time passed. If not, the first step lacks memory.
        """
        scheduler, arrivals, clock = self.scheduler, self.arrivals, self.clock
        batch, allocator, write = scheduler.batch, scheduler.allocator, self.recorder.write_steps
        total, size, hybrid = allocator.total_blocks, self._slots_per_block, self._hybrid
        is_async, beyond, shares = self._is_async, int(self._is_async), allocator.shares_prefixes
        start = now = self.now
        seen, coming = self.seen, arrivals.next_seconds
        phases = batch.phases
        while batch.sequences and coming > seen:
            leaving = scheduler.leaving
            limit = allocator.decode_steps(batch, 1 if leaving else batch.steps_to_change())
            if not limit:
                break
            steps, seconds, lead = clock.decode_run(batch, limit, coming - now, beyond)
            end = now + seconds
            if end > until:
                break
            opening, free = phases.blocks_for(batch.step, steps), allocator.free_blocks
            kept = allocator.cached_blocks
            if opening:
                allocator.allocate_steps(batch, steps, opening)
            held, grown = (total - free) * size, (free - allocator.free_blocks) * size
            sequences, read, claimed = batch.sequences, batch.kv_bytes, scheduler.claimed_slots
            if hybrid:
                filled = scheduler.filled_slots() - scheduler.shared_slots()
                self.recorder.filling_slots.append(hybrid.filling_slots(steps))
            elif leaving:
                filled = scheduler.cached_tokens_in_all() - scheduler.shared_slots()
            else:
                filled = batch.tokens - batch.shared_slots
            if shares:
                shared = allocator.further_refs * size
                write(_row(now, seconds, steps, sequences, 0, read, 0, filled - shared,
                           claimed - shared, held, grown, 0, 0, kept * size))  # fmt: skip
            else:
                write(
                    _decode_row(now, seconds, steps, sequences, read, filled, claimed, held, grown)
                )
            scheduler.claimed_slots = claimed + opening * size
            seen = self.seen = now + lead if is_async else end
            now = self.now = end  # at once: an interrupt may fall anywhere
            if leaving:
                scheduler.settle()
            done = scheduler.decoded(steps, now)
            if done and self._is_closed_loop:
                arrivals.finished(done, now)
                coming = arrivals.next_seconds
        return now > start

    def _span(self, plan: StepPlan, now: float) -> tuple[int, float, float]:
        """Steps of the run that starts now, its seconds, and those of all steps but the last."""
        batch = self.scheduler.batch
        if plan.prefills or plan.moved_tokens or not plan.decodes:
            return 1, self.clock.mixed_seconds(plan, batch), 0.0
        waiting, arrivals = self.scheduler.waiting, self.arrivals
        if waiting and not self.scheduler.heeds_arrivals and not self._is_closed_loop:
            return self.clock.decode_run(batch, plan.steps, inf)  # behind a blocked queue
        # in a closed loop whoever is refused there asks again, in the meantime
        gap = arrivals.next_seconds - now
        return self.clock.decode_run(batch, plan.steps, gap, int(self._is_async))

    def _begin(self, plan: StepPlan, steps: int, seconds: float, now: float) -> float:
        """Allocate the run's blocks and record it; return its seconds, copies included."""
        scheduler = self.scheduler
        batch, allocator = scheduler.batch, scheduler.allocator
        decoding = read = grown = due = left = prompts = reserved = external = cached = shared = 0
        claimed = scheduler.claimed_slots
        if plan.prefills or plan.moved_tokens:
            allocator.take_closed()  # who has come in may hold them by now
        if plan.prefills:
            prompts = sum(count for _, count in plan.prefills)
            claimed += self._claimed_by(plan.prefills)
        if self._is_usual:
            size = self._slots_per_block
            filled = scheduler.cached_tokens_in_all() - scheduler.shared_slots()
            before = held = (allocator.total_blocks - allocator.free_blocks) * size
            if self._shares:
                cached, shared = allocator.cached_blocks * size, allocator.further_refs * size
                filled -= shared
        else:
            before = allocator.held_slots
            filled, held, (reserved, external, cached, shared) = self._look(plan, steps)
        if opened := plan.opened_blocks:
            held -= opened * self._slots_per_block
            cached += plan.evicted_blocks * self._slots_per_block
        if plan.decodes and batch.sequences:
            decoding, read = batch.sequences, batch.kv_bytes
            opening, free = batch.phases.blocks_for(batch.step, steps), allocator.free_blocks
            due = allocator.claim_steps(batch, steps, opening)
            allocator.allocate_steps(batch, steps, opening - opened)
            left = allocator.take_closed()
            grown = (free - allocator.free_blocks + opened) * self._slots_per_block
            if self._weighs_blocks:
                grown = allocator.held_slots - before + opened * self._slots_per_block
        scheduler.claimed_slots = claimed + due
        if allocator.gives_back:
            self.recorder.left_slots.append(left * self._slots_per_block)
        if allocator.copied_tokens:
            seconds += allocator.copied_tokens * self.clock.copy_seconds_per_token
            allocator.copied_tokens = 0
        row = _row(
            now, seconds, steps, decoding, prompts, read, scheduler.queued,
            filled, claimed - shared, held, grown, reserved, external, cached,
        )  # fmt: skip
        self.recorder.write_steps(row)
        return seconds

    def _claimed_by(self, chunks: list[tuple[Request, int]]) -> int:
        """Slots that prompts are due beyond their own once these chunks of them are computed."""
        claim, claimed = self.scheduler.allocator.claim, 0
        for request, count in chunks:
            done = request.computed_tokens
            claimed += claim(request, done + count)
            if done:
                claimed -= claim(request, done)
        return claimed

    def _look(self, plan: StepPlan, steps: int) -> tuple[int, int, Slots]:
        """Slots that are filled, held and set apart, where a filled slot is more than a token."""
        scheduler, hybrid = self.scheduler, self._hybrid
        allocator, waiting = scheduler.allocator, scheduler.waiting
        held = allocator.held_slots - allocator.rounded_slots
        if not allocator.keeps_tokens:
            self.recorder.filling_slots.append(0)
            return 0, held, Slots()
        filled = scheduler.filled_slots() if hybrid else scheduler.cached_tokens_in_all()
        slots = allocator.slots(filled, waiting.head() if waiting else None)
        if hybrid:
            passed = sum(allocator.passed_slots(request) for request, _ in plan.prefills)
            coming = self._coming_slots(plan) - passed
            filled += passed  # `slots` knows that they are not held: nor are they computed yet
            decoded = hybrid.filling_slots(steps) if plan.decodes else 0
            self.recorder.filling_slots.append(coming + decoded)
            if not slots.reserved:  # held for this step's prompts, and not yet written
                slots = slots._replace(reserved=coming)
        if allocator.samples_share:
            filled -= scheduler.shared_slots()
        return filled - slots.shared, held, slots

    def _coming_slots(self, plan: StepPlan) -> int:
        """Slots that a step's prompts fill, where a slot is no token."""
        slots_of = self.scheduler.batch.slots_of
        chunks = ((request.computed_tokens, count) for request, count in plan.prefills)
        return sum(slots_of(done + count) - slots_of(done) for done, count in chunks)


def _is_plain(allocator: Allocator) -> bool:
    """Whether a memory has no more to say than how many blocks are free."""
    claims_blocks = type(allocator).claim_steps is Allocator.claim_steps
    return claims_blocks and allocator.samples_share and not allocator.sets_slots_apart


def run_replica(replica: Replica, until: float = inf) -> None:
    """Run one replica alone, in an environment of its own, to the end of its work or `until`."""
    env = simpy.Environment()
    env.run(env.process(replica.process(env, until)))
