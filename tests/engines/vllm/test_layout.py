"""vLLM's blocks, groups and concurrency against its logs and against worked arithmetic."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.groups import PageGroup, pack_groups
from kvsim.engines.vllm.layout import Layout, layout_of
from kvsim.engines.vllm.pages import LayerPage, PageSpec, Reserve
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.attention import (
    ChunkedAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec
from kvsim.units import GIB

SIXTEEN_BIT = "bfloat16"


@cache
def card(name="H100-SXM5-80GB", gib=79.19):
    return AcceleratorProfile(
        name=name,
        vendor="NVIDIA",
        advertised_memory_gb=gib,
        memory={"value": int(gib * GIB), "source": "test"},
        bandwidth={"value": 1e12, "source": "test"},
        flops={"bf16": {"value": 1e14, "source": "test"}},
        interconnect={"name": "none", "bytes_per_s": 0},
    )


def model_of(*groups, context=262144):
    """A model of ``(layer indices, cache or caches)`` groups."""
    mlp = DenseMlp(intermediate_size=1024)
    layer_groups = tuple(
        LayerGroup(
            name=f"{number}",
            layers=tuple(layers),
            caches=cached if isinstance(cached, tuple) else (cached,),
            mlp=mlp,
        )
        for number, (layers, cached) in enumerate(groups)
    )
    return ModelSpec(
        name="model",
        hidden_size=1024,
        vocab_size=32000,
        max_position_embeddings=context,
        layer_groups=layer_groups,
    )


def full(heads=8, dim=128, kind=FullAttention, query=64, **more):
    return kind(heads=query, kv_heads=heads, key_dim=dim, value_dim=dim, **more)


def window(size, heads=8, dim=128, **more):
    return full(heads, dim, SlidingAttention, window=size, **more)


def gdn(conv, recurrent, element_bytes=4):
    """A state of fp32, as Qwen3.5's configs name it; None leaves that to the engine."""
    return RecurrentState(
        flavour="gated_delta_net",
        conv_elements=conv,
        recurrent_elements=recurrent,
        recurrent_element_bytes=element_bytes,
        parameters=0,
    )


GPT_OSS_20B = model_of((range(0, 24, 2), window(128, dim=64)), (range(1, 24, 2), full(dim=64)))
GEMMA_3_27B = model_of(
    ([i for i in range(62) if i % 6 == 5], full(heads=16, query=32)),
    ([i for i in range(62) if i % 6 != 5], window(1024, heads=16, query=32)),
)
GEMMA_3_12B = model_of(
    ([i for i in range(48) if i % 6 == 5], full(dim=256, query=16)),
    ([i for i in range(48) if i % 6 != 5], window(1024, dim=256, query=16)),
)
# 48 gated delta nets, 16 full layers of 4 KV heads of 256: state 3,207,168 bytes.
QWEN_3_5_27B = model_of(
    ([i for i in range(64) if i % 4 != 3], gdn(30720, 786432)),
    ([i for i in range(64) if i % 4 == 3], full(heads=4, dim=256, query=24)),
)
LATENT = {"kv_lora_rank": 512, "rope_dim": 64, "nope_dim": 128, "value_dim": 128}
DEEPSEEK_V3 = model_of((range(61), LatentAttention(heads=128, **LATENT)))


def resolved(model, version="", accelerator=None, **options):
    engine = get_engine("vllm", version)
    question = Deployment(model, accelerator or card(), EngineOptions(**options))
    return engine, engine.resolve(question)


def request_gib(model, length, in_flight):
    """GiB that admission charges one request, with `in_flight` tokens unsettled."""
    engine, deployment = resolved(
        model,
        "0.19.0",
        max_model_len=length,
        max_num_batched_tokens=in_flight,
        max_num_seqs=1,
        dtype=SIXTEEN_BIT,
    )
    layout = layout_of(deployment, engine.rules)
    return layout.admission_blocks(length) * layout.bytes_per_block() / GIB


@pytest.mark.parametrize(
    ("model", "length", "in_flight", "expected"),
    [
        # vLLM 0.33's own formulas, worked by hand (kvsim's reference notes, section 1)
        (GPT_OSS_20B, 8192, 2048, 0.238),
        (GPT_OSS_20B, 8192, 8192, 0.375),
        (GPT_OSS_20B, 8192, 16384, 0.375),
        (GPT_OSS_20B, 131072, 2048, 3.05),
        (GPT_OSS_20B, 131072, 8192, 3.19),
        (GPT_OSS_20B, 131072, 16384, 3.38),
        (GEMMA_3_27B, 131072, 2048, 11.4),
        (GEMMA_3_27B, 131072, 16384, 18.0),
    ],
)
def test_a_request_is_charged_for_the_tokens_in_flight(model, length, in_flight, expected):
    digits = len(str(expected).partition(".")[2])
    assert round(request_gib(model, length, in_flight), digits) == expected


@pytest.mark.parametrize(
    ("model", "steady", "all_full"), [(GPT_OSS_20B, 3.0, 6.0), (GEMMA_3_27B, 10.4, 62.0)]
)
def test_the_other_two_regimes_at_131072(model, steady, all_full):
    engine, deployment = resolved(model, max_model_len=131072)
    # Blocks and padding layers add to the pure 10.406 GiB: 4 % of a window's share.
    held = engine.capacity(deployment, 40 * GIB).pools.sequence_bytes(131072)
    assert held / GIB == pytest.approx(steady, abs=0.12)
    whole = layout_of(deployment, engine.rules, all_full=True)
    assert whole.admission_blocks(131072) * whole.bytes_per_block() / GIB == all_full


def test_batches_in_flight_double_under_asynchronous_scheduling():
    def blocks(**options):
        engine, deployment = resolved(
            GPT_OSS_20B, max_model_len=131072, max_num_batched_tokens=2048, **options
        )
        return layout_of(deployment, engine.rules).admission_blocks(131072)

    # ceil((127 + in flight) / 16) + 1 window blocks beside 8,192 full ones
    assert blocks(async_scheduling=False) == 8192 + 137
    assert blocks() == 8192 + 265


def test_gemma_3_27b_is_packed_into_seven_groups_of_ten():
    engine, deployment = resolved(GEMMA_3_27B, "0.19.0", max_model_len=8192)
    groups = engine.capacity(deployment, 20 * GIB).groups
    assert [group.layers for group in groups] == [10] * 7
    padding = sum(group.padding_layers for group in groups)
    # The log: "Add 8 padding layers, may waste at most 15.38% KV cache memory"
    assert padding == 8
    assert round(100 * padding / 52, 2) == 15.38


@pytest.mark.parametrize(
    ("model", "options", "kv_gib", "tokens", "concurrency"),
    [
        # vLLM 0.19.0 on H100: llm-d-incubation/llm-d-planner#205
        (GEMMA_3_12B, {"max_model_len": 8192}, 47.72, 130304, 15.88),
        (GEMMA_3_27B, {"max_model_len": 8192}, 19.53, 36560, 4.46),
        (
            GPT_OSS_20B,
            {"max_model_len": 8192, "tensor_parallel_size": 2},
            59.3213,
            2591776,
            316.07,
        ),
    ],
)
def test_hybrid_logs_of_release_0_19(model, options, kv_gib, tokens, concurrency):
    engine, deployment = resolved(model, "0.19.0", **options)
    capacity = engine.capacity(deployment, int(kv_gib * GIB))
    assert capacity.logged_tokens == tokens
    assert round(capacity.max_concurrency, 2) == concurrency


def test_attention_blocks_grow_to_hold_a_recurrent_state():
    engine, deployment = resolved(QWEN_3_5_27B, "0.19.0", max_model_len=32768)
    capacity = engine.capacity(deployment, 80 * GIB)
    assert capacity.block_size == 784
    assert [group.layers for group in capacity.groups] == [16] * 4
    assert {group.page_bytes for group in capacity.groups} == {784 * 4096}


def test_qwen_3_5_log_of_issue_40691():
    # vllm-project/vllm#40691: "GPU KV cache size: 290,864 tokens", "33.04x" at 32,768 tokens
    engine, deployment = resolved(QWEN_3_5_27B, "0.19.0", max_model_len=32768)
    capacity = engine.capacity(deployment, 1487 * 16 * 784 * 4096)
    assert (capacity.logged_tokens, round(capacity.max_concurrency, 2)) == (290864, 33.04)


def test_prefix_caching_keeps_a_second_state():
    _, without = resolved(QWEN_3_5_27B, "0.19.0", max_model_len=262144)
    engine, deployment = resolved(QWEN_3_5_27B, max_model_len=262144)
    blocks = layout_of(deployment, engine.rules).admission_blocks(262144)
    once = layout_of(without, engine.rules).admission_blocks(262144)
    assert (once, blocks) == (335 + 3, 335 + 6)
    # 920,517 tokens on two cards with fp8 KV: 611 blocks at 174 per request (vllm recipes)
    engine, deployment = resolved(
        QWEN_3_5_27B, "0.26.1rc1.dev608", tensor_parallel_size=2, kv_cache_dtype="fp8"
    )
    assert engine.capacity(deployment, 611 * 16 * 1568 * 1024).logged_tokens == 920517


@pytest.mark.parametrize(
    ("conv", "recurrent", "token_heads", "element_bytes", "block"),
    [
        (24576, 524288, 2, 4, 1056),  # Qwen3-Next-80B: 2,146,304 over 2,048 bytes per token
        (24576, 524288, 2, None, 544),  # its config names no dtype: the model's, bf16
    ],
)
def test_block_of_qwen_3_next(conv, recurrent, token_heads, element_bytes, block):
    state = gdn(conv, recurrent, element_bytes)
    model = model_of(
        ([i for i in range(48) if i % 4 != 3], state),
        ([i for i in range(48) if i % 4 == 3], full(heads=token_heads, dim=256, query=16)),
    )
    engine, deployment = resolved(model)
    assert engine.capacity(deployment, 10 * GIB).block_size == block


def test_the_derived_size_belongs_to_newer_releases():
    kv_bytes = int(19.53 * GIB)
    sizes = {}
    for version in ("0.19.0", "0.22.0"):
        engine, deployment = resolved(
            GEMMA_3_27B, version, max_model_len=8192, max_num_batched_tokens=8192
        )
        sizes[version] = engine.capacity(deployment, kv_bytes)
    assert sizes["0.19.0"].logged_tokens == 15998 // 7 * 16
    assert sizes["0.22.0"].logged_tokens == int(15998 / 3590 * 8192)


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_the_latent_is_whole_on_every_rank(tp):
    engine, deployment = resolved(DEEPSEEK_V3, tensor_parallel_size=tp, max_model_len=131072)
    assert engine.capacity(deployment, 40 * GIB).bytes_per_token == 70272


def test_context_parallelism_shards_the_latents_tokens():
    # vllm recipes, Kimi-K2-Thinking: 715,072 tokens at 46.8 GiB, 5,721,088 with DCP 8
    kimi = model_of((range(61), LatentAttention(heads=64, **LATENT)))
    options = {"tensor_parallel_size": 8, "max_model_len": 262144}
    tokens = []
    for ranks, blocks in ((1, 11173), (8, 11174)):
        engine, deployment = resolved(kimi, "0.11.2", decode_context_parallel_size=ranks, **options)
        tokens.append(engine.capacity(deployment, blocks * 64 * 70272).logged_tokens)
    assert tokens == [715072, 5721088]


def test_the_sparse_indexer_is_a_page_beside_the_latents():
    model = model_of(
        (range(61), LatentAttention(heads=128, indexer_dim=128, indexer_heads=64, **LATENT))
    )
    engine, deployment = resolved(model, tensor_parallel_size=8, kv_cache_dtype="fp8")
    capacity = engine.capacity(deployment, 40 * GIB)
    # 656 + 132 bytes per token per layer, in one group
    assert capacity.kv_cache_dtype == "fp8_ds_mla"
    assert capacity.bytes_per_block == 61 * (656 + 132) * 64
    assert len(capacity.groups) == 1


def test_heads_are_replicated_beyond_their_number():
    pages = []
    for tp in (4, 8, 16):
        engine, deployment = resolved(model_of((range(32), full(heads=8))), tensor_parallel_size=tp)
        pages.append(engine.capacity(deployment, 40 * GIB).bytes_per_token)
    assert pages == [32768, 16384, 16384]


def test_smaller_pages_get_larger_blocks():
    # Gemma 4: sliding layers of 8 heads of 256, full ones of 2 heads of 512
    model = model_of((range(0, 25), window(1024, dim=256)), (range(25, 30), full(heads=2, dim=512)))
    engine, deployment = resolved(model)
    groups = engine.capacity(deployment, 40 * GIB).groups
    assert {group.page_bytes for group in groups} == {16 * 8 * 512 * 2}
    assert sorted({group.block_size for group in groups}) == [16, 32]


def test_pages_that_do_not_divide_are_padded():
    model = model_of((range(4), window(1024, heads=3)), (range(4, 8), full(heads=2)))
    engine, deployment = resolved(model)
    groups = engine.capacity(deployment, 4 * GIB).groups
    assert {group.page_bytes for group in groups} == {16 * 3 * 256 * 2}
    assert {group.block_size for group in groups} == {16}


def test_disabling_the_hybrid_manager_charges_windows_in_full():
    engine, deployment = resolved(
        GPT_OSS_20B, disable_hybrid_kv_cache_manager=True, max_model_len=131072
    )
    capacity = engine.capacity(deployment, 60 * GIB)
    assert len(capacity.groups) == 1
    assert capacity.admission_tokens == capacity.all_full_tokens
    assert capacity.max_concurrency == 10.0


def test_recurrent_layers_cannot_join_one_group():
    engine, deployment = resolved(QWEN_3_5_27B, disable_hybrid_kv_cache_manager=True)
    with pytest.raises(UnsupportedError, match="recurrent"):
        engine.capacity(deployment, GIB)


def test_a_model_that_keeps_nothing_has_nothing_to_size():
    engine, deployment = resolved(model_of((range(2), ())))
    with pytest.raises(UnsupportedError, match="model keeps no cache: there is nothing to size"):
        layout_of(deployment, engine.rules)


def test_chunked_layers_keep_a_chunk_and_what_is_in_flight():
    spec = PageSpec("chunk", 16, 1024, span=8192)
    assert spec.admission_pages(131072, Reserve(8192)) == 1024
    assert spec.growth(131072, Reserve(8192)).blocks_at(131072) == 512
    llama_4 = model_of(
        ([i for i in range(48) if i % 4 != 3], full(kind=ChunkedAttention, chunk=8192, query=40)),
        ([i for i in range(48) if i % 4 == 3], full(query=40)),
    )
    engine, deployment = resolved(llama_4)
    assert [g.layers for g in engine.capacity(deployment, GIB).groups] == [12] * 4


@pytest.mark.parametrize(
    ("version", "charged"),
    [("0.12.0", 94), ("0.13.0", 512), ("", 512)],  # 1,500 frames, and a step of 8,192 tokens
)
def test_cross_attention_holds_what_an_encoder_has_and_is_charged_a_step(version, charged):
    """``CrossAttentionSpec``, max_memory_usage_bytes; blocks are those of the encoder's output."""
    decoder = (
        full(query=20, heads=20, dim=64),
        full(20, 64, CrossAttention, 20, encoder_tokens=1500),
    )
    model = model_of((range(32), decoder), context=448)
    engine, deployment = resolved(model, version, max_num_batched_tokens=8192)
    groups = engine.capacity(deployment, 10 * GIB).groups
    assert sorted(group.blocks_per_sequence for group in groups) == [28, charged]
    assert sorted(group.growth.blocks_at(448) for group in groups) == [28, 94]


def test_the_null_block_is_withheld_from_the_fit_check():
    engine, deployment = resolved(model_of((range(32), full())), max_model_len=8192)
    block_bytes = engine.capacity(deployment, GIB).bytes_per_block
    assert not engine.capacity(deployment, 512 * block_bytes).holds_one
    assert engine.capacity(deployment, 513 * block_bytes).holds_one


def test_an_override_replaces_the_number_of_blocks():
    engine, deployment = resolved(
        model_of((range(32), full())), num_gpu_blocks_override=100, max_model_len=800
    )
    capacity = engine.capacity(deployment, 40 * GIB)
    assert (capacity.num_blocks, capacity.logged_tokens) == (100, 1600)


def test_the_tokens_of_the_three_regimes_by_hand():
    """10,000 blocks of 16 for gpt-oss-20b at 8,192 tokens: a sequence has 512 full blocks.

    Beside them it holds 8 + 1 of the window's 127 earlier tokens; admission charges
    ceil((127 + 2,048) / 16) + 1 = 137; all full is 512 more.
    """
    engine, deployment = resolved(
        GPT_OSS_20B,
        "0.19.0",
        num_gpu_blocks_override=10_000,
        max_model_len=8192,
        max_num_batched_tokens=2048,
    )
    capacity = engine.capacity(deployment, GIB)
    assert capacity.steady_tokens == 10_000 * 8192 // (512 + 9)
    assert capacity.admission_tokens == 10_000 * 8192 // (512 + 137)
    assert capacity.all_full_tokens == 10_000 * 8192 // (512 + 512)
    assert capacity.max_concurrency == 10_000 / (512 + 137)
    assert capacity.logged_tokens == 10_000 // 2 * 16
    assert [group.blocks_per_sequence for group in capacity.groups] == [137, 512]


def test_kv_heads_that_ranks_can_neither_share_out_nor_copy_are_refused_at_once():
    """48 query heads over 6 ranks are 8 each; 8 KV heads are no multiple of 6, nor 6 of 8."""
    with pytest.raises(InputError, match="8 KV heads"):
        resolved(model_of((range(4), full(heads=8, query=48))), tensor_parallel_size=6)


@pytest.mark.parametrize(
    ("version", "gpu", "groups"),
    [
        ("0.9.0", "H100-SXM5-80GB", 1),  # vllm#17996 brought groups with 0.9.1
        ("0.9.1", "H100-SXM5-80GB", 7),
        ("0.10.2", "T4", 1),  # where V0 ran until 0.11
        ("0.11.0", "T4", 7),
    ],
)
def test_windows_have_groups_since_the_hybrid_allocator_of_v1(version, gpu, groups):
    engine, deployment = resolved(GEMMA_3_27B, version, card(gpu), max_model_len=8192)
    capacity = engine.capacity(deployment, 40 * GIB)
    assert len(capacity.groups) == groups
    assert (capacity.pools.main.withheld_blocks == 1) is (groups == 7)


def test_tokens_are_counted_by_the_smallest_block_that_holds_tokens():
    def layout(*specs):
        pages = (LayerPage(0, spec.kind, spec) for spec in specs)
        return Layout(tuple(PageGroup((page,)) for page in pages), Reserve())

    state, wide, narrow = (
        PageSpec("state", 8, 64, 1),
        PageSpec("full", 32, 64),
        PageSpec("window", 16, 64, 100),
    )
    assert layout(state, wide, narrow).token_block == 16
    assert layout(state).token_block == 8


def test_v0_divided_tokens_by_the_length():
    # Llama-3.1-8B on a T4, 0.7.3: "# GPU blocks: 1224", "19.12x" (unslothai/notebooks)
    engine, deployment = resolved(
        model_of((range(32), full())), "0.7.3", card("T4", 14.74), max_model_len=1024
    )
    capacity = engine.capacity(deployment, 1224 * 2 * 2**20)
    assert capacity.num_blocks == 1224
    assert capacity.max_concurrency == 19.125


@given(
    full_layers=st.integers(1, 40),
    window_layers=st.integers(1, 80),
)
def test_groups_lose_no_layer_and_are_all_as_wide(full_layers, window_layers):
    pages = [LayerPage(i, "full", PageSpec("full", 16, 4096)) for i in range(full_layers)]
    pages += [
        LayerPage(full_layers + i, "window", PageSpec("window", 16, 4096, 128))
        for i in range(window_layers)
    ]
    groups = pack_groups(pages)
    members = sorted(member.layer for group in groups for member in group.members)
    assert members == list(range(full_layers + window_layers))
    assert len({len(group.members) + group.padding_layers for group in groups}) == 1


@given(
    length=st.integers(1, 200_000),
    in_flight=st.integers(0, 20_000),
    span=st.integers(1, 9000),
    kind=st.sampled_from(["full", "window", "chunk"]),
)
def test_admission_never_charges_less_than_a_sequence_occupies(length, in_flight, span, kind):
    spec = PageSpec(kind, 16, 1024, span)
    reserve = Reserve(in_flight)
    held = spec.growth(length, reserve).blocks_at(length)
    assert held <= spec.admission_pages(length, reserve)
    longer = spec.admission_pages(length + 16, reserve)
    assert spec.admission_pages(length, reserve) <= longer


@given(kv_bytes=st.integers(0, 100 * GIB), version=st.sampled_from(["0.7.3", "0.19.0", ""]))
def test_blocks_never_exceed_the_bytes_given(kv_bytes, version):
    engine, deployment = resolved(GEMMA_3_12B, version, max_model_len=8192)
    capacity = engine.capacity(deployment, kv_bytes)
    assert capacity.num_blocks * capacity.bytes_per_block <= kv_bytes
    assert kv_bytes < (capacity.num_blocks + 1) * capacity.bytes_per_block


def test_a_stage_without_its_own_share_of_windows_is_still_laid_out():
    engine, deployment = resolved(GEMMA_3_12B, pipeline_parallel_size=4, max_model_len=8192)
    capacity = engine.capacity(deployment, 10 * GIB)
    # 12 layers per stage: 2 full and 10 window ones, dealt over 5 window groups of 8
    assert capacity.bytes_per_block == 2 * 131072
    assert capacity.bytes_per_token == 12 * 8192


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (GPT_OSS_20B, {"tensor_parallel_size": 3}, "cannot be split over tp=3"),
        (GPT_OSS_20B, {"decode_context_parallel_size": 2}, "does not divide"),
        (GPT_OSS_20B, {"pipeline_parallel_size": 99}, "cannot fill 99 pipeline stages"),
        (GPT_OSS_20B, {"max_model_len": 300000}, "VLLM_ALLOW_LONG_MAX_MODEL_LEN"),
        (GPT_OSS_20B, {"kv_cache_dtype": "q8_0"}, "no KV cache dtype"),
        (GPT_OSS_20B, {"kv_cache_dtype": "fp8_ds_mla"}, "latent attention"),
        (GPT_OSS_20B, {"dtype": "fp8"}, "no dtype of activations"),
        (GPT_OSS_20B, {"swa_full": True}, "disable-hybrid-kv-cache-manager"),
        (GPT_OSS_20B, {"max_num_seqs": 64, "max_num_batched_tokens": 32}, "exceeds"),
    ],
)
def test_contradictions_are_refused_in_one_line(model, options, message):
    with pytest.raises(InputError, match=message) as caught:
        resolved(model, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["0.2.0", "0.33.0"])
def test_the_oldest_and_the_newest_release_are_known(version):
    assert get_engine("vllm", version).version == version


@pytest.mark.parametrize("version", ["0.1.0", "0.99", "1.0", "banana", "(2026-05-20)"])
def test_unknown_releases_are_refused(version):
    with pytest.raises(InputError, match="rules are known for releases"):
        get_engine("vllm", version)
