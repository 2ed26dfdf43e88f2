"""Whatever a config holds, reading it gives a model or a `KVSimError`: never a traceback."""

import copy
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.catalog import models
from kvsim.errors import KVSimError
from kvsim.memory.footprint import bytes_per_token
from kvsim.readers.huggingface.config import spec_from_config, spec_from_json_file
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import kv_format
from tests.support.needs import examples

CONFIGS = {
    name: yaml.safe_load((models._FOLDER / f"{name}.yaml").read_text("utf-8"))["config"]
    for name in (
        "deepseek-v3.2",
        "deepseek-v4-flash",
        "deepseek-v4.1-flash",
        "falcon-7b",
        "gemma3n-e4b",
        "gemma4-26b-a4b",
        "glm-5.2",
        "gpt-oss-20b",
        "gpt2",
        "jamba-v0.1",
        "kimi-k2-thinking",
        "kimi-linear-48b-a3b",
        "glm-5.3-flash",
        "llama3.2-11b-vision",
        "llama4-scout",
        "mimo-v2-flash",
        "minimax-m3",
        "minimax-text-01",
        "mpt-30b",
        "nemotron-3-nano-30b-a3b",
        "qwen2.5-7b",
        "qwen3.5-27b",
        "qwen3-vl-8b",
        "t5-base",
        "whisper-large-v3",
    )
}
KEYS = sorted({key for config in CONFIGS.values() for key in config} | {"text_config", "rwkv"})

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.integers(),
    st.just(10**4000),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["full_attention", "linear_attention", "gpt2", "bert", "M*-E", "auto", "fp8"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def paths(config, prefix=()):
    """Every place in a config, innermost included."""
    for key, value in config.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@st.composite
def mutated(draw):
    """Return a real config in which a few places hold something else, or nothing."""
    config = copy.deepcopy(CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))])
    for _ in range(draw(st.integers(1, 4))):
        places = sorted(paths(config))
        if not places:
            break
        *outer, key = draw(st.sampled_from(places))
        holder = config
        for step in outer:
            holder = holder[step]
        if draw(st.booleans()):
            del holder[key]
        else:
            holder[draw(st.sampled_from(KEYS) | st.just(key))] = draw(values)
    return config


def model_or_refusal(read):
    """Return the model, or None where it was refused in one line."""
    try:
        model = read()
    except KVSimError as error:
        model, line = None, str(error)
    else:
        line = ""
    assert "\n" not in line
    assert len(line) < 1000
    assert model is None or isinstance(model, ModelSpec)
    return model


@settings(max_examples=examples(600))
@given(mutated())
def test_a_mutated_config_is_read_or_refused(config):
    model = model_or_refusal(lambda: spec_from_config(config, name="fuzzed"))
    if model is None:
        return
    layers = sorted(layer for group in model.layer_groups for layer in group.layers)
    assert layers == list(range(model.num_layers))
    assert bytes_per_token(model, kv_format("bf16")) >= 0


@settings(max_examples=examples(200))
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), values, max_size=12) | values)
def test_any_mapping_is_read_or_refused(config):
    model_or_refusal(lambda: spec_from_config(config, name="fuzzed"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "config.json"


@settings(max_examples=examples(200))
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(file, data):
    text = json.dumps(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))]).encode()
    cut = data.draw(st.integers(0, len(text)))
    file.write_bytes(text[:cut] + data.draw(st.binary(max_size=6)) + text[cut + 1 :])
    model_or_refusal(lambda: spec_from_json_file(file))


@settings(max_examples=examples(200))
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(file, content):
    file.write_bytes(content)
    assert model_or_refusal(lambda: spec_from_json_file(file)) is None
