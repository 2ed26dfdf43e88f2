"""Pipeline stages: the one whose rank holds the fewest sequences decides for all."""

import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, Deployment, get_engine
from kvsim.planning.sizing import size
from kvsim.specs.attention import SlidingAttention
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB
from tests.support.engine_parts import card, full, model_of, resolved

# The last layers have the most weights, 512 query heads, and an eighth of the first ones' K and V.
UNEVEN = model_of((4, full(32, 32, 128)), (4, full(512, 4, 128)))
EVEN = model_of((4, full(32, 8, 128)), (4, full(512, 8, 128)))
TWO = {"pipeline_parallel_size": 2, "max_model_len": 4096}


def bytes_left(engine, deployment):
    """KV bytes of either stage's rank."""
    ranks = (engine.rank(deployment, stage) for stage in (0, 1))
    return [engine.rank_budget(deployment, rank).kv_cache_bytes for rank in ranks]


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_the_stage_that_holds_the_fewest_sequences_is_not_the_one_with_the_fewest_bytes(name):
    engine = get_engine(name)
    deployment = resolved(engine, UNEVEN, card(24), **TWO)
    left = bytes_left(engine, deployment)
    assert left[1] < left[0]
    assert engine.tightest_rank(deployment).stage == 0
    assert engine.budget(deployment) == engine.rank_budget(deployment, engine.rank(deployment, 0))
    # Heads of 128, K and V in 16 bits; llama.cpp counts the output as a layer of the last.
    heads = 4 * 32 + (4 if name == "llama.cpp" else 0)
    assert engine.capacity(deployment, GIB).bytes_per_token == heads * 256 * 2


@pytest.mark.parametrize("name", sorted(set(ENGINE_NAMES) - {"llama.cpp"}))  # stages of 5 and 3
def test_of_equal_needs_the_fewest_bytes_decide(name):
    engine = get_engine(name)
    deployment = resolved(engine, EVEN, card(24), **TWO)
    left = bytes_left(engine, deployment)
    assert left[1] < left[0]
    assert engine.tightest_rank(deployment).stage == 1
    assert engine.budget(deployment).kv_cache_bytes == left[1]


@pytest.mark.parametrize(
    ("name", "model", "stages", "length"),
    [
        (
            "sglang",
            "gemma4-26b-a4b",
            4,
            8192,
        ),  # most windows in the middle, most bytes of need last
        ("sglang", "kimi-linear-48b-a3b", 4, 8192),  # states are cut off before tokens
        ("tensorrt-llm", "qwen3.5-27b", 3, 8192),  # states of a full batch: 36 requests, not 87
        ("transformers", "granite-4.0-h-small", 8, 1024),  # the copy of the layer that appends
        ("vllm", "gemma4-26b-a4b", 4, 8192),
    ],
)
def test_no_stage_holds_fewer_sequences_than_the_one_that_decides(name, model, stages, length):
    asked = EngineOptions(pipeline_parallel_size=stages, max_model_len=length)
    deployment = Deployment(find_model(model), find_accelerator("h200"), asked)
    held = []
    for stage in range(stages):
        engine = get_engine(name)
        settled = engine.resolve(deployment)
        rank = engine.rank(settled, stage)
        engine.tightest_rank = lambda _, rank=rank: rank  # as if this stage decided
        left = engine.rank_budget(settled, rank).kv_cache_bytes
        held.append(engine.capacity(settled, left).pools.requests(length))
    plan = size(get_engine(name), deployment)

    assert len(set(held)) > 1
    assert plan.requests(length) == min(held)


def test_a_stage_without_full_layers_has_no_bytes_in_sglangs_full_pool():
    # One layer a stage; the last, a window's, holds the output too. The plan of it divided by 0.
    model = model_of((1, full(8, 8, 64)), (1, full(8, 8, 64, kind=SlidingAttention, window=256)))
    engine = get_engine("sglang")
    deployment = resolved(engine, model, card(24), pipeline_parallel_size=2, max_model_len=256)

    assert engine.tightest_rank(deployment).stage == 1
    main, window = engine.capacity(deployment, GIB).pools
    token = 8 * (64 + 64) * 2
    assert (main.block_bytes, window.block_bytes) == (0, token)
    assert main.num_blocks == int(GIB / (0.8 * token))


def test_a_model_that_does_not_fit_is_told_what_would_help():
    # Sixteen stages are among what is tried, and there some hold no full layer.
    answer = kvsim.plan("llama4-scout", "l4", engine="sglang", max_model_len=4096)

    assert not answer.fits
