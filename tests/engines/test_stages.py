"""Pipeline stages: the one whose rank holds the fewest sequences decides for all."""

import pytest

from kvsim.engines import ENGINE_NAMES, get_engine
from kvsim.units import GIB
from tests.support.engine_parts import card, full, model_of, resolved

# The last layers have the most weights, 512 query heads, and an eighth of the first ones' K and V.
UNEVEN = model_of((4, full(32, 32, 128)), (4, full(512, 4, 128)))
EVEN = model_of((4, full(32, 8, 128)), (4, full(512, 8, 128)))
TWO = {"pipeline_parallel_size": 2, "max_model_len": 4096}


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_the_stage_that_holds_the_fewest_sequences_is_not_the_one_with_the_fewest_bytes(name):
    engine = get_engine(name)
    deployment = resolved(engine, UNEVEN, card(24), **TWO)
    left = [
        engine.rank_budget(deployment, engine.rank(deployment, stage)).kv_cache_bytes
        for stage in (0, 1)
    ]
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
    left = [
        engine.rank_budget(deployment, engine.rank(deployment, stage)).kv_cache_bytes
        for stage in (0, 1)
    ]
    assert left[1] < left[0]
    assert engine.tightest_rank(deployment).stage == 1
    assert engine.budget(deployment).kv_cache_bytes == left[1]
