"""Prefix caches and the tiers below the GPU's: hand-traced cases, laws, published traces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim import CacheTier, PrefixTrace
from kvsim.studies.cache.policies import hit_ratio

REQUESTS = st.lists(
    st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True), min_size=1, max_size=40
)


def trace_of(requests):
    return PrefixTrace("made", 1, tuple(map(tuple, requests)))


# --- reading -----------------------------------------------------------------------------------


def mooncake(tmp_path, requests):
    lines = [
        {
            "timestamp": 1000 * at,
            "input_length": 512 * len(ids),
            "output_length": 1,
            "hash_ids": ids,
        }
        for at, ids in enumerate(requests)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_trace_is_read_in_its_order(tmp_path):
    trace = kvsim.read_prefixes(mooncake(tmp_path, [[0, 1], [0, 2, 3], [0, 1]]))
    assert [list(ids) for ids in trace.requests] == [[0, 1], [0, 2, 3], [0, 1]]
    assert (trace.references, trace.distinct_blocks, trace.block_tokens) == (7, 4, 512)
    assert not trace.is_cut


def test_a_cut_keeps_whole_requests_and_says_so(tmp_path):
    path = mooncake(tmp_path, [[0, 1], [0, 2, 3], [0, 1]])
    for most, kept, is_cut in ((7, 3, False), (6, 2, True), (5, 2, True), (4, 1, True)):
        trace = kvsim.read_prefixes(path, most_references=most)
        assert (len(trace.requests), trace.is_cut) == (kept, is_cut)


def test_a_trace_without_prefix_ids_is_refused_with_a_fix(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    with pytest.raises(kvsim.InputError, match="no request names its prefix blocks") as error:
        kvsim.read_prefixes(path)
    assert "hash_ids" in str(error.value)


@pytest.mark.parametrize("name", kvsim.example_prefix_names())
def test_an_example_shares_prefixes_and_is_the_same_for_a_seed(name):
    trace, again = (kvsim.example_prefixes(name, seed=3) for _ in range(2))
    assert [list(ids) for ids in trace.requests] == [list(ids) for ids in again.requests]
    assert trace.distinct_blocks < trace.references / 2
    other = kvsim.example_prefixes(name, seed=4)
    assert [len(ids) for ids in other.requests] != [len(ids) for ids in trace.requests]


def test_an_unknown_example_is_refused():
    with pytest.raises(kvsim.UnknownNameError, match="conversations"):
        kvsim.example_prefixes("conversation")


def test_published_hit_ratios_come_out_of_the_same_file(kvsim_data):
    """The reference values of the traces' own README, at 10,000 blocks."""
    trace = kvsim.read_prefixes(kvsim_data / "traces" / "mooncake_fast25_conversation.jsonl")
    assert next(kvsim.hit_ratio_curve(trace, "belady", [10_000])) == pytest.approx(0.3664, abs=5e-5)


# --- sizes and tiers -----------------------------------------------------------------------------


@given(requests=REQUESTS, count=st.integers(1, 20))
def test_sizes_rise_to_a_cache_that_never_evicts(requests, count):
    trace = trace_of(requests)
    sizes = kvsim.cache_sizes(trace, count)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] >= 1
    assert count == 1 or sizes[-1] == trace.distinct_blocks
    assert hit_ratio(trace.requests, trace.distinct_blocks, "lru") == hit_ratio(
        trace.requests, None, "lru"
    )


def test_tiers_of_a_hand_traced_cache():
    """LRU, one token a block: a b | c | a b. Two blocks: c evicts a, a evicts b, so no hit.

    Three blocks hold everything: two hits of five references.
    """
    trace = trace_of([[1, 2], [3], [1, 2]])
    gpu, cpu = kvsim.tier_gains(trace, [CacheTier("GPU", 20), CacheTier("CPU", 10)], 10)
    assert (gpu.total_blocks, gpu.gained) == (2, 0.0)
    assert (cpu.total_blocks, cpu.gained, cpu.hit_ratio) == (3, 0.4, 0.4)
    assert cpu.gained_tokens_per_request == pytest.approx(2 / 3)


@given(
    requests=REQUESTS,
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    policy=st.sampled_from(["lru", "belady"]),
)
def test_gains_add_up_and_no_tier_of_a_stack_policy_loses(requests, sizes, policy):
    """LRU and Belady are stack algorithms: a larger cache holds what a smaller one does.

    Mattson et al., IBM Systems Journal 9 (1970).
    """
    trace = trace_of(requests)
    tiers = [CacheTier(str(at), size) for at, size in enumerate(sizes)]
    gains = kvsim.tier_gains(trace, tiers, 1, policy)
    assert all(gain.gained >= 0 for gain in gains)
    assert sum(gain.gained for gain in gains) == pytest.approx(gains[-1].hit_ratio)
    whole = sum(sizes)
    assert gains[-1].hit_ratio == (hit_ratio(trace.requests, whole, policy) if whole else 0)


def test_a_token_of_no_bytes_is_refused():
    with pytest.raises(kvsim.InputError, match="keeps nothing"):
        kvsim.tier_gains(trace_of([[1]]), [CacheTier("GPU", 1)], 0)


# --- what a hit costs ----------------------------------------------------------------------------


def cost(tokens=4096, link=25e9, gpu="h100", **flags):
    (found,) = kvsim.hit_costs("llama3.1-8b", gpu, [tokens], {"CPU": link}, **flags)
    return found


def test_fetching_takes_the_bytes_over_the_link():
    """Llama-3.1-8B in bf16: 32 layers * 8 heads * (128 + 128) * 2 bytes = 131,072 per token."""
    found = cost()
    assert found.kv_bytes == 4096 * 131_072
    assert found.fetch_seconds["CPU"] == pytest.approx(4096 * 131_072 / 25e9)
    assert cost(kv_cache_dtype="fp8").kv_bytes == found.kv_bytes / 2


def test_ranks_fetch_side_by_side():
    one, two = cost(), cost(tensor_parallel_size=2)
    assert two.kv_bytes == one.kv_bytes
    assert two.fetch_seconds["CPU"] == pytest.approx(one.fetch_seconds["CPU"] / 2)


def test_computing_again_grows_faster_than_fetching_and_with_a_slower_card():
    short, long = cost(1024), cost(65_536)
    assert long.fetch_seconds["CPU"] / short.fetch_seconds["CPU"] == pytest.approx(64)
    assert long.recompute_seconds / short.recompute_seconds > 64
    assert cost(gpu="l4").recompute_seconds > cost().recompute_seconds


def test_a_link_without_speed_is_refused():
    with pytest.raises(kvsim.InputError, match="CPU has no speed"):
        cost(link=0)
