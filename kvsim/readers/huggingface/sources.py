"""Which layers of DeepSeek-V4.1 keep folded states, which pick among them, and which read others'.

::

    compress_ratios         [0, 0, 2, 2, ..., 1, ...]   0 has a window alone
    kv_source_layer_ids     [2, 8, 14, 20]              keep states and index keys
    index_source_layer_ids  [2, 8, 14, 20, 24, ...]     pick states by keys of the last source
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvsim.readers.huggingface.fields import Fields

__all__ = ["SourcedLayer", "sourced_layers"]

_RATIOS = (0, 1, 2)


class SourcedLayer(NamedTuple):
    """What one layer is to the states that it reads; see the module."""

    ratio: int
    is_source: bool
    picks: bool


def sourced_layers(fields: Fields, ratios: list[int]) -> list[SourcedLayer]:
    """Say of every layer what it keeps and picks.

    Raises
    ------
    InputError
        For a ratio that no compressor folds, a source that has nothing to keep, or a layer
        that has no source of its own ratio.
    """
    sources = _layers(fields, "kv_source_layer_ids", len(ratios))
    pickers = _layers(fields, "index_source_layer_ids", len(ratios))
    strange = next((ratio for ratio in ratios if ratio not in _RATIOS), None)
    if strange is not None:
        raise fields.error(f"compress_ratios names {strange}", "known are 0, 1 and 2")
    for problem in _problems(ratios, sources, pickers):
        raise fields.error(problem)
    return [
        SourcedLayer(ratio, layer in sources, layer in pickers)
        for layer, ratio in enumerate(ratios)
    ]


def _layers(fields: Fields, key: str, count: int) -> list[int]:
    found = fields.integers(key)
    if sorted(set(found)) != found or any(layer >= count for layer in found):
        raise fields.error(f"{key} is {found}, not layers of {count} in ascending order")
    return found


def _problems(ratios: list[int], sources: list[int], pickers: list[int]) -> Iterator[str]:
    for layer in (*sources, *pickers):
        if not ratios[layer]:
            yield f"layer {layer} is a source, and its compress_ratios folds nothing"
    for layer in sources:
        if layer not in pickers:
            yield f"layer {layer} is in kv_source_layer_ids and not in index_source_layer_ids"
    for layer, ratio in enumerate(ratios):
        source = max((s for s in sources if s <= layer), default=None)
        if ratio and (source is None or ratios[source] != ratio):
            whose = "none" if source is None else f"layer {source}, folded by {ratios[source]}"
            yield f"layer {layer} reads states folded by {ratio}, and its source is {whose}"
