"""Attention in which every KV head picks the blocks of the context that it reads."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, Weights
from kvsim.specs.attention.heads import HeadAttention
from kvsim.specs.attention.pairs import causal_pairs, windowed_pairs
from kvsim.specs.checked import PositiveInt
from kvsim.specs.precision import KVFormat

__all__ = ["BlockSparseAttention"]

# Index keys are bf16, whatever the format of K and V.
_INDEX_ELEMENT_BYTES = 2


class BlockSparseAttention(HeadAttention):
    """MiniMax-M3's attention: K and V of every token are kept, those of a few blocks read.

    ::

        blocks       0 1 2 3 4 5 6 7      index queries score every index key, and a KV head
        KV head 0    . # . . # . . #      reads the `top_blocks` blocks with the best scores
        KV head 1    # . . # . . . #

    Parameters
    ----------
    index_heads, index_dim : int
        Heads of the index query, one a KV head, and elements of the one index key that a token
        has in a layer.
    block, top_blocks : int
        Tokens of a block, and blocks that a query picks.

    Notes
    -----
    Source: vLLM 0.33, ``vllm/models/minimax_m3/nvidia/model.py`` (MiniMaxM3SparseAttention) and
    ``common/indexer.py`` (MiniMaxM3IndexerCache).

    Examples
    --------
    MiniMax-M3 reads 2,048 tokens of K and V, and the index keys of the whole context.

    >>> from kvsim.specs.precision import kv_format
    >>> cache = BlockSparseAttention(heads=64, kv_heads=4, key_dim=128, value_dim=128,
    ...     index_heads=4, index_dim=128, block=128, top_blocks=16)
    >>> cache.read_bytes(kv_format("bf16"), 100_000) == 2048 * 2048 + 100_000 * 256
    True
    """

    kind: Literal["block_sparse"] = "block_sparse"
    index_heads: PositiveInt
    index_dim: PositiveInt
    block: PositiveInt
    top_blocks: PositiveInt

    @property
    def label(self) -> str:
        """The head arrangement, and that it is sparse."""
        return f"block-sparse {super().label}"

    @property
    def caption(self) -> str:
        """With the blocks."""
        return f"{self.label}, reads {self.top_blocks:,} blocks of {self.block:,}"

    @property
    def index_bytes(self) -> int:
        """Bytes of one token's index key in one layer: the same on every rank."""
        return self.index_dim * _INDEX_ELEMENT_BYTES

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """K, V and the index key of every token."""
        return (
            Entry("kv", self.pair_bytes(fmt, tp)),
            Entry("block_indexer", self.index_bytes),
        )

    @property
    def read_bend(self) -> int:
        """Where blocks begin to be left out."""
        return self.block * self.top_blocks

    def _visible(self, context: int) -> int:
        """Tokens of the blocks that a query picks."""
        return min(context, self.read_bend)

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """K and V of the blocks that are picked, and every index key to pick them by."""
        return self._visible(context) * self.pair_bytes(fmt, tp) + context * self.index_bytes

    @property
    def _score_flops(self) -> int:
        """FLOPs of one index query against one index key, all heads."""
        return 2 * self.index_heads * self.index_dim

    def pairs(self, start: int, count: int) -> float:
        """Pairs of the blocks that are picked; a scored key is the share of one that it costs."""
        scored = causal_pairs(start, count) * self._score_flops / self.pair_flops
        return windowed_pairs(self.read_bend, start, count) + scored

    def decode_flops(self, context: int) -> int:
        """One pair per token that is picked, one score per token of context."""
        return self.pair_flops * self._visible(context) + self._score_flops * context

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Index queries are split as KV heads are, the index key is whole on every rank."""
        return (
            *super().weights(hidden),
            Weights(hidden * self.index_heads * self.index_dim, "kv", self.index_heads),
            Weights(hidden * self.index_dim, "replicated"),
        )

    def fused_tensors(self, hidden: int, tp: int) -> tuple[int, ...]:
        """QKV with the index query and key, fused, and the output projection."""
        qkv, output = super().fused_tensors(hidden, tp)
        index_heads = max(1, self.index_heads // tp)
        return qkv + hidden * (index_heads + 1) * self.index_dim, output

    def linear_ends(self, hidden: int) -> int:
        """Zero: no adapter is known to apply (vLLM's model does not support LoRA)."""
        return 0

    @property
    def activation_width(self) -> int:
        """Queries, keys, values, the output, and the index queries and key."""
        return super().activation_width + (self.index_heads + 1) * self.index_dim

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """Heads x elements x width, and the index key."""
        pair = super().formula(fmt, tp)
        factors = f"({pair.factors} + {self.index_bytes} for the index key)"
        return Formula(factors, self.state_bytes(fmt, tp), pair.unit)
