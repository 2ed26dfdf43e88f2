"""Kinds of attention: one class each, asked everywhere, and no question left open."""

from collections import Counter
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.engines import ENGINE_NAMES, get_engine
from kvsim.engines.base import Deployment
from kvsim.engines.llama_cpp.cells import Build, CellLayout, Plane
from kvsim.engines.sglang.pools import pool_layout
from kvsim.engines.vllm.loading import loaded_weight_bytes
from kvsim.engines.vllm.overheads import lora_bytes, profiled_step
from kvsim.engines.vllm.pages import PageSpec, layer_pages
from kvsim.memory.footprint import all_full_bytes, bytes_per_token, fixed_bytes, sequence_bytes
from kvsim.memory.rank import Rank
from kvsim.memory.retention import SelectiveHeads, Window, retention_bytes
from kvsim.memory.tensors import tensor_families
from kvsim.planning.formula import explain
from kvsim.specs import attention
from kvsim.specs.attention import (
    Attention,
    BlockSparseAttention,
    ChunkedAttention,
    CompressedLatentAttention,
    CrossAttention,
    Entry,
    FullAttention,
    HeadAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
    SourcedLatentAttention,
)
from kvsim.specs.checked import FieldError, PositiveInt, read
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec
from kvsim.specs.precision import KV_FORMATS, kv_format
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.steptime.rank_work import RankWork
from tests.support.engine_parts import card, model_of

BF16 = kv_format("bf16")


class DilatedAttention(HeadAttention):
    """A window with gaps: a query sees itself and every second token of the last `reach`.

    Source: Beltagy, Peters, Cohan, "Longformer", arXiv 2004.05150, section 3.1, dilation 2. The
    next query sees the tokens between, so that all of them are kept.
    """

    kind: Literal["dilated"] = "dilated"
    reach: PositiveInt

    @property
    def caption(self):
        return f"{self.label}, every second of {self.reach:,}"

    def seen(self, context):
        return (min(context, self.reach) + 1) // 2

    def entries(self, fmt, tp=1):
        return (Entry("kv", self.pair_bytes(fmt, tp), "window", self.reach),)

    def read_bytes(self, fmt, context, tp=1):
        return self.seen(context) * self.pair_bytes(fmt, tp)

    @property
    def read_bend(self):
        return self.reach

    def pairs(self, start, count):
        return float(sum(self.seen(start + query) for query in range(1, count + 1)))

    def decode_flops(self, context):
        return self.pair_flops * self.seen(context)


HEADS = {"heads": 8, "kv_heads": 2, "key_dim": 64, "value_dim": 64}
FULL = FullAttention(**HEADS)
DILATED = DilatedAttention(**HEADS, reach=1000)
PAIR_BYTES = 2 * (64 + 64) * 2  # KV heads * (key + value) * bf16
LENGTH = 8192


def mixed(windowed):
    """Two full layers and four of another kind."""
    return model_of((2, FULL), (4, windowed), hidden=512, context=LENGTH)


MODEL, TWIN = mixed(DILATED), mixed(FULL)


# --- a sixth kind is one class ---


def test_a_new_kind_has_a_footprint():
    assert bytes_per_token(MODEL, BF16) == 6 * PAIR_BYTES
    assert sequence_bytes(MODEL, BF16, 5000) == (2 * 5000 + 4 * 1000) * PAIR_BYTES
    assert all_full_bytes(MODEL, BF16, 5000, Rank(tp=2)) == 6 * 5000 * PAIR_BYTES // 2
    assert fixed_bytes(MODEL) == 0


def test_a_new_kind_has_a_retention():
    assert retention_bytes(MODEL, BF16, 5000, SelectiveHeads(0.5)) == 14000 * PAIR_BYTES // 2
    assert retention_bytes(MODEL, BF16, 5000, Window(300)) == 6 * 300 * PAIR_BYTES


def parameters(model):
    """Parameters by family and sharding, all layer groups."""
    totals = Counter()
    for family in tensor_families(model):
        totals[family.name, family.sharding, family.units] += family.parameters
    return totals


def test_a_new_kind_weighs_what_its_projections_weigh():
    assert parameters(MODEL) == parameters(TWIN)
    assert loaded_weight_bytes(MODEL, Rank(tp=2)) == loaded_weight_bytes(TWIN, Rank(tp=2))


def test_a_new_kind_has_a_step_time():
    curve = KVReadCurve.from_model(MODEL, BF16)
    assert curve.breakpoints == (1000,)
    assert curve.bytes_at(1000) == pytest.approx((2 * 1000 + 4 * 500) * PAIR_BYTES, rel=1e-4)
    assert curve.bytes_at(5000) == (2 * 5000 + 4 * 500) * PAIR_BYTES
    assert RankWork.from_model(MODEL, Rank(tp=2)) == RankWork.from_model(TWIN, Rank(tp=2))
    assert DILATED.decode_flops(5000) == 2 * 8 * (64 + 64) * 500


def test_a_new_kind_has_its_pairs():
    # Full: 1 + 2 + 3 + 4. Dilated: 1 + 1 + 2 + 2. Two layers of the one, four of the other.
    assert prefill_pairs(MODEL, 0, 4) == pytest.approx((2 * 10 + 4 * 6) / 6)


def test_a_new_kind_has_its_words():
    (_, kind) = explain(MODEL, BF16, context=5000).kinds
    assert kind.kind == "GQA, every second of 1,000"
    assert kind.formula == (
        "4 layers x 2 KV heads x (64 + 64) x 2 bytes = 2,048 bytes per token, 1,000 tokens at most"
    )
    assert (kind.context_bytes, kind.all_full_bytes) == (2048 * 1000, 2048 * 5000)


def deployment(name, **options):
    engine = get_engine(name)
    return engine, engine.resolve(Deployment(MODEL, card(), EngineOptions(**options)))


def test_vllm_pages_a_new_kind():
    engine, resolved = deployment("vllm", enable_lora=True)
    pages = {page.layer: page.spec for page in layer_pages(resolved, engine.rules)}
    assert pages[0] == PageSpec("full", 16, 16 * PAIR_BYTES)
    assert pages[5] == PageSpec("window", 16, 16 * PAIR_BYTES, 1000)
    twin = Deployment(TWIN, card(), resolved.options)
    assert lora_bytes(resolved) == lora_bytes(twin) > 0
    rank = engine.rank(resolved)
    steps = [profiled_step(each, rank, engine.rules) for each in (resolved, twin)]
    assert steps[0] == steps[1]


def test_sglang_has_a_window_pool_for_a_new_kind():
    layout = pool_layout(MODEL, BF16, Rank())
    assert (layout.full_bytes, layout.window_bytes) == (2 * PAIR_BYTES, 4 * PAIR_BYTES)
    assert (layout.window, layout.full_layers, layout.window_layers) == (1000, 2, 4)


def held_bytes(engine, resolved, tokens):
    return engine.capacity(resolved, 1 << 30).pools.sequence_bytes(tokens)


def test_tensorrt_llm_has_a_window_pool_for_a_new_kind():
    engine, resolved = deployment("tensorrt-llm")
    blocks_of_32 = 2 * 5024 + 4 * 1024
    assert held_bytes(engine, resolved, 5000) == blocks_of_32 * PAIR_BYTES


def test_llama_cpp_has_a_window_plane_for_a_new_kind():
    rules = {"slots": 1, "ubatch": 512, "unified": True, "flash_attention": True}
    layout = CellLayout(MODEL, Rank(), Build(), (BF16, BF16), swa_full=False, **rules)
    vector_bytes = PAIR_BYTES // 2
    assert layout.planes() == (
        Plane(2, 2 * vector_bytes, 2 * vector_bytes),
        Plane(4, 4 * vector_bytes, 4 * vector_bytes, 1000),
    )


def test_transformers_keeps_the_window_of_a_new_kind():
    engine, resolved = deployment("transformers")
    assert held_bytes(engine, resolved, 5000) == (2 * 5000 + 4 * 1000) * PAIR_BYTES


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_new_kind_is_planned(engine):
    plan, twin = (kvsim.plan(model, card(), engine=engine).to_dict() for model in (MODEL, TWIN))
    assert [kind["layers"] for kind in plan["kv_kinds"]] == [2, 4]
    assert plan["capacity_tokens"]["steady"] > 1.1 * twin["capacity_tokens"]["steady"]


# --- kinds are found by their words ---

SOURCED = {
    "heads": 64,
    "head_dim": 512,
    "rope_dim": 64,
    "window": 128,
    "top_k": 512,
    "index_dim": 128,
    "index_heads": 32,
    "q_lora_rank": 1280,
    "output_lora_rank": 1024,
    "output_groups": 8,
}
KINDS = (
    FULL,
    DILATED,
    SlidingAttention(**HEADS, window=100),
    ChunkedAttention(**HEADS, chunk=100),
    CrossAttention(**HEADS, encoder_tokens=1500),
    BlockSparseAttention(**HEADS, index_heads=2, index_dim=32, block=16, top_blocks=4),
    LatentAttention(heads=16, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128),
    LatentAttention(
        heads=16,
        kv_lora_rank=512,
        rope_dim=64,
        nope_dim=128,
        value_dim=128,
        indexer_dim=128,
        indexer_heads=64,
        indexer_top_k=2048,
    ),
    LatentAttention(
        heads=16,
        kv_lora_rank=512,
        rope_dim=64,
        nope_dim=128,
        value_dim=128,
        indexer_top_k=2048,
    ),
    CompressedLatentAttention(
        heads=64, head_dim=512, rope_dim=64, window=128, ratio=4, indexer_dim=128
    ),
    LatentAttention(
        heads=16,
        kv_lora_rank=512,
        rope_dim=0,
        nope_dim=256,
        value_dim=256,
        indexer_dim=128,
        indexer_heads=32,
        indexer_top_k=2048,
        index_fold=4,
    ),
    SourcedLatentAttention(**SOURCED, ratio=0),
    SourcedLatentAttention(**SOURCED, ratio=2),
    SourcedLatentAttention(**SOURCED, ratio=2, is_source=True, picks=True),
    RecurrentState(flavour="mamba2", conv_elements=96, recurrent_elements=640, parameters=9),
)
each_kind = pytest.mark.parametrize("cache", KINDS, ids=lambda cache: cache.label)


@each_kind
def test_a_kind_is_read_back_from_its_words(cache):
    group = LayerGroup(name="g", layers=(0,), caches=(cache,), mlp=DenseMlp(intermediate_size=8))
    model = ModelSpec(
        name="m",
        hidden_size=8,
        vocab_size=8,
        max_position_embeddings=8,
        layer_groups=(group,),
    )
    assert read(LayerGroup, group.model_dump(mode="json", exclude={"mlp"})).caches == (cache,)
    assert model.layer_groups[0].caches == (cache,)


def test_an_unknown_kind_is_refused_and_none_is_guessed():
    with pytest.raises(FieldError, match=r"caches\.0\.kind = 'spiral': should be 'full' or "):
        LayerGroup(name="g", layers=(0,), caches=[{"kind": "spiral"}])
    with pytest.raises(FieldError, match=r"the key 'caches\.0\.kind' is missing"):
        LayerGroup(name="g", layers=(0,), caches=[HEADS])


# --- laws of all kinds ---


@each_kind
@given(
    context=st.integers(1, 10_000),
    tp=st.sampled_from([1, 2, 4]),
    fmt=st.sampled_from(list(KV_FORMATS.values())),
)
def test_what_is_held_is_between_the_fixed_part_and_all_full(cache, context, tp, fmt):
    held = cache.held_bytes(fmt, context, tp)
    assert cache.fixed_bytes(tp) <= held <= cache.held_bytes(fmt, context + 1, tp)
    if cache.fold_tokens == 1:
        assert held <= cache.all_full_bytes(fmt, context, tp)
        assert held == cache.states(context) * cache.state_bytes(fmt, tp) + cache.fixed_bytes(tp)


@each_kind
@given(start=st.integers(0, 5000), count=st.integers(1, 500), rest=st.integers(1, 500))
def test_pairs_of_parts_add_up(cache, start, count, rest):
    parts = cache.pairs(start, count) + cache.pairs(start + count, rest)
    assert parts == pytest.approx(cache.pairs(start, count + rest))


# --- no question is left open ---


def test_a_forgotten_answer_is_an_error_as_the_class_is_made():
    with pytest.raises(TypeError, match=r"^Unseen leaves unanswered: pairs, read_bend$"):

        class Unseen(HeadAttention):
            kind: Literal["unseen"] = "unseen"

            def entries(self, fmt, tp=1):
                return ()


def test_a_kind_from_scratch_is_told_every_question():
    with pytest.raises(TypeError) as error:
        type("Blank", (Attention,), {"kind": "blank"})
    asked = str(error.value).removeprefix("Blank leaves unanswered: ").split(", ")
    assert asked == sorted(Attention.__abstractmethods__)
    listed = {line.split("``")[1] for line in attention.__doc__.splitlines() if line[:2] == "``"}
    assert listed == set(asked)
