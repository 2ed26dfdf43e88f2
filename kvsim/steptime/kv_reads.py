"""What attention reads: KV bytes of a decode step and query-key pairs of a prefill chunk.

::

    bytes that a step reads for a sequence        one sliding group (window w) + one full group
        |                        .·'
        |               .··''''''   slope: full layers only
        |         .··'''
        |    .·''  slope: all layers
        |.·'
        +--------------------+-------------------▶ context
                             w  a breakpoint
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from typing import NamedTuple

from kvsim.specs.attention import (
    Attention,
    ChunkedAttention,
    CompressedLatentAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat

__all__ = ["KVReadCurve", "attended_layers", "causal_pairs", "pair_flops", "prefill_pairs"]


def attended_layers(
    model: ModelSpec, layers: Collection[int] | None = None
) -> Iterator[tuple[int, Attention]]:
    """Yield ``(layers that read it, cache)``: layers that share another's K and V read too."""
    for group in model.layer_groups:
        count = group.count if layers is None else sum(i in layers for i in group.layers)
        if count:
            for cache in group.caches:
                yield count, cache


def _reach(cache: Attention) -> int | None:
    """Tokens of context after which one decode step reads no more of this cache, if any."""
    if isinstance(cache, SlidingAttention):
        return cache.window
    if isinstance(cache, ChunkedAttention):
        return cache.chunk
    if isinstance(cache, CompressedLatentAttention):
        return cache.window
    if isinstance(cache, LatentAttention):
        return cache.indexer_top_k
    return None


def _read_bytes(cache: Attention, fmt: KVFormat, context: int, tp: int) -> int:
    """Bytes that one decode step reads (and for a recurrent state writes) in one layer."""
    if isinstance(cache, RecurrentState):
        return 2 * cache.fixed_bytes(tp)
    state = cache.state_bytes(fmt, tp)
    if isinstance(cache, ChunkedAttention) and context > cache.chunk:
        return (cache.chunk + 1) * state // 2  # the mean of the sawtooth
    if isinstance(cache, LatentAttention) and cache.indexer_top_k is not None:
        picked = min(context, cache.indexer_top_k) * (state - cache.indexer_bytes)
        return picked + context * cache.indexer_bytes
    return cache.states(context) * state


class KVReadCurve(NamedTuple):
    """Bytes that one decode step reads for one sequence, piecewise linear in its context.

    Parameters
    ----------
    breakpoints : tuple of int
        Contexts at which the slope changes, ascending: segment i holds contexts above
        ``breakpoints[i - 1]`` up to and including ``breakpoints[i]``.
    origins : tuple of int
        First context of each segment; the first is 1.
    bytes_at_origins : tuple of int
        Bytes read there, one rank.
    slopes : tuple of int
        Bytes that each further token of context adds inside the segment.

    Notes
    -----
    Inside a segment ``bytes = bytes_at_origin + slope * (context - origin)``. Attention in
    chunks reads the mean of its sawtooth once past the first chunk, and a cache that folds
    `ratio` tokens into a state is smoothed over the ratio.
    """

    breakpoints: tuple[int, ...]
    origins: tuple[int, ...]
    bytes_at_origins: tuple[int, ...]
    slopes: tuple[int, ...]

    @classmethod
    def from_model(
        cls,
        model: ModelSpec,
        fmt: KVFormat,
        tp: int = 1,
        layers: Collection[int] | None = None,
    ) -> KVReadCurve:
        """Build the curve of one rank's layers (None: all of them).

        Examples
        --------
        Llama-2-7B in fp16 reads 524,288 bytes per token of context.
        """
        caches = list(attended_layers(model, layers))

        def read(context: int) -> int:
            return sum(count * _read_bytes(cache, fmt, context, tp) for count, cache in caches)

        reaches = {_reach(cache) for _, cache in caches}
        breakpoints = tuple(sorted(reach for reach in reaches if reach is not None))
        origins = (1, *(point + 1 for point in breakpoints))
        span = _smoothing_span(caches)
        ends = (*breakpoints, origins[-1] + span)
        slopes = tuple(
            round((read(end) - read(start)) / (end - start)) if end > start else 0
            for start, end in zip(origins, ends, strict=True)
        )
        return cls(breakpoints, origins, tuple(map(read, origins)), slopes)

    def scaled(self, ratio: float) -> KVReadCurve:
        """Return the curve of an engine that keeps `ratio` times the model's own bytes."""
        if ratio == 1:
            return self
        origins = (round(each * ratio) for each in self.bytes_at_origins)
        slopes = (round(each * ratio) for each in self.slopes)
        return self._replace(bytes_at_origins=tuple(origins), slopes=tuple(slopes))

    def bytes_at(self, context: int) -> int:
        """Bytes that a decode step reads when the sequence holds `context` tokens."""
        if context < 1:
            return 0
        segment = bisect_right(self.origins, context) - 1
        ahead = context - self.origins[segment]
        return self.bytes_at_origins[segment] + self.slopes[segment] * ahead

    def slope_at(self, context: int) -> int:
        """Bytes that the next token of context adds, inside the segment of `context`."""
        return self.slopes[max(0, bisect_right(self.origins, context) - 1)]


def _smoothing_span(caches: list[tuple[int, Attention]]) -> int:
    """Contexts over which the last slope is measured: a whole number of every ratio."""
    span = 1
    for _, cache in caches:
        if isinstance(cache, CompressedLatentAttention) and cache.ratio:
            span *= cache.ratio
    return span * 1024


def pair_flops(cache: Attention) -> int:
    """Prefill FLOPs of one query token against one visible token in one layer, all heads.

    Prefill expands a latent cache into heads (the absorbed form is for decode), so MLA
    pays ``2 * heads * (nope + rope + value)`` a pair, like any softmax attention.
    """
    if isinstance(cache, FullAttention):
        return 2 * cache.heads * (cache.key_dim + cache.value_dim)
    if isinstance(cache, LatentAttention):
        return 2 * cache.heads * (cache.nope_dim + cache.rope_dim + cache.value_dim)
    if isinstance(cache, CompressedLatentAttention):
        return 4 * cache.heads * cache.head_dim
    return 0


def causal_pairs(start: int, count: int) -> float:
    """Pairs of `count` queries after `start` tokens, each seeing itself and all before it."""
    return count * start + count * (count + 1) / 2


def _windowed_pairs(window: int, start: int, count: int) -> float:
    """Pairs when a query sees at most the last `window` tokens, itself included."""
    growing = min(count, max(0, window - start))
    return causal_pairs(start, growing) + (count - growing) * window


def _chunked_pairs(chunk: int, start: int, count: int) -> float:
    """Pairs when a query sees its own chunk only."""

    def up_to(tokens: int) -> float:
        whole, rest = divmod(tokens, chunk)
        return whole * causal_pairs(0, chunk) + causal_pairs(0, rest)

    return up_to(start + count) - up_to(start)


def _cache_pairs(cache: Attention, start: int, count: int) -> float:
    """Query-key pairs of one layer with this cache."""
    if isinstance(cache, SlidingAttention):
        return _windowed_pairs(cache.window, start, count)
    if isinstance(cache, ChunkedAttention):
        return _chunked_pairs(cache.chunk, start, count)
    if isinstance(cache, CrossAttention):
        return float(count * cache.encoder_tokens)
    if isinstance(cache, LatentAttention) and cache.indexer_top_k is not None:
        return _windowed_pairs(cache.indexer_top_k, start, count)
    if isinstance(cache, CompressedLatentAttention):
        folded = causal_pairs(start, count) / cache.ratio if cache.ratio else 0.0
        return _windowed_pairs(cache.window, start, count) + folded
    return causal_pairs(start, count)


def prefill_pairs(model: ModelSpec, start: int, count: int) -> float:
    """Query-key pairs of a prefill chunk, averaged over the layers that attend.

    Parameters
    ----------
    model : ModelSpec
        The model; windows and chunks limit what a query sees.
    start : int
        Tokens of the sequence that are cached already.
    count : int
        Tokens of the chunk.

    Returns
    -------
    float
        Pairs per layer, weighted by the FLOPs that a pair costs there; multiplied by the
        FLOPs of one pair in all layers it is the attention arithmetic of the chunk.

    Examples
    --------
    A full layer: the queries of a 4-token prompt see 1, 2, 3 and 4 tokens, 10 pairs; a
    second chunk of 2 tokens sees 5 + 6.
    """
    work = weight = 0.0
    for layers, cache in attended_layers(model):
        cost = layers * pair_flops(cache)
        work += cost * _cache_pairs(cache, start, count) if cost else 0.0
        weight += cost
    return work / weight if weight else 0.0
