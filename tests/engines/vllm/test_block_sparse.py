"""MiniMax-M3 under vLLM: index keys beside K and V, blocks of 128 tokens, and what is refused.

Rules of vLLM 0.33: vllm/models/minimax_m3/nvidia/model.py, common/indexer.py and
common/sparse_attention.py. Every layer has a FullAttentionSpec of 4 KV heads of 128, each of the
57 sparse ones an MLAAttentionSpec of one bf16 vector of 128 beside.
"""

import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, Deployment, get_engine
from kvsim.engines.vllm.layout import layout_of
from kvsim.engines.vllm.loading import rotary_table_bytes
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.precision import weight_format
from kvsim.units import GIB, MIB

# Bytes per token on one rank, K and V of 60 layers and 57 index keys of 256 bytes.
TOKEN_BYTES = {
    ("bf16", 1): 137_472,
    ("bf16", 2): 76_032,
    ("bf16", 4): 45_312,
    ("bf16", 8): 45_312,
    ("fp8", 1): 76_032,
    ("fp8", 2): 45_312,
    ("fp8", 4): 29_952,
    ("fp8", 8): 29_952,
}


def resolved(gpu="b300", **options):
    engine = get_engine("vllm", "0.33.0")
    card = find_accelerator(gpu)
    return engine, engine.resolve(
        Deployment(find_model("minimax-m3"), card, EngineOptions(**options))
    )


@pytest.mark.parametrize(("kv", "tp"), TOKEN_BYTES)
def test_bytes_per_token_and_per_block(kv, tp):
    engine, deployment = resolved(kv_cache_dtype=kv, tensor_parallel_size=tp)
    capacity = engine.capacity(deployment, 100 * GIB)
    assert capacity.bytes_per_token == TOKEN_BYTES[kv, tp]
    layout = layout_of(deployment, engine.rules)
    assert layout.bytes_per_block() == 128 * TOKEN_BYTES[kv, tp]
    assert capacity.pools.layout_ratio == 1


def test_one_group_of_117_pages_in_blocks_of_128_tokens():
    engine, deployment = resolved()
    assert deployment.options.block_size == 128
    layout = layout_of(deployment, engine.rules)
    (group,) = layout.groups
    assert len(group.members) == 60 + 57
    assert group.padding_layers == 0
    assert layout.bytes_per_block() == 17_596_416
    assert layout.admission_blocks(1_048_576) == 8192


@pytest.mark.parametrize(
    ("options", "kv_bytes", "blocks", "tokens", "concurrency"),
    [
        ((1, "bf16", 128, 16_384), 60 * GIB + 12_345, 3661, 468_608, 28.6015625),
        ((2, "bf16", 256, 100_001), 20 * GIB, 1103, 282_100, 2.820971867),
        ((4, "bf16", 128, 2000), 20 * GIB, 3702, 462_750, 231.375),
        ((8, "fp8", 128, 16_384), 20 * GIB, 5601, 716_928, 43.7578125),
    ],
)
def test_blocks_tokens_and_concurrency_are_those_of_vllms_planner(
    options, kv_bytes, blocks, tokens, concurrency
):
    """``get_kv_cache_configs`` and ``get_kv_cache_capacity`` of 0.33.0, run on these specs."""
    names = ("tensor_parallel_size", "kv_cache_dtype", "block_size", "max_model_len")
    engine, deployment = resolved(**dict(zip(names, options, strict=True)))
    capacity = engine.capacity(deployment, kv_bytes)
    assert (capacity.num_blocks, capacity.logged_tokens) == (blocks, tokens)
    assert capacity.max_concurrency == pytest.approx(concurrency, abs=1e-9)


def test_a_block_may_be_several_sparse_blocks():
    engine, deployment = resolved(block_size=256)
    assert layout_of(deployment, engine.rules).bytes_per_block() == 2 * 17_596_416


def test_pipeline_stages_hold_the_index_keys_of_their_sparse_layers():
    """Two stages of 30 layers: 27 of the first are sparse, all of the second."""
    engine, deployment = resolved(pipeline_parallel_size=2)
    need = [engine.rank_need_bytes(deployment, engine.rank(deployment, stage)) for stage in (0, 1)]
    assert need == [128 * (30 * 2048 + 27 * 256), 128 * (30 * 2048 + 30 * 256)]


@pytest.mark.parametrize("kv", ["bf16", "fp8", "fp8_e4m3", "fp8_e5m2", "auto", None])
def test_its_kv_formats(kv):
    resolved("h200", kv_cache_dtype=kv, tensor_parallel_size=8)


def test_nvfp4_is_for_sm100_alone():
    """``select_main_backend_and_impl_cls``: B200 and B300, neither Hopper nor workstation cards."""
    for gpu in ("b200", "b300"):
        resolved(gpu, kv_cache_dtype="nvfp4", tensor_parallel_size=8)
    for gpu in ("h200", "rtx-pro-6000"):
        with pytest.raises(InputError, match=r"no nvfp4 KV cache on .*; choose bf16, fp8_e4m3"):
            resolved(gpu, kv_cache_dtype="nvfp4", tensor_parallel_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 16}, r"^--block-size: .* no blocks of 16 tokens; choose a multiple of 128"),
        ({"block_size": 192}, r"^--block-size: .* no blocks of 192 tokens"),
        ({"kv_cache_dtype": "int8_per_token_head"}, r"^--kv-cache-dtype: .* no int8_per_token"),
        ({"kv_cache_dtype": "float16"}, r"^--kv-cache-dtype: .* no fp16 KV cache"),
        ({"kv_cache_dtype": "fp8_ds_mla"}, r"^--kv-cache-dtype: .* no fp8_ds_mla KV cache"),
        (
            {"decode_context_parallel_size": 2},
            r"^--decode-context-parallel-size: .* cannot shard the context of a sequence",
        ),
    ],
)
def test_what_its_kernels_lack_is_refused(options, message):
    with pytest.raises(InputError, match=message) as caught:
        resolved(tensor_parallel_size=8, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", sorted({*ENGINE_NAMES} - {"vllm"}))
def test_other_engines_refuse_it_in_one_line(engine):
    with pytest.raises(
        UnsupportedError, match="the block-sparse GQA cache of minimax-m3"
    ) as caught:
        kvsim.plan("minimax-m3", "b300", engine=engine)
    assert "\n" not in str(caught.value)


def test_the_rotary_table_is_as_wide_as_what_is_rotated():
    """1,048,576 positions x 64 of 128 elements x 2 bytes."""
    assert rotary_table_bytes(find_model("minimax-m3"), weight_format("bf16")) == 128 * MIB
