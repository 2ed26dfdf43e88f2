"""Engines that keep to the KV cache format that a checkpoint asks for, and those that do not.

Expected: vLLM's utils/torch_utils.py and attention layer of each release, and SGLang 0.5.23's
mem_cache/kv_cache_dtype.py, which reads ModelOpt's FP8 alone.
"""

import pytest

import kvsim
from kvsim.specs.model import DeclaredKV


def checkpoint(method="modelopt", fmt="fp8_e4m3"):
    declared = DeclaredKV(format=fmt, method=method)
    changes = {"quantization": "nvfp4", "declared_kv": declared}
    return kvsim.find_model("llama3-8b").model_copy(update=changes)


@pytest.mark.parametrize(
    ("method", "engine", "release", "options", "kept"),
    [
        ("modelopt", "vllm", "0.33.0", {}, "fp8_e4m3"),
        ("modelopt", "vllm", "0.14.0", {}, "fp8_e4m3"),
        ("modelopt", "vllm", "0.13.0", {}, "bf16"),
        ("compressed-tensors", "vllm", "0.15.0", {}, "fp8_e4m3"),
        ("compressed-tensors", "vllm", "0.14.1", {}, "bf16"),
        ("modelopt", "vllm", "0.33.0", {"kv_cache_dtype": "bf16"}, "bf16"),
        ("modelopt", "vllm", "0.33.0", {"kv_cache_dtype": "auto"}, "fp8_e4m3"),
        ("modelopt", "vllm", "0.33.0", {"quantization": "fp8"}, "bf16"),
        ("modelopt", "sglang", "0.5.23", {}, "fp8_e4m3"),
        ("compressed-tensors", "sglang", "0.5.23", {}, "bf16"),
        ("modelopt", "tensorrt-llm", "", {}, "bf16"),
    ],
)
def test_engines_keep_to_it_from_the_release_on_that_reads_it(
    method, engine, release, options, kept
):
    asked = {"engine": engine, "engine_version": release} if release else {"engine": engine}
    answer = kvsim.plan(checkpoint(method), "h200", **asked, **options)
    assert answer.kv_cache.dtype == kept
    (note,) = [said for said in answer.warnings if "declares a KV cache" in said]
    assert ("keeps to it" in note) == (kept == "fp8_e4m3")


def test_sglang_does_not_read_nvfp4():
    answer = kvsim.plan(checkpoint(fmt="nvfp4"), "b200", engine="sglang")
    assert answer.kv_cache.dtype == "bf16"
    assert kvsim.plan(checkpoint(fmt="nvfp4"), "b200", engine="vllm").kv_cache.dtype == "nvfp4"


def test_a_model_that_declares_nothing_is_not_spoken_of():
    plain = kvsim.find_model("llama3-8b").model_copy(update={"quantization": "nvfp4"})
    answer = kvsim.plan(plain, "h200", engine="vllm")
    assert answer.kv_cache.dtype == "bf16"
    assert not any("declares" in said for said in answer.warnings)


def test_an_fp8_cache_holds_twice_the_tokens():
    """Of bytes that are the same, but for a block's rounding."""
    asked = {"engine": "vllm", "kv_cache_memory_bytes": "10GiB", "max_model_len": 4096}
    tokens = [
        kvsim.plan(checkpoint(), "h200", **asked, **options).kv_cache.capacity_tokens
        for options in ({}, {"kv_cache_dtype": "bf16"})
    ]
    assert tokens[0] == pytest.approx(2 * tokens[1], abs=16)
