"""The Size it page without a browser."""

import shlex
import time

import pytest

import kvsim
from tests.support.app_pages import charts, checked, commands, errors, link_of, open_page, warnings

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
from app.parts import runs
from app.parts.words import plain

QUICK = {
    "requests": 200,
    "gpu": "H100-SXM5-80GB",
    "tp": "1,2",
    "spread": 0,
    "percentile": "p90",
    "ttft": 200,
    "tpot": 15,
    "output": 100,
}


def finished(app):
    """The page once its search is over, however slow the machine is."""
    while any(button.key == "stop run" for button in app.button):
        time.sleep(0.2)
        checked(app.run())
    return app


def sized(**link):
    return finished(open_page("size", **(QUICK | link)))


def numbers(app):
    return {metric.label: metric.value for metric in app.metric}


def fleet(rate=20.0, cards=(("H100-SXM5-80GB", 1), ("H100-SXM5-80GB", 2)), **overrides):
    lengths = {
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 1000},
        "workload.lengths.output": {"kind": "fixed", "tokens": 100},
    }
    scenario = kvsim.load_scenario(
        "peer-w",
        {
            "engine": {},
            "memory": {"allocator": "paged"},
            "slo": {"ttft_ms": 200, "tpot_ms": 15},
            **lengths,
            **overrides,
        },
    )
    settings = kvsim.SearchSettings(share=0.9, requests=200, seed=0, replications=1)
    return kvsim.size_fleet(scenario, rate, cards, settings)


def test_the_page_shows_what_the_api_answers():
    app = sized()
    one, two = fleet()
    bars = {each["name"]: each["x"] for each in charts(app)[0]["data"]}
    assert bars == {"TP 1": [one.highest_rate], "TP 2": [two.highest_rate]}
    cheapest = min((one, two), key=lambda each: each.cost_per_hour)
    shown = numbers(app)
    assert shown["Cheapest"] == f"H100-SXM5-80GB · TP {cheapest.tensor_parallel_size}"
    assert shown["Replicas"] == f"{cheapest.replicas:,}"
    assert shown["USD per hour"] == "{:,.2f} to {:,.2f}".format(*cheapest.cost_per_hour)


def test_latencies_come_with_their_bands_and_what_those_rest_on():
    app = sized()
    one, _ = fleet()
    row = app.dataframe[0].value.iloc[0]
    low, high = (float(each.replace(",", "")) for each in row["TPOT within"].split(" to "))
    assert (low, high) == pytest.approx(
        one.time_bands["tpot"].around(one.at_demand.latency_ms["tpot"]), rel=1e-3
    )
    assert low < row["TPOT ms"]
    assert any(plain(one.how_sure[0]) in caption.value for caption in app.caption)


def test_the_scatter_is_cost_against_the_latency_that_was_chosen():
    one, two = fleet()
    for by in ("tpot", "ttft"):
        points = charts(sized(by=by))[1]["data"]
        assert [each["y"][0] for each in points[:2]] == [
            pytest.approx(option.at_demand.latency_ms[by]) for option in (one, two)
        ]
        assert points[0]["x"] == [sum(one.cost_per_hour) / 2]
        assert points[2]["y"][0] == {"ttft": 200, "tpot": 15}[by]


def test_another_rate_takes_other_replicas():
    for rate in (20, 200):
        (one,) = fleet(rate, [("H100-SXM5-80GB", 1)])
        table = sized(rate=rate, tp="1").dataframe[0].value
        assert table["replicas"].tolist()[0] == one.replicas


@pytest.mark.slow
def test_every_input_changes_the_question():
    base = charts(sized(tp="1"))[0]["data"][0]["x"][0]
    slower = {"tpot": 9, "ttft": 60, "e2el": 900, "prompt": 4000, "output": 400}
    for key, value in slower.items():
        assert charts(sized(tp="1", **{key: value}))[0]["data"][0]["x"][0] < base, key
    alike, spread = (charts(sized(tp="1", spread=cv))[2]["data"] for cv in (0, 1))
    assert alike != spread


def test_a_card_that_cannot_is_told_in_the_table():
    app = sized(gpu="T4,H100-SXM5-80GB", tp="1")
    table = app.dataframe[0].value
    assert "T4: DOES NOT FIT: nothing is left for KV cache" in table["why not"].tolist()[0]
    assert table["replicas"].isna().tolist() == [True, False]
    assert numbers(app)["Cheapest"].startswith("H100")


def test_objectives_that_nothing_meets_are_told():
    app = sized(tpot=0.1, tp="1")
    assert any("No card meets the objectives" in text for text in errors(app))
    assert "TPOT of 0.1 ms is missed" in app.dataframe[0].value["why not"].tolist()[0]


def test_the_whole_state_is_in_the_link_and_a_bad_one_is_told():
    link = {**QUICK, "tp": "2,1", "rate": 5.0, "kv": "fp8", "by": "ttft", "look": "1", "seed": 3}
    kept = link_of(sized(**link))
    assert kept == {
        key: str(float(value) if key in ("spread", "ttft", "tpot") else value)
        for key, value in link.items()
    }
    said = warnings(sized(tp="3", rate="nan"))
    assert any("unknown tp '3'" in text for text in said)
    assert any("nan" in text for text in said)


def test_too_many_fleets_are_cut_and_said():
    cards = "L4,L40S,A10,T4,A40,H20"
    app = open_page("size", **(QUICK | {"gpu": cards, "tp": "1,2,4", "requests": 200}))
    assert any("18 fleets are too many" in text for text in errors(app))


def test_no_card_is_no_error():
    app = open_page("size", **QUICK)
    app.multiselect(key="size:gpu").set_value([])
    assert any("Choose at least one card" in each.value for each in checked(app.run()).info)


def test_the_lines_run_each_replica_at_its_highest_rate():
    app = sized()
    lines = commands(app)[-1].splitlines()
    rates = [f"workload.arrivals.rate={one.highest_rate:.6g}" for one in fleet()]
    assert [shlex.split(line)[-1] for line in lines[1:]] == rates


def test_the_latency_and_the_card_of_a_link_stay_in_it_while_the_search_goes_on(monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.0)
    app = open_page("size", **(QUICK | {"seed": 77, "by": "ttft", "look": "1"}))
    assert any(button.key == "stop run" for button in app.button)
    assert (link_of(app)["by"], link_of(app)["look"]) == ("ttft", "1")
    assert "kvsim size kvsim-size.yaml" in commands(app)[-1]


def test_the_page_and_the_command_call_the_same_fleet_the_cheapest():
    """By the middle of the price's range: of these two the other's low end is lower."""
    cards = ("H100-SXM5-80GB", "H100-PCIE-80GB")
    easy = {"tpot": 60, "ttft": 2000, "rate": 1}
    app = sized(gpu=",".join(cards), tp="1", **easy)
    options = fleet(1.0, [(card, 1) for card in cards], slo={"ttft_ms": 2000, "tpot_ms": 60})
    assert min(options, key=lambda each: each.cost_per_hour).accelerator == cards[0]
    best, tie = kvsim.cheapest(options)
    assert best.accelerator == cards[1]
    assert numbers(app)["Cheapest"] == f"{cards[1]} · TP 1"
    assert f"A tie, as price ranges overlap: {tie.accelerator} · TP 1." in [
        each.value for each in app.caption
    ]
