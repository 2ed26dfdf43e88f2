"""What ``--output-dir`` writes: whole, deterministic, complete, and in the words of other tools."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import kvsim
from kvsim import InputError, load_scenario, simulate
from kvsim.errors import MissingExtraError
from kvsim.results.outputs import prometheus_text, provenance, timeline, write_outputs
from kvsim.results.outputs.folder import write_together, write_whole
from kvsim.results.outputs.prometheus import token_buckets

FILES = ["summary.json", "trace.json.gz", "metrics.prom"]
TABLES = ["requests.parquet", "steps.parquet", "memory.parquet"]
PRESSED = {
    "workload.requests": 200,
    "workload.arrivals.rate": 30,
    "memory.num_blocks": 300,
    "engine.max_model_len": 4096,
}


@pytest.fixture(scope="module")
def result():
    """A run under memory pressure: preemptions, a queue, several requests at once."""
    return simulate(load_scenario("peer-w", PRESSED))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- the folder ----------------------------------------------------------------------------


def test_everything_is_written(result, tmp_path):
    written = write_outputs(result, tmp_path / "new" / "folder")
    assert [path.name for path in written] == FILES + TABLES
    assert names_in(tmp_path / "new" / "folder") == sorted(FILES + TABLES)


def test_the_summary_is_the_answer_and_its_provenance(result, tmp_path):
    write_outputs(result, tmp_path, {"replications": 1})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("replications") == 1
    assert summary.pop("provenance") == json.loads(json.dumps(provenance(result)))
    assert summary == json.loads(json.dumps(result.summary))


def test_tables_hold_every_row(result, tmp_path):
    write_outputs(result, tmp_path)
    for name in ("requests", "steps", "memory"):
        expected = getattr(result, name)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), expected)
    assert len(result.requests) == 200


def test_without_pyarrow_the_rest_is_written_and_the_extra_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"kvsim\[export\]"):
        write_outputs(result, tmp_path)
    assert names_in(tmp_path) == sorted(FILES)


def test_a_failed_write_leaves_the_old_file_whole(result, tmp_path, monkeypatch):
    write_outputs(result, tmp_path)
    before = (tmp_path / "summary.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_outputs(result, tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before
    assert names_in(tmp_path) == sorted(FILES + TABLES)


ONE, TWO = ([(name, letter) for name in ("a", "b", "c")] for letter in (b"1", b"2"))


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_writes_amid_another_mixes_with_none(tmp_path):
    def slow():
        yield ONE[0]
        write_together(tmp_path, TWO, "abc")
        yield from ONE[1:]

    write_together(tmp_path, slow(), "abc")
    assert contents_of(tmp_path) == dict(ONE)


def test_a_run_waits_while_another_moves_its_files(tmp_path, monkeypatch):
    other = threading.Thread(target=write_together, args=(tmp_path, TWO, "abc"))
    replace = Path.replace

    def replace_then_start_the_other(path, target):
        if other.ident is None:
            other.start()
            other.join(0.3)  # time enough to move its files into the midst, were it let
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_then_start_the_other)
    write_together(tmp_path, ONE, "abc")
    other.join()
    assert contents_of(tmp_path) == dict(TWO)


def test_an_earlier_run_goes_whole_and_what_is_not_ours_stays(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"mine")
    write_together(tmp_path, TWO, "abc")
    write_together(tmp_path, ONE[:1], "abc")
    assert contents_of(tmp_path) == {"notes.txt": b"mine", "a": b"1"}


def test_contents_that_cannot_be_made_leave_the_earlier_run(tmp_path):
    write_together(tmp_path, TWO, "abc")
    contents = (ONE[at] for at in (0, 1, 9))
    with pytest.raises(IndexError):
        write_together(tmp_path, contents, "abc")
    assert contents_of(tmp_path) == dict(TWO)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_folder_in_the_place_of_a_file_leaves_the_earlier_run(tmp_path, name):
    write_together(tmp_path, TWO, "abc")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(IsADirectoryError, match=f"{name} is a folder"):
        write_together(tmp_path, ONE, "abc")
    assert {path.name for path in tmp_path.iterdir()} == before
    (tmp_path / name).rmdir()
    assert contents_of(tmp_path).items() <= dict(TWO).items()


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"1"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"2")
    assert os.read(reader, 9) == b"2"
    os.close(reader)


def test_a_folder_that_is_a_file_is_refused_in_one_line(result, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_outputs(result, tmp_path / "taken")


def test_two_processes_write_the_same_bytes(tmp_path):
    """Same seed, another PYTHONHASHSEED: every file is the same to the byte."""
    settings = [f"--set={key}={value}" for key, value in PRESSED.items()]
    settings += ["--set=memory.allocator=prefix", "--seed=3"]
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "kvsim", "simulate", "peer-w", *settings]
        subprocess.run(
            [*command, "--output-dir", str(tmp_path / hash_seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
    for name in FILES + TABLES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


# --- provenance ----------------------------------------------------------------------------


def test_a_source_tree_that_is_not_installed_knows_its_version(result, monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", nothing)
    assert provenance(result)["kvsim"] == kvsim.__version__


def test_provenance_says_everything_needed_to_ask_again(result):
    found = provenance(result)
    assert found["seed"] == 0
    assert found["engine"]["name"] == "vllm"
    assert found["scheduler"] == "vLLM's V1 scheduler (running first, chunked prefill)"
    assert found["notes"] == []
    assert found["engine"]["version"]
    assert found["engine"]["options"]["max_num_seqs"] == 256
    assert found["model"]["source"]
    assert all(fact["source"] for fact in found["accelerator"]["sources"].values())
    assert found["step_time"].split(":")[0] in ("fitted", "assumed")
    assert found["pool"] == {
        "num_blocks": 300,
        "withheld_blocks": 1,  # the null block
        "block_size": 16,
        "bytes_per_token": 131_072,  # 2 x 32 layers x 8 heads x 128 x 2 bytes
        "kv_cache_dtype": "bf16",
    }
    assert found["scenario"]["scheduler"]["policy"] == "vllm-v1"


def test_no_path_and_no_date_is_in_the_provenance(result, tmp_path):
    copy = tmp_path / "peer-w.yaml"
    copy.write_text(yaml.safe_dump(provenance(result)["scenario"]))
    elsewhere = simulate(load_scenario(copy))
    assert provenance(elsewhere) == provenance(result)


# --- the timeline --------------------------------------------------------------------------


def test_lanes_hold_one_request_at_a_time(result):
    events = [event for event in timeline(result)["traceEvents"] if event["ph"] == "X"]
    lanes = {}
    for event in events:
        lanes.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in lanes.values():
        spans.sort()
        assert all(end <= start + 1e-2 for (_, end), (start, _) in pairwise(spans))
    assert len(events) == 2 * 200


def test_as_many_lanes_as_requests_ran_at_once(result):
    columns = result.columns
    starts, ends = columns["scheduled_seconds"], columns["finish_seconds"]
    most = max(((starts <= at) & (at < ends)).sum() for at in starts)
    names = [e["args"]["name"] for e in timeline(result)["traceEvents"] if e["ph"] == "M"]
    assert names == ["replica 0", *(f"slot {lane}" for lane in range(most))]


def test_slices_last_as_long_as_the_phases(result):
    events = timeline(result)["traceEvents"]
    decode = {e["name"]: e["dur"] for e in events if e.get("cat") == "decode"}
    requests = result.requests
    spent = 1e6 * (requests["finish_seconds"] - requests["first_token_seconds"])
    for row, microseconds in zip(requests["row"], spent, strict=True):
        assert decode[f"request {row} decode"] == pytest.approx(microseconds, abs=1e-3)


def test_every_preemption_is_an_instant(result):
    events = [event for event in timeline(result)["traceEvents"] if event["ph"] == "i"]
    assert len(events) == result.summary["preemptions"] > 0
    starts = 1e6 * result.steps["start_seconds"].to_numpy()
    assert all(np.abs(starts - event["ts"]).min() < 1e-2 for event in events)


def test_counters_show_the_pool_and_the_queue(result):
    events = [event for event in timeline(result)["traceEvents"] if event["ph"] == "C"]
    blocks = [event["args"]["held"] for event in events if event["name"] == "KV blocks"]
    assert blocks == (result.steps["held_slots"] / 16).tolist()
    waiting = [event["args"]["waiting"] for event in events if event["name"] == "requests"]
    assert waiting == result.steps["waiting"].tolist()


def test_a_long_run_is_capped_and_says_so(result):
    found = timeline(result, most_requests=30, most_samples=10)
    slices = [event for event in found["traceEvents"] if event["ph"] == "X"]
    counters = [event for event in found["traceEvents"] if event["ph"] == "C"]
    assert len(slices) == 60
    assert len(counters) == 20
    assert found["otherData"]["requests_left_out"] == 170


def test_the_file_is_a_chrome_trace(result, tmp_path):
    write_outputs(result, tmp_path)
    with gzip.open(tmp_path / "trace.json.gz") as stream:
        trace = json.load(stream)
    needed = {"X": {"ts", "dur", "tid"}, "C": {"ts", "args"}, "i": {"ts", "s"}, "M": {"args"}}
    for event in trace["traceEvents"]:
        assert {"name", "ph", "pid"} | needed[event["ph"]] <= set(event)


# --- metrics -------------------------------------------------------------------------------

# Names as vLLM's V1 metrics logger gives them; counters end in _total in the text format.
GAUGES = {
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info",
}  # fmt: skip
COUNTERS = {
    "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total",
    "prefix_cache_queries_total", "prefix_cache_hits_total", "request_success_total",
    "admission_rejections_total",
}  # fmt: skip
HISTOGRAMS = {
    "time_to_first_token_seconds", "inter_token_latency_seconds",
    "request_time_per_output_token_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_inference_time_seconds",
    "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
    "request_generation_tokens", "iteration_tokens_total",
}  # fmt: skip
LINE = re.compile(r'^vllm:(\w+)\{((?:\w+="[^"]*",?)*)\} (\S+)$')


def parsed(text):
    """``{(name, le or None): value}`` of the samples, and ``{name: type}``."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE vllm:"):
            name, kind = line.removeprefix("# TYPE vllm:").split()
            types[name] = kind
            continue
        name, labels, value = LINE.match(line).groups()
        labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert labels["model_name"] == "llama3.1-8b"
        assert labels["engine"] == "0"
        samples[name, labels.get("le")] = float(value)
    return samples, types


def test_metrics_have_vllms_names_and_types(result):
    _, types = parsed(prometheus_text(result))
    expected = {name: "gauge" for name in GAUGES} | {name: "counter" for name in COUNTERS}
    assert types == expected | {name: "histogram" for name in HISTOGRAMS}


def test_counters_are_the_summarys(result):
    samples, _ = parsed(prometheus_text(result))
    summary = result.summary
    assert samples["num_preemptions_total", None] == summary["preemptions"]
    assert samples["prompt_tokens_total", None] == 200 * 512
    assert samples["generation_tokens_total", None] == 200 * 128
    assert samples["request_success_total", None] == 200
    assert samples["kv_cache_usage_perc", None] == 0


def test_histograms_are_those_of_the_tables(result):
    samples, _ = parsed(prometheus_text(result))
    requests = result.requests
    observed = {
        "time_to_first_token_seconds": requests["ttft_seconds"],
        "e2e_request_latency_seconds": requests["e2el_seconds"],
        "request_queue_time_seconds": requests["queue_seconds"],
        "request_decode_time_seconds": requests["finish_seconds"] - requests["first_token_seconds"],
        "request_prompt_tokens": requests["prompt_tokens"],
    }
    for name, values in observed.items():
        edges = [le for metric, le in samples if metric == f"{name}_bucket"]
        assert edges[-1] == "+Inf"
        for edge in edges:
            assert samples[f"{name}_bucket", edge] == (values <= float(edge)).sum(), (name, edge)
        assert samples[f"{name}_sum", None] == pytest.approx(values.sum())
        assert samples[f"{name}_count", None] == 200


def test_token_weighted_histograms_count_tokens_and_steps(result):
    samples, _ = parsed(prometheus_text(result))
    decoded = (result.steps["sequences"] * result.steps["steps"]).sum()
    assert samples["inter_token_latency_seconds_count", None] == decoded
    assert samples["iteration_tokens_total_count", None] == result.steps["steps"].sum()
    tokens = result.steps["sequences"] + result.steps["prefill_tokens"]
    assert samples["iteration_tokens_total_sum", None] == (tokens * result.steps["steps"]).sum()


def test_an_unfinished_run_shows_who_is_running_and_waiting():
    cut = simulate(load_scenario("peer-w", PRESSED | {"run.max_seconds": 3}))
    samples, _ = parsed(prometheus_text(cut))
    running, waiting = samples["num_requests_running", None], samples["num_requests_waiting", None]
    assert running + waiting == cut.summary["unfinished"]
    assert running > 0
    assert waiting > 0
    assert 0.5 < samples["kv_cache_usage_perc", None] <= 1


def test_token_buckets_are_one_two_five():
    """``build_1_2_5_buckets`` of vLLM: 100 gives [1, 2, 5, 10, 20, 50, 100]."""
    assert token_buckets(100) == (1, 2, 5, 10, 20, 50, 100)
    assert token_buckets(8192)[-1] == 5000


GOLDEN = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="llama3.1-8b",engine="0"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="llama3.1-8b",engine="0"} 0.0
"""


def test_the_text_is_the_golden_one():
    """The file's first lines, and one histogram by hand: two requests, steps of one second.

    They come at 0.25 s and 0.5 s; the first is computed at once and has its first token after
    1 s. When the second comes, the step after that is planned, and it has its own after 2.75 s.
    """
    two = {
        "workload.requests": 2,
        "workload.arrivals": {"kind": "constant", "rate": 4},
        "step_time": {"kind": "constant", "seconds": 1},
    }
    text = prometheus_text(simulate(load_scenario("peer-w", two)))
    assert text.startswith(GOLDEN)
    labels = 'model_name="llama3.1-8b",engine="0"'
    lines = text.splitlines()
    start = lines.index("# TYPE vllm:time_to_first_token_seconds histogram")
    assert lines[start + 11 : start + 15] == [
        f'vllm:time_to_first_token_seconds_bucket{{{labels},le="0.75"}} 0.0',
        f'vllm:time_to_first_token_seconds_bucket{{{labels},le="1.0"}} 1.0',
        f'vllm:time_to_first_token_seconds_bucket{{{labels},le="2.5"}} 1.0',
        f'vllm:time_to_first_token_seconds_bucket{{{labels},le="5.0"}} 2.0',
    ]
    assert f"vllm:time_to_first_token_seconds_sum{{{labels}}} 3.75" in lines
    assert text.endswith("\n")
