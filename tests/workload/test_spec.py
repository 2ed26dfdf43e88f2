"""Descriptions: what is accepted, and the one line that says what is not."""

import copy

import pytest

from kvsim.errors import InputError, KVSimError
from kvsim.workload import build_workload, parse_workload

GOOD = {
    "arrivals": {"kind": "poisson", "rate": 4},
    "lengths": {
        "prompt": {"kind": "fixed", "tokens": 512},
        "output": {"kind": "fixed", "tokens": 128},
    },
    "requests": 10_000,
}
NAN = float("nan")


def changed(**keys):
    """Return GOOD with dotted keys set; a value of None removes the key."""
    described = copy.deepcopy(GOOD)
    for dotted, value in keys.items():
        *folders, last = dotted.split("__")
        place = described
        for folder in folders:
            place = place[folder]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return described


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (changed(arrivals__rate=0), "workload.arrivals.rate = 0: should be greater than 0"),
        (changed(arrivals__rate=-3), "workload.arrivals.rate = -3: should be greater than 0"),
        (changed(arrivals__rate=NAN), "workload.arrivals.rate = nan: should be a finite"),
        (changed(arrivals__rate=None), "the key 'workload.arrivals.rate' is missing"),
        (changed(arrivals__rat=3), "unknown key 'workload.arrivals.rat'; nearest valid: rate"),
        (
            changed(arrivals__kind="poison"),
            "workload.arrivals.kind = 'poison': should be one of 'poisson', ",
        ),
        (changed(lengths__prompt__tokens=0), "workload.lengths.prompt.tokens = 0: should be"),
        (changed(lengths__output__tokens=NAN), "workload.lengths.output.tokens = nan: "),
        (changed(lengths__output=None), "the key 'workload.lengths.output' is missing"),
        (changed(requests=0), "workload.requests = 0: should be at least 1"),
        (changed(requests=None), "workload: the workload never ends: give requests or"),
        (changed(arrivals=None), "workload: give arrivals and lengths, or a trace"),
        (changed(trace={"file": "x.csv"}), "workload: a trace brings its own arrivals, lengths"),
        (
            changed(lengths__prompt={"kind": "lognormal", "mean": 5, "mu": 2}),
            "workload.lengths.prompt: give mean and cv, or mu and sigma",
        ),
        (
            changed(lengths__prompt={"kind": "uniform", "low": 9, "high": 3}),
            "workload.lengths.prompt: high 3 is below low 9",
        ),
        (
            changed(arrivals={"kind": "piecewise", "phases": [{"seconds": 5, "rate": 0}]}),
            "workload.arrivals: every phase has a rate of 0",
        ),
        (
            changed(arrivals={"kind": "piecewise", "phases": [{"seconds": 5, "rate": -1}]}),
            "workload.arrivals.phases.0.rate = -1: should be at least 0",
        ),
        (
            changed(
                arrivals={
                    "kind": "closed_loop",
                    "clients": 2,
                    "think": {"kind": "fixed", "tokens": 2},
                }
            ),
            "workload.arrivals.think: a pause is given in seconds",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_key(described, message):
    with pytest.raises(InputError) as caught:
        parse_workload(described)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["arrivals", "lengths", "prefix", "requests", "duration_seconds", "samples", "trace"]
)
@pytest.mark.parametrize("value", ["x", [], -1, {}, NAN, True])
def test_junk_anywhere_is_an_input_error_or_a_workload(key, value):
    described = {**GOOD, key: value}
    problem = None
    try:
        build_workload(parse_workload(described))
    except KVSimError as error:  # anything else fails the test
        problem = str(error)
    assert problem is None or (problem and "\n" not in problem)


def test_durations_may_carry_a_unit():
    described = changed(requests=None, duration_seconds="10min")
    assert parse_workload(described).limits.duration_seconds == 600.0


def test_finite_phases_need_no_other_end():
    described = changed(
        requests=None, arrivals={"kind": "piecewise", "phases": [{"seconds": 5, "rate": 1}]}
    )
    assert parse_workload(described).limits.requests is None


def test_the_smaller_of_two_limits_counts(tmp_path):
    described = {"trace": {"file": "x", "max_requests": 5}, "requests": 7}
    assert parse_workload(described).limits.requests == 5


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ({"file": "l.csv"}, "lengths and no arrival times; use it as lengths"),
        ({"file": "v.csv", "clients": 3}, "workload.trace.clients: vidur records arrivals"),
        ({"file": "none.csv"}, "none.csv: no such file"),
        ({"file": "v.csv", "format": "azur"}, "unknown trace format 'azur'; did you mean azure"),
    ],
)
def test_traces_that_do_not_fit_say_so(tmp_path, trace, message):
    (tmp_path / "l.csv").write_text("num_prefill_tokens,num_decode_tokens\n1,2\n")
    (tmp_path / "v.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,2\n")
    with pytest.raises(InputError) as caught:
        build_workload(parse_workload({"trace": trace}), tmp_path)
    assert message in str(caught.value)
