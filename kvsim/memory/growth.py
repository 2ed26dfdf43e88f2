"""How the blocks of one sequence grow with its cached tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import inf, lcm
from typing import NamedTuple

from kvsim.units import ceil_div

__all__ = ["BlockCurve", "Growth", "Window"]


class Window(NamedTuple):
    """Tokens that later ones still attend to, where an engine gives back the blocks before them.

    A recurrent state that is kept for later prompts is one too: what comes next needs the block
    that the newest token is in, and no other.

    Parameters
    ----------
    tokens : int
        Length of the window, the newest token included, or of the chunk.
    is_chunk : bool
        Whether attention begins anew after so many tokens.
    admitted_blocks : int
        Most blocks that an admission asks for.
    checkpoints : int or None
        Of a recurrent state, the blocks of a prompt's last chunk that hold a state beside the
        newest one; None for what attends.
    """

    tokens: int
    is_chunk: bool
    admitted_blocks: int
    checkpoints: int | None = None

    @classmethod
    def state(cls, admitted_blocks: int, checkpoints: int) -> Window:
        """A recurrent state of which copies are kept."""
        return cls(2, False, admitted_blocks, checkpoints)

    def first_token(self, computed: int) -> int:
        """First token that anybody attends to, once so many are computed.

        Examples
        --------
        >>> Window(4, False, 2).first_token(7), Window(4, True, 2).first_token(7)
        (4, 4)
        """
        if self.is_chunk:
            return computed // self.tokens * self.tokens
        return max(0, computed - self.tokens + 1)


class Growth(NamedTuple):
    """Blocks that one group of layers holds of a sequence, whatever draws them.

    ::

        blocks   fixed + width * min(ceil(tokens / block_size), most_blocks)

        Growth.full(16)           every token keeps its place
        Growth.capped(16, 65)     a window or a chunk: as many blocks and no more
        Growth.moving(16, window) the same, of an engine that frees blocks as the window moves on
        Growth.of_state(16, ...)  the newest of the recurrent states that are kept at ends of blocks
        Growth.constant(1)        a recurrent state, an encoder's output: whatever the length

    Parameters
    ----------
    block_size : int
        Tokens of the sequence that open a block.
    most_blocks : int or None
        Blocks at which the group stops growing; None never does.
    fixed_blocks : int
        Blocks held whatever the length.
    width : int
        Blocks that open at once.
    window : Window or None
        What moves on with the sequence: `most_blocks` is the most that it spans between steps.
    """

    block_size: int
    most_blocks: int | None
    fixed_blocks: int
    width: int
    window: Window | None = None

    @classmethod
    def full(cls, block_size: int, *, width: int = 1) -> Growth:
        """Grow with the sequence to its end."""
        return cls(block_size, None, 0, width)

    @classmethod
    def capped(cls, block_size: int, most_blocks: int, *, width: int = 1) -> Growth:
        """Grow up to a cap."""
        return cls(block_size, most_blocks, 0, width)

    @classmethod
    def moving(cls, block_size: int, window: Window) -> Growth:
        """Grow for ever, and give back what a window has left behind.

        A chunk begins with a block; a window may straddle one more than it fills.
        """
        straddled = 0 if window.is_chunk else 1
        most = ceil_div(window.tokens - straddled, block_size) + straddled
        return cls(block_size, most, 0, 1, window)

    @classmethod
    def of_state(cls, block_size: int, window: Window) -> Growth:
        """Keep the newest state alone; a second one stays for the step that opens a block."""
        return cls(block_size, 1, 0, 1, window)

    @classmethod
    def constant(cls, blocks: int) -> Growth:
        """Do not grow at all."""
        return cls(1, 0, blocks, 1)

    def blocks_at(self, tokens: int) -> int:
        """Blocks that a sequence of `tokens` cached tokens holds."""
        blocks = ceil_div(tokens, self.block_size)
        if self.most_blocks is not None:
            blocks = min(blocks, self.most_blocks)
        return self.fixed_blocks + self.width * blocks

    @property
    def is_state(self) -> bool:
        """Whether each block that is held has a recurrent state, and those between have none."""
        return self.window is not None and self.window.checkpoints is not None

    def admitted_at(self, tokens: int) -> int:
        """Blocks that an admission asks for, of a prompt of so many tokens."""
        if self.window is None:
            return self.blocks_at(tokens)
        return min(ceil_div(tokens, self.block_size), self.window.admitted_blocks)


class _Capped(NamedTuple):
    """Caps in ascending order with their running sums, so that hundreds cost as much as one.

    Parameters
    ----------
    caps : tuple of int
        Where each group stops.
    sums : tuple of int
        Sum of the first 0, 1, 2, ... of them.
    """

    caps: tuple[int, ...]
    sums: tuple[int, ...]

    @classmethod
    def of(cls, caps: tuple[int, ...]) -> _Capped:
        """Sort the caps and add them up."""
        ordered = tuple(sorted(caps))
        return cls(ordered, tuple(accumulate(ordered, initial=0)))

    def above(self, blocks: int) -> int:
        """Caps above so many blocks: groups that go on growing."""
        return len(self.caps) - bisect_right(self.caps, blocks)

    def total(self, blocks: int) -> int:
        """Sum of the lesser of each cap and `blocks`."""
        reached = bisect_right(self.caps, blocks)
        return self.sums[reached] + (len(self.caps) - reached) * blocks


@dataclass(frozen=True, slots=True)
class BlockCurve:
    """Blocks that one sequence draws from one pool, as a function of its cached tokens.

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
    beside : tuple of BlockCurve
        Groups of larger blocks, a curve for each block size; what they hold adds up.
    states : int
        Of the growing groups, those of which a block is filled as it is opened, by a state.

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
    beside: tuple[BlockCurve, ...] = ()
    states: int = 0
    _capped: _Capped = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_capped", _Capped.of(self.caps))

    @classmethod
    def of(cls, growths: tuple[Growth, ...]) -> BlockCurve:
        """Add up the groups of one pool.

        Examples
        --------
        >>> BlockCurve.of((Growth.full(16), Growth.capped(16, 65), Growth.constant(2)))
        BlockCurve(block_size=16, growing=1, caps=(65,), fixed=2, beside=(), states=0)
        """
        sizes = sorted({each.block_size for each in growths if each.most_blocks != 0} or {1})
        alike = [[each for each in growths if each.block_size == size] for size in sizes]
        fixed = sum(each.fixed_blocks for each in growths)
        first, *larger = (_grown(size, each) for size, each in zip(sizes, alike, strict=True))
        return replace(first, fixed=fixed, beside=tuple(larger))

    @property
    def parts(self) -> Iterator[BlockCurve]:
        """The curves of one block size each, the smallest first."""
        yield self
        yield from self.beside

    @property
    def slots_per_block(self) -> int:
        """Slots that a block counts as: a token fills a whole number of them in every group."""
        if not self.beside:
            return self.block_size
        return lcm(*(part.block_size for part in self.parts))

    def blocks_at(self, tokens: int) -> int:
        """Blocks that `tokens` cached tokens occupy."""
        blocks = -(-tokens // self.block_size)
        held = self.growing * blocks + self.fixed
        if self.caps:
            held += self._capped.total(blocks)
        for part in self.beside:
            held += part.blocks_at(tokens)
        return held

    def groups_open_at(self, tokens: int) -> int:
        """Groups of the smallest blocks that take one when token number `tokens` opens one."""
        if not self.caps:
            return self.growing
        return self.growing + self._capped.above(tokens // self.block_size)

    def slots_at(self, tokens: int) -> int:
        """Slots of those blocks that `tokens` cached tokens fill; a window keeps its last.

        Blocks of states, and all that are fixed, are filled whole.
        """
        whole = self.slots_per_block
        filled = whole * self.fixed + (whole // self.block_size) * self._kept_at(tokens)
        for part in self.beside:
            filled += (whole // part.block_size) * part._kept_at(tokens)
        return filled

    def _kept_at(self, tokens: int) -> int:
        """Tokens that the groups of this block size keep, each counted in every group."""
        kept = self.growing * tokens
        if self.states:
            kept += self.states * (-tokens % self.block_size)
        if self.caps:
            blocks, rest = divmod(tokens, self.block_size)
            kept += self.block_size * self._capped.total(blocks) + rest * self._capped.above(blocks)
        return kept

    def slot_slope_at(self, tokens: int) -> int:
        """Slots that the token after the first `tokens` fills, beside blocks of states."""
        whole = self.slots_per_block
        return sum(
            (part.groups_open_at(tokens) - part.states) * (whole // part.block_size)
            for part in self.parts
        )

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Token counts at which a group stops growing."""
        return tuple(sorted({cap * part.block_size for part in self.parts for cap in part.caps}))

    def shared_blocks_at(self, tokens: int) -> int:
        """Full blocks of `tokens` tokens that hold the same for whoever begins with them."""
        return sum(part.growing * (tokens // part.block_size) for part in self.parts)

    def longest(self, blocks: int) -> float:
        """Return the most tokens that `blocks` blocks hold.

        It is 0 when not even one fits, and infinite when every group has stopped growing.
        """
        widest = max(self.breakpoints, default=1)
        grows = any(part.growing for part in self.parts)
        if not grows and self.blocks_at(widest) <= blocks:
            return inf
        size = max(part.block_size for part in self.parts)
        low, high = 0, max(0, blocks - self.fixed) * size
        while low < high:
            middle = ceil_div(low + high, 2)
            low, high = (middle, high) if self.blocks_at(middle) <= blocks else (low, middle - 1)
        return low


def _grown(size: int, groups: list[Growth]) -> BlockCurve:
    """Blocks that always open, and where each of the others stops: groups of one block size."""
    growing = [each for each in groups if each.most_blocks is None]
    caps = (each.most_blocks for each in groups for _ in range(each.width) if each.most_blocks)
    return BlockCurve(
        size,
        sum(each.width for each in growing),
        tuple(sorted(caps)),
        states=sum(each.width for each in growing if each.is_state),
    )
