"""What a sequence holds of an engine's KV memory: one value, stated once, read by everybody.

::

    KVPools ─┬─ Pool "full"      num_blocks x block_bytes ─┬─ Group   Growth.full(16)
             │                                             └─ Group   Growth.capped(16, 65)
             ├─ Pool "window"    memory that the engine keeps apart: it runs out by itself
             └─ Pool "states"

A block is what an engine hands out whole; groups of one pool draw from the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import floor, inf
from typing import NamedTuple

from kvsim.memory.growth import BlockCurve, Growth
from kvsim.units import ceil_div

__all__ = ["Group", "KVPools", "Pool"]


class Group(NamedTuple):
    """Layers that share a block table.

    Parameters
    ----------
    name : str
        Layer group(s) it holds.
    layers : int
        Layer slots that it allocates, padding included.
    padding_layers : int
        Slots of those that hold no layer.
    block_size : int
        Tokens (or states) per block, on one rank.
    page_bytes : int
        Bytes of one layer's page: its share of a block.
    blocks_per_sequence : int
        Blocks that the engine's start-up check charges a sequence of ``max_model_len``.
    growth : Growth
        Blocks that a running sequence holds, by its length.
    """

    name: str
    layers: int
    padding_layers: int
    block_size: int
    page_bytes: int
    blocks_per_sequence: int
    growth: Growth


class Pool(NamedTuple):
    """Memory that is handed out in blocks of one size.

    Parameters
    ----------
    name : str
        What it holds, in the engine's word where it has one.
    block_size : int
        Tokens per block of its main group.
    block_bytes : int
        Bytes of a block, on one rank.
    num_blocks : int
        Blocks that the engine allocates.
    withheld_blocks : int
        Blocks of those that no request is ever given (vLLM's null block).
    groups : tuple of Group
        Who draws from it.
    """

    name: str
    block_size: int
    block_bytes: int
    num_blocks: int
    withheld_blocks: int
    groups: tuple[Group, ...]

    @property
    def given_blocks(self) -> int:
        """Blocks that requests can be given."""
        return max(0, self.num_blocks - self.withheld_blocks)

    @property
    def is_plain(self) -> bool:
        """Whether one growing group is all that draws from it: a slot is a token."""
        curve = self.curve
        return curve == BlockCurve(curve.block_size)

    @property
    def curve(self) -> BlockCurve:
        """Blocks of one sequence, all groups added."""
        return BlockCurve.of(tuple(group.growth for group in self.groups))

    def blocks_at(self, tokens: int) -> int:
        """Blocks that a running sequence of `tokens` cached tokens holds."""
        return sum(group.growth.blocks_at(tokens) for group in self.groups)

    def concurrency(self, tokens: int) -> float:
        """Sequences of `tokens` tokens that fit at once, with a fraction.

        Of those that run, windows hold what they span; whoever comes last must have room for
        what its prompt holds while it is computed. `inf` where a sequence holds nothing here.
        """
        held = self.blocks_at(tokens)
        if not held:
            return inf
        last = max(held, sum(group.growth.admitted_at(tokens) for group in self.groups))
        if self.given_blocks < last:
            return self.given_blocks / last
        return 1 + (self.given_blocks - last) / held


@dataclass(frozen=True)
class KVPools:
    """The pools of one rank, the one that a growing context fills first.

    Parameters
    ----------
    pools : tuple of Pool
        Memory that the engine keeps apart.
    layout_ratio : float
        The engine's bytes per token over the model's own, which is also how much more (or
        less) attention reads: transformers keeps an MLA cache expanded into heads (71 times
        DeepSeek-V3's latent), decode context parallelism deals a sequence over ranks.
    """

    pools: tuple[Pool, ...]
    layout_ratio: float

    def __iter__(self) -> Iterator[Pool]:
        return iter(self.pools)

    @property
    def main(self) -> Pool:
        """The pool that the engine's own block count is about."""
        return self.pools[0]

    @property
    def total_bytes(self) -> int:
        """Bytes of all blocks, those withheld included."""
        return sum(pool.num_blocks * pool.block_bytes for pool in self)

    @property
    def given_bytes(self) -> int:
        """Bytes of the blocks that requests can be given."""
        return sum(pool.given_blocks * pool.block_bytes for pool in self)

    def contiguous(self, token_bytes: float, fixed_bytes: float) -> KVPools:
        """The same bytes for whoever keeps all layers of a token side by side: one pool.

        Parameters
        ----------
        token_bytes : float
            Bytes of a token in all layers, on one rank.
        fixed_bytes : float
            What a sequence takes beside, whatever its length: states, an encoder's output.
        """
        if len(self.pools) == 1 and self.main.is_plain:
            return self
        size = max(1, round(token_bytes))
        fixed = ceil_div(round(fixed_bytes), size)
        group = Group("all layers", 1, 0, 1, size, 0, Growth(1, None, fixed, 1))
        pool = Pool("all layers", 1, size, self.given_bytes // size, 0, (group,))
        return KVPools((pool,), self.layout_ratio)

    @property
    def slot_weights(self) -> tuple[int, ...]:
        """What a slot of each pool counts as where pools are added up: its bytes, if several."""
        if len(self.pools) == 1:
            return (1,)
        return tuple(pool.block_bytes // pool.curve.slots_per_block for pool in self)

    @property
    def slots(self) -> int:
        """Slots that requests can be given, pools added by their weights; tokens, if plain."""
        return sum(
            weight * pool.given_blocks * pool.curve.slots_per_block
            for pool, weight in zip(self, self.slot_weights, strict=True)
        )

    def sequence_bytes(self, tokens: int) -> int:
        """Bytes of the blocks that one running sequence of `tokens` cached tokens holds."""
        return sum(pool.blocks_at(tokens) * pool.block_bytes for pool in self)

    def requests(self, tokens: int) -> int:
        """Sequences of `tokens` tokens that fit at once: the first pool to run out decides."""
        return floor(self.concurrency(tokens))

    def concurrency(self, tokens: int) -> float:
        """The same with its fraction: how far the first pool to run out would reach."""
        return min((pool.concurrency(tokens) for pool in self._drawn(tokens)), default=0.0)

    def concurrency_beside(self, tokens: int) -> float:
        """The same of the pools beside the main one: what no change to the main one moves."""
        return replace(self, pools=self.pools[1:]).concurrency(tokens) if self.pools[1:] else inf

    def scarcest(self, tokens: int) -> Pool:
        """The pool that runs out first, with sequences of `tokens` tokens."""
        return min(
            self._drawn(tokens), key=lambda pool: pool.concurrency(tokens), default=self.main
        )

    def _drawn(self, tokens: int) -> list[Pool]:
        """Pools that a sequence of this length draws from."""
        return [pool for pool in self if pool.blocks_at(tokens)]
