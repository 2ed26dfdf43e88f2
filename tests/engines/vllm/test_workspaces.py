"""Buffers that kernels share: sizes of the engine's own shape functions, worked out by hand."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.overheads import profiled_step
from kvsim.engines.vllm.workspaces import (
    picked_index_bytes,
    stand_in_bytes,
    workspace_bytes,
)
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import MIB

LENGTH = 163_840


def resolved(model, gpu="h200", version="0.19.1", **options):
    engine = get_engine("vllm", version)
    question = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return engine.resolve(question), engine.rules


def held(*args, rank=None, **options):
    deployment, rules = resolved(*args, **options)
    return workspace_bytes(deployment, rank or Rank(), rules, element=2)


@pytest.mark.parametrize(
    ("quantization", "gpu", "version", "elements"),
    [
        # TritonExperts.workspace_shapes: rows of max(N / 2, K) and max(N, K); N = 2 * 768, K = 2048
        (None, "h200", "0.19.1", 2048 + 2048),
        ("fp8", "h200", "0.19.1", 2048 + 2048),
        ("fp8", "l40s", "0.14.0", 2048 + 2048),
        ("fp8", "b200", "0.14.1", 2048 + 2048),  # DeepGEMM's
        ("fp8", "b200", "0.19.1", 0),  # FlashInfer's
        (None, "b200", "0.19.1", 2048 + 2048),
        (None, "b200", "0.20.2", 0),  # FlashInfer's on all cards that it knows
        (None, "h200", "0.20.2", 0),
        (None, "l40s", "0.20.2", 2048 + 2048),
        (None, "h200", "0.23.0", 2048 + 2048),  # found slower than Triton's there
        (None, "rtx5090", "0.23.0", 0),
        ("mxfp4", "h200", "0.19.1", 0),  # one fused kernel
        ("mxfp4", "l40s", "0.19.1", 2048 + 2048),  # Marlin's, as all below
        ("mxfp4", "l40s", "0.18.1", 0),
        ("nvfp4", "h200", "0.18.1", 2048 + 2048),
        ("nvfp4", "b200", "0.18.1", 0),
        ("awq", "h200", "0.20.2", 2048 + 2048),
        ("awq", "h200", "0.19.1", 0),  # fused_marlin_moe
        (None, "h200", "0.13.0", 0),  # fused_experts
        (None, "h200", "0.12.0", 0),
    ],
)
def test_the_rows_that_experts_work_in(quantization, gpu, version, elements):
    options = {"max_num_batched_tokens": 4096, "quantization": quantization}
    found = held("qwen3-30b-a3b", gpu=gpu, version=version, **options)
    assert found == 4096 * 8 * elements * 2


def test_ranks_split_experts_or_take_them_whole():
    """Mixtral: 14,336 wide, twice that gate and up, over a stream of 4,096."""
    options = {"max_num_batched_tokens": 1000, "max_num_seqs": 8}
    split = held("mixtral-8x7b", rank=Rank(tp=4), **options)
    whole = held("mixtral-8x7b", rank=Rank(tp=4, ep=4), **options)
    assert split == 1000 * 2 * (4096 + 7168) * 2
    assert whole == 1000 * 2 * (14_336 + 28_672) * 2


@pytest.mark.parametrize(
    ("model", "version", "kv", "gpu", "expected"),
    [
        # Experts: 8,192 tokens, 8 of them each, max(256, 6,144) and max(512, 6,144) numbers
        ("glm-5.1", "0.19.1", "bfloat16", "h200", 8192 * 8 * 2 * 6144 * 2),
        # B200's kernels for experts keep nothing there: 40 contexts of keys of 132 bytes
        ("glm-5.1", "0.19.1", "bfloat16", "b200", LENGTH * 40 * 132),
        # ... or 5 contexts of latents, unpacked to 576 numbers of 2 bytes
        ("deepseek-v3.2", "0.13.0", "fp8", "h200", LENGTH * 5 * 576 * 2),
        ("deepseek-v3.2", "0.13.0", "bfloat16", "h200", LENGTH * 40 * 132),
        ("deepseek-v3.2", "0.12.0", "bfloat16", "h200", 0),
    ],
)
def test_what_a_sparse_indexer_gathers(model, version, kv, gpu, expected):
    found = held(
        model,
        gpu=gpu,
        version=version,
        rank=Rank(tp=8),
        quantization="fp8",
        kv_cache_dtype=kv,
        max_model_len=LENGTH,
        max_num_batched_tokens=8192,
        tensor_parallel_size=8,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("model", "version", "options", "expected"),
    [
        # 64K tokens of 16 heads of 128 and 128: contexts are long
        ("deepseek-v3", "0.11.0", {}, 65_536 * 16 * 256 * 2),
        ("deepseek-v3", "0.10.2", {}, 0),
        # 8 contexts of 1,000 tokens; 4 blocks of 64 tokens for each of 100 sequences are more
        ("deepseek-v3", "0.19.1", {"max_model_len": 1000, "max_num_seqs": 8}, 8000 * 16 * 256 * 2),
        (
            "deepseek-v3",
            "0.19.1",
            {"max_model_len": 1000, "max_num_seqs": 100, "block_size": 64},
            25_600 * 16 * 256 * 2,
        ),
        # an indexer's logits, VLLM_SPARSE_INDEXER_MAX_LOGITS_MB, are more than 8 heads of 192 + 256
        ("glm-5.1", "0.19.0", {}, 512 * MIB),
        ("glm-5.1", "0.18.1", {}, 65_536 * 8 * 448 * 2),
        ("glm-4.6", "0.19.0", {}, 0),
    ],
)
def test_what_stands_for_a_layers_largest_step(model, version, options, expected):
    """mla_attention.py and sparse_attn_indexer.py of 0.19: allocated and freed in each layer."""
    deployment, rules = resolved(model, version=version, tensor_parallel_size=8, **options)
    assert stand_in_bytes(deployment, Rank(tp=8), rules, element=2) == expected


def test_the_stand_in_is_part_of_the_forward_peak():
    widths = {}
    for version in ("0.10.2", "0.11.0"):
        deployment, rules = resolved("deepseek-v3", version=version, tensor_parallel_size=8)
        widths[version] = profiled_step(deployment, Rank(tp=8), rules).width_bytes
    assert widths["0.11.0"] - widths["0.10.2"] == 512 * MIB


@pytest.mark.parametrize(
    ("version", "length", "contexts"), [("0.31.0", 1_048_576, 5), ("0.32.0", 1_048_576, 2)]
)
def test_long_contexts_gather_fewer_since_0_32(version, length, contexts):
    """DeepSeek-V4 keeps a key for every fourth token; B200's kernels keep no experts there."""
    found = held("deepseek-v4-flash", gpu="b200", version=version, max_model_len=length)
    assert found == length * contexts * 8 // 4 * 132


def test_the_places_that_an_indexer_picks_are_made_at_load():
    """deepseek_v2.py: int32 of 8,192 tokens, 2,048 places each."""
    sparse, _ = resolved("glm-5.1", tensor_parallel_size=8)
    dense, _ = resolved("deepseek-v3", tensor_parallel_size=8)
    assert picked_index_bytes(sparse) == 8192 * 2048 * 4
    assert picked_index_bytes(dense) == 0
