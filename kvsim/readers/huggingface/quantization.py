"""A config's ``quantization_config``: the weight format of each family of tensors.

::

    method ─▶ rule: matrix ─▶ format    modules_of: the matrices ─▶ a format a family and layer

A family of which one layer's matrices differ is refused: a plan would have to guess. It says
how *weights* are stored. What a checkpoint asks of the KV cache it says apart (`declared_kv`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kvsim.errors import UnsupportedError
from kvsim.readers.huggingface.declared_kv import declared_kv
from kvsim.readers.huggingface.fields import Fields
from kvsim.readers.huggingface.module_lists import (
    Covers,
    ModuleList,
    exactly,
    like_modelopt,
    whole_words,
)
from kvsim.readers.huggingface.modules import Module, modules_of
from kvsim.specs.model import (
    QUANTISED_FAMILIES,
    DeclaredKV,
    FamilyFormat,
    FamilyName,
    LayerGroup,
)

__all__ = ["Quantization", "quantization_of", "states_quantization"]

_KEYS = ("quantization_config", "compression_config")
_SPARED_LISTS = (
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "llm_int8_skip_modules",
)
_FIXED = {"fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}
# vLLM's LINEAR_ALGOS (quantization/modelopt.py), and ModelOpt's own words for 4 bits.
_MODELOPT = {
    "fp8": "fp8",
    "fp8_per_channel_per_token": "fp8",
    "fp8_pb_wo": "fp8_block",
    "fp8_block_scales": "fp8_block",
    "nvfp4": "nvfp4",
    "nvfp4_awq": "nvfp4",
    "modelopt_fp4": "nvfp4",
    "w4a16_nvfp4": "w4a16_nvfp4",
    "mxfp8": "mxfp8",
    "modelopt_mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "w4a8_mxfp4_fp8": "mxfp4",
}
_MIXED = "mixed_precision"
# Families that are loaded in the model's dtype whatever a checkpoint stores: GLM-5.3's projections
# are made without a quantisation, and FP8 ones dequantised (vLLM 0.33, models/glm5next/common).
_LOADED_PLAIN: dict[str, tuple[FamilyName, ...]] = {
    "glm5_next": ("attention", "attention_output", "recurrent"),
}

# Which format a matrix is stored in; None is left in the model's dtype.
_Rule = Callable[[Module], str | None]


class Quantization(NamedTuple):
    """How a checkpoint's weights are stored.

    Parameters
    ----------
    name : str or None
        A `kvsim.specs.precision.WeightFormat` name; None when nothing is quantised.
    family_formats : tuple of FamilyFormat
        The families that are stored otherwise.
    note : str
        What had to be assumed, or "".
    declared_kv : DeclaredKV or None
        The KV cache format that it asks for.
    """

    name: str | None = None
    family_formats: tuple[FamilyFormat, ...] = ()
    note: str = ""
    declared_kv: DeclaredKV | None = None


def states_quantization(config: Mapping[str, object]) -> bool:
    """Whether a config says itself how its weights are stored, outside or in its text part."""
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    return any(part.get(key) is not None for part in parts for key in _KEYS)


def quantization_of(fields: Fields, groups: Sequence[LayerGroup], layout: str) -> Quantization:
    """Read ``quantization_config`` (or compressed-tensors' older ``compression_config``).

    Parameters
    ----------
    fields : Fields
        The text part of a config.
    groups : sequence of LayerGroup
        The layers that it describes.
    layout : str
        The layout of its architecture.

    Raises
    ------
    InputError
        For a method or a bit width that is not known, named.
    UnsupportedError
        For a family that one layer stores in several formats.
    """
    key = next((key for key in _KEYS if key in fields), None)
    if key is None:
        return Quantization()
    config = fields.inner(key)
    declared = declared_kv(config)
    if "quantization" in config:  # hf_quant_config.json
        config = config.inner("quantization")
    rule, note = _rule(config, config.text("expert_dtype", fields.text("expert_dtype")))
    modules = modules_of(groups, layout, has_head=not fields.flag("tie_word_embeddings"))
    formats: dict[FamilyName, dict[int | None, str | None]] = {}
    for module in modules:
        loaded_plain = module.family in _LOADED_PLAIN.get(layout, ())
        name = None if loaded_plain else rule(module)
        layers = formats.setdefault(module.family, {})
        if layers.setdefault(module.layer, name) != name:
            raise _mixed_layer(fields, module, {name, layers[module.layer]})
    return _summary(formats, note)._replace(declared_kv=declared)


def _mixed_layer(fields: Fields, module: Module, names: set[str | None]) -> UnsupportedError:
    words = " and ".join(sorted(name or "unquantised" for name in names))
    return UnsupportedError(
        f"{fields.where}: the {module.family} matrices of its layer {module.layer} are stored as"
        f" {words}, where kvsim knows one format a family; name the model it was made from, with"
        " --quantization"
    )


def _summary(
    formats: Mapping[FamilyName, Mapping[int | None, str | None]], note: str
) -> Quantization:
    """Name the format of the largest family, and what differs from it."""
    usual = {family: _usual(layers.values()) for family, layers in formats.items()}
    inside = [family for family in QUANTISED_FAMILIES if family in formats]
    main = next((usual[family] for family in inside if usual[family]), None)
    found = [
        each for family in inside for each in _unlike(family, formats[family], usual[family], main)
    ]
    if head := usual.get("output_head"):  # a main format leaves it as it is
        found.append(FamilyFormat(family="output_head", format=head))
    return Quantization(main, tuple(found), note)


def _usual(names: Collection[str | None]) -> str | None:
    """The format of most layers."""
    return Counter(names).most_common(1)[0][0]


def _unlike(
    family: FamilyName,
    formats: Mapping[int | None, str | None],
    usual: str | None,
    main: str | None,
) -> Iterator[FamilyFormat]:
    """How a family differs from the main format: single layers first, as the first holds."""
    for name in dict.fromkeys(formats.values()):
        if name != usual:
            layers = sorted(
                layer for layer, own in formats.items() if own == name and layer is not None
            )
            yield FamilyFormat(family=family, format=name, layers=tuple(layers))
    if usual != main:
        yield FamilyFormat(family=family, format=usual)


def _rule(config: Fields, expert_dtype: str) -> tuple[_Rule, str]:
    """How the checkpoint's method stores a matrix, and what had to be assumed."""
    method = config.text("quant_method").lower()
    if method == "fp8" and expert_dtype == "fp4":
        return _fp4_experts(config), ""
    if method.startswith("modelopt") or (not method and "quant_algo" in config):
        return _modelopt(config)
    if method in {"compressed-tensors", "compressed_tensors"}:
        return _compressed_tensors(config), ""
    return _inside_layers(_format(config, method), _spared(config, whole_words)), ""


def _spared(config: Fields, meaning: Callable[[str], Covers]) -> ModuleList:
    return _list(config, [name for key in _SPARED_LISTS for name in config.words(key)], meaning)


def _list(config: Fields, names: Iterable[str], meaning: Callable[[str], Covers]) -> ModuleList:
    try:
        return ModuleList(names, meaning)
    except re.error as error:
        raise config.error(f"a name in its lists is no regular expression: {error}") from None


def _inside_layers(name: str, spared: ModuleList) -> _Rule:
    """All matrices but the output head and what the checkpoint spares."""

    def stored(module: Module) -> str | None:
        return None if module.family == "output_head" or module in spared else name

    return stored


def _format(config: Fields, method: str) -> str:
    if method in _FIXED:
        return _FIXED[method]
    if method == "fp8":
        return _fp8(config, {(128, 128): "fp8_block"})
    if method in {"awq", "gptq", "auto-round", "intel/auto-round", "gptqmodel"}:
        return _by_bits(config, method, "awq" if method == "awq" else "gptq")
    if method == "bitsandbytes":
        return "int8" if config.flag("load_in_8bit") else "bitsandbytes"
    raise config.error(
        f"quant_method {method!r} is not known",
        "known are fp8, awq, gptq, bitsandbytes, compressed-tensors, mxfp4 and modelopt",
    )


def _fp8(config: Fields, by_block: dict[tuple[int, ...], str]) -> str:
    if "weight_block_size" not in config:
        return "fp8"
    block = tuple(config.integers("weight_block_size"))
    if block not in by_block:
        known = " and ".join(str(list(sides)) for sides in by_block)
        raise config.error(f"weight_block_size {list(block)} is not known", f"known are {known}")
    return by_block[block]


def _by_bits(config: Fields, method: str, four_bits: str) -> str:
    bits = config.integer("bits", config.integer("w_bit", 4))
    if bits not in {4, 8}:
        raise config.error(f"{method} with {bits} bits is not known", "known are 4 and 8")
    return four_bits if bits == 4 else "int8"


def _fp4_experts(config: Fields) -> _Rule:
    """DeepSeek-V4: FP8 with e8m0 scales, but the routed experts (vLLM's DeepseekV4FP8Config).

    A ``moe_quant_algo`` stores the experts in another format; ``ignore`` then speaks of them
    alone.
    """
    rest = _fp8(config, {(128, 128): "fp8_block_e8m0", (32, 32): "fp8_block32_e8m0"})
    algorithm = config.text("moe_quant_algo", "mxfp4").lower()
    if algorithm not in {"mxfp4", "nvfp4"}:
        raise config.error(f"moe_quant_algo {algorithm!r} is not known", "known is NVFP4")
    ignored = _spared(config, like_modelopt)

    def stored(module: Module) -> str | None:
        if module.family == "experts":
            return "mxfp4" if module in ignored else algorithm
        return None if module.family == "output_head" else rest

    return stored


def _modelopt(config: Fields) -> tuple[_Rule, str]:
    """ModelOpt: the output head, too, is quantised unless a list spares it."""
    algorithm = config.text("quant_algo", config.text("quant_method")).lower()
    spared = _spared(config, like_modelopt)
    if algorithm == _MIXED:
        return _mixed(config, spared), ""
    name = _modelopt_format(config, algorithm)
    listed = any(key in config for key in _SPARED_LISTS)
    note = f"the config lists no spared modules: {name} taken for all linear layers and the head"
    return (lambda module: None if module in spared else name), "" if listed else note


def _modelopt_format(config: Fields, algorithm: str) -> str:
    if algorithm not in _MODELOPT:
        raise config.error(
            f"quant_algo {algorithm!r} is not known",
            "known are FP8, NVFP4, W4A16_NVFP4, MXFP8, MXFP4 and MIXED_PRECISION",
        )
    return _MODELOPT[algorithm]


def _mixed(config: Fields, spared: ModuleList) -> _Rule:
    """Only what ``quantized_layers`` names is quantised, each module in its own format."""
    layers = config.inner("quantized_layers")
    algorithms = {name: layers.inner(name).text("quant_algo").lower() for name in layers.names()}
    if not algorithms:
        raise config.error("MIXED_PRECISION without quantized_layers")
    formats = {name: _modelopt_format(layers, word) for name, word in algorithms.items()}
    quantised = ModuleList(formats, whole_words)

    def stored(module: Module) -> str | None:
        entry = None if module in spared else quantised.entry_of(module)
        return formats[entry] if entry else None

    return stored


def _compressed_tensors(config: Fields) -> _Rule:
    """Groups of targets, by name or by class ("Linear": all matrices inside layers)."""
    groups = config.inner("config_groups")
    if not groups.names():
        raise config.error("has no config_groups")
    read = [_group(groups.inner(name), config.text("format")) for name in groups.names()]
    ignored = _spared(config, exactly)

    def stored(module: Module) -> str | None:
        if module in ignored:
            return None
        named = (name for name, targets, _ in read if module in targets)
        of_class = (name for name, _, linear in read if linear and module.family != "output_head")
        return next(named, None) or next(of_class, None)

    return stored


def _group(group: Fields, layout: str) -> tuple[str, ModuleList, bool]:
    """A group's format, the modules that it names, and whether it names their class."""
    targets = group.words("targets") or ["Linear"]
    named = _list(group, [name for name in targets if name != "Linear"], exactly)
    name = _group_format(group.inner("weights"), group.text("format", layout))
    return name, named, "Linear" in targets


def _group_format(weights: Fields, layout: str) -> str:
    for word in ("nvfp4", "mxfp4", "mxfp8"):
        if layout.startswith(word):
            return word
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    if bits == 8:
        block = weights.text("strategy") == "block"
        return "int8" if kind == "int" else "fp8_block" if block else "fp8"
    if bits != 4 or kind != "int":
        raise weights.error(f"{bits}-bit {kind} weights are not known")
    return "int4" if weights.integer("group_size", 128) <= 32 else "gptq"
