"""The simulator advances in runs; a plain engine takes every step. They must agree.

Every admission, preemption, completion, block count and time, after every event, for every
scheduler with every memory policy, on random small workloads with and without pressure.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import simpy
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.assemble import make_clock, make_scheduler
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.schedulers import SCHEDULERS, SchedulerLimits
from kvsim.simulator.schedulers.sarathi import Sarathi
from kvsim.simulator.schedulers.vllm_v0 import VLLMv0
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.steptime.model import ConstantStepTime
from kvsim.workload.base import ClosedLoop, Workload
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams
from tests import oracle
from tests.support.compared import compare_requests, compare_steps
from tests.support.memories import Pool, plain_memory
from tests.support.menus import ANYTHING, SCARCITY, cases, limits, pools, talks
from tests.support.needs import examples
from tests.support.parts import (
    Case,
    Given,
    Log,
    Talks,
    build,
    simulated,
    stepped,
    table,
    watch_laws,
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
    "apart",
    "windows",
)


def agree(case: Case, workload: Workload | ClosedLoop, again: Workload | ClosedLoop) -> Log:
    """Run both engines and compare all that they wrote down."""
    kept = {"watermark": case.watermark}
    with mock.patch.multiple(VLLMv0, **kept), mock.patch.multiple(Sarathi, **kept):
        log = simulated(case, workload)
    engine = stepped(case, again)
    compare_requests(log, engine)
    compare_steps(log, engine)
    return log


# ---- open loops -------------------------------------------------------------------------


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=examples(20))
@given(data=st.data())
def test_runs_agree_with_steps(scheduler: str, allocator: str, data: st.DataObject) -> None:
    """Open loop: the same engine, in runs and in steps."""
    case, workload = data.draw(cases(ANYTHING, scheduler, allocator))
    agree(case, workload, workload)


@pytest.mark.parametrize("allocator", ["grow", "paged", "prefix", "virtual", "apart", "windows"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=examples(20))
@given(data=st.data())
def test_runs_agree_with_steps_under_pressure(
    scheduler: str, allocator: str, data: st.DataObject
) -> None:
    """Pools that hold a few requests where many come at once: somebody must give way."""
    case, workload = data.draw(cases(SCARCITY, scheduler, allocator))
    log = agree(case, workload, workload)
    event(f"preempted: {len(log.preempted) > 0}")


# ---- closed loops -----------------------------------------------------------------------


@pytest.mark.parametrize("allocator", ["paged", "prefix", "reserve-oracle", "apart"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=examples(15))
@given(data=st.data())
def test_closed_loops_agree(scheduler: str, allocator: str, data: st.DataObject) -> None:
    """Clients answer completions, so one wrong time would change everything after it."""
    in_ticks = data.draw(st.booleans())
    clients, ramp, twin = data.draw(talks(in_ticks=in_ticks))
    samples = data.draw(st.sampled_from([1, 1, 2]))
    longest = samples * max(sum(said + output for said, output, _ in turns) for turns in clients)
    bounds = data.draw(limits(SCARCITY, longest))
    pool = data.draw(pools(SCARCITY, allocator, longest))
    case = Case(scheduler, replace(pool, max_model_len=bounds.max_model_len), bounds)

    def workload() -> Talks:
        return Talks(clients, ramp, twin, samples)

    if in_ticks:  # a refused client's thinks end with a step but for rounding, in either order
        assume(not simulated(case, workload()).rejected_rows)
    log = agree(case, workload(), workload())
    event(f"refused: {len(log.rejected_rows) > 0}")


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
    ("name", "model", "blocks", "flags"),
    [
        ("vllm", "llama3.1-8b", 800, {}),
        ("vllm", "llama3.1-8b", 800, {"pipeline_parallel_size": 2}),
        ("vllm", "llama3.1-8b", 800, {"tensor_parallel_size": 2, "kv_cache_dtype": "fp8"}),
        ("vllm", "gemma3-1b", 1900, {}),  # windows in the pool of the growing layers
        ("sglang", "gemma3-1b", 500, {"block_size": 16}),  # windows in a pool of their own
        ("tensorrt-llm", "gpt-oss-20b", 2000, {}),  # which runs out first
        ("vllm", "nemotron-nano-9b-v2", 90, {}),  # states in the one pool
        ("sglang", "nemotron-nano-9b-v2", 700, {"block_size": 16}),  # states in their own
        ("vllm", "deepseek-v2-lite", 800, {}),
        (  # blocks of 4, 8, 64 and 256; as few as admit a prompt in steps of 512
            "vllm",
            "deepseek-v4-flash",
            462,
            {"tensor_parallel_size": 4, "max_num_batched_tokens": 512},
        ),
    ],
)
def test_a_scenario_agrees_with_its_steps(
    name: str, model: str, blocks: int, flags: dict[str, object]
) -> None:
    """The parts that a scenario assembles, with measured coefficients, windows and latents."""
    keys: dict[str, object] = {f"engine.{flag}": value for flag, value in flags.items()}
    keys["engine.name"] = name
    keys |= {
        "model": model,
        "workload.requests": 60,
        "workload.arrivals.rate": 30,
        "workload.lengths.prompt": {"kind": "lognormal", "mean": 700, "cv": 1.0},
        "workload.lengths.output": {"kind": "lognormal", "mean": 60, "cv": 1.0},
        "engine.max_model_len": 4096,
        "engine.num_gpu_blocks_override": blocks,
        "memory.block_size": None,
        "memory.num_blocks": None,
    }
    setup = prepare(load_scenario("peer-w", overrides=keys))
    log = Log()
    scheduler = make_scheduler(setup, log)
    log.watch_admissions(scheduler)
    watch_laws(scheduler, log)
    workload = build_workload(setup.scenario.workload, setup.scenario.folder)
    arrivals = arrival_queue(workload, Streams(5), log)
    run_replica(Replica(scheduler, make_clock(setup), arrivals, log))

    bounds, spec, reads = scheduler.limits, setup.deployment.model, scheduler.batch.reads
    engine = oracle.ENGINES[str(setup.scenario.scheduler.policy)](
        plain_memory(setup.pools),
        oracle.Limits(
            bounds.max_num_seqs,
            bounds.max_num_batched_tokens,
            bounds.max_model_len,
            asynchronous=scheduler.is_async,
        ),
        oracle.Costs(setup.step_time, partial(prefill_pairs, spec), reads.bytes_at),
        oracle.Arrivals(Given(log.tables)),
    ).run()
    compare_requests(log, engine)
    compare_steps(log, engine)
    assert len(engine.finished) == 60


# ---- not alone --------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_other_processes_in_the_environment_change_nothing(scheduler: str) -> None:
    """The replica runs ahead of the clock only as far as nobody could tell the difference."""
    dice = np.random.default_rng(12)
    arrivals = dice.exponential(0.05, 60).cumsum()
    workload = Given([table(arrivals, dice.integers(1, 60, 60), dice.integers(1, 60, 60))])
    case = Case(scheduler, Pool("paged", 50, BlockCurve(4)), SchedulerLimits(8, 64, 200))
    alone, beside = Log(), Log()
    run_replica(build(case, workload, alone))

    env = simpy.Environment()
    replica = build(case, workload, beside)
    lags = []

    def onlooker() -> Generator[simpy.Event, None, None]:
        while True:
            yield env.timeout(float(dice.exponential(0.07)))
            lags.append(env.now - replica.now)

    env.process(onlooker())
    env.run(env.process(replica.process(env)))
    assert len(lags) > 20
    assert max(lags) <= 0  # whoever looks finds the replica at the end of a step, never behind
    assert alone.finish_seconds == beside.finish_seconds
    for name, column in alone.step_columns().items():
        np.testing.assert_array_equal(column, beside.step_columns()[name], err_msg=name)
