"""Llama 3.2 Vision: some layers attend to an image's tokens alone, and keep nothing of the text.

::

    layer     0  1  2  3      4  5  6  7  8      9 ...
              self self self cross  self ...cross
    keeps     every token    the longest image's 4 tiles of (560 / 14)^2 + 1 = 1,601 tokens

Sources: ``MllamaTextModel``, ``MllamaVisionModel`` and the configuration classes of transformers.
A processor pads every image to its most tiles, so that each has as many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvsim.readers.huggingface.attention import attention_of
from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields, canonical
from kvsim.specs.attention import CrossAttention
from kvsim.specs.model import DenseMlp, LayerGroup

__all__ = ["mllama"]

_CROSS_LAYERS = "cross_attention_layers"
_VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "num_channels": 3,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
}
# A learned row for each arrangement of the tiles, and one for an image that is none.
_ARRANGEMENTS = 8
# Rows of the embedding beyond the vocabulary: the image's token is one of them.
_EXTRA_ROWS = 8


def mllama(
    config: Mapping[str, object], fields: Fields, family: Family
) -> tuple[tuple[LayerGroup, ...], int]:
    """Read the decoder's layers, and what lies beside them.

    Parameters
    ----------
    config : mapping
        The whole config, for its ``vision_config``.
    fields, family : Fields, Family
        The text part, and its facts.

    Returns
    -------
    tuple of LayerGroup and int
        Groups "full" and "cross"; parameters of the vision tower, of its projection, and of the
        embedding's further rows.

    Raises
    ------
    InputError
        Without a ``vision_config``, or for a list of layers that cannot be.
    """
    stated = config.get("vision_config")
    if not isinstance(stated, Mapping):
        raise fields.error("the config has no vision_config", "its image_size says what is kept")
    vision = Fields(canonical(stated), _VISION, f"{fields.where}: vision_config")
    own = attention_of(fields, family, "full")
    shape = own.model_dump(exclude={"kind"})
    tokens = vision.integer("max_num_tiles") * _tile_tokens(vision)
    mlp = DenseMlp(intermediate_size=fields.integer("intermediate_size"), gated=family.gated)
    kinds = own, CrossAttention(**shape, encoder_tokens=tokens)
    groups = (
        LayerGroup(name=kind.kind, layers=layers, caches=(kind,), mlp=mlp)
        for kind, layers in zip(kinds, _layers(fields), strict=True)
    )
    hidden = fields.integer("hidden_size")
    projection = (vision.integer("vision_output_dim") + 1) * hidden
    in_order = tuple(sorted(groups, key=lambda group: group.layers))
    return in_order, _tower(vision) + projection + _EXTRA_ROWS * hidden


def _layers(fields: Fields) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers with self-attention, and those with cross-attention."""
    count = fields.integer("num_hidden_layers")
    cross = fields.integers(_CROSS_LAYERS)
    beyond = next((layer for layer in cross if layer >= count), None)
    if beyond is not None:
        raise fields.error(f"{_CROSS_LAYERS} names layer {beyond} of {count}, counted from 0")
    if len(set(cross)) < len(cross):
        raise fields.error(f"{_CROSS_LAYERS} names a layer twice")
    full = tuple(layer for layer in range(count) if layer not in cross)
    if not full or not cross:
        kind = "self" if cross else "cross"
        raise fields.error(f"{_CROSS_LAYERS} leaves no layer with {kind}-attention")
    return full, tuple(sorted(cross))


def _tile_tokens(vision: Fields) -> int:
    """Patches of a tile, and its class token."""
    side, patch = vision.integer("image_size"), vision.integer("patch_size")
    if side % patch:
        raise vision.error(f"image_size {side} is not a multiple of patch_size {patch}")
    return (side // patch) ** 2 + 1


def _tower(vision: Fields) -> int:
    """Parameters of the vision tower, norms, biases and gates included."""
    width, inner = vision.integer("hidden_size"), vision.integer("intermediate_size")
    plain, gated = vision.integer("num_hidden_layers"), vision.integer("num_global_layers")
    # Four matrices without biases, two with, two norms; a gate on either half of a global layer.
    layer = 4 * width * width + 2 * width * inner + inner + width + 4 * width
    return _embeddings(vision, width) + (plain + gated) * layer + 2 * gated


def _embeddings(vision: Fields, width: int) -> int:
    """Patches, the class token, positions in a tile and of tiles, and two norms."""
    patch, tiles = vision.integer("patch_size"), vision.integer("max_num_tiles")
    tokens = _tile_tokens(vision)
    ratios = vision.get("supported_aspect_ratios")
    rows = 1 + (len(ratios) if isinstance(ratios, list) else _ARRANGEMENTS)
    patches = vision.integer("num_channels") * patch * patch * width
    in_tile = tokens * width + rows * tiles * tokens * width + 1  # the last is a gate
    of_tiles = 2 * (rows * tiles * width + 1)
    return patches + width + in_tile + of_tiles + 4 * width
