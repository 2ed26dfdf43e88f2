"""Paged allocation with hashed prefix sharing: a block whose content is known is kept.

A block's identity names the whole prefix up to and including it, so hits are always a run
from the start of the prompt. Blocks are counted by reference; when the last reference is gone, they
wait in the idle order and are revived by a lookup or evicted when room is needed::

        new content           last ref gone             evicted
    (free) ──────▶ held (refs >= 1) ─────▶ idle, cached ──────▶ (free)
                      ▲                      │ lookup hits
                      └──────────────────────┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kvsim.errors import InputError, InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Holding, Slots
from kvsim.simulator.allocators.idle import EVICTION_POLICIES
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Prefix", "hybrid_error"]

_PRIVATE_SPAN = 1 << 32  # blocks of one request's own, unshared identities


def hybrid_error() -> InputError:
    """What is said of models whose groups keep different parts of a prefix."""
    return InputError(
        "prefix sharing is modelled for models with full attention in every layer, and under vLLM"
        " for windows and, from 0.28 on, recurrent states",
        fix="use the paged allocator",
    )


class Prefix(Paged):
    """Automatic prefix caching in vLLM's order.

    A request's note (``request.blocks``) lists the identities of its full blocks from the
    first on; None in it is a second copy of a block that was already known. Its other blocks
    (the last partial one, those being decoded) are anonymous, and only counted.

    Parameters
    ----------
    total_blocks : int
        Size of the pool.
    curve : BlockCurve
        Blocks of one sequence; must be that of a plain model.
    eviction : str
        "lru" (vLLM), "fifo" or "lfu".

    Raises
    ------
    InputError
        For a hybrid model, whose groups keep different parts of a prefix.
    """

    sets_slots_apart = True
    shares_prefixes = True
    grows_by_blocks = False  # in an order of its own

    def __init__(self, total_blocks: int, curve: BlockCurve, eviction: str = "lru") -> None:
        if curve != BlockCurve(curve.block_size):
            raise hybrid_error()
        super().__init__(total_blocks, curve)
        self._refs: dict[int, int] = {}
        self._more_refs = 0  # to held blocks, beyond the first to each
        self._idle = EVICTION_POLICIES.find(eviction)()
        self._idle.add_anonymous(total_blocks)

    def cached_tokens(self, request: Request) -> int:
        """Tokens that a lookup finds."""
        ids = self._ids(request, request.prefill_tokens)
        return self._lookup(ids, request.prefill_tokens)[0] * self.block_size

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Look the prompt up; touch its hits and allocate blocks for the first new chunk."""
        ids = self._ids(request, request.prefill_tokens)
        hits, idle_hits = self._lookup(ids, request.prefill_tokens)
        first = min(hits * self.block_size + chunk_tokens, request.prefill_tokens)
        new = self.blocks_of(request, request.prefill_tokens if whole else first) - hits
        if new + idle_hits + spare_blocks > self.free_blocks:
            return None
        request.blocks = list(ids[:hits])
        for block_id in request.blocks:
            self._touch(block_id)
        cached = hits * self.block_size
        end = min(cached + chunk_tokens, request.prefill_tokens)
        self._allocate_new(self.blocks_of(request, end) - hits)
        self._name_full_blocks(request, ids, end)
        return cached

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Allocate the blocks of a further chunk and name those that it fills."""
        computed = request.computed_tokens
        need = self.blocks_of(request, tokens)
        need -= self.blocks_of(request, computed) if computed else 0
        if need + spare_blocks > self.free_blocks:
            return False
        if not computed:
            request.blocks = []
        self._allocate_new(need)
        if tokens <= request.prefill_tokens or not computed:  # a decode's when it is freed
            self._name_full_blocks(request, self._ids(request, tokens), tokens)
        return True

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Allocate the blocks that open during the run."""
        self._allocate_new(opening)

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free the tail first, so that a prefix outlives what was built on it."""
        tokens = request.computed_tokens
        held = self.blocks_of(request, tokens + planned_tokens) if tokens else 0
        if preempted or request.content is not None:
            ids = self._ids(request, tokens, leaving=preempted)
            self._name_full_blocks(request, ids, tokens)
        names = _names(request)
        self._idle.add_anonymous(held - len(names))
        self.free_blocks += held - len(names)
        keep = preempted or request.content is not None
        for block_id in reversed(names):
            self._free_block(block_id, keep=keep)
        request.blocks = None

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Slots of idle prefixes, and of those that several requests begin with."""
        size = self._size
        return Slots(cached=self._idle.cached * size, shared=self._more_refs * size)

    @property
    def shared_blocks(self) -> int:
        """Blocks with two or more references."""
        return sum(count > 1 for count in self._refs.values())

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """What each request holds alone: all of its blocks but the shared ones."""
        shared = {block_id for block_id, count in self._refs.items() if count > 1}
        return [
            Holding(r.row, self.blocks_of(r, n) - sum(map(shared.__contains__, _names(r))))
            for r, n in live
        ]

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State ``held + idle = total`` and that references are counted right."""
        holders: Counter[int] = Counter()
        anonymous = 0
        for request, tokens in live:
            names = _names(request)
            holders.update(block_id for block_id in names if block_id is not None)
            anonymous += self.blocks_of(request, tokens) - sum(n is not None for n in names)
        if holders != Counter(self._refs) or self._more_refs != holders.total() - len(holders):
            raise InvariantError("references to shared blocks are miscounted")
        if len(self._idle) != self.free_blocks:
            raise InvariantError(f"{len(self._idle)} idle blocks, but {self.free_blocks} free")
        if len(self._refs) + anonymous + self.free_blocks != self.total_blocks:
            raise InvariantError(
                f"{len(self._refs)} shared + {anonymous} own + {self.free_blocks} free blocks"
                f" != {self.total_blocks}"
            )

    @property
    def cached_blocks(self) -> int:  # type: ignore[override]
        """Idle blocks that keep a prefix."""
        return self._idle.cached

    # ---- one block ------------------------------------------------------------------------

    def _lookup(self, ids: Sequence[int], tokens: int) -> tuple[int, int]:
        """Leading blocks that are known, and how many of them are idle.

        The last token is always computed, so a prompt is never found whole.
        """
        hits = idle_hits = 0
        for block_id in ids[: (tokens - 1) // self.block_size]:
            if block_id in self._idle:
                idle_hits += 1
            elif block_id not in self._refs:
                break
            hits += 1
        return hits, idle_hits

    def _touch(self, block_id: int) -> None:
        """Add a reference, reviving the block if it was idle."""
        if block_id in self._refs:
            self._refs[block_id] += 1
            self._more_refs += 1
        else:
            self._idle.revive(block_id)
            self._refs[block_id] = 1
            self.free_blocks -= 1

    def _free_block(self, block_id: int | None, *, keep: bool) -> None:
        """Drop a reference; after the last one the block is idle, its content kept or not."""
        if block_id is not None:
            self._refs[block_id] -= 1
            if self._refs[block_id]:
                self._more_refs -= 1
                self._idle.note_use(block_id)
                return
            del self._refs[block_id]
        self.free_blocks += 1
        if block_id is not None and keep:
            self._idle.add(block_id)
        else:
            self._idle.add_anonymous(1)

    def _allocate_new(self, count: int) -> None:
        """Allocate blocks in order of eviction."""
        cached = self._idle.cached
        self._idle.evict(count)
        self.evictions += cached - self._idle.cached
        self.free_blocks -= count

    # ---- identities -----------------------------------------------------------------------

    def _ids(self, request: Request, tokens: int, *, leaving: bool = False) -> Sequence[int]:
        """Identities of the first full blocks of a request.

        A request without shared content still finds its own blocks again after a
        preemption, so it gets identities of its own from then on.
        """
        if request.content is not None:
            return request.content.block_ids(request.content_row, self.block_size, tokens)
        if request.preemptions or leaving:
            first = -(request.row + 1) * _PRIVATE_SPAN
            return range(first, first + tokens // self.block_size)
        return ()

    def _name_full_blocks(self, request: Request, ids: Sequence[int], tokens: int) -> None:
        """Give identities to the blocks that are full once `tokens` tokens are computed."""
        names = _names(request)
        for block_id in ids[len(names) : tokens // self.block_size]:
            known = block_id in self._refs or block_id in self._idle
            names.append(None if known else block_id)
            if not known:
                self._refs[block_id] = 1


def _names(request: Request) -> list[int | None]:
    """The request's note, made on first use."""
    if request.blocks is None:
        request.blocks = []
    names: list[int | None] = request.blocks  # type: ignore[assignment]
    return names
