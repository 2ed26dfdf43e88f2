"""Decode attention by copying blocks together: for devices without a kernel that follows tables.

The query heads that share a KV head stand in for a query's length, so grouped queries need no
copies of K and V::

    query  (sequences, kv_heads, heads per KV head, dim)
    K, V   (sequences, kv_heads, padded context,    dim)   gathered block by block
    mask   (sequences,        1,                 1, padded context)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.memory import GATHER_BYTES
from kvsim.units import ceil_div

__all__ = ["Gathered", "groups_of_like_length"]

_LIKE = 0.5  # of the longest context of a group
_EQUAL = 1.0


class _Group(NamedTuple):
    """Sequences that are attended to at once: their rows, tables and what of those counts."""

    rows: Tensor
    block_ids: Tensor
    context: int
    mask: Tensor | None


def groups_of_like_length(
    lengths: Sequence[int], most_tokens: int, share: float = _LIKE
) -> Iterator[list[int]]:
    """Split positions into groups whose shortest is at least `share` of the longest.

    Parameters
    ----------
    lengths : sequence of int
        Contexts.
    most_tokens : int
        Padded tokens that a group may have; a context longer than that is alone.
    share : float
        1: only equal ones.

    Examples
    --------
    >>> list(groups_of_like_length([100, 10, 90, 9], 1000))
    [[0, 2], [1, 3]]
    >>> list(groups_of_like_length([100, 10, 90, 9], most_tokens=150))
    [[0], [2], [1, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    group: list[int] = []
    for at in order:
        if group:
            longest = lengths[group[0]]
            full = (len(group) + 1) * longest > most_tokens
            if full or lengths[at] < share * longest:
                yield group
                group = []
        group.append(at)
    if group:
        yield group


class Gathered:
    """One step's attention; see `kvsim.calibrate.twin.kernels.Attend`.

    Parameters
    ----------
    decodes : Decodes
        Tables and lengths.
    geometry : Geometry
        Heads and blocks.
    masked : bool
        Whether contexts of like length are padded behind a mask, or only equal ones go together.
    """

    def __init__(self, decodes: Decodes, geometry: Geometry, *, masked: bool) -> None:
        self._decodes, self._geometry, self._masked = decodes, geometry, masked
        token_bytes = 2 * geometry.kv_heads * geometry.head_dim * geometry.dtype.itemsize
        most, share = max(1, GATHER_BYTES // token_bytes), _LIKE if masked else _EQUAL
        self._groups = [
            self._group(at) for at in groups_of_like_length(decodes.lengths, most, share)
        ]

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend for every group: one query a sequence, (sequences, heads, dim)."""
        attended = torch.empty_like(query)
        for group in self._groups:
            attended[group.rows] = self._attend(group, query[group.rows], keys, values)
        return attended

    def _group(self, members: list[int]) -> _Group:
        contexts, size = [self._decodes.lengths[at] for at in members], self._geometry.block_size
        longest, device = max(contexts), self._geometry.device
        blocks = ceil_div(longest, size)
        tables = [self._decodes.tables[at] for at in members]
        padded = [[*ids[:blocks], *[0] * (blocks - len(ids))] for ids in tables]
        rows = torch.tensor(members, dtype=torch.int64, device=device)
        ids = torch.tensor(padded, dtype=torch.int64, device=device)
        if not self._masked:
            return _Group(rows, ids, longest, None)
        slots = torch.arange(blocks * size, device=device)
        ends = torch.tensor(contexts, dtype=torch.int64, device=device)
        return _Group(rows, ids, blocks * size, (slots[None] < ends[:, None])[:, None, None])

    def _attend(self, group: _Group, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        sequences, heads, dim = query.shape
        kv_heads, ids = keys.shape[2], group.block_ids.flatten()

        def gathered(blocks: Tensor) -> Tensor:
            together = blocks.index_select(0, ids).view(sequences, -1, kv_heads, dim)
            return together.transpose(1, 2)[:, :, : group.context]

        folded = query.view(sequences, kv_heads, heads // kv_heads, dim)
        found = functional.scaled_dot_product_attention(
            folded, gathered(keys), gathered(values), attn_mask=group.mask
        )
        return found.reshape(sequences, heads, dim)
