"""The length that each release derives from a config, beside what its own function gave.

The table holds the answers of ``_get_and_verify_max_len`` of each release, taken out of its
sources (config.py, config/__init__.py, config/model.py) and run on the same fields; None where
the release cannot load such a config.
"""

from __future__ import annotations

import pytest

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError
from kvsim.specs.engine_options import EngineOptions
from tests.support.hf_configs import llama, read

RELEASES = ("0.8.5", "0.11.0", "0.11.2", "0.12.0", "0.29.0", "0.30.0", "0.33.0")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
DEEPSEEK = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
DEFAULT = {"rope_type": "default"}


def fields(positions, **beside):
    return {"max_position_embeddings": positions, **beside}


CONFIGS = {
    "Qwen2.5, yarn": (
        fields(32768, rope_scaling=YARN),
        (131072, 131072, 131072, 131072, 131072, 32768, 32768),
    ),
    "DeepSeek-R1": (fields(163840, rope_scaling=DEEPSEEK), (163840,) * 7),
    "linear": (fields(16384, rope_scaling={"type": "linear", "factor": 4.0}), (65536,) * 7),
    "dynamic": (fields(4097, rope_scaling={"type": "dynamic", "factor": 2.5}), (10242,) * 7),
    "Llama 3.1": (fields(131072, rope_scaling=LLAMA3), (131072,) * 7),
    "Phi-3.5, longrope": (
        fields(131072, rope_scaling={"type": "longrope"}, original_max_position_embeddings=4096),
        (131072, 131072, 4096, 4096, 4096, 4096, 4096),
    ),
    "Command-R": (fields(8192, model_max_length=131072), (131072,) * 7),
    "transformers 5": (
        fields(4096, rope_parameters={"rope_type": "linear", "factor": 2.0}),
        (None, None, None, 8192, 8192, 8192, 8192),
    ),
    "transformers 5, by kind of layer": (
        fields(
            32768,
            rope_parameters={
                "full_attention": YARN | {"factor": 8.0, "original_max_position_embeddings": 8192},
                "sliding_attention": DEFAULT,
            },
        ),
        (None, None, None, 65536, 65536, 32768, 32768),
    ),
}


def resolved_length(config, engine, version="", **options):
    model, card = read(config), find_accelerator("h100")
    asked = Deployment(model, card, EngineOptions(**options))
    return get_engine(engine, version).resolve(asked).options.max_model_len


@pytest.mark.parametrize(
    ("config", "release", "length"),
    [
        pytest.param(config, release, length, id=f"{name}-{release}")
        for name, (config, lengths) in CONFIGS.items()
        for release, length in zip(RELEASES, lengths, strict=True)
        if length is not None
    ],
)
def test_the_default_length_is_the_release_s_own(config, release, length):
    assert resolved_length(llama(**config), "vllm", release) == length


def test_gemma_3_has_already_reached_its_scaling():
    """0.8.5 to 0.33.0: 131,072 and not eight times that."""
    assert plan("gemma3-27b", "h100").kv_cache.max_model_len == 131072


def test_yarn_needs_what_a_release_multiplies():
    config = llama(**fields(32768, rope_scaling={"rope_type": "yarn", "factor": 4.0}))
    with pytest.raises(InputError, match="add it to the scaling"):  # a KeyError in 0.12.0
        resolved_length(config, "vllm", "0.12.0")
    assert resolved_length(config, "vllm", "0.30.0") == 32768


LONGER = {"max_model_len": 8193}


def test_a_length_beyond_is_refused_in_the_engine_s_words(monkeypatch):
    monkeypatch.delenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", raising=False)
    words = r"greater than the derived max_model_len 8192.*set VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    with pytest.raises(InputError, match=words):
        resolved_length(llama(), "vllm", **LONGER)
    with pytest.raises(
        InputError, match=r"scale its rope$"
    ):  # no such variable in envs.py of 0.4.3
        resolved_length(llama(), "vllm", "0.4.3", **LONGER)


@pytest.mark.parametrize(("value", "lifted"), [("1", True), ("true", True), ("0", False)])
def test_the_environment_lifts_the_limit_as_in_vllm(monkeypatch, value, lifted):
    """`envs.py`: "1" and "true" do, whatever their case."""
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", value)
    if not lifted:
        with pytest.raises(InputError):
            resolved_length(llama(), "vllm", **LONGER)
        return
    assert resolved_length(llama(), "vllm", **LONGER) == 8193
    asked = plan("llama3-8b", "h100", **LONGER)
    assert asked.command.startswith("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm serve ")
    assert "max_model_len 8,193 is beyond the 8,192 tokens the model was made for" in asked.warnings
    assert plan("llama3-8b", "h100", max_model_len=8192).command.startswith("vllm serve ")


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        ({"type": "linear", "factor": 4.0}, 32768),
        (YARN, 8192),  # it names the positions that it started from
        (LLAMA3, 8192),
        (None, 8192),
    ],
)
def test_sglang_multiplies_what_names_no_start(monkeypatch, scaling, length):
    """`get_context_length` (hf_transformers/common.py of 0.5.23), run on the same fields."""
    monkeypatch.delenv("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", raising=False)
    config = llama(rope_scaling=scaling)
    assert resolved_length(config, "sglang") == length
    with pytest.raises(InputError, match=f"derived context_length {length}"):
        resolved_length(config, "sglang", max_model_len=length + 1)
    monkeypatch.setenv("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "yes")
    assert resolved_length(config, "sglang", max_model_len=length + 1) == length + 1


@pytest.mark.parametrize(
    ("scaling", "length"),
    [({"type": "linear", "factor": 2.5}, 20480), (YARN, 8192), (LLAMA3, 8192)],
)
def test_tensorrt_llm_multiplies_all_but_what_is_stated_scaled(scaling, length):
    """`infer_max_seq_len` of _torch/models/modeling_utils.py."""
    assert resolved_length(llama(rope_scaling=scaling), "tensorrt-llm") == length


@pytest.mark.parametrize("factor", [True, "4", 0.5, 1e9])
def test_an_absurd_factor_is_refused(factor):
    with pytest.raises(InputError, match=r"rope_scaling: factor is .*outside"):
        read(llama(rope_scaling={"type": "linear", "factor": factor}))


@pytest.mark.parametrize(("kind", "meant"), [("linaer", "linear"), ("yarm", "yarn")])
def test_a_kind_of_scaling_that_no_engine_knows_is_refused(kind, meant):
    """vLLM 0.33, get_rope: "Unknown RoPE scaling type"."""
    with pytest.raises(InputError, match=f"rope_type '{kind}' is not known; write {meant}"):
        read(llama(rope_parameters={"rope_type": kind, "factor": 2.0}))
