"""The same case through kvsim's ``sglang`` scheduler; a step takes a second."""

from __future__ import annotations

import numpy as np

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.radix import Radix
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.batch import decode_batch
from kvsim.simulator.clock import StepClock
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import SchedulerLimits, StepPlan
from kvsim.simulator.schedulers.sglang import SGLang
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.model import ConstantStepTime
from kvsim.workload.base import RequestTable
from kvsim.workload.content import SegmentContent
from kvsim.workload.streams import Streams
from tests.support.parts import Given

from .sglang_cases import Case
from .sglang_seen import Seen

__all__ = ["run"]

_LONGEST = 4000
_READS = KVReadCurve((), (1,), (1,), (1,))


class _Watched(SGLang):
    """Notes admissions and retractions, with the tokens that they find and throw away."""

    seen: Seen
    now = 0.0

    def schedule(self, now: float) -> StepPlan | None:
        """Plan, knowing the time."""
        self.now = now
        return super().schedule(now)

    def finish(self, plan: StepPlan, steps: int, now: float) -> list[Request]:
        """End a step, and state every law."""
        done = super().finish(plan, steps, now)
        self.check()
        return done

    def _start(self, request: Request, cached_tokens: int, now: float) -> None:
        super()._start(request, cached_tokens, now)
        self.seen.note(now, "admitted", request.row, cached_tokens)

    def _preempt(self, request: Request) -> None:
        self.seen.note(self.now, "preempted", request.row, self.cached_tokens(request))
        super()._preempt(request)


def _memory(case: Case) -> Allocator:
    curve = BlockCurve(case.page_size)
    return Radix(case.pages, curve) if case.caching else Paged(case.pages, curve)


def run(case: Case) -> Seen:
    """Serve a case's requests with the product's scheduler."""
    memory = _memory(case)
    recorder = Recorder()
    limits = SchedulerLimits(
        max_num_seqs=case.running,
        max_num_batched_tokens=case.chunk,
        max_model_len=_LONGEST,
    )
    scheduler = _Watched(
        limits,
        memory,
        decode_batch(memory.growths, _READS),
        recorder,
        conservativeness=case.conservativeness,
        ignore_eos=case.ignore_eos,
    )
    scheduler.seen = seen = Seen()
    clock = StepClock(ConstantStepTime(1.0), lambda start, count: 0.0)
    arrivals = arrival_queue(Given([_table(case)]), Streams(0), recorder)
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


def _table(case: Case) -> RequestTable:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(job, name) for job in case.jobs])

    content = None
    if case.caching:
        content = SegmentContent(column("shared_stream"), column("shared"), column("own_stream"))
    return RequestTable(
        column("arrival").astype(float), column("prompt"), column("output"), content=content
    )
