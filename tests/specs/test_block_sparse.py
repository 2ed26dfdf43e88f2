"""Block-sparse attention: all is kept, a few blocks are read, every index key is scored.

The shape is MiniMax-M3's (its config.json); the rules are those of vLLM 0.33,
vllm/models/minimax_m3/nvidia/model.py and common/indexer.py.
"""

import pytest

from kvsim.memory.rank import Rank
from kvsim.memory.retention import SelectiveHeads, retention_bytes
from kvsim.specs.attention import BlockSparseAttention, FullAttention
from kvsim.specs.precision import kv_format
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.steptime.rank_work import RankWork
from tests.support.engine_parts import model_of

BF16, FP8 = kv_format("bf16"), kv_format("fp8_e4m3")
SHAPE = {"heads": 64, "kv_heads": 4, "key_dim": 128, "value_dim": 128}
CACHE = BlockSparseAttention(**SHAPE, index_heads=4, index_dim=128, block=128, top_blocks=16)
FULL = FullAttention(**SHAPE)
INDEX_BYTES = 128 * 2  # one bf16 key of 128 elements (MiniMaxM3IndexerCache)
MODEL = model_of((57, CACHE), hidden=6144)


@pytest.mark.parametrize(
    ("fmt", "tp", "pair_bytes"),
    [
        (BF16, 1, 4 * 256 * 2),
        (BF16, 2, 2 * 256 * 2),
        (BF16, 4, 256 * 2),
        (BF16, 8, 256 * 2),  # a copy of each KV head on two ranks
        (FP8, 1, 4 * 256),
        (FP8, 8, 256),
    ],
)
def test_a_token_keeps_k_v_and_one_index_key(fmt, tp, pair_bytes):
    """The index key is whole on every rank, and bf16 whatever K and V are."""
    assert CACHE.state_bytes(fmt, tp) == pair_bytes + INDEX_BYTES
    assert CACHE.held_bytes(fmt, 100_000, tp) == 100_000 * (pair_bytes + INDEX_BYTES)


@pytest.mark.parametrize(("context", "read"), [(1, 1), (2048, 2048), (2049, 2048), (10**6, 2048)])
def test_a_step_reads_sixteen_blocks_of_128_tokens_and_every_index_key(context, read):
    assert CACHE.read_bytes(BF16, context) == read * 2048 + context * INDEX_BYTES
    curve = KVReadCurve.from_model(MODEL, BF16)
    assert curve.breakpoints == (2048,)
    assert curve.bytes_at(context) == 57 * (read * 2048 + context * INDEX_BYTES)


def test_decoding_scores_all_and_attends_to_what_is_picked():
    """64 heads of 128 + 128 for each of 2,048 tokens, 4 index heads of 128 for each of 10,000."""
    assert CACHE.decode_flops(10_000) == 2 * 64 * 256 * 2048 + 2 * 4 * 128 * 10_000
    assert CACHE.decode_flops(100) == (2 * 64 * 256 + 2 * 4 * 128) * 100


@pytest.mark.parametrize("start", [0, 50_000])
def test_prefill_scores_causal_pairs_and_attends_to_what_is_picked(start):
    """Query by query: what it sees of 2,048 tokens, and a score for every token before it."""
    seen = [start + query for query in range(1, 3001)]
    attended = sum(min(tokens, 2048) for tokens in seen) * 2 * 64 * 256
    scored = sum(seen) * 2 * 4 * 128
    flops = prefill_pairs(MODEL, start, 3000) * RankWork.from_model(MODEL).pair_flops
    assert flops == pytest.approx(57 * (attended + scored))


def test_index_queries_are_split_like_kv_heads_and_the_index_key_is_not():
    """Elements of MiniMax-M3's projections: q and o, k + v, index_q, index_k."""
    parts = [(part.parameters, part.sharding, part.units) for part in CACHE.weights(6144)]
    assert sorted(parts, reverse=True) == [
        (50_331_648, "tp", 1),
        (50_331_648, "tp", 1),
        (6_291_456, "kv", 4),
        (3_145_728, "kv", 4),
        (786_432, "replicated", 1),
    ]


@pytest.mark.parametrize(("tp", "heads"), [(1, 64 + 4 + 4 + 4), (2, 32 + 2 + 2 + 2), (8, 8 + 3)])
def test_one_matrix_holds_q_k_v_and_the_index(tp, heads):
    """MinimaxM3QKVParallelLinearWithIndexer: [q | k | v | index_q | index_k] on each rank."""
    qkv, output = CACHE.fused_tensors(6144, tp)
    assert qkv == 6144 * 128 * (heads + 1)
    assert output == FULL.fused_tensors(6144, tp)[1]


def test_recomputed_heads_leave_the_index_key():
    """Half of the KV heads: 1,024 of 2,048 bytes, and the 256 that all heads share."""
    kept = retention_bytes(MODEL, BF16, 1000, SelectiveHeads(0.5))
    assert kept == 57 * 1000 * (1024 + INDEX_BYTES)
    half = retention_bytes(MODEL, BF16, 1000, SelectiveHeads(0.5), Rank(tp=4))
    assert half == 57 * 1000 * (512 + INDEX_BYTES)  # one head a rank: none can go


def test_its_words():
    assert CACHE.caption == "block-sparse GQA, reads 16 blocks of 128"
    formula = CACHE.formula(BF16, 4)
    assert formula.factors == (
        "(1 KV head per rank x (128 + 128) x 2 bytes + 256 for the index key)"
    )
    assert (formula.total_bytes, formula.unit) == (768, "per token")


def test_it_has_the_width_of_full_attention_and_of_its_index():
    """5 more vectors of 128 a token; no adapter is known to apply."""
    assert CACHE.activation_width == FULL.activation_width + 5 * 128
    assert CACHE.linear_ends(6144) == 0
