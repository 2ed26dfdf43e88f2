"""A suggestion taken to the letter makes the plan fit, and one notch less of it does not."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator, larger_accelerators
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import KVSimError
from kvsim.planning.sizing import size
from kvsim.specs.engine_options import EngineOptions

Asked = dict[str, Any]
CASES: list[Asked] = [
    {"model": "llama2-7b", "gpu": "t4"},
    {"model": "llama3.1-8b", "gpu": "l4"},
    {"model": "llama3.1-8b", "gpu": "l4", "gpu_memory_utilization": 0.7},
    {"model": "llama3.1-70b", "gpu": "h100"},
    {"model": "llama3.3-70b", "gpu": "h100", "max_model_len": 1000},
    {"model": "llama4-scout", "gpu": "mi300x"},
    {"model": "llama4-scout", "gpu": "mi300x", "max_model_len": 32768},
    {"model": "qwen3-32b", "gpu": "rtx4090"},
    {"model": "qwen3-32b", "gpu": "a100-40gb", "max_model_len": 40000, "block_size": 32},
    {
        "model": "minimax-m2",
        "gpu": "h100-nvl-94gb",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "gpu_memory_utilization": 0.74,
    },
    {"model": "gemma3-27b", "gpu": "a100-40gb"},
    {"model": "deepseek-v3", "gpu": "h200", "tensor_parallel_size": 4},
    {"model": "llama2-7b", "gpu": "a100", "kv_cache_memory_bytes": 2**30},
    {"model": "llama2-7b", "gpu": "a100", "kv_cache_memory_bytes": 2**40},
    {"model": "llama2-7b", "gpu": "a100", "num_gpu_blocks_override": 100},
    {"model": "llama2-7b", "gpu": "a100", "num_gpu_blocks_override": 10**6},
    {"model": "llama2-7b", "gpu": "a100", "max_model_len": 4090, "gpu_memory_utilization": 0.18},
    {"model": "llama2-7b", "gpu": "a100", "engine": "sglang", "max_total_tokens": 4000},
    {"model": "llama2-7b", "gpu": "a100", "engine": "tensorrt-llm", "max_total_tokens": 4000},
    {"model": "llama3.1-70b", "gpu": "h200", "engine": "sglang"},
    {"model": "llama3.1-70b", "gpu": "h200", "engine": "tensorrt-llm"},
    {"model": "llama3.1-70b", "gpu": "h100", "engine": "llama.cpp"},
    {"model": "llama3.1-8b", "gpu": "l4", "engine": "transformers"},
    {"model": "qwen3-next-80b-a3b", "gpu": "h200", "engine": "sglang"},
    {"model": "qwen3.5-27b", "gpu": "l40s"},
]
POOLS = ("num_gpu_blocks_override", "max_total_tokens", "kv_cache_memory_bytes")


def changed(flag: str) -> Asked:
    """The options that a suggestion's flags stand for, as a command line reads them."""
    words, options = shlex.split(flag), {}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        value = words.pop(0) if words and not words[0].startswith("--") else "true"
        whole = re.fullmatch(r"\d+", value)
        share = re.fullmatch(r"0\.\d+", value)
        options[name] = int(value) if whole else float(value) if share else value
    return options | ({"enforce_eager": True} if "enforce_eager" in options else {})


def fits(asked: Asked) -> bool:
    """Whether it fits, and the longest request runs: a plan without tables and suggestions."""
    rest = dict(asked)
    model, card = find_model(rest.pop("model")), find_accelerator(rest.pop("gpu"))
    engine = get_engine(rest.pop("engine", "vllm"))
    try:
        return size(engine, Deployment(model, card, EngineOptions(**rest))).serves
    except KVSimError:  # one notch less may be what the engine has no way to do
        return False


def less(asked: Asked, length: int, block: int, name: str, value: Any) -> Asked | None:
    """The same question with one notch less of one thing; None where there is no notch."""
    before = {key: found for key, found in asked.items() if key != name}
    if name == "max_model_len":
        longer = min(value + block, length)
        return before | {name: longer} if longer > value else None
    if name == "gpu_memory_utilization":
        return before | {name: round(value - 0.001, 3)}
    if name == "tensor_parallel_size":
        return before | {name: value // 2}
    if name == "pipeline_parallel_size":
        return before | {name: value - 1}
    if name == "max_num_seqs":
        return before | {name: value + 1}
    return None


def judge(asked: Asked) -> int:
    """Follow every suggestion of a question, and then a little less of each; how many there are."""
    answer = plan(**asked)
    assert not answer.fits
    length, block = answer.kv_cache.max_model_len, answer.kv_cache.block_size
    for offered in answer.suggestions:
        options = changed(offered.flag)
        taken = {"max_model_len": length} | asked | options
        found = plan(**taken)
        assert found.fits, offered
        assert found.kv_cache.max_concurrency == offered.max_concurrency, offered
        assert found.kv_cache.max_model_len == offered.max_model_len
        for name, value in options.items():
            for weaker in weakened(asked, taken, name, value, length, block):
                assert not fits(weaker), (offered.flag, name, weaker)
    return len(answer.suggestions)


def weakened(
    asked: Asked, taken: Asked, name: str, value: Any, length: int, block: int
) -> list[Asked]:
    """One notch less of one thing that a suggestion says."""
    both = ("kv_cache_dtype", "kv_cache_dtype_v")  # llama.cpp narrows K and V at once
    undone = both if name in both else (name,)
    back = {key: found for key, found in taken.items() if key not in undone}
    back |= {key: asked[key] for key in undone if key in asked}
    if name == "gpu":
        names = larger_accelerators(find_accelerator(asked["gpu"]))
        return [taken | {"gpu": each} for each in names[: names.index(value)]]
    if name in POOLS:
        return [taken | {name: value + (1 if value < asked[name] else -1)}]
    if name in ("model", "quantization", "enforce_eager", "kv_cache_dtype", "kv_cache_dtype_v"):
        return [back]
    step = less(taken, length, block, name, value)
    return [step] if step else []


@pytest.mark.parametrize("asked", CASES, ids=lambda asked: "-".join(map(str, asked.values())))
def test_each_suggestion_is_enough_and_one_notch_less_is_not(asked):
    assert judge(asked) >= 1


@given(
    model=st.sampled_from(["llama3.1-8b", "qwen3-32b", "gemma3-12b", "mixtral-8x7b", "qwen3.5-9b"]),
    gpu=st.sampled_from(["t4", "l4", "a100-40gb", "h100", "mi300x", "rtx4090"]),
    engine=st.sampled_from(["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_model_len": st.integers(500, 32768),
            "pipeline_parallel_size": st.integers(1, 3),
        },
    ),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_suggestions_of_any_question(model, gpu, engine, options):
    asked = {"model": model, "gpu": gpu, "engine": engine, **options}
    try:
        answer = plan(**asked)
    except KVSimError:
        assume(False)
    assume(not answer.fits)
    judge(asked)


def flags(**asked: Any) -> list[str]:
    return [offered.flag for offered in plan(**asked).suggestions]


def test_a_published_checkpoint_is_offered_where_one_is_enough():
    """32 GiB of a card: not 16 or 8 bits of 32.8 B parameters, but 4 and a half; not on AMD."""
    found = flags(model="qwen3-32b", gpu="rtx5090", max_model_len=8192)
    assert "--model nvidia/Qwen3-32B-NVFP4" in found
    on_amd = flags(model="qwen3-235b-a22b", gpu="mi300x", max_model_len=8192)
    assert not any("NVFP4" in flag for flag in on_amd)


def test_the_smallest_larger_card_of_the_vendor_is_offered():
    asked = {"model": "llama3.1-8b", "gpu": "l4", "max_model_len": 65536}
    (offered,) = [flag for flag in flags(**asked) if flag.startswith("--gpu")]
    card = find_accelerator(offered.removeprefix("--gpu "))
    smaller = [
        name
        for name in larger_accelerators(find_accelerator("l4"))
        if find_accelerator(name).memory_bytes < card.memory_bytes
    ]
    assert card.vendor == "NVIDIA"
    assert not any(fits(asked | {"gpu": name}) for name in smaller)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "gpt-oss-20b", "gpu": "rtx5080", "engine": "llama.cpp"},
        {"model": "gemma3-12b", "gpu": "t4", "engine": "llama.cpp"},
    ],
)
def test_what_is_offered_also_runs(asked):
    """A request that the start-up check lets in may outgrow the pool: that is no way out."""
    offered = plan(**asked).suggestions
    assert offered
    for each in offered:
        words = each.flag.split()
        changes = dict(zip(words[::2], words[1::2], strict=True))
        options = {name[2:].replace("-", "_"): read_word(word) for name, word in changes.items()}
        again = plan(**asked | options)
        longest = again.kv_cache.max_model_len
        (row,) = [row for row in again.concurrency if row.context_len == longest]
        assert row.requests >= 1, each.flag


def read_word(word):
    """A flag's value as `plan` takes it."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def test_no_pool_is_offered_where_the_weights_leave_no_room():
    offered = flags(model="llama3.1-70b", gpu="l4", num_gpu_blocks_override=100)
    assert offered
    assert [flag for flag in offered if "num-gpu-blocks" in flag] == []


def test_a_pool_that_is_too_large_is_offered_all_that_the_card_has():
    """Beside the weights and what the engine takes, to the byte: one more does not fit."""
    asked = {"model": "llama3.1-8b", "gpu": "h100", "max_model_len": 8192}
    rest = plan(**asked).memory
    room = rest.total_bytes - rest.weights_bytes - rest.activation_bytes - rest.non_torch_bytes
    assert f"--kv-cache-memory-bytes {room}" in flags(**asked, kv_cache_memory_bytes=2 * room)
