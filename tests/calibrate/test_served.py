"""Learning a server from its own requests: a planted one is found again, and said how well."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibrate.fit import round_significant
from kvsim.calibrate.served.learn import learn_served, write_learned
from kvsim.calibrate.served.parts import errors_of, split
from kvsim.calibrate.served.replay import measured, replaying
from kvsim.calibrate.served.requests import ServedRequests, read_served_requests
from kvsim.calibrate.served.search import search
from kvsim.calibrate.served.terms import TERMS, Server, Term
from kvsim.catalog.accelerators import find_accelerator, load_accelerator
from kvsim.errors import InputError
from kvsim.runs.simulate import run_setup
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import prepare
from tests.support.needs import examples
from tests.support.refusals import read_or_refused
from tests.support.served_files import WRITERS, Request, aiperf, guidellm, inference_perf, zipped

SCENARIO = """\
question: What does this server serve?
model: llama3-8b
accelerator: h100
engine: {{name: vllm, version: 0.19.0, max_model_len: 8192, max_num_seqs: 64}}
workload:
  arrivals: {{kind: poisson, rate: {rate}}}
  lengths:
    prompt: {{kind: uniform, low: {low}, high: {high}}}
    output: {{kind: uniform, low: 20, high: 120}}
  requests: {requests}
run: {{seed: 3}}
"""
PLANTED = {
    "host_seconds": 0.0025,
    "transit_seconds": 0.008,
    "token_seconds": 8e-6,
    "prefill": 0.7,
}
BY_NAME = {term.name: term for term in TERMS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


def scenario_of(folder, name="my", rate=4, low=100, high=3000, requests=500):
    path = folder / f"{name}.yaml"
    path.write_text(SCENARIO.format(rate=rate, low=low, high=high, requests=requests))
    return load_scenario(path)


def served_by(scenario, planted):
    """What a client would measure of the scenario's server with other terms."""
    setup = prepare(scenario)
    step_time = setup.step_time
    card, host = setup.deployment.accelerator, step_time.host
    server = Server(card, step_time.coefficients, setup.sizing.engine.name, host)
    terms = [BY_NAME[name] for name in planted]
    other = server.changed(terms, list(planted.values()))
    result = run_setup(prepare(scenario, accelerator=other), scenario.run.seed)
    columns, times = result.columns, result.latencies
    return [
        Request(float(send), int(prompt), int(output), float(ttft), float(e2e))
        for send, prompt, output, ttft, e2e in zip(
            columns["arrival_seconds"], columns["prompt_tokens"], columns["output_tokens"],
            times["ttft"], times["e2el"], strict=True,
        )
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scenario(folder):
    return scenario_of(folder)


@pytest.fixture(scope="module")
def requests(scenario):
    return served_by(scenario, PLANTED)


@pytest.fixture(scope="module")
def files(folder, requests):
    """The planted server's requests in every format."""
    paths = {name: folder / f"{name}.txt" for name in WRITERS}
    for name, path in paths.items():
        path.write_text(WRITERS[name](requests))
    return paths


@pytest.fixture(scope="module")
def learned(files, scenario):
    return learn_served(files["csv"], scenario)


# ---- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_alike(files, requests, name):
    found = read_served_requests(files[name])
    assert (found.format, len(found), found.failed) == (name, len(requests), 1)
    assert found.prompt_tokens.tolist() == [each.prompt for each in requests]
    assert found.output_tokens.tolist() == [each.output for each in requests]
    first = requests[0].send
    close = {"rel": 1e-6, "abs": 1e-6}  # a double holds an epoch's time to 0.2 us
    assert found.send_seconds == pytest.approx([each.send - first for each in requests], **close)
    assert found.ttft_seconds == pytest.approx([each.ttft for each in requests], **close)
    assert found.e2e_seconds == pytest.approx([each.e2e for each in requests], **close)


@pytest.mark.parametrize(
    ("write", "named"),
    [(inference_perf, {"nested": False}), (guidellm, {"start": "start_time"})],
)
def test_what_older_releases_wrote(folder, requests, files, write, named):
    path = folder / "old.json"
    path.write_text(write(requests, **named))
    old, new = (
        read_served_requests(path),
        read_served_requests(files[write.__name__.replace("_", "-")]),
    )
    assert np.array_equal(old.ttft_seconds, new.ttft_seconds)
    assert np.array_equal(old.output_tokens, new.output_tokens)


def test_a_packed_file(folder, requests, files):
    path = folder / "packed.gz"
    path.write_bytes(zipped(WRITERS["csv"](requests)))
    packed, plain = read_served_requests(path), read_served_requests(files["csv"])
    assert np.array_equal(packed.e2e_seconds, plain.e2e_seconds)


def test_the_servers_own_counts_come_first(folder):
    request = json.loads(inference_perf([Request(0.0, 10, 3, 0.1, 0.3)]))[0]
    request["info"]["response_metrics"]["server_usage"] = {
        "prompt_tokens": 12,
        "completion_tokens": 5,
    }
    (folder / "usage.json").write_text(json.dumps([request]))
    found = read_served_requests(folder / "usage.json")
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([12], [5])


def test_tpot_is_the_rest_over_the_tokens_after_the_first():
    path = "hand"
    found = table([(0.0, 10, 5, 0.1, 0.5), (1.0, 10, 1, 0.1, 0.1), (2.0, 10, 3, 0.0, 0.4)], path)
    assert found.tpot_seconds[0] == pytest.approx(0.1)
    assert np.isnan(found.tpot_seconds[1])  # of one token
    assert np.isnan(found.ttft_seconds[2])  # nobody saw its first
    assert found.ttft_seconds[1] == 0.1


def table(rows, path="hand"):
    from kvsim.calibrate.served.fields import Outcome
    from kvsim.calibrate.served.requests import _table

    return _table(path, "csv", [Outcome(*row) for row in rows], 0)


def test_requests_in_flight_count_those_sent_before_and_not_ended():
    found = table([(0.0, 1, 2, 0.1, 10.0), (1.0, 1, 2, 0.1, 1.0), (2.5, 1, 2, 0.1, 1.0)])
    assert found.in_flight.tolist() == [1, 2, 2]
    assert found.mean_in_flight == pytest.approx(12 / 10)


# ---- parts ----------------------------------------------------------------------------------


def test_parts_alternate_and_what_crosses_a_border_is_in_neither():
    rows = [(float(at), 10, 2, 0.1, 1.5 if at == 49 else 0.5) for at in range(201)]
    found = table(rows)
    parts = split(found)
    assert parts.blocks == 10
    assert not (parts.fitted & parts.judged).any()
    assert parts.fitted[:19].all()
    assert parts.judged[20:39].all()
    assert parts.fitted[40:49].all()
    crossing = found.send_seconds // 20 != (found.send_seconds + found.e2e_seconds) // 20
    assert not (parts.fitted | parts.judged)[crossing & (found.send_seconds < 180)].any()


def test_blocks_are_several_answers_long():
    slow = table([(float(at), 10, 2, 0.1, 12.0) for at in range(400)])
    assert split(slow).blocks == 6  # 399 s over 60
    slower = table([(float(at), 10, 2, 0.1, 90.0) for at in range(400)])
    assert split(slower).blocks == 2


def test_errors_of_a_part_by_hand():
    ours = {"ttft": np.array([1.1, 0.9, 5.0]), "tpot": np.full(3, np.nan), "e2el": np.ones(3)}
    theirs = {"ttft": np.array([1.0, 1.0, 1.0]), "tpot": np.ones(3), "e2el": np.full(3, 2.0)}
    found = errors_of(ours, theirs, np.array([True, True, False]))
    assert found["tpot"] is None
    assert found["ttft"].mean_percent == pytest.approx(0.0)
    assert found["ttft"].mean_absolute_percent == pytest.approx(10.0)
    assert found["ttft"].requests == 2
    assert found["e2el"].median_percent == pytest.approx(-50.0)
    assert found["e2el"].median_absolute_percent == pytest.approx(50.0)


# ---- learning -------------------------------------------------------------------------------


def test_a_planted_server_is_learned_back(learned):
    found = {term.name: term for term in learned.terms}
    assert {name for name, term in found.items() if term.identified} >= set(PLANTED)
    assert found["host_seconds"].after == pytest.approx(PLANTED["host_seconds"], abs=3e-4)
    assert found["transit_seconds"].after == pytest.approx(PLANTED["transit_seconds"], abs=1.5e-3)
    assert found["token_seconds"].after == pytest.approx(PLANTED["token_seconds"], abs=2e-6)
    assert found["prefill"].after == pytest.approx(PLANTED["prefill"], abs=0.03)


def test_what_was_not_fitted_is_predicted(learned):
    before, after = learned.before["not_fitted"], learned.after["not_fitted"]
    assert before["ttft"].mean_percent < -20
    assert before["tpot"].mean_percent < -10
    for metric in ("ttft", "tpot", "e2el"):
        assert abs(after[metric].mean_percent) < 3
        assert abs(after[metric].median_percent) < 2
        assert after[metric].mean_absolute_percent < before[metric].mean_absolute_percent / 4


def test_a_term_that_was_right_stays_where_it_was(learned):
    (launch,) = [term for term in learned.terms if term.name == "launch_seconds"]
    assert launch.after == pytest.approx(launch.before, rel=0.1)


def test_prompts_that_are_alike_tell_no_cost_of_a_token(folder):
    scenario = scenario_of(folder, "alike", low=900, high=1000, requests=200)
    path = folder / "alike.csv"
    path.write_text(WRITERS["csv"](served_by(scenario, {"transit_seconds": 0.01})))
    found = {term.name: term for term in learn_served(path, scenario).terms}
    assert "prompts are alike" in found["token_seconds"].reason
    assert found["token_seconds"].after == found["token_seconds"].before
    assert found["transit_seconds"].after == pytest.approx(0.01, abs=2e-3)


def test_launches_are_found_though_they_cost_nothing_at_first(folder):
    """Below a threshold the device hides them: the search tries larger values first."""
    scenario = scenario_of(folder, "launch", rate=8, low=20, high=200, requests=300)
    path = folder / "launch.csv"
    path.write_text(WRITERS["csv"](served_by(scenario, {"launch_seconds": 6e-4})))
    found = {term.name: term for term in learn_served(path, scenario).terms}
    assert found["launch_seconds"].identified
    assert found["launch_seconds"].after == pytest.approx(6e-4, rel=0.05)


def test_the_profile_reproduces_the_prediction(learned, scenario, folder):
    path = folder / "profile.yaml"
    write_learned(path, learned)
    profile = load_accelerator(path)
    assert profile.coefficients.host_costs["vllm"].front_end.transit_seconds > 0
    assert f"{len(learned.requests)} requests of csv.txt" in profile.coefficients.source
    assert "not fitted off by TTFT" in profile.coefficients.source
    with replaying(learned.requests, scenario, profile) as replay:
        again = replay.latencies(profile)
    theirs = measured(learned.requests)
    assert errors_of(again, theirs, learned.parts.judged) == learned.after["not_fitted"]


def test_only_the_terms_are_changed(learned):
    before, after = learned.server.accelerator, learned.profile
    changed = {"flops_per_s", "attention_flops_per_s", "weight_bytes_per_s", "kv_bytes_per_s"}
    changed |= {"gemms", "host_costs", "source", "date", "fitted_on", "error_percent"}
    old, new = dict(before.coefficients), dict(after.coefficients)
    assert {name for name in new if new[name] != old[name]} <= changed
    assert after.model_copy(update={"coefficients": before.coefficients}) == before
    for was, now in zip(old["gemms"].values(), new["gemms"].values(), strict=True):
        for narrow, wide in (("bytes_per_s", "weight_bytes_per_s"), ("flops_per_s",) * 2):
            ratio = getattr(now, narrow) / getattr(was, narrow)
            assert ratio == pytest.approx(new[wide] / old[wide], rel=1e-3)


def test_a_profile_of_another_card_is_not_written_over(learned, folder):
    path = folder / "other.yaml"
    path.write_text("name: A100-SXM4-80GB\n")
    with pytest.raises(InputError, match="A100-SXM4-80GB, and H100-SXM5-80GB would be learned"):
        write_learned(path, learned)
    assert path.read_text() == "name: A100-SXM4-80GB\n"


def test_an_interrupt_keeps_the_nearest_that_was_met(files, scenario):
    def stop(count):
        if count == 60:
            raise KeyboardInterrupt

    cut = learn_served(files["csv"], scenario, progress=stop)
    assert cut.interrupted
    assert cut.simulations == 61  # the one that judges it is the last
    before, after = cut.before["not_fitted"]["ttft"], cut.after["not_fitted"]["ttft"]
    assert after.mean_absolute_percent < before.mean_absolute_percent / 2
    assert not any(term.identified for term in cut.terms)
    assert {term.reason for term in cut.terms} == {"the search was cut"}


# ---- the search by itself -------------------------------------------------------------------

A = Term("a", ("host_seconds",), "host", "s", spread=2.0, high=10.0)
B = Term("b", ("sequence_seconds",), "host", "s", spread=2.0, high=10.0)


def linear(columns, target):
    """Log ratios of a straight problem."""
    return lambda values: sum(v * c for v, c in zip(values, columns, strict=True)) - target


def normal(seed, *, noise=0.1):
    """Two columns, and noise to add to a target, of 400 requests."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=400), rng.normal(size=400), noise * rng.normal(size=400)


def test_a_straight_problem_is_solved():
    a, b, noise = normal(1)
    found = search(linear([a, b], 3 * a + 2 * b + noise), [A, B], [1.0, 1.0], in_flight=1.0)
    assert found.values == pytest.approx({"a": 3.0, "b": 2.0}, abs=0.02)
    assert found.deviations["a"] == pytest.approx(0.1 / math.sqrt(400), rel=0.2)
    assert found.reasons == {}


@pytest.mark.parametrize("rounding", [0.0, 1e-12, -1e-12])
def test_two_terms_that_do_the_same_are_told_as_one(rounding):
    column, _, noise = normal(2)
    same = column * (1 + rounding)
    found = search(linear([column, same], 5 * column + noise), [A, B], [1.0, 1.0], 1.0)
    assert set(found.values) == {"a"}  # whichever rounding would choose
    assert sum(found.values.values()) == pytest.approx(4.0, abs=0.02)
    assert len(found.reasons) == 1


def test_a_term_that_does_nothing_is_not_identified():
    column, _, noise = normal(3)
    found = search(linear([column, 0 * column], 3 * column + noise), [A, B], [1.0, 1.0], 1.0)
    assert set(found.values) == {"a"}
    assert "too little" in found.reasons["b"]


def test_roughness_is_no_sign_of_a_term():
    """Any change moves some requests into another step: that says nothing of what was changed."""
    column, _, noise = normal(6)

    def rough(values):
        moved = np.random.default_rng(abs(hash(tuple(values)))).normal(size=400)
        return values[0] * column - 3 * column + noise + 0.1 * moved

    found = search(rough, [A, B], [1.0, 1.0], in_flight=1.0)
    assert set(found.values) == {"a"}
    assert found.values["a"] == pytest.approx(3.0, abs=0.05)


def test_a_term_at_its_bound_is_not_identified_and_the_others_are_fitted_without_it():
    a, b, noise = normal(4)
    found = search(linear([a, b], 3 * a - 4 * b + noise), [A, B], [1.0, 1.0], in_flight=1.0)
    assert set(found.values) == {"a"}
    assert "bound, 0 s" in found.reasons["b"]


def test_requests_in_flight_together_count_as_one():
    column, _, noise = normal(5)
    ratios = linear([column], 3 * column + noise)
    alone, crowd = (search(ratios, [A], [1.0], in_flight=many) for many in (1.0, 100.0))
    assert crowd.deviations["a"] / alone.deviations["a"] == pytest.approx(10, rel=0.1)
    assert search(ratios, [A], [1.0], in_flight=1e7).values == {}


def test_a_factor_multiplies_every_rate_that_it_names():
    card = find_accelerator("h100")
    setup_host = card.coefficients.host_costs.get("vllm")
    from kvsim.specs.hardware import HostCost

    server = Server(card, card.coefficients, "vllm", setup_host or HostCost(host_seconds=0.001))
    prefill = BY_NAME["prefill"]
    changed = server.changed([prefill], [0.5], learned="a test").coefficients
    for name in prefill.fields:
        half = round_significant(0.5 * getattr(card.coefficients, name), 6)
        assert getattr(changed, name) == half
    assert changed.weight_bytes_per_s == card.coefficients.weight_bytes_per_s
    assert changed.source.endswith("; then a test")
    assert changed.host_costs["vllm"].source == "a test"


# ---- refusals -------------------------------------------------------------------------------

HEAD = "send_seconds,prompt_tokens,output_tokens,ttft_seconds,e2e_seconds\n"
BAD_FILES = {
    "": "is empty",
    "hello\n": "neither JSON nor CSV; give a vllm bench",
    "[1, 2": "is not whole JSON",
    '{"a": 1}': "of no benchmark that is known",
    "[]": "lists no request",
    "[3]": "3 should be a JSON object",
    '{"successes": {}}': "per_request: true",
    '{"request_latency": {}, "input_config": {}}': "take profile_export.jsonl",
    '{"request_throughput": 1}': "no start_times, input_lens, output_lens, ttfts, itls",
    HEAD.replace("ttft", "tfft") + "0,1,1,1,1": "no column ttft_seconds; near it stands",
    HEAD: "no rows below the header",
    HEAD + "0,10,0,0,0\n": "no request was answered",
    HEAD + "0,10,5,-1,2\n": "ttft_seconds = '-1'",
    HEAD + "0,10,5,3,2\n": "first chunk after 3 s, last after 2 s: cannot be",
    HEAD + "0,0,5,1,2\n": "0 prompt and 5 output tokens",
    HEAD + "1e18,10,5,1,2\n": "check the units",
    '{"benchmarks": 3}': "should be a list",
    '{"benchmarks": [{"requests": {"successful": [{}]}}]}': "no request_start_time",
    '{"benchmarks": [{"requests": {"successful": [], "errored": [{}]}}]}': "was answered",
    '{"benchmarks": [{"requests": {}, "metrics": {"request_totals": {"successful": 9}}}]}': (
        "0 of 9 requests: the others loaded the server too; run guidellm without"
    ),
    '{"metadata": {}, "metrics": {"a": 1}}': "no request_start_ns",
    '{"metadata": {}, "metrics": null}\nnonsense': "line 2: is not whole JSON",
    json.dumps(
        {"start_times": [1], "input_lens": [], "output_lens": [], "ttfts": [], "itls": []}
    ): ("not of one length: 1 start_times, 0 input_lens"),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.items())
def test_a_file_that_cannot_be_used_is_one_clear_line(tmp_path, text, said):
    path = tmp_path / "file"
    path.write_text(text)
    found, line = read_or_refused(read_served_requests, path)
    assert found is None
    assert said in line
    assert str(path) in line


def csv_of(tmp_path, rows):
    path = tmp_path / "requests.csv"
    path.write_text(WRITERS["csv"]([Request(*row) for row in rows]))
    return path


def test_too_few_requests(tmp_path, scenario):
    path = csv_of(tmp_path, [(float(at), 10, 5, 0.1, 0.2) for at in range(50)])
    with pytest.raises(InputError, match=r"fewer than 30.*take a longer run"):
        learn_served(path, scenario)


def test_answers_that_were_not_streamed(tmp_path, scenario):
    path = csv_of(tmp_path, [(float(at), 10, 5, 0.0, 0.2) for at in range(100)])
    with pytest.raises(InputError, match=r"no request has a time to first token.*with streaming"):
        learn_served(path, scenario)


def test_more_in_flight_than_the_server_runs(tmp_path, scenario):
    path = csv_of(tmp_path, [(at / 10, 10, 5, 0.1, 9.0) for at in range(2000)])
    with pytest.raises(InputError, match=r"90 requests were in flight.*max_num_seqs 64"):
        learn_served(path, scenario)


def test_a_request_longer_than_the_server_takes(tmp_path, scenario):
    path = csv_of(tmp_path, [(float(at), 9000, 5, 0.1, 0.2) for at in range(100)])
    with pytest.raises(
        InputError, match="9,005 tokens was answered, more than max_model_len 8,192"
    ):
        learn_served(path, scenario)


def test_steps_of_a_constant_time(files, scenario):
    from kvsim.simulator.loading import with_overrides

    constant = with_overrides(scenario, {"step_time": {"kind": "constant", "seconds": 0.01}})
    with pytest.raises(InputError, match="no terms to learn"):
        learn_served(files["csv"], constant)


def test_the_twins_coefficients(files, scenario):
    card = find_accelerator("h100")
    twin = card.coefficients.model_copy(update={"engine": "twin"})
    with pytest.raises(InputError, match=r"kernels.yaml"):
        learn_served(
            files["csv"], scenario, accelerator=card.model_copy(update={"coefficients": twin})
        )


def test_failed_requests_are_counted_and_warned_of(tmp_path, scenario, requests):
    record = json.loads(WRITERS["vllm-bench"](requests[:300]))
    for at in range(20):
        record["output_lens"][at] = 0
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(record))

    def stop(count):
        if count > 1:
            raise KeyboardInterrupt

    found = learn_served(path, scenario, progress=stop)
    assert found.requests.failed == 21
    assert found.warnings[0].startswith("21 of 301 requests failed")


def changed(folder, requests, name, *, ttft=1.0, tpot=1.0):
    """The first requests as a CSV, with other times."""
    path = folder / f"{name}.csv"
    few = [
        Request(r.send, r.prompt, r.output, ttft * r.ttft, ttft * r.ttft + tpot * (r.e2e - r.ttft))
        for r in requests[:150]
    ]
    path.write_text(WRITERS["csv"](few))
    return path


def test_requests_that_nothing_explains_are_refused(folder, scenario, requests):
    path = changed(folder, requests, "nothing", ttft=1e-5, tpot=1e-5)
    with pytest.raises(InputError, match=r"nothing explains these requests: they are .* % off"):
        learn_served(path, scenario)


def test_a_server_that_the_terms_do_not_explain_is_warned_of(folder, scenario, requests, learned):
    said = "the requests that were fitted are still off by"
    assert not any(each.startswith(said) for each in learned.warnings)
    slower = learn_served(changed(folder, requests, "slower", tpot=6.0), scenario)
    (warning,) = [each for each in slower.warnings if each.startswith(said)]
    off = slower.after["fitted"]["tpot"].mean_percent
    assert off < -5
    assert f"TPOT {off:+.1f} %" in warning


# ---- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(folder):
    """A short run of the planted server."""
    scenario = scenario_of(folder, "small", requests=150)
    path = folder / "small.csv"
    path.write_text(WRITERS["csv"](served_by(scenario, PLANTED)))
    return path, folder / "small.yaml"


def test_the_command_writes_a_profile_that_every_command_takes(run_kvsim, small, tmp_path):
    path, scenario = small
    profile = tmp_path / "profile.yaml"
    words = ("calibrate", "served", path, "--scenario", scenario)
    code, out, err = run_kvsim(*words, "-o", profile, "--format", "json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["kind"] == "kvsim-served-learning"
    assert record["requests"]["failed"] == 1
    assert record["output"] == str(profile)
    by_name = {term["name"]: term for term in record["terms"]}
    assert list(by_name) == [term.name for term in TERMS]
    assert by_name["transit_seconds"]["identified"]
    written = load_accelerator(profile).coefficients.host_costs["vllm"]
    assert written.front_end.transit_seconds == by_name["transit_seconds"]["after"]
    for when in ("before", "after"):
        assert set(record["error_percent"][when]) == {"fitted", "not_fitted"}
    assert run_kvsim("simulate", scenario, "--gpu", profile)[0] == 0


def test_the_page_has_both_parts_side_by_side(run_kvsim, small):
    path, scenario = small
    code, out, _ = run_kvsim("calibrate", "served", path, "--scenario", scenario)
    assert code == 0
    assert "fitted, before" in out
    assert "not fitted, after" in out
    assert "launch_seconds" in out
    assert "not identified: these requests say too little of it" in out
    assert "give -o profile.yaml" in out


@pytest.mark.parametrize(
    "words",
    [
        ("absent.csv", "--scenario", "peer-w"),
        ("{path}", "--scenario", "absent"),
        ("{path}",),
        ("{path}", "--scenario", "{scenario}", "-o", "absent/profile.yaml"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(run_kvsim, small, words):
    path, scenario = small
    told = [word.format(path=path, scenario=scenario) for word in words]
    code, out, err = run_kvsim("calibrate", "served", *told)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_interrupted_command_writes_what_it_has(run_kvsim, small, tmp_path, monkeypatch):
    from kvsim.calibrate.served.replay import Replay

    path, scenario = small
    count, once = [0], Replay.latencies

    def cut(self, accelerator):
        count[0] += 1
        if count[0] == 40:
            raise KeyboardInterrupt
        return once(self, accelerator)

    monkeypatch.setattr(Replay, "latencies", cut)
    profile = tmp_path / "profile.yaml"
    words = ("calibrate", "served", path, "--scenario", scenario, "-o", profile)
    code, out, err = run_kvsim(*words)
    assert code == 130
    assert "the search was cut" in out
    assert "interrupted" in err
    assert load_accelerator(profile).coefficients.host_costs["vllm"]


# ---- anything at all ------------------------------------------------------------------------

values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 99), st.floats(), st.text(max_size=6),
    st.just(10**400), st.lists(st.floats(), max_size=3), st.just({"a": None}),
)  # fmt: skip
SOUND = [Request(float(at), 10, 3, 0.1, 0.3) for at in range(4)]


def changed_somewhere(value, path, other):
    """Return the JSON value with another one somewhere along a path of choices."""
    if not path or not isinstance(value, dict | list) or not value:
        return other
    keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed_somewhere(value[key], path[1:], other)
    return copy


def sound(found):
    """The law of what was read."""
    assert isinstance(found, ServedRequests)
    assert (np.diff(found.send_seconds) >= 0).all()
    assert np.isfinite(found.e2e_seconds).all()
    assert (found.prompt_tokens >= 1).all()
    assert (found.output_tokens >= 1).all()
    known = ~np.isnan(found.ttft_seconds)
    assert (found.ttft_seconds[known] > 0).all()


@settings(max_examples=examples(300))
@given(
    name=st.sampled_from(["vllm-bench", "inference-perf", "guidellm"]),
    path=st.lists(st.integers(0, 8), max_size=6),
    other=values,
)
def test_any_value_in_a_benchmark(folder, name, path, other):
    record = json.loads(WRITERS[name](SOUND))
    file = folder / "any.json"
    file.write_text(json.dumps(changed_somewhere(record, path, other)))
    found, _ = read_or_refused(read_served_requests, file)
    if found is not None:
        sound(found)


@settings(max_examples=examples(200))
@given(path=st.lists(st.integers(0, 8), max_size=4), other=values)
def test_any_value_in_a_line(folder, path, other):
    lines = [json.loads(line) for line in aiperf(SOUND).splitlines()]
    file = folder / "any.jsonl"
    lines[1] = changed_somewhere(lines[1], path, other)
    file.write_text("\n".join(map(json.dumps, lines)))
    found, _ = read_or_refused(read_served_requests, file)
    if found is not None:
        sound(found)


@settings(max_examples=examples(200))
@given(cells=st.lists(st.lists(st.text(max_size=5) | st.floats().map(str), max_size=6), max_size=3))
def test_any_cells(folder, cells):
    file = folder / "any.csv"
    text = HEAD + "\n".join(",".join(row) for row in cells)
    file.write_bytes(text.encode(errors="replace"))
    found, _ = read_or_refused(read_served_requests, file)
    if found is not None:
        sound(found)


@settings(max_examples=examples(200))
@given(
    content=st.binary(max_size=120) | st.text('{"metadrics:,[] 0}\n', max_size=60).map(str.encode)
)
def test_any_bytes(folder, content):
    file = folder / "any"
    file.write_bytes(content)
    read_or_refused(read_served_requests, file)


def test_one_more_request_changes_nothing_of_the_others():
    rows = [(0.0, 10, 5, 0.1, 0.5), (3.0, 10, 2, 0.1, 0.2)]
    assert table([*rows, (9.0, 1, 2, 0.1, 0.2)]).ttft_seconds[:2].tolist() == [0.1, 0.1]
    assert replace(table(rows), failed=3).failed == 3
