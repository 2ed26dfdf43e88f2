"""The simulator advances in runs; a plain engine takes every step. They must agree.

Every admission, preemption, completion, block count and time, after every event, for every
scheduler with every memory policy, on random small workloads with and without pressure.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.allocators.base import BlockCurve
from kvsim.kvreads import KVReadCurve
from kvsim.schedulers import SCHEDULERS, SchedulerLimits, vllm_v0
from kvsim.steptime import ConstantStepTime
from kvsim.workload.base import ClosedLoop, Workload
from kvsim.workload.content import SegmentContent
from tests import oracle
from tests.parts import (
    PLAIN_READS,
    Case,
    Given,
    Log,
    Pool,
    Talks,
    sawtooth_reads,
    simulated,
    stepped,
    table,
    windowed_reads,
)

ALLOCATORS = (
    "none",
    "reserve-max",
    "reserve-pow2",
    "reserve-oracle",
    "grow",
    "paged",
    "prefix",
    "virtual",
)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
TICK = 1.3717e-3 * np.sqrt(2)  # no multiple of a step time, so no arrival ties with a step's end


def agree(case: Case, workload: Workload | ClosedLoop, again: Workload | ClosedLoop) -> Log:
    """Run both engines and compare all that they wrote down."""
    with mock.patch.object(vllm_v0, "WATERMARK", case.watermark):
        log = simulated(case, workload)
    engine = stepped(case, again)
    compare_requests(log, engine)
    compare_steps(log, engine)
    return log


def compare_requests(log: Log, engine: oracle.Engine) -> None:
    """Who was refused, admitted with which hits, preempted; and when everything happened."""
    assert log.rejected_rows == engine.rejected
    admitted = [(row, hits) for row, _, hits in log.admissions]
    assert admitted == [(row, hits) for row, _, hits in engine.admissions]
    for one, other in zip(log.admissions, engine.admissions, strict=True):
        np.testing.assert_allclose(one[1], other[1], **CLOSE)
    pairs = (
        (log.scheduled_seconds, engine.scheduled),
        (log.first_token_seconds, engine.first_token),
        (log.finish_seconds, engine.finished),
    )
    for recorded, stepped_times in pairs:
        times = [stepped_times.get(row, np.nan) for row in range(len(recorded))]
        np.testing.assert_allclose(np.array(recorded), times, **CLOSE)


def compare_steps(log: Log, engine: oracle.Engine) -> None:
    """Every run of steps against the steps that it stands for."""
    columns = log.step_columns()
    steps = columns["steps"].astype(int)
    assert steps.sum() == len(engine.rows)
    first = np.concatenate([[0], np.cumsum(steps)])
    preempted = [(row, int(first[run])) for row, run in log.preempted]
    assert preempted == engine.preemptions
    rows = {
        name: np.array([getattr(row, name) for row in engine.rows], dtype=float)
        for name in oracle.StepRow.__dataclass_fields__
    }
    starts, ends = first[:-1], first[1:]
    sums = {name: np.concatenate([[0], np.cumsum(rows[name])]) for name in ("seconds", "grown")}
    expected = {
        "start_seconds": rows["start"][starts],
        "seconds": sums["seconds"][ends] - sums["seconds"][starts],
        "sequences": rows["sequences"][starts],
        "prefill_tokens": rows["prefill_tokens"][starts],
        "waiting": rows["waiting"][starts],
        "tokens": rows["tokens"][starts],
        "held_slots": rows["held"][starts],
        "grown_slots": sums["grown"][ends] - sums["grown"][starts],
        "reserved_slots": rows["reserved"][starts],
        "external_slots": rows["external"][starts],
        "cached_slots": rows["cached"][starts],
    }
    for name, values in expected.items():
        tolerance = 1e-9 if name.endswith("seconds") else 0.0
        np.testing.assert_allclose(
            columns[name], values, rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert log.held_after == [int(held) for held in rows["held_after"][ends - 1]]


# ---- random workloads -------------------------------------------------------------------


@st.composite
def limits(draw: st.DrawFn, longest: int) -> SchedulerLimits:
    """Small engines: few sequences, small budgets, every queue and both ways to preempt."""
    seqs = draw(st.integers(1, 8))
    budget = draw(st.sampled_from([seqs, seqs + 3, 20, 64, 400]))
    return SchedulerLimits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(budget, seqs),
        max_model_len=longest + draw(st.sampled_from([-5, 0, 50])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 7, 30])),
        admission=draw(st.sampled_from(["fcfs", "fcfs", "priority", "shortest-first"])),
        preemption=draw(st.sampled_from(["recompute", "swap"])),
    )


@st.composite
def requests(draw: st.DrawFn) -> Given:
    """Up to 40 requests, dense or sparse, some alike in their prefix, some sampled."""
    count = draw(st.integers(1, 40))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=count, max_size=count))

    most = draw(st.sampled_from([3, 40, 80]))
    prompts = column(st.integers(1, most))
    outputs = column(st.integers(1, draw(st.sampled_from([1, 2, 20, 60]))))
    gaps = column(st.integers(0, draw(st.sampled_from([0, 1, 12, 300]))))
    sampled = draw(st.booleans())
    content = None
    if draw(st.booleans()):
        groups = column(st.integers(0, 2))
        shared = [min(prompt, draw(st.sampled_from([5, 16, 33]))) for prompt in prompts]
        streams = column(st.integers(3, 6)) if draw(st.booleans()) else [*range(9, 9 + count)]
        content = SegmentContent(groups, shared, streams)
    arrivals = np.cumsum(gaps) * TICK
    rows = table(
        list(arrivals),
        prompts,
        outputs,
        priority=column(st.integers(0, 2)),
        samples=column(st.integers(1, 3)) if sampled else None,
        content=content,
    )
    cut = draw(st.integers(0, count))
    parts = [rows.rows(0, cut), rows.rows(cut, count)] if content is None else [rows]
    return Given(parts)


def longest_of(workload: Given) -> int:
    """Tokens of the longest request, samples side by side."""
    longest = [
        (part.prompt_tokens + part.output_tokens) * (1 if part.samples is None else part.samples)
        for part in workload.parts
        if len(part)
    ]
    return int(max(lengths.max() for lengths in longest))


@st.composite
def pools(draw: st.DrawFn, allocator: str, longest: int) -> Pool:
    """Pools from too small for the longest request to much too large for all of them."""
    paging = allocator in ("paged", "virtual")
    curve = BlockCurve(draw(st.sampled_from([1, 4, 16])))
    if paging and draw(st.booleans()):
        caps = tuple(sorted(draw(st.lists(st.integers(1, 5), max_size=3))))
        growing = draw(st.integers(0 if caps else 1, 2))
        curve = BlockCurve(curve.block_size, growing, caps, fixed=draw(st.integers(0, 2)))
    pressure = draw(st.sampled_from([0.7, 1.0, 1.2, 1.7, 3.0, 50.0]))
    per_token = max(1, curve.growing) / curve.block_size
    blocks = int(longest * per_token * pressure) + 3 * (len(curve.caps) + curve.fixed) + 1
    return Pool(
        allocator,
        blocks,
        curve,
        eviction=draw(st.sampled_from(["lru", "fifo", "lfu"])),
        placement=draw(st.sampled_from(["first-fit", "best-fit", "buddy"])),
        compaction=draw(st.booleans()),
    )


def read_curves() -> st.SearchStrategy[KVReadCurve]:
    """Plain attention, windows, chunks."""
    return st.sampled_from(
        [PLAIN_READS, windowed_reads(24, 400, 600), sawtooth_reads(16, 300, 700)]
    )


@st.composite
def cases(draw: st.DrawFn, scheduler: str, allocator: str) -> tuple[Case, Given]:
    """A workload and an engine that may be too small for it."""
    workload = draw(requests())
    longest = longest_of(workload)
    bounds = draw(limits(longest))
    pool = replace(draw(pools(allocator, longest)), max_model_len=bounds.max_model_len)
    watermark = draw(st.sampled_from([0.01, 0.1, 0.3]))
    return Case(scheduler, pool, bounds, draw(read_curves()), watermark=watermark), workload


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=12)
@given(data=st.data())
def test_runs_agree_with_steps(scheduler: str, allocator: str, data: st.DataObject) -> None:
    """Open loop: the same engine, in runs and in steps."""
    case, workload = data.draw(cases(scheduler, allocator))
    agree(case, workload, workload)
