"""A workload from flags: with and without a scenario, saved, varied, and refused."""

import json

import pytest

from kvsim import load_scenario
from kvsim.cli.scenario_options import chosen_scenario
from tests.support.refusals import refused

TARGET = ("--model", "llama3.1-8b", "--gpu", "h100")
LENGTHS = ("--prompt", "1000", "--output", "200")
WHOLE = (*TARGET, "--rate", "4", *LENGTHS)
SHORT = ("--requests", "60")
HAND = """
model: llama3.1-8b
accelerator: h100
workload:
  arrivals: {kind: poisson, rate: 4}
  lengths:
    prompt: {kind: fixed, tokens: 1000}
    output: {kind: fixed, tokens: 200}
  requests: 60
"""
DEPLOYMENT = "model: llama3.1-8b\naccelerator: h100\nengine: {max_num_seqs: 8}\n"
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,5\n1,10,5\n"
PAIRS = """
model: llama3.1-8b
accelerator: h100
workload:
  arrivals: {kind: poisson, rate: 4}
  lengths: {kind: pairs, file: here.csv}
  requests: 20
"""
TALKS = """
model: llama3.1-8b
accelerator: h100
workload:
  arrivals: {kind: closed_loop, clients: 3}
  lengths: {prompt: {kind: fixed, tokens: 9}, output: {kind: fixed, tokens: 9}}
  prefix: {kind: conversations, turns: {kind: fixed, tokens: 2}}
  requests: 20
"""


@pytest.fixture
def run(run_kvsim, monkeypatch, tmp_path):
    """Run kvsim beside a few files: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    files = {
        "hand.yaml": HAND, "deployment.yaml": DEPLOYMENT, "here.csv": TRACE, "sub/here.csv": TRACE,
        "sub/pairs.yaml": PAIRS, "sub/talks.yaml": TALKS, "empty.yaml": "",
        "sub/traced.yaml": DEPLOYMENT + "workload: {trace: {file: here.csv, time_scale: 2}}\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return run_kvsim


def answer(run, *words):
    """The JSON answer, without the scenario's name."""
    code, out, err = run(*words, "--format", "json")
    assert code == 0, err
    record = json.loads(out)
    del record["provenance"]["scenario"]["name"]
    return record


# --- without a scenario -----------------------------------------------------------------------


def test_flags_answer_as_the_scenario_written_by_hand(run):
    assert answer(run, "simulate", *WHOLE, *SHORT) == answer(run, "simulate", "hand.yaml")


def test_a_thousand_requests_come_by_default(run):
    asked = chosen_scenario(None, (), {"model": "llama3.1-8b", "gpu": "h100", "rate": 4.0,
                                       "prompt_tokens": 9, "output_tokens": 9})  # fmt: skip
    assert asked.workload.requests == 1000


def test_a_deployment_without_a_workload_takes_one(run):
    words = ("--rate", "4", *LENGTHS, *SHORT)
    of_file = answer(run, "simulate", "deployment.yaml", *words)
    assert of_file == answer(run, "simulate", *TARGET, *words, "--max-num-seqs", "8")


def test_a_trace_needs_a_model_and_a_card(run):
    assert answer(run, "simulate", *TARGET, "--trace", "here.csv")["completed"] == 2


def test_the_workload_of_another_scenario(run):
    found = answer(run, "simulate", *TARGET, "--workload", "peer-w", *SHORT, "--rate", "9")
    workload = found["provenance"]["scenario"]["workload"]
    assert workload["lengths"]["prompt"]["tokens"] == 512
    assert workload["arrivals"]["rate"] == 9
    assert found["provenance"]["scenario"]["engine"]["max_num_seqs"] is None  # that is no workload


def test_files_of_another_scenario_are_found_in_its_folder(run):
    found = answer(run, "simulate", *TARGET, "--workload", "sub/pairs.yaml")
    assert found["completed"] == 20
    assert found["total_input_tokens"] == 200


def test_what_is_set_otherwise_is_not_missing(run):
    workload = "workload={arrivals: {kind: at_once}, requests: 3, lengths: {prompt: {kind: fixed,"
    workload += " tokens: 9}, output: {kind: fixed, tokens: 9}}}"
    settings = ("--set", "model=llama3.1-8b", "--set", "gpu=h100", "--set", workload)
    assert answer(run, "simulate", *settings)["completed"] == 3


@pytest.mark.parametrize("key", ["gpu", "accelerator"])
def test_compare_takes_what_is_varied_from_the_variants(run, key):
    words = ("--model", "llama3.1-8b", "--rate", "4", *LENGTHS, *SHORT)
    code, out, err = run("compare", *words, "--vary", f"{key}=a100,h100", "--format", "json")
    assert code == 0, err
    one, two = json.loads(out)["variants"]
    assert one["summary"]["mean_tpot_ms"] > two["summary"]["mean_tpot_ms"]


@pytest.mark.parametrize("key", ["rate", "users", "prompt", "output", "requests"])
def test_what_flags_say_is_varied_by_their_names(run, key):
    flags = {"rate": "4", "prompt": "100", "output": "20", "requests": "60"}
    if key == "users":
        del flags["rate"]
    words = [word for name in flags if name != key for word in (f"--{name}", flags[name])]
    code, out, err = run("compare", *TARGET, *words, "--vary", f"{key}=20,40", "--format", "json")
    assert code == 0, err
    one, two = json.loads(out)["variants"]
    assert [one["overrides"], two["overrides"]] == [{key: 20}, {key: 40}]
    assert one["summary"]["mean_e2el_ms"] != two["summary"]["mean_e2el_ms"]


# --- over a scenario --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (("--rate", "20"), {"workload.arrivals.rate": 20}),
        (("--rate", "20", "--requests", "50"),
         {"workload.arrivals.rate": 20, "workload.requests": 50}),
        (("--prompt", "64"), {"workload.lengths.prompt": {"kind": "fixed", "tokens": 64}}),
        (("--prompt", "1k", "--spread", "1"), {
            "workload.lengths.prompt": {"kind": "lognormal", "mean": 1000, "cv": 1, "max": 8000},
            "workload.lengths.output": {"kind": "lognormal", "mean": 128, "cv": 1, "max": 1024}}),
        (("--duration", "1m"), {"workload.duration_seconds": 60, "workload.requests": None}),
        (("--prefix-tokens", "64"), {"workload.prefix": {"kind": "groups", "tokens": 64}}),
        (("--burstiness", "0.25"),
         {"workload.arrivals": {"kind": "gamma", "rate": 4, "cv": 2}}),
    ],
)  # fmt: skip
def test_a_flag_is_a_key_of_the_scenario(flags, settings, run_kvsim):
    code, out, err = run_kvsim("simulate", "peer-w", *flags, "--requests", "50", "--format", "json")
    if "--duration" in flags:
        code, out, err = run_kvsim("simulate", "peer-w", *flags, "--format", "json")
    else:
        settings = {**settings, "workload.requests": 50}
    assert code == 0, err
    stated = json.loads(out)["provenance"]["scenario"]
    wanted = load_scenario("peer-w", settings)
    assert stated["workload"] == wanted.workload.model_dump(mode="json")


def test_a_setting_has_the_last_word(run):
    found = answer(run, "simulate", *WHOLE, *SHORT, "--set", "rate=9")
    assert found["provenance"]["scenario"]["workload"]["arrivals"]["rate"] == 9


# --- saved ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        WHOLE,
        (*TARGET, "--users", "5", "--think", "2s", *LENGTHS, "--spread", "0.5"),
        (*WHOLE, "--prefix-tokens", "64", "--prefix-groups", "3", "--burstiness", "0.5"),
        ("gemma-window", "--rate", "9", "--kv-cache-dtype", "fp8", "--seed", "3"),
        ("agent-loop", "--users", "4", "--engine", "sglang"),
        ("sub/pairs.yaml",),
    ],
)
def test_a_saved_command_line_answers_the_same(run, words):
    said = answer(run, "simulate", *words, *SHORT, "--save", "sub/mine.yaml")
    assert answer(run, "simulate", "sub/mine.yaml") == said


@pytest.mark.parametrize("words", [("sub/traced.yaml",), (*TARGET, "--trace", "here.csv")])
def test_a_saved_trace_is_found_from_elsewhere(run, words):
    said = answer(run, "simulate", *words, "--save", "mine.yaml")
    assert answer(run, "simulate", "mine.yaml") == said


def test_a_saved_scenario_is_called_after_its_file(run):
    code, _, err = run("simulate", *WHOLE, *SHORT, "--save", "mine.yaml")
    assert (code, err) == (0, "saved: kvsim simulate mine.yaml\n")
    assert load_scenario("mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hand.yaml", "--save: hand.yaml is there already"),
        ("mine.txt", "'mine.txt' is no name of a scenario; end it in .yaml"),
        ("", "'' is no name of a scenario"),
        ("none/mine.yaml", "--save: cannot write into"),
        ("a" * 300 + ".yaml", "File name too long"),
    ],
)
def test_a_place_to_save_that_cannot_be(run, place, said):
    assert said in refused(run, "simulate", *WHOLE, *SHORT, "--save", place)


def test_what_is_refused_is_not_saved(run, tmp_path):
    refused(run, "simulate", *WHOLE, "--max-model-len", "500", "--save", "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a SCENARIO, or --model, --gpu, --rate (or --users), --prompt and --output"),
        (("--model", "llama3.1-8b", "--users", "3"), "SCENARIO, or --gpu, --prompt and --output"),
        ((*TARGET, *LENGTHS), "give a SCENARIO, or --rate (or --users)"),
        ((*TARGET, "--rate", "4", "--prompt", "9"), "give a SCENARIO, or --output"),
        (("--trace", "here.csv"), "give a SCENARIO, or --model and --gpu"),
        (("deployment.yaml",), "deployment.yaml: it needs --rate (or --users), --prompt and"),
        (("empty.yaml", *WHOLE), "empty.yaml"),
        ((*WHOLE, "--users", "3"), "--rate 4: contradicts --users 3; leave one of the two out"),
        ((*TARGET, "--users", "3", "--burstiness", "2", *LENGTHS), "contradicts --users 3"),
        ((*TARGET, *LENGTHS, "--trace", "here.csv"), "--prompt 1000: contradicts --trace here.csv"),
        ((*TARGET, "--rate", "1", "--trace", "here.csv"), "--rate 1: contradicts --trace"),
        ((*TARGET, "--workload", "peer-w", "--trace", "here.csv"), "peer-w: contradicts --trace"),
        ((*WHOLE, "--think", "30s"), "--think 30s: is a pause of users; give users, too"),
        ((*WHOLE, "--prefix-groups", "3"), "--prefix-groups 3: are of shared prompts"),
        ((*TARGET, "--workload", "peer-x"), "--workload peer-x: unknown scenario 'peer-x'"),
        ((*TARGET, "--workload", "empty.yaml"), "--workload empty.yaml: "),
        ((*TARGET, "--workload", "deployment.yaml"), "--workload deployment.yaml: it has no work"),
        ((*TARGET, "--trace", "none.csv"), "none.csv"),
        ((*TARGET, "--trace", ""), "--trace: names no file"),
        (("peer-w", "--think", "30s"), "--think 30s: is a pause of users"),
        (("bursty-traffic", "--rate", "3"), "--rate 3: the workload's arrivals are on_off"),
        (("sub/traced.yaml", "--rate", "3"), "--rate 3: workload: a trace brings its own arriv"),
        (("sub/pairs.yaml", "--prompt", "3"), "--prompt 3: the workload draws prompts and outputs"),
        (("sub/talks.yaml", "--think", "3s"), "--think 3s: the workload's conversations have"),
        ((*WHOLE, "--rate", "0"), "'0' is not a number above 0"),
        ((*WHOLE, "--rate", "-1"), "'-1' is not a number above 0"),
        ((*WHOLE, "--rate", "nan"), "'nan' is not a number above 0"),
        ((*WHOLE, "--rate", "inf"), "'inf' is not a number above 0"),
        ((*WHOLE, "--rate", "1e300"), "--rate 1e+300: workload.arrivals.rate = 1e+300: should be"),
        ((*WHOLE, "--rate", "fünf"), "'fünf' is not a number above 0"),
        ((*WHOLE, "--rate", ""), "'' is not a number above 0"),
        ((*WHOLE, "--burstiness", "1e9"), "--rate 4 --burstiness 1e+09: workload.arriv"),
        ((*WHOLE, "--burstiness", "1e-300"), "should be at most 100"),
        ((*WHOLE, "--spread", "-1"), "'-1' is not a number from 0 on"),
        ((*WHOLE, "--spread", "1e9"), "--prompt 1000 --spread 1e+09: workload.lengths"),
        ((*WHOLE, "--prompt", "0"), "'0' is not a whole number from 1 to"),
        ((*WHOLE, "--prompt", "1.5"), "'1.5' is not a whole number from 1 to"),
        ((*WHOLE, "--prompt", "10g"), "--prompt 10000000000: workload.lengths.prompt"),
        ((*WHOLE, "--prompt", "200k"), "--prompt 200000: every request has at least"),
        ((*WHOLE, "--output", "results"), "A folder for tables goes to --output-dir."),
        ((*WHOLE, "--users", "0"), "'0' is not a whole number from 1 to"),
        ((*WHOLE, "--requests", "0"), "'0' is not a whole number from 1 to"),
        ((*WHOLE, "--duration", "0"), "workload.duration_seconds = 0"),
        ((*WHOLE, "--duration", "-5s"), "'-5s' is not a duration; write a number and a unit of"),
        ((*WHOLE, "--duration", "5 parsecs"), "ns, us, ms, s, m, min, h, such as 30s"),
        ((*WHOLE, "--duration", "1e300h"), "--duration 3.6e+303s: workload.duration_seconds"),
        ((*WHOLE, "--prefix-tokens", "999k"), "every request has at least 1,000,000 prompt"),
    ],
)  # fmt: skip
def test_a_workload_that_cannot_be(run, words, said):
    assert said in refused(run, "simulate", *words)


def test_a_flag_of_what_is_varied_is_refused(run):
    words = (*WHOLE, "--vary", "workload.arrivals.rate=2,4")
    assert "--rate 4: --vary workload.arrivals.rate takes its place" in refused(
        run, "compare", *words
    )
