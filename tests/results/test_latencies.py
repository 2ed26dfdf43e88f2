"""How sure a summary's latencies are: factors, intervals, and what is printed of them."""

import json
import math

import pytest

from kvsim import compare, figures, load_scenario, replicate, simulate
from kvsim.results import latencies
from kvsim.results.latencies import without_growing
from kvsim.steptime.bands import TimeBand

BANDS = {
    "ttft": TimeBand(0.9, 0.5, 2.0, 20, "vllm, dense", is_extrapolated=False),
    "tpot": TimeBand(0.9, 0.9, 1.1, 20, "vllm, dense", is_extrapolated=False),
    "e2el": TimeBand(0.9, 0.25, 4.0, 3, "vllm, dense", is_extrapolated=True),
}
POINTS = ("mean", "median", "p50", "p90", "p95", "p99")
BANDED = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot", "e2el": "e2el"}


@pytest.fixture(autouse=True)
def known_bands(monkeypatch):
    monkeypatch.setattr(latencies, "time_band", lambda engine, card, model, key: BANDS[key])


@pytest.fixture
def scenario():
    return load_scenario("peer-w", {"workload.requests": 60})


def test_every_printed_statistic_has_its_interval(scenario):
    summary = json.loads(json.dumps(simulate(scenario).summary))
    bands = summary["time_bands"]
    assert bands["factors"]["e2el"] == {
        "low": 0.25, "high": 4.0, "share": 0.9, "runs": 3, "like": "vllm, dense",
        "is_extrapolated": True,
    }  # fmt: skip
    assert set(bands["factors"]) == set(BANDED)
    expected = {
        key: [BANDS[own].low * summary[key], BANDS[own].high * summary[key]]
        for name, own in BANDED.items()
        for key in (f"{point}_{name}_ms" for point in POINTS)
    }
    assert bands["intervals"] == expected


def test_a_stated_step_time_has_no_band():
    stated = load_scenario(
        "peer-w",
        {"workload.requests": 60, "step_time": {"kind": "constant", "seconds": 0.01}},
    )
    runs = replicate(stated)
    assert runs.summary["time_bands"] == {"factors": {}, "intervals": {}}
    assert runs.first.how_sure == []
    assert "how sure" not in figures.latency_table(runs).rows[0]


def test_what_grows_with_a_saturated_run_has_no_interval(scenario):
    bands = without_growing(simulate(scenario).summary)["time_bands"]
    assert set(bands["factors"]) == set(BANDED)
    assert {key.split("_")[1] for key in bands["intervals"]} == {"tpot", "itl"}


def test_several_runs_hold_chance_as_well(scenario):
    """By hand: hypot of the two log half widths, each side for itself."""
    runs = replicate(scenario, replications=3)
    mean, low, high = runs.intervals["mean_ttft_ms"]
    found = runs.time_bands["intervals"]["mean_ttft_ms"]
    half = math.log(2)
    assert found[0] == pytest.approx(mean / math.exp(math.hypot(half, math.log(mean / low))))
    assert found[1] == pytest.approx(mean * math.exp(math.hypot(half, math.log(high / mean))))
    assert found[0] < 0.5 * mean < 2 * mean < found[1]


def test_bands_are_no_numbers_of_the_runs_and_widen_no_difference(scenario):
    runs = replicate(scenario, replications=2)
    assert not any(key.startswith("time_bands") for key in runs.intervals)
    found = compare(scenario, {"memory.allocator": ["paged", "reserve-max"]}, replications=3)
    one, other = (each.runs for each in found.variants)
    runs = zip(one.whole, other.whole, strict=True)
    pairs = [b["mean_e2el_ms"] - a["mean_e2el_ms"] for a, b in runs]
    change = found.difference(found.variants[1], "mean_e2el_ms")
    assert change.mean == pytest.approx(sum(pairs) / 3)
    spread = math.sqrt(sum((each - change.mean) ** 2 for each in pairs) / 2)
    assert change.high - change.mean == pytest.approx(4.303 * spread / math.sqrt(3))
    assert not any("time_bands" in key for key in found.to_dict()["variants"][1]["difference"])


def test_the_command_prints_bands_and_writes_them(run_kvsim):
    question = ("simulate", "peer-w", "--set", "workload.requests=60")
    code, out, err = run_kvsim(*question)
    summary = json.loads(run_kvsim(*question, "--format", "json")[1])
    assert (code, err) == (0, "")
    for name, sure in (("ttft", "90% sure"), ("tpot", "90% sure"), ("e2el", "extrapolated")):
        low, high = summary["time_bands"]["intervals"][f"mean_{name}_ms"]
        assert f"{low:,.1f} to {high:,.1f}, {sure}" in out
    words = " ".join(out.split())
    assert "TTFT, TPOT, ITL: 90% sure, by 20 served runs that the fit had not seen" in words
    assert "E2E: extrapolated from other classes, with 3 served runs of its own" in words
    several = json.loads(run_kvsim(*question, "--replications", "2", "--format", "json")[1])
    mean = several["intervals"]["mean_ttft_ms"]["mean"]
    low, high = several["time_bands"]["intervals"]["mean_ttft_ms"]
    assert low < 0.5 * mean < 2 * mean < high


def test_a_report_has_the_bands(scenario):
    runs = replicate(scenario)
    rows = {row["latency, ms"]: row for row in figures.latency_table(runs).rows}
    low, high = runs.time_bands["intervals"]["mean_e2el_ms"]
    row = rows["end to end"]
    assert (row["within from"], row["within to"]) == pytest.approx((low, high), rel=1e-4)
    assert row["how sure"] == "extrapolated"
    assert rows["queue"]["how sure"] is None
    assert "How sure the latencies are" in figures.simulation_report(runs)
