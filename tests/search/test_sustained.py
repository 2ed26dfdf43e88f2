"""What is sustained for as long as anybody asks: known queues, and laws over cards and models."""

import json
from dataclasses import replace
from itertools import pairwise
from math import exp, factorial, log
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.runs.simulate import run_setup
from kvsim.search.bisection import near
from kvsim.search.load import OVERLOAD_RATE, load_of
from kvsim.search.objectives import Objective
from kvsim.search.observed import sustained_throughput
from kvsim.search.rate import relaxation_requests
from kvsim.simulator.prepare import prepare
from tests.support.one_server import SERVICE_RATE, STEP, TOKENS, server

# --- queues with known answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit_s", "share"), [pytest.param(4.0, 0.95, marks=pytest.mark.slow), (8.0, 0.9)]
)
def test_exponential_work_is_an_mm1_server(limit_s, share):
    """A stay in M/M/1 is exponential with rate mu - lambda (Kleinrock 1975, eq. 5.118)."""
    exact = SERVICE_RATE + log(1 - share) / limit_s
    settings = kvsim.SearchSettings(requests=3000, tolerance=0.03)
    found = kvsim.highest_rate(
        server({"kind": "poisson", "rate": 1}), [Objective("e2el", 1e3 * limit_s, share)], settings
    )
    low, high = found.interval
    assert low * 0.97 <= exact <= high * 1.03
    assert found.rate == low == pytest.approx(exact, rel=0.06)
    assert found.limit == "e2el"
    # -ln(1 - share) / (mu - lambda) has the elasticity lambda / (mu - lambda)
    assert found.steepness == pytest.approx(exact / (SERVICE_RATE - exact), rel=0.4)


def stays_within(users, limit_s, think_s):
    """P(stay <= t) of a user of M/M/1//N: the arrival theorem (Sevcik and Mitrani 1981).

    Who arrives sees the queue that N - 1 users have, and stays as long as they and himself take.
    """
    others, per_think = users - 1, 1 / (SERVICE_RATE * think_s)
    weights = [factorial(others) // factorial(others - k) * per_think**k for k in range(users)]
    work = SERVICE_RATE * limit_s
    total = 0.0
    for k, weight in enumerate(weights):
        erlang = 1 - exp(-work) * sum(work**j / factorial(j) for j in range(k + 1))
        total += weight / sum(weights) * erlang
    return total


@pytest.mark.slow
def test_users_who_think_are_a_machine_repair_model():
    limit_s, think_s, share = 6.0, 20.0, 0.9
    exact = max(n for n in range(1, 60) if stays_within(n, limit_s, think_s) >= share)
    think = {"kind": "exponential", "mean": think_s}
    question = server({"kind": "closed_loop", "clients": 1, "think": think})
    settings = kvsim.SearchSettings(requests=2000, tolerance=0.05)
    found = kvsim.highest_rate(question, [Objective("e2el", 1e3 * limit_s, share)], settings)
    assert found.unit == "users"
    assert found.rate == pytest.approx(exact, abs=2)
    assert found.rate == int(found.rate)
    assert found.throughput is None


def test_users_without_an_objective_have_no_highest_number():
    with pytest.raises(kvsim.InputError, match="users wait for their answers"):
        kvsim.highest_rate(server({"kind": "closed_loop", "clients": 4}), ())


def test_an_objective_that_one_user_misses_is_missed_by_one_user():
    question = server({"kind": "closed_loop", "clients": 5})
    settings = kvsim.SearchSettings(requests=200, replications=1)
    found = kvsim.highest_rate(question, [Objective("ttft", 0.001)], settings)
    assert (found.rate, found.failed_rate, found.limit) == (None, 1.0, "ttft")


def test_of_two_percentiles_the_one_that_binds_is_named():
    question = server({"kind": "poisson", "rate": 1})
    settings = kvsim.SearchSettings(requests=1000, replications=1, tolerance=0.1)
    both = [Objective("e2el", 1500, 0.5), Objective("e2el", 1e6, 0.99)]
    found = kvsim.highest_rate(question, both, settings)
    assert found.limit == "e2el"
    assert found.goal == both[0]
    assert found.rate == kvsim.highest_rate(question, both[:1], settings).rate


def test_requests_that_are_rejected_end_the_rate_and_are_said():
    """A twentieth is longer than the server takes: 95 of 100 are served at most."""
    question = server(
        {"kind": "poisson", "rate": 1},
        **{
            "engine": {"max_num_seqs": 1, "max_model_len": 150},
            "workload.lengths.output": {"kind": "exponential", "mean": TOKENS},
        },
    )
    settings = kvsim.SearchSettings(requests=500, replications=1)
    found = kvsim.highest_rate(question, [Objective("ttft", 2000)], settings)
    assert (found.rate, found.limit) == (None, "rejected")
    (option,) = kvsim.size_fleet(
        question, 1, [("h100", 1)], settings, objectives=[Objective("ttft", 2000)]
    )
    assert "too many requests are rejected" in option.problem


def test_tokens_that_are_paid_for_are_those_of_requests_that_are_served():
    question = server({"kind": "poisson", "rate": 1})
    settings = kvsim.SearchSettings(requests=500, replications=1, tolerance=0.1)
    (option,) = kvsim.size_fleet(
        question, 0.5, [("h100", 1)], settings, objectives=[Objective("e2el", 5000, 0.9)]
    )
    prompt, output = option.tokens_per_s
    assert prompt == pytest.approx(0.5 * 16, rel=0.15)
    assert output == pytest.approx(0.5 * TOKENS, rel=0.15)


def test_a_run_that_would_be_cut_is_refused():
    question = server({"kind": "poisson", "rate": 1}, run={"max_seconds": 5})
    with pytest.raises(kvsim.InputError, match=r"run\.max_seconds.*would cut the runs"):
        kvsim.highest_rate(question, ())


def test_a_trace_is_sped_up_until_the_server_is_full(tmp_path):
    """Even arrivals, recorded a hundred times too slowly: the server does one a half second."""
    path = tmp_path / "even.jsonl"
    rows = [{"schema": "kvsim-trace/1"}]
    rows += [
        {"arrival_seconds": 50.0 * at, "prompt_tokens": 16, "output_tokens": TOKENS}
        for at in range(1500)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    question = kvsim.with_overrides(
        server({"kind": "poisson", "rate": 1}), {"workload": {"trace": {"file": str(path)}}}
    )
    settings = kvsim.SearchSettings(tolerance=0.01)
    found = kvsim.highest_rate(question, [Objective("ttft", 100)], settings)
    assert found.rate == pytest.approx(SERVICE_RATE, rel=0.02)
    assert found.limit in {"ttft", "saturation"}
    assert found.is_sure  # another seed has the same requests
    assert found.interval[1] <= found.throughput


# --- how long a run must be --------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.9, 0.95, 0.99])
def test_a_queue_forgets_as_that_of_mm1_does(load):
    """Of M/M/1 the relaxation time is ``1 / (mu (1 - sqrt(load))**2)`` (Morse 1955)."""
    exact_requests = load / (1 - load**0.5) ** 2
    assert relaxation_requests(load, 2.0) == pytest.approx(exact_requests, rel=0.12)


def test_probes_near_the_throughput_are_longer():
    question = server({"kind": "poisson", "rate": 1})
    found = kvsim.highest_rate(question, (), kvsim.SearchSettings(requests=500, replications=1))
    by_rate = sorted(found.probes, key=lambda probe: probe.rate)
    lengths = [probe.requests for probe in by_rate]
    assert lengths == sorted(lengths)
    last = by_rate[-1]
    memory = relaxation_requests(last.rate / found.throughput, 2.0)
    assert last.requests >= min(30 * 500, 15 * memory)


def test_throughput_counts_neither_ramp_nor_drain():
    """200 tokens by a full batch of 8: eight requests in every 200 steps, but for both ends."""
    question = server(
        {"kind": "poisson", "rate": 1},
        **{
            "engine": {"max_num_seqs": 8, "max_model_len": 8192},
            "workload.lengths.output": {"kind": "fixed", "tokens": 200},
        },
    )
    setup = load_of(question).at(prepare(question), OVERLOAD_RATE, 400)
    result = run_setup(setup, 0)
    assert sustained_throughput(result) == pytest.approx(8 / (200 * STEP), rel=0.02)


@given(
    threshold=st.floats(0.01, 100),
    low=st.floats(0.1, 10),
    step=st.floats(1.01, 1.5),
    ceiling=st.floats(0.5, 1000),
)
def test_another_seed_finds_its_own_knee_from_the_first_ones(threshold, low, step, ceiling):
    found = near(lambda rate: rate <= threshold, (low, low * step), ceiling)
    if found[0] == 0:
        assert threshold < low
    else:
        assert found[0] <= threshold
        assert found[1] > threshold or found[1] == ceiling
        assert found[1] <= found[0] * step * (1 + 1e-9)


# --- laws --------------------------------------------------------------------------------------


def question_of(model, card, prompt, output, cv):
    def lengths(mean):
        if not cv:
            return {"kind": "fixed", "tokens": mean}
        return {"kind": "lognormal", "mean": mean, "cv": cv, "max": 8 * mean}

    return kvsim.load_scenario(
        "peer-w",
        {
            "model": model,
            "accelerator": card,
            "engine": {},
            "memory": {"allocator": "paged"},
            "slo": {},
            "workload.lengths": {"prompt": lengths(prompt), "output": lengths(output)},
        },
    )


GRID = [
    ("llama3.1-8b", "h100", 1000, 200, 0.0, ()),
    ("llama3.1-8b", "a100", 1000, 200, 0.0, ()),
    ("llama3.1-8b", "l40s", 1000, 200, 1.0, ()),
    ("llama3.1-8b", "h100", 1000, 200, 1.0, (Objective("ttft", 2000), Objective("tpot", 50, 0.95))),
    ("llama3.1-8b", "a100", 1000, 200, 0.0, (Objective("ttft", 500),)),
    ("llama2-7b", "a100", 400, 400, 0.5, (Objective("e2el", 20_000, 0.95),)),
    ("qwen3-32b", "h200", 2000, 100, 1.0, (Objective("ttft", 3000, 0.9),)),
    ("mixtral-8x7b", "h200", 500, 200, 0.5, (Objective("tpot", 60, 0.9),)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "card", "prompt", "output", "cv", "objectives"), GRID)
def test_what_is_sustained_holds_ten_times_as_long_and_a_tenth_more_does_not(
    model, card, prompt, output, cv, objectives
):
    question = question_of(model, card, prompt, output, cv)
    found = kvsim.highest_rate(question, objectives)
    assert found.rate <= found.interval[1] <= found.throughput
    setup, load = prepare(question), load_of(question)
    length = max(probe.requests for probe in found.probes if probe.passed)
    assert passes(run_setup(load.at(setup, found.rate, 10 * length), 77), objectives)
    beyond = 1.1 * fmean(found.interval)
    assert not passes(run_setup(load.at(setup, beyond, 2 * length), 77), objectives)


def passes(result, objectives):
    """By the run's own table and pandas, not by what judges a probe."""
    table = result.requests[result.judged]
    shares = [
        float((table[f"{each.latency}_seconds"] * 1e3 <= each.limit_ms).mean()) >= each.share
        for each in objectives
    ]
    return not result.saturated and all(shares)


@pytest.mark.slow
def test_more_memory_never_lowers_what_is_sustained():
    """Of first tokens: a larger batch may miss a TPOT that a smaller one meets."""
    objectives = (Objective("ttft", 2000),)
    found = [
        kvsim.highest_rate(
            kvsim.with_overrides(
                question_of("llama3.1-8b", "a100", 1000, 200, 1.0),
                {"engine.gpu_memory_utilization": share, "engine.max_model_len": 16384},
            ),
            objectives,
            kvsim.SearchSettings(requests=1000, replications=1),
        )
        for share in (0.35, 0.5, 0.92)
    ]
    assert all(more.interval[1] >= less.rate for less, more in pairwise(found))
    assert found[-1].rate > found[0].interval[1]


def test_a_looser_objective_never_raises_the_cost_nor_more_demand_lowers_it():
    question = question_of("llama3.1-8b", "a100", 500, 100, 0.5)
    quick = kvsim.SearchSettings(requests=500, tolerance=0.05, replications=1)

    def cost(limit_ms, demand):
        (option,) = kvsim.size_fleet(
            question, demand, [("a100", 1)], quick, objectives=[Objective("ttft", limit_ms)]
        )
        return option.cost_per_hour

    costs = [cost(limit_ms, 100) for limit_ms in (150, 300, 1000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]
    demands = [cost(300, demand) for demand in (5, 50, 100, 200)]
    assert demands == sorted(demands)


def test_seeds_that_differ_make_the_interval_and_more_of_them_or_longer_runs_narrow_it():
    question = question_of("llama3.1-8b", "a100", 500, 100, 1.0)
    objectives = (Objective("ttft", 1000),)
    quick = kvsim.SearchSettings(requests=500, tolerance=0.05)
    one = kvsim.highest_rate(question, objectives, replace(quick, replications=1))
    many = kvsim.highest_rate(question, objectives, quick)
    assert one.interval[1] <= one.interval[0] * 1.05 * (1 + 1e-9)
    assert len({probe.seed for probe in many.probes}) >= 3
    knees = {}
    for probe in many.probes:
        if probe.passed and probe.requests >= many.probes[-1].requests / 4:
            knees[probe.seed] = max(knees.get(probe.seed, 0), probe.rate)
    assert many.rate <= np.mean(list(knees.values())) * (1 + 1e-9)
    assert many.rate <= many.throughput


# --- time ----------------------------------------------------------------------------------------


def test_a_search_ends_when_its_time_is_over():
    question = server({"kind": "poisson", "rate": 1})
    with pytest.raises(kvsim.KVSimError, match=r"not found within 1e-09 s"):
        kvsim.highest_rate(question, (), kvsim.SearchSettings(max_seconds=1e-9))
    (option,) = kvsim.size_fleet(question, 1, [("h100", 1)], kvsim.SearchSettings(max_seconds=1e-9))
    assert option.problem.startswith("not found within")
    assert option.replicas is None


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (("itl", 50, 0.9), "no objective of 'itl'"),
        (("ttft", 0, 0.9), "0 ms is no limit of TTFT"),
        (("ttft", float("nan"), 0.9), "nan ms is no limit"),
        (("ttft", 10, 0), "share = 0"),
        (("ttft", 10, 1.5), r"share = 1\.5"),
    ],
)
def test_objectives_that_cannot_be_are_refused(stated, said):
    with pytest.raises(kvsim.InputError, match=said):
        Objective(*stated)
