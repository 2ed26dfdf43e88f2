"""A workload in a few words, and its means beside those of many draws."""

import numpy as np
import pytest

from kvsim.workload.spec import parse_workload
from kvsim.workload.words import _mean_tokens, in_words

LENGTHS = {"prompt": {"kind": "fixed", "tokens": 1000}, "output": {"kind": "zipf", "high": 9,
           "exponent": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("arrivals", "said"),
    [
        ({"kind": "poisson", "rate": 4}, "poisson 4/s, "),
        ({"kind": "on_off", "on_rate": 4, "on_seconds": 10, "off_seconds": 10}, "on-off 2/s, "),
        ({"kind": "closed_loop", "clients": 1500}, "1,500 users, "),
        ({"kind": "at_once"}, "all at once, "),
        ({"kind": "piecewise", "phases": [{"seconds": 1, "rate": 2}, {"seconds": 1, "rate": 3}]},
         "piecewise 2 to 3/s, "),
    ],
)  # fmt: skip
def test_arrivals(arrivals, said):
    found = in_words(parse_workload({"arrivals": arrivals, "lengths": LENGTHS, "requests": 1200}))
    assert found == said + "1,000 in, zipf out, 1,200 requests"


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ({"kind": "groups", "tokens": 9}, "1 system prompt"),
        ({"kind": "groups", "tokens": 9, "groups": 30}, "30 system prompts"),
        ({"kind": "conversations", "turns": {"kind": "fixed", "tokens": 2}}, "conversations"),
    ],
)
def test_what_is_shared(prefix, said):
    workload = {"arrivals": {"kind": "poisson", "rate": 1}, "lengths": LENGTHS, "prefix": prefix}
    found = in_words(parse_workload({**workload, "duration_seconds": 600}))
    assert found == f"poisson 1/s, 1,000 in, zipf out, {said}, 600 s"


def test_a_trace_and_pairs():
    assert in_words(parse_workload({"trace": {"file": "/far/away/a.csv"}})) == "trace a.csv"
    pairs = {"kind": "pairs", "file": "lengths.csv"}
    workload = {"arrivals": {"kind": "at_once"}, "lengths": pairs, "requests": 1}
    assert in_words(parse_workload(workload)) == "all at once, lengths of lengths.csv, 1 request"


@pytest.mark.parametrize(
    "length",
    [
        {"kind": "uniform", "low": 10, "high": 31},
        {"kind": "exponential", "mean": 50},
        {"kind": "lognormal", "mu": 5, "sigma": 0.5},
        {"kind": "lognormal", "mean": 50, "cv": 0.5},
        {"kind": "gamma", "shape": 2, "scale": 30},
        {"kind": "weibull", "shape": 0.8, "scale": 30},
    ],
    ids=str,
)
def test_a_stated_mean_is_that_of_what_is_drawn(length):
    lengths = {"prompt": length, "output": length}
    workload = {"arrivals": {"kind": "at_once"}, "requests": 1, "lengths": lengths}
    prompt = parse_workload(workload).lengths.prompt
    drawn = prompt.draw(np.random.default_rng(0), 200_000)
    assert _mean_tokens(prompt) == pytest.approx(drawn.mean(), rel=0.02)
