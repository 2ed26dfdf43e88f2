"""A pool that is stated in an engine's own word is the one that is simulated."""

import pytest

import kvsim
from kvsim.errors import InputError
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario

SHORT = {"workload.requests": 20, "engine.num_gpu_blocks_override": None, "max_model_len": 4096}


def asked(**changes: object) -> Scenario:
    return load_scenario("peer-w", SHORT | changes)


@pytest.mark.parametrize(
    ("flags", "blocks", "block"),
    [
        ({"engine": "sglang", "max_total_tokens": 30_000}, 1875, 16),
        ({"engine": "tensorrt-llm", "max_total_tokens": 30_000}, 1875, 16),
        # 131,072 bytes a token: 24,576 tokens in 3 GiB
        ({"engine": "tensorrt-llm", "kv_cache_memory_bytes": "3GiB"}, 1536, 16),
        ({"engine": "vllm", "kv_cache_memory_bytes": "3GiB"}, 1536, 16),
    ],
)
def test_the_pool_has_the_stated_size(flags, blocks, block):
    setup = prepare(asked(**flags))
    assert (setup.pools.main.num_blocks, setup.pools.main.block_size) == (blocks, block)
    assert kvsim.simulate(asked(**flags)).summary["completed"] == 20


def test_a_smaller_pool_than_the_plan_s_is_said():
    (said,) = prepare(asked(engine="sglang", max_total_tokens=30_000)).warnings
    assert "max_total_tokens=30000" in said
    assert "states a pool of 1,875 blocks; the plan for llama3.1-8b" in said


def test_a_pool_too_small_is_blamed_on_what_states_it():
    with pytest.raises(InputError, match=r"max_total_tokens=100.*max_total_tokens is 100"):
        prepare(asked(engine="sglang", max_total_tokens=100))


def test_an_overridden_config_is_the_model_that_runs():
    """Half of the layers: half of the bytes a token, and a warning for what says nothing."""
    fields = {"num_hidden_layers": 16, "rope_theta": 1.0}
    setup = prepare(asked(hf_overrides=fields, kv_cache_memory_bytes="3GiB"))
    assert setup.token_bytes == 65_536
    assert "the overridden field rope_theta changes nothing here" in setup.warnings
