"""How the blocks of one sequence grow with its cached tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from kvsim.units import ceil_div

__all__ = ["BlockCurve"]


@dataclass(frozen=True, slots=True)
class BlockCurve:
    """Blocks that one sequence holds, as a function of its cached tokens.

    Parameters
    ----------
    block_size : int
        Tokens per block.
    growing : int
        Groups of layers whose blocks grow with the context (1 for a plain model).
    caps : tuple of int
        For every windowed group, the blocks at which it stops growing, ascending.
    fixed : int
        Blocks that a sequence holds whatever its length (recurrent state groups).

    Examples
    --------
    >>> BlockCurve(16).blocks_at(17)
    2
    >>> BlockCurve(16, growing=1, caps=(2, 2), fixed=1).blocks_at(100)  # 7 + 2 + 2 + 1
    12
    """

    block_size: int
    growing: int = 1
    caps: tuple[int, ...] = ()
    fixed: int = 0

    def blocks_at(self, tokens: int) -> int:
        """Blocks that `tokens` cached tokens occupy."""
        blocks = -(-tokens // self.block_size)
        if not self.caps:
            return self.growing * blocks + self.fixed
        return self.growing * blocks + sum(min(blocks, cap) for cap in self.caps) + self.fixed

    def groups_open_at(self, tokens: int) -> int:
        """Groups that take a block when token number `tokens` opens one."""
        if not self.caps:
            return self.growing
        return self.growing + sum(tokens < cap * self.block_size for cap in self.caps)

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Token counts at which a group stops growing."""
        return tuple(sorted({cap * self.block_size for cap in self.caps}))

    def longest(self, blocks: int) -> float:
        """Return the most tokens that `blocks` blocks hold.

        It is 0 when not even one fits, and infinite when every group has stopped growing.
        """
        widest = max(self.caps, default=1) * self.block_size
        if not self.growing and self.blocks_at(widest) <= blocks:
            return inf
        low, high = 0, max(0, blocks - self.fixed) * self.block_size
        while low < high:
            middle = ceil_div(low + high, 2)
            low, high = (middle, high) if self.blocks_at(middle) <= blocks else (low, middle - 1)
        return low
