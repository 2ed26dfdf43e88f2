"""Torch's own attention over blocks: with tables where its build has that, else gathered."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.gathered import Gathered
from kvsim.calibrate.twin.kernel import Attend, DecodeKernel

__all__ = ["ByEqualLength", "ByLikeLength", "Flex", "TorchVarlen"]

_FLEX_QUERIES = 64  # of a tile: the sparsity's blocks must be whole tiles


class TorchVarlen(DecodeKernel):
    """Torch's own flash attention with block tables, since 2.13."""

    name = "torch varlen_attn"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._attend = import_module("torch.nn.attention.varlen").varlen_attn

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences."""
        tables, lengths = self.tables(decodes)
        starts, longest = self.starts(decodes), max(decodes.lengths)
        known = {"enable_gqa": True, "seqused_k": lengths, "block_table": tables}

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            found: Tensor = self._attend(query, keys, values, starts, None, 1, longest, **known)
            return found

        return attend


class Flex(DecodeKernel):
    """Torch's compiled flex_attention: the block table is its sparsity.

    Whole blocks need no mask, and of each sequence's last one only the filled slots count.
    """

    name = "torch flex_attention, compiled"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        flex = import_module("torch.nn.attention.flex_attention")
        self._mask: Any = flex.BlockMask
        self._attend = self.compiled(flex.flex_attention)

    @staticmethod
    def compiled(attention: Any) -> Any:
        """Compile it for batches that change from step to step; not at all rather than in parts."""
        return torch.compile(attention, dynamic=True, fullgraph=True)

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences, a batch entry each over the same blocks."""
        tables, lengths = self.tables(decodes)

        @cache
        def mask_of(blocks: int) -> Any:
            return self._block_mask(tables, lengths, blocks)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            flat = [each.flatten(0, 1).transpose(0, 1)[None] for each in (keys, values)]
            mask = mask_of(len(keys))  # one for all layers
            found: Tensor = self._attend(
                query[:, :, None],
                *flat,
                block_mask=mask,
                enable_gqa=True,
                kernel_options={"BLOCK_M": _FLEX_QUERIES, "BLOCK_N": self.geometry.block_size},
            )
            return found[:, :, 0]

        return attend

    def _block_mask(self, tables: Tensor, lengths: Tensor, blocks: int) -> Any:
        """Which of all blocks each sequence (n) reads, and which slots of its last one.

        Whole blocks are not asked again; where nothing is compiled every slot is.
        """
        size, count = self.geometry.block_size, len(lengths)
        whole = (lengths - 1) // size
        logical = torch.arange(tables.shape[1], dtype=torch.int32, device=tables.device)
        logical = torch.where(logical <= whole[:, None], logical, -1)
        # of each sequence and block, which of its own it is; a padded table says none of block 0
        own = torch.full((count, blocks), -1, dtype=torch.int32, device=tables.device)
        own = own.scatter_reduce(1, tables.long(), logical, "amax")
        order = functional.pad(tables, (0, blocks - tables.shape[1]))
        last = order.gather(1, whole[:, None].long()).expand(-1, blocks).contiguous()

        def filled(batch: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            at = own[batch, slot // size]
            return (at >= 0) & (at * size + slot % size < lengths[batch])

        return self._mask.from_kv_blocks(
            torch.ones_like(whole)[:, None, None],
            last[:, None, None],
            whole[:, None, None],
            order[:, None, None],
            BLOCK_SIZE=(_FLEX_QUERIES, size),
            mask_mod=filled,
            seq_lengths=(1, blocks * size),
            compute_q_blocks=False,
        )


class ByEqualLength(DecodeKernel):
    """Torch's flash attention over gathered blocks: it has no mask, so lengths are equal."""

    name = "torch scaled_dot_product_attention, gathered by equal length"
    gathers = True
    masked = False

    def plan(self, decodes: Decodes) -> Attend:
        """A gathered group after the other."""
        return Gathered(decodes, self.geometry, masked=self.masked)


class ByLikeLength(ByEqualLength):
    """The same behind a mask, so that few groups do: a CPU's kernel has one."""

    name = "torch scaled_dot_product_attention, gathered by like length"
    masked = True
