"""The same case through kvsim's ``vllm-v1`` scheduler; a step takes a second."""

from __future__ import annotations

import numpy as np

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.runs import PrefixRuns as Prefix
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.batch import decode_batch
from kvsim.simulator.clock import StepClock
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.model import ConstantStepTime
from kvsim.workload.base import RequestTable
from kvsim.workload.content import SegmentContent
from kvsim.workload.streams import Streams
from tests.support.parts import Given

from .cases import Case
from .seen import Seen

__all__ = ["run"]

_LONGEST = 4000
_READS = KVReadCurve((), (1,), (1,), (1,))


class _Watched(VLLMv1):
    """Notes admissions and preemptions, with the tokens that they find and throw away."""

    seen: Seen
    now = 0.0

    def schedule(self, now: float):
        """Plan, knowing the time."""
        self.now = now
        return super().schedule(now)

    def _start(self, request: Request, cached_tokens: int, now: float) -> None:
        super()._start(request, cached_tokens, now)
        self.seen.note(now, "admitted", request.row, cached_tokens)

    def _preempt(self, request: Request, planned_tokens: int = 0) -> None:
        self.seen.note(self.now, "preempted", request.row, self.cached_tokens(request))
        super()._preempt(request, planned_tokens)


def _memory(case: Case) -> Allocator:
    curve = BlockCurve(case.block_size)
    return Prefix(case.blocks, curve) if case.caching else Paged(case.blocks, curve)


def run(case: Case) -> Seen:
    """Serve a case's requests with the product's scheduler."""
    memory = _memory(case)
    recorder = Recorder()
    limits = SchedulerLimits(
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_model_len=_LONGEST,
        long_prefill_token_threshold=case.threshold,
        admission=case.policy,
        async_scheduling=case.asynchronous,
    )
    scheduler = _Watched(
        limits,
        memory,
        decode_batch(memory.growths, _READS),
        recorder,
        watermark=case.watermark,
        max_num_active_seqs=case.active,
        long_prefill_token_threshold_adaptive=case.adaptive and case.threshold > 0,
        prefill_schedule_interval=case.interval,
        scheduler_reserve_full_isl=case.reserve_full,
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
        column("arrival").astype(float),
        column("prompt"),
        column("output"),
        priority=column("priority") if case.policy == "priority" else None,
        content=content,
    )
