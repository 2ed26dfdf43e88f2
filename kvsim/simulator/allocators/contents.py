"""What the groups of layers know of prompts: looked up at an admission, named as it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

from kvsim.memory.growth import Growth
from kvsim.simulator.allocators.block_pool import Block, BlockPool
from kvsim.simulator.allocators.hits import Alike, Hit, alike, kept, longest_hit
from kvsim.simulator.allocators.table import Table
from kvsim.simulator.request import Request

__all__ = ["Contents"]


class Contents:
    """Identities of blocks, in every group, and where they are found again.

    Parameters
    ----------
    pool : BlockPool
        Whose blocks they are.
    groups : sequence of Growth
        Groups of layers, each with blocks of its own.
    caching : bool
        Whether anything is named and looked up.
    retention_interval : int or None
        As in `hits.kept`.

    Attributes
    ----------
    align : int
        Tokens of which a hit is a multiple; 0: nothing is ever found.
    is_deferred : bool
        Whether a prompt waits for the next step, which has the state that this one writes.
    """

    def __init__(
        self,
        pool: BlockPool,
        groups: Sequence[Growth],
        *,
        caching: bool,
        retention_interval: int | None,
    ) -> None:
        self._pool, self._groups, self._interval = pool, groups, retention_interval
        self._kinds = alike(groups)
        self.align = lcm(*(growth.block_size for growth in groups)) if caching else 0
        self.is_deferred = False
        self._fresh: set[tuple[int, int]] = set()  # states named in this step: group, identity
        self._blocked: tuple[Request, int, Table, Hit] | None = None

    def begin_step(self) -> None:
        """States that the step before has named are there from now on."""
        self._fresh.clear()
        self.is_deferred = False

    # ---- looking up -----------------------------------------------------------------------

    def look_up(self, request: Request, table: Table) -> Hit:
        """What all groups know of a prompt; its last token is always computed."""
        if not self.align:
            return Hit(0, [{} for _ in self._groups])
        pool = self._pool

        def known(kind: Alike, number: int) -> list[Block] | None:
            name = table.identity(request, kind.growth.block_size, number)
            blocks = []
            for group in kind.groups:
                block = pool.known(group, name)
                if block is None:
                    return None
                blocks.append(block)
            return blocks

        return longest_hit(self._kinds, request.prefill_tokens - 1, self.align, known)

    def waits(self, hit: Hit) -> bool:
        """Whether a state that was found is one that this step writes: the next step has it."""
        for at, growth in enumerate(self._groups) if self._fresh else ():
            block = hit.blocks[at].get(hit.tokens // growth.block_size - 1)
            if growth.is_state and block is not None and (at, block.name) in self._fresh:
                self.is_deferred = True
                return True
        return False

    def recall(self, request: Request) -> tuple[Table, Hit]:
        """A table for a request, and what is known of its prompt."""
        asked = self._blocked
        if asked is not None and not self._pool.has_changed:
            blocked, tokens, table, hit = asked
            if blocked is request and tokens == request.prefill_tokens:
                return table, hit
        table = Table(len(self._groups))
        return table, self.look_up(request, table)

    def remember(self, request: Request, table: Table, hit: Hit) -> None:
        """Keep what was found for who must wait, until something of its prompt changes."""
        if self._blocked is not None and self._blocked[2] is table:
            return
        self._blocked = (request, request.prefill_tokens, table, hit)
        names: set[int] = set()
        for size in {growth.block_size for growth in self._groups} if self.align else ():
            numbers = range(request.prefill_tokens // size)
            names.update(table.identity(request, size, number) for number in numbers)
        self._pool.watch(names)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._blocked = None

    # ---- naming ---------------------------------------------------------------------------

    def name(self, request: Request, table: Table, tokens: int) -> None:
        """Give the blocks that known tokens fill their identities, where a hit could use them."""
        if not self.align:
            return
        known, named = tokens - tokens % self.align, self._pool.name
        places = request.prompt_tokens - 1, table.junction
        for at, growth in enumerate(self._groups):
            size, done = growth.block_size, table.named[at]
            upto = known // size
            if upto <= done:
                continue
            table.named[at] = upto
            full = range(max(done, table.first[at]), upto)
            numbers = kept(growth, full, self.align, self._interval, places)
            if holes := table.holes[at]:
                numbers = [number for number in numbers if number not in holes]
            blocks, names = table.blocks[at], table.identities(request, size, numbers)
            for number, name in zip(numbers, names, strict=True):
                blocks[number] = named(at, name)
            if growth.is_state:
                self._fresh.update((at, name) for name in names)
