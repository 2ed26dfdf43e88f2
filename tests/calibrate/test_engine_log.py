"""vLLM's start-up log and benchmark result beside the plan and the prediction.

The lines are written in the words of each release; sizes of the 0.19 log are those that the
project's table of observed engines states for Llama-3.1-8B on an H100.
"""

import json
from pathlib import Path

import pytest

from kvsim.calibrate.served.bench import compare_bench, read_bench_result
from kvsim.calibrate.served.engine_log import compare_log, parse_engine_log, read_engine_log
from kvsim.cli import main
from kvsim.errors import InputError
from kvsim.runs.simulate import simulate
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.scenario import Scenario
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB

V0_5 = """\
INFO 07-01 10:00:00 llm_engine.py:161] Initializing an LLM engine (v0.5.0) with config: \
model='meta-llama/Llama-2-7b-hf', dtype=torch.float16, max_seq_len=4096, \
tensor_parallel_size=1, enforce_eager=False, kv_cache_dtype=auto
INFO 07-01 10:00:09 model_runner.py:160] Loading model weights took 12.5523 GB
INFO 07-01 10:00:12 gpu_executor.py:83] # GPU blocks: 7406, # CPU blocks: 512
INFO 07-01 10:00:30 model_runner.py:954] Graph capturing finished in 12 secs.
"""
V0_6 = """\
INFO 01-16 09:40:00 llm_engine.py:234] Initializing an LLM engine (v0.6.6) with config: \
model='meta-llama/Meta-Llama-3-8B', dtype=torch.bfloat16, max_seq_len=8192
INFO 01-16 09:40:00 worker.py:238] the current vLLM instance can use total_gpu_memory \
(79.22GiB) x gpu_memory_utilization (0.90) = 71.29GiB
INFO 01-16 09:40:00 worker.py:238] model weights take 14.96GiB; non_torch_memory takes \
0.16GiB; PyTorch activation peak memory takes 1.26GiB; the rest of the memory reserved for KV \
Cache is 54.91GiB.
INFO 01-16 09:40:01 executor_base.py:95] # CUDA blocks: 28113, # CPU blocks: 2048
INFO 01-16 09:40:01 executor_base.py:101] Maximum concurrency for 8192 tokens per request: 54.91x
INFO 01-16 09:40:20 model_runner.py:1535] Graph capturing finished in 13 secs, took 0.26 GiB
"""
V0_19 = """\
(EngineCore pid=7) INFO 04-24 16:32:01 [core.py:70] Initializing a V1 LLM engine (v0.19.0) with \
config: model='meta-llama/Llama-3.1-8B-Instruct', dtype=torch.bfloat16, max_seq_len=8192, \
tensor_parallel_size=1, pipeline_parallel_size=1, enforce_eager=False, kv_cache_dtype=auto
(EngineCore pid=7) INFO 04-24 16:33:00 [model.py:48] Model loading took 14.99 GiB memory and 3.6 s
(EngineCore pid=7) DEBUG 04-24 16:33:09 [worker.py:28] Initial free memory: 78.69 GiB; \
Requested memory: 0.95 (util), 75.24 GiB
(EngineCore pid=7) DEBUG 04-24 16:33:10 [worker.py:29] Memory profiling takes 14.40 seconds. \
Total non KV cache memory: 17.13GiB; torch peak memory increase: 1.89GiB; non-torch forward \
increase memory: 0.25GiB; weights memory: 14.99GiB.
(EngineCore pid=7) INFO 04-24 16:33:10 [worker.py:30] Estimated CUDA graph memory: 0.84 GiB total
(EngineCore pid=7) INFO 04-24 16:33:11 [worker.py:31] Available KV cache memory: 58.11 GiB
(EngineCore pid=7) INFO 04-24 16:33:12 [kv.py:86] GPU KV cache size: 476,000 tokens
(EngineCore pid=7) INFO 04-24 16:33:12 [kv.py:87] Maximum concurrency for 8,192 tokens per \
request: 58.11x
(EngineCore pid=7) INFO 04-24 16:33:20 [worker.py:62] CUDA graph pool memory: 0.91 GiB (actual), \
0.84 GiB (estimated), difference: 0.07 GiB (8.3%).
"""


def run_cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def written(tmp_path, text, name="vllm.log"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ---- reading ------------------------------------------------------------------------------


def test_0_5_prints_weights_and_blocks():
    log = parse_engine_log(V0_5)
    assert (log.version, log.model) == ("0.5.0", "meta-llama/Llama-2-7b-hf")
    assert (log.weights_gib, log.gpu_blocks) == (12.5523, 7406)
    assert log.activation_gib is log.kv_cache_gib is log.cuda_graph_gib is None
    assert log.options["dtype"] == "float16"


def test_0_6_prints_every_term_in_one_line():
    log = parse_engine_log(V0_6)
    assert (log.total_gib, log.weights_gib, log.non_torch_gib) == (79.22, 14.96, 0.16)
    assert (log.activation_gib, log.kv_cache_gib, log.cuda_graph_gib) == (1.26, 54.91, 0.26)
    assert (log.gpu_blocks, log.max_concurrency, log.max_model_len) == (28113, 54.91, 8192)
    assert log.options["gpu_memory_utilization"] == 0.9


def test_0_19_prints_actual_and_estimated_graphs():
    log = parse_engine_log(V0_19)
    assert (log.version, log.kv_tokens, log.max_model_len) == ("0.19.0", 476_000, 8192)
    assert (log.weights_gib, log.activation_gib, log.non_torch_gib) == (14.99, 1.89, 0.25)
    assert (log.cuda_graph_gib, log.estimated_graph_gib) == (0.91, 0.84)
    assert log.options["gpu_memory_utilization"] == 0.95
    assert log.options["enforce_eager"] is False


def test_of_several_ranks_the_tightest_counts():
    text = "\n".join(
        f"(Worker_TP{rank} pid=1) INFO x] Model loading took {weights} GiB and 3 seconds\n"
        f"(Worker_TP{rank} pid=1) INFO x] Available KV cache memory: {left} GiB"
        for rank, weights, left in ((0, 7.51, 60.0), (1, 7.60, 59.5))
    )
    log = parse_engine_log(text)
    assert (log.weights_gib, log.kv_cache_gib) == (7.60, 59.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "no memory line"), ("INFO: hello\n", "no memory line"), (None, "no such file")],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, text, problem):
    path = tmp_path / "vllm.log" if text is None else written(tmp_path, text)
    with pytest.raises(InputError, match=problem):
        read_engine_log(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Model loading took {} GiB", "'Model loading took 9999"),
        ("GPU KV cache size: {} tokens", "'GPU KV cache size: 9999"),
        ("Maximum concurrency for {} tokens per request: 3.0x", "'Maximum concurrency for 999"),
        ("config: tensor_parallel_size={}, x", "'tensor_parallel_size=9999"),
        ("Requested memory: {} (util", "'Requested memory: 9999"),
    ],
)
def test_a_size_of_400_digits_is_named_with_its_line(tmp_path, line, said):
    path = written(tmp_path, "hello\n" + line.format("9" * 400))
    with pytest.raises(InputError) as refused:
        read_engine_log(path)
    assert str(refused.value).startswith(f"{path}, line 2: {said}")
    assert "should be a" in str(refused.value)


@pytest.mark.parametrize("size", ["1e13", "9999999999999", "."])
def test_a_size_that_no_device_has_is_refused(tmp_path, size):
    path = written(
        tmp_path,
        V0_5 + f"GPU KV cache size: {size.replace('1e13', '9' * 13)} tokens\n"
        f"Maximum concurrency for 10 tokens per request: {size}x",
    )
    with pytest.raises(InputError, match=r"line [56]: .* should be"):
        read_engine_log(path)


def test_a_log_of_digits_takes_no_quadratic_time(tmp_path):
    path = written(tmp_path, "9" * 300_000)
    with pytest.raises(InputError, match="no memory line"):
        read_engine_log(path)


@pytest.mark.parametrize("reader", [read_engine_log, read_bench_result])
def test_a_device_without_end_is_refused(reader):
    with pytest.raises(InputError, match="/dev/zero: is a binary file, not text"):
        reader(Path("/dev/zero"))


# ---- comparing ----------------------------------------------------------------------------


def test_the_plan_of_an_observed_engine_meets_its_log():
    found = compare_log(parse_engine_log(V0_19), "h100")
    differences = {term.name: term.difference_bytes / GIB for term in found.terms}
    assert abs(differences["weights"]) < 0.02
    assert abs(differences["KV cache"]) < 0.2
    assert found.plan.kv_cache.capacity_tokens == pytest.approx(476_000, rel=0.005)


@pytest.mark.parametrize("activation", [0.9, 1.89, 5.5])
def test_the_overrides_close_the_gap_whatever_the_log_says(activation):
    """With the log's own overheads the plan's cache is the log's arithmetic."""
    left = 75.24 - 14.99 - activation - 0.75
    text = V0_19.replace("increase: 1.89GiB", f"increase: {activation}GiB")
    text = text.replace("memory: 0.25GiB", "memory: 0.75GiB")
    text = text.replace("memory: 58.11 GiB", f"memory: {left:.2f} GiB")
    found = compare_log(parse_engine_log(text), "h100")
    assert found.overrides["non_torch_bytes"] == round(0.75 * GIB)
    assert found.closed_plan.memory.kv_cache_bytes == pytest.approx(left * GIB, rel=2e-3)


def test_a_log_that_agrees_asks_for_nothing():
    plain = V0_19.replace("CUDA graph pool memory: 0.91", "CUDA graph pool memory: 0.87")
    found = compare_log(parse_engine_log(plain), "h100")
    assert found.profile_lines == ()
    assert "activation_bytes" not in found.overrides
    assert "non_torch_bytes" not in found.overrides


def test_another_memory_size_is_a_line_of_the_profile():
    found = compare_log(parse_engine_log(V0_6.replace("79.22GiB", "93.10GiB")), "h100")
    assert found.profile_lines[1] == "  value: 93.10 GiB"


def test_a_log_without_a_model_needs_one_to_be_given():
    log = parse_engine_log("INFO x] Model loading took 14.99 GiB and 3.6 seconds")
    with pytest.raises(InputError, match="does not name the model"):
        compare_log(log, "h100")
    assert compare_log(log, "h100", "llama3.1-8b").plan.model.name == "llama3.1-8b"


def test_flags_given_win_over_the_log():
    log = parse_engine_log(V0_19)
    found = compare_log(log, "h100", options=EngineOptions(gpu_memory_utilization=0.5))
    assert found.plan.memory.budget_bytes == pytest.approx(
        0.5 * found.plan.memory.total_bytes, rel=1e-6
    )


def test_the_command_prints_the_lines_that_close_the_gap(tmp_path, capsys):
    text = V0_19.replace("increase: 1.89GiB", "increase: 4.76GiB")
    assert run_cli("validate", "--engine-log", written(tmp_path, text), "--profile", "h100") == 0
    out = capsys.readouterr().out
    assert "activation" in out
    assert f"--activation-bytes {round(4.76 * GIB)}" in out
    assert f"  activation_bytes: {round(4.76 * GIB)}" in out


def test_the_log_needs_to_know_the_card(tmp_path, capsys):
    assert run_cli("validate", "--engine-log", written(tmp_path, V0_19)) == 2
    assert "--engine-log needs --profile" in capsys.readouterr().err


# ---- vllm bench serve ---------------------------------------------------------------------

SCENARIO = {
    "model": "llama3.1-8b",
    "accelerator": "h100",
    "workload": {
        "arrivals": {"kind": "constant", "rate": 2},
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 300},
            "output": {"kind": "fixed", "tokens": 50},
        },
        "requests": 20,
    },
}


def detailed(requests=20):
    """A result as --save-detailed writes it, whose latencies are the simulator's own."""
    result = {
        "input_lens": [300] * requests,
        "output_lens": [50] * requests,
        "start_times": [100.0 + 0.5 * at for at in range(requests)],
    }
    predicted = simulate(Scenario.model_validate(SCENARIO)).summary
    names = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "completed", "total_output_tokens")
    return result | {name: predicted[name] for name in names}


def test_a_detailed_result_is_replayed_request_by_request(tmp_path):
    """Its latencies were made by the same model, so the prediction meets them."""
    path = written(tmp_path, json.dumps(detailed()), "bench.json")
    other = SCENARIO | {"workload": SCENARIO["workload"] | {"requests": 5}}
    found = compare_bench(path, Scenario.model_validate(other))
    assert found.replayed
    assert {pair.name: pair.predicted for pair in found.pairs}["completed"] == 20
    for pair in found.pairs:
        assert pair.error_percent == pytest.approx(0, abs=1e-6), pair.name


def test_the_same_requests_may_be_compared_past_saturation(tmp_path):
    """Their mean TTFT is no property of the system, but both sides have it of these requests."""
    crowd = {
        "input_lens": [300] * 3000,
        "output_lens": [50] * 3000,
        "start_times": [at / 1000 for at in range(3000)],
        "mean_ttft_ms": 1.0,
    }
    path = written(tmp_path, json.dumps(crowd), "bench.json")
    found = compare_bench(path, Scenario.model_validate(SCENARIO))
    assert {pair.name: pair.predicted for pair in found.pairs}["mean_ttft_ms"] > 1000


def test_a_summary_alone_is_set_beside_the_scenarios_own_workload(tmp_path):
    summary = {k: v for k, v in detailed().items() if not isinstance(v, list)}
    summary["mean_ttft_ms"] *= 2
    path = written(tmp_path, json.dumps(summary), "bench.json")
    found = compare_bench(path, Scenario.model_validate(SCENARIO))
    assert not found.replayed
    assert found.warnings == (
        "the result has no start_times and no input_lens, so the scenario's own requests were"
        " simulated; vllm bench serve --save-detailed writes them",
    )
    errors = {pair.name: pair.error_percent for pair in found.pairs}
    assert errors["mean_ttft_ms"] == pytest.approx(-50)
    assert errors["mean_tpot_ms"] == pytest.approx(0, abs=1e-6)


def test_what_is_unlike_is_said(tmp_path):
    summary = {"completed": 7, "request_rate": "inf", "model_id": "meta-llama/Llama-2-7b-hf"}
    path = written(tmp_path, json.dumps(summary), "bench.json")
    found = compare_bench(path, load_scenario("peer-w", {"workload.requests": 20}))
    assert found.record()["warnings"][-4:] == [
        "the result is of llama2-7b (model_id 'meta-llama/Llama-2-7b-hf'), simulated is"
        " llama3.1-8b",
        "the result has no start_times and no input_lens, so the scenario's own requests were"
        " simulated; vllm bench serve --save-detailed writes them",
        "20 requests were simulated, 7 measured: set workload.requests",
        "the scenario sends 4 requests/s, the benchmark inf",
    ]
    assert "states a pool of 3,700 blocks" in found.record()["warnings"][0]


def test_a_result_is_never_overwritten_and_idle_options_are_refused(tmp_path, run_kvsim):
    text = json.dumps({"completed": 7})
    path = written(tmp_path, text, "bench-comparison.json")
    words = ("validate", "--bench", path, "--scenario", "static-vs-continuous")
    code, _, err = run_kvsim(*words, "--output", tmp_path)
    assert (code, path.read_text()) == (2, text)
    assert f"{path}: would be overwritten; give another --output" in err
    code, _, err = run_kvsim(*words, "--quick", "--load", "0.5")
    assert code == 2
    assert "--load, --quick would change nothing with --bench: leave it out" in err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not whole JSON: .* at line 1 column 2"),
        ("[1]", "holds a JSON list, not an object"),
        ('{"a": 1}', "no result of vllm bench"),
        ("[" * 100_000, "nested too deeply"),
        ('{"completed": ' + "9" * 5000 + "}", "not usable JSON"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, text, problem):
    with pytest.raises(InputError, match=problem):
        read_bench_result(written(tmp_path, text, "bench.json"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("NaN", "nan: should be a finite number"),
        ("Infinity", "inf: should be a finite number"),
        ("1e999", "inf: should be a finite number"),
        ("-1", "-1: should be at least 0"),
        ('"12"', "'12': should be a finite number"),
        ("true", "True: should be a finite number"),
        ("[1]", "[1]: should be a finite number"),
    ],
)
@pytest.mark.parametrize("key", ["mean_ttft_ms", "p99_e2el_ms", "completed", "duration"])
def test_a_metric_that_is_no_number_is_named(tmp_path, key, value, said):
    path = written(tmp_path, f'{{"output_throughput": 3.5, "{key}": {value}}}', "bench.json")
    with pytest.raises(InputError) as refused:
        read_bench_result(path)
    assert str(refused.value) == (
        f"{path}: {key} = {said}; take the file as vllm bench serve wrote it"
    )


@pytest.mark.parametrize(
    "entries", ['"request_rate": 1' + "0" * 400, '"duration": 1e-320, "mean_ttft_ms": 1e-320']
)
def test_the_largest_and_the_smallest_numbers_leave_valid_json(tmp_path, run_kvsim, entries):
    path = written(tmp_path, f'{{"completed": 3, {entries}}}', "bench.json")
    words = ("--bench", path, "--scenario", "static-vs-continuous", "--format", "json")
    code, out, err = run_kvsim("validate", *words)
    assert (code, err) == (0, "")
    pairs = {pair["name"]: pair for pair in json.loads(out)["pairs"]}
    assert pairs["completed"]["measured"] == 3
    if "duration" in pairs:
        assert pairs["duration"]["error_percent"] is None


def test_a_metric_may_be_null_and_keys_that_are_not_compared_anything(tmp_path):
    path = written(tmp_path, '{"completed": 3, "mean_itl_ms": null, "note": NaN}', "bench.json")
    assert read_bench_result(path)["mean_itl_ms"] is None


def test_the_command_sets_a_result_beside_a_scenario(tmp_path, capsys):
    path = written(tmp_path, json.dumps(detailed()), "bench.json")
    question = written(tmp_path, json.dumps(SCENARIO), "question.yaml")
    assert load_scenario(question).model == "llama3.1-8b"
    assert run_cli("validate", "--bench", path, "--scenario", question, "--format", "json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["replayed"] is True
    assert run_cli("validate", "--bench", path) == 2
    assert "--bench needs --scenario" in capsys.readouterr().err
