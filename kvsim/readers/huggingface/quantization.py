"""A config's ``quantization_config``: which weight format, and which matrices it spares.

It says how *weights* are stored. It never decides the KV cache's format.
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.readers.huggingface.fields import Fields

__all__ = ["Quantization", "quantization_of"]

_FAMILIES = ("attention", "mlp", "experts")
_SPARED_LISTS = (
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "llm_int8_skip_modules",
)
_FIXED = {"fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}


class Quantization(NamedTuple):
    """How a checkpoint's weights are stored.

    Parameters
    ----------
    name : str or None
        A `kvsim.specs.precision.WeightFormat` name; None when nothing is quantised.
    families : tuple of str or None
        Tensor families that the format applies to; None is all matrices inside layers.
    """

    name: str | None = None
    families: tuple[str, ...] | None = None


def quantization_of(fields: Fields) -> Quantization:
    """Read ``quantization_config`` (or compressed-tensors' older ``compression_config``).

    Raises
    ------
    InputError
        For a method or a bit width that is not known, named.
    """
    key = "quantization_config" if "quantization_config" in fields else "compression_config"
    if key not in fields:
        return Quantization()
    config = fields.inner(key)
    if fields.text("expert_dtype") == "fp4":
        return Quantization("mxfp4", ("experts",))  # DeepSeek-V4: 97 % of its weights
    name = _format(config)
    return Quantization(name, _families(config, fields.integer("num_hidden_layers")))


def _format(config: Fields) -> str:
    method = config.text("quant_method").lower()
    if method in _FIXED:
        return _FIXED[method]
    if method == "fp8":
        return "fp8_block" if "weight_block_size" in config else "fp8"
    if method in {"awq", "gptq", "auto-round", "intel/auto-round", "gptqmodel"}:
        return _by_bits(config, method, "awq" if method == "awq" else "gptq")
    if method == "bitsandbytes":
        return "int8" if config.flag("load_in_8bit") else "bitsandbytes"
    if method.startswith("modelopt") or "quant_algo" in config:
        return _modelopt(config)
    if method in {"compressed-tensors", "compressed_tensors"}:
        return _compressed_tensors(config)
    raise config.error(
        f"quant_method {method!r} is not known",
        "known are fp8, awq, gptq, bitsandbytes, compressed-tensors, mxfp4 and modelopt",
    )


def _by_bits(config: Fields, method: str, four_bits: str) -> str:
    bits = config.integer("bits", config.integer("w_bit", 4))
    if bits not in {4, 8}:
        raise config.error(f"{method} with {bits} bits is not known", "known are 4 and 8")
    return four_bits if bits == 4 else "int8"


def _modelopt(config: Fields) -> str:
    algorithm = config.text("quant_algo", config.text("quant_method")).lower()
    for word in ("nvfp4", "fp8", "mxfp4"):
        if word in algorithm:
            return word
    raise config.error(f"quant_algo {algorithm!r} is not known", "known are FP8, NVFP4 and MXFP4")


def _compressed_tensors(config: Fields) -> str:
    layout = config.text("format")
    for word in ("nvfp4", "mxfp4"):
        if layout.startswith(word):
            return word
    groups = config.inner("config_groups")
    first = next(iter(groups.names()), None)
    if first is None:
        raise config.error("has no config_groups")
    weights = groups.inner(first).inner("weights")
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    if bits == 8:
        block = weights.text("strategy") == "block"
        return "int8" if kind == "int" else "fp8_block" if block else "fp8"
    if bits != 4 or kind != "int":
        raise config.error(f"{bits}-bit {kind} weights are not known")
    return "int4" if weights.integer("group_size", 128) <= 32 else "gptq"


def _families(config: Fields, layers: int) -> tuple[str, ...] | None:
    """Leave out the families that a list of spared modules covers in every layer."""
    spared = [name for key in _SPARED_LISTS for name in config.words(key)]
    kept = tuple(family for family in _FAMILIES if not _covers(spared, family, layers))
    return None if kept == _FAMILIES else kept


def _covers(spared: list[str], family: str, layers: int) -> bool:
    """Whether the names spare a family: by one pattern, or layer by layer."""
    numbers: set[str] = set()
    for name in spared:
        if _family_of(name) != family:
            continue
        number = next((part for part in name.split(".") if part.isdigit()), None)
        if number is None:
            return True
        numbers.add(number)
    return len(numbers) >= layers


def _family_of(name: str) -> str | None:
    r"""Which whole family a module name or pattern stands for; None for parts and others.

    Examples
    --------
    >>> _family_of("model.layers.*.self_attn"), _family_of("re:.*shared_experts.*")
    ('attention', None)
    >>> _family_of("re:.*mlp\\.(gate|up|gate_up|down)_proj.*")
    'mlp'
    """
    stem = name.lower().rstrip(".*$")
    if "vision" in stem or "visual" in stem or "shared_expert" in stem:
        return None
    if stem.endswith(("self_attn", "attention")):
        return "attention"
    if stem.endswith("experts"):
        return "experts"
    if stem.endswith(".mlp") or ("mlp" in stem and stem.endswith("_proj") and "(" in stem):
        return "mlp"
    return None
