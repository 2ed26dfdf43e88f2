"""No cache at all: every step computes the whole context again (the study case)."""

from __future__ import annotations

from collections.abc import Iterable

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator, Holding
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["NoCache"]


class NoCache(Allocator):
    """Holds nothing, so memory never limits anything; time does (see ``RecomputeClock``)."""

    contiguous = True

    sets_slots_apart = True
    keeps_tokens = False

    def __init__(self, slots: int) -> None:
        super().__init__(slots, BlockCurve(1))

    def claim(self, request: Request, tokens: int) -> int:
        """Nothing is due."""
        return 0

    def can_allocate(self, request: Request) -> bool:
        """Always."""
        return True

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Always, finding nothing cached."""
        return 0

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Always."""
        return True

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """One: the next step computes more than this one."""
        return 1

    def claim_steps(self, batch: DecodeBatch, steps: int, opening: int) -> int:
        """Nothing is due."""
        return 0

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Nothing."""

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Nothing is held."""

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """Nobody holds anything."""
        return []

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """Nothing can be lost."""
