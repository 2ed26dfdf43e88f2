"""No key is ignored in silence: it changes the results, is refused, or a warning says why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import kvsim
from kvsim.errors import KVSimError
from kvsim.simulator.loading import load_scenario, scenario_names
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import EngineSpec, Scenario
from kvsim.specs.checked import defaults

# Long enough for a burst and for what comes after it, or for a second conversation of a client; a
# day of phases is cut to two.
CUT: dict[str, dict[str, Any]] = {
    "agent-loop": {
        "workload.requests": 40,
        "workload.arrivals.clients": 4,
        "workload.arrivals.ramp_seconds": 8,
        "workload.prefix.turns.mean": 5,
    },
    "azure-conversation": {
        "workload.arrivals.phases": [{"seconds": 10, "rate": 4}, {"seconds": 10, "rate": 6}]
    },
    "bursty-traffic": {"workload.requests": 700},
}
# Only said again in the results, or the frame of the question.
ECHOED = {"name", "question", "folder"}
# What a value that is not decided yet may become; of the others, see `_others`.
UNDECIDED: dict[str, tuple[Any, ...]] = {
    "activation_bytes": ("12GiB",),
    "async_scheduling": (True, False),
    "block_size": (16, 32, 64, 256, 512),
    "cuda_graph_bytes": ("12GiB",),
    "dtype": ("float16", "bfloat16", "float32"),
    "duration_seconds": (3.0,),
    "e2el_ms": (40.0, 4000.0),
    "enable_prefix_caching": (True, False),
    "flash_attention": (True, False),
    "flashinfer_sampler": (True, False),
    "gpu_memory_utilization": (0.7, 0.95, 0.01),
    "kv_cache_dtype": ("fp8",),
    "kv_cache_dtype_v": ("fp8",),
    "kv_cache_memory_bytes": ("12GiB",),
    "kv_unified": (True, False),
    "cv": (1.0,),
    "max": (2, 100),
    "max_context_tokens": (3000,),
    "max_model_len": (512, 4096),
    "max_num_batched_tokens": (256, 16384),
    "max_num_seqs": (2, 512),
    "max_seconds": (5.0,),
    "mean": (100.0,),
    "mu": (5.0,),
    "non_torch_bytes": ("12GiB",),
    "num_blocks": (9000,),
    "num_gpu_blocks_override": (9000,),
    "priorities": ({0: 1, 1: 1},),
    "quantization": ("fp8",),
    "requests": (30,),
    "seconds": (0.5,),
    "sigma": (1.0,),
    "swa_full_tokens_ratio": (0.2,),
    "tpot_ms": (1.0, 40.0),
    "tokens": (100,),
    "ttft_ms": (1.0, 100.0, 4000.0),
}
NAMES: dict[str, tuple[str, ...]] = {
    "accelerator": ("l40s", "b200"),
    "admission": ("priority", "shortest-first"),
    "allocator": ("reserve-oracle", "none", "prefix", "virtual"),
    "dtype": ("float16", "float32"),
    "engine.name": ("sglang", "tensorrt-llm"),
    "engine.version": ("0.11.0", "0.7.0"),
    "eviction": ("fifo", "lfu"),
    "model": ("llama3.1-8b", "qwen3-8b"),
    "periods": ("exponential",),
    "placement": ("best-fit", "buddy"),
    "policy": ("vllm-v1", "static"),
    "preemption": ("swap", "recompute"),
    "step_time.kind": ("constant",),
}


def keys_of(scenario: Scenario) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a scenario with its value: its own, and those of its sections."""
    content = scenario.model_dump(exclude={"folder"})
    content["engine"] = {**defaults(EngineSpec), **dict(scenario.engine)}
    content["memory"] |= {"num_blocks": None, "block_size": None}
    yield from _leaves(content, "")


def _leaves(content: dict[str, Any], under: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and key != "priorities":
            yield from _leaves(value, f"{under}{key}.")
        elif under + key not in ECHOED:
            yield under + key, value


def others(key: str, value: Any) -> Iterator[Any]:
    """Other values for a key, far enough away to matter where the key matters at all."""
    last = key.rpartition(".")[2]
    if key in NAMES or last in NAMES:
        yield from (name for name in NAMES.get(key) or NAMES[last] if name != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (type(value)(value * factor) for factor in (0.25, 0.5, 2, 8))
        yield from (value + 1, 1, 600)  # 600: a least length that binds
    elif value is None:
        yield from UNDECIDED.get(last, ())
    elif isinstance(value, tuple | list):
        yield value[1:]
    # a kind of workload has keys of its own: whole sections are not exchanged here


def worlds(name: str) -> Iterator[Scenario]:
    """A shipped scenario cut short, and the same with little memory and slow steps."""
    short = load_scenario(name, {"workload.requests": 120} | CUT.get(name, {}))
    yield short
    longest = short.engine.max_model_len or 0
    size = short.engine.block_size or 16
    pressed = {
        "engine.num_gpu_blocks_override": longest // size + 3,
        "step_time.kind": "constant",
        "step_time.seconds": 0.2,
    }
    yield kvsim.with_overrides(short, pressed)


def outcome(scenario: Scenario) -> Any:
    """What a run says, its provenance and the scenario's echo aside."""
    try:
        result = kvsim.simulate(scenario)
    except KVSimError as refused:
        return str(refused)
    return result.summary


def warned(scenario: Scenario, key: str) -> bool:
    """Whether a warning names the key, in either spelling."""
    try:
        said = prepare(scenario).warnings
    except KVSimError:
        return True
    return any(key in line for line in said)


def ignored_keys(name: str) -> list[str]:
    """Keys of which no other value makes a difference or a warning, in either world."""
    silent: dict[str, bool] = {}
    for scenario in worlds(name):
        before = outcome(scenario)
        for key, value in keys_of(scenario):
            tries = [*others(key, value)]
            if tries and silent.get(key, True):
                silent[key] = all(_is_silent(scenario, key, each, before) for each in tries)
    return [key for key, is_silent in silent.items() if is_silent]


def _is_silent(scenario: Scenario, key: str, other: Any, before: Any) -> bool:
    try:
        changed = kvsim.with_overrides(scenario, {key: other})
    except KVSimError:
        return False
    return outcome(changed) == before and not warned(changed, key)


QUICK = ("pagedattention-orca", "peer-w", "static-vs-continuous")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in scenario_names()
    ],
)
def test_no_key_is_ignored_in_silence(name: str) -> None:
    assert ignored_keys(name) == []


@pytest.mark.parametrize(
    ("threshold", "policy", "said"),
    [
        (2047, "vllm-v1", []),
        (2048, "vllm-v1", ["a step has at most 2,048 tokens"]),
        (2048, "sarathi", ["a step has at most 2,048 tokens"]),
        (100, "orca", ["the scheduler orca computes prompts whole"]),
    ],
)
def test_a_threshold_that_no_chunk_can_reach_is_named(threshold, policy, said):
    key = "scheduler.long_prefill_token_threshold"
    changes = {key: threshold, "scheduler.policy": policy, "engine.max_num_batched_tokens": 2048}
    warnings = prepare(load_scenario("peer-w", changes)).warnings
    assert [line.partition(": ")[2] for line in warnings if key in line] == said
