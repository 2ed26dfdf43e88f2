"""One request's blocks, by groups of layers.

::

    full     [ 0 ][ 1 ][ 2 ][ 3 ][ 4 ][ 5
    window                  [ 3 ][ 4 ][ 5        first = 3, stop = 6
    state         [ 1 ]               [ 5        first = 1, stop = 6, holes 2, 3 and 4
             ^ left behind  ^             ^ room for the tokens of this step
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve, Growth
from kvsim.simulator.allocators.block_pool import Block
from kvsim.simulator.request import Request
from kvsim.workload.content import Segments

__all__ = ["Table", "first_block", "new_blocks", "table_of", "tabled", "without_windows"]


class Table:
    """What a request holds in each group (``request.blocks``).

    Attributes
    ----------
    first, stop : list of int
        By group, the blocks that it holds are ``range(first, stop)``, but for the holes.
    holes : list of set of int
        By group, numbers of blocks that a recurrent state has passed over.
    named : list of int
        By group, the blocks before this one have had their chance of an identity.
    blocks : list of dict
        By group, those with an identity, by their number.
    passed : int
        Blocks that its last chunk has passed over.
    junction : int
        Where the prefix ends that its admission found some groups to know, and not all.
    joined, before : int
        Cached tokens when it began to decode, and those processed by then.
    due : int
        Step of the batch at which one of its decodes changes something next.
    closed, closed_cached, closed_at : int
        Blocks that its last decode freed which freed any, those of them that are cached, and the
        step of that one.
    """

    __slots__ = (
        "before",
        "blocks",
        "closed",
        "closed_at",
        "closed_cached",
        "due",
        "first",
        "holes",
        "ids",
        "joined",
        "junction",
        "named",
        "passed",
        "stop",
    )

    def __init__(self, groups: int) -> None:
        self.first, self.stop, self.named = [0] * groups, [0] * groups, [0] * groups
        self.blocks: list[dict[int, Block]] = [{} for _ in range(groups)]
        self.holes: list[set[int]] = [set() for _ in range(groups)]
        self.junction = self.passed = 0
        self.joined = self.before = self.due = self.closed_at = -1
        self.closed = self.closed_cached = 0
        self.ids: dict[int, Segments] = {}  # by size of a block

    def opening(self, groups: Sequence[Growth], tokens: int, beside: int = 0) -> int:
        """Blocks that are missing for so many tokens; see `new_blocks`."""
        count = 0
        for growth, stop in zip(groups, self.stop, strict=True):
            if growth.block_size * stop < tokens:
                missing = -(-tokens // growth.block_size) - stop
                count += growth.width * new_blocks(growth, missing, beside)
        return count

    def extend(self, at: int, growth: Growth, tokens: int, beside: int) -> int:
        """Reach so many tokens in a group; return the numbers that are passed over."""
        stop, due = self.stop[at], -(-tokens // growth.block_size)
        if due <= stop:
            return 0
        self.stop[at] = due
        passed = due - stop - new_blocks(growth, due - stop, beside)
        if passed:
            self.holes[at].update(range(stop, stop + passed))
        return passed

    def left(self, groups: Sequence[Growth]) -> int:
        """Blocks that were left behind, or passed over."""
        triples = zip(groups, self.first, self.holes, strict=True)
        return sum(growth.width * (first + len(holes)) for growth, first, holes in triples)

    def held(self, groups: Sequence[Growth]) -> int:
        """Blocks that are held, with an identity or without."""
        stops = zip(groups, self.stop, strict=True)
        return sum(growth.width * stop for growth, stop in stops) - self.left(groups)

    def behind(self, groups: Sequence[Growth], processed: int) -> int:
        """Blocks before the windows, that nobody else holds."""
        count = 0
        for at, growth in enumerate(groups):
            blocks = self.blocks[at]
            for number in range(self.first[at], min(first_block(growth, processed), self.stop[at])):
                if number in self.holes[at]:
                    continue
                if number not in blocks or blocks[number].refs == 1:
                    count += growth.width
        return count

    def note_closed(self, step: int, freed: int, cached: int) -> None:
        """Note how many blocks a decode has freed, and how many of them are cached."""
        if self.closed_at != step:
            self.closed_at, self.closed, self.closed_cached = step, 0, 0
        self.closed += freed
        self.closed_cached += cached

    def identities(self, request: Request, size: int, numbers: Collection[int]) -> list[int]:
        """Identities of blocks by their numbers, which ascend."""
        if not numbers:
            return []
        start, first = self._segments(request, size)[-1]
        if next(iter(numbers)) >= start:
            return [first + number - start for number in numbers]
        return [self.identity(request, size, number) for number in numbers]

    def identity(self, request: Request, size: int, number: int) -> int:
        """Identity of the request's block number so and so, of so many tokens.

        Raises
        ------
        InvariantError
            For a number below 0.
        """
        for start, first in reversed(self._segments(request, size)):
            if number >= start:
                return first + number - start
        raise InvariantError(f"{request} has no block {number}")

    def _segments(self, request: Request, size: int) -> Segments:
        """Where identities of blocks of so many tokens begin anew; worked out once."""
        segments = self.ids.get(size)
        if segments is None:
            segments = self.ids[size] = request.identities(size)
        return segments


def new_blocks(growth: Growth, missing: int, beside: int) -> int:
    """Blocks that a group takes of those that are missing: of states the newest, and some beside.

    Parameters
    ----------
    growth : Growth
        The group.
    missing : int
        Blocks that it is short of.
    beside : int
        Blocks that hold a state beside the newest one.
    """
    if missing > 1 and growth.is_state:
        return min(missing, 1 + beside)
    return missing


def first_block(growth: Growth, processed: int) -> int:
    """First block that tokens after so many processed ones look back on."""
    return growth.window.first_token(processed) // growth.block_size if growth.window else 0


def tabled(growths: Sequence[Growth], *, apart: bool) -> list[Growth]:
    """The groups that have tables; equal ones as one wide group, where blocks are all alike."""
    growing = [growth for growth in growths if growth.most_blocks != 0]
    if apart:
        return [growth._replace(width=1) for growth in growing for _ in range(growth.width)]
    widths: Counter[Growth] = Counter()
    for growth in growing:
        widths[growth._replace(width=1)] += growth.width
    return [growth._replace(width=width) for growth, width in widths.items()]


def without_windows(growths: Sequence[Growth]) -> BlockCurve:
    """Blocks that a sequence has taken, those given back among them."""
    return BlockCurve.of(
        tuple(
            growth._replace(most_blocks=None, window=growth.window if growth.is_state else None)
            if growth.window is not None
            else growth
            for growth in growths
        )
    )


def table_of(request: Request) -> Table:
    """The request's table.

    Raises
    ------
    InvariantError
        When it has none.
    """
    if not isinstance(request.blocks, Table):
        raise InvariantError(f"{request} has no blocks")
    return request.blocks
