"""Which kind each layer of a config is, resolved one layer at a time.

::

    layer_types             ["sliding_attention", "full_attention", ...]   named one by one
    sliding_window_pattern  6    every sixth layer is full                 Gemma 2/3, Cohere 2
    full_attention_interval 4    every fourth layer is full                Qwen3-Next, Qwen3.5
    hybrid_override_pattern "M-M-M-M*-"  Mamba-2, MLP and attention        Nemotron-H
    compress_ratios         [0, 0, 4, 128, ...]                            DeepSeek-V4
    sparse_attention_freq   [0, 0, 0, 1, 1, ...]                           MiniMax-M3

A kind that is not known is an error that names it, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields
from kvsim.readers.huggingface.indexers import shared_indexers
from kvsim.readers.huggingface.sources import sourced_layers

__all__ = ["LayerKind", "idle_window", "layer_kinds"]

_Entry = TypeVar("_Entry", int, str)


class LayerKind(NamedTuple):
    """What one layer is.

    Parameters
    ----------
    name : str
        "full", "sliding", "chunked", "block_sparse", "latent", "compressed", "sourced", "linear",
        "mamba", "mamba2", "parallel" (attention beside Mamba-2), "mlp" or "moe".
    ratio : int
        Tokens a compressed state (``compressed`` and ``sourced`` only).
    kv_heads : int
        KV heads where layers differ in them; 0 is the config's own number.
    shares_indexer : bool
        Whether an earlier layer picks the tokens to read (``latent`` only).
    is_source, picks : bool
        Whether it keeps the states that it reads, and picks them itself (``sourced`` only).
    """

    name: str
    ratio: int = 0
    kv_heads: int = 0
    shares_indexer: bool = False
    is_source: bool = False
    picks: bool = False


_WORDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "mamba2",
    "mamba2": "mamba2",
    "mlp": "mlp",
    "moe": "moe",
}
_GLM5_WORDS = {"linear_attention": "linear", "deepseek_sparse_attention": "latent"}
# Fields by which layers differ, or keep something else than keys and values.
_LAYER_RULES = (
    "layer_types",
    "sliding_window_pattern",
    "kv_lora_rank",
    "full_attention_interval",
)
_LETTERS = {"M": "mamba2", "*": "full", "-": "mlp", "E": "moe"}


def layer_kinds(fields: Fields, family: Family) -> list[LayerKind]:
    """Tell the kind of every layer, in order.

    Raises
    ------
    InputError
        For a kind that is not known, or a pattern that does not fit the layers.
    """
    count = fields.integer("num_hidden_layers")
    names = _LAYOUTS[family.layout](fields, count)
    if family.layout == "compressed":
        return [LayerKind("compressed", ratio) for ratio in _compress_ratios(fields, count)]
    if family.layout == "sourced":
        return [
            LayerKind("sourced", layer.ratio, is_source=layer.is_source, picks=layer.picks)
            for layer in sourced_layers(fields, _compress_ratios(fields, count))
        ]
    if "linear" in names and family.linear is None:
        raise fields.error(
            "linear_attention layers of this model_type are not known",
            "known are those of qwen3_next, qwen3_5, minimax_text_01, kimi_linear and glm5_next",
        )
    shares = shared_indexers(fields, count)
    return [
        LayerKind(name, shares_indexer=name == "latent" and shared)
        for name, shared in zip(names, shares, strict=True)
    ]


def _uniform(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return _from_words(fields, count)
    if "kv_lora_rank" in fields:
        return ["latent"] * count
    if "full_attention_interval" in fields:
        return _every(fields.integer("full_attention_interval"), count, otherwise="linear")
    return _windowed(fields, count)


def _from_words(fields: Fields, count: int) -> list[str]:
    words = _of_decoder(fields, "layer_types", fields.words("layer_types"), count)
    strange = next((word for word in words if word not in _WORDS), None)
    if strange is not None:
        known = ", ".join(sorted(_WORDS))
        raise fields.error(f"layer_types names the kind {strange!r}", f"known kinds are {known}")
    full = "latent" if "kv_lora_rank" in fields else "full"
    return [full if _WORDS[word] == "full" else _WORDS[word] for word in words]


def idle_window(fields: Fields, family: Family) -> int | None:
    """A window of all layers that no context outgrows, so that they are read as full."""
    if family.layout != "uniform" or any(key in fields for key in _LAYER_RULES):
        return None
    window = _window(fields)
    outlasts = window is not None and window >= fields.integer("max_position_embeddings")
    return window if outlasts else None


def _window(fields: Fields) -> int | None:
    window = fields.optional_integer("sliding_window")
    return window if fields.flag("use_sliding_window", default=True) else None


def _windowed(fields: Fields, count: int) -> list[str]:
    window = _window(fields)
    if window is None:
        return ["full"] * count
    if "sliding_window_pattern" in fields:
        return _every(fields.integer("sliding_window_pattern"), count, otherwise="sliding")
    if window >= fields.integer("max_position_embeddings"):
        return ["full"] * count  # a window that no context outgrows
    first = fields.first_integer("max_window_layers", default=0) if _opted_in(fields) else 0
    return ["full" if i < first else "sliding" for i in range(count)]


def _opted_in(fields: Fields) -> bool:
    """Whether ``use_sliding_window`` is set: only then does ``max_window_layers`` count."""
    return fields.flag("use_sliding_window")


def _every(period: int, count: int, *, otherwise: str) -> list[str]:
    return ["full" if (i + 1) % period == 0 else otherwise for i in range(count)]


def _gemma4(fields: Fields, count: int) -> list[str]:
    kinds = _from_words(fields, count) if "layer_types" in fields else _windowed(fields, count)
    return [*kinds[:-1], "full"]  # transformers makes the last layer full, whatever the list says


def _llama4(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return _from_words(fields, count)
    rope = fields.integers("no_rope_layers")  # 1 where the layer has rotary positions
    if not rope:
        period = fields.integer("no_rope_layer_interval")
        rope = [int((i + 1) % period != 0) for i in range(count)]
    fields.per_layer("no_rope_layers", rope, count)
    return ["chunked" if has_rope else "full" for has_rope in rope]


def _nemotron_h(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return _from_words(fields, count)
    if "hybrid_override_pattern" not in fields:
        raise fields.error("the config has no hybrid_override_pattern")
    pattern = fields.text("hybrid_override_pattern")
    fields.per_layer("hybrid_override_pattern", pattern, count)
    strange = next((letter for letter in pattern if letter not in _LETTERS), None)
    if strange is not None:
        raise fields.error(
            f"hybrid_override_pattern names the kind {strange!r}",
            "known are M (Mamba-2), * (attention), - (MLP) and E (experts)",
        )
    return [_LETTERS[letter] for letter in pattern]


def _mimo(fields: Fields, count: int) -> list[str]:
    pattern = fields.integers("hybrid_layer_pattern")
    fields.per_layer("hybrid_layer_pattern", pattern, count)
    return ["sliding" if windowed else "full" for windowed in pattern]


def _compressed(fields: Fields, count: int) -> list[str]:
    return ["compressed"] * count


def _compress_ratios(fields: Fields, count: int) -> list[int]:
    return _of_decoder(fields, "compress_ratios", fields.integers("compress_ratios"), count)


def _of_decoder(fields: Fields, key: str, entries: list[_Entry], count: int) -> list[_Entry]:
    """One entry per layer; further ones belong to the multi-token-prediction layers."""
    drafts = fields.first_integer("num_nextn_predict_layers", default=0)
    if not count <= len(entries) <= count + drafts:
        fields.per_layer(key, entries, count)
    return entries[:count]


def _jamba(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return ["mamba" if n == "mamba2" else n for n in _from_words(fields, count)]
    period = fields.integer("attn_layer_period")
    offset = fields.integer("attn_layer_offset", at_least=0)
    return ["full" if i % period == offset else "mamba" for i in range(count)]


def _bamba(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return _from_words(fields, count)
    if "attn_layer_indices" not in fields:
        raise fields.error("the config has neither layer_types nor attn_layer_indices")
    attention = set(fields.integers("attn_layer_indices"))
    return ["full" if i in attention else "mamba2" for i in range(count)]


def _minimax_text(fields: Fields, count: int) -> list[str]:
    if "layer_types" in fields:
        return _from_words(fields, count)
    codes = fields.integers("attn_type_list")
    fields.per_layer("attn_type_list", codes, count)
    if set(codes) - {0, 1}:
        raise fields.error(f"attn_type_list names the kind {max(codes)}", "0 linear, 1 full")
    return ["full" if code else "linear" for code in codes]


def _minimax_m3(fields: Fields, count: int) -> list[str]:
    sparse = fields.inner("sparse_attention_config")
    if "sparse_attention_freq" not in sparse:
        raise fields.error(
            "the config has no sparse_attention_config with a sparse_attention_freq",
            "releases of its configuration class differ in what they take instead: state both",
        )
    frequencies = sparse.integers("sparse_attention_freq")
    fields.per_layer("sparse_attention_freq", frequencies, count)
    return ["block_sparse" if frequency else "full" for frequency in frequencies]


def _kimi_linear(fields: Fields, count: int) -> list[str]:
    linear = fields.inner("linear_attn_config")
    full = set(linear.integers("full_attn_layers"))  # counted from 1
    delta = set(linear.integers("kda_layers"))
    missing = sorted(set(range(1, count + 1)) - full - delta)
    if missing:
        raise fields.error(f"linear_attn_config gives layer {missing[0]} no kind")
    return ["latent" if i + 1 in full else "linear" for i in range(count)]


def _glm5_next(fields: Fields, count: int) -> list[str]:
    """By ``layer_types``; the lists of ``linear_attn_config``, from 0 here, must say the same."""
    words = _of_decoder(fields, "layer_types", fields.words("layer_types"), count)
    strange = next((word for word in words if word not in _GLM5_WORDS), None)
    if strange is not None:
        raise fields.error(
            f"layer_types names the kind {strange!r}", f"known are {', '.join(_GLM5_WORDS)}"
        )
    kinds = [_GLM5_WORDS[word] for word in words]
    linear = fields.inner("linear_attn_config")
    for key, kind in (("kda_layers", "linear"), ("full_attn_layers", "latent")):
        own = [layer for layer in range(count) if kinds[layer] == kind]
        if key in linear and linear.integers(key) != own:
            raise linear.error(f"{key} names other layers than layer_types does")
    return kinds


def _parallel(fields: Fields, count: int) -> list[str]:
    return ["parallel"] * count


_LAYOUTS: dict[str, Callable[[Fields, int], list[str]]] = {
    "uniform": _uniform,
    "gemma4": _gemma4,
    "llama4": _llama4,
    "nemotron_h": _nemotron_h,
    "mimo": _mimo,
    "compressed": _compressed,
    "sourced": _compressed,
    "jamba": _jamba,
    "bamba": _bamba,
    "falcon_h1": _parallel,
    "minimax_text": _minimax_text,
    "minimax_m3": _minimax_m3,
    "kimi_linear": _kimi_linear,
    "glm5_next": _glm5_next,
}
