"""How sure a predicted time is: whose row a class takes, and what residuals come to."""

import math
import re

import numpy as np
import pytest
import yaml

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.specs.hardware import StepCoefficients
from kvsim.steptime import bands
from kvsim.steptime.bands import FEWEST_RUNS, TimeBand, band_of, time_band
from kvsim.steptime.rates import TWIN

OWN = "a card with step times of its own"
KEYS = ("ttft", "tpot", "e2el")


def row(engine, *, measured, experts, key, low, high, runs=20):
    return bands._Row(engine, measured, experts, key, low, high, runs)


# Round numbers, each band another; sglang's was seen once too few.
ROWS = (
    row("vllm", measured=True, experts=False, key="tpot", low=0.9, high=1.1),
    row("vllm", measured=True, experts=True, key="tpot", low=0.8, high=1.2),
    row("vllm", measured=True, experts=False, key="ttft", low=0.5, high=2.0),
    row(
        "sglang",
        measured=True,
        experts=False,
        key="tpot",
        low=0.99,
        high=1.01,
        runs=FEWEST_RUNS - 1,
    ),
    row(
        "tensorrt-llm",
        measured=True,
        experts=False,
        key="tpot",
        low=1.2,
        high=1.3,
        runs=FEWEST_RUNS,
    ),
)


@pytest.fixture
def rows(monkeypatch):
    """The rows above in place of the shipped ones."""
    monkeypatch.setattr(bands, "_rows", lambda: ROWS)


def band(engine="vllm", gpu="h100", model="llama3-8b", key="tpot"):
    return time_band(engine, find_accelerator(gpu), find_model(model), key)


def test_a_class_with_a_row_of_its_own_has_it(rows):
    assert band() == TimeBand(0.9, 0.9, 1.1, 20, f"vllm, dense, {OWN}", is_extrapolated=False)
    experts = TimeBand(0.9, 0.8, 1.2, 20, f"vllm, experts, {OWN}", is_extrapolated=False)
    assert band(model="mixtral-8x7b") == experts
    other = band(engine="tensorrt-llm")  # as few as are enough; always slower than simulated
    assert (other.low, other.high, other.is_extrapolated) == (1.2, 1.3, False)


@pytest.mark.parametrize(
    ("question", "ends", "runs", "like"),
    [
        ({"engine": "sglang"}, (0.8, 1.3), FEWEST_RUNS - 1, f"sglang, dense, {OWN}"),
        ({"engine": "llama.cpp"}, (0.8, 1.3), 0, f"llama.cpp, dense, {OWN}"),
        # a B200's, restated: vLLM's rows alone
        ({"gpu": "gb200"}, (0.8, 1.2), 0, "vllm, dense, a card that nobody measured"),
        (
            {"engine": "tensorrt-llm", "model": "mixtral-8x7b"},
            (1.2, 1.3),
            0,
            f"tensorrt-llm, experts, {OWN}",
        ),
    ],
)
def test_any_other_class_reaches_as_far_as_any_of_its_engine_or_of_all(
    rows, question, ends, runs, like
):
    assert band(**question) == TimeBand(0.9, *ends, runs, like, is_extrapolated=True)


def test_a_class_of_too_few_runs_reaches_as_far_as_its_own_at_least(monkeypatch):
    wild = row("sglang", measured=True, experts=False, key="tpot", low=0.1, high=9.0, runs=3)
    monkeypatch.setattr(bands, "_rows", lambda: (*ROWS[:3], wild))
    found = band(engine="sglang")
    assert (found.low, found.high, found.is_extrapolated) == (0.1, 9.0, True)


def test_on_a_card_with_medians_the_error_of_those_is_added_in_quadrature(rows):
    """0.8 and 1.2 of vLLM's rows, and 40 % of what no measured architecture is."""
    found = band(gpu="mi300x")
    assert math.log(found.low) == pytest.approx(-math.hypot(math.log(0.8), math.log(0.6)))
    assert math.log(found.high) == pytest.approx(math.hypot(math.log(1.2), math.log(1.4)))
    assert band(gpu="h100-pcie").low > found.low  # Hopper's medians: 11 %


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("model", ["llama3-8b", "mixtral-8x7b"])
def test_no_card_that_nobody_measured_is_surer_than_one_that_was(model, key):
    own = band(model=model, key=key)
    for gpu in ("gb300", "l4", "mi300x", "a100-pcie-40gb"):
        other = band(gpu=gpu, model=model, key=key)
        assert other.low <= own.low
        assert other.high >= own.high


def test_a_latency_that_no_run_was_compared_in_takes_the_widest_of_all(rows):
    found = band(key="e2el")
    assert (found.low, found.high, found.runs, found.is_extrapolated) == (0.5, 2.0, 0, True)


def test_coefficients_of_the_twin_are_no_served_engine(rows):
    card = find_accelerator("h100")
    rates = StepCoefficients(**(card.coefficients.model_dump() | {"engine": TWIN}))
    card = card.model_copy(update={"coefficients": rates})
    found = time_band("vllm", card, find_model("llama3-8b"), "tpot")
    assert (found.is_extrapolated, found.like) == (True, f"twin, dense, {OWN}")


@pytest.mark.parametrize("key", KEYS)
def test_the_shipped_rows_are_wider_where_extrapolated(key):
    widest = band(engine="transformers", key=key)
    assert widest.is_extrapolated
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        for model in ("llama3-8b", "mixtral-8x7b"):
            own = band(engine=engine, model=model, key=key)
            assert own.is_extrapolated == (own.runs < FEWEST_RUNS)
            if not own.is_extrapolated:
                assert widest.low <= own.low < own.high <= widest.high


def test_the_shipped_rows_can_be_bands():
    content = yaml.safe_load(bands._DATA.read_text("utf-8"))["bands"]
    classes = [(each["engine"], each["measured"], each["experts"], each["key"]) for each in content]
    assert len(set(classes)) == len(classes) > 0
    for each in content:
        assert 0 < each["low"] < each["high"]
        assert each["runs"] > 0
        assert each["key"] in KEYS


# --- intervals -----------------------------------------------------------------------------


def symmetric(half):
    return TimeBand(0.9, math.exp(-half), math.exp(half), 20, "", is_extrapolated=False)


def test_an_interval_is_the_time_times_the_factors():
    low, high = TimeBand(0.9, 0.8, 1.25, 9, "", is_extrapolated=False).around(200.0)
    assert (low, high) == pytest.approx((160.0, 250.0))


def test_chance_and_the_band_add_up_as_sides_of_a_right_triangle():
    """In logarithms 3-4-5 below and 5-12-13 above."""
    low, high = symmetric(0.3).around_mean(100.0, 100 * math.exp(-0.4), 100 * math.exp(0.0))
    assert (low, high) == pytest.approx((100 * math.exp(-0.5), 100 * math.exp(0.3)))
    low, high = symmetric(0.5).around_mean(100.0, 100.0, 100 * math.exp(1.2))
    assert (low, high) == pytest.approx((100 * math.exp(-0.5), 100 * math.exp(1.3)))


def test_a_mean_without_chance_has_the_band_alone():
    biased = TimeBand(0.9, 1.2, 1.5, 20, "", is_extrapolated=False)
    assert biased.around_mean(10.0, 10.0, 10.0) == pytest.approx(biased.around(10.0))


def test_an_interval_that_reaches_below_nothing_begins_at_nothing():
    low, high = symmetric(0.3).around_mean(10.0, -5.0, 25.0)
    assert low == 0
    assert high == pytest.approx(10 * math.exp(math.hypot(0.3, math.log(2.5))))


# --- from residuals ------------------------------------------------------------------------


def logs(found):
    return tuple(round(math.log(each), 9) for each in found)


def test_nine_runs_ask_for_the_farthest_and_nineteen_for_the_last_but_one():
    nine = [*range(-4, 5)]
    assert logs(band_of([each / 10 for each in nine])) == (-0.4, 0.4)  # ceil(10 * 0.9) of 9
    nineteen = [0.0] * 16 + [0.1, 0.2, 0.9]  # ceil(20 * 0.9) of 19: the 18th distance
    assert logs(band_of(nineteen)) == (-0.2, 0.2)


def test_the_band_stands_about_the_median_run():
    shifted = [0.5 + each / 10 for each in range(-4, 5)]
    assert logs(band_of(shifted)) == (0.1, 0.9)


def test_few_runs_are_stretched():
    """Of four runs the ceil(5 * 0.9) = 5th is asked for: a quarter wider than the farthest."""
    assert logs(band_of([-0.4, -0.4, 0.4, 0.4])) == (-0.5, 0.5)


def test_no_run_has_no_band():
    with pytest.raises(InputError, match="at least one run"):
        band_of([])


@pytest.mark.parametrize("runs", [9, 20, 60])
def test_nine_in_ten_of_what_comes_lie_within(runs):
    """Planted errors with a heavy tail and a bias: the next run lies within its share of the time.

    About the runs' own median a band of few runs is a few per cent too narrow or, as ranks are
    whole, too wide.
    """
    random = np.random.default_rng(7)
    drawn = 0.2 + 0.1 * random.standard_t(4, size=(3000, runs + 1))
    within = []
    for *seen, following in drawn.tolist():
        low, high = band_of(seen)
        within.append(low <= math.exp(following) <= high)
    assert 0.86 < np.mean(within) < 0.93


def test_most_of_a_planted_table_lies_within_its_own_band():
    random = np.random.default_rng(3)
    errors = random.normal(-0.1, 0.2, size=2000)
    low, high = band_of(errors.tolist())
    within = np.mean((np.exp(errors) >= low) & (np.exp(errors) <= high))
    assert within == pytest.approx(0.9, abs=0.001)
    assert math.log(high) == pytest.approx(-0.1 + 1.645 * 0.2, abs=0.03)  # the normal's quantile


# --- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "is_extrapolated", "sure", "words"),
    [
        (20, False, "90% sure",
         "90% sure, by 20 served runs that the fit had not seen (like this)"),
        (1, True, "extrapolated",
         "extrapolated from other classes, with 1 served run of its own (like this)"),
        (0, True, "extrapolated",
         "extrapolated from other classes, with no served runs of its own (like this)"),
    ],
)  # fmt: skip
def test_how_sure_in_words(runs, is_extrapolated, sure, words):
    found = TimeBand(0.9, 0.8, 1.2, runs, "like this", is_extrapolated=is_extrapolated)
    assert (found.sure, found.words) == (sure, words)


# --- plans ---------------------------------------------------------------------------------


def test_a_plan_is_as_sure_of_a_step_as_of_tpot(rows):
    answer = plan("llama3-8b", "h100")
    assert answer.decode.band == band(key="tpot")
    assert answer.to_dict()["decode"]["band"] == {
        "share": 0.9, "low": 0.9, "high": 1.1, "runs": 20, "like": f"vllm, dense, {OWN}",
        "is_extrapolated": False,
    }  # fmt: skip
    assert type(answer).from_dict(answer.to_dict()) == answer


def test_a_plan_prints_the_band_of_every_step(rows, run_kvsim):
    code, out, err = run_kvsim("plan", "--model", "llama3-8b", "--gpu", "h100")
    assert (code, err) == (0, "")
    assert re.search("batch +step +90% sure +tokens/s", out)
    step = plan("llama3-8b", "h100").decode.batches[0].step_seconds
    assert f"{900 * step:.3g} to {1100 * step:.3g} ms" in out
    assert f"Their band is {band().words}." in " ".join(out.split())
    _, out, _ = run_kvsim("plan", "--model", "llama3-8b", "--gpu", "mi300x")
    assert re.search("batch +step +extrapolated +tokens/s", out)
