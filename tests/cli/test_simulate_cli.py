"""``kvsim simulate`` and ``kvsim compare`` as a person types them."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

from kvsim import load_scenario, simulate

SHORT = ("--set", "workload.requests=150")

# Keys that scripts made for `vllm bench serve` read.
BENCH = {"completed", "failed", "duration", "request_throughput", "output_throughput"} | {
    f"{point}_{name}_ms" for point in ("mean", "p99") for name in ("ttft", "tpot", "itl", "e2el")
}
OWN = {
    "rejected", "kv_cache", "preemptions", "prefix_cache", "events", "saturated",
}  # fmt: skip


@pytest.fixture
def run(run_kvsim, monkeypatch):
    """Run kvsim on a terminal of 100 columns: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    return run_kvsim


# --- simulate ------------------------------------------------------------------------------


def terminal(monkeypatch):
    """Let stderr be a terminal of 120 columns, and return what is written there."""
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_the_table_answers_in_words(run):
    code, out, err = run("simulate", "peer-w", *SHORT)
    assert (code, err) == (0, "")
    for words in (
        "time to first token",
        "token states",
        "busy time bound by",
        "3,699 blocks of 16",  # 3,700 less the null block
    ):
        assert words in out
    assert "saturated" not in out


def test_json_has_the_keys_of_vllm_bench_serve_and_our_own(run):
    code, out, _ = run("simulate", "peer-w", *SHORT, "--format", "json")
    record = json.loads(out)
    assert code == 0
    assert set(record) >= BENCH | OWN | {"provenance"}
    assert set(record["kv_cache"]) == {"usage_mean", "usage_peak", "waste"}
    assert set(record["kv_cache"]["waste"]) >= {
        "token_states", "reserved", "internal", "external",
    }  # fmt: skip
    assert set(record["prefix_cache"]) == {"queries", "hits", "hit_rate"}


def test_the_command_line_and_python_agree(run):
    _, out, _ = run("simulate", "peer-w", *SHORT, "--seed", "4", "--format", "json")
    record = json.loads(out)
    alone = simulate(load_scenario("peer-w", {"workload.requests": 150}), seed=4)
    assert {key: record[key] for key in alone.summary} == json.loads(json.dumps(alone.summary))


def test_csv_is_one_key_and_value_a_line(run):
    _, out, _ = run("simulate", "peer-w", *SHORT, "--format", "csv")
    rows = dict(csv.reader(io.StringIO(out)))
    assert rows["completed"] == "150"
    assert float(rows["kv_cache.waste.free"]) > 0.5


def test_markdown_has_tables(run):
    _, out, _ = run("simulate", "peer-w", *SHORT, "--format", "markdown")
    assert "| time to first token | " in out


def test_flags_and_settings_reach_the_scenario(run):
    words = ("--model", "llama2-7b", "--gpu", "h200", "--tp", "2", "--max-num-seqs", "7",
             "--block-size", "32", "--num-gpu-blocks-override", "500",
             "--set", "scheduler.policy=vllm-v0", "--max-model-len", "4096")  # fmt: skip
    _, out, _ = run("simulate", "peer-w", *SHORT, *words, "--format", "json")
    found = json.loads(out)["provenance"]
    assert found["model"]["name"] == "llama2-7b"
    assert found["accelerator"]["name"].startswith("H200")
    assert found["engine"]["options"]["tensor_parallel_size"] == 2
    assert found["engine"]["options"]["max_num_seqs"] == 7
    assert (found["pool"]["block_size"], found["pool"]["num_blocks"]) == (32, 500)
    assert found["scenario"]["scheduler"]["policy"] == "vllm-v0"
    assert found["scenario"]["engine"]["max_model_len"] == 4096


def test_prefix_caching_is_an_allocator(run):
    _, out, _ = run("simulate", "peer-w", *SHORT, "--enable-prefix-caching", "--format", "json")
    assert json.loads(out)["provenance"]["scenario"]["memory"]["allocator"] == "prefix"


def test_a_setting_has_the_last_word(run):
    words = ("--max-num-seqs", "7", "--set", "engine.max_num_seqs=9")
    _, out, _ = run("simulate", "peer-w", *SHORT, *words, "--format", "json")
    assert json.loads(out)["provenance"]["engine"]["options"]["max_num_seqs"] == 9


def test_replications_give_intervals_around_the_mean(run):
    words = ("simulate", "peer-w", *SHORT, "--replications", "3")
    _, out, _ = run(*words, "--format", "json")
    record = json.loads(out)
    interval = record["intervals"]["mean_ttft_ms"]
    assert record["replications"] == 3
    assert interval["low"] < interval["mean"] < interval["high"]
    _, out, _ = run(*words)
    assert "95 % interval of the mean" in out
    assert f"{interval['low']:,.2f} to {interval['high']:,.2f}" in out
    assert "means of 3 runs, seeds 0 to 2" in out
    (line,) = [line for line in out.splitlines() if "time to first token" in line]
    assert line.split()[4] == f"{interval['mean']:,.2f}"
    assert record["mean_ttft_ms"] != interval["mean"], "the JSON's own fields are the first run's"


def test_one_replica_of_several_is_named(run):
    words = ("--dp", "4")
    _, out, _ = run("simulate", "peer-w", *SHORT, *words)
    assert "one of 4 replicas is simulated" in " ".join(out.split())
    _, out, _ = run("compare", "peer-w", *SHORT, "--vary", "engine.data_parallel_size=1,2")
    assert "one of 2 replicas is simulated" in " ".join(out.split())


def test_a_saturated_run_prints_no_mean(run):
    overload = ("--set", "workload.requests=2000", "--set", "workload.arrivals.rate=200")
    code, out, _ = run("simulate", "peer-w", *overload)
    assert code == 0
    rows = {line.strip()[:14]: line for line in out.splitlines()}
    for label in ("time to first ", "end to end    ", "queue         "):
        row = next(line for start, line in rows.items() if start.startswith(label.strip()))
        assert "saturated" in row
        assert not re.search(r"\d", row)
    assert re.search(r"time per output token +\d", out)
    _, out, _ = run("simulate", "peer-w", *overload, "--format", "json")
    record = json.loads(out)
    assert record["saturated"]
    for name in ("ttft", "e2el", "queue"):
        assert {record[f"{point}_{name}_ms"] for point in ("mean", "median", "p99")} == {None}
    assert record["mean_tpot_ms"] > 0
    _, out, _ = run("simulate", "peer-w", *overload, "--format", "csv")
    assert "mean_ttft_ms,\n" in out


def test_rejected_requests_are_said(run):
    prompts = "workload.lengths.prompt={kind: lognormal, mean: 20000, cv: 0.1}"  # of 8,192 at most
    code, out, _ = run("simulate", "peer-w", *SHORT, "--set", prompts)
    assert code == 0
    assert "150 requests rejected at arrival" in out
    assert "no request was completed" in out


def test_a_flag_of_what_is_varied_is_refused(run):
    vary = ("compare", "peer-w", "--vary", "max_num_seqs=4,8")
    for words in (("--max-num-seqs", "3"), ("--set", "engine.max_num_seqs=3")):
        code, out, err = run(*vary, *words)
        assert (code, out) == (2, "")
        assert (
            err == f"kvsim: {' '.join(words)}: --vary max_num_seqs takes its place; leave it out\n"
        )


def test_files_of_a_run_carry_its_cautions(run, tmp_path):
    words = ("--set", "workload.requests=20", "--replications", "2", "--output-dir", str(tmp_path))
    _, out, err = run("simulate", "peer-w", *words, "--format", "json")
    assert (
        json.loads((tmp_path / "summary.json").read_text())["warnings"]
        == json.loads(out)["warnings"]
    )
    assert f"(tables of seed 0 alone) to {tmp_path}" in err


def test_a_trace_takes_the_place_of_the_workload(run, tmp_path):
    trace = tmp_path / "azure.csv"
    rows = "".join(f"2023-11-16 18:15:{at:02d}.0000000,100,{at + 1}\n" for at in range(20))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows + "broken\n")
    code, out, err = run("simulate", "peer-w", "--trace", str(trace), "--format", "json")
    record = json.loads(out)
    assert code == 0
    assert record["completed"] == 20
    assert record["total_output_tokens"] == sum(range(1, 21))
    assert "line 22" in err
    scaled = ("--set", "workload.trace.time_scale=2")
    _, out, _ = run("simulate", "peer-w", "--trace", str(trace), *scaled, "--format", "json")
    assert json.loads(out)["duration"] > 1.9 * record["duration"] - 2


def test_rows_that_a_trace_loses_are_told_with_their_lines(run, tmp_path):
    trace = tmp_path / "t.csv"
    rows = ["0,100,20", "1,nan,20", "2,90,0", "3,80,20"]
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows))
    notes = [
        "1 row dropped: no output token",
        "1 malformed row",
        "  line 3: num_prefill_tokens 'nan' is not a whole number",
    ]
    told = "".join(f"peer-w: {note}\n" for note in notes)
    _, out, err = run("simulate", "peer-w", "--trace", str(trace), "--format", "json")
    assert (json.loads(out)["completed"], err) == (2, told)
    assert json.loads(out)["provenance"]["notes"] == notes
    vary = ("--vary", "memory.allocator=paged,grow")
    assert run("compare", "peer-w", "--trace", str(trace), *vary)[2] == told


def test_the_output_folder_is_written_and_named(run, tmp_path):
    code, _, err = run("simulate", "peer-w", *SHORT, "--output-dir", str(tmp_path / "out"))
    assert code == 0
    assert "summary.json" in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["completed"] == 150


def test_without_pyarrow_one_line_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = run("simulate", "peer-w", *SHORT, "--output-dir", str(tmp_path))
    assert code == 2
    assert not out, "it is said before the run, not after it"
    assert err.count("\n") == 1
    assert "kvsim[export]" in err


# --- interrupted ---------------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch):
    """Press Ctrl-C when the progress bar is first told of progress."""

    def press(*_):
        raise KeyboardInterrupt

    @contextmanager
    def progress(scenario):
        yield press

    monkeypatch.setattr("kvsim.cli.simulate.progress", progress)
    monkeypatch.setattr("kvsim.cli.compare.progress", progress)


def test_ctrl_c_prints_and_writes_what_was_finished(run, interrupted, tmp_path):
    code, out, err = run("simulate", "peer-w", "--output-dir", str(tmp_path), "--replications", "2")
    assert code == 130
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["interrupted"]
    assert 0 < record["completed"] < 10_000
    assert f"interrupted: run 1 ended with {record['completed']:,} requests finished" in err
    assert "these are the requests that were finished" in out


def test_ctrl_c_in_a_comparison_shows_the_variants_that_ran(run, interrupted):
    code, out, err = run("compare", "peer-w", "--vary", "engine.max_num_seqs=8,256")
    assert code == 130
    assert "interrupted in variant 1 of 2 (8): run 1 ended with" in err
    assert "mean TTFT, ms" in out
    assert "8 (interrupted)" in out


def test_a_bar_shows_on_a_terminal_only(monkeypatch):
    from kvsim.cli.scenario_options import progress

    scenario = load_scenario("peer-w")
    with progress(scenario) as watch:
        assert watch is None
    shown = terminal(monkeypatch)
    with progress(scenario) as watch:
        watch(1234.0, 5000, 0.25)
    assert "5,000 requests done, 1,234 s simulated" in shown.getvalue()
    assert "pool 25%" in shown.getvalue()


# --- compare -------------------------------------------------------------------------------


def test_variants_on_a_card_that_nobody_measured_say_so(run):
    words = ("compare", "peer-w", *SHORT, "--gpu", "l4", "--model", "qwen2.5-0.5b")
    vary = ("--vary", "engine.max_num_seqs=4,64")
    _, out, _ = run(*words, *vary)
    assert "assumed: medians of" in " ".join(out.split())
    assert out.count("L4 has no measurement") == 1  # said once for both
    _, out, _ = run(*words, *vary, "--format", "json")
    assert all(v["step_times"].startswith("assumed") for v in json.loads(out)["variants"])


def test_variants_stand_side_by_side_with_differences(run):
    vary = ("--vary", "memory.allocator=reserve-oracle,paged", "--replications", "2")
    code, out, err = run("compare", "peer-w", *SHORT, *vary)
    assert (code, err) == (0, "")
    assert "reserve-oracle" in out
    assert "Difference from reserve-oracle (mean of 2 paired runs, ± 95 % interval)" in out
    _, out, _ = run("compare", "peer-w", *SHORT, *vary, "--format", "json")
    first, second = json.loads(out)["variants"]
    assert first["difference"]["mean_ttft_ms"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    change = second["difference"]["kv_cache.waste.reserved"]["mean"]
    assert change == pytest.approx(
        second["intervals"]["kv_cache.waste.reserved"]["mean"]
        - first["intervals"]["kv_cache.waste.reserved"]["mean"]
    )


def test_a_saturated_variant_has_no_difference_of_means(run):
    overload = ("--set", "workload.requests=2000", "--vary", "workload.arrivals.rate=2,200")
    _, out, _ = run("compare", "peer-w", *overload)
    rows = [line.split() for line in out.splitlines() if line.strip().startswith("mean TTFT, ms")]
    assert rows[0][-1] == "saturated"
    assert rows[1][-1] == "saturated"
    assert rows[0][-2] != "saturated"


def test_pools_of_unequal_size_are_told_apart(run):
    """A block of another size makes another pool of as many blocks: 3,699 beside the null one."""
    vary = ("--vary", "memory.block_size=16,64")
    _, out, _ = run("compare", "peer-w", *SHORT, *vary)
    assert re.search(r"pool, tokens +59,184 +236,736", out)
    _, out, _ = run("compare", "peer-w", *SHORT, *vary, "--format", "json")
    assert [entry["pool_slots"] for entry in json.loads(out)["variants"]] == [3699 * 16, 3699 * 64]
    _, out, _ = run("compare", "peer-w", *SHORT, "--vary", "memory.allocator=paged,grow")
    assert "pool, tokens" not in out


def test_several_keys_are_all_combined(run):
    vary = ("--vary", "engine.max_num_seqs=8,16", "--vary", "scheduler.policy=orca,vllm-v1")
    _, out, _ = run("compare", "peer-w", *SHORT, *vary, "--format", "json")
    assert [tuple(v["overrides"].values()) for v in json.loads(out)["variants"]] == [
        (8, "orca"), (8, "vllm-v1"), (16, "orca"), (16, "vllm-v1"),
    ]  # fmt: skip


def test_brackets_keep_commas_together(run):
    vary = ("--vary", "workload.arrivals={kind: poisson, rate: 1},{kind: constant, rate: 1}")
    code, out, _ = run("compare", "peer-w", *SHORT, *vary, "--format", "json")
    assert code == 0
    assert len(json.loads(out)["variants"]) == 2


# --- bad input -----------------------------------------------------------------------------


def test_help_of_a_simulation_loads_nothing_heavy():
    code = (
        "import sys; from kvsim.cli.simulate import command; "
        "print(sorted({'numpy', 'pandas', 'simpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


# --- what is idle, and what else to know ----------------------------------------------------


def test_a_key_that_changes_nothing_is_named_on_stderr_in_every_format(run):
    given = (*SHORT, "--kv-cache-memory-bytes", "100MiB", "--set", "memory.eviction=fifo")
    said = [
        "peer-w: --kv-cache-memory-bytes 104857600 changes nothing:"
        " num_gpu_blocks_override decides in its place",
        "peer-w: --set memory.eviction=fifo changes nothing:"
        " the allocator paged evicts no prefixes",
    ]
    for output_format in ("table", "json"):
        code, out, err = run("simulate", "peer-w", *given, "--format", output_format)
        assert code == 0
        assert err.splitlines() == said
    warnings = json.loads(out)["warnings"]
    assert [f"peer-w: {line}" for line in warnings[-2:]] == said


def test_json_has_every_caution_of_the_table(run):
    """Four replicas, a pool that is not the plan's, past saturation, and requests too long."""
    keys = (
        "workload.requests=3000",
        "workload.arrivals.rate=200",
        "workload.lengths.output={kind: uniform, low: 8, high: 9000}",
    )
    given = ("peer-w", "--dp", "4", *(word for key in keys for word in ("--set", key)))
    _, table, _ = run("simulate", *given)
    _, answer, _ = run("simulate", *given, "--format", "json")
    cautions = table.partition("Caution\n")[2].partition("\n\n")[0]
    shown = [" ".join(item.split()) for item in cautions.split("- ")[1:]]
    told = [" ".join(item.split()) for item in json.loads(answer)["warnings"]]
    assert len(shown) == 4
    assert shown == told


# --- sections that only some runs have -----------------------------------------------------


def test_swapping_says_from_which_length_it_pays(run):
    """One number, on the run's own table and under a comparison of both ways to preempt."""
    swap = ("--set", "scheduler.preemption=swap")
    _, out, _ = run("simulate", "peer-w", *SHORT, *swap, "--format", "json")
    tokens = json.loads(out)["swap_break_even_tokens"]
    _, out, _ = run("simulate", "peer-w", *SHORT, *swap)
    assert re.search(rf"swapping pays from, tokens +{tokens:,}$", out, re.MULTILINE)
    vary = ("--vary", "scheduler.preemption=recompute,swap")
    _, out, _ = run("compare", "peer-w", *SHORT, *vary)
    said = " ".join(out.partition("Swap or recompute")[2].split())
    assert said.startswith(
        "moving a victim's cache out and back costs no more than recomputing it from"
        f" {tokens:,} tokens on"
    )


def test_pools_that_an_engine_keeps_apart_are_each_named(run):
    keys = ("engine=sglang", "model=gemma3-1b", "memory.block_size=16", "workload.requests=20")
    code, out, err = run("simulate", "peer-w", *(word for key in keys for word in ("--set", key)))
    assert (code, err) == (0, "")
    pool = " ".join(re.search(r"pool: (.*?)\)", out, re.DOTALL)[1].split())
    assert pool == ("full 3,700 blocks of 16; window 2,960 blocks of 16 (sglang logs 59,200 tokens")


def test_a_run_in_which_nothing_was_completed_says_so(run):
    lengths = ("--set", "workload.lengths.prompt={kind: uniform, low: 8000, high: 900000}")
    code, out, _ = run("simulate", "peer-w", "--set", "workload.requests=5", *lengths)
    assert code == 0
    assert "- no request was completed" in out


def test_the_head_names_release_policy_and_parameters(run):
    words = ["peer-w", "--set", "workload.requests=20", "--set", "scheduler.policy.watermark=0.05"]
    _, head, _ = run("simulate", *words)
    assert "on H100-SXM5-80GB, vllm 0." in head
    assert "scheduler: vllm-v1, watermark=0.05, asynchronous, as vLLM's V1 scheduler" in head


def test_a_comparison_names_the_variants_in_which_a_key_is_idle(run):
    prefix = "workload.prefix={kind: groups, groups: 2, tokens: 64}"
    words = ["peer-w", "--set", "workload.requests=20", "--set", prefix]
    *_, said = run("compare", *words, "--vary", "memory.allocator=paged,prefix")
    assert "peer-w: paged: --set workload.prefix=" in said.replace("\n", " ")


def test_bars_of_counts_show_on_a_terminal_only(monkeypatch):
    from kvsim.cli.cache_curve import _progress as replays
    from kvsim.cli.fleet_options import settling

    with settling() as told:
        assert told is None
    shown = terminal(monkeypatch)
    with settling() as told:
        told("searched", 2, 8, None)
    with replays() as watch:
        watch(3, 40)
    assert "2 of 8 points searched" in shown.getvalue()
    assert "3/40" in shown.getvalue()
