"""The cheapest deployment of a space: by hand, by laws, and as everything searched finds it."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.search import cheapest
from kvsim.search.explain import explained
from kvsim.search.fleet_option import costs_more, ranked
from kvsim.search.front import pareto_front
from kvsim.specs.hardware import Price
from tests.support.fleets import PRICES, QUICK, find, fleet, served, told

# --- by hand -----------------------------------------------------------------------------------


def test_replicas_devices_and_costs_are_those_of_a_server_of_constant_steps():
    """10 requests/s each, at most: 25 take 3 replicas; four at a time they take 1."""
    found = find({"gpu": ["a100", "h100"], "tp": [1, 2], "max_num_seqs": [1, 4]}, search_all=True)
    by = {values: option.cost_per_hour[0] for values, option in told(found).items()}
    assert by == {
        ("a100", 1, 1): 3 * 1,
        ("a100", 1, 4): 1,
        ("a100", 2, 1): 3 * 2,
        ("a100", 2, 4): 2,
        ("h100", 1, 1): 3 * 2,
        ("h100", 1, 4): 2,
        ("h100", 2, 1): 3 * 2 * 2,
        ("h100", 2, 4): 4,
    }
    assert [option.values for option in found.cheapest] == [
        {"gpu": "a100", "tp": 1, "max_num_seqs": 4}
    ]
    assert (found.points, found.simulated, found.demand) == (8, 8, 25)


def test_what_cannot_be_cheaper_is_not_searched_and_says_why():
    found = find({"gpu": ["a100", "h100"], "tp": [1, 4]}, demand=15)
    dear = told(found)["h100", 4]
    assert dear.ruled_out == "dear"
    assert dear.problem == (
        "cannot be cheaper: at 10 requests/s under overload it takes 8 devices or more,"
        " 16.00 an hour, and 2.00 is enough"
    )
    same_card = told(found)["a100", 4]
    assert same_card.problem.endswith("it takes 8 devices or more, and 2 are enough")
    assert found.cheapest[0].devices == 2
    assert found.simulated < found.points


def test_what_does_not_fit_says_so_in_the_plans_words():
    question = kvsim.with_overrides(served(0.1), {"model": "llama3-70b"})
    found = find({"gpu": ["a100", "l4"], "tp": [3, 4]}, question)
    small, odd = told(found)["l4", 4], told(found)["a100", 3]
    assert (small.ruled_out, odd.ruled_out) == ("unfit", "unfit")
    assert "DOES NOT FIT" in small.problem
    assert "3" in odd.problem
    assert found.cheapest[0].values == {"gpu": "a100", "tp": 4}


def test_an_objective_that_an_empty_server_misses_takes_no_simulation():
    goals = [kvsim.Objective("ttft", 50, 0.95)]
    found = find({"gpu": ["a100"], "tp": [1, 2]}, objectives=goals)
    assert {option.ruled_out for option in found.options} == {"unreachable"}
    assert found.options[0].problem == (
        "an empty server misses p95 TTFT of 50 ms: TTFT is 100 ms or more (closed form)"
    )
    assert (found.simulated, found.cheapest, found.front, found.explanation) == (0, (), (), None)
    simulated = find({"gpu": ["a100"], "tp": [1, 2]}, objectives=goals, search_all=True)
    assert {option.ruled_out for option in simulated.options} == {"hopeless"}


def test_a_flag_without_effect_is_searched_once_and_would_have_found_the_same():
    vary = {"block_size": [16, 32], "kv_cache_dtype": ["auto", "bf16"]}
    found, all_of_it = find(vary), find(vary, search_all=True)
    twins = [option for option in found.options if option.ruled_out == "same"]
    assert [option.values["kv_cache_dtype"] for option in twins] == ["bf16", "bf16"]
    assert twins[0].problem == "the same deployment as block_size 16, kv_cache_dtype auto"
    for twin, other in ((16, "auto"), (16, "bf16")), ((32, "auto"), (32, "bf16")):
        one, two = (told(all_of_it)[values] for values in (twin, other))
        assert one.search == two.search
    assert found.cheapest[0].values == all_of_it.cheapest[0].values


def test_a_limit_of_the_batch_sets_two_deployments_apart_beside_a_stated_pool():
    vary = {"max_num_seqs": [1, 2]}
    found = find(vary, served(0.1, engine__num_gpu_blocks_override=20_000), 25)
    assert "same" not in {option.ruled_out for option in found.options}
    assert found.cheapest[0].values == {"max_num_seqs": 2}


def test_all_points_meet_the_same_requests():
    """Two that differ in nothing but their price have the same probes, to the last digit."""
    found = find({"gpu": ["a100", "h100"]}, demand=5, search_all=True)
    one, two = (option.search.probes for option in found.options)
    assert one == two
    assert len(one) > 1


# --- laws --------------------------------------------------------------------------------------

SMALL = {"gpu": ["a100", "h100"], "tp": [1, 2], "max_num_seqs": [1, 2]}


def test_a_point_more_never_makes_the_answer_dearer():
    costs = []
    for cards in (["h200"], ["h200", "h100"], ["h200", "h100", "a100"]):
        costs.append(find({"gpu": cards, "tp": [1, 2]}).cheapest[0].cost_per_hour)
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_neither_the_order_nor_the_number_of_processes_changes_the_answer(jobs):
    def answer(vary):
        found = find(vary, jobs=jobs)
        rows = {option.label: (option.ruled_out, option.cost_per_hour) for option in found.options}
        return [option.label for option in found.cheapest], rows

    first = answer(SMALL)
    for keys in permutations(SMALL):
        assert answer({key: SMALL[key][::-1] for key in keys}) == first


def test_everything_searched_has_the_same_cheapest():
    question = served(0.1)
    for demand in (5, 25, 90):
        some, every = (find(SMALL, question, demand, search_all=each) for each in (False, True))
        assert [o.label for o in some.cheapest] == [o.label for o in every.cheapest]
        assert every.simulated == every.points > some.simulated


FLEETS = st.lists(
    st.builds(
        fleet,
        st.sampled_from([1.0, 2.0, 3.0]),
        st.sampled_from([1.0, 2.5, 4.0]),
        st.sampled_from([10.0, 20.0, 30.0]),
        card=st.sampled_from(["A100", "H100"]),
        devices=st.integers(1, 4),
    ),
    max_size=7,
)


@given(FLEETS)
def test_the_cheapest_is_what_nothing_else_undercuts(options):
    best = cheapest(options)
    assert bool(best) == bool(options)
    if best:
        assert sum(best[0].cost_per_hour) == min(sum(each.cost_per_hour) for each in options)
        assert best[0] == ranked(options)[0]
    for option in options:
        assert (option in best) is not any(costs_more(option, other) for other in options)


@given(FLEETS)
def test_a_front_is_what_no_other_beats_in_both(options):
    front = pareto_front(options, "ttft")

    def place(option):
        return sum(option.cost_per_hour), option.at_demand.latency_ms["ttft"]

    for option in options:
        cost, latency = place(option)
        beaten = any(
            c <= cost and seen <= latency and (c, seen) != (cost, latency)
            for c, seen in map(place, options)
        )
        assert (option in front) is not beaten
    assert list(map(place, front)) == sorted(map(place, front))


# --- why ---------------------------------------------------------------------------------------


def test_prices_and_demands_at_which_another_wins_are_true():
    goals = [kvsim.Objective("ttft", 400, 0.95)]
    vary = {"gpu": ["a100", "h100"], "max_num_seqs": [1, 2]}
    # a100 alone: 1 at a time; h100: 2 at a time, at 1.5 times the price of an a100
    prices = {"A100-SXM4-80GB": Price(low=2, high=2), "H100-SXM5-80GB": Price(low=3, high=3)}
    found = find(vary, demand=8, objectives=goals, prices=prices, search_all=True)
    why = found.explanation
    assert why.winner is found.cheapest[0]
    assert why.winner.values["gpu"] == "a100"
    assert why.rival.values["gpu"] == "h100"
    assert why.price_ratio == pytest.approx(why.winner.devices / why.rival.devices)
    assert why.price_ratio_now == pytest.approx(1.5)
    cheaper = {**prices, "H100-SXM5-80GB": Price(low=1.9, high=1.9)}
    assert find(vary, demand=8, objectives=goals, prices=cheaper).cheapest[0].values["gpu"] == (
        "h100"
    )
    above = why.more_replicas_above
    one = {"gpu": ["a100"], "max_num_seqs": [why.winner.values["max_num_seqs"]]}
    for demand, more in ((above * 0.999, 0), (above * 1.001, 1)):
        again = find(one, demand=demand, objectives=goals, prices=prices).cheapest[0]
        assert again.replicas == why.winner.replicas + more


def test_a_demand_above_which_another_is_cheaper_is_named():
    """One a100 at 1 carries 10/s; a pair at 1.5 carries 20/s where two of the others cost 2."""
    prices = {"A100-SXM4-80GB": Price(low=1, high=1), "H100-SXM5-80GB": Price(low=1.5, high=1.5)}
    question = served(0.1)
    one = find({"gpu": ["a100"]}, question, 8, prices=prices).options[0]
    two = find({"gpu": ["h100"], "max_num_seqs": [2]}, question, 8, prices=prices).options[0]
    why = explained([one, two], ())
    assert why.overtaken_above == pytest.approx(one.highest_rate)
    assert why.overtaken_by is two
    assert explained([one], ()).overtaken_above is None
    many = [replace(each, demand=1e9) for each in (one, two)]  # a step for each of 10**8 replicas
    assert explained(many, ()).overtaken_above == pytest.approx(1e9, rel=0.01)


def test_the_reach_of_an_objective_is_what_the_probes_saw():
    goals = [kvsim.Objective("ttft", 400, 0.95)]
    found = find({"gpu": ["a100"]}, demand=8, objectives=goals)
    (reach,) = found.explanation.reaches
    winner = found.cheapest[0]
    assert reach.at_demand_ms == winner.at_demand.latency_ms["ttft"]
    assert reach.least_ms <= reach.at_demand_ms <= 400
    tighter = [kvsim.Objective("ttft", reach.least_ms * 0.99, 0.95)]
    assert find({"gpu": ["a100"]}, demand=8, objectives=tighter).cheapest == ()


# --- ends --------------------------------------------------------------------------------------


def test_a_stop_keeps_what_is_settled_and_says_what_is_not():
    calls = []

    def stop(stage, done, of, best):
        calls.append((stage, done, of))
        if stage == "searched":
            raise KeyboardInterrupt

    whole = find(SMALL)
    found = find(SMALL, told=stop)
    assert found.interrupted
    assert not whole.interrupted
    assert len(found.options) == len(whole.options) == 8
    left = [option for option in found.options if option.ruled_out == "unsearched"]
    assert left
    assert {option.problem for option in left} == {"not searched: interrupted"}
    for kept, same in zip(found.options, whole.options, strict=True):
        assert kept.ruled_out == "unsearched" or kept == same
    assert calls[0] == ("screened", 1, 8)


def test_time_that_is_over_is_said_of_what_is_left():
    found = kvsim.find_cheapest(
        kvsim.Space(served(0.1), SMALL), 25, replace(QUICK, max_seconds=1e-9), prices=PRICES
    )
    assert {option.ruled_out for option in found.options} == {"unsearched"}
    assert found.options[0].problem == "not found within 1e-09 s"
    assert not found.interrupted


# --- what is asked -----------------------------------------------------------------------------


def test_a_scenario_stands_for_its_card_in_the_usual_degrees_and_formats():
    space = kvsim.usual_space(served(0.1))
    assert space.vary["accelerator"] == ["h100"]
    assert len(space) == 8
    assert len(kvsim.usual_space(served(0.1), ["a100", "h100"])) == 16


@pytest.mark.slow
def test_seeds_of_a_space_are_the_replications_of_a_search():
    question = served(0.1, **{"workload__arrivals": {"kind": "poisson", "rate": 5}})
    for seeds, expected in ((0, 3), (2, 2), (7, 7)):
        space = kvsim.Space(question, {"gpu": ["a100"]}, seeds)
        (option,) = kvsim.find_cheapest(
            space, prices=PRICES, objectives=[kvsim.Objective("ttft", 1000, 0.9)]
        ).options
        assert option.search.settings.replications == expected


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"workload.arrivals.rate": [1, 2]}, "serve the same requests.*kvsim sweep"),
        ({"seed": [1, 2]}, "seeds says which runs"),
        ({"gpu": ["h1000"]}, "unknown accelerator 'h1000'; did you mean"),
        ({"max_num_seq": [1]}, "unknown key 'max_num_seq'; nearest valid: max_num_seqs"),
        ({"tp": []}, "needs a list of values"),
        ({}, "nothing to vary"),
    ],
)
def test_a_space_that_cannot_be_is_refused(vary, said):
    with pytest.raises(kvsim.InputError, match=said):
        find(vary)


# --- bundled workloads ---------------------------------------------------------------------------

WORKLOADS = [
    ("llama2-7b", "peer-w", 40.0, {"ttft": 500, "tpot": 40}),
    ("llama2-7b", "preemption-edge", 20.0, {"ttft": 1000, "tpot": 60}),
    ("llama3-70b", "peer-w", 10.0, {"ttft": 2000, "tpot": 60}),
    ("llama3-70b", "azure-conversation", 4.0, {"ttft": 3000, "tpot": 80}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "workload", "rate", "limits"), WORKLOADS)
def test_the_cheapest_of_a_bundled_workload_is_that_of_everything_searched(
    model, workload, rate, limits
):
    """Cards, degrees and KV formats, at the catalogue's prices."""
    steady = {
        "model": model,
        "accelerator": "a100",
        "engine": {},
        "memory": {},
        "workload.arrivals": {"kind": "poisson", "rate": rate},
        "workload.requests": 2000,
    }
    question = kvsim.load_scenario(workload, steady)
    goals = [kvsim.Objective(name, limit, 0.9) for name, limit in limits.items()]
    space = kvsim.usual_space(question, ["a100", "h100"])
    some, every = (
        kvsim.find_cheapest(space, None, QUICK, objectives=goals, search_all=each)
        for each in (False, True)
    )
    assert every.cheapest
    assert [each.label for each in some.cheapest] == [each.label for each in every.cheapest]
    assert some.simulated < every.simulated
