"""Models whose every layer was chosen by itself (Nemotron's architecture search, DeciLM).

::

    block_configs[i]   attention: n_heads_in_group 8 | no_op        ffn: ffn_mult 5.25 | no_op

A layer may have no attention, and keeps nothing then, and no feed-forward block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvsim.readers.huggingface.fields import Fields
from kvsim.readers.huggingface.layers import LayerKind
from kvsim.specs.model import DenseMlp
from kvsim.specs.numbers import shown
from kvsim.units import ceil_div

__all__ = ["Block", "blocks"]

_WIDTH_MULTIPLE = 256  # vLLM 0.33, nemotron_nas.py: _find_multiple
_LARGEST_MULT = 1000
# What other searches have put in a block's place; kvsim would have to guess what it keeps.
_UNKNOWN = (
    "replace_with_linear",
    "sparsify",
    "num_sink_tokens",
    "unshifted_sink",
    "use_prefill_window_in_sink_attention",
    "window_length",
)


class Block(NamedTuple):
    """One layer: its kind, and its feed-forward block if it has one."""

    kind: LayerKind
    mlp: DenseMlp | None


def blocks(fields: Fields) -> Iterator[Block]:
    """Read ``block_configs``, a layer at a time.

    Raises
    ------
    InputError
        For a layer that is neither attention nor nothing, by its number.
    """
    layers = fields.objects("block_configs")
    fields.per_layer("block_configs", layers, fields.integer("num_hidden_layers"))
    for layer in layers:
        yield Block(_attention(fields, layer.inner("attention")), _mlp(fields, layer.inner("ffn")))


def _attention(fields: Fields, block: Fields) -> LayerKind:
    _refuse_unknown(block)
    if block.flag("no_op"):
        return LayerKind("mlp")
    heads, group = fields.integer("num_attention_heads"), block.integer("n_heads_in_group")
    if heads % group:
        raise block.error(f"{heads} query heads are no multiple of a group of {group}")
    return LayerKind("full", kv_heads=heads // group)


def _mlp(fields: Fields, block: Fields) -> DenseMlp | None:
    _refuse_unknown(block)
    if block.flag("no_op"):
        return None
    return DenseMlp(intermediate_size=_width(fields, block), bias=fields.flag("mlp_bias"))


def _width(fields: Fields, block: Fields) -> int:
    """Two thirds of a multiple of the model's width, rounded up (vLLM's nemotron_nas.py)."""
    if "ffn_mult" not in block:
        return block.integer("intermediate_size")
    mult = block.get("ffn_mult")
    if isinstance(mult, bool) or not (isinstance(mult, int | float) and 0 < mult <= _LARGEST_MULT):
        raise block.error(f"ffn_mult is {shown(mult)}, outside 0..{_LARGEST_MULT}")
    return (
        ceil_div(int(2 * mult * fields.integer("hidden_size") / 3), _WIDTH_MULTIPLE)
        * _WIDTH_MULTIPLE
    )


def _refuse_unknown(block: Fields) -> None:
    """Refuse what replaces attention or a feed-forward block by something else."""
    for key in _UNKNOWN:
        if block.get(key) not in (None, False):
            raise block.error(f"{key} is {shown(block.get(key))}, which kvsim does not know")
