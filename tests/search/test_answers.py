"""What an answer says of a fleet: devices, costs, prices, and the scenario of one replica."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import kvsim
from kvsim.errors import InputError
from kvsim.search.fleet import replica_scenario
from kvsim.search.fleet_option import FleetOption, costs_more
from kvsim.specs.hardware import Price
from tests.support.fleets import QUICK, find, fleet, served


@pytest.mark.slow
def test_the_example_of_the_page_answers_with_a_manifest(capsys):
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text("utf-8")
    (block,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "find_c" in each)
    exec(block, {})
    deployment, _ = yaml.safe_load_all(capsys.readouterr().out)
    assert deployment["kind"] == "Deployment"
    assert deployment["metadata"]["annotations"]["kvsim/demand"] == "20 requests/s"


@pytest.mark.parametrize("replicas", [1, 2, 7])
def test_what_a_throughput_seen_too_low_would_need_is_never_too_dear(replicas):
    """Seeds differ: a fleet is ruled out by one per cent more than its throughput at most."""
    load = 10.0 * replicas * 1.01
    option = FleetOption("A100", 1, load, price=Price(low=1, high=1), throughput=10.0)
    assert option.least_devices == replicas
    rival = fleet(replicas + 0.5, replicas + 0.5, 20.0, card="H100")
    assert not costs_more(option, rival)


def test_a_million_tokens_are_those_of_all_ranks_under_the_demand():
    found = find({"gpu": ["a100"], "tp": [1]}, demand=25)
    option = found.cheapest[0]
    hourly = 25 * 65 * 3600 / 1e6
    assert option.cost_per_million_tokens[0] == pytest.approx(option.cost_per_hour[0] / hourly)
    ranks = replace(option, ranks=2, demand=50.0)
    cost, _ = ranks.cost_per_million_tokens
    assert cost == pytest.approx(ranks.cost_per_hour[0] / (2 * hourly))


@pytest.mark.parametrize(("own", "saved"), [(0.0, 0.2), (0.4, 0.4)])
def test_a_saved_replica_is_judged_without_its_beginning(own, saved):
    question = served(0.1, run__warmup_fraction=own)
    option = find({"gpu": ["a100"]}, question, 25).cheapest[0]
    assert replica_scenario(question, option).run.warmup_fraction == saved


def test_latencies_under_the_fleets_load_are_means_over_seeds():
    question = served(0.1, workload__arrivals={"kind": "poisson", "rate": 25})
    goals = [kvsim.Objective("ttft", 900, 0.95)]
    settings = replace(QUICK, replications=2, tolerance=0.3)
    space = kvsim.Space(question, {"gpu": ["a100"]})
    found = kvsim.find_cheapest(space, 25, settings, objectives=goals, prices={"a100": 1})
    option = found.cheapest[0]
    saved = replica_scenario(question, option)
    seen = []
    for seed in (0, 1):
        result = kvsim.simulate(saved, seed=seed)
        seen.append(np.quantile(1e3 * result.latencies["ttft"][result.judged], 0.95))
    assert seen[0] != seen[1]
    assert option.at_demand.latency_ms["ttft"] == pytest.approx(np.mean(seen))


def test_the_saved_replica_meets_what_was_asked_at_its_share():
    goals = [kvsim.Objective("ttft", 400, 0.95)]
    question = served(0.1, slo={"tpot_ms": 1.0}, run__warmup_fraction=0.4)
    option = find({"gpu": ["a100"]}, question, 25, objectives=goals).cheapest[0]
    saved = replica_scenario(question, option)
    assert (saved.slo.ttft_ms, saved.slo.ttft_percentile, saved.slo.tpot_ms) == (400, 95, None)
    assert saved.run.warmup_fraction == 0.4
    result = kvsim.simulate(saved, seed=saved.run.seed)
    judged = 1e3 * result.latencies["ttft"][result.judged]
    assert np.quantile(judged, 0.95) == pytest.approx(option.at_demand.latency_ms["ttft"])
    assert np.mean(judged <= 400) >= 0.95


def test_prices_by_any_name_and_as_numbers_decide():
    named = {"a100": 5, "H100-SXM5-80GB": 1.0, "h200": None}
    found = find({"gpu": ["a100", "h100", "h200"]}, prices=named, search_all=True)
    assert found.cheapest[0].values == {"gpu": "h100"}
    assert [option.price and option.price.low for option in found.options] == [5, 1, None]
    with pytest.raises(InputError, match="unknown accelerator 'h1000'"):
        find({"gpu": ["a100"]}, prices={"h1000": 2})


@pytest.mark.parametrize(
    ("limit", "is_floor", "said"),
    [
        ("ttft", False, "then time to first token is missed"),
        ("saturation", False, "saturated"),
        ("rejected", False, "then requests are rejected"),
        ("", True, "and more: nothing beyond was tried"),
    ],
)
def test_the_page_says_what_ends_a_rate(limit, is_floor, said):
    pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
    from kvsim.figures.sizing import rates_chart

    option = fleet(1.0, 1.0, 20.0)
    ended = replace(option.at_demand, rate=11.0, limit=limit, passed=False)
    probes = () if limit in ("", "saturation") else (ended,)
    search = replace(option.search, probes=probes, failed_rate=11.0, is_floor=is_floor)
    (bars,) = rates_chart([replace(option, search=search)]).figure["data"]
    assert list(bars["customdata"]) == [said]
