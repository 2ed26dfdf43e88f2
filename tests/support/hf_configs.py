"""A config.json to change, and what kvsim makes of one: shared by the tests of the readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvsim.readers.huggingface.config import spec_from_config
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import kv_format

BF16 = kv_format("bf16")


def llama(**changes: Any) -> dict[str, Any]:
    """Llama-3-8B's shape; "absent" takes a field away."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    return {key: value for key, value in (config | changes).items() if value != "absent"}


def read(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a config describes."""
    return spec_from_config(config, name="the model")


def only_cache(config: Mapping[str, Any]) -> Attention:
    """The cache that all of its layers have."""
    (group,) = read(config).layer_groups
    (cache,) = group.caches
    return cache


def counts(config: Mapping[str, Any]) -> dict[str, int]:
    """How many layers each of its groups has."""
    return {group.name: group.count for group in read(config).layer_groups}


def stored(spec: ModelSpec) -> dict[str, str | None]:
    """The families that are stored otherwise than in the main format."""
    return {each.family: each.format for each in spec.family_formats}
