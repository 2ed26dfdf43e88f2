"""Plain transformers: what a cache of tensors keeps, and its peak while a layer appends."""

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.engines.transformers import Transformers
from kvsim.errors import InputError
from kvsim.specs.attention import (
    CrossAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp
from kvsim.units import GIB
from tests.support import engine_parts
from tests.support.engine_parts import (
    MIXED,
    card,
    full,
    latent,
    regimes_in_order,
)

# Llama-2-7B's width and positions.
model_of = partial(
    engine_parts.model_of, mlp=DenseMlp(intermediate_size=11008), context=4096, dtype="fp16"
)
CARD = card(40)
resolved = partial(engine_parts.resolved, accelerator=CARD)
LLAMA2_7B = model_of((32, full(32, 32, 128)))


def held_bytes(engine, deployment, tokens):
    return engine.capacity(deployment, GIB).pools.sequence_bytes(tokens)


def test_a_batch_needs_one_tensor_more_than_it_keeps():
    # 524,288 bytes per token; while one layer's K is concatenated, another 32 * 128 * 2
    engine = Transformers()
    deployment = resolved(engine, LLAMA2_7B)
    peak = 4096 * (524288 + 8192)
    assert engine.capacity(deployment, 3 * peak).max_concurrency == 3
    assert engine.capacity(deployment, 3 * peak).steady_tokens == 3 * peak // 524288
    assert held_bytes(engine, deployment, 1000) == 1000 * 524288
    assert engine.capacity(deployment, 3 * peak).pools.requests(4096) == 3
    assert engine.capacity(deployment, 3 * peak - 1).pools.requests(4096) == 2


def test_the_wider_of_key_and_value_sets_the_peak():
    engine = Transformers()
    model = model_of((2, full(4, 4, 192, 128)))
    deployment = resolved(engine, model, max_model_len=100)
    kept = 100 * 2 * 4 * 320 * 2
    peak = kept + 100 * 4 * 192 * 2
    assert engine.capacity(deployment, 7 * peak).max_concurrency == 7


def test_a_static_cache_takes_its_length_at_once_and_never_doubles():
    engine = Transformers("5.0-static")
    deployment = resolved(engine, LLAMA2_7B)
    assert held_bytes(engine, deployment, 1) == 4096 * 524288
    assert engine.capacity(deployment, 5 * 4096 * 524288).max_concurrency == 5


def test_latent_attention_is_expanded_before_it_is_cached():
    # DeepSeek-V3: 128 heads of (128 + 64) and 128 in 61 layers, bf16: 4,997,120 bytes per token
    engine = Transformers()
    deployment = resolved(engine, model_of((61, latent()), dtype="bf16"))
    assert engine.capacity(deployment, GIB).bytes_per_token == 61 * 128 * 320 * 2 == 4997120


def test_window_layers_stop_growing_only_in_newer_releases():
    model = model_of((2, full(4, 4, 64)), (6, full(4, 4, 64, kind=SlidingAttention, window=512)))
    held = {}
    for version in ("4.50", "5.0"):
        engine = Transformers(version)
        held[version] = held_bytes(engine, resolved(engine, model), 4096)
    assert held["4.50"] == 8 * 4096 * 1024
    assert held["5.0"] == (2 * 4096 + 6 * 512) * 1024


def test_states_and_encoder_output_do_not_grow():
    state = RecurrentState(flavour="mamba2", conv_elements=10, recurrent_elements=90, parameters=0)
    cross = full(2, 2, 32, kind=CrossAttention, encoder_tokens=1500)
    engine = Transformers()
    deployment = resolved(engine, model_of((3, state), (2, cross), (1, full(2, 2, 32))))
    fixed = 3 * (10 * 2 + 90 * 4) + 2 * 1500 * 2 * 64 * 2
    assert held_bytes(engine, deployment, 10) == fixed + 10 * 2 * 64 * 2


def test_budget_is_all_that_the_rest_leaves():
    engine = Transformers()
    budget = engine.budget(resolved(engine, LLAMA2_7B))
    spent = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert budget.kv_cache_bytes == 40 * GIB - spent
    # prompt of 4,096 tokens in one pass: 2 bytes * (2 * 11008 + 4 * 4096)
    assert budget.activation_bytes == 4096 * 2 * (2 * 11008 + 4 * 4096)
    halved = engine.budget(resolved(engine, LLAMA2_7B, gpu_memory_utilization=0.5))
    assert halved.kv_cache_bytes == 20 * GIB - spent


def test_ranks_and_stages_share_the_cache():
    engine = Transformers()
    rates = [
        engine.capacity(resolved(engine, LLAMA2_7B, **options), GIB).bytes_per_token
        for options in ({"tensor_parallel_size": 4}, {"pipeline_parallel_size": 4})
    ]
    assert rates == [131072, 131072]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_size": 16}, "no blocks"),
        ({"enable_prefix_caching": True}, "between calls of generate()"),
        ({"kv_cache_dtype": "fp8"}, "transformers has no fp8_e4m3 KV cache; choose bf16"),
        ({"data_parallel_size": 2}, "one process per replica"),
        ({"swa_full": True}, "prefill_chunk_size"),
        ({"pipeline_parallel_size": 33}, "does not divide"),
    ],
)
def test_refuses_what_it_does_not_have(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        resolved(Transformers(), LLAMA2_7B, **options)


@pytest.mark.parametrize("version", ["4.0", "6.1", "static"])
def test_unknown_versions_are_refused(version):
    with pytest.raises(InputError, match=r"4\.36 to 5\.0"):
        Transformers(version)


def test_command_is_the_two_calls():
    options = EngineOptions(max_model_len=2048, dtype="bf16")
    line = get_engine("transformers", "5.0-static").command(Deployment(LLAMA2_7B, CARD, options))
    assert line == (
        "AutoModelForCausalLM.from_pretrained('model', dtype='bfloat16', device_map='auto')"
        ".generate(**inputs, max_length=2048, cache_implementation='static')"
    )


@given(
    model=MIXED,
    version=st.sampled_from(["4.50", "5.0", "5.0-static"]),
    length=st.integers(1, 60000),
    kv_bytes=st.integers(0, 8 * GIB),
    more=st.integers(0, GIB),
)
def test_regimes_are_ordered_and_grow_with_bytes(model, version, length, kv_bytes, more):
    engine = Transformers(version)
    deployment = resolved(engine, model, max_model_len=length)
    small, _ = regimes_in_order(engine, deployment, kv_bytes, more)
    admitted = int(small.max_concurrency)
    assert admitted * small.pools.sequence_bytes(length) <= kv_bytes


@given(model=MIXED, kv_bytes=st.integers(0, 8 * GIB))
def test_half_precision_holds_at_least_as_much(model, kv_bytes):
    engine = Transformers()
    tokens = [
        engine.capacity(resolved(engine, model, dtype=dtype), kv_bytes).admission_tokens
        for dtype in ("fp32", "bf16")
    ]
    assert tokens[0] <= tokens[1]


def test_an_option_that_the_engine_lacks_is_as_if_it_had_no_limit():
    """All of the memory, entries one by one, none shared, windows beside as many full layers."""
    question = Deployment(engine_parts.model_of((2, full(8, 8, 64))), card(), EngineOptions())
    options = get_engine("transformers").resolve(question).options
    assert options.gpu_memory_utilization == options.swa_full_tokens_ratio == 1
    assert options.block_size == 1
    for switch in ("enable_prefix_caching", "async_scheduling", "kv_unified"):
        assert getattr(options, switch) is False
