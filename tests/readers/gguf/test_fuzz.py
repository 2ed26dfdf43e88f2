"""Whatever a GGUF header says, it gives a model or one clear line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.readers.gguf.fields import config_from_metadata
from kvsim.readers.gguf.names import FIELDS, MODEL_TYPES
from kvsim.readers.huggingface.config import spec_from_config
from kvsim.specs.model import ModelSpec
from tests.support.needs import examples
from tests.support.refusals import read_or_refused

OWN_WORDS = [
    "nextn_predict_layers", "attention.sliding_window_pattern", "rope.dimension_count",
    "attention.key_length_mla", "attention.value_length_mla", "attention.key_length_swa",
    "attention.value_length_swa", "ssm.time_step_rank", "ssm.inner_size", "ssm.group_count",
    "ssm.state_size", "ssm.conv_kernel", "vocab_size",
]  # fmt: skip
SOUND = {
    "block_count": 6,
    "embedding_length": 32,
    "context_length": 4096,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 12,
    "attention.value_length": 8,
    "attention.kv_lora_rank": 16,
    "attention.sliding_window": 64,
    "rope.dimension_count": 4,
    "vocab_size": 100,
}

scalars = st.one_of(
    st.booleans(),
    st.integers(-1, 8),
    st.sampled_from([2**32 - 1, 2**63, -(2**63), 0]),
    st.floats(),
    st.text(max_size=6),
)
values = scalars | st.lists(scalars, max_size=8)
changes = st.dictionaries(st.sampled_from([*FIELDS, *OWN_WORDS]), st.none() | values, max_size=6)


def spec_of(architecture, content):
    """The model that a header's metadata describes."""
    named = {f"{architecture}.{suffix}": value for suffix, value in content.items()}
    config = config_from_metadata({"general.architecture": architecture, **named}, "t.gguf")
    return spec_from_config(config, name="t.gguf")


def bent(change):
    return {key: value for key, value in {**SOUND, **change}.items() if value is not None}


@settings(max_examples=examples(900))
@given(architecture=st.sampled_from(sorted(MODEL_TYPES)), change=changes)
def test_any_metadata_give_a_model_or_one_line(architecture, change):
    spec, line = read_or_refused(spec_of, architecture, bent(change))
    assert isinstance(spec, ModelSpec) or line


@pytest.mark.parametrize("architecture", sorted(MODEL_TYPES))
def test_each_key_may_be_missing(architecture):
    for key in (*FIELDS, *OWN_WORDS):
        read_or_refused(spec_of, architecture, bent({key: None}))


@pytest.mark.parametrize(
    ("architecture", "change", "line"),
    [
        ("deepseek2", {"attention.head_count": None}, "has no deepseek2.attention.head_count"),
        (
            "deepseek2",
            {"rope.dimension_count": "4"},
            "deepseek2.rope.dimension_count is '4', not a whole number",
        ),
        (
            "gemma4",
            {"attention.key_length": None, "attention.key_length_swa": 4},
            "has no gemma4.attention.key_length",
        ),
        (
            "nemotron_h",
            {"block_count": 2**32 - 1},
            "nemotron_h.block_count is 4294967295, outside 1..10000",
        ),
        ("nemotron_h", {"block_count": 0}, "nemotron_h.block_count is 0, outside 1..10000"),
        (
            "nemotron_h",
            {"attention.head_count_kv": ["a"] * 6},
            "nemotron_h.attention.head_count_kv is 'a', not a whole number",
        ),
        (
            "llama",
            {"nextn_predict_layers": True},
            "llama.nextn_predict_layers is True, not a whole number",
        ),
    ],
)
def test_what_is_wrong_is_named(architecture, change, line):
    assert read_or_refused(spec_of, architecture, bent(change)) == (None, f"t.gguf: {line}")
