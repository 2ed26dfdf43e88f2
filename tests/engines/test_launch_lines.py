"""Every flag that somebody sets is in the line that starts the engine, in its own words."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.specs.engine_options import EngineOptions

LLAMA, MIXTRAL = "llama3.1-8b", "mixtral-8x7b"
EXPERTS = {"tensor_parallel_size": 4, "enable_expert_parallel": True}
POOL = {"num_gpu_blocks_override": 100, "enforce_eager": True, "enable_prefix_caching": False}


def line(engine, model, **options):
    asked = Deployment(find_model(model), find_accelerator("h100"), EngineOptions(**options))
    return get_engine(engine).command(asked)


@pytest.mark.parametrize(
    ("engine", "model", "options", "words"),
    [
        # SGLang counts tokens, in pages of one; what is on by default has a flag to turn it off
        (
            "sglang",
            MIXTRAL,
            EXPERTS | POOL,
            "--tp-size 4 --ep-size 4 --disable-cuda-graph --disable-radix-cache"
            " --max-total-tokens 100",
        ),
        ("sglang", LLAMA, {"enable_prefix_caching": True}, "--model-path meta-llama/Llama-3.1-8B"),
        # TensorRT-LLM counts tokens too, in blocks of 32; no CUDA graphs is no configuration
        (
            "tensorrt-llm",
            MIXTRAL,
            EXPERTS | POOL,
            "--tp_size 4 --ep_size 4 --extra_llm_api_options <(echo '{cuda_graph_config: null,"
            " kv_cache_config: {max_tokens: 3200, enable_block_reuse: false}}')",
        ),
        ("sglang", LLAMA, {"max_total_tokens": 7000}, "--max-total-tokens 7000"),
        (
            "sglang",
            LLAMA,
            {"hf_overrides": {"num_hidden_layers": 5}},
            """--json-model-override-args '{"num_hidden_layers": 5}'""",
        ),
        (
            "vllm",
            LLAMA,
            {"hf_overrides": '{"num_hidden_layers":5}'},
            """--hf-overrides '{"num_hidden_layers": 5}'""",
        ),
        (
            "tensorrt-llm",
            LLAMA,
            {"max_total_tokens": 7000, "kv_cache_memory_bytes": "1GiB"},
            "<(echo '{kv_cache_config: {max_tokens: 7000, max_gpu_total_bytes: 1073741824}}')",
        ),
        (
            "transformers",
            LLAMA,
            {"tensor_parallel_size": 2, "max_num_batched_tokens": 512},
            "dtype='auto', tp_plan='auto').generate(**inputs, max_length=131072,"
            " prefill_chunk_size=512)",
        ),
        # without flash attention llama.cpp keeps V in 16 bits, whatever K is kept in
        (
            "llama.cpp",
            LLAMA,
            {"flash_attention": False, "max_num_seqs": 4, "kv_cache_dtype": "q8_0"},
            "-c 524288 -np 4 -fa off --cache-type-k q8_0",
        ),
    ],
)
def test_a_line_has_the_engines_own_words(engine, model, options, words):
    assert line(engine, model, **options).endswith(words)
