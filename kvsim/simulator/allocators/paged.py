"""Paged allocation: blocks of a fixed size, any free one will do (PagedAttention)."""

from __future__ import annotations

from collections.abc import Iterable

from kvsim.errors import InvariantError
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Paged"]


class Paged(Allocator):
    """Blocks without identity: a request's count follows from its length alone.

    Waste is internal only, less than a block per sequence, so no address is ever needed.
    """

    grows_by_blocks = True

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Require room for the whole prompt, allocate the first chunk's blocks."""
        new = due = self.blocks_of(request, chunk_tokens)
        if whole and chunk_tokens < request.prefill_tokens:
            due = self.blocks_of(request, request.prefill_tokens)
        if due + spare_blocks > self.free_blocks:
            return None
        self.free_blocks -= new
        return 0

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Allocate the blocks between the computed tokens and `tokens`."""
        need = self.new_blocks(request, request.computed_tokens, tokens)
        if need + spare_blocks > self.free_blocks:
            return False
        self.free_blocks -= need
        return True

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """As many steps as the free blocks allow."""
        if (limit // self._size + 1) * batch.phases.opens <= self.free_blocks:
            return limit  # by far the most common case: there is room for a cycle more
        return batch.phases.steps_within(batch.step, self.free_blocks, limit)

    def can_decode(self, batch: DecodeBatch) -> bool:
        """Whether the blocks that the next step opens are free."""
        return batch.opening <= self.free_blocks

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Allocate the blocks that open during the run."""
        self.free_blocks -= opening

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free all of its blocks."""
        self.free_blocks += self.blocks_of(request, request.computed_tokens + planned_tokens)

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State ``held + free = total``."""
        held = sum(self.blocks_of(request, tokens) for request, tokens in live)
        if held + self.free_blocks != self.total_blocks or self.free_blocks < 0:
            raise InvariantError(
                f"{held} blocks held + {self.free_blocks} free != {self.total_blocks} in all"
            )
