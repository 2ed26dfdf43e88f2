"""Latent attention: one vector of a token serves all heads, so that every rank keeps it whole."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, LoadedUnknown, TokenCache, Vectors, Weights
from kvsim.specs.attention.pairs import causal_pairs, windowed_pairs
from kvsim.specs.checked import NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat

__all__ = ["CompressedLatentAttention", "LatentAttention"]

# A sparse indexer's key is fp8 with one fp32 scale.
_INDEXER_SCALE_BYTES = 4
# Compressors work in fp32.
_UNFOLDED_ELEMENT_BYTES = 4


class LatentAttention(LoadedUnknown, TokenCache):
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
        fp32 scale per token: 128 + 4 = 132 bytes. None without one, or where the layer
        shares an earlier layer's (GLM-5.2).
    indexer_top_k : int or None
        Tokens that the indexer picks for a query, the layer's own or the shared one.
    output_gate : bool
        Whether a projection as wide as the output gates it (Kimi K3).
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
    output_gate: bool = False

    @property
    def label(self) -> str:
        """MLA, with its own sparse indexer or a shared one."""
        if self.indexer_dim:
            return "MLA + indexer"
        return "MLA, shared indexer" if self.indexer_top_k else "MLA"

    @property
    def query_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def key_dim(self) -> int:
        """Elements of a head's key after expansion."""
        return self.nope_dim + self.rope_dim

    @property
    def vectors(self) -> Vectors:
        """The latent and the rotary key; the latent serves as the value too."""
        return Vectors(1, self.kv_lora_rank + self.rope_dim, self.kv_lora_rank, value_in_key=True)

    @property
    def expansion(self) -> int:
        """The up-projection of keys (without the rotary part) and values."""
        return self.kv_lora_rank * self.heads * (self.nope_dim + self.value_dim)

    @property
    def expanded_vectors(self) -> Vectors:
        """A key and a value for every head."""
        return Vectors(self.heads, self.key_dim, self.value_dim)

    @property
    def indexer_bytes(self) -> int:
        """Bytes of one token's indexer key in one layer: fp8 elements and one fp32 scale."""
        return self.indexer_dim + _INDEXER_SCALE_BYTES if self.indexer_dim else 0

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """The latent of every token, and the indexer's key; the same on every rank."""
        latent = Entry("latent", fmt.latent_bytes(self.kv_lora_rank, self.rope_dim))
        return (latent, Entry("indexer", self.indexer_bytes)) if self.indexer_dim else (latent,)

    def _visible(self, context: int) -> int:
        """Latents that a query reads: those that the indexer picks."""
        return min(context, self.indexer_top_k) if self.indexer_top_k else context

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """The latents that are picked, and every indexer key to pick them by."""
        latent_bytes = fmt.latent_bytes(self.kv_lora_rank, self.rope_dim)
        return self._visible(context) * latent_bytes + context * self.indexer_bytes

    @property
    def read_bend(self) -> int | None:
        """Where the indexer begins to leave latents out."""
        return self.indexer_top_k

    def pairs(self, start: int, count: int) -> float:
        """Each query sees itself and all before it, or as many as the indexer picks."""
        if self.indexer_top_k is None:
            return causal_pairs(start, count)
        return windowed_pairs(self.indexer_top_k, start, count)

    @property
    def pair_flops(self) -> int:
        """``2 * heads * (nope + rope + value)``: prefill expands the latent into heads.

        The absorbed form is for decode.
        """
        return 2 * self.heads * (self.key_dim + self.value_dim)

    def decode_flops(self, context: int) -> int:
        """Absorbed form: scores over rank + rope, values over rank, for every head."""
        return 2 * self.heads * (2 * self.kv_lora_rank + self.rope_dim) * self._visible(context)

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Down-projections and the indexer are whole on every rank, up-projections split."""
        query = self.heads * self.key_dim * (self.q_lora_rank or hidden)
        output = self.heads * self.value_dim * hidden
        down = hidden * (self.kv_lora_rank + self.rope_dim + (self.q_lora_rank or 0))
        return (
            Weights(query + self.expansion + output * self.output_gate, "tp"),
            Weights(output, "tp", family="attention_output"),
            Weights(down, "replicated"),
            Weights(self._indexer_parameters(hidden), "replicated"),
        )

    def _indexer_parameters(self, hidden: int) -> int:
        """Query, key and head-weight projections of the sparse indexer."""
        if not self.indexer_dim or not self.indexer_heads:
            return 0
        query = (self.q_lora_rank or hidden) * self.indexer_heads * self.indexer_dim
        return query + hidden * (self.indexer_dim + self.indexer_heads)

    @property
    def rotary_dim(self) -> int:
        """The rotary key's."""
        return self.rope_dim

    @property
    def activation_width(self) -> int:
        """Queries, expanded keys and values, and the output."""
        return self.heads * (2 * self.key_dim + 2 * self.value_dim)

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """Elements x width, and the indexer's key."""
        factors = self._latent_factors(fmt)
        if self.indexer_dim:
            factors = f"({factors} + {self.indexer_bytes} for the indexer)"
        return Formula(factors, self.state_bytes(fmt, tp), "per token")

    def _latent_factors(self, fmt: KVFormat) -> str:
        if fmt.scale_group is None:
            return f"({self.kv_lora_rank} + {self.rope_dim}) x {fmt.bits / 8:g} bytes"
        return f"{fmt.latent_bytes(self.kv_lora_rank, self.rope_dim):,} bytes with scales"


class CompressedLatentAttention(LoadedUnknown, TokenCache):
    """DeepSeek-V4's attention: one state every `ratio` tokens, beside a window.

    Parameters
    ----------
    heads, head_dim, rope_dim : int
        Query heads; elements of one state, and how many of them are rotary.
    window : int
        Tokens kept uncompressed.
    ratio : int
        Tokens folded into one compressed state; 0 keeps the window only.
    q_lora_rank, output_lora_rank : int or None
        Ranks of the query's and the output's compression, if any.
    output_groups : int or None
        Groups of heads that the output is compressed in, each to `output_lora_rank`; one
        where it is not said.
    indexer_dim, indexer_heads : int or None
        Key size and heads of the sparse indexer over the compressed states.
    """

    kind: Literal["compressed_latent"] = "compressed_latent"
    heads: PositiveInt
    head_dim: PositiveInt
    rope_dim: PositiveInt
    window: PositiveInt
    ratio: NonNegativeInt
    q_lora_rank: PositiveInt | None = None
    output_lora_rank: PositiveInt | None = None
    output_groups: PositiveInt | None = None
    indexer_dim: PositiveInt | None = None
    indexer_heads: PositiveInt | None = None

    @property
    def label(self) -> str:
        """MLA's name with what it adds."""
        return "compressed MLA"

    @property
    def caption(self) -> str:
        """With the window and the ratio."""
        folded = f" + 1 state in {self.ratio}" if self.ratio else ""
        return f"{self.label}, window {self.window:,}{folded}"

    @property
    def query_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def vectors(self) -> Vectors:
        """One vector that is key and value of all heads."""
        return Vectors(1, self.head_dim, self.head_dim, value_in_key=True)

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """One state: fp8 keeps the rotary part in bf16 and 8 bytes of scales (584 B).

        A token is in the window or in a compressed state, never twice a whole one.
        """
        if fmt.bits == 8:
            return self.head_dim - self.rope_dim + 2 * self.rope_dim + 8
        return fmt.vector_bytes(self.head_dim)

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """States of the window's tokens, compressed states, and the indexer's keys to these."""
        state_bytes = self.state_bytes(fmt)
        kept = [Entry("shared", state_bytes, "window", self.window)]
        if self.ratio:
            kept.append(Entry("shared", state_bytes, "folded", self.ratio))
        if self.ratio and self.indexer_dim:
            key_bytes = self.indexer_dim + _INDEXER_SCALE_BYTES
            kept.append(Entry("indexer", key_bytes, "folded", self.ratio))
        return tuple(kept)

    @property
    def unfolded(self) -> tuple[Entry, ...]:
        """Values and scores in fp32 of the tokens that are yet to be folded, for each compressor.

        Where there is an indexer, one fold overlaps the next: twice the tokens, twice as wide.

        Notes
        -----
        Source: vLLM 0.33, ``vllm/models/deepseek_v4/compressor.py`` (CompressorStateCache).

        Examples
        --------
        DeepSeek-V4's layers that fold four tokens, and those that fold 128:

        >>> shape = {"heads": 64, "head_dim": 512, "rope_dim": 64, "window": 128}
        >>> folds_4 = CompressedLatentAttention(**shape, ratio=4, indexer_dim=128)
        >>> [(entry.entry_bytes, entry.span) for entry in folds_4.unfolded]
        [(8192, 8), (2048, 8)]
        >>> folds_128 = CompressedLatentAttention(**shape, ratio=128)
        >>> [(entry.entry_bytes, entry.span) for entry in folds_128.unfolded]
        [(4096, 128)]
        """
        if not self.ratio:
            return ()
        overlap = 2 if self.indexer_dim else 1
        value_and_score_bytes = 2 * overlap * _UNFOLDED_ELEMENT_BYTES
        return tuple(
            Entry("unfolded", value_and_score_bytes * dim, "window", overlap * self.ratio)
            for dim in (self.head_dim, self.indexer_dim)
            if dim
        )

    def held_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """Bytes of the states; the indexer's keys count in an engine's pages only."""
        return self.states(context) * self.state_bytes(fmt, tp)

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """All states that are kept."""
        return self.held_bytes(fmt, context, tp)

    @property
    def read_bend(self) -> int:
        """Once the window is full."""
        return self.window

    def pairs(self, start: int, count: int) -> float:
        """Each query sees the window and the compressed states before it."""
        folded = causal_pairs(start, count) / self.ratio if self.ratio else 0.0
        return windowed_pairs(self.window, start, count) + folded

    @property
    def pair_flops(self) -> int:
        """Scores and values over one shared vector, for every head."""
        return 4 * self.heads * self.head_dim

    def decode_flops(self, context: int) -> int:
        """One pair per state."""
        return self.pair_flops * self.states(context)

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """One shared K=V vector, a compressor, a low-rank grouped output."""
        width = self.heads * self.head_dim
        down = hidden * (self.head_dim + (self.q_lora_rank or 0))
        compressed = self._compressor_parameters(hidden) + self._indexer_parameters(hidden)
        return (
            Weights(width * (self.q_lora_rank or hidden), "tp"),
            Weights(self._output(width, hidden), "tp", family="attention_output"),
            Weights(down + compressed, "replicated"),
        )

    def _output(self, width: int, hidden: int) -> int:
        """Each group's share of the heads to the rank, and all groups' ranks to `hidden`."""
        if self.output_lora_rank is None:
            return width * hidden
        return self.output_lora_rank * (width + (self.output_groups or 1) * hidden)

    def _compressor_parameters(self, hidden: int) -> int:
        """Value and gate projections, twice as wide where windows overlap."""
        if not self.ratio:
            return 0
        width = 2 * hidden * (2 if self.indexer_dim else 1)
        return width * (self.head_dim + (self.indexer_dim or 0))

    def _indexer_parameters(self, hidden: int) -> int:
        """Query and head-weight projections of the sparse indexer; its keys are compressed."""
        if not self.indexer_dim or not self.indexer_heads:
            return 0
        query = (self.q_lora_rank or hidden) * self.indexer_dim
        return self.indexer_heads * (query + hidden)

    @property
    def rotary_dim(self) -> int:
        """0: which tables a loader makes is not known."""
        return 0

    @property
    def activation_width(self) -> int:
        """Queries and the output."""
        return 2 * self.heads * self.head_dim

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """The plain size of a state."""
        state_bytes = self.state_bytes(fmt, tp)
        return Formula(f"{state_bytes:,} bytes", state_bytes, "per state")
