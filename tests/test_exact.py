"""The simulator advances in runs; a plain engine takes every step. They must agree.

Every admission, preemption, completion, block count and time, after every event, for every
scheduler with every memory policy, on random small workloads with and without pressure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kvsim.allocators.base import BlockCurve
from kvsim.arrivals import ArrivalQueue
from kvsim.assembly import make_clock, make_scheduler, prepare
from kvsim.kvreads import KVReadCurve, prefill_pairs
from kvsim.replica import Replica, run_replica
from kvsim.scenario import load_scenario
from kvsim.schedulers import SCHEDULERS, SchedulerLimits, vllm_v0
from kvsim.steptime import ConstantStepTime
from kvsim.streams import Streams
from kvsim.workload.base import ClosedLoop, Workload
from kvsim.workload.content import SegmentContent
from kvsim.workload.spec import build_workload

from . import oracle
from .parts import (
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
    watch_books,
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


@dataclass(frozen=True)
class Menu:
    """What to choose from, the simplest first."""

    counts: tuple[int, ...]
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    gaps: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    budgets: tuple[int, ...]
    pressures: tuple[float, ...]  # blocks of the pool over those of the longest request


ANYTHING = Menu(
    counts=(5, 1, 2, 12, 20, 40),
    prompts=(40, 3, 80),
    outputs=(20, 1, 2, 60),
    gaps=(12, 0, 1, 300),
    max_num_seqs=(3, 1, 2, 5, 8),
    budgets=(64, 1, 8, 20, 400),
    pressures=(3.0, 0.7, 1.0, 50.0),
)
SCARCITY = Menu(
    counts=(12, 20, 40),
    prompts=(30, 40),
    outputs=(40, 60),
    gaps=(1, 3, 12),
    max_num_seqs=(4, 6, 8),
    budgets=(64, 400, 20),
    pressures=(1.1, 1.3, 1.7),
)


@st.composite
def limits(draw: st.DrawFn, menu: Menu, longest: int) -> SchedulerLimits:
    """Small engines: few sequences, small budgets, every queue and both ways to preempt."""
    seqs = draw(st.sampled_from(menu.max_num_seqs))
    return SchedulerLimits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, draw(st.sampled_from(menu.budgets))),
        max_model_len=longest + draw(st.sampled_from([20, 0, -1])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 1, 7, 30])),
        admission=draw(st.sampled_from(["fcfs", "priority", "shortest-first"])),
        preemption=draw(st.sampled_from(["recompute", "swap"])),
    )


@st.composite
def requests(draw: st.DrawFn, menu: Menu) -> Given:
    """Up to 40 requests, dense or sparse, some alike in their prefix, some sampled.

    What there is of everything is hypothesis' choice; the lengths come from a seed, because
    uniform lengths fill a small pool more often than the simplest ones do.
    """
    count = draw(st.sampled_from(menu.counts))
    dice = random.Random(draw(st.integers(0, 2**32)))

    def column(least: int, most: int) -> list[int]:
        return [dice.randint(least, most) for _ in range(count)]

    prompts = column(1, draw(st.sampled_from(menu.prompts)))
    outputs = column(1, draw(st.sampled_from(menu.outputs)))
    gaps = column(0, draw(st.sampled_from(menu.gaps)))
    content = None
    if draw(st.booleans()):
        shared = [min(prompt, dice.choice([5, 16, 33])) for prompt in prompts]
        streams = column(3, 6) if draw(st.booleans()) else [*range(9, 9 + count)]
        content = SegmentContent(column(0, 2), shared, streams)
    rows = table(
        list(np.cumsum(gaps) * TICK),
        prompts,
        outputs,
        priority=column(0, 2),
        samples=column(1, 3) if draw(st.booleans()) else None,
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
def pools(draw: st.DrawFn, menu: Menu, allocator: str, longest: int) -> Pool:
    """Pools from too small for the longest request to much too large for all of them."""
    paging = allocator in ("paged", "virtual")
    curve = BlockCurve(draw(st.sampled_from([4, 1, 16])))
    if paging and draw(st.booleans()):
        caps = tuple(sorted(draw(st.lists(st.integers(1, 5), max_size=3))))
        growing = draw(st.integers(0 if caps else 1, 2))
        curve = BlockCurve(curve.block_size, growing, caps, fixed=draw(st.integers(0, 2)))
    pressure = draw(st.sampled_from(menu.pressures)) * (2 if allocator == "grow" else 1)
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
def cases(draw: st.DrawFn, menu: Menu, scheduler: str, allocator: str) -> tuple[Case, Given]:
    """A workload and an engine that may be too small for it."""
    workload = draw(requests(menu))
    longest = longest_of(workload)
    bounds = draw(limits(menu, longest))
    pool = replace(draw(pools(menu, allocator, longest)), max_model_len=bounds.max_model_len)
    watermark = draw(st.sampled_from([0.01, 0.1, 0.3]))
    return Case(scheduler, pool, bounds, draw(read_curves()), watermark=watermark), workload


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=20)
@given(data=st.data())
def test_runs_agree_with_steps(scheduler: str, allocator: str, data: st.DataObject) -> None:
    """Open loop: the same engine, in runs and in steps."""
    case, workload = data.draw(cases(ANYTHING, scheduler, allocator))
    agree(case, workload, workload)


@pytest.mark.parametrize("allocator", ["grow", "paged", "prefix", "virtual"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=20)
@given(data=st.data())
def test_runs_agree_with_steps_under_pressure(
    scheduler: str, allocator: str, data: st.DataObject
) -> None:
    """Pools that hold a few requests where many come at once: somebody must give way."""
    case, workload = data.draw(cases(SCARCITY, scheduler, allocator))
    log = agree(case, workload, workload)
    event(f"preempted: {len(log.preempted) > 0}")


# ---- closed loops -----------------------------------------------------------------------


@st.composite
def talks(draw: st.DrawFn) -> tuple[list[list[tuple[int, int, float]]], float, bool]:
    """A few clients, their turns, when they start, and whether the first branches."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    most_think = draw(st.sampled_from([0, 5, 100]))

    def turn() -> tuple[int, int, float]:
        return dice.randint(1, 25), dice.randint(1, 12), dice.randint(0, most_think) * TICK

    turns = [[turn() for _ in range(dice.randint(1, 5))] for _ in range(draw(st.integers(1, 10)))]
    return turns, draw(st.sampled_from([0.0, 3 * TICK, 40 * TICK])), draw(st.booleans())


@pytest.mark.parametrize("allocator", ["paged", "prefix", "reserve-oracle"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=15)
@given(data=st.data())
def test_closed_loops_agree(scheduler: str, allocator: str, data: st.DataObject) -> None:
    """Clients answer completions, so one wrong time would change everything after it."""
    clients, ramp, twin = data.draw(talks())
    longest = max(sum(said + output for said, output, _ in turns) for turns in clients)
    bounds = data.draw(limits(SCARCITY, longest))
    pool = data.draw(pools(SCARCITY, allocator, longest))
    case = Case(scheduler, replace(pool, max_model_len=bounds.max_model_len), bounds)
    agree(case, Talks(clients, ramp, twin), Talks(clients, ramp, twin))


# ---- ties -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=25)
@given(data=st.data())
def test_arrivals_on_the_very_end_of_a_step_agree(scheduler: str, data: st.DataObject) -> None:
    """Dyadic times add up without rounding, so a tie is a tie: who has come takes part."""
    half_steps = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=25).map(sorted))
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    workload = Given(
        [
            table(
                [at / 32 for at in half_steps],
                [dice.randint(1, 30) for _ in half_steps],
                [dice.randint(1, 20) for _ in half_steps],
            )
        ]
    )
    case = Case(
        scheduler,
        Pool("paged", 20, BlockCurve(4)),
        SchedulerLimits(4, 32, 100),
        step_time=ConstantStepTime(1 / 16),
    )
    log = agree(case, workload, workload)
    engine = stepped(case, workload)
    assert list(log.finish_seconds) == [engine.finished[row] for row in range(len(half_steps))]


# ---- real models on real cards ----------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("llama3.1-8b", {}),
        ("llama3.1-8b", {"pipeline_parallel_size": 2}),
        ("llama3.1-8b", {"tensor_parallel_size": 2, "kv_cache_dtype": "fp8"}),
        ("gemma3-1b", {}),
        ("deepseek-v2-lite", {}),
    ],
)
def test_a_scenario_agrees_with_its_steps(model: str, flags: dict[str, object]) -> None:
    """The parts that a scenario assembles, with measured coefficients, windows and latents."""
    keys: dict[str, object] = {f"engine.{flag}": value for flag, value in flags.items()}
    keys |= {
        "model": model,
        "workload.requests": 60,
        "workload.arrivals.rate": 30,
        "workload.lengths.prompt": {"kind": "lognormal", "mean": 700, "cv": 1.0},
        "workload.lengths.output": {"kind": "lognormal", "mean": 60, "cv": 1.0},
        "memory.num_blocks": 800,
    }
    setup = prepare(load_scenario("peer-w", overrides=keys))
    log = Log()
    scheduler = make_scheduler(setup, log)
    watch_books(scheduler, log)
    workload = build_workload(setup.scenario.workload, setup.scenario.folder)
    arrivals = ArrivalQueue(workload, Streams(5), log)
    run_replica(Replica(scheduler, make_clock(setup), arrivals, log))

    curve, bounds = setup.curve, scheduler.limits
    spec, reads = setup.deployment.model, scheduler.batch.reads
    engine = oracle.ENGINES["vllm-v1"](
        oracle.Blocks(800, curve.block_size, curve.growing, curve.caps, curve.fixed),
        oracle.Limits(bounds.max_num_seqs, bounds.max_num_batched_tokens, bounds.max_model_len),
        oracle.Costs(setup.step_time, partial(prefill_pairs, spec), reads.bytes_at),
        oracle.Arrivals(Given(log.tables)),
    ).run()
    compare_requests(log, engine)
    compare_steps(log, engine)
    assert len(engine.finished) == 60
