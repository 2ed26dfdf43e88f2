"""DeepSeek-V4's latent attention: states that several tokens are folded into, and a window."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, LoadedUnknown, TokenCache, Vectors, Weights
from kvsim.specs.attention.latent import INDEXER_SCALE_BYTES
from kvsim.specs.attention.pairs import causal_pairs, windowed_pairs
from kvsim.specs.checked import NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat

__all__ = ["CompressedLatentAttention"]

# Compressors work in fp32.
_UNFOLDED_ELEMENT_BYTES = 4


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
    def query_groups(self) -> int:
        """Groups that the output is compressed in.

        Notes
        -----
        Source: vLLM 0.20.2, ``model_executor/models/deepseek_v4.py``, and 0.33,
        ``models/deepseek_v4/attention.py`` (n_local_groups = o_groups // tp_size, by which heads
        are divided).
        """
        return self.output_groups or self.heads

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
            key_bytes = self.indexer_dim + INDEXER_SCALE_BYTES
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
