"""SGLang's scheduler in a scenario: whose it is, its parameters, and its rules by hand.

What the engine itself did is in tests/engine_oracle.
"""

from math import ceil

import pytest

import kvsim
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.loading import load_scenario, with_overrides
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.parts import Case, Given, Pool, simulated, table


def policy(scenario):
    return str(scenario.scheduler.policy)


# --- whose it is ---------------------------------------------------------------------------


def test_sglang_has_its_own_scheduler_where_no_other_is_said():
    vllm = load_scenario("peer-w")
    sglang = with_overrides(vllm, {"engine.name": "sglang"})
    assert (policy(vllm), policy(sglang)) == ("vllm-v1", "sglang")
    assert policy(with_overrides(sglang, {"engine.name": "vllm"})) == "vllm-v1"
    assert policy(vllm.model_copy(update={"engine": sglang.engine})) == "sglang"
    assert policy(sglang.model_copy(update={"engine": vllm.engine})) == "vllm-v1"


def test_a_scheduler_that_is_said_stays():
    said = load_scenario("peer-w", {"engine.name": "sglang", "scheduler.policy": "vllm-v1"})
    assert policy(said) == "vllm-v1"
    assert policy(load_scenario("peer-w", {"scheduler.policy": "sglang"})) == "sglang"
    assert "policy" not in load_scenario("peer-w", {"engine.name": "sglang"}).to_yaml()


# --- its parameters ------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", ["conservativeness", "ignore_eos", "scheduler_recv_interval"])
@pytest.mark.parametrize("value", [0, -1, "0.3", float("nan"), float("inf"), None])
def test_a_parameter_out_of_range_is_refused(parameter, value):
    chosen = {"name": "sglang", parameter: value}
    scenario = load_scenario("peer-w", {"scheduler.policy": chosen, "workload.requests": 1})
    with pytest.raises(kvsim.InputError, match=parameter):
        kvsim.simulate(scenario)


# --- its rules, by hand --------------------------------------------------------------------


def run(blocks, jobs, arrivals=None, seats=8, **options):
    """Serve ``(prompt, output)`` jobs that come at once, or when it is said; a second a step."""
    prompts, outputs = zip(*jobs, strict=True)
    workload = Given([table(arrivals or [0.0] * len(jobs), prompts, outputs)])
    limits = SchedulerLimits(seats, 64, 1000)
    pool = Pool("paged", blocks, BlockCurve(1))
    case = Case("sglang", pool, limits, step_time=ConstantStepTime(1), options=options)
    return simulated(case, workload)


def test_prompts_come_before_decodes_and_in_chunks():
    """64 tokens a step: 40, and 24 of 40; then 16; then all decode."""
    log = run(200, [(40, 2), (40, 3)])
    assert list(log.first_token_seconds) == [1, 2]
    assert list(log.finish_seconds) == [3, 4]
    assert list(log.step_columns()["prefill_tokens"]) == [64, 16, 0, 0]


def test_an_admission_leaves_room_for_the_outputs_of_those_that_run():
    """The first needs 10 + 1 + 20 = 31; the second as much, which is not less than 62 - 31.

    In the next step 62 - 10 are free, and 0.7 of the 19 tokens that the first still wants are
    foreseen: 31 < 52 - 13.3, so it comes then.
    """
    log = run(62, [(10, 20), (10, 20)])
    assert [(row, at) for row, at, _ in log.admissions] == [(0, 0), (1, 1)]
    log = run(63, [(10, 20), (10, 20)])
    assert [(row, at) for row, at, _ in log.admissions] == [(0, 0), (1, 0)]


def test_arrivals_are_looked_at_every_few_decode_steps_and_after_each_prompt():
    """``SchedulerRecvSkipper``: a decode step counts one, a step with prompts all of them.

    The first's prompt ends at 1, and the second would be heard of at 4. After 5 decode steps it
    is, at 6; its prompt ends at 7, where it looks again and finds the third. Then it decodes from
    8 on: the fourth, of 9.5, is heard of at 13.
    """
    jobs, arrivals = [(4, 40)] * 4, [0.0, 3.5, 6.5, 9.5]
    log = run(500, jobs, arrivals, scheduler_recv_interval=5)
    assert list(log.scheduled_seconds) == [0, 6, 7, 13]
    assert list(run(500, jobs, arrivals).scheduled_seconds) == [0, 4, 7, 10]


def test_it_looks_after_a_prompt_whenever_that_was():
    """Two seats: the third's prompt is computed from 4 to 5, when the first has ended.

    So the fourth, of 4.5, is heard of at 5 and takes the second's seat at 10; by steps alone it
    would be heard of at 12, after 10 that decoded.
    """
    jobs, arrivals = [(4, 4), (4, 9), (4, 40), (4, 3)], [0.0, 0.0, 0.0, 4.5]
    log = run(500, jobs, arrivals, seats=2, scheduler_recv_interval=10)
    assert list(log.scheduled_seconds) == [0, 0, 4, 10]


def test_who_comes_as_it_looks_is_behind_those_that_came_before():
    """It looks at 4: the second, of 2.5, and the third, of 4; one seat is free."""
    jobs, arrivals = [(4, 40), (4, 20), (4, 20)], [0.0, 2.5, 4.0]
    log = run(500, jobs, arrivals, seats=2, scheduler_recv_interval=3)
    assert log.scheduled_seconds[1] == 4
    assert log.scheduled_seconds[2] > 4


@pytest.mark.parametrize("interval", [1, 5])
def test_who_was_not_looked_at_waits_all_the_same(interval):
    """The queue that steps count is the one that requests stand in (Little's law, by moments)."""
    jobs, arrivals = [(4, 30)] * 6, [0.0, 1.5, 2.5, 7.5, 8.5, 11.5]
    log = run(900, jobs, arrivals, scheduler_recv_interval=interval)
    steps, scheduled = log.step_columns(), log.scheduled_seconds
    waited = sum(steps["waiting"] * steps["seconds"])
    assert waited == pytest.approx(
        sum(at - ceil(came) for at, came in zip(scheduled, arrivals, strict=True))
    )


def test_looks_at_what_arrived_go_on_where_nothing_had():
    """From 1 on every third step looks: at 4, 7, 10, whenever the second comes."""
    for arrival, heard in ((1.5, 4), (4, 4), (4.5, 7), (7.5, 10)):
        log = run(500, [(4, 40)] * 2, [0.0, arrival], scheduler_recv_interval=3)
        assert list(log.scheduled_seconds) == [0, heard]


def test_an_idle_engine_looks_at_once():
    log = run(500, [(4, 3)] * 3, [0.0, 2.5, 9.0], scheduler_recv_interval=30)
    assert list(log.scheduled_seconds) == [0, 3, 9]


@pytest.mark.parametrize("interval", [1, 2, 7, 30])
def test_who_is_refused_in_a_closed_loop_is_so_at_the_next_look(interval):
    """A run of steps that nobody may break off ends in time for it."""
    changes = {
        "engine": {"name": "sglang", "num_gpu_blocks_override": 900, "max_model_len": 300},
        "scheduler.policy": {"name": "sglang", "scheduler_recv_interval": interval},
        "workload": {
            "arrivals": {"kind": "closed_loop", "clients": 6},
            "lengths": {
                "prompt": {"kind": "uniform", "low": 10, "high": 280},
                "output": {"kind": "uniform", "low": 2, "high": 60},
            },
            "requests": 120,
        },
    }
    result = kvsim.simulate(load_scenario("peer-w", changes))
    done, refused = result.summary["completed"], result.summary["rejected"]
    assert done + refused == 120
    assert 60 < done < 120
