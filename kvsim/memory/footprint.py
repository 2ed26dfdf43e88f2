"""KV bytes from first principles: sums of what each layer keeps, before any engine rounds.

Three regimes, never mixed:

``sequence_bytes``   steady: what a sequence of that length really keeps (windows honoured)
``all_full_bytes``   every growing layer keeps every token (no window saving)
admission            what an engine's start-up check charges; see ``kvsim.engines``

All sums are over the layers of one `Rank`, each with its heads split over ``rank.tp``. An engine
may share attention otherwise (among ``rank.attention_ranks``, by tokens among ``rank.dcp``): its
bytes over these are the `layout_ratio` of its pools.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat

__all__ = ["all_full_bytes", "bytes_per_token", "fixed_bytes", "layer_caches", "sequence_bytes"]


def layer_caches(model: ModelSpec, rank: Rank = Rank()) -> Iterator[tuple[int, Attention]]:
    """Yield ``(layers that own it, cache)`` for every cache of the rank's layers."""
    for group in model.layer_groups:
        count = rank.count_of(model, group.layers)
        if count:
            for cache in group.owned_caches:
                yield count, cache


def bytes_per_token(model: ModelSpec, fmt: KVFormat, rank: Rank = Rank()) -> int:
    """Bytes that one more token adds while every window is still open.

    Parameters
    ----------
    model : ModelSpec
        The model.
    fmt : KVFormat
        Format of K and V.
    rank : Rank
        Whose bytes they are.

    Returns
    -------
    int
        Bytes per token. Cross attention adds nothing: it is sized once.

    Examples
    --------
    Llama-2-7B in fp16: 32 layers * 32 heads * (128 + 128) * 2 bytes = 524,288.
    """
    caches = layer_caches(model, rank)
    return sum(count * cache.state_bytes(fmt, rank.tp) for count, cache in caches if cache.grows)


def sequence_bytes(model: ModelSpec, fmt: KVFormat, context: int, rank: Rank = Rank()) -> int:
    """Bytes that a sequence of `context` tokens keeps in steady decode (no block rounding)."""
    caches = layer_caches(model, rank)
    return sum(count * cache.held_bytes(fmt, context, rank.tp) for count, cache in caches)


def all_full_bytes(model: ModelSpec, fmt: KVFormat, context: int, rank: Rank = Rank()) -> int:
    """Bytes that a sequence would keep if every growing layer kept every token."""
    caches = layer_caches(model, rank)
    return sum(count * cache.all_full_bytes(fmt, context, rank.tp) for count, cache in caches)


def fixed_bytes(model: ModelSpec, rank: Rank = Rank()) -> int:
    """Bytes that a sequence takes whatever its length: recurrent and convolution states."""
    return sum(count * cache.fixed_bytes(rank.tp) for count, cache in layer_caches(model, rank))
