"""Attention of one engine step: chunks of prompts, and decodes through their block tables.

Decoding sequences are gathered in groups of like length, so that nobody is padded to
more than twice its context, and one call attends for a whole group. The query heads that
share a KV head stand in for a query's length there, so grouped queries need no copies::

    query  (kv_heads, sequences, heads per KV head, dim)
    K, V   (kv_heads, sequences, padded context,    dim)   gathered block by block
    mask   (       1, sequences,                 1, padded context)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.paged import Blocks
from kvsim.units import ceil_div

__all__ = [
    "DecodeGroup",
    "PrefillChunk",
    "StepAttention",
    "decode_groups",
    "groups_of_like_length",
]

_SHORTEST_SHARE = 0.5  # of the longest context of a group


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
    mask : Tensor (tokens, context) or None
        What each token sees, where earlier tokens are cached; None: what comes before it.
    """

    first_row: int
    tokens: int
    cached_tokens: int
    block_ids: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decoding sequences of like length: their rows, tables and what of those counts."""

    rows: Tensor
    block_ids: Tensor
    mask: Tensor


def groups_of_like_length(
    lengths: Sequence[int], most_tokens: int | None = None
) -> Iterator[list[int]]:
    """Split positions into groups whose shortest is at least half of the longest.

    Parameters
    ----------
    lengths : sequence of int
        Contexts.
    most_tokens : int, optional
        Padded tokens that a group may have; a context longer than that is alone.

    Examples
    --------
    >>> list(groups_of_like_length([100, 10, 90, 9]))
    [[0, 2], [1, 3]]
    >>> list(groups_of_like_length([100, 10, 90, 9], most_tokens=150))
    [[0], [2], [1, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    group: list[int] = []
    for at in order:
        if group:
            longest = lengths[group[0]]
            full = most_tokens is not None and (len(group) + 1) * longest > most_tokens
            if full or lengths[at] < _SHORTEST_SHARE * longest:
                yield group
                group = []
        group.append(at)
    if group:
        yield group


def decode_groups(
    tables: Sequence[Sequence[int]],
    lengths: Sequence[int],
    block_size: int,
    *,
    device: torch.device,
    most_tokens: int | None = None,
    first_row: int = 0,
) -> list[DecodeGroup]:
    """Lay out the attention of decoding sequences: groups, padded tables, masks.

    Parameters
    ----------
    tables : sequence of sequence of int
        Blocks of each sequence, as many as its context needs or more.
    lengths : sequence of int
        Context of each, the new token included.
    block_size : int
        Tokens per block.
    device : torch.device
        Where the tensors go.
    most_tokens : int, optional
        See `groups_of_like_length`.
    first_row : int
        Row of the first sequence in the step's flat batch.
    """

    def tensor(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def group_of(members: list[int]) -> DecodeGroup:
        contexts = [lengths[at] for at in members]
        blocks = ceil_div(max(contexts), block_size)
        padded = [[*tables[at][:blocks], *[0] * (blocks - len(tables[at]))] for at in members]
        slots = torch.arange(blocks * block_size, device=device)
        mask = slots[None] < tensor(contexts)[:, None]
        rows = tensor([first_row + at for at in members])
        return DecodeGroup(rows, tensor(padded), mask[None, :, None])

    return [group_of(members) for members in groups_of_like_length(lengths, most_tokens)]


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
    groups : sequence of DecodeGroup
        Decodes.
    """

    def __init__(
        self,
        pool: Blocks,
        slots: Tensor,
        chunks: Sequence[PrefillChunk],
        groups: Sequence[DecodeGroup],
    ) -> None:
        self._pool, self._slots = pool, slots
        self._chunks, self._groups = chunks, groups

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write the new tokens' K and V, then attend for everybody."""
        pool = self._pool
        pool.keys[layer].index_copy_(1, self._slots, key.transpose(0, 1))
        pool.values[layer].index_copy_(1, self._slots, value.transpose(0, 1))
        attended = torch.empty_like(query)
        for chunk in self._chunks:
            rows = slice(chunk.first_row, chunk.first_row + chunk.tokens)
            attended[rows] = self._prefill(layer, chunk, query[rows], key[rows], value[rows])
        for group in self._groups:
            attended[group.rows] = self._decode(layer, group, query[group.rows])
        return attended

    def _prefill(
        self, layer: int, chunk: PrefillChunk, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend for one chunk: (tokens, heads, dim), causal."""
        tokens, heads, dim = query.shape
        kv_heads = key.shape[1]
        if chunk.cached_tokens:
            past, context = chunk.block_ids[None], chunk.cached_tokens + tokens
            keys, values = self._gathered(layer, past)
            keys, values = keys[:, :, :context], values[:, :, :context]
        else:
            keys, values = key.transpose(0, 1)[:, None], value.transpose(0, 1)[:, None]
        shared = (kv_heads, heads // kv_heads, -1, dim)
        found = functional.scaled_dot_product_attention(
            query.transpose(0, 1).reshape(shared),
            keys.expand(shared),
            values.expand(shared),
            attn_mask=chunk.mask,
            is_causal=chunk.mask is None,
        )
        return found.reshape(heads, tokens, dim).transpose(0, 1)

    def _decode(self, layer: int, group: DecodeGroup, query: Tensor) -> Tensor:
        """Attend for one group: one query a sequence, (sequences, heads, dim)."""
        sequences, heads, dim = query.shape
        keys, values = self._gathered(layer, group.block_ids)
        kv_heads = keys.shape[0]
        folded = query.view(sequences, kv_heads, heads // kv_heads, dim).transpose(0, 1)
        found = functional.scaled_dot_product_attention(
            folded.contiguous(), keys, values, attn_mask=group.mask
        )
        return found.transpose(0, 1).reshape(sequences, heads, dim)

    def _gathered(self, layer: int, block_ids: Tensor) -> tuple[Tensor, Tensor]:
        """K and V behind tables (sequences, blocks): (kv_heads, sequences, slots, dim) each."""
        sequences, dim = len(block_ids), self._pool.keys.shape[-1]
        flat = block_ids.flatten()
        shape = (self._pool.keys.shape[1], sequences, -1, dim)
        keys, values = self._pool.blocks_of_layer(layer)
        return keys.index_select(1, flat).view(shape), values.index_select(1, flat).view(shape)
