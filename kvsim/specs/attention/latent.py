"""Latent attention: one vector of a token serves all heads, so that every rank keeps it whole."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, LoadedUnknown, TokenCache, Vectors, Weights
from kvsim.specs.attention.pairs import causal_pairs, windowed_pairs
from kvsim.specs.checked import NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat
from kvsim.units import ceil_div

__all__ = ["INDEXER_SCALE_BYTES", "LatentAttention"]

# A sparse indexer's key is fp8 with one fp32 scale.
INDEXER_SCALE_BYTES = 4
# What is yet to be folded into an index key is a key and a gate's score in bf16.
_UNFOLDED_ELEMENT_BYTES = 2


class LatentAttention(LoadedUnknown, TokenCache):
    """Multi-head latent attention (DeepSeek-V2): one compressed vector per token per layer.

    The latent is shared by all heads, so tensor parallelism replicates it.

    Parameters
    ----------
    kv_lora_rank, rope_dim : int
        Elements of the latent and of the rotary key: 512 + 64 in every DeepSeek, 512 and no
        rotary key in GLM-5.3.
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
    index_fold : int
        Tokens that share one index key: 4 in GLM-5.3, 1 where each has its own.
    output_gate : bool
        Whether a projection as wide as the output gates it (Kimi K3).
    """

    kind: Literal["latent"] = "latent"
    heads: PositiveInt
    kv_lora_rank: PositiveInt
    rope_dim: NonNegativeInt
    nope_dim: PositiveInt
    value_dim: PositiveInt
    q_lora_rank: PositiveInt | None = None
    indexer_dim: PositiveInt | None = None
    indexer_heads: PositiveInt | None = None
    indexer_top_k: PositiveInt | None = None
    index_fold: PositiveInt = 1
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
        """Bytes of one indexer key in one layer: fp8 elements and one fp32 scale."""
        return self.indexer_dim + INDEXER_SCALE_BYTES if self.indexer_dim else 0

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """The latent of every token, and the indexer's keys; the same on every rank."""
        latent = Entry("latent", fmt.latent_bytes(self.kv_lora_rank, self.rope_dim))
        if not self.indexer_dim:
            return (latent,)
        if self.index_fold == 1:
            return latent, Entry("indexer", self.indexer_bytes)
        return latent, Entry("indexer", self.indexer_bytes, "folded", self.index_fold)

    @property
    def unfolded(self) -> tuple[Entry, ...]:
        """A ring of the tokens that are yet to be folded into an index key.

        Notes
        -----
        Source: vLLM 0.33, ``vllm/models/glm5next/common/attention.py`` (Glm5NextTailCache).

        Examples
        --------
        GLM-5.3: four tokens, each with a key and a gate's score of 128 elements.

        >>> LatentAttention(heads=64, kv_lora_rank=512, rope_dim=0, nope_dim=256, value_dim=256,
        ...     indexer_dim=128, indexer_heads=32, indexer_top_k=2048, index_fold=4).unfolded
        (Entry(what='unfolded', entry_bytes=512, kept='fixed', span=4),)
        """
        if not self.indexer_dim or self.index_fold == 1:
            return ()
        token_bytes = 2 * self.indexer_dim * _UNFOLDED_ELEMENT_BYTES
        return (Entry("unfolded", token_bytes, "fixed", self.index_fold),)

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """The latent, and the token's share of an indexer key."""
        latent_bytes = fmt.latent_bytes(self.kv_lora_rank, self.rope_dim)
        return latent_bytes + ceil_div(self.indexer_bytes, self.index_fold)

    def _visible(self, context: int) -> int:
        """Latents that a query reads: those that the indexer picks."""
        return min(context, self.indexer_top_k) if self.indexer_top_k else context

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """The latents that are picked, and every indexer key to pick them by."""
        latent_bytes = fmt.latent_bytes(self.kv_lora_rank, self.rope_dim)
        keys_bytes = context // self.index_fold * self.indexer_bytes
        return self._visible(context) * latent_bytes + keys_bytes

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
        """Query, key and head-weight projections of the sparse indexer, and what gates a fold."""
        if not self.indexer_dim or not self.indexer_heads:
            return 0
        query = (self.q_lora_rank or hidden) * self.indexer_heads * self.indexer_dim
        keys = self.indexer_dim * (1 if self.index_fold == 1 else 2)
        return query + hidden * (keys + self.indexer_heads)

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
            fold = "" if self.index_fold == 1 else f" / {self.index_fold} tokens"
            factors = f"({factors} + {self.indexer_bytes}{fold} for the indexer)"
        return Formula(factors, self.state_bytes(fmt, tp), "per token")

    def _latent_factors(self, fmt: KVFormat) -> str:
        if fmt.scale_group is None:
            rank, rope = self.kv_lora_rank, self.rope_dim
            elements = f"({rank} + {rope})" if rope else f"{rank}"
            return f"{elements} x {fmt.bits / 8:g} bytes"
        return f"{fmt.latent_bytes(self.kv_lora_rank, self.rope_dim):,} bytes with scales"
