"""A GGUF header's metadata as the fields of a config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvsim.errors import InputError, UnsupportedError, nearest
from kvsim.readers.gguf.names import FIELDS, MODEL_TYPES
from kvsim.specs.numbers import shown

__all__ = ["config_from_metadata"]

Config = dict[str, object]
_MOST_LAYERS = 10_000


class _Metadata:
    """The keys of one architecture, without its name in front."""

    def __init__(self, values: Mapping[str, object], architecture: str, where: str) -> None:
        self._values, self._architecture, self.where = values, architecture, where

    def get(self, suffix: str) -> object:
        """Return the value, None when there is none."""
        return self._values.get(f"{self._architecture}.{suffix}")

    def integer(self, suffix: str) -> int:
        """Return a whole number that must be there."""
        value = self.get(suffix)
        if value is None:
            raise InputError(f"has no {self._architecture}.{suffix}", where=self.where)
        return self._whole(suffix, value)

    def layers(self, suffix: str) -> list[int]:
        """Return one whole number for each layer, spreading a single one.

        A file says of each layer too whether it slides: true and false are 1 and 0 here.
        """
        count = self.integer("block_count")
        if not 1 <= count <= _MOST_LAYERS:
            said = f"{self._architecture}.block_count is {count}, outside 1..{_MOST_LAYERS}"
            raise InputError(said, where=self.where)
        value = self.get(suffix)
        if isinstance(value, list) and len(value) >= count:
            numbers = (int(one) if isinstance(one, bool) else one for one in value[:count])
            return [self._whole(suffix, one) for one in numbers]
        return [self.integer(suffix)] * count

    def _whole(self, suffix: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            said = f"{self._architecture}.{suffix} is {shown(value)}, not a whole number"
            raise InputError(said, where=self.where)
        return value


def config_from_metadata(values: Mapping[str, object], where: str) -> Config:
    """Translate a header's metadata.

    Parameters
    ----------
    values : mapping
        Key-value pairs of a GGUF header.
    where : str
        The file, for errors.

    Returns
    -------
    dict
        Fields of a config.json, ``model_type`` among them; without ``vocab_size`` where
        the file leaves it to the tokens.

    Raises
    ------
    InputError
        When the file names no architecture.
    UnsupportedError
        For an architecture, or per-layer head counts, that kvsim cannot translate.
    """
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise InputError("names no general.architecture", where=where)
    if architecture not in MODEL_TYPES:
        close = ", ".join(nearest(architecture, MODEL_TYPES))
        raise UnsupportedError(
            f"{where}: GGUF architecture {architecture[:60]!r} is not known to kvsim"
            f"{f' (near it are {close})' if close else ''}; give the model's config.json instead"
        )
    metadata = _Metadata(values, architecture, where)
    config: Config = {"model_type": MODEL_TYPES[architecture], "architectures": [architecture]}
    for suffix, field in {**FIELDS, "vocab_size": "vocab_size"}.items():
        value = metadata.get(suffix)
        if value is not None:
            config[field] = _uniform(value)
    _drop_drafts(config, metadata)
    _name_windows(config, metadata)
    _OWN_WORDS.get(architecture, _nothing_more)(config, metadata)
    _refuse_arrays(config, architecture, where)
    return config


def _uniform(value: object) -> object:
    """A list of one value repeated is that value."""
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        return value[0]
    return value


def _drop_drafts(config: Config, metadata: _Metadata) -> None:
    """Blocks of multi-token prediction are counted by GGUF and are no layers of the model."""
    if metadata.get("nextn_predict_layers") is None:
        return
    drafts = metadata.integer("nextn_predict_layers")
    if drafts:
        config["num_hidden_layers"] = metadata.integer("block_count") - drafts


def _name_windows(config: Config, metadata: _Metadata) -> None:
    """A pattern is a period, or says of each layer whether it slides."""
    pattern = metadata.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        slides = metadata.layers("attention.sliding_window_pattern")
        config["layer_types"] = ["sliding_attention" if one else "full_attention" for one in slides]
    elif pattern is not None:
        config["sliding_window_pattern"] = pattern
    if not config.get("sliding_window"):
        config.pop("sliding_window", None)


def _refuse_arrays(config: Config, architecture: str, where: str) -> None:
    left = next((k for k, v in config.items() if isinstance(v, list) and _is_numbers(v)), None)
    if left is not None:
        raise UnsupportedError(
            f"{where}: {left} differs between the layers of this {architecture!r} file,"
            " which kvsim cannot translate; give the model's config.json instead"
        )


def _is_numbers(values: list[object]) -> bool:
    return all(isinstance(value, int) for value in values)


def _nothing_more(config: Config, metadata: _Metadata) -> None:
    """Most architectures need no word of their own."""


def _deepseek2(config: Config, metadata: _Metadata) -> None:
    """Newer files describe the latent cache as one wide head, and keep the real dims apart."""
    rope = metadata.integer("rope.dimension_count")
    newer = metadata.get("attention.key_length_mla") is not None
    suffix = "_mla" if newer else ""
    config["qk_rope_head_dim"] = rope
    config["qk_nope_head_dim"] = metadata.integer(f"attention.key_length{suffix}") - rope
    config["v_head_dim"] = metadata.integer(f"attention.value_length{suffix}")
    config["num_key_value_heads"] = metadata.integer("attention.head_count")
    config.pop("head_dim", None)


def _llama4(config: Config, metadata: _Metadata) -> None:
    """Llama 4 calls the dense width `intermediate_size_mlp`, the expert's plainly."""
    config["intermediate_size_mlp"] = config.pop("intermediate_size", None)
    config["intermediate_size"] = config.pop("moe_intermediate_size", None)


def _delta_net(config: Config, metadata: _Metadata) -> None:
    """Qwen3-Next and Qwen3.5 write the gated delta net in the words of a state space."""
    value_heads = metadata.integer("ssm.time_step_rank")
    config["linear_num_value_heads"] = value_heads
    config["linear_value_head_dim"] = metadata.integer("ssm.inner_size") // max(1, value_heads)
    config["linear_num_key_heads"] = metadata.integer("ssm.group_count")
    config["linear_key_head_dim"] = metadata.integer("ssm.state_size")
    config["linear_conv_kernel_dim"] = metadata.integer("ssm.conv_kernel")
    _first_kv_heads(config, metadata)


def _nemotron_h(config: Config, metadata: _Metadata) -> None:
    """Attention layers have KV heads, MLP layers a width, Mamba-2 layers neither."""
    kv_heads = metadata.layers("attention.head_count_kv")
    widths = metadata.layers("feed_forward_length")
    config["hybrid_override_pattern"] = "".join(
        "*" if kv else "-" if width else "M" for kv, width in zip(kv_heads, widths, strict=True)
    )
    heads = metadata.integer("ssm.time_step_rank")
    config["mamba_num_heads"] = heads
    config["mamba_head_dim"] = metadata.integer("ssm.inner_size") // max(1, heads)
    config["ssm_state_size"] = metadata.integer("ssm.state_size")
    config["n_groups"] = metadata.integer("ssm.group_count")
    config["conv_kernel"] = metadata.integer("ssm.conv_kernel")
    config["num_key_value_heads"] = max(kv_heads)
    config["num_attention_heads"] = max(metadata.layers("attention.head_count"))
    config["intermediate_size"] = max(widths)


def _first_kv_heads(config: Config, metadata: _Metadata) -> None:
    """Where linear layers are written with no KV heads, the others' count is the model's."""
    counts = set(metadata.layers("attention.head_count_kv")) - {0}
    if len(counts) == 1:
        config["num_key_value_heads"] = counts.pop()


def _gemma4(config: Config, metadata: _Metadata) -> None:
    """Full layers have heads of their own: fewer, and wider."""
    config["global_head_dim"] = metadata.integer("attention.key_length")
    config["head_dim"] = metadata.integer("attention.key_length_swa")
    config["swa_v_head_dim"] = metadata.integer("attention.value_length_swa")
    slides = metadata.layers("attention.sliding_window_pattern")
    kv_heads = metadata.layers("attention.head_count_kv")
    for field, wanted in (("num_key_value_heads", True), ("num_global_key_value_heads", False)):
        counts = [kv for kv, one in zip(kv_heads, slides, strict=True) if bool(one) is wanted]
        config[field] = _uniform(counts)


_OWN_WORDS: dict[str, Callable[[Config, _Metadata], None]] = {
    "deepseek2": _deepseek2,
    "llama4": _llama4,
    "qwen3next": _delta_net,
    "qwen35": _delta_net,
    "qwen35moe": _delta_net,
    "nemotron_h": _nemotron_h,
    "gemma4": _gemma4,
}
