"""Policies that somebody else registered: the soak's worlds ask for them by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from kvsim import register
from kvsim.simulator.allocators.addresses import PLACEMENTS
from kvsim.simulator.allocators.idle import LRU
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.families import FAMILIES
from kvsim.simulator.prepare import Setup
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import Scheduler, StepPlan
from kvsim.simulator.schedulers.queues import SortedQueue

BestFit: type = PLACEMENTS.find("best-fit")


class LongestFirst(SortedQueue):
    """Admit the longest prompt first."""

    def key(self, request: Request) -> int:
        return -request.prompt_tokens


class Unrenewed(LRU):
    """Evict as LRU does, but forget on a renewal that a block was used again."""

    def renew(self, block_id: int) -> None:
        """Leave it where it is."""


class Gentle(Scheduler):
    """Whole prompts beside decodes, so many of them in a step."""

    bounds_step_tokens = False

    def __init__(self, *parts, prompts: int = 1) -> None:
        super().__init__(*parts)
        self.prompts = prompts

    def schedule(self, now: float) -> StepPlan | None:
        preempted = self._make_room_to_decode()
        prefills = [] if preempted and self.running else self.admitted(now)
        if prefills or self.moved_tokens:
            return self._compute(prefills, decodes=True)
        return self._decode(1 if preempted else 0)

    def admitted(self, now: float) -> list[tuple[Request, int]]:
        prefills: list[tuple[Request, int]] = []
        while len(prefills) < self.prompts and self._has_slot():
            request, spare = self.waiting.head(), self.batch.opening
            if request.swapped:
                if not self._resume(request, spare):
                    break
                continue
            tokens = request.prefill_tokens
            cached = self.allocator.allocate(request, tokens, spare_blocks=spare)
            if cached is None:
                break
            self._start(request, cached, now)
            self.prefilling[request] = None
            prefills.append((request, tokens - cached))
        return prefills


class Thrifty(Paged):
    """Blocks, of which an admission leaves a few free."""

    def __init__(self, blocks: int, curve, spared: int) -> None:
        super().__init__(blocks, curve)
        self.spared = spared

    @classmethod
    def from_setup(cls, setup: Setup, spared: int = 1) -> Self:
        return cls(setup.num_blocks, setup.curve, spared)

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        others_run = self.free_blocks < self.total_blocks
        spare = spare_blocks + (self.spared if others_run else 0)
        return super().allocate(request, chunk_tokens, spare_blocks=spare, whole=whole)


class Tightest(BestFit):
    """Best fit under another name."""


NAMES = {
    "admissions": {"soak-longest-first": LongestFirst},
    "allocators": {"soak-thrifty": Thrifty},
    "evictions": {"soak-unrenewed": Unrenewed},
    "placements": {"soak-tightest": Tightest},
    "schedulers": {"soak-gentle": Gentle},
}


@contextmanager
def registered() -> Iterator[None]:
    """Register them through the public door, and forget them afterwards."""
    for family, policies in NAMES.items():
        for name, policy in policies.items():
            register(family, name, policy)
    try:
        yield
    finally:
        for family, policies in NAMES.items():
            for name in policies:
                del FAMILIES[family][name]
