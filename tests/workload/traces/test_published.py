"""The numbers that the README of the reference traces publishes, recomputed.

Rows of its tables "Arrivals", "Lengths", "Prefix sharing" and "Reference hit ratios"; its
percentiles are truncated to whole tokens.
"""

import math

import numpy as np
import pytest

from kvsim.errors import InputError, UnknownNameError
from kvsim.studies.cache.policies import POLICIES, hit_ratio
from kvsim.workload import RequestTable, build_workload, parse_workload
from kvsim.workload.streams import Streams
from kvsim.workload.traces import open_trace
from kvsim.workload.traces.stats import servegen_stats, trace_stats

MOONCAKE = "traces/mooncake_fast25_conversation.jsonl"


@pytest.fixture(scope="module")
def stats(kvsim_data):
    known = {}

    def read(name):
        if name not in known:
            known[name] = trace_stats(kvsim_data / "traces" / name)
        return known[name]

    return read


@pytest.mark.parametrize(
    ("name", "requests", "span", "rate", "cv"),
    [
        ("azure_2023_conv.csv", 19_366, 3501.7, 5.530, 1.094),
        ("mooncake_fast25_conversation.jsonl", 12_031, 3537.0, 3.401, 3.03),
        ("sharegpt300_llama31_blk16.jsonl", 300, 29.1, 10.26, 0.94),
    ],
)
def test_arrivals(stats, name, requests, span, rate, cv):
    found = stats(name)
    assert found.requests == requests
    assert found.arrivals.span_seconds == pytest.approx(span, abs=0.05)
    assert found.arrivals.requests_per_second == pytest.approx(rate, rel=5e-4)
    assert found.arrivals.interarrival_cv == pytest.approx(cv, abs=0.005)


@pytest.mark.parametrize(
    ("name", "peak", "mean", "ratio", "minute", "second"),
    [
        ("azure_2023_conv.csv", 507, 333.3, 1.52, 16.1, 1.39),
        ("mooncake_fast25_conversation.jsonl", 247, 203.9, 1.21, 2.9, 7.9),
    ],
)
def test_counts_per_minute_and_per_second(stats, name, peak, mean, ratio, minute, second):
    found = stats(name).arrivals
    assert found.peak_per_minute == peak
    assert found.mean_per_minute == pytest.approx(mean, abs=0.05)
    assert found.peak_to_mean_per_minute == pytest.approx(ratio, abs=0.005)
    assert found.variance_to_mean_per_minute == pytest.approx(minute, abs=0.05)
    assert found.variance_to_mean_per_second == pytest.approx(second, abs=0.05)


def test_mooncake_ticks(stats):
    assert stats("mooncake_fast25_conversation.jsonl").arrivals.distinct_times == 1180


@pytest.mark.parametrize(
    ("name", "prompt", "output", "rank"),
    [
        (
            "azure_2023_conv.csv",
            (1154.7, 1020, 2734, 4142, 14_050),
            (211.1, 129, 424, 601, 1000),
            0.07,
        ),
        (
            "mooncake_fast25_conversation.jsonl",
            (12_035.1, 6909, 27_367, 85_400, 126_195),
            (342.6, 350, 597, 1118, 2000),
            0.07,
        ),
        pytest.param(
            "weka_agentic_71.jsonl.gz",
            (150_465, 121_679, 276_740, 540_160, 819_909),
            (443.3, 226, 921, 3446, 11_082),
            None,
            marks=pytest.mark.slow,
        ),
        (
            "sharegpt300_llama31_blk16.jsonl",
            (857.5, 731, 1460, 2765, 3998),
            (652.5, 632, 770, 784, 1021),
            0.19,
        ),
        (
            "lengths_sharegpt_8k_llama2.csv",
            (2340.0, 1730, 5696, 7433, 8141),
            (438.7, 415, 834, 998, 1024),
            0.05,
        ),
        (
            "lengths_arxiv_summarization_4k_llama2.csv",
            (2588.1, 2730, 3702, 3933, 4054),
            (291.4, 167, 372, 3271, 4056),
            -0.11,
        ),
        (
            "lengths_bwb_4k_llama2.csv",
            (1067.2, 1037, 1453, 1800, 3504),
            (1612.8, 1601, 2149, 2533, 2858),
            0.81,
        ),
    ],
)
def test_lengths(stats, name, prompt, output, rank):
    found = stats(name)
    for lengths, (mean, *percentiles) in (
        (found.prompt_tokens, prompt),
        (found.output_tokens, output),
    ):
        assert lengths.mean == pytest.approx(mean, abs=0.5 if mean > 1e5 else 0.05)
        shown = [
            math.floor(value) for value in (lengths.p50, lengths.p90, lengths.p99, lengths.max)
        ]
        assert shown == percentiles
    if rank is not None:
        assert found.spearman == pytest.approx(rank, abs=0.005)


def test_mooncake_sharing(stats):
    found = stats("mooncake_fast25_conversation.jsonl").sharing
    assert (found.references, found.distinct_blocks) == (288_500, 182_790)
    assert round(found.hit_ratio_blocks, 4) == 0.3664
    assert round(found.hit_ratio_full_blocks, 4) == 0.3819
    assert round(found.hit_ratio_tokens, 4) == 0.3736
    assert round(found.hit_ratio_request_mean, 4) == 0.3843
    assert round(found.hit_ratio_request_mean_tokens, 4) == 0.4094
    assert round(found.single_use_share, 3) == 0.758


def test_sharegpt300_sharing(stats):
    found = stats("sharegpt300_llama31_blk16.jsonl").sharing
    assert (found.references, found.distinct_blocks) == (15_942, 14_722)
    assert round(found.hit_ratio_blocks, 4) == round(found.hit_ratio_full_blocks, 4) == 0.0765
    assert round(found.hit_ratio_tokens, 4) == 0.0759
    assert round(found.single_use_share, 3) == 0.919


def test_weka_sharing_and_think_times(stats):
    found = stats("weka_agentic_71.jsonl.gz")
    assert (found.requests, found.sessions) == (5653, 71)
    assert found.sharing.references == 13_287_546
    assert round(found.sharing.hit_ratio_blocks, 4) == 0.9680
    assert round(found.sharing.hit_ratio_full_blocks, 4) == 0.9680
    assert round(found.sharing.hit_ratio_tokens, 4) == 0.9678
    assert found.report.malformed == 0
    think = found.think_seconds
    assert math.floor(think.mean) == 237
    assert math.floor(think.p50) == 10


@pytest.mark.slow
def test_servegen_clients(kvsim_data):
    found = servegen_stats(kvsim_data / "traces/servegen_deepseek_r1.tar.gz")
    assert (found.clients, found.gamma_windows, found.weibull_windows) == (73, 2589, 522)
    assert round(found.mean_rate, 2) == 16.01
    assert round(found.peak_rate, 1) == 42.5
    assert round(found.top_client_share, 3) == 0.286
    assert round(found.top_ten_share, 3) == 0.677
    assert found.mean_prompt_tokens == pytest.approx(1575.7, abs=0.05)
    assert found.mean_output_tokens == pytest.approx(2133.5, abs=0.05)


# Reference hit ratios for Mooncake conversation: (policy, capacity in blocks, ratio).
REFERENCE = [
    ("lru", None, 0.3664),
    ("lru", 100_000, 0.3637),
    ("lru", 50_000, 0.3546),
    ("lru", 30_000, 0.3257),
    ("lru", 10_000, 0.2112),
    ("lru", 5_859, 0.1355),
    ("lru", 1_000, 0.0445),
    ("lru", 100, 0.0404),
    ("lfu", None, 0.3664),
    ("lfu", 100_000, 0.3631),
    ("lfu", 50_000, 0.3438),
    ("lfu", 30_000, 0.2759),
    ("lfu", 10_000, 0.1318),
    ("lfu", 5_859, 0.0966),
    ("lfu", 1_000, 0.0481),
    ("lfu", 100, 0.0417),
    ("lfu-deepest-first", 100_000, 0.3345),
    ("lfu-deepest-first", 50_000, 0.2602),
    ("lfu-deepest-first", 10_000, 0.1123),
    ("lfu-deepest-first", 100, 0.0427),
    ("fifo", 50_000, 0.3400),
    ("fifo", 30_000, 0.3021),
    ("fifo", 10_000, 0.1865),
    ("fifo", 5_859, 0.1270),
    ("fifo", 1_000, 0.0435),
    ("belady", 10_000, 0.3664),
    ("belady", 5_859, 0.3531),
    ("belady", 1_000, 0.1906),
    ("lru-tail-first", 10_000, 0.2116),
    ("lru-tail-first", 5_859, 0.1361),
    ("lru-tail-first", 1_000, 0.0445),
    ("lru-tail-first", 100, 0.0418),
]


@pytest.fixture(scope="module")
def mooncake(kvsim_data):
    trace = open_trace(kvsim_data / MOONCAKE)
    rows = list(trace.rows(trace.reading()))
    full = [list(row.block_ids[: row.prompt_tokens // 512]) for row in rows]
    return [row.block_ids for row in rows], full


@pytest.mark.parametrize(("policy", "capacity", "ratio"), REFERENCE)
def test_hit_ratios(mooncake, policy, capacity, ratio):
    assert round(hit_ratio(mooncake[0], capacity, policy), 4) == ratio


@pytest.mark.parametrize(
    ("capacity", "ratio"),
    [(None, 0.3819), (97_656, 0.3795), (50_000, 0.3710), (30_000, 0.3447), (10_000, 0.2242),
     (5_859, 0.1467), (1_000, 0.0468)],
)  # fmt: skip
def test_hit_ratios_of_full_blocks(mooncake, capacity, ratio):
    assert round(hit_ratio(mooncake[1], capacity, "lru"), 4) == ratio


def test_a_replayed_table_names_the_same_full_blocks(kvsim_data, mooncake):
    described = parse_workload({"trace": {"file": MOONCAKE}})
    table = RequestTable.concat(build_workload(described, kvsim_data).tables(Streams(0), 999))
    ids = [
        table.content.block_ids(row, 512, int(table.prompt_tokens[row]))
        for row in range(len(table))
    ]
    assert ids == mooncake[1]


def test_jitter_takes_the_ticks_away(kvsim_data):
    """README: 3-s ticks are an artefact; spread over 3 s the trace is close to Poisson."""
    described = parse_workload({"trace": {"file": MOONCAKE, "jitter_seconds": 3}})
    table = RequestTable.concat(build_workload(described, kvsim_data).tables(Streams(0)))
    gaps = np.diff(table.arrival_seconds)
    assert 0.95 < gaps.std() / gaps.mean() < 1.15


@pytest.mark.slow
def test_weka_replays_whole(kvsim_data):
    described = parse_workload({"trace": {"file": "traces/weka_agentic_71.jsonl.gz"}})
    loop = build_workload(described, kvsim_data)
    pending = list(range(len(loop.start(Streams(0)))))
    asked = len(pending)
    while pending:
        row = pending.pop()
        following = loop.following(row, 1.0)
        more = [at for at in (following, *loop.branches(row, 1.0)) if at is not None]
        pending += range(asked, asked + len(more))
        asked += len(more)
    assert asked == 5653


# --- the policies themselves, by hand --------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "requests", "capacity", "hits"),
    [
        ("lru", "abacb", 2, 1),  # a b [a] c(evicts b) b
        ("fifo", "abaca", 2, 1),  # a b [a] c(evicts a: oldest in) a
        ("lfu", "aabcba", 2, 2),  # a [a] b c(evicts b) b(evicts c) [a]
        ("belady", "abcab", 2, 1),  # a b c(evicts b, needed last) [a] b
    ],
)
def test_policies_by_hand(policy, requests, capacity, hits):
    ids = [[ord(letter)] for letter in requests]
    ratio = hit_ratio(ids, capacity, policy)
    assert ratio * len(ids) == pytest.approx(hits)


def test_belady_is_never_beaten_and_all_agree_without_a_limit():
    generator = np.random.default_rng(5)
    ids = [generator.zipf(1.4, 6).clip(max=200).tolist() for _ in range(400)]
    for capacity in (3, 17, 60):
        best = hit_ratio(ids, capacity, "belady")
        online = [policy for policy in POLICIES if policy not in ("belady", "lru-tail-first")]
        assert all(hit_ratio(ids, capacity, policy) <= best for policy in online)
    assert len({hit_ratio(ids, None, policy) for policy in POLICIES}) == 1


def test_cache_misuse_is_named():
    with pytest.raises(UnknownNameError, match="did you mean"):
        hit_ratio([[1]], 1, "lruu")
    with pytest.raises(InputError, match="holds nothing"):
        hit_ratio([[1]], 0, "lru")
