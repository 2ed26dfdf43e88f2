"""A case served by kvsim's own scheduler, on a clock on which a step takes a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.batch import decode_batch
from kvsim.simulator.clock import StepClock
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import Scheduler, SchedulerLimits, StepPlan
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.model import ConstantStepTime
from kvsim.workload.base import RequestTable
from kvsim.workload.content import SegmentContent
from kvsim.workload.streams import Streams
from tests.support.parts import Given

from .jobs import Case
from .seen import Seen

__all__ = ["LONGEST", "serve", "table_of", "watched"]

LONGEST = 4000  # max_model_len on both sides
_READS = KVReadCurve((), (1,), (1,), (1,))


def watched(policy: type[Scheduler]) -> Callable[..., Any]:
    """A scheduler that notes admissions and preemptions, and states its laws after every step."""

    class Watched(policy):  # type: ignore[misc, valid-type]
        seen: Seen
        now = 0.0

        def schedule(self, now: float) -> StepPlan | None:
            self.now = now
            return super().schedule(now)

        def finish(self, plan: StepPlan, steps: int, now: float) -> list[Request]:
            done = super().finish(plan, steps, now)
            self.check()
            return done

        def _start(self, request: Request, cached_tokens: int, now: float) -> None:
            super()._start(request, cached_tokens, now)
            self.seen.note(now, "admitted", request.row, cached_tokens)

        def _preempt(self, request: Request, planned_tokens: int = 0) -> None:
            self.seen.note(self.now, "preempted", request.row, self.cached_tokens(request))
            super()._preempt(request, planned_tokens)

    return Watched


def serve(
    case: Case, policy: Callable[..., Any], memory: Allocator, limits: SchedulerLimits, **own: Any
) -> Seen:
    """Serve a case's requests; `own` are the policy's parameters."""
    recorder = Recorder()
    scheduler = policy(limits, memory, decode_batch(memory.growths, _READS), recorder, **own)
    scheduler.seen = seen = Seen()
    clock = StepClock(ConstantStepTime(1.0), lambda start, count: 0.0)
    arrivals = arrival_queue(Given([table_of(case)]), Streams(0), recorder)
    run_replica(Replica(scheduler, clock, arrivals, recorder))
    for row, (first, ended) in enumerate(
        zip(recorder.first_token_seconds, recorder.finish_seconds, strict=True)
    ):
        seen.note(first, "first", row)
        seen.note(ended, "ended", row)
    steps = recorder.step_columns()
    last = steps["start_seconds"] + steps["steps"] - 1
    held = (steps["held_slots"] + steps["grown_slots"]) // memory.slots_per_block
    seen.used = {round(at): int(n) for at, n in zip(last, held, strict=True)}
    return seen


def table_of(case: Case) -> RequestTable:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(job, name) for job in case.jobs])

    content = None
    if case.caching:
        content = SegmentContent(column("shared_stream"), column("shared"), column("own_stream"))
    return RequestTable(
        column("arrival").astype(float),
        column("prompt"),
        column("output"),
        priority=column("priority"),
        content=content,
    )
