"""Attention with a key and a value per KV head: all tokens, a window, a chunk, an encoder."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, TokenCache, Vectors, Weights
from kvsim.specs.attention.pairs import causal_pairs, chunked_pairs, windowed_pairs
from kvsim.specs.checked import PositiveInt
from kvsim.specs.precision import KVFormat

__all__ = [
    "ChunkedAttention",
    "CrossAttention",
    "FullAttention",
    "HeadAttention",
    "SlidingAttention",
]


class HeadAttention(TokenCache):
    """Base of softmax attention: MHA, GQA and MQA by their head counts.

    A kind says which tokens it keeps (`entries`) and sees (`pairs`); decoding reads all that is
    kept, unless the kind says otherwise.

    Parameters
    ----------
    heads, kv_heads : int
        Query heads and KV heads; equal in MHA, ``kv_heads == 1`` in MQA.
    key_dim, value_dim : int
        Elements of K and of V per head; they may differ.
    bias, output_bias : bool
        Whether the QKV and the output projections carry a bias (weights only).
    output_gate : bool
        Whether the query projection is doubled to gate the output (Qwen3-Next).
    """

    heads: PositiveInt
    kv_heads: PositiveInt
    key_dim: PositiveInt
    value_dim: PositiveInt
    bias: bool = False
    output_bias: bool = False
    output_gate: bool = False

    @property
    def label(self) -> str:
        """The field's word for this head arrangement: MHA, GQA or MQA."""
        if self.kv_heads == 1:
            return "MQA"
        return "MHA" if self.kv_heads == self.heads else "GQA"

    @property
    def query_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def vectors(self) -> Vectors:
        """A key and a value for each KV head."""
        return Vectors(self.kv_heads, self.key_dim, self.value_dim)

    def pair_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """K and V of one token: ``kv_heads_per_rank * (key + value vectors)``."""
        pair = fmt.vector_bytes(self.key_dim) + fmt.vector_bytes(self.value_dim)
        return self.vectors.rank_heads(tp) * pair

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """All that is kept."""
        return self.held_bytes(fmt, context, tp)

    @property
    def pair_flops(self) -> int:
        """``2 * heads * (key_dim + value_dim)``: scores, and the sum of the values."""
        return 2 * self.heads * (self.key_dim + self.value_dim)

    def decode_flops(self, context: int) -> int:
        """One pair per state that is read."""
        return self.pair_flops * self.states(context)

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Q and O split by query heads, K and V by KV heads."""
        key_value = self.kv_heads * (self.key_dim + self.value_dim)
        inputs = hidden + self.bias
        output = self.heads * self.value_dim * hidden + hidden * self.output_bias
        return (
            Weights(self._query_width * inputs, "tp"),
            Weights(key_value * inputs, "kv", self.kv_heads),
            Weights(output, "tp", family="attention_output"),
        )

    @property
    def _query_width(self) -> int:
        """Outputs of the query projection, its gate included."""
        return self.heads * self.key_dim * (2 if self.output_gate else 1)

    def fused_tensors(self, hidden: int, tp: int) -> tuple[int, ...]:
        """QKV, fused, and the output projection."""
        key_value = self.vectors.rank_heads(tp) * (self.key_dim + self.value_dim)
        qkv = hidden * (self._query_width // tp + key_value)
        return qkv, hidden * self.heads * self.value_dim // tp

    def linear_ends(self, hidden: int) -> int:
        """Those of Q, K, V and O."""
        return 4 * hidden + (self.heads + self.kv_heads) * (self.key_dim + self.value_dim)

    @property
    def rotary_dim(self) -> int:
        """As wide as a key."""
        return self.key_dim

    @property
    def activation_width(self) -> int:
        """Queries, keys, values and the output."""
        return (self.heads + self.kv_heads) * (self.key_dim + self.value_dim)

    @property
    def unit(self) -> str:
        """What the formula's bytes are for."""
        limit = self.recent_tokens
        return f"per token, {limit:,} tokens at most" if limit else "per token"

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """Heads x elements x width."""
        heads = self.vectors.rank_heads(tp)
        whose = "KV head" + ("s" if heads != 1 else "") + (" per rank" if tp > 1 else "")
        factors = f"{heads:,} {whose} x {self._pair_factors(fmt)}"
        return Formula(factors, self.pair_bytes(fmt, tp), self.unit)

    def _pair_factors(self, fmt: KVFormat) -> str:
        if fmt.scale_group is None:
            return f"({self.key_dim} + {self.value_dim}) x {fmt.bits / 8:g} bytes"
        key, value = fmt.vector_bytes(self.key_dim), fmt.vector_bytes(self.value_dim)
        return f"({key} + {value}) bytes with scales"


class FullAttention(HeadAttention):
    """Attention to the whole context."""

    kind: Literal["full"] = "full"

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """K and V of every token."""
        return (Entry("kv", self.pair_bytes(fmt, tp)),)

    @property
    def read_bend(self) -> None:
        """Nowhere."""
        return

    pairs = staticmethod(causal_pairs)


class SlidingAttention(HeadAttention):
    """Attention to the last `window` tokens only (Mistral v0.1, Gemma, gpt-oss)."""

    kind: Literal["sliding"] = "sliding"
    window: PositiveInt

    @property
    def caption(self) -> str:
        """With the window."""
        return f"{self.label}, window {self.window:,}"

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """K and V of the window's tokens."""
        return (Entry("kv", self.pair_bytes(fmt, tp), "window", self.window),)

    @property
    def read_bend(self) -> int:
        """Once the window is full."""
        return self.window

    def pairs(self, start: int, count: int) -> float:
        """Each query sees at most the window."""
        return windowed_pairs(self.window, start, count)


class ChunkedAttention(HeadAttention):
    """Attention inside fixed chunks (Llama 4): a sequence keeps at most one chunk."""

    kind: Literal["chunked"] = "chunked"
    chunk: PositiveInt

    @property
    def caption(self) -> str:
        """With the chunk."""
        return f"{self.label}, chunk {self.chunk:,}"

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """K and V of the chunk's tokens."""
        return (Entry("kv", self.pair_bytes(fmt, tp), "chunk", self.chunk),)

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """The first chunk as it grows, then the mean of the sawtooth."""
        if context > self.chunk:
            return (self.chunk + 1) * self.pair_bytes(fmt, tp) // 2
        return context * self.pair_bytes(fmt, tp)

    @property
    def read_bend(self) -> int:
        """Once the first chunk is full."""
        return self.chunk

    def pairs(self, start: int, count: int) -> float:
        """Each query sees its own chunk."""
        return chunked_pairs(self.chunk, start, count)


class CrossAttention(HeadAttention):
    """A decoder's attention to an encoder: sized by the encoder's length, once.

    Parameters
    ----------
    encoder_tokens : int
        Longest encoder output (Whisper: 1,500 frames).
    """

    kind: Literal["cross"] = "cross"
    encoder_tokens: PositiveInt

    @property
    def label(self) -> str:
        """The same for every head arrangement."""
        return "cross-attention"

    @property
    def caption(self) -> str:
        """With the encoder's length."""
        return f"cross, {self.encoder_tokens:,} encoder tokens"

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """K and V of the encoder's tokens, however long the decoder's context."""
        return (Entry("kv", self.pair_bytes(fmt, tp), "fixed", self.encoder_tokens),)

    @property
    def read_bend(self) -> None:
        """Nowhere: every step reads the same."""
        return

    def pairs(self, start: int, count: int) -> float:
        """Each query sees the encoder's tokens."""
        return float(count * self.encoder_tokens)

    @property
    def unit(self) -> str:
        """The encoder's token."""
        return "per encoder token"
