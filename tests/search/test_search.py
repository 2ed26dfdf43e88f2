"""The highest rate of a replica, and the fleet that a demand takes."""

import re
from dataclasses import replace
from math import ceil, exp, factorial, floor, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

import kvsim
from kvsim.search import replicas_for
from kvsim.search.bisection import bisect, bracket
from kvsim.simulator.scenario import SLO
from kvsim.specs.hardware import Price
from kvsim.steptime.bands import time_band

SMALL = kvsim.SearchSettings(share=0.95, requests=300, tolerance=0.05)
ONE_SEED = replace(SMALL, replications=1)


def scenario(**overrides):
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return kvsim.load_scenario("peer-w", {"memory.num_blocks": None, **dotted})


def constant(seconds, **overrides):
    """A replica whose every step takes the same time."""
    return scenario(step_time={"kind": "constant", "seconds": seconds}, **overrides)


def rate_of(question, slo, settings=SMALL):
    """The rate that was found; nothing is less than any rate."""
    return kvsim.highest_rate(question, slo, settings).rate or 0.0


# --- where it probes -------------------------------------------------------------------------


@given(
    threshold=st.floats(1e-3, 1e4),
    start=st.integers(-6, 6).map(lambda power: 2.0**power),
    tolerance=st.floats(0.005, 0.5),
)
def test_a_threshold_is_found_to_the_tolerance(threshold, start, tolerance):
    def passes(rate):
        return rate <= threshold

    low, high = bracket(passes, start)
    if low is None:
        assert high / 2 > threshold or high > threshold
        assert start / high == 2**8
    elif high is None:
        assert low <= threshold
        assert low / start == 2**8
    else:
        low, high = bisect(passes, low, high, tolerance)
        assert low <= threshold < high <= low * (1 + tolerance) * (1 + 1e-12)


@given(
    outcomes=st.lists(st.booleans(), min_size=40, max_size=40),
    looser=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_whatever_is_looser_ends_no_lower(outcomes, looser):
    """Even where chance makes a higher rate pass that a lower one fails."""

    def found(loose):
        def passes(rate):
            at = int(np.log2(rate) * 64) % 40
            return outcomes[at] or (loose and looser[at])

        low, high = bracket(passes, 1.0)
        if low is None or high is None:
            return low or (0.0 if high else inf)
        return bisect(passes, low, high, 0.05)[0]

    assert found(loose=True) >= found(loose=False)


# --- known answers ---------------------------------------------------------------------------


def waits_at_most(seconds, rate, service):
    """P(wait <= t) of M/D/1: Erlang 1909; Gross and Harris, Fundamentals of Queueing Theory.

    ``(1 - rho) sum over j = 0 .. floor(t / D) of (-rate (t - jD))**j / j! exp(rate (t - jD))``
    """
    terms = (
        (-rate * (seconds - j * service)) ** j / factorial(j) * exp(rate * (seconds - j * service))
        for j in range(floor(seconds / service + 1e-9) + 1)
    )
    return (1 - rate * service) * sum(terms)


@pytest.mark.parametrize(("limit_ms", "share"), [(350, 0.9), (600, 0.95), (250, 0.8)])
def test_a_constant_step_is_an_md1_server(limit_ms, share):
    service = 0.1
    question = constant(
        service,
        engine={"max_num_seqs": 1},
        workload__lengths={
            "prompt": {"kind": "fixed", "tokens": 64},
            "output": {"kind": "fixed", "tokens": 1},
        },
    )
    settings = kvsim.SearchSettings(share=share, requests=6000, tolerance=0.01, replications=1)
    waiting = limit_ms / 1e3 - service
    exact = optimize.brentq(lambda rate: waits_at_most(waiting, rate, service) - share, 0.01, 9.99)
    found = kvsim.highest_rate(question, SLO(ttft_ms=limit_ms), settings)
    assert found.rate == pytest.approx(exact, rel=0.05)
    assert found.limit == "ttft"


def test_without_objectives_the_rate_ends_where_the_queue_grows():
    question = constant(
        0.1,
        engine={"max_num_seqs": 1},
        workload__lengths={
            "prompt": {"kind": "fixed", "tokens": 64},
            "output": {"kind": "fixed", "tokens": 1},
        },
    )
    found = kvsim.highest_rate(question, SLO(), kvsim.SearchSettings(requests=4000, replications=1))
    assert found.rate == pytest.approx(10, rel=0.1)  # 1 / D
    assert found.limit == "saturation"


# --- laws --------------------------------------------------------------------------------------


def test_a_looser_objective_never_lowers_the_rate():
    question = scenario()
    for key, limits in {
        "ttft_ms": (20, 30, 50),
        "tpot_ms": (7, 9, 12),
        "e2el_ms": (1000, 1200, 1500),
    }.items():
        rates = [rate_of(question, SLO(**{key: limit}), ONE_SEED) for limit in limits]
        assert rates == sorted(rates)
        assert rates[-1] > rates[0]


def test_a_smaller_share_never_lowers_the_rate():
    slo = SLO(ttft_ms=60, tpot_ms=12)
    shares = [0.99, 0.9, 0.5]
    rates = [rate_of(scenario(), slo, replace(ONE_SEED, share=share)) for share in shares]
    assert rates == sorted(rates)


def test_a_faster_step_never_lowers_the_rate():
    slo = SLO(ttft_ms=500, tpot_ms=60)
    rates = [rate_of(constant(seconds), slo, ONE_SEED) for seconds in (0.05, 0.02)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_a_probe_is_the_simulation_that_anybody_runs():
    slo = {"ttft_ms": 200.0, "tpot_ms": 15.0}
    found = kvsim.highest_rate(scenario(), SLO(**slo), ONE_SEED)
    for probe in found.probes[-3:]:
        overrides = {
            "slo": slo,
            "workload.arrivals.rate": probe.rate,
            "workload.requests": probe.requests,
            "run.warmup_fraction": 0.2,
        }
        result = kvsim.simulate(kvsim.with_overrides(scenario(), overrides), seed=probe.seed)
        judged = result.requests[result.judged]
        missed = {
            "ttft_p95": float((judged.ttft_seconds > 0.2).mean()),
            "tpot_p95": float((judged.tpot_seconds > 0.015).mean()),
        }
        assert probe.missed == pytest.approx(missed)
        assert probe.passed is (not result.saturated and max(missed.values()) <= 0.05)
        percentile = np.nanquantile(1e3 * judged.ttft_seconds, 0.95)
        assert probe.latency_ms["ttft"] == pytest.approx(percentile)
    assert found.simulations > len(found.probes)


def test_the_last_rate_that_passes_and_the_first_that_fails_are_a_tolerance_apart():
    found = kvsim.highest_rate(scenario(), SLO(ttft_ms=200, tpot_ms=15), ONE_SEED)
    passed = max(probe.rate for probe in found.probes if probe.passed)
    failed = min(probe.rate for probe in found.probes if not probe.passed)
    assert (passed, failed) == (found.rate, found.failed_rate) == found.interval
    assert passed < failed <= passed * 1.05


def test_the_same_seed_finds_the_same_and_another_one_other_requests():
    slo = SLO(ttft_ms=200, tpot_ms=12)
    first, again = (kvsim.highest_rate(scenario(), slo, SMALL) for _ in range(2))
    other = kvsim.highest_rate(scenario(), slo, replace(SMALL, seed=99))
    assert first == again
    assert [p.latency_ms for p in first.probes] != [p.latency_ms for p in other.probes]


def test_a_short_search_is_made_long_enough_to_see_the_batch_fill():
    """200 requests of 1,000 tokens would be over before the first batch is."""
    long = scenario(workload__lengths__output={"kind": "fixed", "tokens": 1000})
    slo = SLO(tpot_ms=14)
    rates = [
        rate_of(long, slo, replace(ONE_SEED, share=0.9, requests=requests))
        for requests in (200, 3000)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=0.1)
    found = kvsim.highest_rate(long, slo, replace(ONE_SEED, share=0.9, requests=200))
    for probe in found.probes:
        in_flight = probe.rate * (probe.latency_ms["e2el"] or 0) / 1e3
        assert not probe.passed or probe.requests >= 4 * in_flight


# --- what cannot be ----------------------------------------------------------------------------


def test_an_objective_that_no_rate_meets_has_no_rate():
    found = kvsim.highest_rate(scenario(), SLO(tpot_ms=0.1), SMALL)
    assert found.rate is found.interval is None
    assert found.limit == "tpot"
    assert not any(probe.passed for probe in found.probes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 0}, "share = 0"),
        ({"share": 1.01}, "share = 1.01"),
        ({"requests": 10}, "10 requests say nothing"),
        ({"tolerance": 0}, "tolerance = 0"),
        ({"tolerance": float("nan")}, "tolerance = nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(kvsim.InputError, match=said):
        kvsim.SearchSettings(**settings)


@pytest.mark.parametrize("name", ["bursty-traffic", "chat-day-peak"])
def test_arrivals_without_one_rate_are_refused(name):
    question = kvsim.load_scenario(name)
    kind = question.workload.arrivals.kind
    with pytest.raises(kvsim.UnsupportedError, match=repr(kind)):
        kvsim.highest_rate(question)


def test_requests_that_are_all_rejected_are_told():
    longer = {"kind": "lognormal", "mean": 20_000, "cv": 0.1}  # than max_model_len, 8,192
    question = scenario(workload__lengths__prompt=longer)
    with pytest.raises(kvsim.InputError, match="every one was rejected"):
        kvsim.highest_rate(question, SLO(), SMALL)


# --- fleets --------------------------------------------------------------------------------------


@given(demand=st.floats(0.01, 1e5), rate=st.floats(0.01, 1e4))
def test_replicas_carry_the_demand_and_one_less_does_not(demand, rate):
    replicas = replicas_for(demand, rate)
    assert replicas >= 1
    assert replicas * rate >= demand * (1 - 1e-12)
    assert replicas == 1 or (replicas - 1) * rate < demand * (1 + 1e-12)


@pytest.fixture(scope="module")
def fleet():
    question = scenario(slo={"ttft_ms": 200, "tpot_ms": 16})
    cards = [("h100", 1), ("h100", 2), ("a100", 1), ("m4-max", 1), ("t4", 1)]
    return kvsim.size_fleet(question, 100.0, cards, ONE_SEED)


def test_every_card_is_answered_in_the_order_given(fleet):
    assert [(each.accelerator, each.tensor_parallel_size) for each in fleet[:3]] == [
        ("H100-SXM5-80GB", 1),
        ("H100-SXM5-80GB", 2),
        ("A100-SXM4-80GB", 1),
    ]
    assert len(fleet) == 5


def test_a_fleet_carries_the_demand_and_costs_what_its_devices_cost(fleet):
    for option in fleet[:3]:
        assert option.replicas == ceil(100 / option.highest_rate)
        assert option.devices == option.replicas * option.tensor_parallel_size
        price = kvsim.find_accelerator(option.accelerator).price
        assert option.cost_per_hour == (option.devices * price.low, option.devices * price.high)


def test_a_fleet_meets_its_objectives_under_its_own_load(fleet):
    for option in fleet[:3]:
        assert option.at_demand.rate == pytest.approx(100 / option.replicas)
        assert option.at_demand.passed
        assert sum(option.bound_by.values()) == pytest.approx(1)
        assert option.provenance.startswith("fitted")


def test_a_fleets_latencies_have_the_bands_of_their_cards(fleet):
    model = kvsim.find_model("llama3.1-8b")
    for option in fleet[:3]:
        card = kvsim.find_accelerator(option.accelerator)
        for key in ("ttft", "tpot", "e2el"):
            assert option.time_bands[key] == time_band("vllm", card, model, key)
            assert option.time_bands[key].words in " ".join(option.how_sure)
    assert fleet[4].how_sure == []


def test_a_quicker_card_sustains_more(fleet):
    assert fleet[1].highest_rate > fleet[0].highest_rate > fleet[2].highest_rate


def test_a_card_without_a_price_or_without_room_says_so(fleet):
    unpriced, small = fleet[3], fleet[4]
    assert kvsim.find_accelerator("m4-max").price is None
    assert unpriced.cost_per_hour is None
    nothing = "llama3.1-8b on T4: DOES NOT FIT: nothing is left for KV cache; the weights take"
    assert small.problem.startswith(nothing)
    assert (small.replicas, small.devices, small.cost_per_hour) == (None, None, None)


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        (
            {"ttft_ms": 1e-3},
            r"^even at \S+ requests/s p95 TTFT of 0.001 ms is missed: TTFT is \S+",
        ),
        (
            {"tpot_ms": 1e-3},
            r"^even at \S+ requests/s p95 TPOT of 0.001 ms is missed: TPOT is \S+",
        ),
    ],
)
def test_an_objective_that_no_rate_meets_is_named(slo, said):
    (option,) = kvsim.size_fleet(constant(0.02, slo=slo), 10, [("h100", 1)], SMALL)
    assert re.search(said, option.problem)
    assert (option.replicas, option.devices, option.cost_per_hour) == (None, None, None)
    assert not option.search.rate


def test_a_price_scales_with_the_devices(fleet):
    priced = replace(fleet[1], price=Price(low=1, high=3))
    assert priced.cost_per_hour == (priced.devices, 3 * priced.devices)


def test_a_stop_keeps_the_cards_that_are_finished():
    question = scenario(slo={"tpot_ms": 10})
    both, calls, limit = [("h100", 1), ("a100", 1)], [], inf

    def watch(seconds, requests, usage):
        calls.append(seconds)
        if len(calls) > limit:
            raise KeyboardInterrupt

    whole = kvsim.size_fleet(question, 10, both, SMALL, watch=watch, jobs=1)
    limit, calls[:] = len(calls) - 2, []
    cut = kvsim.size_fleet(question, 10, both, SMALL, watch=watch, jobs=1)
    (left,) = (option for option in cut if option not in whole)
    assert len(cut) == len(whole)
    assert left.problem == "not searched: interrupted"


def test_an_unknown_card_or_no_demand_is_refused():
    with pytest.raises(kvsim.UnknownNameError, match="h1000"):
        kvsim.size_fleet(scenario(), 1, [("h1000", 1)], SMALL)
    for demand in (0, -1, inf, float("nan")):
        with pytest.raises(kvsim.InputError, match="demand"):
            kvsim.size_fleet(scenario(), demand, [("h100", 1)], SMALL)


def test_every_price_that_ships_says_where_and_when():
    priced = [kvsim.find_accelerator(name) for name in kvsim.accelerator_names()]
    prices = [profile.price for profile in priced if profile.price]
    assert len(prices) > 25
    assert all(price.note and price.date for price in prices)
    assert all(price.low <= price.high for price in prices)
