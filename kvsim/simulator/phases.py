"""How many blocks each coming step opens, without a count per sequence or per step.

A sequence opens a block every `block_size` steps, so all that matters of it is when: its phase.

::

    counts[t % block_size]   how many blocks open at step t

        step      t   t+1  t+2  t+3 | t+4 ...       block_size 4
        counts    2    0    1    1  |  2            blocks for 6 steps = (2+0+1+1) + 2 + 0
"""

from __future__ import annotations

__all__ = ["MixedPhases", "Phases"]


class Phases:
    """Blocks of one size that open at each step of a cycle of so many steps.

    Parameters
    ----------
    size : int
        Tokens per block, and steps per cycle.

    Attributes
    ----------
    counts : list of int
        Blocks that open at each step of a cycle.
    opens : int
        Their sum; whoever adds to the one adds to the other.
    """

    __slots__ = ("counts", "opens", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.counts = [0] * size
        self.opens = 0

    def blocks_for(self, step: int, steps: int) -> int:
        """Blocks that `steps` steps from `step` on take: whole cycles, and a part of one."""
        size, counts = self.size, self.counts
        first = step % size
        if steps == 1:
            return counts[first]
        last = first + steps % size
        if last <= size:
            return steps // size * self.opens + sum(counts[first:last])
        # the part runs into the next cycle: a whole one less what lies between
        return (steps // size + 1) * self.opens - sum(counts[last - size : first])

    def steps_within(self, step: int, free_blocks: int, limit: int) -> int:
        """Return the most steps from `step` on, up to `limit`, that `free_blocks` blocks allow."""
        if self.blocks_for(step, limit) <= free_blocks:
            return limit
        size, counts = self.size, self.counts
        cycles, left = divmod(free_blocks, self.opens)
        steps = cycles * size
        while left >= counts[(step + steps) % size]:
            left -= counts[(step + steps) % size]
            steps += 1
        return steps


class MixedPhases(Phases):
    """Blocks of several sizes that are drawn from one pool.

    Parameters
    ----------
    parts : list of Phases
        Those of each size, the smallest first.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: list[Phases]) -> None:
        super().__init__(parts[0].size)
        self.parts = parts

    def blocks_for(self, step: int, steps: int) -> int:
        """Blocks of every size that `steps` steps from `step` on take."""
        return sum(part.blocks_for(step, steps) for part in self.parts)

    def steps_within(self, step: int, free_blocks: int, limit: int) -> int:
        """Return the most steps from `step` on, up to `limit`, that `free_blocks` blocks allow."""
        if self.blocks_for(step, limit) <= free_blocks:
            return limit
        fits, fails = 0, limit
        while fails - fits > 1:
            middle = (fits + fails) // 2
            enough = self.blocks_for(step, middle) <= free_blocks
            fits, fails = (middle, fails) if enough else (fits, middle)
        return fits
