"""Four ways to keep a batch's K and V between steps, behind one attention.

::

    none           [............]              nothing is kept: every step computes it all again
    grow           [######]+[#] -> [#######]   a new tensor per step, the old one copied into it
    preallocated   [#######.....]              one tensor of the longest length, written in place
    paged          [####][####][##..]          blocks of a few tokens, taken as they fill

All sequences of the batch are equally long and advance together, as in a plain torch loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.attention import PlannedDecodes, PrefillChunk, StepAttention
from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.decodes import Decodes
from kvsim.calibrate.twin.kernels import choose_kernel
from kvsim.calibrate.twin.paged import BlockPool
from kvsim.errors import InvariantError
from kvsim.simulator.request import Request
from kvsim.units import ceil_div

__all__ = ["BLOCK_TOKENS", "CACHES", "BatchCache", "Grow", "NoCache", "PagedCache", "Preallocated"]

BLOCK_TOKENS = 16


class BatchCache(ABC):
    """A batch's cache; it is the decoder's `Attend`.

    Parameters
    ----------
    decoder : Decoder
        Whose K and V are kept.
    batch : int
        Sequences.
    longest : int
        Most tokens that a sequence will have, the prompt included.

    Attributes
    ----------
    cached_tokens : int
        Tokens per sequence whose K and V are kept.
    copied_bytes : int
        Bytes of K and V that were copied only to be kept elsewhere, so far.
    peak_bytes : int
        Most bytes of K and V held at once, so far.
    """

    name: ClassVar[str]
    allocator: ClassVar[str]

    def __init__(self, decoder: Decoder, batch: int, longest: int) -> None:
        self.shape: Blueprint = decoder.shape
        self.device, self.dtype = decoder.device, decoder.dtype
        self.batch, self.longest = batch, longest
        self.cached_tokens = 0
        self.copied_bytes = 0
        self.peak_bytes = 0

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V of one token of one sequence, all layers."""
        return self.shape.layers * self.shape.layer_token_bytes(self.dtype.itemsize)

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes of K and V that are held now."""

    def begin(self, tokens: int) -> None:
        """Make ready for a step of `tokens` new tokens per sequence.

        Raises
        ------
        InvariantError
            When the sequences would outgrow what the cache was made for.
        """
        if self.cached_tokens + tokens > self.longest:
            raise InvariantError(
                f"{self.cached_tokens} + {tokens} tokens in a cache made for {self.longest}"
            )

    def end(self, tokens: int) -> None:
        """Note that the step is done."""
        self.cached_tokens += tokens
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    @abstractmethod
    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep K and V of the step's tokens (batch * tokens, heads, dim); attend to all kept."""


class _Contiguous(BatchCache):
    """A cache that has every layer's K and V in one piece, (batch, kv_heads, tokens, dim)."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the one piece, causally where the step computes a whole prompt."""
        tokens = len(query) // self.batch
        keys, values = self._kept(layer, self._by_sequence(key), self._by_sequence(value))
        share = self.shape.heads // self.shape.kv_heads
        if share > 1:
            keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
        found = functional.scaled_dot_product_attention(
            self._by_sequence(query), keys, values, is_causal=tokens > 1
        )
        return found.transpose(1, 2).reshape(query.shape)

    def _by_sequence(self, flat: Tensor) -> Tensor:
        """(batch * tokens, heads, dim) as (batch, heads, tokens, dim)."""
        return flat.view(self.batch, -1, *flat.shape[1:]).transpose(1, 2)

    @abstractmethod
    def _kept(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep (batch, kv_heads, tokens, dim); return everything that is to be attended."""


class NoCache(_Contiguous):
    """Keeps nothing."""

    name = "none"
    allocator = "none"
    held_bytes = 0

    def end(self, tokens: int) -> None:
        """Nothing is kept: the next step starts from the first token."""

    def _kept(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class Grow(_Contiguous):
    """Concatenates: for a moment a layer's old and new tensor are both there."""

    name = "grow"
    allocator = "grow"

    def __init__(self, decoder: Decoder, batch: int, longest: int) -> None:
        super().__init__(decoder, batch, longest)
        shape = (batch, self.shape.kv_heads, 0, self.shape.head_dim)
        nothing = torch.empty(shape, device=self.device, dtype=self.dtype)
        self._keys = [nothing] * self.shape.layers
        self._values = [nothing] * self.shape.layers
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """All layers' tensors, counted as they grow: the step's clock runs meanwhile."""
        return self._held

    def _kept(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self._keys[layer] = self._longer(self._keys[layer], key)
        self._values[layer] = self._longer(self._values[layer], value)
        return self._keys[layer], self._values[layer]

    def _longer(self, old: Tensor, more: Tensor) -> Tensor:
        new = torch.cat([old, more], dim=2)
        before, after = _bytes(old), _bytes(new)
        self.copied_bytes += before
        self.peak_bytes = max(self.peak_bytes, self._held + after)
        self._held += after - before
        return new


class Preallocated(_Contiguous):
    """One tensor of the longest length, from the first token on."""

    name = "preallocated"
    allocator = "reserve-max"

    def __init__(self, decoder: Decoder, batch: int, longest: int) -> None:
        super().__init__(decoder, batch, longest)
        shape = self.shape
        size = (2, shape.layers, batch, shape.kv_heads, shape.longest, shape.head_dim)
        self._both = torch.zeros(size, device=self.device, dtype=self.dtype)

    @property
    def held_bytes(self) -> int:
        """The whole tensor."""
        return _bytes(self._both)

    def _kept(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._both[0, layer], self._both[1, layer]
        end = self.cached_tokens + key.shape[2]
        keys[:, :, self.cached_tokens : end] = key
        values[:, :, self.cached_tokens : end] = value
        return keys[:, :, :end], values[:, :, :end]


class PagedCache(BatchCache):
    """Blocks behind tables: the twin's own pool and attention."""

    name = "paged"
    allocator = "paged"

    def __init__(self, decoder: Decoder, batch: int, longest: int) -> None:
        super().__init__(decoder, batch, longest)
        blocks = batch * ceil_div(longest, BLOCK_TOKENS)
        self._pool = BlockPool(
            self.shape, blocks, BLOCK_TOKENS, device=self.device, dtype=self.dtype
        )
        self._sequences = [Request(row, 0.0, 1, longest) for row in range(batch)]
        self._kernel = choose_kernel(self._pool.geometry(self.shape.heads)).kernel
        self._attention = StepAttention(self._pool, self._tensor([]), (), None)

    @property
    def held_bytes(self) -> int:
        """The blocks that sequences hold; the rest of the pool is free for others."""
        return self._pool.held_blocks * BLOCK_TOKENS * self.token_bytes

    def begin(self, tokens: int) -> None:
        """Allocate the blocks that the step fills, and lay out its attention."""
        super().begin(tokens)
        end = self.cached_tokens + tokens
        for sequence in self._sequences:
            self._pool.allocate(sequence, ceil_div(end, BLOCK_TOKENS))
        tables = [self._pool.tables[sequence] for sequence in self._sequences]
        new = range(self.cached_tokens, end)
        slots = [table.slot(token, BLOCK_TOKENS) for table in tables for token in new]
        ids = [table.block_ids for table in tables]
        chunks = self._chunks(self._tensor(ids), tokens) if tokens > 1 else []
        decodes = None
        if not chunks:
            decodes = PlannedDecodes.of(self._kernel, Decodes(ids, [end] * self.batch))
        self._attention = StepAttention(self._pool, self._tensor(slots), chunks, decodes)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend through the block tables."""
        return self._attention(layer, query, key, value)

    def _chunks(self, ids: Tensor, tokens: int) -> list[PrefillChunk]:
        return [PrefillChunk(row * tokens, tokens, 0, ids[row], None) for row in range(self.batch)]

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


CACHES: tuple[type[BatchCache], ...] = (NoCache, Grow, Preallocated, PagedCache)
