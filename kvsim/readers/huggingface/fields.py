"""Typed access to a config's fields: every number is checked where it is read.

Configs spell one fact in many ways; `canonical` renames the older spellings once, so that
the rest of the readers knows a single name for each fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from kvsim.errors import InputError
from kvsim.specs.numbers import shown

__all__ = ["Fields", "canonical"]

_SPELLINGS = {
    "hidden_size": ("n_embd", "d_model", "n_embed", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": (
        "num_kv_heads",
        "n_head_kv",
        "multi_query_group_num",
        "num_attention_groups",
    ),
    "swa_num_attention_heads": ("num_sliding_attention_heads",),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "head_dim": ("attention_head_dim", "kv_channels", "d_kv"),
    "max_position_embeddings": (
        "n_positions",
        "n_ctx",
        "max_seq_len",
        "seq_length",
        "max_sequence_length",
    ),
    "vocab_size": ("padded_vocab_size",),
    "num_experts_per_tok": (
        "experts_per_token",
        "top_k_experts",
        "num_experts_per_token",
        "moe_top_k",
    ),
    "num_experts": ("n_routed_experts", "num_local_experts", "n_experts", "moe_num_experts"),
    "sliding_window_pattern": ("_sliding_window_pattern",),
    "sliding_window": ("sliding_window_size",),
    "layer_types": ("layers_block_type",),
    "dtype": ("torch_dtype",),
}

_LARGEST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "hidden_size": 1_000_000,
    "num_experts": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
    "engram_num_embeddings": 100_000_000_000,
    "model_max_length": 1_000_000_000,
}
_LARGEST_OTHERWISE = 10_000_000


def canonical(config: Mapping[str, object]) -> dict[str, object]:
    """Rename older spellings of a field; the modern one wins where both are set.

    Examples
    --------
    >>> canonical({"n_embd": 768, "n_head": 12})
    {'hidden_size': 768, 'num_attention_heads': 12}
    """
    fields = dict(config)
    for modern, older in _SPELLINGS.items():
        for spelling in older:
            value = fields.pop(spelling, None)
            if value is not None and fields.get(modern) is None:
                fields[modern] = value
    return fields


class Fields:
    """The fields of one config, with the family's defaults beneath them.

    A field that is absent or null is missing; an explicit null hides the default.

    Parameters
    ----------
    config : mapping
        Fields in their canonical spelling.
    defaults : mapping
        What the architecture's own configuration class takes when a key is absent.
    where : str
        Named in every error.
    """

    def __init__(
        self, config: Mapping[str, object], defaults: Mapping[str, object], where: str
    ) -> None:
        self._values = {**defaults, **config}
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> object:
        """Return the raw value, None when missing."""
        return self._values.get(key)

    def names(self) -> list[str]:
        """Names of the fields that are set."""
        return [key for key, value in self._values.items() if value is not None]

    @property
    def content(self) -> Mapping[str, object]:
        """All fields by name."""
        return self._values

    def error(self, what: str, fix: str = "") -> InputError:
        """Make an error that names this config."""
        return InputError(what, where=self.where, fix=fix)

    def integer(self, key: str, default: int | None = None, *, at_least: int = 1) -> int:
        """Read a whole number.

        Raises
        ------
        InputError
            When it is missing without a default, not a whole number, or absurd.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(f"the config has no {key}", f"add {key!r}")
        return self._checked(key, value, at_least)

    def optional_integer(self, key: str, *, at_least: int = 1) -> int | None:
        """Read a whole number that may be missing."""
        value = self._values.get(key)
        return None if value is None else self._checked(key, value, at_least)

    def first_integer(self, *keys: str, default: int) -> int:
        """Read the first of several fields that is set, 0 allowed."""
        found = next((key for key in keys if key in self), None)
        return default if found is None else self.integer(found, at_least=0)

    def flag(self, key: str, default: bool = False) -> bool:
        """Read a true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{key} is {shown(value)}, not true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """Read a string."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(f"{key} is {shown(value)}, not a word")
        return value

    def words(self, key: str) -> list[str]:
        """Read a list of strings; empty when missing."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} is {shown(value)}, not a list of words")
        return value

    def integers(self, key: str) -> list[int]:
        """Read a list of whole numbers from 0; empty when missing."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(f"{key} is {shown(value)}, not a list of whole numbers")
        return [self._checked(key, item, 0) for item in value]

    def inner(self, key: str) -> Fields:
        """Read a nested object; empty when missing."""
        value = self._values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(f"{key} is {shown(value)}, not an object")
        return Fields(value, {}, f"{self.where}: {key}")

    def objects(self, key: str) -> list[Fields]:
        """Read a list of nested objects, each named by its place; empty when missing."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.error(f"{key} is {shown(value)}, not a list of objects")
        return [Fields(item, {}, f"{self.where}: {key}[{at}]") for at, item in enumerate(value)]

    def per_layer(self, key: str, values: Sized, layers: int) -> None:
        """Check that a list says something about each layer.

        Raises
        ------
        InputError
            When it is longer or shorter than the model.
        """
        if len(values) != layers:
            raise self.error(f"{key} describes {len(values)} layers, num_hidden_layers is {layers}")

    def _checked(self, key: str, value: object, at_least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{key} is {shown(value)}, not a whole number")
        largest = _LARGEST.get(key, _LARGEST_OTHERWISE)
        if not at_least <= value <= largest:
            raise self.error(f"{key} is {shown(value)}, outside {at_least}..{largest}")
        return value
