"""Replays of real runs: what is read, what is simulated from it, and how near it comes."""

import csv
import json
from pathlib import Path

import bench_runs
import numpy as np
import pytest
import replay_accuracy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from replay_figure import SeriesPair, replay_figure

from kvsim.errors import InputError, UnsupportedError

FLAGS = {
    "model": "meta-llama/Llama-3.1-8B",
    "tensor_parallel_size": 1,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 512,
    "max_model_len": None,
    "dtype": "bfloat16",
    "kv_cache_dtype": "auto",
    "seed": 42,
}
SHORT = FLAGS | {"max_model_len": 2048}  # which 149 blocks of 16 hold
# id, prompt, output, then arrival, queued, scheduled, first and last token in seconds
REQUESTS = [
    ("bench-0", 900, 41, "0 days 00:00:00.000000000", 0.0, 0.0, 0.25, 2.25),
    ("bench-1", 300, 1, "0 days 00:00:00.500000000", 0.51, 0.625, 0.75, 0.75),
    ("bench-2", 100, 11, "0 days 00:00:01.250000000", 1.26, 1.5, 1.75, 2.75),
]
REQUEST_HEAD = (
    "request_id,input_toks,output_toks,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"
)
SERIES_HEAD = "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"
SERIES = [(1, 1200, 10, 1, 0, 40.0), (2, 100, 10, 2, 0, 44.0), (3, 0, 10, 0, 0, 0.0)]


def write_bench(folder, requests=REQUESTS, series=SERIES, flags=FLAGS, card="RTX4090"):
    """Write a recorded run as its recorder does; return the path of its meta.json."""
    stem = folder / f"bench_{card}_Llama-3.1-8B"
    meta = {"model": flags["model"], "vllm_version": "0.19.0", "engine_kwargs": flags}
    Path(f"{stem}_meta.json").write_text(json.dumps(meta))
    for name, head, rows in (
        ("requests", REQUEST_HEAD, requests),
        ("timeseries", SERIES_HEAD, series),
    ):
        with Path(f"{stem}_{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(head.split(","))
            writer.writerows(rows)
    return Path(f"{stem}_meta.json")


class TestReading:
    def test_latencies_count_from_the_clients_arrival(self, tmp_path):
        run = bench_runs.read_run(write_bench(tmp_path))
        found = run.latencies()
        assert found["ttft"].tolist() == [0.25, 0.25, 0.5]
        assert found["queue"].tolist() == [0.0, 0.125, 0.25]
        assert found["prefill"].tolist() == [0.25, 0.125, 0.25]
        assert found["e2el"].tolist() == [2.25, 0.25, 1.5]
        assert found["tpot"][[0, 2]].tolist() == [0.05, 0.1]
        assert np.isnan(found["tpot"][1])  # one token has no gap

    def test_the_engines_flags_become_the_scenarios(self, tmp_path):
        run = bench_runs.read_run(write_bench(tmp_path))
        scenario = bench_runs.scenario_of(run, tmp_path / "trace.jsonl")
        assert (scenario.model, scenario.accelerator) == ("meta-llama/Llama-3.1-8B", "RTX4090")
        assert (scenario.engine.name, scenario.engine.version) == ("vllm", "0.19.0")
        assert (scenario.engine.max_num_seqs, scenario.engine.max_num_batched_tokens) == (8, 512)
        assert scenario.engine.max_model_len is None
        assert scenario.engine.num_gpu_blocks_override is None  # left to the engine's rules

    def test_a_flag_nobody_mapped_is_refused(self, tmp_path):
        meta = write_bench(tmp_path, flags=FLAGS | {"enable_chunked_prefill": False})
        with pytest.raises(InputError, match="enable_chunked_prefill has no counterpart"):
            bench_runs.read_run(meta)

    @pytest.mark.parametrize(
        ("requests", "message"),
        [
            ([(*REQUESTS[0][:3], "yesterday", *REQUESTS[0][4:])], "'yesterday' is neither"),
            ([], "no rows, or no column input_toks"),
        ],
    )
    def test_a_broken_table_is_named(self, tmp_path, requests, message):
        meta = write_bench(tmp_path, requests=requests)
        with pytest.raises(InputError, match=message) as caught:
            bench_runs.read_run(meta)
        assert "requests.csv" in str(caught.value)

    def test_a_folder_without_runs_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"no bench_\*_meta.json"):
            bench_runs.bench_runs(tmp_path)

    def test_the_lag_of_the_series_is_found_from_its_prompt_tokens(self, tmp_path):
        # First tokens at 0.25, 0.75 and 1.75 s; the first two count in second 1 and the third
        # in second 2 for every lag from -0.25 (else it leads) up to 0.25 (else 0.75 spills).
        run = bench_runs.read_run(write_bench(tmp_path))
        assert bench_runs.series_lag_seconds(run) == pytest.approx(0.0, abs=0.01)
        late = [(t + 1, *rest) for t, *rest in SERIES]
        shifted = bench_runs.read_run(write_bench(tmp_path, series=late))
        assert bench_runs.series_lag_seconds(shifted) == pytest.approx(1.0, abs=0.01)


class TestPool:
    def test_the_runs_own_record_comes_before_what_is_read_off(self, tmp_path):
        held = np.arange(1, 2587, 13)
        series = [(t, 0, 0, 0, 0, f"{100 * h / 2587:.2f}") for t, h in enumerate(held, start=1)]
        meta = write_bench(tmp_path, series=series)
        assert bench_runs.own_pool(bench_runs.read_run(meta)) == (2588, "read")
        recorded = json.loads(meta.read_text()) | {"kv_cache": {"num_gpu_blocks": 2588}}
        meta.write_text(json.dumps(recorded))
        assert bench_runs.own_pool(bench_runs.read_run(meta)) == (2588, "recorded")

    def test_a_run_that_tells_no_pool_has_none(self, tmp_path):
        unrecorded = [(t, *rest[:-1], 0.0) for t, *rest in SERIES]
        meta = write_bench(tmp_path, series=unrecorded)
        assert bench_runs.own_pool(bench_runs.read_run(meta)) is None

    @pytest.mark.parametrize("blocks", [0, 1, "many"])
    def test_a_recorded_pool_that_is_none_is_refused(self, tmp_path, blocks):
        meta = write_bench(tmp_path)
        broken = json.loads(meta.read_text()) | {"kv_cache": {"num_gpu_blocks": blocks}}
        meta.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=f"num_gpu_blocks = {blocks!r} is no pool"):
            bench_runs.read_run(meta)

    def test_data_parallel_engines_are_left_out_by_name(self, tmp_path):
        run = bench_runs.read_run(write_bench(tmp_path, flags=FLAGS | {"data_parallel_size": 2}))
        with pytest.raises(UnsupportedError, match="2 data-parallel engines"):
            bench_runs.scenario_of(run, tmp_path / "trace.jsonl")

    @settings(max_examples=25)
    @given(st.integers(150, 3_000), st.integers(0, 2**32 - 1))
    def test_a_pool_is_read_off_its_printed_usage(self, blocks, seed):
        held = np.random.default_rng(seed).integers(1, blocks, size=200)
        assume(np.gcd.reduce([blocks, *held]) == 1)
        assert bench_runs.pool_blocks(np.round(100 * held / blocks, 2), most=3_000) == blocks

    def test_nothing_is_read_off_zeros_or_off_too_few_rows(self):
        assert bench_runs.pool_blocks(np.zeros(9)) is None
        assert bench_runs.pool_blocks(np.array([33.3, 12.1]), most=2_000) is None

    def test_usage_that_no_pool_explains(self):
        noise = np.round(100 * np.random.default_rng(0).random(200), 2)
        assert bench_runs.pool_blocks(noise, most=2_000) is None


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """Replay a run of kvsim itself, written down as vLLM's are."""
    folder = tmp_path_factory.mktemp("bench")
    given = [
        (f"bench-{at}", 400 + 37 * at, 60 + at, 0.29 * at, 0.29 * at, 0, 0, 0) for at in range(24)
    ]
    run = bench_runs.read_run(write_bench(folder, given, flags=SHORT))
    bench_runs.write_trace(run, None, folder / "trace.jsonl")
    scenario = bench_runs.scenario_of(run, folder / "trace.jsonl", num_blocks=300)
    result = replay_accuracy.engine_alone(scenario)
    return replay_accuracy.replay(written_down(folder, given, result), folder, num_blocks=300)


def written_down(folder, given, result):
    """Write a simulated run in the recorder's columns and read it."""
    moments = [result.columns[f"{at}_seconds"] for at in ("scheduled", "first_token", "finish")]
    requests = [(*row[:5], *times) for row, *times in zip(given, *moments, strict=True)]
    ends = np.arange(1, 1 + int(result.recording.end_seconds))
    steps = replay_accuracy.Steps.of(result)
    first, prompts = result.columns["first_token_seconds"], result.columns["prompt_tokens"]
    held, waiting = np.rint(steps.held_slots(ends) / 16), steps.waiting(ends)
    series = [
        (t, prompts[np.floor(first) + 1 == t].sum(), 0, 0, int(w), f"{100 * h / 299:.2f}")
        for t, h, w in zip(ends, held, waiting, strict=True)
    ]
    return bench_runs.read_run(write_bench(folder, requests, series, SHORT))


class TestRoundTrip:
    """The replay of what kvsim recorded agrees with it."""

    def test_latencies_agree(self, replayed):
        for latency in ("ttft", "tpot", "e2el", "queue"):
            assert replayed.error_percent(latency) == pytest.approx(0, abs=1e-9)
        assert replayed.measured["queue"].max() > 0.1  # it did queue, so this says something

    def test_usage_agrees(self, replayed):
        assert replayed.usage.name == "KV usage"
        assert max(replayed.usage.measured) > 50
        assert replayed.usage.mean_difference < 1.0

    def test_the_report_names_every_goal(self, replayed):
        text = "\n".join(replay_accuracy.lines(replayed))
        for goal in ("mean ttft", "mean tpot", "mean e2el"):
            assert f"{goal} within 5 % met" in text
        assert "KV usage within 3 points on average met" in text

    def test_both_pools_stand_side_by_side(self, replayed):
        small = replay_accuracy.replay(replayed.run, Path("nowhere"), 150, pool="read")
        head, own, tight = replay_accuracy.side_by_side([replayed, small])
        assert "TTFT" in head
        assert "299" in own  # less the null block
        assert own.endswith("all goals met")
        assert "149" in tight
        assert "missed: ttft" in tight

    def test_the_plot_is_one_page_with_the_rows(self, replayed, tmp_path):
        pytest.importorskip("plotly")
        page = replay_accuracy.write_plot(replayed, tmp_path / "plots").read_text("utf-8")
        assert "RTX4090 Llama-3.1-8B, vLLM 0.19.0" in page
        assert "waiting measured (requests)" in page
        assert "<script src=" not in page  # nothing from outside


def test_tokens_in_flight_grow_evenly_between_first_and_last_token():
    spans = np.array([1.0, 2.0]), np.array([3.0, 2.5])
    lengths = np.array([10.0, 100.0]), np.array([5.0, 2.0])
    found = replay_accuracy.tokens_in_flight(spans, lengths, np.array([0.5, 2.0, 2.25, 3.0]))
    assert found.tolist() == [0.0, 12.0 + 100.0, 12.5 + 100.5, 0.0]


def test_the_figure_holds_both_lines_of_every_pair():
    pytest.importorskip("plotly")
    pairs = [
        SeriesPair("KV usage", "%", [10.0, 20.0], [12.0, 19.0]),
        SeriesPair("waiting", "requests", [0.0, 5.0], [0.0, 9.0]),
    ]
    assert (pairs[0].mean_difference, pairs[0].largest_difference) == (1.5, 2.0)
    chart = replay_figure([1.0, 2.0], pairs, name="replay", title="a run")
    drawn = [(line.name, list(line.y), line.yaxis) for line in chart.figure.data]
    assert drawn == [
        ("measured", [10.0, 20.0], "y"),
        ("kvsim", [12.0, 19.0], "y"),
        ("measured", [0.0, 5.0], "y2"),
        ("kvsim", [0.0, 9.0], "y2"),
    ]
    assert chart.rows[1]["waiting simulated (requests)"] == 9.0
    assert "KV usage 1.5 % (at most 2.0)" in chart.alt
    tops = [chart.figure.layout[axis].domain[1] for axis in ("yaxis", "yaxis2")]
    assert tops == [1.0, 0.5]


# ---- the real runs ---------------------------------------------------------------------------

# Where a goal is missed, the bound that holds and why. By the rules the RTX 4090's pool comes
# out 9.5 % too large (2,832 blocks beside the null block; the run had 2,587), so requests wait
# less than they did and a larger batch makes each step longer. With the run's own pool all is
# within the goals: the error is in the non-KV memory of that start-up, not in time. Why, as far
# as it is known, is in docs/accuracy.md.
DOCUMENTED_MISSES = {
    ("RTX4090 Llama-3.1-8B", "rules"): {"ttft": 10.0, "e2el": 7.0, "usage": 8.0},
    ("RTXPRO6000 Llama-3.1-8B", "rules"): {"ttft": 12.0, "e2el": 7.0},  # no cost of a sequence
}


@pytest.fixture(scope="module")
def replays(kvsim_data):
    found = {(each.run.name, each.pool): each for each in replay_accuracy.replays(kvsim_data)}
    assert found
    return found


@pytest.mark.parametrize("latency", replay_accuracy.GOALS)
def test_mean_latencies_are_within_the_goals_or_a_documented_bound(replays, latency):
    for case, replayed in replays.items():
        bound = DOCUMENTED_MISSES.get(case, {}).get(latency, replay_accuracy.GOAL_PERCENT)
        assert abs(replayed.error_percent(latency)) <= bound, case


def test_kv_usage_over_time_is_within_the_goal_or_a_documented_bound(replays):
    for case, replayed in replays.items():
        bound = DOCUMENTED_MISSES.get(case, {}).get("usage", replay_accuracy.GOAL_POINTS)
        assert replayed.usage.mean_difference <= bound, case


def test_every_documented_miss_is_still_one(replays):
    """A goal that has come within reach leaves the list."""
    for case, bounds in DOCUMENTED_MISSES.items():
        replayed = replays[case]
        for name in bounds:
            if name == "usage":
                assert replayed.usage.mean_difference > replay_accuracy.GOAL_POINTS
            else:
                assert abs(replayed.error_percent(name)) > replay_accuracy.GOAL_PERCENT, name


def test_the_pool_is_what_separates_the_two_replays_of_the_4090(replays):
    rules = replays["RTX4090 Llama-3.1-8B", "rules"].result.setup.num_blocks
    given = replays["RTX4090 Llama-3.1-8B", "read"].result.setup.num_blocks
    assert given == 2587  # as its log shows: 2,588 less the null block
    assert 1.05 < rules / given < 1.12


def test_the_runs_used_the_sharegpt_requests(replays):
    assert all(replayed.shares_prefixes for replayed in replays.values())
    queries = replays["RTXPRO6000 Llama-3.1-8B", "rules"].result.summary["prefix_cache"]
    # Nobody was preempted: 300 prompts of 857.5 tokens on average, 0.0759 of them shared.
    assert queries["queries"] == 257_239
    assert queries["hits"] / queries["queries"] == pytest.approx(0.0759, abs=0.0005)
