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

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat

__all__ = ["KVReadCurve", "attended_layers", "prefill_pairs"]


def attended_layers(model: ModelSpec, rank: Rank = Rank()) -> Iterator[tuple[int, Attention]]:
    """Yield ``(layers that read it, cache)``: layers that share another's K and V read too."""
    for group in model.layer_groups:
        count = rank.count_of(model, group.layers)
        if count:
            for cache in group.caches:
                yield count, cache


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
        cls, model: ModelSpec, fmt: KVFormat, rank: Rank = Rank(), *, layout_ratio: float = 1.0
    ) -> KVReadCurve:
        """Build the curve of one rank's layers.

        Parameters
        ----------
        model, fmt, rank : ModelSpec, KVFormat, Rank
            What is read, and on which rank.
        layout_ratio : float
            The engine's bytes of a token over the model's own (`KVPools.layout_ratio`); states are
            split over the ranks that share one copy of the attention, whatever tokens are.

        Examples
        --------
        Llama-2-7B in fp16 reads 524,288 bytes per token of context.
        """
        caches = list(attended_layers(model, rank))

        def read(context: int) -> float:
            return sum(
                count * layout_ratio * cache.read_bytes(fmt, context, rank.tp)
                if cache.grows
                else count * cache.read_bytes(fmt, context, rank.attention_ranks)
                for count, cache in caches
            )

        bends = {cache.read_bend for _, cache in caches}
        breakpoints = tuple(sorted(bend for bend in bends if bend is not None))
        origins = (1, *(point + 1 for point in breakpoints))
        # The last slope is measured over a whole number of every ratio.
        span = 1024 * math.prod(cache.fold_tokens for _, cache in caches)
        ends = (*breakpoints, origins[-1] + span)
        slopes = tuple(
            round((read(end) - read(start)) / (end - start)) if end > start else 0
            for start, end in zip(origins, ends, strict=True)
        )
        return cls(breakpoints, origins, tuple(round(read(each)) for each in origins), slopes)

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
        cost = layers * cache.pair_flops
        work += cost * cache.pairs(start, count)
        weight += cost
    return work / weight if weight else 0.0
