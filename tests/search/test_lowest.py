"""Bounds of an empty server: below what any request of a run sees, and close where they can be."""

from dataclasses import replace

import numpy as np
import pytest

import kvsim
from kvsim.search.lowest import beyond_reach, least_latencies, sampled_lengths
from kvsim.simulator.prepare import prepare

QUESTIONS = [
    ("llama3.1-8b", "h100", {}),
    ("llama3.1-8b", "a100", {"tp": 4, "kv_cache_dtype": "fp8"}),
    ("llama3-70b", "h200", {"tp": 8, "max_num_seqs": 4}),
    ("llama3-70b", "a100", {"tp": 4, "pp": 2}),
    ("mixtral-8x7b", "h200", {"tp": 2, "max_num_batched_tokens": 512}),
    ("llama2-7b", "a100", {"scheduler.policy": "orca", "enforce_eager": True}),
    ("llama2-7b", "h100", {"engine": "sglang"}),
    ("qwen3-32b", "h100", {"tp": 2, "quantization": "fp8"}),
    ("gemma2-9b", "h100", {"enable_prefix_caching": True}),
]


def question(model, gpu, flags, rate):
    lengths = {
        "prompt": {"kind": "lognormal", "mean": 700, "cv": 1.0, "max": 3000},
        "output": {"kind": "uniform", "low": 1, "high": 80},
    }
    base = {
        "model": model,
        "accelerator": gpu,
        "engine": {},
        "memory": {},
        "workload.lengths": lengths,
        "workload.requests": 250,
        "workload.arrivals.rate": rate,
    }
    return kvsim.with_overrides(kvsim.load_scenario("peer-w", base), flags)


@pytest.mark.parametrize("rate", [0.5, 50])
@pytest.mark.parametrize(("model", "gpu", "flags"), QUESTIONS)
def test_no_request_of_a_run_is_below_its_bounds(model, gpu, flags, rate):
    scenario = question(model, gpu, flags, rate)
    result = kvsim.simulate(scenario)
    columns = result.columns
    least = least_latencies(prepare(scenario), columns["prompt_tokens"], columns["output_tokens"])
    for name in ("ttft", "tpot", "e2el"):
        seen = result.latencies[name]
        known = ~np.isnan(seen)
        assert (seen[known] >= least[name][known] * (1 - 1e-9)).all(), name


def test_the_bounds_are_close_where_a_server_is_empty():
    """Alone, a request's steps read the weights and little else."""
    scenario = question("llama3-70b", "h200", {"tp": 4}, 0.01)
    result = kvsim.simulate(kvsim.with_overrides(scenario, {"workload.requests": 30}))
    columns = result.columns
    setup = prepare(scenario)
    least = least_latencies(setup, columns["prompt_tokens"], columns["output_tokens"])
    for name in ("tpot", "ttft"):
        assert np.nanmedian(least[name] / result.latencies[name]) > 0.7, name


def test_a_constant_step_is_its_own_bound():
    scenario = question("llama3.1-8b", "h100", {}, 1.0)
    scenario = kvsim.with_overrides(scenario, {"step_time": {"kind": "constant", "seconds": 0.02}})
    least = least_latencies(prepare(scenario), np.array([100, 2000]), np.array([1, 11]))
    assert least["ttft"].tolist() == [0.02, 0.02]
    assert np.isnan(least["tpot"][0])
    assert least["tpot"][1] == pytest.approx(0.02)
    assert least["e2el"].tolist() == pytest.approx([0.02, 0.22])


def test_a_share_that_chance_could_explain_rules_nothing_out():
    """3 % of the prompts are long; p99 TTFT misses, yet a sample of so few may have met more."""
    pairs = [[100, 10]] * 97 + [[8000, 10]] * 3
    scenario = question("llama3.1-8b", "h100", {}, 1.0)
    scenario = kvsim.with_overrides(
        scenario, {"workload.lengths": {"kind": "pairs", "pairs": pairs}, "max_model_len": 9000}
    )
    setup = prepare(scenario)
    most = 1e3 * least_latencies(setup, np.array([8000]), np.array([10]))["ttft"][0]
    goals = [kvsim.Objective("ttft", 0.9 * most, 0.99)]
    for requests, is_ruled_out in ((300, False), (10**9, False)):
        assert bool(beyond_reach(setup, sampled_lengths(scenario, requests), goals)) is is_ruled_out
    many = [[100, 10]] * 60 + [[8000, 10]] * 40
    scenario = kvsim.with_overrides(scenario, {"workload.lengths.pairs": many})
    assert beyond_reach(setup, sampled_lengths(scenario, 300), goals)
    assert not beyond_reach(setup, sampled_lengths(scenario, 300), [replace(goals[0], share=0.5)])
    goals = [kvsim.Objective("ttft", 1.0, 0.9)]
    assert beyond_reach(setup, sampled_lengths(scenario, 300), goals)


def test_what_a_prompt_may_find_cached_is_no_work():
    cached = {"kind": "groups", "groups": 4, "tokens": 600}
    scenario = question("llama3.1-8b", "h100", {"workload.prefix": cached}, 1.0)
    prompts, outputs = np.array([4600]), np.array([2])

    def ttft(**flags):
        setup = prepare(kvsim.with_overrides(scenario, flags))
        return least_latencies(setup, prompts, outputs)["ttft"][0]

    plain, caching = ttft(enable_prefix_caching=False), ttft(enable_prefix_caching=True)
    assert caching < plain
    alone = kvsim.with_overrides(scenario, {"workload.prefix": {"kind": "none"}})
    scenario = alone
    assert ttft(enable_prefix_caching=True) == pytest.approx(plain, rel=1e-6)


def test_requests_that_grow_from_turn_to_turn_have_no_sample():
    assert sampled_lengths(kvsim.load_scenario("agent-loop"), 300) is None
