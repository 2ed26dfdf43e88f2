"""Flags that change nothing, and why: each beside the case in which the same flag acts."""

from __future__ import annotations

import pytest

import kvsim


def idle(model="llama3.1-8b", **flags):
    said = kvsim.plan(model, "H100-SXM5-80GB", **flags).warnings
    return [line for line in said if "changes nothing" in line]


@pytest.mark.parametrize(
    ("model", "flags", "why"),
    [
        ("llama3.1-8b", {"enable_expert_parallel": True}, "the model has no experts"),
        (
            "mixtral-8x7b",
            {"enable_expert_parallel": True},
            "a rank holds as many bytes of experts without it",
        ),
    ],
)
def test_a_flag_without_its_object_is_named(model, flags, why):
    (name,) = flags
    assert idle(model, **flags) == [f"{name} = {flags[name]} changes nothing: {why}"]


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("mixtral-8x7b", {"enable_expert_parallel": True, "data_parallel_size": 4}),
        ("llama3.1-8b", {"gpu_memory_utilization": 0.5}),
        ("llama3.1-8b", {"max_model_len": 131072}),  # the model's own: what it would do anyway
    ],
)
def test_a_flag_that_acts_is_not(model, flags):
    assert idle(model, **flags) == []


def test_the_flag_that_decides_in_its_place_is_named():
    flags = {"activation_bytes": "2GiB", "max_num_batched_tokens": 4096}
    assert idle(**flags) == [
        "max_num_batched_tokens = 4096 changes nothing: activation_bytes decides in its place"
    ]


def test_a_share_of_memory_beside_stated_bytes_is_idle():
    """vLLM's worker takes `kv_cache_memory_bytes` before it looks at the share."""
    assert idle(gpu_memory_utilization=0.5, kv_cache_memory_bytes="10GiB") == [
        "gpu_memory_utilization = 0.5 changes nothing: kv_cache_memory_bytes decides in its place"
    ]


def test_more_blocks_than_bytes_are_named():
    def said(blocks):
        flags = {"kv_cache_memory_bytes": "10GiB", "num_gpu_blocks_override": blocks}
        warnings = kvsim.plan("llama2-7b", "H100-SXM5-80GB", **flags).warnings
        return [line for line in warnings if "whether they fit or not" in line]

    assert said(1280) == []  # of 8 MiB: 10 GiB
    assert said(1281) == [
        "num_gpu_blocks_override = 1,281: these blocks are 10.01 GiB, and the KV cache 10 GiB;"
        " the engine allocates them whether they fit or not"
    ]


def test_two_flags_that_decide_together_are_counted():
    question = kvsim.load_scenario(
        "peer-w",
        {"kv_cache_memory_bytes": "8GiB", "gpu_memory_utilization": 0.5, "workload.requests": 5},
    )
    said = [line.partition(" nothing: ")[2] for line in kvsim.simulate(question).setup.idle_keys]
    assert said == [
        "other flags decide in its place",
        "num_gpu_blocks_override decides in its place",
    ]
