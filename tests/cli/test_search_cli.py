"""``kvsim search``: several values a flag, a space from a file, formats, and what is refused."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.refusals import refused

LOAD = ("--model", "llama3.1-8b", "--rate", "30", "--prompt", "200", "--output", "50")
QUICK = ("--requests", "300", "--replications", "1", "--tolerance", "0.1")
SEARCH = ("search", *LOAD, *QUICK, "--tpot-p90", "20ms")
PRICES = ("--price", "a100=1.5", "--price", "h100=4")
FEW = ("--gpu", "a100,h100", "--tp", "1,3,1", "--kv-cache-dtype", "auto")


@pytest.fixture
def answer(run_kvsim):
    code, out, _ = run_kvsim(*SEARCH, *FEW, *PRICES, "--format", "json")
    assert code == 0
    return json.loads(out)


def test_every_combination_is_a_point_and_each_says_what_became_of_it(answer):
    values = [tuple(fleet["values"].values()) for fleet in answer["fleets"]]
    assert values == [(gpu, tp, "auto") for gpu in ("a100", "h100") for tp in (1, 3)]
    assert answer["points"] == 4
    for fleet in answer["fleets"]:
        assert bool(fleet["problem"]) is (fleet["replicas"] is None) is bool(fleet["ruled_out"])
    assert [fleet["ruled_out"] for fleet in answer["fleets"]][1::2] == ["unfit", "unfit"]
    (best,) = answer["cheapest"]
    costs = {
        tuple(fleet["values"].values()): fleet["cost_per_hour_low"]
        for fleet in answer["fleets"]
        if fleet["replicas"]
    }
    assert tuple(best.values()) == min(costs, key=costs.get)


def test_the_front_and_the_cheapest_are_marked(answer):
    fleets = answer["fleets"]
    assert [each["values"] for each in fleets if each["is_cheapest"]] == answer["cheapest"]
    latency = answer["front_latency"]
    placed = [
        (each["cost_per_hour_low"], each["latency_ms"][latency], each["on_front"])
        for each in fleets
        if each["replicas"]
    ]
    for cost, seen, on_front in placed:
        beaten = any(c <= cost and s <= seen and (c, s) != (cost, seen) for c, s, _ in placed)
        assert on_front is not beaten


def test_the_page_explains_when_asked_and_csv_has_a_row_a_point(run_kvsim):
    code, page, _ = run_kvsim(*SEARCH, *FEW, *PRICES, "--explain", "--format", "markdown")
    assert code == 0
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings[:3] == [
        "## Cheapest", "## Launch, each replica", "## Why, and what would change it"
    ]  # fmt: skip
    assert "it needs another replica, of 1" in page
    assert "takes over where a " in page
    _, table, _ = run_kvsim(*SEARCH, *FEW, *PRICES, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["gpu"] for row in rows] == ["a100", "a100", "h100", "h100"]


def test_both_positions_of_a_switch_and_any_other_key_vary(run_kvsim):
    words = ("--gpu", "a100", "--tp", "1", "--kv-cache-dtype", "auto", "--scheduler", "vllm-v1")
    words += (
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
        "--vary",
        "async_scheduling=true,false",
    )
    code, out, _ = run_kvsim(*SEARCH, *words, "--format", "json")
    assert code == 0
    values = [fleet["values"] for fleet in json.loads(out)["fleets"]]
    assert len(values) == 4
    assert {value["enable_prefix_caching"] for value in values} == {True, False}
    assert {value["async_scheduling"] for value in values} == {True, False}


def test_what_no_launch_line_says_is_named_and_has_no_manifest(run_kvsim):
    words = (*SEARCH, "--gpu", "a100", "--tp", "1", "--kv-cache-dtype", "auto", "--scheduler")
    code, out, _ = run_kvsim(*words, "sarathi", "--format", "json")
    (fleet,) = json.loads(out)["fleets"]
    assert (code, fleet["not_in_command"]) == (0, ["scheduler.policy=sarathi"])
    _, page, _ = run_kvsim(*words, "sarathi", "--format", "markdown")
    assert "nothing that this line says: scheduler.policy=sarathi" in page
    err = refused(run_kvsim, *words, "sarathi", "--manifest", "kserve")
    assert err == "kvsim: no flag of vllm says scheduler.policy=sarathi\n"
    _, out, _ = run_kvsim(*words, "vllm-v1", "--format", "json")
    assert json.loads(out)["fleets"][0]["not_in_command"] == []


def test_experts_are_searched_split_by_both_ways(run_kvsim):
    code, out, err = run_kvsim(
        "search", "--model", "qwen3-30b-a3b", *LOAD[2:], *QUICK, "--tpot-p90", "20ms",
        "--gpu", "h100", "--tp", "2",
        "--kv-cache-dtype", "auto", "--no-enable-expert-parallel", "--enable-expert-parallel",
        "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    values = [fleet["values"]["enable_expert_parallel"] for fleet in json.loads(out)["fleets"]]
    assert values == [True, False]


def test_what_is_said_once_is_not_varied_by_default(run_kvsim):
    code, out, _ = run_kvsim(
        *SEARCH, "--gpu", "a100", "--tp", "1", "--set", "kv_cache_dtype=fp8", "--format", "json"
    )
    assert code == 0
    assert [fleet["values"] for fleet in json.loads(out)["fleets"]] == [{"gpu": "a100", "tp": 1}]


def test_a_file_says_all_of_it(run_kvsim, tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "scenario: peer-w\nset: {memory.num_blocks: null, rate: 10}\n"
        "vary: {gpu: [a100, h100], max_num_seqs: [64, 256]}\nseeds: 1\n"
    )
    code, out, _ = run_kvsim(
        "search", "--space", file, "--requests", "300", "--tolerance", "0.1", "--tpot", "30ms",
        "--format", "json",
    )  # fmt: skip
    assert code == 0
    assert len(json.loads(out)["fleets"]) == 4
    err = refused(run_kvsim, "search", "peer-w", "--space", file)
    assert err == f"kvsim: peer-w: {file} says all of the deployments; write it there\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tp", "1,,2"), "'1,,2' has an empty part"),
        (("--tp", "1,two"), "'two' is not a whole number"),
        (("--gpu", "h1000"), "unknown accelerator 'h1000'; did you mean h100"),
        (("--vary", "max_num_seq=1,2"), "unknown key 'max_num_seq'; nearest valid: max_num_seqs"),
        (("--vary", "rate=1,2"), "serve the same requests under the same objectives"),
        (("--vary", "tp=1,2"), "--vary tp=1,2: varied twice"),
        (("--tp", "1", "--set", "tp=2"), "--set tp=2: --tp takes its place; leave it out"),
        (("--ttft", "soon"), "'soon'"),
        (("--manifest", "kserve", "--explain"), "--explain: a manifest is printed alone"),
        (("--space", "nowhere.yaml"), "says all of the deployments"),
    ],
)
def test_bad_input_is_one_line(run_kvsim, words, said):
    base = ("search", *LOAD) if "--gpu" in words else ("search", *LOAD, "--gpu", "a100")
    if "--tp" not in words and "--vary" not in words:
        words = (*words, "--tp", "1")
    if words == ("--vary", "tp=1,2"):
        words = (*words, "--tp", "1")
    assert said in refused(run_kvsim, *base, *QUICK, *words)


def test_time_that_is_over_keeps_what_is_known_and_says_so(run_kvsim):
    code, out, err = run_kvsim(*SEARCH, *FEW, "--max-seconds", "1ms", "--format", "json")
    assert code == 0
    assert {fleet["ruled_out"] for fleet in json.loads(out)["fleets"]} == {"unfit", "unsearched"}
    assert "kvsim: out of time: 2 of 4 points are settled" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_settled(number, code):
    words = ["search", *LOAD, "--gpu", "a100,h100", "--ttft", "2s", "--requests", "20000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kvsim", *words, "--format", "json", "--tp", "1,3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    time.sleep(6)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.startswith("kvsim: interrupted: ")
    ruled_out = {fleet["ruled_out"] for fleet in json.loads(out)["fleets"]}
    assert "unsearched" in ruled_out
