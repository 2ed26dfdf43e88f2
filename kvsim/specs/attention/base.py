"""Attention kinds: the kinds differ only in what they keep and how they count its bytes.

Every kind answers the same four questions, for one layer of one rank:

=====================  =================================================================
``state_bytes``        bytes of one cached state (a token's K and V, a latent, ...)
``states``             states that a sequence of `context` tokens keeps in steady decode
``fixed_bytes``        bytes that a sequence takes whatever its length
``decode_flops``       attention arithmetic of one decode step for one sequence
=====================  =================================================================

::

    tokens   0 1 2 3 4 5 6 7 8 9 10 11      window 4, chunk 4, context 11
    full     # # # # # # # # # # #          states = context
    sliding  . . . . . . . # # # #          states = min(context, window)
    chunked  . . . . . . . . # # #          states = at most one chunk
    latent   # # # # # # # # # # #          one small vector per token, not a pair per head
    recurrent  (one matrix)                 states = 0, fixed_bytes > 0
"""

from __future__ import annotations

from typing import Literal

from kvsim.errors import InputError
from kvsim.specs.checked import Checked, NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat
from kvsim.units import ceil_div

__all__ = [
    "Attention",
    "ChunkedAttention",
    "CompressedLatentAttention",
    "CrossAttention",
    "FullAttention",
    "LatentAttention",
    "RecurrentState",
    "SlidingAttention",
    "heads_per_rank",
]


def heads_per_rank(heads: int, tp: int) -> int:
    """KV heads that one tensor-parallel rank holds: split, then replicated.

    Raises
    ------
    InputError
        When neither divides the other, so that no engine can shard them.

    Examples
    --------
    >>> heads_per_rank(8, 4), heads_per_rank(8, 16)  # at 16, each head lives on two ranks
    (2, 1)
    """
    if heads % tp and tp % heads:
        raise InputError(
            f"{heads} KV heads cannot be split over tp={tp}",
            fix=f"choose tp from {[n for n in range(1, heads + 1) if heads % n == 0]}"
            f" or a multiple of {heads}",
        )
    return max(1, heads // tp)


class _Cache(Checked):
    """Base of all kinds: keeps nothing, costs nothing."""

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """Bytes of one cached state in one layer on one rank."""
        return 0

    def states(self, context: int) -> int:
        """States that a sequence of `context` tokens keeps in steady decode."""
        return context

    def fixed_bytes(self, tp: int = 1) -> int:
        """Bytes that a sequence takes in one layer on one rank, whatever its length."""
        return 0

    def decode_flops(self, context: int) -> int:
        """Attention FLOPs of one decode step of one sequence in one layer, all ranks."""
        return 0


class FullAttention(_Cache):
    """Softmax attention over the whole context: MHA, GQA and MQA by their head counts.

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

    kind: Literal["full"] = "full"
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

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """K and V of one token: ``kv_heads_per_rank * (key + value vectors)``."""
        pair = fmt.vector_bytes(self.key_dim) + fmt.vector_bytes(self.value_dim)
        return heads_per_rank(self.kv_heads, tp) * pair

    def decode_flops(self, context: int) -> int:
        """``2 * heads * (key_dim + value_dim)`` per state that is read."""
        return 2 * self.heads * (self.key_dim + self.value_dim) * self.states(context)


class SlidingAttention(FullAttention):
    """Attention to the last `window` tokens only (Mistral v0.1, Gemma, gpt-oss)."""

    kind: Literal["sliding"] = "sliding"  # type: ignore[assignment]
    window: PositiveInt

    def states(self, context: int) -> int:
        """At most the window."""
        return min(context, self.window)


class ChunkedAttention(FullAttention):
    """Attention inside fixed chunks (Llama 4): a sequence keeps at most one chunk."""

    kind: Literal["chunked"] = "chunked"  # type: ignore[assignment]
    chunk: PositiveInt

    def states(self, context: int) -> int:
        """At most one chunk: the peak of the sawtooth, which is what must fit."""
        return min(context, self.chunk)


class CrossAttention(FullAttention):
    """A decoder's attention to an encoder: sized by the encoder's length, once.

    Parameters
    ----------
    encoder_tokens : int
        Longest encoder output (Whisper: 1,500 frames).
    """

    kind: Literal["cross"] = "cross"  # type: ignore[assignment]
    encoder_tokens: PositiveInt

    def states(self, context: int) -> int:
        """The encoder's length, however long the decoder's context."""
        return self.encoder_tokens


class LatentAttention(_Cache):
    """Multi-head latent attention (DeepSeek-V2): one compressed vector per token per layer.

    The latent is shared by all heads, so tensor parallelism replicates it.

    Parameters
    ----------
    kv_lora_rank, rope_dim : int
        Elements of the latent and of the rotary key: 512 + 64 in every DeepSeek.
    nope_dim, value_dim : int
        A head's un-rotated key part and its value, after expansion (weights, flops).
    q_lora_rank : int or None
        Rank of the query's compression, if any.
    indexer_dim, indexer_heads : int or None
        Key size and heads of the sparse indexer (V3.2, GLM-5), cached in fp8 with one
        fp32 scale per token: 128 + 4 = 132 bytes.
    """

    kind: Literal["latent"] = "latent"
    heads: PositiveInt
    kv_lora_rank: PositiveInt
    rope_dim: PositiveInt
    nope_dim: PositiveInt
    value_dim: PositiveInt
    q_lora_rank: PositiveInt | None = None
    indexer_dim: PositiveInt | None = None
    indexer_heads: PositiveInt | None = None
    indexer_top_k: PositiveInt | None = None

    @property
    def label(self) -> str:
        """MLA, or MLA with its sparse indexer."""
        return "MLA + indexer" if self.indexer_dim else "MLA"

    @property
    def indexer_bytes(self) -> int:
        """Bytes of one token's indexer key in one layer: fp8 elements and one fp32 scale."""
        return self.indexer_dim + 4 if self.indexer_dim else 0

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """The latent entry (and the indexer's key); the same on every TP rank."""
        return fmt.latent_bytes(self.kv_lora_rank, self.rope_dim) + self.indexer_bytes

    def decode_flops(self, context: int) -> int:
        """Absorbed form: scores over rank + rope, values over rank, for every head."""
        read = min(context, self.indexer_top_k) if self.indexer_top_k else context
        return 2 * self.heads * (2 * self.kv_lora_rank + self.rope_dim) * read


class CompressedLatentAttention(_Cache):
    """DeepSeek-V4's attention: one state every `ratio` tokens, beside a window.

    Parameters
    ----------
    heads, head_dim, rope_dim : int
        Query heads; elements of one state, and how many of them are rotary.
    window : int
        Tokens kept uncompressed.
    ratio : int
        Tokens folded into one compressed state; 0 keeps the window only.
    """

    kind: Literal["compressed_latent"] = "compressed_latent"
    heads: PositiveInt
    head_dim: PositiveInt
    rope_dim: PositiveInt
    window: PositiveInt
    ratio: NonNegativeInt
    q_lora_rank: PositiveInt | None = None
    output_lora_rank: PositiveInt | None = None
    indexer_dim: PositiveInt | None = None

    label: Literal["compressed MLA"] = "compressed MLA"

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """One state: fp8 keeps the rotary part in bf16 and 8 bytes of scales (584 B)."""
        if fmt.bits == 8:
            return self.head_dim - self.rope_dim + 2 * self.rope_dim + 8
        return fmt.vector_bytes(self.head_dim)

    def states(self, context: int) -> int:
        """The window plus one state every `ratio` tokens."""
        return min(context, self.window) + (context // self.ratio if self.ratio else 0)

    def decode_flops(self, context: int) -> int:
        """Scores and values over one shared vector per state, for every head."""
        return 4 * self.heads * self.head_dim * self.states(context)


class RecurrentState(_Cache):
    """Linear attention and state-space layers: a fixed state instead of a growing cache.

    Parameters
    ----------
    flavour : str
        "mamba2", "mamba", "gated_delta_net" or "lightning".
    conv_elements, recurrent_elements : int
        Elements of the rolling convolution input and of the recurrent matrix, all heads.
    conv_element_bytes, recurrent_element_bytes : int
        Bytes per element (engines keep the recurrent matrix in fp32 unless told not to).
    parameters : int
        Weights of the layer's mixer.

    Examples
    --------
    Qwen3.5-27B: (2 * 16 + 48) heads * 128 * 3 taps in bf16 and 48 * 128 * 128 in fp32.

    >>> RecurrentState(flavour="gated_delta_net", conv_elements=30720,
    ...     recurrent_elements=786432, parameters=0).fixed_bytes()
    3207168
    """

    kind: Literal["recurrent"] = "recurrent"
    flavour: Literal["mamba", "mamba2", "gated_delta_net", "lightning"]
    conv_elements: NonNegativeInt
    recurrent_elements: PositiveInt
    conv_element_bytes: PositiveInt = 2
    recurrent_element_bytes: PositiveInt = 4
    parameters: NonNegativeInt

    @property
    def label(self) -> str:
        """The flavour in words."""
        return self.flavour.replace("_", " ")

    def states(self, context: int) -> int:
        """Nothing that grows."""
        return 0

    def fixed_bytes(self, tp: int = 1) -> int:
        """Convolution and recurrent state, split by heads over the ranks."""
        conv = ceil_div(self.conv_elements, tp) * self.conv_element_bytes
        return conv + ceil_div(self.recurrent_elements, tp) * self.recurrent_element_bytes

    def decode_flops(self, context: int) -> int:
        """Decay, update and read: about six operations per element."""
        return 6 * self.recurrent_elements


Attention = (
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | CrossAttention
    | LatentAttention
    | CompressedLatentAttention
    | RecurrentState
)
