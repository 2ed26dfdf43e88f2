"""TensorRT-LLM's accounting: blocks against logs, the fraction rule, and laws.

Rows "T..." are start-up logs of public threads; their thread is named beside each number.
"""

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.engines.tensorrt_llm import TensorRTLLM
from kvsim.errors import InputError
from kvsim.specs.attention import (
    ChunkedAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp, MoeMlp
from kvsim.units import GIB
from tests.support import engine_parts
from tests.support.engine_parts import (
    MIXED,
    capacities_of_print,
    card,
    full,
    latent,
    observed_rows,
    regimes_in_order,
    resolved,
)

# Qwen3-0.6B's width, vocabulary and positions.
model_of = partial(
    engine_parts.model_of,
    hidden=1024,
    mlp=DenseMlp(intermediate_size=3072),
    vocab=151936,
    context=40960,
    tie_embeddings=True,
)
QWEN3_600M = model_of((28, full(16, 8, 128)))
LLAMA2_7B = model_of((32, full(32, 32, 128)), hidden=4096, context=4096)
LATENT = model_of((61, latent()))
STATE = RecurrentState(flavour="mamba2", conv_elements=100, recurrent_elements=900, parameters=0)


def test_blocks_of_printed_bytes():
    # T005, Qwen3-Reranker-0.6B on an H100: 68.69 GiB for 643,136 tokens, blocks of 32
    engine = TensorRTLLM()
    deployment = resolved(engine, QWEN3_600M)
    least, most = (engine.capacity(deployment, round(g * GIB)) for g in (68.685, 68.695))
    assert least.bytes_per_token == 28 * 8 * 256 * 2 == 114688
    assert least.num_blocks <= 643136 // 32 <= most.num_blocks
    assert engine.capacity(deployment, 643136 * 114688).logged_tokens == 643136
    assert engine.capacity(deployment, 643136 * 114688 - 1).logged_tokens == 643136 - 32


def test_the_old_runtime_prints_tokens_before_it_cuts_blocks():
    # T001, NVIDIA/TensorRT-LLM#224 (0.5, Llama-2-7B): 10,718 tokens, no multiple of 16
    engine = TensorRTLLM("0.5")
    deployment = resolved(engine, LLAMA2_7B, block_size=16)
    capacity = engine.capacity(deployment, 10718 * 524288)
    assert (capacity.logged_tokens, capacity.num_blocks) == (10718, 669)


@pytest.mark.parametrize(("free_gib", "kv_gib"), [(17.83, 16.05), (85.57, 77.01)])
def test_the_fraction_applies_to_what_is_free_after_the_load(free_gib, kv_gib):
    # Two public logs of TensorRT-LLM: 17.83 x 0.9 = 16.05 and 85.57 x 0.9 = 77.01
    engine = TensorRTLLM()
    budget = engine.budget(resolved(engine, QWEN3_600M))
    used = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    kv = engine.budget(resolved(engine, QWEN3_600M, card(used / GIB + free_gib))).kv_cache_bytes
    assert kv / GIB == pytest.approx(kv_gib, abs=0.005)


def test_terms_add_up_to_the_budget():
    engine = TensorRTLLM()
    budget = engine.budget(resolved(engine, QWEN3_600M))
    terms = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert terms + budget.kv_cache_bytes == budget.budget_bytes < budget.total_bytes


def test_activation_counts_the_experts_that_a_token_meets():
    engine = TensorRTLLM()
    moe = MoeMlp(experts=64, experts_per_token=4, intermediate_size=768)
    dense = engine.budget(resolved(engine, QWEN3_600M)).activation_bytes
    routed = engine.budget(resolved(engine, model_of((28, full(16, 8, 128)), mlp=moe)))
    # 8,192 tokens * 2 bytes * (2 * 3072 + 4 * 1024), the same width from 4 experts of 768
    assert dense == routed.activation_bytes == 8192 * 2 * (2 * 3072 + 4 * 1024)


def test_latent_cache_is_not_split_and_attention_dp_is_tp_of_one():
    engine = TensorRTLLM()
    rates = [
        engine.capacity(resolved(engine, model, **options), GIB).bytes_per_token
        for model, options in (
            (LATENT, {"tensor_parallel_size": 8}),
            (QWEN3_600M, {"tensor_parallel_size": 8}),
            (QWEN3_600M, {"tensor_parallel_size": 8, "enable_dp_attention": True}),
        )
    ]
    assert rates == [61 * 576 * 2, 114688 // 8, 114688]


@pytest.mark.parametrize(("name", "factor"), [("fp8", 0.5), ("nvfp4", 0.28125), ("int8", 0.5)])
def test_formats_scale_the_slope(name, factor):
    # nvfp4: 1/2 + 1/16 of a byte per element, against 2
    engine = TensorRTLLM()
    capacity = engine.capacity(resolved(engine, QWEN3_600M, kv_cache_dtype=name), GIB)
    assert capacity.bytes_per_token == 114688 * factor


def test_pipeline_stages_keep_their_own_layers():
    engine = TensorRTLLM()
    rates = [
        engine.capacity(
            resolved(engine, QWEN3_600M, pipeline_parallel_size=pp), GIB
        ).bytes_per_token
        for pp in (1, 2, 4)
    ]
    assert rates == [114688, 114688 // 2, 114688 // 4]


def test_states_of_a_full_batch_come_first():
    engine = TensorRTLLM()
    hybrid = model_of((4, full(8, 8, 64)), (4, STATE))
    deployment = resolved(engine, hybrid, max_num_seqs=100)
    intercept = 100 * 4 * (100 * 2 + 900 * 4)
    block = 32 * 4 * 8 * 128 * 2
    assert engine.capacity(deployment, intercept + block).num_blocks == 1
    assert engine.capacity(deployment, intercept + block - 1).num_blocks == 0
    assert engine.capacity(deployment, intercept // 2).num_blocks == 0


def test_each_window_has_a_pool_of_the_bytes_it_needs():
    engine = TensorRTLLM()
    model = model_of(
        (1, full(1, 1, 64)),
        (3, full(1, 1, 64, kind=SlidingAttention, window=256)),
        (2, full(1, 1, 64, kind=ChunkedAttention, chunk=512)),
    )
    deployment = resolved(engine, model, max_model_len=1024)
    need = 256 * (1 * 1024 + 3 * 256 + 2 * 512)
    capacity = engine.capacity(deployment, 10 * need)
    assert capacity.max_concurrency == 10
    assert [group.name for group in capacity.groups] == ["full", "window 512", "window 256"]
    assert [group.layers for group in capacity.groups] == [1, 2, 3]
    unset = resolved(engine, model, max_model_len=1024, disable_hybrid_kv_cache_manager=True)
    assert engine.capacity(unset, 6 * 256 * 1024).max_concurrency == 1


def test_defaults_follow_the_release():
    now = resolved(TensorRTLLM(), QWEN3_600M).options
    before = resolved(TensorRTLLM("0.12.0"), QWEN3_600M).options
    assert (now.block_size, before.block_size) == (32, 64)
    assert (now.gpu_memory_utilization, now.max_num_batched_tokens) == (0.9, 8192)
    assert (now.max_model_len, now.kv_cache_dtype) == (40960, "bf16")


def test_max_tokens_caps_the_pool():
    engine = TensorRTLLM()
    capacity = engine.capacity(resolved(engine, QWEN3_600M, num_gpu_blocks_override=10), 64 * GIB)
    assert (capacity.num_blocks, capacity.logged_tokens) == (10, 320)
    assert capacity.admission_tokens == 320


def test_a_pool_in_tokens_is_what_max_tokens_says():
    engine = TensorRTLLM()
    capacity = engine.capacity(resolved(engine, QWEN3_600M, max_total_tokens=333), 64 * GIB)
    assert (capacity.num_blocks, capacity.logged_tokens) == (10, 320)  # whole blocks of 32


def test_a_pool_in_bytes_is_the_smaller_of_it_and_the_fraction():
    """`KvCacheConfig.max_gpu_total_bytes`: "memory corresponding to the minimum"."""
    engine = TensorRTLLM()
    free = engine.budget(resolved(engine, QWEN3_600M)).kv_cache_bytes
    for asked, got in ((5 * GIB, 5 * GIB), (free + 1, free)):
        limited = resolved(engine, QWEN3_600M, kv_cache_memory_bytes=asked)
        assert engine.budget(limited).kv_cache_bytes == got
    with pytest.raises(InputError, match=r"0\.20 has no kv_cache_config\.max_gpu_total_bytes"):
        resolved(TensorRTLLM("0.20"), QWEN3_600M, kv_cache_memory_bytes=GIB)


def test_a_pool_has_one_size():
    both = {"max_total_tokens": 320, "num_gpu_blocks_override": 10}
    with pytest.raises(InputError, match="leave one of the two out"):
        resolved(TensorRTLLM(), QWEN3_600M, **both)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_size": 48}, "power of two"),
        ({"block_size": 1}, "power of two"),
        ({"kv_cache_dtype": "q8_0"}, "has no q8_0"),
        ({"swa_full_tokens_ratio": 0.5}, "--kv_cache_free_gpu_memory_fraction"),
        ({"decode_context_parallel_size": 2}, "does not estimate context-parallel"),
        ({"tensor_parallel_size": 3}, "cannot be split over tp=3"),
    ],
)
def test_refuses_what_it_does_not_have(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        resolved(TensorRTLLM(), QWEN3_600M, **options)


def test_a_model_without_tokens_is_refused():
    engine = TensorRTLLM()
    with pytest.raises(InputError, match="nothing to size"):
        engine.capacity(resolved(engine, model_of((2, STATE))), GIB)


@pytest.mark.parametrize("version", ["0.4", "2.0", "new"])
def test_unknown_versions_are_refused(version):
    with pytest.raises(InputError, match=r"0\.5 to 1\.4"):
        TensorRTLLM(version)


def test_command_puts_flags_before_the_options_file():
    options = EngineOptions(
        tensor_parallel_size=2, kv_cache_dtype="fp8", block_size=64, enable_dp_attention=True
    )
    line = get_engine("tensorrt-llm").command(Deployment(QWEN3_600M, card(1), options))
    assert line == (
        "trtllm-serve model --tp_size 2 --extra_llm_api_options"
        " <(echo '{enable_attention_dp: true,"
        " kv_cache_config: {dtype: fp8, tokens_per_block: 64}}')"
    )


@pytest.mark.parametrize(("version", "tokens"), [("1.2", 1000 * 32), ("0.5", 1000 * 64)])
def test_the_launch_line_counts_tokens_in_the_release_s_blocks(version, tokens):
    options = EngineOptions(num_gpu_blocks_override=1000)
    line = get_engine("tensorrt-llm", version).command(Deployment(QWEN3_600M, card(80), options))
    assert f"max_tokens: {tokens}" in line


OPTIONS = st.builds(
    dict,
    max_model_len=st.integers(1, 60000),
    block_size=st.sampled_from([2, 16, 32, 128]),
    tensor_parallel_size=st.sampled_from([1, 2, 4, 8, 16]),
)


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB), more=st.integers(0, GIB))
def test_regimes_are_ordered_and_grow_with_bytes(model, options, kv_bytes, more):
    engine = TensorRTLLM()
    deployment = resolved(engine, model, **options)
    small, large = regimes_in_order(engine, deployment, kv_bytes, more)
    assert small.num_blocks <= large.num_blocks
    assert small.num_blocks * small.bytes_per_block <= kv_bytes


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB))
def test_admitted_sequences_fit_in_whole_blocks(model, options, kv_bytes):
    engine = TensorRTLLM()
    deployment = resolved(engine, model, **options)
    capacity = engine.capacity(deployment, kv_bytes)
    admitted = int(capacity.max_concurrency)
    assert admitted * capacity.pools.sequence_bytes(options["max_model_len"]) <= kv_bytes


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB))
def test_a_smaller_dtype_never_holds_less(model, options, kv_bytes):
    engine = TensorRTLLM()
    blocks = [
        engine.capacity(
            resolved(engine, model, kv_cache_dtype=name, **options), kv_bytes
        ).num_blocks
        for name in ("fp32", "bf16", "fp8", "nvfp4")
        if name != "nvfp4" or model.group("group 0").caches[0].key_dim % 16 == 0
    ]
    assert blocks == sorted(blocks)


def test_every_consistent_row_is_exact(kvsim_data):
    """Each row's own bytes per token, laid over its own bytes, give its tokens."""
    rows = observed_rows(kvsim_data, "tensorrt")
    assert rows
    for row in rows:
        assert _row_is_exact(row), row["id"]


def _row_is_exact(row):
    tokens, cell = int(row["kv_tokens"]), int(row["expected_bytes_per_token_per_gpu"])
    engine = TensorRTLLM()
    width = full(1, 1, 1).model_copy(update={"key_dim": cell - cell // 2, "value_dim": cell // 2})
    block = int(row["block_size"] or 32)
    deployment = resolved(engine, model_of((1, width)), kv_cache_dtype="fp8", block_size=block)
    least, most = capacities_of_print(engine, deployment, float(row["kv_gib"]))
    return least.logged_tokens <= tokens <= most.logged_tokens
