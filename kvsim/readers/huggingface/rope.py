"""How a config stretches its rotary positions, and the length that it states beside them.

::

    max_position_embeddings 4,096   rope_scaling {linear, factor 4}        engines serve 16,384
    max_position_embeddings 131,072 rope_scaling {llama3, factor 8, ...}   already scaled: 131,072

Which kinds an engine multiplies is its own rule, by release; here is only what the config says.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvsim.errors import nearest
from kvsim.readers.huggingface.fields import Fields
from kvsim.specs.model import RopeScaling

__all__ = ["ROPE_FIELDS", "longest_stated", "original_positions", "rope_scaling"]

# transformers 4's word, and 5's
ROPE_FIELDS = (
    "rope_scaling",
    "rope_parameters",
)
# transformers' patch_rope_parameters_dict: other names of the same kinds
_SAME = {"su": "longrope", "mrope": "default"}
# What engines know (vLLM 0.33 and SGLang 0.5.23, get_rope; transformers, ROPE_INIT_FUNCTIONS).
_KINDS = (
    "default",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
    "longrope",
    "proportional",
    "ntk",
    "xdrope",
    "mllama4",
    "openpangu",
    "bailing_mrope",
    "telechat3-yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)
# What a config may state one of each for: vLLM 0.33, is_rope_parameters_nested.
_NESTED_BY = ("attention", "main", "compress")


def rope_scaling(fields: Fields, model_type: str) -> tuple[RopeScaling, ...]:
    """Read what scales the rotary positions: one entry a kind of layer where they differ.

    None where nothing does.
    Gemma 3 states the length that its scaling has already reached (vLLM,
    `_get_and_verify_max_len`): nothing is left to scale.

    Raises
    ------
    InputError
        For a scaling that is no object, a factor that is no number from 1 on, or one of a kind
        that no engine knows: whether it multiplies the length is the kind's to say.
    """
    if "gemma3" in model_type:
        return ()
    key = next((key for key in ROPE_FIELDS if key in fields), None)
    if key is None:
        return ()
    rope = fields.inner(key)
    names = rope.names()
    nested = all(isinstance(rope.get(name), Mapping) for name in names)
    if nested and all(name.endswith(_NESTED_BY) for name in names):
        found = [_one(rope.inner(name)) for name in names]
    else:
        found = [_one(rope)]
    scales = any(each.factor or each.kind == "longrope" for each in found)
    return tuple(found) if scales else ()


def _one(rope: Fields) -> RopeScaling:
    stated = rope.text("rope_type") or rope.text("type") or "default"
    kind, factor = _SAME.get(stated, stated), _factor(rope)
    if factor is not None and kind not in _KINDS:
        known = nearest(stated, _KINDS) or _KINDS
        raise rope.error(f"rope_type {stated!r} is not known", f"write {' or '.join(known)}")
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_positions=rope.optional_integer("original_max_position_embeddings"),
    )


def _factor(rope: Fields) -> float | None:
    factor = rope.get("factor")
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1e4:
        raise rope.error(f"factor is {factor!r}, outside 1..10000")
    return float(factor)


def original_positions(fields: Fields) -> int | None:
    """Positions that a longrope model was trained on at first, where the config says so."""
    return fields.optional_integer("original_max_position_embeddings")


def longest_stated(fields: Fields, positions: int) -> int:
    """Tokens that engines take the model to be made for: ``model_max_length`` goes first.

    Source: vLLM, `derive_max_model_len_and_key`; Command-R states 8,192 positions and 131,072.
    """
    return fields.integer("model_max_length", positions)
