"""The lessons' numbers: known answers, sums done by hand, and laws of the pool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.memory.tensors import matmul_flops_per_token
from kvsim.studies import lessons
from kvsim.studies.lessons.allocation import POOL_SLOTS

stories = st.builds(
    lessons.tell, st.sampled_from(lessons.POLICIES), st.sampled_from([1, 2, 4, 8, 16])
)


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind", "bytes_per_token"),
    [
        # Kwon et al. 2023, section 3: OPT-13B keeps 800 KB a token (40 layers, 5,120 wide).
        (lessons.HeadShape(layers=40, heads=40, head_dim=128), "MHA", 819_200),
        # Llama-3.1-8B's config.json: 32 layers, 8 KV heads of 128.
        (lessons.HeadShape(), "GQA", 131_072),
        # DeepSeek-V2, table 1: MLA keeps (512 + 64) elements per layer; 60 layers, 2 bytes.
        (lessons.HeadShape(layers=60, heads=128, kv_heads=128), "MLA", 69_120),
        # Falcon-7B's config.json: one KV head of 64, 32 layers.
        (lessons.HeadShape(heads=71, head_dim=64, kv_heads=1), "MQA", 8_192),
    ],
)
def test_known_models(shape, kind, bytes_per_token):
    (found,) = [each for each in lessons.keepings(shape, "fp16", 1000) if each.kind == kind]
    assert found.bytes_per_token == bytes_per_token
    assert found.sequence_bytes == 1000 * bytes_per_token


@given(st.sampled_from([8, 16, 32]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 10_000))
def test_heads_only_share(heads, kv_heads, context):
    shape = lessons.HeadShape(heads=heads, kv_heads=kv_heads)
    mha, gqa, mqa, _ = lessons.keepings(shape, "bf16", context)
    assert mha.sequence_bytes * kv_heads == gqa.sequence_bytes * heads
    assert mqa.sequence_bytes * heads == mha.sequence_bytes
    assert mha.share == 1


def test_uneven_heads_are_refused():
    with pytest.raises(kvsim.InputError, match="cannot share 3 KV heads"):
        lessons.keepings(lessons.HeadShape(heads=32, kv_heads=3), "fp16", 1)


# --- recomputation -------------------------------------------------------------------------------


def test_the_work_of_a_tiny_request_by_hand():
    model = kvsim.find_model("llama2-7b")
    gemm = matmul_flops_per_token(model)
    # One token meets c keys: 2 FLOPs x 32 heads x (128 + 128) elements x 32 layers x c.
    meet = 2 * 32 * (128 + 128) * 32
    first, second = lessons.decode_work(model, 2, 2)
    assert first.cached_flops == first.recomputed_flops == 2 * gemm + (1 + 2) * meet
    assert second.cached_flops == gemm + 3 * meet
    assert second.recomputed_flops == 3 * gemm + (1 + 2 + 3) * meet
    assert (second.cached_rows, second.recomputed_rows) == (1, 3)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_cache_computes_every_token_once(prompt, output):
    work = lessons.decode_work(kvsim.find_model("llama3.2-1b"), prompt, output)
    assert sum(each.cached_rows for each in work) == prompt + output - 1
    # All the steps of a cached request are one prefill of everything but the last token.
    assert sum(each.cached_flops for each in work) == pytest.approx(work[-1].recomputed_flops)


@given(st.integers(1, 12))
def test_the_triangle(tokens):
    cached = [pair for row in lessons.attention_pairs(tokens, cached=True) for pair in row]
    again = [pair for row in lessons.attention_pairs(tokens, cached=False) for pair in row]
    assert cached.count("computed now") == 1
    assert cached.count("read from the cache") == tokens - 1
    assert again.count("computed now") == tokens * (tokens + 1) // 2
    assert cached.count("future") == again.count("future") == tokens * (tokens - 1) // 2


def test_a_request_without_tokens_is_refused():
    with pytest.raises(kvsim.InputError):
        lessons.decode_work(kvsim.find_model("llama2-7b"), 0, 5)


# --- the pool ------------------------------------------------------------------------------------


@given(stories)
def test_slots_are_conserved_and_tables_tell_where_they_are(story):
    for moment in story.moments:
        uses = [moment.count(use) for use in ("token", "to come", "never", "free")]
        assert sum(uses) == POOL_SLOTS
        for name, place in moment.tables.items():
            held = [at for at, slot in enumerate(moment.slots) if slot.owner == name]
            assert held == sorted(_addresses(story, place))


def _addresses(story, place):
    if story.policy != "paged":
        base, limit = place
        return range(base, base + limit)
    size = story.block_size
    return [at for block in place for at in range(block * size, (block + 1) * size)]


@given(stories)
def test_every_request_comes_and_leaves(story):
    events = " ".join(event for moment in story.moments for event in moment.events)
    for name in "ABCDE":
        assert events.count(f"{name} is finished and leaves") == 1
    assert story.moments[0].count("free") == story.moments[-1].count("free") == POOL_SLOTS
    assert [moment.step for moment in story.moments] == list(range(len(story.moments)))


@given(st.sampled_from([1, 2, 4, 8, 16]))
def test_paging_holds_less_than_a_block_too_many_a_request(block_size):
    for moment in lessons.tell("paged", block_size).moments:
        empty = moment.count("to come") + moment.count("never")
        assert empty <= len(moment.tables) * (block_size - 1)


def test_reservations_take_longer_in_the_order_of_what_they_reserve():
    steps = {policy: len(lessons.tell(policy).moments) for policy in lessons.POLICIES}
    assert steps["paged"] <= steps["reserve-oracle"] <= steps["reserve-pow2"]
    assert steps["reserve-pow2"] <= steps["reserve-max"]


def test_a_shortage_of_blocks_preempts_the_last_one_in():
    events = [event for moment in lessons.tell("paged", 16).moments for event in moment.events]
    preempted = [event for event in events if "preempted" in event]
    assert preempted
    assert preempted[0].startswith("There is no block for")


@pytest.mark.parametrize("block_size", [0, 3, -4, 128])
def test_blocks_must_fill_the_pool(block_size):
    with pytest.raises(kvsim.InputError, match="do not fill 64 slots"):
        lessons.tell("paged", block_size)


def test_an_unknown_policy_is_refused():
    with pytest.raises(kvsim.UnknownNameError, match="did you mean reserve-max"):
        lessons.tell("reserve-maximum")


# --- validity ------------------------------------------------------------------------------------


def test_only_a_causal_decoder_keeps_everything():
    kept = {
        kind: sum(row.count("kept") for row in lessons.kept_states(kind, 4, 8))
        for kind in lessons.KINDS
    }
    assert kept == {"causal decoder": 28, "sliding window": 8, "encoder": 7, "diffusion": 0}


def test_an_unknown_kind_is_refused():
    with pytest.raises(kvsim.UnknownNameError):
        lessons.kept_states("decoder", 2, 2)
