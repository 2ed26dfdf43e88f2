"""DeepSeek-V4.1's latent attention: a window in each layer, and states that some layers share."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.attention.base import Entry, Formula, LoadedUnknown, TokenCache, Vectors, Weights
from kvsim.specs.attention.latent import INDEXER_SCALE_BYTES
from kvsim.specs.attention.pairs import causal_pairs, windowed_pairs
from kvsim.specs.checked import NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.units import ceil_div

__all__ = ["SourcedLatentAttention"]

# Compressors keep a value and a score in fp32 of eight tokens, though they fold two.
_RING_TOKENS = 8
_RING_ELEMENT_BYTES = 4
# A packed record: fp8 but for the rotary part, which stays bf16, and eight bytes of scales.
_PACKED_SCALE_BYTES = 8


class SourcedLatentAttention(LoadedUnknown, TokenCache):
    """One state for every `ratio` tokens, which the layers after a source read from there.

    ::

        layer        0   1   2   3 ... 8   9 ... 20  21 ...
        window       #   #   #   #     #   #     #   #       its own in each
        states               #<--+     #<--+     #<--+       kept in the sources alone
        index keys           #<--+     #<--+     #<--+       as the states

    Parameters
    ----------
    heads, head_dim, rope_dim : int
        Query heads; elements of one state, and how many of them are rotary.
    window : int
        Tokens kept uncompressed.
    ratio : int
        Tokens folded into one of the states that it reads; 0 reads its window only.
    top_k : int
        States that a query picks.
    is_source : bool
        Whether those states, and the index keys to them, are kept here.
    picks : bool
        Whether it has an indexer of its own, or reads what an earlier layer picked.
    index_dim, index_heads : int
        Key size and heads of the indexer.
    q_lora_rank, output_lora_rank, output_groups : int
        Ranks of the query's and the output's compression; groups of heads of the latter.

    Notes
    -----
    Source: vLLM 0.33, ``vllm/models/deepseek_v41/attention.py`` and ``compressor.py``.
    """

    kind: Literal["sourced_latent"] = "sourced_latent"
    heads: PositiveInt
    head_dim: PositiveInt
    rope_dim: PositiveInt
    window: PositiveInt
    ratio: NonNegativeInt
    top_k: PositiveInt
    is_source: bool = False
    picks: bool = False
    index_dim: PositiveInt
    index_heads: PositiveInt
    q_lora_rank: PositiveInt
    output_lora_rank: PositiveInt
    output_groups: PositiveInt

    @property
    def label(self) -> str:
        """MLA's name with what it adds."""
        return "sourced MLA"

    @property
    def caption(self) -> str:
        """With the window, and where its states are."""
        if not self.ratio:
            return f"{self.label}, window {self.window:,}"
        where = f"1 state in {self.ratio}" if self.is_source else "an earlier layer's states"
        return f"{self.label}, window {self.window:,} + {where}"

    @property
    def query_heads(self) -> int:
        """All of them."""
        return self.heads

    @property
    def query_groups(self) -> int:
        """Heads whose outputs are compressed together."""
        return self.output_groups

    @property
    def vectors(self) -> Vectors:
        """One vector that is key and value of all heads."""
        return Vectors(1, self.head_dim, self.head_dim, value_in_key=True)

    def record_bytes(self, fmt: KVFormat) -> int:
        """Bytes of one state: 584 in the packed layout, 528 in MXFP8, 288 in NVFP4."""
        if fmt.name == "fp8_ds_mla":
            return self.head_dim + self.rope_dim + _PACKED_SCALE_BYTES
        return fmt.vector_bytes(self.head_dim)

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """States of the window's tokens; in a source, folded states and the keys to them.

        Where folded states are NVFP4, those of the window are MXFP8.
        """
        recent = kv_format("mxfp8") if fmt.name == "nvfp4_ds_mla" else fmt
        window = Entry("record", self.record_bytes(recent), "window", self.window)
        if not self.is_source:
            return (window,)
        return (
            Entry("record", self.record_bytes(fmt), "folded", self.ratio),
            Entry("indexer", self.index_dim + INDEXER_SCALE_BYTES, "folded", self.ratio),
            window,
        )

    @property
    def unfolded(self) -> tuple[Entry, ...]:
        """A ring of the tokens that a source has yet to fold; ratio 1 folds none."""
        if not self.is_source or self.ratio == 1:
            return ()
        return (Entry("unfolded", 2 * _RING_ELEMENT_BYTES * self.head_dim, "fixed", _RING_TOKENS),)

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """What a token adds while the window is open."""
        return sum(
            ceil_div(entry.entry_bytes, entry.span if entry.kept == "folded" else 1)
            for entry in self.entries(fmt, tp)
        )

    @property
    def reads_earlier(self) -> bool:
        """The states of a source."""
        return self.ratio > 0 and not self.is_source

    def _picked(self, context: int) -> int:
        """Folded states that a query reads."""
        return min(self.top_k, context // self.ratio) if self.ratio else 0

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """The window, the states that are picked, and all index keys where they are picked."""
        *_, window = self.entries(fmt, tp)
        read = window.entry_bytes * window.count(context)
        read += self.record_bytes(fmt) * self._picked(context)
        if not self.picks:
            return read
        return read + context // self.ratio * (self.index_dim + INDEXER_SCALE_BYTES)

    @property
    def read_bend(self) -> int:
        """Where the indexer begins to leave states out; the window's end without them."""
        return self.top_k * self.ratio or self.window

    def pairs(self, start: int, count: int) -> float:
        """Each query sees the window and the states that it picks; a score is a share of one."""
        seen = windowed_pairs(self.window, start, count)
        if not self.ratio:
            return seen
        seen += windowed_pairs(self.read_bend, start, count) / self.ratio
        if not self.picks:
            return seen
        score_flops = 2 * self.index_heads * self.index_dim
        return seen + causal_pairs(start, count) / self.ratio * score_flops / self.pair_flops

    @property
    def pair_flops(self) -> int:
        """Scores and values over one shared vector, for every head."""
        return 4 * self.heads * self.head_dim

    def decode_flops(self, context: int) -> int:
        """One pair per state that is read, and one score per index key."""
        flops = self.pair_flops * (min(context, self.window) + self._picked(context))
        if not self.picks:
            return flops
        return flops + context // self.ratio * 2 * self.index_heads * self.index_dim

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """One shared K=V vector, a low-rank grouped output; a compressor in a source."""
        width = self.heads * self.head_dim
        output = self.output_lora_rank * (width + self.output_groups * hidden)
        down = hidden * (self.head_dim + self.q_lora_rank)
        compressor = hidden * self.head_dim * (1 if self.ratio == 1 else 2)
        return (
            Weights(width * self.q_lora_rank, "tp"),
            Weights(output, "tp", family="attention_output"),
            Weights(down + compressor * self.is_source, "replicated"),
            Weights(self._indexer_parameters(hidden), "replicated"),
        )

    def _indexer_parameters(self, hidden: int) -> int:
        """Query and head weights of an indexer; in a source, keys from the folded states."""
        if not self.picks:
            return 0
        query = self.index_heads * (self.q_lora_rank * self.index_dim + hidden)
        return query + self.head_dim * self.index_dim * self.is_source

    @property
    def rotary_dim(self) -> int:
        """0: which tables a loader makes is not known."""
        return 0

    @property
    def activation_width(self) -> int:
        """Queries and the output."""
        return 2 * self.heads * self.head_dim

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """The window's state, and the folded one with its key."""
        sizes = [_share(entry) for entry in self.entries(fmt, tp)]
        factors = f"({' + '.join(sizes)}) bytes" if len(sizes) > 1 else f"{sizes[0]} bytes"
        return Formula(factors, self.state_bytes(fmt, tp), "per token")


def _share(entry: Entry) -> str:
    """Bytes of an entry, and of how many tokens it is."""
    folds = entry.kept == "folded" and entry.span > 1
    return f"{entry.entry_bytes:,} / {entry.span}" if folds else f"{entry.entry_bytes:,}"
