"""Turn a Hugging Face ``config.json`` into a `ModelSpec`.

::

    config ─ text part ─ family ─▶ kind of each layer ─▶ caches, MLP ─▶ groups of like layers
                │
                └── anything that hints at a kind kvsim does not know is refused by name

Rotary fields change no cached size: the size of load-time tables and the length that engines
serve are read from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kvsim.errors import InputError
from kvsim.readers.huggingface.bidirectional import BIDIRECTIONAL, refuse_bidirectional
from kvsim.readers.huggingface.classes import model_type_of_class
from kvsim.readers.huggingface.extras import (
    draft_layers,
    host_table_note,
    other_parameters,
    rotary_table_elements,
    vision_tower,
    whole_media_tokens,
)
from kvsim.readers.huggingface.families import FAMILIES
from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields, canonical
from kvsim.readers.huggingface.groups import layer_groups
from kvsim.readers.huggingface.layers import idle_window
from kvsim.readers.huggingface.meanings import family_by_fields, refuse_beside, refuse_unread
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.readers.huggingface.quantization import quantization_of, states_quantization
from kvsim.readers.huggingface.rope import longest_stated, original_positions, rope_scaling
from kvsim.readers.json_file import read_json_object
from kvsim.specs.checked import FieldError
from kvsim.specs.model import LayerGroup, ModelSpec

__all__ = ["CONFIG_FILE", "QUANTIZATION_FILE", "spec_from_config", "spec_from_json_file"]

CONFIG_FILE = "config.json"
QUANTIZATION_FILE = "hf_quant_config.json"  # ModelOpt's, where the config itself says nothing
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_INHERITED = ("dtype", "tie_word_embeddings", "quantization_config", "compression_config")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}


def spec_from_config(config: Mapping[str, object], *, name: str, source: str = "") -> ModelSpec:
    """Read a model configuration.

    Parameters
    ----------
    config : mapping
        The content of a ``config.json``, of any architecture that kvsim knows, or a plain
        decoder with nothing in it that hints at another kind of attention.
    name : str
        What to call the model; errors name it.
    source : str, optional
        Where the configuration comes from. Defaults that had to be assumed are added.

    Returns
    -------
    ModelSpec
        Layer groups in the order of their first layers.

    Raises
    ------
    InputError
        For a missing, malformed or absurd field, or an unknown kind of layer, by name.
    UnsupportedError
        For a model that can keep nothing between steps (encoder-only, diffusion).
    """
    if not isinstance(config, Mapping):
        raise InputError("the configuration is not an object", where=name)
    try:
        return _spec(config, name, source)
    except FieldError as error:  # a fact that the contract refuses and no reader checked
        raise InputError(error.what, where=name) from None


def spec_from_json_file(
    path: str | os.PathLike[str], overrides: Overrides | None = None
) -> ModelSpec:
    """Read a ``config.json`` file; the model is called after its folder.

    Where it does not say how its weights are stored, an ``hf_quant_config.json`` beside it
    does, as for vLLM (`transformers_utils.config.get_config`).

    Raises
    ------
    InputError
        When the file cannot be read as one JSON object, or the config is wrong; both name
        the file.
    UnsupportedError
        When the model can keep nothing between steps.
    """
    file = Path(path)
    config, source = read_json_object(file), f"read from {file}"
    beside = file.with_name(QUANTIZATION_FILE)
    if file.name == CONFIG_FILE and not states_quantization(config) and beside.is_file():
        config["quantization_config"] = read_json_object(beside)
        source = f"{source} and {QUANTIZATION_FILE}"
    config = overrides.apply(config) if overrides else config
    spec = spec_from_config(config, name=str(file), source=source)
    folder = file.absolute().parent.name
    return spec.model_copy(update={"name": folder if file.name == CONFIG_FILE else file.stem})


def _spec(config: Mapping[str, object], name: str, source: str) -> ModelSpec:
    text, beside_text = _text_part(config, name)
    model_type = _model_type(config, text)
    architecture = _architecture(config, model_type)
    refuse_bidirectional(text, model_type, architecture, name)
    known = FAMILIES.get(model_type)
    family = known or family_by_fields(text)
    fields = Fields(text, family.defaults, name)
    if known is None:
        _refuse_unknown_encoder_decoder(fields, model_type)
    refuse_unread(fields, family, model_type, known=known is not None)
    refuse_beside(Fields(beside_text, {}, name))
    groups, beside = _groups(config, fields, family)
    dtype, dtype_note = _dtype(fields)
    quantization = quantization_of(fields, groups, family.layout)
    positions = fields.integer("max_position_embeddings", _decoder_positions(fields))
    return ModelSpec(
        name=name,
        architecture=architecture,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        position_embeddings=_position_rows(family, positions),
        max_position_embeddings=longest_stated(fields, positions),
        rope_scaling=rope_scaling(fields, model_type),
        original_positions=original_positions(fields),
        tie_embeddings=fields.flag("tie_word_embeddings"),
        dtype=dtype,
        quantization=quantization.name,
        family_formats=quantization.family_formats,
        declared_kv=quantization.declared_kv,
        layer_groups=groups,
        other_parameters=beside,
        vision=vision_tower(config, fields),
        whole_media_tokens=whole_media_tokens(fields, family),
        rotary_table_elements=rotary_table_elements(fields, family),
        draft=draft_layers(fields, model_type),
        idle_window=idle_window(fields, family),
        source="; ".join(
            part
            for part in (source, dtype_note, quantization.note, host_table_note(fields))
            if part
        ),
    )


def _groups(
    config: Mapping[str, object], fields: Fields, family: Family
) -> tuple[tuple[LayerGroup, ...], int]:
    """Layer groups of the decoder, and the parameters beside it."""
    if family.layout in {"t5", "seq2seq"}:
        from kvsim.readers.huggingface.encoder_decoder import encoder_decoder

        group, encoder = encoder_decoder(fields, family)
        return (group,), encoder
    if family.layout == "mllama":
        from kvsim.readers.huggingface.mllama import mllama

        return mllama(config, fields, family)
    return layer_groups(fields, family), other_parameters(config, fields)


def _text_part(
    config: Mapping[str, object], name: str
) -> tuple[dict[str, object], dict[str, object]]:
    """The language model's own fields, and what the levels around it say that it does not.

    A few are inherited from there.
    """
    text, around = canonical(config), dict[str, object]()
    while inner := next((text[key] for key in _TEXT_PARTS if text.get(key)), None):
        if not isinstance(inner, Mapping):
            raise InputError("text_config is not an object", where=name)
        nested = canonical(inner)
        for key in _INHERITED:
            if nested.get(key) is None and text.get(key) is not None:
                nested[key] = text[key]
        around |= text
        text = nested
    beside = {key: value for key, value in around.items() if key not in text}
    return _counted(_uniform_width(text)), beside


def _counted(text: dict[str, object]) -> dict[str, object]:
    """Nemotron 3 says how many layers there are by the list of their kinds alone."""
    listed = text.get("layer_types") or text.get("hybrid_override_pattern")
    if text.get("num_hidden_layers") is None and isinstance(listed, list | str):
        return {**text, "num_hidden_layers": len(listed)}
    return text


def _uniform_width(text: dict[str, object]) -> dict[str, object]:
    """Gemma 3n lists one MLP width per layer, all alike."""
    widths = text.get("intermediate_size")
    if isinstance(widths, list) and widths and all(width == widths[0] for width in widths):
        return {**text, "intermediate_size": widths[0]}
    return text


def _model_type(config: Mapping[str, object], text: Mapping[str, object]) -> str:
    """The family's name: the text part's, without its "_text", or the outer one.

    A model_type that nobody knows says nothing against its class, by which engines choose
    the code that runs it (vLLM's registry has class names alone).
    """
    for value in (text.get("model_type"), config.get("model_type")):
        if not isinstance(value, str):
            continue
        model_type = value.lower()
        for spelling in (model_type, model_type.removesuffix("_text")):
            if spelling in FAMILIES or spelling in BIDIRECTIONAL:
                return spelling
    for part in (text, config):
        if built := model_type_of_class(_first_class(part)):
            return built
    own = text.get("model_type") or config.get("model_type")
    return own if isinstance(own, str) else ""


def _architecture(config: Mapping[str, object], model_type: str) -> str:
    return _first_class(config) or model_type


def _first_class(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return ""


def _refuse_unknown_encoder_decoder(fields: Fields, model_type: str) -> None:
    if fields.flag("is_encoder_decoder"):
        raise fields.error(
            f"encoder-decoder model_type {model_type!r} is not known",
            "known are t5, whisper, bart, mbart, m2m_100, pegasus and marian",
        )


def _decoder_positions(fields: Fields) -> int | None:
    return fields.optional_integer("max_target_positions")


def _position_rows(family: Family, positions: int) -> int:
    return 0 if family.position_offset is None else positions + family.position_offset


def _dtype(fields: Fields) -> tuple[str, str]:
    """Native dtype, and what to note about it."""
    word = fields.text("dtype").removeprefix("torch.")
    if not word or word == "auto":
        return "bf16", "the config names no dtype: bf16 assumed"
    if word not in _DTYPES:
        raise fields.error(f"dtype is {word!r}", f"known are {', '.join(_DTYPES)}")
    return _DTYPES[word], ""
