"""The names that a checkpoint's modules bear, and the tensor families that they belong to.

::

    model.language_model.layers.7.mlp.shared_expert.down_proj
    └───── root, left out ─────┘        └─ block ─┘ └─ projection
                         layer 7         shared_experts

Lists of quantised or spared modules speak in these names. Architectures spell one matrix in
many ways, and some fuse it with others: `modules_of` yields all spellings of each matrix, and
a list speaks of it when it speaks of one of them. Small matrices that lists name apart (a
router, GDN's ``in_proj_a`` and ``in_proj_b``, a sparse indexer, MLA's down-projections) decide
no family: together they are below 0.3 % of every checkpoint that spares them alone.

The spellings are those of Hugging Face transformers' modules, and DeepSeek's own for V4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kvsim.specs.model import QUANTISED_FAMILIES, FamilyName, LayerGroup, MoeMlp

__all__ = ["ROOTS", "Module", "bare_name", "modules_of"]

# What stands before "layers.7" or "lm_head"; a pattern may start with any of them.
ROOTS = ("", "model.", "language_model.model.", "model.language_model.", "backbone.")
_ROOT = re.compile(r"(?:(?:model|language_model|backbone|transformer|decoder|gpt_neox)\.)+")
_LAYERS = re.compile(r"(?:h|blocks|block)\.(?=[\d*])")

_Parts = tuple[tuple[str, ...], ...]

_FUSED_QKV = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "wqkv", "W_pack")
_FUSED_UP = ("gate_up_proj", "w13", "dense_h_to_4h", "fc1", "c_fc", "fc_in")
_GATE = ("gate_proj", "w1", *_FUSED_UP)
_UP = ("up_proj", "w3", *_FUSED_UP)
_DOWN = ("down_proj", "w2", "dense_4h_to_h", "fc2", "c_proj", "fc_out")

# Per family: the matrices that decide its format, each with all its spellings.
_PROJECTIONS: dict[FamilyName, _Parts] = {
    "attention": (
        ("q_proj", "q_b_proj", "wq_b", *_FUSED_QKV),
        ("k_proj", "kv_b_proj", "wkv", *_FUSED_QKV),
        ("v_proj", "kv_b_proj", "wkv", *_FUSED_QKV),
    ),
    "attention_output": (("o_proj", "wo_b", "out_proj", "dense", "c_proj", "wo"),),
    "recurrent": (
        ("in_proj_qkv", "in_proj_qkvz", "in_proj", *_FUSED_QKV),
        ("in_proj_z", "in_proj_qkvz", "in_proj", *_FUSED_QKV),
        ("out_proj", "o_proj"),
    ),
    "mlp": (_GATE, _UP, _DOWN),
    "experts": (_GATE, _UP, _DOWN),
    "shared_experts": (_GATE, _UP, _DOWN),
    "latent": (
        ("fc1_latent_proj", "routed_expert_down_proj"),
        ("fc2_latent_proj", "routed_expert_up_proj"),
    ),
}

_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer")
_MIXTURES = ("mlp", "block_sparse_moe", "ffn", "feed_forward", "mixer")
_BLOCKS: dict[FamilyName, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention_output": _ATTENTION,
    "recurrent": ("linear_attn", "mixer", "mamba"),
    "mlp": ("mlp", "feed_forward", "ffn", "mixer"),
    # Expert 0 speaks for all: engines fuse them, and load no layer that mixes them.
    "experts": tuple(
        f"{block}.experts{number}" for block in (*_MIXTURES, "moe") for number in (".0", "")
    ),
    "shared_experts": tuple(
        f"{block}.{shared}" for block in _MIXTURES for shared in ("shared_experts", "shared_expert")
    ),
    "latent": _MIXTURES,
}
# Architectures whose blocks bear names that mean another family elsewhere.
_OWN_BLOCKS: dict[str, dict[FamilyName, tuple[str, ...]]] = {
    "gemma4": {"experts": ("experts", "moe.experts"), "shared_experts": ("mlp",)},
    "kimi_linear": {"recurrent": ("self_attn",)},
    "glm5_next": {"recurrent": ("self_attn",)},
    "minimax_text": {"recurrent": ("self_attn",)},
}


class Module(NamedTuple):
    """One matrix of a checkpoint.

    Parameters
    ----------
    family : str
        The tensor family it belongs to.
    names : tuple of str
        Its spellings, without the root.
    layer : int or None
        The layer it is in; None for the output head.
    """

    family: FamilyName
    names: tuple[str, ...]
    layer: int | None = None


def bare_name(name: str) -> str:
    """Leave out the root of a module's name or pattern, and call its layers "layers".

    Examples
    --------
    >>> bare_name("model.language_model.layers.3.self_attn*"), bare_name("transformer.h.0.attn")
    ('layers.3.self_attn*', 'layers.0.attn')
    >>> bare_name("language_model.lm_head"), bare_name("mtp.layers.0*")
    ('lm_head', 'mtp.layers.0*')
    """
    root = _ROOT.match(name)
    rest = name[root.end() :] if root else name
    layers = _LAYERS.match(rest)
    return f"layers.{rest[layers.end() :]}" if layers else rest


def modules_of(groups: Sequence[LayerGroup], layout: str, *, has_head: bool) -> Iterator[Module]:
    """Yield the matrices that decide how each family of a decoder is stored.

    Parameters
    ----------
    groups : sequence of LayerGroup
        The decoder's layers.
    layout : str
        The layout of its architecture (`kvsim.readers.huggingface.families.Family`).
    has_head : bool
        Whether the output head is a matrix of its own.
    """
    blocks = _BLOCKS | _OWN_BLOCKS.get(layout, {})
    for group in groups:
        for family in _families(group):
            for projections in _parts(family, group):
                ends = [f"{block}.{name}" for block in blocks[family] for name in projections]
                for layer in group.layers:
                    yield Module(family, tuple(f"layers.{layer}.{end}" for end in ends), layer)
    if has_head:
        yield Module("output_head", ("lm_head", "head"))


def _families(group: LayerGroup) -> list[FamilyName]:
    """The quantisable families that a layer of the group has."""
    found = {part.family for cache in group.caches for part in cache.weights(1)}
    moe = group.mlp if isinstance(group.mlp, MoeMlp) else None
    fed = {
        "mlp": group.mlp is not None and moe is None,
        "experts": moe is not None,
        "shared_experts": moe is not None and moe.shared_intermediate_size > 0,
        "latent": moe is not None and moe.latent_size is not None,
    }
    return [family for family in QUANTISED_FAMILIES if family in found or fed.get(family)]


def _parts(family: FamilyName, group: LayerGroup) -> _Parts:
    """The matrices of a family in one layer: a feed-forward block may have no gate."""
    parts = _PROJECTIONS[family]
    ungated = group.mlp is not None and not group.mlp.gated
    return parts[1:] if parts[0] == _GATE and ungated else parts
