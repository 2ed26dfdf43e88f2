"""Fields of a config that a flag overrides: merged as each engine's own code merges them."""

from __future__ import annotations

import json

import pytest

from kvsim import plan
from kvsim.errors import InputError
from kvsim.readers.huggingface.overrides import Overrides
from tests.support.hf_configs import llama

VLLM = {"flag": "--hf-overrides"}
SGLANG = {"flag": "--json-model-override-args", "merges_rope": True, "merges_deep": False}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LINEAR = {"rope_type": "linear", "factor": 2.0}
LOOP: list[object] = []
LOOP.append(LOOP)
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}


@pytest.fixture
def config(tmp_path):
    """A Llama of 8,192 positions in a file, with changes."""

    def write(**changes):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(llama(**changes)))
        return str(file)

    return write


@pytest.mark.parametrize(
    ("rules", "config", "fields", "merged"),
    [
        # _apply_dict_overrides: an object that is no config of its own is put in its place
        (VLLM, {"rope_parameters": SCALED}, {"rope_parameters": YARN}, {"rope_parameters": YARN}),
        (VLLM, {"rope_scaling": SCALED}, {"rope_parameters": YARN}, {"rope_parameters": YARN}),
        (
            VLLM,
            {"quantization_config": {"quant_method": "fp8", "a": 1}},
            {"quantization_config": {"quant_method": "awq"}},
            {"quantization_config": {"quant_method": "awq"}},
        ),
        # get_config of SGLang: {**current, **value} for a scaling
        (
            SGLANG,
            {"rope_scaling": SCALED},
            {"rope_scaling": {"factor": 8.0}},
            {"rope_scaling": SCALED | {"factor": 8.0}},
        ),
        # _update_nested: objects inside an inner config are merged, at any depth
        (
            VLLM,
            {"text_config": {"head_dim": 64, "a": {"b": {"c": 1, "d": 2}}}},
            {"text_config": {"a": {"b": {"d": 3}}}},
            {"text_config": {"head_dim": 64, "a": {"b": {"c": 1, "d": 3}}}},
        ),
        (
            VLLM,
            {"text_config": {"rope_parameters": SCALED}},
            {"text_config": {"rope_parameters": {"factor": 8.0}}},
            {"text_config": {"rope_parameters": SCALED | {"factor": 8.0}}},
        ),
        # current.update(value) of SGLang: one level deep
        (
            SGLANG,
            {"text_config": {"head_dim": 64, "a": {"b": 1}}},
            {"text_config": {"a": {"c": 2}}},
            {"text_config": {"head_dim": 64, "a": {"c": 2}}},
        ),
    ],
)
def test_a_config_is_merged_as_the_engine_does(rules, config, fields, merged):
    assert Overrides(fields, **rules).apply(config) == merged


@pytest.mark.parametrize(
    ("engine", "version", "flags", "length"),
    [
        # the derived length of each: see tests/engines/vllm/test_lengths.py
        ("vllm", "", {"hf_overrides": {"rope_parameters": LINEAR}}, 16384),
        ("vllm", "", {"hf_overrides": {"max_position_embeddings": 1024}}, 1024),
        ("vllm", "0.11.0", {"hf_overrides": {"rope_scaling": LINEAR}}, 16384),
        ("vllm", "0.11.0", {"rope_scaling": YARN}, 131072),
        ("vllm", "0.5.5", {"rope_scaling": {"type": "linear", "factor": 2.0}}, 16384),
        ("sglang", "", {"hf_overrides": {"rope_scaling": LINEAR}}, 16384),
    ],
)
def test_a_flag_changes_the_length(config, engine, version, flags, length):
    answer = plan(config(), "h100", engine=engine, engine_version=version, **flags)
    assert answer.kv_cache.max_model_len == length
    assert not any("changes nothing" in each for each in answer.warnings)


def test_fewer_layers_keep_fewer_bytes_and_load_fewer_weights(config):
    whole = plan(config(), "h100")
    half = plan(config(), "h100", hf_overrides='{"num_hidden_layers": 16}')
    assert 2 * half.kv_cache.bytes_per_token == whole.kv_cache.bytes_per_token == 131_072
    assert half.memory.weights_bytes < whole.memory.weights_bytes


def test_a_model_of_the_catalogue_is_overridden_like_its_config():
    """Gemma 3 nests its text: an outer field changes nothing, in vLLM as here."""
    inner = {"text_config": {"max_position_embeddings": 4096}}
    assert plan("gemma3-27b", "h200", hf_overrides=inner).kv_cache.max_model_len == 4096
    outer = plan("gemma3-27b", "h200", hf_overrides={"max_position_embeddings": 4096})
    assert outer.kv_cache.max_model_len == 131072
    assert "the overridden field max_position_embeddings changes nothing here" in outer.warnings


def test_each_field_without_effect_is_named(config):
    fields = {"num_hidden_layers": 4, "rope_theta": 1.0, "max_position_embeddings": 8192}
    answer = plan(config(), "h100", hf_overrides=fields)
    assert [each for each in answer.warnings if "overridden" in each] == [
        "the overridden field rope_theta changes nothing here",
        "the overridden field max_position_embeddings changes nothing here",
    ]


@pytest.mark.parametrize(
    ("engine", "version", "flags", "words"),
    [
        ("vllm", "", {"rope_scaling": YARN}, r"--hf-overrides '\{\"rope_parameters\": \{\"rope_ty"),
        ("vllm", "0.5.5", {"hf_overrides": {"head_dim": 64}}, "came with 0.6.4"),
        ("vllm", "", {"hf_overrides": {"rope_scaling": YARN}}, "write rope_parameters"),
        ("vllm", "0.11.0", {"hf_overrides": {"rope_parameters": YARN}}, "write rope_scaling"),
        ("vllm", "", {"hf_overrides": {"rope_parameters": {"factor": 4}}}, "has no rope_type"),
        ("vllm", "0.11.0", {"hf_overrides": {"text_config": {"a": 1}}}, "cannot start"),
        (
            "vllm",
            "",
            {"hf_overrides": {"text_config": {"a": 1}}},
            "^--hf-overrides: .*no text_config",
        ),
        ("vllm", "0.11.0", {"rope_scaling": {"factor": 4}}, "^--rope-scaling: .*no rope_type"),
        ("vllm", "", {"hf_overrides": {"mamba_d_state": 64}}, "kind of attention"),
        ("vllm", "", {"hf_overrides": {"num_hidden_layers": "4"}}, "not a whole number"),
        ("vllm", "", {"hf_overrides": '{"a": 1'}, "should be JSON"),
        ("vllm", "", {"hf_overrides": "[1]"}, "should be an object"),
        ("vllm", "", {"hf_overrides": {"a": {1, 2}}}, "holds what JSON cannot"),
        ("vllm", "", {"hf_overrides": {"a": LOOP}}, "holds what JSON cannot"),
        ("sglang", "", {"rope_scaling": YARN}, "--json-model-override-args"),
        ("tensorrt-llm", "", {"hf_overrides": {"a": 1}}, r"edit the model's config\.json"),
        ("llama.cpp", "", {"hf_overrides": {"a": 1}}, "GGUF"),
        ("transformers", "", {"rope_scaling": YARN}, r"edit the model's config\.json"),
    ],
)
def test_what_would_have_no_effect_or_no_meaning_is_refused(config, engine, version, flags, words):
    with pytest.raises(InputError, match=words):
        plan(config(), "h100", engine=engine, engine_version=version, **flags)


def test_what_has_no_config_is_refused():
    with pytest.raises(InputError, match="no published config"):
        plan("gpt3-175b", "h100", hf_overrides={"num_hidden_layers": 2})
