"""``kvsim size``: the answer in every format, prices and ties, and what is refused."""

import csv
import io
import json
from math import ceil

import pytest
import yaml

import kvsim
from kvsim.search import cheapest
from kvsim.search.prices import prices_of
from kvsim.specs.yaml_files import data_folder
from tests.support.refusals import refused

LOAD = ("--model", "llama3.1-8b", "--rate", "30", "--prompt", "200", "--output", "50")
SEARCH = ("--requests", "300", "--replications", "1", "--tolerance", "0.1", "--tp", "1")
QUICK = (*SEARCH, "--tpot-p90", "20ms")  # far from saturation, where runs are short
CARDS = ("--gpu", "a100,h100")


def size(run_kvsim, *words):
    return run_kvsim("size", *LOAD, *CARDS, *QUICK, *words)


@pytest.fixture
def answer(run_kvsim):
    code, out, _ = run_kvsim(
        "size", *LOAD, *CARDS, *SEARCH, "--ttft-p90", "500ms", "--tpot", "40ms",
        "--price", "a100=1.5", "--price", "h100=4", "--format", "json",
    )  # fmt: skip
    assert code == 0
    return json.loads(out)


def test_the_cheapest_is_what_devices_and_prices_come_to(answer):
    prices = {"A100-SXM4-80GB": 1.5, "H100-SXM5-80GB": 4.0}
    for fleet in answer["fleets"]:
        replicas = ceil(30 / fleet["sustained_per_replica"])
        assert (fleet["replicas"], fleet["devices"]) == (replicas, replicas)
        assert fleet["cost_per_hour_low"] == replicas * prices[fleet["accelerator"]]
        tokens_per_hour = 30 * 250 * 3600 / 1e6
        cost = fleet["cost_per_hour_low"] / tokens_per_hour
        assert fleet["cost_per_million_tokens_low"] == pytest.approx(cost)
        assert fleet["headroom"] == pytest.approx(replicas * fleet["sustained_low"] / 30 - 1)
        assert fleet["sustained_low"] <= fleet["throughput_under_overload"]
        assert fleet["command"].startswith("vllm serve meta-llama/Llama-3.1-8B")
    costs = {fleet["accelerator"]: fleet["cost_per_hour_low"] for fleet in answer["fleets"]}
    (best,) = answer["cheapest"]
    assert best == f"{min(costs, key=costs.get)} TP 1"


def test_every_objective_has_its_own_percentile(answer):
    assert answer["objectives"] == [
        {"latency": "ttft", "percentile": 90.0, "limit_ms": 500.0},
        {"latency": "tpot", "percentile": 99.0, "limit_ms": 40.0},
    ]
    assert (answer["demand"], answer["unit"], answer["currency"]) == (30.0, "requests/s", "USD")


def test_the_answer_comes_first_then_all_then_why_not(run_kvsim, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run_kvsim(
        "size", *LOAD, "--gpu", "a100,t4", *QUICK, "--price", "a100=1.5", "--price", "t4=0.4"
    )
    assert code == 0
    titles = ("Cheapest\n", "Launch, each replica\n", "All fleets\n", "Cannot, or not searched\n")
    at = [out.index(title) for title in titles]
    assert at == [0, *sorted(at[1:])]
    assert "A100-SXM4-80GB (" in out[: at[1]]
    assert "USD an hour" in out[: at[1]]
    assert "T4 TP 1   llama3.1-8b on T4: DOES NOT FIT" in out[at[3] :]


def test_ranges_that_overlap_are_a_tie(run_kvsim):
    out = size(run_kvsim, "--price", "a100=1-9", "--price", "h100=2-3", "--format", "json")[1]
    assert len(json.loads(out)["cheapest"]) == 2
    out = size(run_kvsim, "--price", "a100=1-9", "--price", "h100=2-3")[1]
    assert "a tie, as price ranges overlap" in " ".join(out.split())


@pytest.mark.slow
def test_rows_of_csv_are_the_fleets_of_json(run_kvsim):
    words = ("--price", "a100=1.5", "--price", "h100=4")
    rows = list(csv.DictReader(io.StringIO(size(run_kvsim, *words, "--format", "csv")[1])))
    fleets = json.loads(size(run_kvsim, *words, "--format", "json")[1])["fleets"]
    assert [row["accelerator"] for row in rows] == [fleet["accelerator"] for fleet in fleets]
    for row, fleet in zip(rows, fleets, strict=True):
        assert float(row["sustained_per_replica"]) == fleet["sustained_per_replica"]
    assert "## All fleets" in size(run_kvsim, *words, "--format", "markdown")[1]


@pytest.mark.slow
def test_prices_from_a_file_and_in_another_currency(run_kvsim, tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("h100: [3, 4]\na100: 2-2.5\nl40s: 1\n", "utf-8")
    words = ("--price", str(path), "--currency", "EUR", "--format", "json")
    found = json.loads(size(run_kvsim, *words)[1])
    assert found["currency"] == "EUR"
    by_card = {fleet["accelerator"]: fleet for fleet in found["fleets"]}
    a100 = by_card["A100-SXM4-80GB"]
    assert a100["cost_per_hour_high"] == 2.5 * a100["devices"]
    only = size(run_kvsim, "--price", "h100=3", "--currency", "EUR", "--format", "json")[1]
    fleets = {fleet["accelerator"]: fleet for fleet in json.loads(only)["fleets"]}
    assert fleets["A100-SXM4-80GB"]["cost_per_hour_low"] is None  # the catalogue's are dollars


@pytest.mark.slow
def test_what_cannot_be_cheaper_is_not_searched_unless_asked_for(run_kvsim):
    dear = ("--price", "a100=1", "--price", "h100=90")
    code, out, _ = size(run_kvsim, *dear, "--tp", "1,2", "--format", "json")
    skipped = [fleet for fleet in json.loads(out)["fleets"] if fleet["problem"]]
    assert code == 0
    assert {fleet["accelerator"] for fleet in skipped} == {"H100-SXM5-80GB"}
    assert all(fleet["problem"].startswith("cannot be cheaper: at ") for fleet in skipped)
    assert all(fleet["simulations"] == 0 for fleet in skipped)
    whole = json.loads(size(run_kvsim, *dear, "--tp", "1,2", "--all", "--format", "json")[1])
    assert not any(fleet["problem"] for fleet in whole["fleets"])
    assert whole["cheapest"] == json.loads(out)["cheapest"]


@pytest.mark.slow
def test_jobs_change_nothing(run_kvsim):
    one, two = (size(run_kvsim, "--jobs", jobs, "--format", "json")[1] for jobs in ("1", "2"))
    assert one == two


def test_users_are_sized_too(run_kvsim):
    code, out, _ = run_kvsim(
        "size", "--model", "llama3.1-8b", "--gpu", "a100", "--users", "400", "--think", "10s",
        "--prompt", "200", "--output", "50", *QUICK, "--ttft", "400ms", "--format", "json",
    )  # fmt: skip
    found = json.loads(out)
    assert (code, found["unit"], found["demand"]) == (0, "users", 400.0)
    (fleet,) = found["fleets"]
    assert fleet["replicas"] == ceil(400 / fleet["sustained_per_replica"])
    assert fleet["throughput_under_overload"] is None


def test_the_cheapest_is_saved_as_a_scenario_that_runs_under_its_share(run_kvsim, tmp_path):
    path = tmp_path / "best.yaml"
    words = ("--price", "a100=1.5", "--price", "h100=40", "--format", "json", "--save", str(path))
    code, out, err = size(run_kvsim, *words)
    assert code == 0
    assert f"saved: kvsim simulate {path}" in err
    saved = kvsim.load_scenario(path)
    fleet = json.loads(out)["fleets"][0]
    assert saved.accelerator == "a100"
    assert saved.workload.arrivals.rate == pytest.approx(30 / fleet["replicas"])
    written = yaml.safe_load(path.read_text("utf-8"))
    assert "engine" not in written  # all its flags are at their defaults
    count = fleet["replicas"]
    asked = f"Does one of {count} x A100-SXM4-80GB TP 1 carry its share of 30 requests/s?"
    assert written["question"] == asked


@pytest.mark.parametrize("words", [("--requests", "250"), ("--set", "workload.requests=250")])
def test_a_run_has_as_many_requests_as_were_asked_for_at_least(run_kvsim, words):
    asked = ("--gpu", "h100", "--tp", "1", *SEARCH[2:6], "--tpot-p90", "20ms", "--format", "json")
    code, out, _ = run_kvsim("size", *LOAD, *asked, *words)
    assert code == 0
    assert yaml.safe_load(json.loads(out)["scenario"])["workload"]["requests"] < 2000


def test_flags_replace_the_scenarios_objectives_of_their_latencies_alone(run_kvsim, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: llama3.1-8b\naccelerator: h100\nslo: {ttft_ms: 500, tpot_ms: 30}\nworkload:\n"
        "  arrivals: {kind: poisson, rate: 30}\n  requests: 300\n"
        "  lengths: {prompt: {kind: fixed, tokens: 200}, output: {kind: fixed, tokens: 50}}\n"
    )
    code, out, _ = run_kvsim("size", path, *SEARCH, "--tpot-p90", "20ms", "--format", "json")
    assert code == 0
    assert json.loads(out)["objectives"] == [
        {"latency": "tpot", "percentile": 90.0, "limit_ms": 20.0},
        {"latency": "ttft", "percentile": 99.0, "limit_ms": 500.0},
    ]


def test_flags_that_change_nothing_are_told(run_kvsim):
    words = ("--disable-hybrid-kv-cache-manager", "--price", "a100=1", "--price", "h100=9")
    code, out, _ = size(run_kvsim, *words, "--format", "json")
    assert code == 0
    (said,) = json.loads(out)["warnings"]
    assert said.startswith("--disable-hybrid-kv-cache-manager changes nothing")
    assert f"- {said}" in size(run_kvsim, *words, "--format", "markdown")[1]


def test_a_scenarios_own_card_is_sized_and_its_stated_pool_told(run_kvsim):
    code, out, _ = run_kvsim("size", "peer-w", *SEARCH, "--tpot-p90", "20ms", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert [fleet["accelerator"] for fleet in found["fleets"]] == ["H100-SXM5-80GB"]
    assert "states a pool of 3,700 blocks" in found["warnings"][0]


def test_a_saved_scenario_asks_at_the_same_percentile(run_kvsim, tmp_path):
    path = tmp_path / "best.yaml"
    asked = (*SEARCH, "--gpu", "h100", "--tpot-p50", "20ms", "--save", str(path))
    assert run_kvsim("size", *LOAD, *asked)[0] == 0
    assert yaml.safe_load(path.read_text("utf-8"))["slo"] == {
        "tpot_ms": 20.0, "tpot_percentile": 50.0
    }  # fmt: skip
    code, out, _ = run_kvsim("size", str(path), *SEARCH, "--format", "json")
    assert (code, json.loads(out)["objectives"]) == (
        0, [{"latency": "tpot", "percentile": 50.0, "limit_ms": 20.0}],
    )  # fmt: skip


@pytest.mark.parametrize("command", ["size", "search"])
def test_a_saved_scenario_finds_the_files_of_the_one_that_was_sized(run_kvsim, tmp_path, command):
    asked = tmp_path / "asked"
    asked.mkdir()
    (asked / "pairs.csv").write_text("num_prefill_tokens,num_decode_tokens\n200,50\n", "utf-8")
    (asked / "mine.yaml").write_text(
        "model: llama3.1-8b\naccelerator: h100\nworkload:\n  requests: 60\n"
        "  arrivals: {kind: poisson, rate: 4}\n  lengths: {kind: pairs, file: pairs.csv}\n",
        "utf-8",
    )
    saved = tmp_path / "best.yaml"
    words = ("--gpu", "h100", "--tp", "1", *SEARCH[:6], "--ttft", "500ms", "--save", str(saved))
    assert run_kvsim(command, str(asked / "mine.yaml"), *words)[0] == 0
    words = [word for word in words if word not in ("--save", str(saved))]
    told = json.loads(run_kvsim(command, str(asked / "mine.yaml"), *words, "--format", "json")[1])
    assert told["scenario"] == saved.read_text("utf-8")
    code, out, _ = run_kvsim("simulate", str(saved), "--requests", "60", "--format", "json")
    assert code == 0
    assert json.loads(out)["completed"] == 60


def test_csv_has_the_same_columns_whatever_fits(run_kvsim):
    heads = []
    for cards in ("t4,h100", "h100", "t4"):
        words = ("size", *LOAD, "--gpu", cards, *QUICK, "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(run_kvsim(*words)[1])))
        heads.append(list(rows[0]))
        assert [bool(row["tpot_ms"]) for row in rows] == [not row["problem"] for row in rows]
    assert heads[0] == heads[1] == heads[2]


def test_one_card_by_two_names_is_one_and_two_cards_of_one_name_are_refused(run_kvsim, tmp_path):
    names = ("--gpu", "h100,H100-SXM5-80GB")
    out = run_kvsim("size", *LOAD, *names, *QUICK, "--format", "json")[1]
    assert len(json.loads(out)["fleets"]) == 1
    own = tmp_path / "mine.yaml"
    text = (data_folder("hardware_profiles") / "h100-sxm5-80gb.yaml").read_text("utf-8")
    own.write_text(text.replace("value: 3.35e+12", "value: 3e+12"), "utf-8")
    code, _, err = run_kvsim("size", *LOAD, "--gpu", f"h100,{own}", *QUICK)
    assert code == 2
    assert "are both called H100-SXM5-80GB; give your profile a name of its own" in err


def test_nothing_is_saved_where_nothing_carries_the_load(run_kvsim, tmp_path):
    path = tmp_path / "none.yaml"
    code, _, err = size(run_kvsim, "--ttft", "1us", "--save", str(path))
    assert code == 0
    assert f"no fleet carries the load, so {path} was not written" in err
    assert not path.exists()


@pytest.mark.parametrize("kind", ["kubernetes", "kserve"])
def test_the_cheapest_as_a_manifest_has_its_replicas_devices_and_flags(run_kvsim, kind):
    words = ("--price", "a100=1.5", "--price", "h100=40", "--manifest", kind)
    code, out, _ = size(run_kvsim, *words)
    first = next(iter(yaml.safe_load_all(out)))
    assert (code, first["kind"]) == (
        0, {"kubernetes": "Deployment", "kserve": "InferenceService"}[kind],
    )  # fmt: skip
    assert "meta-llama/Llama-3.1-8B" in out
    assert "nvidia.com/gpu: 1" in out
    if kind == "kubernetes":
        found = json.loads(size(run_kvsim, *words[:4], "--format", "json")[1])
        assert first["spec"]["replicas"] == found["fleets"][0]["replicas"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "h100", "--image", "a/b:c"), "--image: is of a manifest"),
        ((), "give a SCENARIO, or --gpu"),
        (("--gpu", "h100", "--ttft", "500"), "'500' has no unit: write 500ms or 500s"),
        (("--gpu", "h100,"), "--gpu: 'h100,' has an empty part"),
        (("--gpu", "h1000"), "unknown accelerator 'h1000'; did you mean h100"),
        (("--gpu", "h100", "--kv-cache-dtype", "int3"), "unknown KV cache dtype 'int3'; did you"),
        (("--gpu", "h100", "--quantization", "fp7"), "unknown weight format 'fp7'; did you mean"),
        (("--gpu", "h100", "--engine-version", "99"), "choose the nearest one, for instance 0."),
        (("--gpu", "h100", "--model", "llama9"), "unknown model 'llama9'; did you mean"),
        (("--gpu", "h100", "--tp", "0"), "--tp: '0' is no degree"),
        (("--gpu", "h100", "--tp", "two"), "--tp: 'two' is no degree"),
        (("--gpu", "h100", "--ttft", "0s"), "--ttft-p99: 0 ms is no limit of TTFT"),
        (("--gpu", "h100", "--ttft", "2s", "--ttft-p99", "1s"), "--ttft is p99, too; say it once"),
        (
            ("--gpu", "h100", "--manifest", "kserve", "--format", "json"),
            "--format json: a manifest",
        ),
        (("--gpu", "h100", "--ttft", "soon"), "'soon' is not a duration"),
        (("--gpu", "h100", "--price", "a100=3"), "--price a100=3: is not among the cards"),
        (("--gpu", "h100", "--price", "h100=-3"), "'-3' is no price of a device and hour"),
        (("--gpu", "h100", "--price", "h100=nan"), "'nan' is no price of a device and hour"),
        (("--gpu", "h100", "--price", "h100=5-3"), "the range '5-3' falls; write 3-5"),
        (("--gpu", "h100", "--price", "none.yaml"), "is neither CARD=PRICE nor a file"),
        (("--gpu", "h100", "--currency", "EUR"), "the catalogue's prices are US dollars"),
        (("--gpu", "h100", "--currency", "E\nUR"), "--currency: names no currency"),
        (("--gpu", "h100", "--currency", ""), "--currency: names no currency"),
        (("--gpu", "h100", "--set", "run.max_seconds=5"), "it would cut the runs of a search"),
        (("--gpu", "h100", "--duration", "5m"), "--duration: a search decides how long"),
        (("--gpu", "h100", "--set", "tp=2"), "--set tp=2: --tp takes its place"),
        (("--gpu", "h100", "--set", "accelerator=a100"), "--gpu takes its place"),
        (("--gpu", "h100", "--tolerance", "5"), "tolerance = 5 is not from 0.001 to 1"),
        (("--gpu", "h100", "--requests", "10"), "10 requests say nothing of a percentile"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run_kvsim, words, said):
    assert said in refused(run_kvsim, "size", *LOAD, *words)


def test_users_without_an_objective_and_arrivals_without_a_rate_are_refused(run_kvsim):
    users = ("--model", "llama3.1-8b", "--gpu", "h100", "--users", "9")
    code, _, err = run_kvsim("size", *users, "--prompt", "10", "--output", "10")
    assert code == 2
    assert "users wait for their answers" in err
    code, _, err = run_kvsim("size", "bursty-traffic", "--gpu", "h100")
    assert code == 2
    assert "no highest rate of arrivals of the kind 'on_off'" in err


def test_a_search_whose_time_is_over_says_so(run_kvsim):
    code, out, _ = size(run_kvsim, "--max-seconds", "1us", "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert found["cheapest"] == []
    assert all(fleet["problem"] == "not found within 1e-06 s" for fleet in found["fleets"])


def test_the_middle_of_the_prices_decides_and_ranges_that_touch_tie():
    slo = {"tpot_ms": 20}
    question = kvsim.load_scenario("peer-w", {"memory.num_blocks": None, "slo": slo})
    settings = kvsim.SearchSettings(requests=200, replications=1, tolerance=0.2)
    cards = [("a100", 1), ("h100", 1)]
    assert prices_of(["l4=1e-3"])["L4"].low == 1e-3
    prices = prices_of(["a100=1-3", "h100=9"])
    options = kvsim.size_fleet(question, 1, cards, settings, prices=prices)
    assert [each.accelerator for each in cheapest(options)] == ["A100-SXM4-80GB"]
    options = kvsim.size_fleet(
        question, 1, cards, settings, prices=prices_of(["h100=3", "a100=1-3"])
    )
    assert [each.accelerator for each in cheapest(options)] == ["A100-SXM4-80GB", "H100-SXM5-80GB"]
