"""What a config says beside its layers: vision towers, per-layer embeddings, rotary tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields, canonical
from kvsim.specs.model import DraftLayers
from kvsim.specs.numbers import shown
from kvsim.specs.vision import VisionTower

__all__ = [
    "draft_layers",
    "host_table_note",
    "other_parameters",
    "rotary_table_elements",
    "vision_tower",
    "whole_media_tokens",
]

# Gemma 4's longest video: 32 frames of 70 soft tokens, 2 around them and 6 of their time (vLLM
# 0.25, gemma4_mm.py: _VIDEO_MAX_FRAMES, get_mm_max_tokens_per_item).
_GEMMA4_VIDEO_TOKENS = 32 * (70 + 2 + 6)
_LARGEST_FACTOR = 10_000
# Towers that run alike, by the model_type around them.
_TOWERS: dict[str, Literal["qwen3_vl", "qwen2_5_vl", "gemma3"]] = {
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "qwen3_5": "qwen3_vl",
    "qwen3_5_moe": "qwen3_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "gemma3": "gemma3",
}
# Gemma 3 pools 64 x 64 patches of an image to 16 x 16 tokens (Gemma3MultiModalProjector).
_GEMMA3_POOLED = 4
# Places of each axis in Gemma 4's table of positions, by default (Gemma4VisionConfig).
_GEMMA4_PLACES = 10240


class _DraftKeys(NamedTuple):
    """How a family's configs count layers that draft, and whether those keep tables."""

    layers: str
    keeps_tables: bool


# Tensors by vLLM's deepseek_mtp.py and glm4_moe_mtp.py (embed_tokens and shared_head in each layer)
# and by qwen3_5_mtp.py (fc; the decoder's own tables).
_DRAFT_KEYS = {
    **dict.fromkeys(
        ("deepseek_v3", "deepseek_v32", "glm4_moe", "glm_moe_dsa"),
        _DraftKeys("num_nextn_predict_layers", keeps_tables=True),
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5", "qwen3_5_moe"),
        _DraftKeys("mtp_num_hidden_layers", keeps_tables=False),
    ),
}
_VISION_SPELLINGS = {"temporal_patch_size": "patch_temporal", "spatial_merge_size": "merge_size"}


def draft_layers(fields: Fields, model_type: str) -> DraftLayers | None:
    """Find the layers for multi-token prediction, of the families whose checkpoints are known."""
    keys = _DRAFT_KEYS.get(model_type.removesuffix("_text"))
    count = fields.first_integer(keys.layers, default=0) if keys else 0
    return DraftLayers(count=count, keeps_tables=keys.keeps_tables) if keys and count else None


def other_parameters(config: Mapping[str, object], fields: Fields) -> int:
    """Count what a config names beside the decoder's layers.

    Parameters
    ----------
    config : mapping
        The whole config; ``vision_config`` may be in it or in ``thinker_config``.
    fields : Fields
        The text part.

    Returns
    -------
    int
        Parameters; the vision tower's matrices (its norms and biases are left out) and
        Gemma 3n's per-layer embeddings.
    """
    thinker = config.get("thinker_config")
    outer = thinker if isinstance(thinker, Mapping) else config
    vision = outer.get("vision_config")
    tower = _vision(vision, outer, fields) if isinstance(vision, Mapping) else 0
    return tower + _per_layer_embeddings(fields) + _engram_projections(fields)


def vision_tower(config: Mapping[str, object], fields: Fields) -> VisionTower | None:
    """Describe the vision tower of a family that engines' profiles are known of."""
    kind, config_of_tower = _TOWERS.get(str(config.get("model_type"))), config.get("vision_config")
    if kind is None or not isinstance(config_of_tower, Mapping):
        return None
    vision = _vision_fields(config_of_tower, fields)
    if not all(key in vision for key in ("hidden_size", "intermediate_size", "patch_size")):
        return None
    patch, hidden = vision.integer("patch_size"), fields.integer("hidden_size")
    merged = vision.integer("spatial_merge_size", _GEMMA3_POOLED if kind == "gemma3" else 2)
    return VisionTower(
        kind=kind,
        hidden_size=vision.integer("hidden_size"),
        intermediate_size=vision.integer("intermediate_size"),
        patch_elements=3 * vision.integer("temporal_patch_size", 1) * patch * patch,
        patches_per_token=merged * merged,
        output_size=vision.integer("out_hidden_size", hidden),
        outputs=1 + len(vision.integers("deepstack_visual_indexes")),
    )


def _vision_fields(config: Mapping[str, object], fields: Fields) -> Fields:
    plain = {key.removeprefix("vt_"): value for key, value in config.items()}  # Kimi's prefix
    renamed = canonical({**plain, "num_layers": plain.get("depth", plain.get("num_layers"))})
    for modern, other in _VISION_SPELLINGS.items():
        renamed.setdefault(modern, renamed.get(other))
    return Fields(renamed, {}, f"{fields.where}: vision_config")


def _vision(config: Mapping[str, object], outer: Mapping[str, object], fields: Fields) -> int:
    """A vision transformer: blocks, patch embedding and a projection to the decoder."""
    vision = _vision_fields(config, fields)
    if not all(key in vision for key in ("hidden_size", "num_hidden_layers")):
        return 0
    width, depth = vision.integer("hidden_size"), vision.integer("num_hidden_layers")
    inner = vision.integer("intermediate_size", 4 * width)
    folds = "downsample_ratio" in vision  # DeepSeek-V4.1, gated without a word for it
    is_gated = folds or vision.text("hidden_act").startswith("silu") or _is_gemma4(outer)
    matrices = 3 if is_gated else 2
    attention = 4 * width * vision.integer("qkv_hidden_size", width)
    blocks = depth * (attention + matrices * width * inner)
    if folds:
        merged = width * vision.integer("downsample_ratio") ** 2
        hidden = fields.integer("hidden_size")
        return blocks + _patches(vision, width) + merged * hidden + hidden * hidden
    if "projection_intermediate_size" in vision:
        return blocks + _patches(vision, width) + _gated_merger(vision, width)
    beside = Fields(outer, {}, fields.where)
    adapter = _adapter(beside, fields) if "projector_hidden_size" in beside else None
    projection = _projection(vision, width, fields) if adapter is None else adapter
    places = vision.integer("position_embedding_size", _GEMMA4_PLACES) if _is_gemma4(outer) else 0
    return blocks + _patches(vision, width) + 2 * places * width + projection


def _is_gemma4(outer: Mapping[str, object]) -> bool:
    """Whether the tower is Gemma 4's: gated as its decoder, with positions of two axes."""
    return outer.get("model_type") == "gemma4"


def _patches(vision: Fields, width: int) -> int:
    patch = vision.optional_integer("patch_size")
    frames = vision.integer("temporal_patch_size", 1)
    table = 0  # a learned position for each place of a grid
    for grid in ("pos_emb", "init_pos_emb"):
        if f"{grid}_height" in vision:
            table = vision.integer(f"{grid}_height") * vision.integer(f"{grid}_width") * width
    return table + (3 * frames * patch * patch * width if patch else 0)


def _adapter(outer: Fields, fields: Fields) -> int:
    """Muse Glimmer: two matrices from the merged patches on, and one to the decoder."""
    merged, inner = outer.integer("out_hidden_size"), outer.integer("projector_hidden_size")
    return merged * inner + inner * inner + inner * fields.integer("hidden_size")


def _gated_merger(vision: Fields, width: int) -> int:
    """GLM-5.3: patches merged by a convolution, a square matrix and a gated MLP.

    Source: vLLM 0.33, ``vllm/models/glm5next/common/multimodal.py`` (Glm5NextPatchMerger).
    """
    inner, out = (
        vision.integer("projection_intermediate_size"),
        vision.integer("out_hidden_size"),
    )
    merged = width * vision.integer("spatial_merge_size") ** 2
    return merged * out + out * out + 3 * out * inner


def _projection(vision: Fields, width: int, fields: Fields) -> int:
    """Qwen and Kimi merge patches in two matrices; others project with one."""
    hidden = fields.integer("hidden_size")
    merge = vision.optional_integer("spatial_merge_size")
    sides = (merge, merge) if merge else vision.integers("merge_kernel_size")
    if not sides:
        return width * hidden
    merged = width * math.prod(sides)
    mergers = 1 + len(vision.integers("deepstack_visual_indexes"))
    return mergers * (merged * merged + merged * vision.integer("out_hidden_size", hidden))


def _per_layer_embeddings(fields: Fields) -> int:
    """Gemma 3n and the small Gemma 4s: an embedding row per token per layer, and its gates."""
    width = fields.first_integer("hidden_size_per_layer_input", default=0)
    if not width or "num_kv_shared_layers" not in fields:
        return 0
    hidden, layers = fields.integer("hidden_size"), fields.integer("num_hidden_layers")
    rows = fields.integer("vocab_size_per_layer_input", fields.integer("vocab_size"))
    laurel = fields.first_integer("laurel_rank", default=0)
    return layers * (rows * width + 3 * hidden * width + 2 * hidden * laurel)


def _engram_projections(fields: Fields) -> int:
    """DeepSeek-V4.1: what makes keys and values of the rows that n-grams look up.

    Source: vLLM 0.33, ``vllm/models/deepseek_v41/common/engram.py`` (Engram.wkv).
    """
    layers = len(fields.integers("engram_layer_ids"))
    if not layers:
        return 0
    columns = (fields.integer("engram_max_ngram_size") - 1) * fields.integer("engram_n_heads")
    streams = fields.integer("hc_mult") + 1
    width = columns * fields.integer("engram_head_dim")
    return layers * width * streams * fields.integer("hidden_size")


def host_table_note(fields: Fields) -> str:
    """Say which tables are left out, as engines keep them in host memory (DeepSeek-V4.1)."""
    rows = sum(fields.integers("engram_num_embeddings"))
    if not rows:
        return ""
    return (
        f"engram tables of {rows:,} rows of {fields.integer('engram_head_dim')} are left out:"
        " engines keep them in host memory"
    )


def whole_media_tokens(fields: Fields, family: Family) -> int:
    """Tokens of the longest video that Gemma 4 attends to both ways; 0 for all others."""
    both_ways = fields.get("use_bidirectional_attention") == "vision"
    return _GEMMA4_VIDEO_TOKENS if family.layout == "gemma4" and both_ways else 0


def rotary_table_elements(fields: Fields, family: Family) -> int | None:
    """Elements of the rotary tables where they are not one of keys' width; None where they are.

    A config that states ``rotary_dim`` rotates that part of a key alone, and the table is as
    wide (vLLM 0.33, ``RotaryEmbedding._compute_cos_sin_cache``).

    Gemma 3 has two: engines make a table as long as the context for the sliding layers, and one
    that its linear scaling stretches for the full layers. Gemma 4's two are as wide as the heads
    of the sliding and of the full layers, all of whose dimensions are in the table (vLLM 0.25.1,
    ``Gemma4RotaryEmbedding``: those not rotated have cosine 1).
    """
    if not family.rotary:
        return 0
    if family.layout == "gemma4" and "global_head_dim" in fields:
        widths = fields.integer("head_dim") + fields.integer("global_head_dim")
        return widths * fields.integer("max_position_embeddings")
    if "rotary_dim" in fields and "max_position_embeddings" in fields:
        return fields.integer("rotary_dim", at_least=0) * fields.integer("max_position_embeddings")
    if "rope_local_base_freq" not in fields:
        return None
    rows = fields.integer("max_position_embeddings")
    return fields.integer("head_dim") * (rows + math.ceil(rows * _linear_factor(fields)))


def _linear_factor(fields: Fields) -> float:
    scaling = fields.get("rope_scaling")
    factor = scaling.get("factor") if isinstance(scaling, Mapping) else None
    if factor is None:
        return 1.0
    if isinstance(factor, bool) or not (
        isinstance(factor, int | float) and 1 <= factor <= _LARGEST_FACTOR
    ):
        raise fields.error(
            f"rope_scaling has the factor {shown(factor)}, outside 1..{_LARGEST_FACTOR}"
        )
    return float(factor)
