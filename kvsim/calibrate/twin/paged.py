"""A paged KV cache as real tensors: a pool of blocks, a table for every request.

How *many* blocks a request holds is the simulator's allocator's to say; which ones, and that
no two requests share one, is this pool's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.decodes import Geometry
from kvsim.errors import InvariantError
from kvsim.simulator.request import Request

__all__ = ["BlockPool", "BlockTable", "Blocks"]


@dataclass(slots=True)
class BlockTable:
    """The blocks of one request, and how often it had been preempted when it got them."""

    block_ids: list[int]
    preemptions: int

    def slot(self, token: int, block_size: int) -> int:
        """Slot of the pool that holds the request's token number `token`."""
        return self.block_ids[token // block_size] * block_size + token % block_size


class Blocks:
    """Physical blocks of K and V.

    Parameters
    ----------
    keys, values : Tensor (layers, num_blocks, block_size, kv_heads, head_dim)
        The memory itself, laid out as engines' kernels read it.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.num_blocks, self.block_size = keys.shape[1:3]

    def geometry(self, heads: int) -> Geometry:
        """What a kernel for so many query heads has to read."""
        kv_heads, head_dim = self.keys.shape[3:]
        known = self.keys.dtype, self.keys.device
        return Geometry(heads, kv_heads, head_dim, self.block_size, *known)

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put K and V of new tokens (n, kv_heads, head_dim) into their slots (n)."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, key)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, value)


class BlockPool(Blocks):
    """Physical blocks of K and V, and who holds them.

    Parameters
    ----------
    shape : Blueprint
        Layers, KV heads and their size.
    num_blocks, block_size : int
        Blocks, and tokens per block.
    device, dtype
        Where, and of which elements.

    Attributes
    ----------
    tables : dict of Request to BlockTable
        Who holds which blocks.
    peak_blocks : int
        Most blocks held at once.
    """

    def __init__(
        self,
        shape: Blueprint,
        num_blocks: int,
        block_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        size = (shape.layers, num_blocks, block_size, shape.kv_heads, shape.head_dim)
        super().__init__(*(torch.zeros(size, device=device, dtype=dtype) for _ in range(2)))
        self.tables: dict[Request, BlockTable] = {}
        self.clear()

    @property
    def bytes(self) -> int:
        """Bytes of the whole pool, K and V."""
        return 2 * self.keys.numel() * self.keys.element_size()

    @property
    def held_blocks(self) -> int:
        """Blocks that some request holds."""
        return self.num_blocks - len(self._free)

    def clear(self) -> None:
        """Forget everybody; what the memory holds is left as it is."""
        self.tables.clear()
        self.peak_blocks = 0
        self._free = list(range(self.num_blocks - 1, -1, -1))

    def allocate(self, request: Request, blocks: int) -> None:
        """Allocate what a request lacks of `blocks` blocks.

        Raises
        ------
        InvariantError
            When the allocator has promised blocks that are not there.
        """
        table = self.tables.setdefault(request, BlockTable([], request.preemptions))
        more = blocks - len(table.block_ids)
        if not 0 <= more <= len(self._free):
            raise InvariantError(
                f"{request} holds {len(table.block_ids)} blocks and is promised {blocks},"
                f" with {len(self._free)} free"
            )
        table.block_ids += [self._free.pop() for _ in range(more)]
        self.peak_blocks = max(self.peak_blocks, self.held_blocks)

    def free_all_but(self, running: Iterable[Request]) -> None:
        """Free the blocks of requests that have finished or were preempted since."""
        running = set(running)
        for request in list(self.tables):
            was_preempted = self.tables[request].preemptions != request.preemptions
            if request not in running or was_preempted:
                self._free += reversed(self.tables.pop(request).block_ids)

    def check(self, held_blocks: int) -> None:
        """State that the allocator's count is the pool's, and that no block has two holders.

        Raises
        ------
        InvariantError
            When they differ.
        """
        if held_blocks != self.held_blocks:
            raise InvariantError(
                f"the allocator counts {held_blocks} blocks, tables hold {self.held_blocks}"
            )
        ids = [block for table in self.tables.values() for block in table.block_ids]
        if len(set(ids)) != len(ids) or len(ids) + len(self._free) != self.num_blocks:
            raise InvariantError("a block has two holders, or none and is not free")
