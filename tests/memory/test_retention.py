"""Retention policies: what is kept, in tokens and bytes, checked by hand and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.memory.footprint import sequence_bytes
from kvsim.memory.rank import Rank
from kvsim.memory.retention import (
    COMMON_POLICIES,
    Budget,
    Full,
    SelectiveHeads,
    SelectiveLayers,
    SinkWindow,
    Window,
    parse_retention,
    retention_bytes,
    retention_table,
)
from kvsim.specs.attention import CrossAttention, FullAttention, LatentAttention, RecurrentState
from kvsim.specs.attention import SlidingAttention as Sliding
from kvsim.specs.model import LayerGroup, ModelSpec
from kvsim.specs.precision import kv_format

BF16 = kv_format("bf16")
HEADS = {"heads": 32, "key_dim": 128, "value_dim": 128}
LLAMA3_8B = FullAttention(kv_heads=8, **HEADS)  # 8 * 256 * 2 = 4,096 bytes per token per layer


def model(*caches, layers=32):
    groups = tuple(
        LayerGroup(name=str(n), layers=tuple(range(n * layers, (n + 1) * layers)), caches=(cache,))
        for n, cache in enumerate(caches)
    )
    return ModelSpec(
        name="test",
        hidden_size=4096,
        vocab_size=128256,
        max_position_embeddings=131072,
        layer_groups=groups,
    )


LLAMA = model(LLAMA3_8B)


@pytest.mark.parametrize(
    ("policy", "kept_bytes"),
    [
        # Llama-3-8B at 8,192 tokens: 8,192 * 131,072 bytes = 1 GiB.
        (Full(), 8192 * 131072),
        (Window(4096), 4096 * 131072),
        (SinkWindow(4, 2044), 2048 * 131072),  # StreamingLLM's 4 sinks
        (Budget(1024), 1024 * 131072),
        (SelectiveHeads(0.5), 8192 * 131072 // 2),
        (SelectiveLayers(0.25), 8192 * 131072 // 4),
        (SelectiveHeads(0.3), 8192 * 131072 * 3 // 8),  # 2.4 of 8 heads: 3 are kept
        (SelectiveLayers(0.1), 8192 * 4 * 4096),  # 3.2 of 32 layers: 4 are kept
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_llama3_8b_by_hand(policy, kept_bytes):
    assert retention_bytes(LLAMA, BF16, 8192, policy) == kept_bytes


def test_a_short_context_is_kept_whole():
    for policy in (Window(4096), SinkWindow(4, 2044), Budget(1024)):
        assert policy.kept_tokens(1000) == 1000


def test_a_layers_own_window_and_the_policys_the_smaller_counts():
    gemma_like = model(Sliding(kv_heads=8, window=1024, **HEADS), LLAMA3_8B, layers=1)

    assert retention_bytes(gemma_like, BF16, 8192, Full()) == (1024 + 8192) * 4096
    assert retention_bytes(gemma_like, BF16, 8192, Window(4096)) == (1024 + 4096) * 4096
    assert retention_bytes(gemma_like, BF16, 8192, Window(512)) == (512 + 512) * 4096


def test_what_does_not_grow_is_left_alone():
    state = RecurrentState(
        flavour="gated_delta_net", conv_elements=30720, recurrent_elements=786432, parameters=0
    )
    cross = CrossAttention(kv_heads=8, encoder_tokens=1500, **HEADS)
    fixed = model(state, cross, layers=2)
    bytes_kept = 2 * 3_207_168 + 2 * 1500 * 4096

    for policy in COMMON_POLICIES:
        assert retention_bytes(fixed, BF16, 8192, policy) == bytes_kept


def test_a_latent_is_shared_by_all_heads_so_none_of_it_goes():
    deepseek = model(
        LatentAttention(heads=128, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128),
        layers=61,
    )
    assert retention_bytes(deepseek, BF16, 100, SelectiveHeads(0.25)) == 100 * 70_272
    assert retention_bytes(deepseek, BF16, 100, Budget(10)) == 10 * 70_272


def test_selective_heads_round_up_on_each_rank():
    # tp=4 leaves 2 of the 8 heads per rank; 0.3 of 2 is one head of 512 bytes per token per layer.
    assert retention_bytes(LLAMA, BF16, 10, SelectiveHeads(0.3), Rank(tp=4)) == 10 * 32 * 512


def test_a_decimal_fraction_is_taken_at_its_word():
    # 0.55 * 20 is 11.000000000000002 in binary.
    assert SelectiveLayers(0.55).kept_layers(20) == 11


@given(
    context=st.integers(0, 200_000),
    policy=st.sampled_from(COMMON_POLICIES),
    tp=st.sampled_from([1, 2, 8, 16]),
)
def test_no_policy_keeps_more_than_full_and_full_is_the_footprint(context, policy, tp):
    full_bytes = retention_bytes(LLAMA, BF16, context, Full(), Rank(tp=tp))

    assert full_bytes == sequence_bytes(LLAMA, BF16, context, Rank(tp=tp))
    assert retention_bytes(LLAMA, BF16, context, policy, Rank(tp=tp)) <= full_bytes
    longer = retention_bytes(LLAMA, BF16, context + 1, policy, Rank(tp=tp))
    assert longer >= retention_bytes(LLAMA, BF16, context, policy, Rank(tp=tp))


def test_the_table_has_one_row_a_policy_with_its_price():
    rows = retention_table(LLAMA, BF16, 8192)

    assert [row.policy for row in rows] == [policy.name for policy in COMMON_POLICIES]
    assert rows[0][:4] == ("full", 8192, 2**30, 1.0)
    window = rows[1]
    assert window[:4] == ("window:4096", 4096, 2**29, 0.5)
    assert "lost" in window.price


@pytest.mark.parametrize("policy", [*COMMON_POLICIES, SelectiveHeads(1.0), SelectiveLayers(0.0625)])
def test_a_name_reads_back(policy):
    assert parse_retention(policy.name) == policy


@pytest.mark.parametrize(
    "text",
    ["", "windows:4096", "window", "window:", "window:-1", "window:0", "window:nan", "window:1e3",
     "sinks:4", "sinks:0+8", "sinks:4+0", "budget:0", "heads:0", "heads:1.5", "heads:nan",
     "layers:-0.5", "full:1", "window:4096 budget:1", "window:" + "9" * 50],
)  # fmt: skip
def test_a_policy_that_cannot_be(text):
    with pytest.raises(InputError) as error:
        parse_retention(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_an_impossible_fraction(fraction):
    for policy in (SelectiveHeads, SelectiveLayers):
        with pytest.raises(InputError, match="choose from 0 to 1"):
            policy(fraction)


# --- at the edges -----------------------------------------------------------------------------


def test_the_policies_that_a_plan_lists():
    """H2O's and SnapKV's budgets are of the order of 1,024 tokens; StreamingLLM keeps four sinks
    in a cache of 2,048."""
    assert [policy.name for policy in COMMON_POLICIES] == [
        "full",
        "window:4096",
        "sinks:4+2044",
        "budget:1024",
        "heads:0.5",
        "layers:0.5",
    ]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (" full ", Full()),
        ("window:1", Window(1)),
        ("sinks:1+1", SinkWindow(1, 1)),
        ("sinks:4+2044", SinkWindow(4, 2044)),
        ("budget:1", Budget(1)),
        ("heads:1", SelectiveHeads(1.0)),
        ("layers:.25", SelectiveLayers(0.25)),
    ],
)
def test_a_policy_as_a_person_writes_it(text, policy):
    assert parse_retention(text) == policy


@pytest.mark.parametrize("text", ["budget:4+8", "window:4+8", "heads:4+8", "sinks:8"])
def test_an_amount_of_another_policy(text):
    with pytest.raises(InputError, match="is not a retention policy"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Window(8), (7, 8, 8)),
        (SinkWindow(3, 5), (7, 8, 8)),
        (Budget(8), (7, 8, 8)),
        (Full(), (7, 8, 9)),
    ],
)
def test_tokens_kept_around_the_limit(policy, kept):
    assert tuple(policy.kept_tokens(context) for context in (7, 8, 9)) == kept


def test_fixed_states_are_beside_what_the_policy_keeps():
    """A layer's own growing cache under a policy of layers: 1 of 4 layers caches 10 tokens."""
    assert SelectiveLayers(0.25).kept_bytes(LLAMA3_8B, BF16, 10, layers=4) == 10 * 4096
    assert Full().kept_bytes(LLAMA3_8B, BF16, 10) == 10 * 4096
    assert Full().kept_layers(7) == 7
    assert Full().kept_state_bytes(LLAMA3_8B, BF16) == 4096
    assert Full().kept_state_bytes(LLAMA3_8B, BF16, tp=4) == 1024


def test_shares_are_rounded_up_in_decimal():
    """0.07 * 100 is 7.000000000000001 in binary; a real excess is kept."""
    assert SelectiveLayers(0.07).kept_layers(100) == 7
    assert SelectiveLayers(0.0701).kept_layers(100) == 8


def test_a_table_of_a_model_without_a_cache_keeps_everything():
    bare = LayerGroup(name="bare", layers=(0,))
    rows = retention_table(
        LLAMA.model_copy(update={"layer_groups": (bare,)}), BF16, 100, (Full(), Window(8))
    )
    assert [(row.kept_bytes, row.fraction) for row in rows] == [(0, 1.0), (0, 1.0)]


def test_a_table_for_one_rank_and_the_policies_asked_for():
    (row,) = retention_table(LLAMA, BF16, 1000, (Budget(250),), Rank(tp=4))
    assert row[:4] == ("budget:250", 250, 250 * 32 * 1024, 0.25)
    assert row.price == "tokens with low scores are lost, other ones in each head"


def test_one_rank_alone_keeps_its_share_of_all_heads():
    """Half of 8 heads of 512 bytes."""
    assert SelectiveHeads(0.5).kept_state_bytes(LLAMA3_8B, BF16) == 2048
