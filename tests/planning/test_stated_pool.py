"""A pool whose size somebody states, in each engine's own words and accounting."""

import pytest

from kvsim import plan
from kvsim.errors import InputError
from kvsim.units import GIB

ASKED = {"model": "llama3.1-8b", "gpu": "h100", "max_model_len": 8192}
TOKEN_BYTES = 131_072  # 32 layers of 8 heads of 128, K and V, 2 bytes


@pytest.mark.parametrize(
    ("engine", "stated", "kv_bytes", "tokens"),
    [
        ("sglang", {"max_total_tokens": 100_000}, 100_000 * TOKEN_BYTES, 100_000),
        ("sglang", {"max_total_tokens": 100_000, "block_size": 64}, 99_968 * TOKEN_BYTES, 99_968),
        ("tensorrt-llm", {"max_total_tokens": 64_000}, 64_000 * TOKEN_BYTES, 64_000),
        ("tensorrt-llm", {"kv_cache_memory_bytes": 10 * GIB}, 10 * GIB, 81_920),
        ("vllm", {"kv_cache_memory_bytes": 10 * GIB}, 10 * GIB, 81_920),
    ],
)
def test_the_pool_is_what_was_stated(engine, stated, kv_bytes, tokens):
    answer = plan(**ASKED, engine=engine, **stated)
    assert answer.memory.kv_cache_bytes == kv_bytes
    assert answer.kv_cache.capacity_tokens == tokens
    assert answer.kv_cache.max_concurrency == tokens / 8192


@pytest.mark.parametrize(
    ("engine", "stated"),
    [
        ("vllm", {"num_gpu_blocks_override": 600}),
        ("vllm", {"kv_cache_memory_bytes": 10 * GIB}),
        ("sglang", {"num_gpu_blocks_override": 9000}),
        ("sglang", {"max_total_tokens": 100_000, "block_size": 64}),
        ("tensorrt-llm", {"num_gpu_blocks_override": 600}),
        ("tensorrt-llm", {"max_total_tokens": 64_001}),
        ("tensorrt-llm", {"kv_cache_memory_bytes": 10 * GIB}),
    ],
)
def test_a_stated_pool_is_no_estimate(engine, stated):
    answer = plan(**ASKED, engine=engine, **stated)
    (name,) = {*stated} - {"block_size"}
    assert answer.kv_band.within_bytes == 0
    assert answer.kv_band.source == f"given: --{name.replace('_', '-')}"
    assert answer.certainty == ""


@pytest.mark.parametrize(
    ("engine", "stated"),
    [
        ("vllm", {"num_gpu_blocks_override": 10_000_000}),
        ("sglang", {"num_gpu_blocks_override": 10_000_000}),
        ("sglang", {"max_total_tokens": 10_000_000}),
        ("tensorrt-llm", {"max_total_tokens": 10_000_000}),
        ("tensorrt-llm", {"kv_cache_memory_bytes": 70 * GIB}),
    ],
)
def test_what_a_ceiling_leaves_is_as_sure_as_without_it(engine, stated):
    """What the plan shows then is the room, which is an estimate."""
    answer, free = plan(**ASKED, engine=engine, **stated), plan(**ASKED, engine=engine)
    assert answer.kv_band == free.kv_band
    assert answer.certainty == free.certainty != ""


@pytest.mark.parametrize(
    ("engine", "stated", "fix"),
    [
        ("sglang", {"kv_cache_memory_bytes": GIB}, "set --max-total-tokens"),
        ("llama.cpp", {"kv_cache_memory_bytes": GIB}, "set --max-model-len"),
        ("llama.cpp", {"max_total_tokens": 1000}, "set --max-model-len"),
        ("transformers", {"kv_cache_memory_bytes": GIB}, "--max-model-len and --max-num-seqs"),
        ("transformers", {"max_total_tokens": 1000}, "--max-model-len and --max-num-seqs"),
        ("vllm", {"max_total_tokens": 1000}, "--kv-cache-memory-bytes"),
    ],
)
def test_an_engine_without_the_flag_names_the_nearest(engine, stated, fix):
    with pytest.raises(InputError, match=fix):
        plan(**ASKED, engine=engine, **stated)


@pytest.mark.parametrize(
    ("engine", "stated"),
    [
        ("sglang", {"max_total_tokens": 10_000_000}),
        ("tensorrt-llm", {"max_total_tokens": 10_000_000}),
        ("tensorrt-llm", {"kv_cache_memory_bytes": 70 * GIB}),
        ("sglang", {"num_gpu_blocks_override": 10_000_000}),
        ("tensorrt-llm", {"num_gpu_blocks_override": 10_000_000}),
    ],
)
def test_a_ceiling_above_the_room_is_said_to_change_nothing(engine, stated):
    """SGLang: "larger than the profiled value ... Use the profiled value instead"."""
    answer, free = plan(**ASKED, engine=engine, **stated), plan(**ASKED, engine=engine)
    assert answer.kv_cache == free.kv_cache
    (name,) = stated
    said = [each for each in answer.warnings if each.startswith(name)]
    assert said == [
        f"{name} = {stated[name]} changes nothing: {engine} takes it for the most,"
        " and there is room for less"
    ]
