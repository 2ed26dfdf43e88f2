"""What a search reads off an overload, and where it ends without one."""

from types import SimpleNamespace

import numpy as np
import pytest

import kvsim
from kvsim.errors import InputError
from kvsim.search.highest import Search, _Knees
from kvsim.search.load import OVERLOAD_RATE, load_of
from kvsim.search.objectives import Objective
from kvsim.search.observed import sustained_throughput
from kvsim.search.rate import judge
from kvsim.simulator.prepare import prepare
from tests.support.one_server import SERVICE_RATE, STEP, TOKENS, server


def waves(requests, seats=64, settings=None, **overrides):
    """Answers of one length: whole batches finish in one step, and the next one is let in."""
    question = server(
        {"kind": "poisson", "rate": 1},
        **{
            "engine": {"max_num_seqs": seats, "max_model_len": 8192},
            "workload.lengths.output": {"kind": "fixed", "tokens": 200},
            **overrides,
        },
    )
    load = load_of(question)
    chosen = settings or kvsim.SearchSettings(requests=requests)
    return Search(prepare(question), load, (), chosen)


@pytest.mark.parametrize("requests", [100, 150, 250, 500, 900, 1300])
def test_batches_that_finish_at_once_never_flatter_the_throughput(requests):
    """However few batches there are, and wherever the first fifth ends."""
    search = waves(requests)
    result = search.simulate(OVERLOAD_RATE, requests, 0)
    found, true = sustained_throughput(result), 64 / (200 * STEP)
    assert 0.6 * true <= found <= 1.005 * true
    if requests >= 20 * 64:
        assert found == pytest.approx(true, rel=0.01)


def test_what_a_fresh_batch_does_and_what_drains_does_not_count():
    """A hundred finish at 2/s while the batch fills, 300 at 1/s, 100 at 0.1/s after the last."""
    finish = np.cumsum(np.repeat([0.5, 1.0, 10.0], [100, 300, 100]))
    scheduled = np.minimum(finish - 0.5, 350.0)
    result = SimpleNamespace(
        columns={"finish_seconds": finish, "scheduled_seconds": scheduled},
        recording=SimpleNamespace(end_seconds=finish[-1]),
    )
    assert sustained_throughput(result) == pytest.approx(1.0)


def test_no_interval_reaches_beyond_the_throughput():
    knees = _Knees(
        kvsim.SearchSettings(), True, (9.0, 9.9), [(9.0, 9.9), (9.8, 11.0)], [10.0, 10.2]
    )
    low, high = knees.interval
    assert low <= 9.0
    assert high == pytest.approx(10.1)


def test_an_overload_lasts_for_many_batches():
    search = waves(200)
    throughput = search.throughput(0)
    assert search.generations >= 19
    assert throughput == pytest.approx(64 / (200 * STEP), rel=0.01)


def test_a_trace_of_few_batches_is_not_sure_and_says_so(tmp_path):
    def found(requests):
        lines = [f"{at},16,200" for at in range(requests)]
        path = tmp_path / f"{requests}.csv"
        header = "arrived_at,num_prefill_tokens,num_decode_tokens"
        path.write_text("\n".join([header, *lines]) + "\n", "utf-8")
        question = kvsim.load_scenario(
            "peer-w",
            {
                "engine": {"max_num_seqs": 64, "max_model_len": 8192},
                "memory": {"allocator": "paged"},
                "step_time": {"kind": "constant", "seconds": STEP},
                "workload": {"trace": {"file": str(path)}},
            },
        )
        return kvsim.highest_rate(question)

    few, many = found(150), found(1000)
    assert (few.is_long, few.is_sure, many.is_long, many.is_sure) == (False, False, True, True)
    assert few.throughput <= 1.005 * 64 / (200 * STEP)
    with pytest.raises(InputError, match="its 99 requests say nothing of a percentile"):
        found(99)


def test_users_who_hardly_ask_are_carried_by_one_replica():
    """Hours of thought, half a second of work: nobody ever waits."""
    arrivals = {
        "kind": "closed_loop",
        "clients": 300,
        "think": {"kind": "exponential", "mean": 1e4},
    }
    question = server(arrivals, slo={"e2el_ms": 60_000})
    (option,) = kvsim.size_fleet(question, 300, [("h100", 1)], kvsim.SearchSettings(requests=300))
    assert option.replicas == 1
    assert option.search.is_floor
    assert 300 <= option.search.rate < 1200  # runs of more users would only be longer


def test_a_demand_so_low_that_nobody_meets_is_carried():
    """Of two thousand one may wait for another: that takes a load of half a per mille."""
    fixed = {"workload.lengths.output": {"kind": "fixed", "tokens": TOKENS}}
    question = server({"kind": "poisson", "rate": 1}, **fixed)
    goal = Objective("e2el", 1e3 * STEP * (TOKENS + 1), share=0.9995)
    settings = kvsim.SearchSettings(replications=1)
    (option,) = kvsim.size_fleet(question, 2e-4, [("h100", 1)], settings, objectives=[goal])
    assert option.replicas == 1, option.problem


def test_each_percentile_of_a_latency_is_its_own():
    question = server({"kind": "poisson", "rate": SERVICE_RATE / 2})
    goals = (Objective("ttft", 2_000, 0.5), Objective("ttft", 20_000, 0.99))
    result = kvsim.simulate(question, seed=0)
    probe = judge(1.0, result, goals)
    seen = 1e3 * result.latencies["ttft"][result.judged]
    assert probe.reached_ms == pytest.approx(
        {"ttft_p50": np.quantile(seen, 0.5), "ttft_p99": np.quantile(seen, 0.99)}
    )
    assert probe.latency_ms["ttft"] == probe.reached_ms["ttft_p99"]
