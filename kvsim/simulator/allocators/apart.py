"""Paged allocation over several pools that an engine keeps apart.

::

    full     [ A A A B B B B B B . . . . ]     a block of every pool, or nothing at all
    window   [ A A B B . ]                     runs out by itself, however much others have left
    states   [ A B . . ]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["PagedApart"]


class PagedApart(Allocator):
    """One `Paged` for each pool; a request holds its blocks in all of them or in none.

    What the base class counts in blocks (`total_blocks`, `free_blocks`, ``spare_blocks``) is
    about the first pool. Of the others an admission leaves what this step's decodes open.

    Parameters
    ----------
    pools : sequence of (int, BlockCurve, int)
        For every pool its blocks, those of a sequence, and how much a slot of it weighs
        where the pools are added up (bytes).
    """

    sets_slots_apart = True

    def __init__(self, pools: Sequence[tuple[int, BlockCurve, int]]) -> None:
        blocks, curve, _ = pools[0]
        super().__init__(blocks, curve)
        self.parts = [Paged(count, each) for count, each, _ in pools]
        self.weights = [weight for *_, weight in pools]
        self.growths = tuple((each, weight) for _, each, weight in pools)

    @property
    def held_slots(self) -> int:
        """Slots of all pools that live requests hold, weighed."""
        return sum(
            weight * part.held_slots for part, weight in zip(self.parts, self.weights, strict=True)
        )

    @property
    def usage(self) -> float:
        """Share of the fullest pool that is held, 0 to 1: it runs out first."""
        return max(part.usage for part in self.parts)

    def claim(self, request: Request, tokens: int) -> int:
        """Slots that a request is due in all pools, weighed."""
        return sum(
            weight * part.claim(request, tokens)
            for part, weight in zip(self.parts, self.weights, strict=True)
        )

    def can_allocate(self, request: Request) -> bool:
        """Whether every pool, empty, could hold the request to its last token."""
        return all(part.can_allocate(request) for part in self.parts)

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Require room for the whole prompt in every pool, allocate the first chunk's blocks."""
        due = request.prefill_tokens if whole else chunk_tokens
        if not self._fits(request, due, 0, spare_blocks):
            return None
        for part in self.parts:
            part.allocate(request, chunk_tokens, whole=whole)
        self._count()
        return 0

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Allocate the blocks between the computed tokens and `tokens`, in every pool."""
        if not self._fits(request, tokens, request.computed_tokens, spare_blocks):
            return False
        for part in self.parts:
            part.append_slots(request, tokens)
        self._count()
        return True

    def swap_in(self, request: Request, *, spare_blocks: int = 0) -> bool:
        """Make room again in every pool, for the next token too."""
        tokens = request.computed_tokens
        if not self._fits(request, tokens + 1, 0, spare_blocks):
            return False
        for part in self.parts:
            part.swap_in(request)
        self._count()
        return True

    def _fits(self, request: Request, tokens: int, held: int, spare_blocks: int) -> bool:
        """Whether every pool has the blocks of `tokens` tokens beyond those of `held`."""
        for number, part in enumerate(self.parts):
            need = part.new_blocks(request, held, tokens)
            spare = self._opening(number) if number else spare_blocks
            if need + spare > part.free_blocks:
                return False
        return True

    def _opening(self, pool: int) -> int:
        """New blocks of a pool that the very next step takes; none before there is a batch."""
        batch = self.batch
        return batch.pool_phases[pool].blocks_for(batch.step, 1) if batch else 0

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """As many steps as the first pool to run out allows."""
        for part, phases in zip(self.parts, batch.pool_phases, strict=True):
            limit = phases.steps_within(batch.step, part.free_blocks, limit) if limit else 0
        return limit

    def claim_steps(self, batch: DecodeBatch, steps: int, opening: int) -> int:
        """Slots of the blocks that open in all pools, weighed."""
        return sum(
            weight * part.claim_steps(batch, steps, phases.blocks_for(batch.step, steps))
            for part, weight, phases in zip(
                self.parts, self.weights, batch.pool_phases, strict=True
            )
        )

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Allocate the blocks that open during the run, in every pool."""
        for part, phases in zip(self.parts, batch.pool_phases, strict=True):
            part.allocate_steps(batch, steps, phases.blocks_for(batch.step, steps))
        self._count()

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free its blocks in every pool."""
        for part in self.parts:
            part.free(request, planned_tokens=planned_tokens)
        self._count()

    def _count(self) -> None:
        self.free_blocks = self.parts[0].free_blocks

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State ``held + free = total`` of every pool."""
        holders = list(live)
        for part in self.parts:
            part.check(holders)
        if self.free_blocks != self.parts[0].free_blocks:
            raise InvariantError("the first pool's free blocks are miscounted")
