"""Attention of one engine step: chunks of prompts, and decodes through their block tables.

Chunks are attended to one by one with torch's flash kernel; all decodes together with the best
kernel that the device has (`kvsim.calibrate.twin.kernels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.decodes import Decodes
from kvsim.calibrate.twin.kernel import Attend, DecodeKernel
from kvsim.calibrate.twin.paged import Blocks

__all__ = ["PlannedDecodes", "PrefillChunk", "StepAttention", "causal_after"]


def causal_after(cached: int, tokens: int, device: torch.device) -> Any:
    """What each of `tokens` tokens after `cached` ones sees; None: what comes before it.

    A GPU's flash kernel takes a bias without a tensor, and a CPU's a mask (tokens, context).
    """
    if not cached:
        return None
    if device.type == "cuda":
        bias = import_module("torch.nn.attention.bias")  # seconds, for a GPU alone
        return bias.causal_lower_right(tokens, cached + tokens)
    every = torch.ones(tokens, cached + tokens, dtype=torch.bool, device=device)
    return every.tril(diagonal=cached)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """A stretch of one prompt: its rows of the step, and the blocks of its whole context.

    Parameters
    ----------
    first_row, tokens : int
        Where its tokens stand in the step's flat batch, and how many there are.
    cached_tokens : int
        Tokens of the same prompt that earlier steps computed.
    block_ids : Tensor (blocks)
        Its table.
    mask
        See `causal_after`.
    """

    first_row: int
    tokens: int
    cached_tokens: int
    block_ids: Tensor
    mask: Any


class PlannedDecodes(NamedTuple):
    """Decoding sequences: their rows of the step, and how they are attended to."""

    first_row: int
    sequences: int
    attend: Attend

    @classmethod
    def of(cls, kernel: DecodeKernel, decodes: Decodes, first_row: int = 0) -> PlannedDecodes:
        """Plan with a kernel."""
        return cls(first_row, len(decodes.lengths), kernel.plan(decodes))


class StepAttention:
    """The attention of one step; see `kvsim.calibrate.twin.decoder.Attend`.

    Parameters
    ----------
    pool : Blocks
        Where K and V lie.
    slots : int64 Tensor (n)
        Slot that each new token is written to.
    chunks : sequence of PrefillChunk
        Prompts.
    decodes : PlannedDecodes or None
        Decodes.
    """

    def __init__(
        self,
        pool: Blocks,
        slots: Tensor,
        chunks: Sequence[PrefillChunk],
        decodes: PlannedDecodes | None,
    ) -> None:
        self._pool, self._slots = pool, slots
        self._chunks, self._decodes = chunks, decodes

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write the new tokens' K and V, then attend for everybody."""
        self._pool.write(layer, self._slots, key, value)
        decodes = self._decodes
        if decodes is not None and not self._chunks:
            return decodes.attend(query, self._pool.keys[layer], self._pool.values[layer])
        attended = torch.empty_like(query)
        for chunk in self._chunks:
            rows = slice(chunk.first_row, chunk.first_row + chunk.tokens)
            attended[rows] = self._prefill(layer, chunk, query[rows], key[rows], value[rows])
        if decodes is not None:
            rows = slice(decodes.first_row, decodes.first_row + decodes.sequences)
            keys, values = self._pool.keys[layer], self._pool.values[layer]
            attended[rows] = decodes.attend(query[rows], keys, values)
        return attended

    def _prefill(
        self, layer: int, chunk: PrefillChunk, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend for one chunk: (tokens, heads, dim), causal."""
        tokens, heads, dim = query.shape
        kv_heads = key.shape[1]
        if chunk.cached_tokens:
            context = chunk.cached_tokens + tokens
            key, value = (
                each.index_select(0, chunk.block_ids).flatten(0, 1)[:context]
                for each in (self._pool.keys[layer], self._pool.values[layer])
            )
        shared = (kv_heads, heads // kv_heads, -1, dim)
        found = functional.scaled_dot_product_attention(
            query.transpose(0, 1).reshape(shared),
            key.transpose(0, 1)[:, None].expand(shared),
            value.transpose(0, 1)[:, None].expand(shared),
            attn_mask=chunk.mask,
            is_causal=chunk.mask is None,
        )
        return found.reshape(heads, tokens, dim).transpose(0, 1)
