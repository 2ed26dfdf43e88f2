"""Llama 3.2 Vision in SGLang: an image before the text, in rows as wide as all layers.

The 11B has 32 layers of 8 KV heads of 128 for the text and 8 for an image of 6,404 tokens; K and V
of one token in one layer are 4,096 bytes in 16 bits. Sources are of SGLang 0.5.23.
"""

import plan_equals_simulation as law
import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError, KVSimError
from kvsim.memory.growth import Growth
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB

MODEL, IMAGE = "llama3.2-11b-vision", 6404
LAYER = 8 * (128 + 128) * 2


def asked(**options):
    model, card = find_model(MODEL), find_accelerator("h100-sxm5-80gb")
    return Deployment(model, card, EngineOptions(**options))


def resolved(version="", **options):
    engine = get_engine("sglang", version)
    return engine, engine.resolve(asked(**options))


def capacity(**options):
    engine, deployment = resolved(**options)
    return engine.capacity(deployment, 10 * GIB)


def test_sglang_puts_the_image_before_the_text_in_one_pool():
    """``encoder_lens + seq_lens`` rows a request, each as wide as all 40 layers."""
    held = capacity(max_model_len=8192)
    assert held.bytes_per_block == 40 * LAYER == 163_840
    assert held.num_blocks == 10 * GIB // 163_840 == 65_536
    assert held.groups[0].growth == Growth(1, None, IMAGE, 1)
    assert held.pools.requests(8192) == 65_536 // (8192 + IMAGE) == 4
    assert held.max_concurrency == 65_536 / (8192 + IMAGE)
    assert held.bytes_per_token == 32 * LAYER


def test_sglangs_context_length_counts_the_image():
    engine, deployment = resolved()
    assert deployment.options.max_model_len == 131_072 - IMAGE == 124_668
    short = asked(max_model_len=8192)
    assert f"--context-length {8192 + IMAGE}" in engine.command(short)
    # max_running_requests: tokens / context * 512, at most half the pool's tokens
    limit = engine.running_limit(engine.resolve(short), 163_840 * 100_000)
    assert limit == int(100_000 / (8192 + IMAGE) * 512) == 3507


def test_sglang_computes_prompts_whole():
    """chunked_prefill_size=-1 (arg_groups/model_hook.py), --max-prefill-tokens 16,384."""
    assert resolved(max_model_len=8192)[1].options.max_num_batched_tokens == 16_384
    assert resolved()[1].options.max_num_batched_tokens == 124_668


def test_a_chunk_that_is_never_taken_still_sizes_the_reserve():
    """arg_groups/pipeline.py: memory is settled before chunked prefill is turned off."""
    for tokens in (None, 4096):
        engine, deployment = resolved(max_num_batched_tokens=tokens, max_model_len=8192)
        assert deployment.options.max_num_batched_tokens == 16_384
        left = engine.budget(deployment).kv_cache_bytes
        assert (left > 48 * GIB) == (tokens is not None)
    with pytest.raises(InputError, match="reserves no memory by it here"):
        resolved("0.4.3", max_num_batched_tokens=4096)


def test_pages_that_an_image_fills_hold_no_text_of_it():
    held = capacity(max_model_len=8192, block_size=4)
    assert held.groups[0].growth == Growth(4, None, 1601, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_model_len": 131_072}, "--max-model-len: .* choose at most 124668"),
        ({"block_size": 64}, "--block-size: an image of 6,404 .* choose 1"),
        ({"enable_prefix_caching": True}, "--enable-prefix-caching: .* leave it out"),
        (
            {"max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.8},
            "--max-num-batched-tokens: SGLang turns .* leave it out",
        ),
        (
            {"decode_context_parallel_size": 2, "tensor_parallel_size": 2},
            "--decode-context-parallel-size: .* choose 1",
        ),
    ],
)
def test_what_is_not_known_of_sglang_is_refused(flags, said):
    with pytest.raises(InputError, match=said):
        resolved(**flags)


def test_a_prefix_is_not_shared_in_a_simulation():
    question = law.scenario(MODEL, "sglang", {"max_model_len": 8192}, 3)
    with pytest.raises(KVSimError, match="begins with an image of its own"):
        kvsim.simulate(kvsim.with_overrides(question, {"memory.allocator": "prefix"}))
