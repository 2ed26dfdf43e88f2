"""A workload stated in a few numbers is the one that somebody writes by hand."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvsim import Traffic, describe_workload
from kvsim.errors import InputError
from kvsim.workload.spec import parse_workload
from kvsim.workload.traffic import TrafficError, workload_changes

LENGTHS = {"prompt_tokens": 1000, "output_tokens": 200}
FIXED = """
lengths:
  prompt: {kind: fixed, tokens: 1000}
  output: {kind: fixed, tokens: 200}
"""
BY_HAND = {
    "poisson": (
        Traffic(rate=4, **LENGTHS),
        FIXED + "arrivals: {kind: poisson, rate: 4}\nrequests: 1000",
    ),
    "a burstiness of 1 is poisson": (
        Traffic(rate=4, burstiness=1, **LENGTHS),
        FIXED + "arrivals: {kind: poisson, rate: 4}\nrequests: 1000",
    ),
    "bursty": (  # vLLM: theta = 1 / (rate * burstiness), so the gaps' variance is 1 / (r^2 * b)
        Traffic(rate=4, burstiness=0.25, **LENGTHS, requests=7),
        FIXED + "arrivals: {kind: gamma, rate: 4, cv: 2}\nrequests: 7",
    ),
    "users": (
        Traffic(users=50, **LENGTHS, duration_seconds=600),
        FIXED + "arrivals: {kind: closed_loop, clients: 50}\nduration_seconds: 10min",
    ),
    "users who think": (
        Traffic(users=50, think_seconds=30, **LENGTHS),
        FIXED
        + "arrivals: {kind: closed_loop, clients: 50, think: {kind: exponential, mean: 30},"
        + " ramp_seconds: 30}\nrequests: 1000",
    ),
    "users who do not think": (
        Traffic(users=50, think_seconds=0, **LENGTHS),
        FIXED + "arrivals: {kind: closed_loop, clients: 50}\nrequests: 1000",
    ),
    "spread": (
        Traffic(rate=4, spread=1, **LENGTHS),
        "lengths:\n"
        "  prompt: {kind: lognormal, mean: 1000, cv: 1, max: 8000}\n"
        "  output: {kind: lognormal, mean: 200, cv: 1, max: 1600}\n"
        "arrivals: {kind: poisson, rate: 4}\nrequests: 1000",
    ),
    "one system prompt": (
        Traffic(rate=4, prefix_tokens=800, **LENGTHS),
        FIXED + "arrivals: {kind: poisson, rate: 4}\nrequests: 1000\n"
        "prefix: {kind: groups, tokens: 800}",
    ),
    "system prompts": (
        Traffic(rate=4, prefix_tokens=800, prefix_groups=5, **LENGTHS),
        FIXED + "arrivals: {kind: poisson, rate: 4}\nrequests: 1000\n"
        "prefix: {kind: groups, tokens: 800, groups: 5}",
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_it_is_what_is_written_by_hand(name):
    traffic, written = BY_HAND[name]
    assert parse_workload(describe_workload(traffic)) == parse_workload(yaml.safe_load(written))


# --- over a workload that is there --------------------------------------------------------------


def changed(said, **numbers):
    """Values by key."""
    return {each.key: each.value for each in workload_changes(Traffic(**numbers), said)}


def arrivals(kind, **keys):
    return {"arrivals": {"kind": kind, **keys}}


@pytest.mark.parametrize("kind", ["poisson", "constant", "gamma", "weibull", "diurnal"])
def test_a_rate_changes_the_rate_alone(kind):
    assert changed(arrivals(kind, rate=1), rate=9) == {"arrivals.rate": 9}


@pytest.mark.parametrize("kind", ["closed_loop", "at_once"])
def test_a_rate_opens_the_loop(kind):
    assert changed(arrivals(kind), rate=9) == {"arrivals": {"kind": "poisson", "rate": 9}}


@pytest.mark.parametrize("kind", ["piecewise", "on_off"])
@pytest.mark.parametrize("numbers", [{"rate": 9}, {"rate": 9, "burstiness": 2}])
def test_several_rates_are_not_one(kind, numbers):
    with pytest.raises(TrafficError, match=f"rate: .*{kind}, which have several rates"):
        changed(arrivals(kind), **numbers)


@pytest.mark.parametrize("kind", ["gamma", "diurnal", "piecewise", "on_off"])
def test_burstiness_is_the_cv_of_gamma_gaps(kind):
    assert changed(arrivals(kind, rate=1), burstiness=4) == {"arrivals.cv": 0.5}


@pytest.mark.parametrize("kind", ["poisson", "constant", "weibull"])
def test_burstiness_keeps_the_rate(kind):
    found = changed(arrivals(kind, rate=3), burstiness=4)
    assert found == {"arrivals": {"kind": "gamma", "cv": 0.5, "rate": 3}}


def test_users_and_their_pause_change_each_alone():
    loop = arrivals("closed_loop", clients=3, ramp_seconds=5)
    assert changed(loop, users=9) == {"arrivals.clients": 9}
    assert changed(loop, think_seconds=2) == {
        "arrivals.think": {"kind": "exponential", "mean": 2},
        "arrivals.ramp_seconds": 2,
    }


def test_a_spread_goes_around_the_means_that_are_there():
    said = {
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 10},
            "output": {"kind": "gamma", "mean": 5, "cv": 2},
        }
    }
    assert changed(said, spread=0.5) == {
        "lengths.prompt": {"kind": "lognormal", "mean": 10, "cv": 0.5, "max": 80},
        "lengths.output": {"kind": "lognormal", "mean": 5, "cv": 0.5, "max": 40},
    }


def test_a_length_leaves_the_other_alone():
    said = {"lengths": {"prompt": {"kind": "fixed", "tokens": 10}, "output": {"kind": "zipf"}}}
    assert changed(said, prompt_tokens=7) == {"lengths.prompt": {"kind": "fixed", "tokens": 7}}


def test_lengths_in_pairs_are_replaced_both():
    said = {"lengths": {"kind": "pairs", "file": "lengths.csv"}}
    assert changed(said, prompt_tokens=7, output_tokens=3) == {
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 7},
            "output": {"kind": "fixed", "tokens": 3},
        }
    }


@pytest.mark.parametrize("kind", ["groups", "conversations"])
def test_system_prompts_change_each_alone(kind):
    said = {"prefix": {"kind": kind}}
    assert changed(said, prefix_tokens=7) == {"prefix.tokens": 7}
    assert changed(said, prefix_groups=7) == {"prefix.groups": 7}


def test_one_limit_alone_takes_the_place_of_the_other():
    assert changed({"requests": 9}, duration_seconds=5) == {"duration_seconds": 5, "requests": None}
    assert changed({"duration_seconds": 9}, requests=5) == {"requests": 5, "duration_seconds": None}
    both = {"requests": 3, "duration_seconds": 4}
    assert changed({"requests": 9}, **both) == both


@pytest.mark.parametrize(
    ("said", "numbers", "line"),
    [
        ({}, {"burstiness": 2}, "burstiness: says how bursty a rate is; give a rate, too"),
        (arrivals("closed_loop"), {"burstiness": 2}, "give a rate, too"),
        ({}, {"think_seconds": 2}, "think_seconds: is a pause of users; give users, too"),
        (arrivals("poisson", rate=1), {"think_seconds": 2}, "give users, too"),
        (
            {**arrivals("closed_loop"), "prefix": {"kind": "conversations"}},
            {"think_seconds": 2},
            "conversations have a pause of their own; set that",
        ),
        ({}, {"prefix_groups": 2}, "prefix_groups: are of shared prompts"),
        ({}, {"spread": 2, "prompt_tokens": 3}, "spread: goes around a mean output"),
        ({"lengths": {"prompt": {"kind": "zipf"}}}, {"spread": 2}, "a mean prompt"),
        (
            {"lengths": {"kind": "pairs"}},
            {"prompt_tokens": 2},
            "prompt_tokens: the workload draws prompts and outputs in pairs; give output, too",
        ),
        ({"lengths": {"kind": "pairs"}}, {"spread": 2}, "give prompt and output, too"),
        ({}, {"rate": 2, "users": 3}, "rate: contradicts users; leave one of the two out"),
        ({}, {"burstiness": 2, "users": 3}, "burstiness: contradicts users"),
    ],
)
def test_a_number_without_a_place_is_refused(said, numbers, line):
    with pytest.raises(TrafficError) as refused:
        changed(said, **numbers)
    assert line in str(refused.value)


NUMBERS = {
    "rate": st.floats(0.1, 9), "burstiness": st.floats(0.1, 9), "users": st.integers(1, 9),
    "think_seconds": st.floats(0, 9), "prompt_tokens": st.integers(1, 99),
    "output_tokens": st.integers(1, 99), "spread": st.floats(0.1, 2) | st.just(0),
    "prefix_tokens": st.integers(1, 99), "prefix_groups": st.integers(1, 9),
    "requests": st.integers(1, 99), "duration_seconds": st.floats(1, 99),
}  # fmt: skip
anything = st.none() | st.integers() | st.text(max_size=3) | st.dictionaries(
    st.sampled_from(["kind", "rate", "mean", "tokens", "prompt", "output"]),
    st.sampled_from(["poisson", "on_off", "pairs", "fixed", "groups", "x", {}, 3]),
)  # fmt: skip
workloads = st.dictionaries(
    st.sampled_from(["arrivals", "lengths", "prefix", "requests", "trace"]), anything
)


@given(workloads, st.fixed_dictionaries({}, optional=NUMBERS))
def test_whatever_a_file_says_it_is_changed_or_refused(said, numbers):
    with suppress(InputError):
        keys = [each.key for each in workload_changes(Traffic(**numbers), said)]
        assert len(set(keys)) == len(keys)
