"""Block tables by groups of layers, as vLLM keeps them for windows and for prefixes of hybrids.

All groups draw from one queue, and a group whose window has moved on gives the blocks behind it
back while the request runs. That goes by the tokens that are processed: a step that is under way
still looks back. The functions followed are those of ``vllm/v1/core``:
``KVCacheManager.allocate_slots``, ``remove_skipped_blocks``, ``get_num_blocks_to_allocate`` and
``reachable_block_mask`` of ``single_type_kv_cache_manager.py``, ``cache_blocks`` of
``kv_cache_coordinator.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvsim.errors import InvariantError
from kvsim.memory.growth import Growth
from kvsim.simulator.allocators.base import Holding, Slots
from kvsim.simulator.allocators.block_pool import Block, BlockPool
from kvsim.simulator.allocators.contents import Contents
from kvsim.simulator.allocators.cuts import Cuts
from kvsim.simulator.allocators.hits import Hit
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.states import States
from kvsim.simulator.allocators.table import (
    Table,
    first_block,
    new_blocks,
    table_of,
    tabled,
    without_windows,
)
from kvsim.simulator.allocators.turns import Turns
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request
from kvsim.units import ceil_div

__all__ = ["BlockTables"]


class BlockTables(Paged):
    """vLLM's block tables: groups of layers, windows that move on, prefixes that all groups know.

    Requests have one sample each.

    Parameters
    ----------
    total_blocks : int
        Size of the pool.
    growths : sequence of Growth
        The groups, in the engine's order.
    caching : bool
        Whether prefixes are kept and looked up.
    retention_interval : int or None
        Tokens between the places where windows are kept for later requests; 0: only where a
        prompt ends and where prefixes part; None: everywhere.
    nameless_first : bool
        Whether freed blocks without identity are used again before all others.
    waits : bool
        Whether windows keep what a step under way still looks back on.
    """

    sets_slots_apart = running_first = gives_back = True

    def __init__(
        self,
        total_blocks: int,
        growths: Sequence[Growth],
        *,
        caching: bool = False,
        retention_interval: int | None = 0,
        nameless_first: bool = True,
        waits: bool = True,
    ) -> None:
        super().__init__(total_blocks, without_windows(growths))
        self._groups = moving = tabled(growths, apart=caching)
        self._fixed = sum(growth.fixed_blocks for growth in growths)
        self.shares_prefixes, self._waits = caching, waits
        self._pool = BlockPool(total_blocks, len(moving), nameless_first=nameless_first)
        self._contents = Contents(
            self._pool, moving, caching=caching, retention_interval=retention_interval
        )
        self._left_blocks = 0  # blocks that live requests have given back
        self._closed = self._closed_cached = 0  # freed by decodes that are planned
        self._turns, self._cuts = Turns(moving, self._contents.align), Cuts(moving)
        self._states = States.of(moving, is_sparse=retention_interval == 0)
        self.aligns_chunks = self._states is not None

    # ---- a request's life -----------------------------------------------------------------

    def can_allocate(self, request: Request) -> bool:
        """Whether an empty pool could hold the request to its last token."""
        need = self._fixed
        for growth in self._groups:
            blocks = ceil_div(request.final_tokens, growth.block_size)
            if growth.window is not None and self.in_chunks:
                blocks = min(blocks, growth.window.admitted_blocks + self._kept_in_flight)
            need += growth.width * blocks
        return need <= self.total_blocks

    @property
    def _kept_in_flight(self) -> int:
        """Most blocks that a chunk under way fills, of a model that keeps nothing but states.

        Where attention finds what was computed, who gives way for itself begins anew from there.
        """
        states = self._states
        alone = states is not None and all(growth.is_state for growth in self._groups)
        return 1 + states.checkpoints if states is not None and alone and self._late else 0

    def cached_tokens(self, request: Request) -> int:
        """Tokens that a lookup finds."""
        return self._contents.look_up(request, Table(len(self._groups))).tokens

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Look the prompt up; require room for all of it, allocate the first chunk's blocks."""
        table, hit = self._contents.recall(request)
        target, free = request.prefill_tokens, self.free_blocks - spare_blocks
        table.junction = hit.junction
        chunk = min(chunk_tokens, target - hit.tokens)
        end = hit.tokens + self._chunk(request, table, hit.tokens, chunk)
        if self._contents.waits(hit):
            return None
        beside = self._beside(request, hit.tokens, target)
        gate = self._need(hit, target, beside, is_gate=True) if whole else 0
        beside = self._beside(request, hit.tokens, end)
        if end == hit.tokens or max(gate, self._need(hit, end, beside)) > free:
            self._contents.remember(request, table, hit)
            return None
        self._contents.forget()
        request.blocks = table
        self._adopt(table, hit)
        self._pool.take(self._fixed)
        self._grow(request, table, end, end, beside)
        return hit.tokens

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Give back what is left behind, even if there is no room for more; then take that."""
        table, batch, done = request.blocks, self.batch, request.computed_tokens
        if not isinstance(table, Table):
            return self._bring_back(request, tokens, spare_blocks)
        if batch is not None and request in batch.members:
            return table.due > batch.step or self._decode(request, table, done, batch.step)
        flying = self.in_flight.get(request, 0) if self._waits else 0
        self._leave_behind(table, done - flying)
        beside = self._beside(request, done, tokens)
        if table.opening(self._groups, tokens, beside) + spare_blocks > self.free_blocks:
            return False
        self._grow(request, table, tokens, tokens, beside)
        return True

    def _bring_back(self, request: Request, tokens: int, spare_blocks: int) -> bool:
        """Blocks for what was swapped out; what a window had left behind stays where it is."""
        table = Table(len(self._groups))
        for at, growth in enumerate(self._groups):
            table.first[at] = table.stop[at] = table.named[at] = first_block(growth, tokens)
        if table.opening(self._groups, tokens) + self._fixed + spare_blocks > self.free_blocks:
            return False
        request.blocks = table
        self._left_blocks += table.left(self._groups)
        self._pool.take(self._fixed)
        self._grow(request, table, tokens, 0)
        return True

    def follow(self, request: Request, in_flight_tokens: int) -> None:
        """Begin to follow a request that decodes from the next step on."""
        batch = self.batch
        if batch is not None:
            table = table_of(request)
            table.joined = request.computed_tokens
            table.before = table.joined - (in_flight_tokens if self._late else 0)
            self._turns.add(request, table, batch.step)
            self._cuts.foresee(request, batch.step, self._late)

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free group after group, the tail of each first; by now all that it wrote is known."""
        table = table_of(request)
        if self.batch is not None and table.closed_at == self.batch.step:
            self._closed -= table.closed
            self._closed_cached -= table.closed_cached
        if not preempted:
            self._contents.name(request, table, request.computed_tokens)
        self._left_blocks -= table.left(self._groups)
        for at in range(len(self._groups)):
            self._drop(table, at, table.stop[at])
        self._pool.give_back_nameless(self._fixed)
        self._count()
        request.blocks = None

    # ---- decoding -------------------------------------------------------------------------

    def can_decode(self, batch: DecodeBatch) -> bool:
        """Whether all find room, one after the other, each with what it leaves behind."""
        if batch.opening <= self.free_blocks:
            return True
        free = self.free_blocks
        for request, table in self._turns.now(batch):
            done = request.base + batch.step
            free += table.behind(self._groups, self._processed(table, done))
            free -= table.opening(self._groups, done + 1)
            if free < 0:
                return False
        return True

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """As many steps as there is room for if nothing is given back; one, if that helps.

        A step that gives much back is by itself: within a run what is held grows evenly.
        """
        limit = min(limit, self._cuts.steps_before(batch) or limit)
        return super().decode_steps(batch, limit) or int(limit > 0 and self.can_decode(batch))

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Take and give back what the steps do, one request after the other."""
        end = batch.step + steps
        while turn := self._turns.pop(batch, end):
            at, request, table = turn
            self._decode(request, table, request.base + at, at)

    def _decode(self, request: Request, table: Table, done: int, step: int) -> bool:
        """Give back what a decode at this step leaves behind, and take what it needs."""
        self._close(table, done, step)
        if table.opening(self._groups, done + 1) > self.free_blocks:
            return False
        self._grow(request, table, done + 1, done + 1 - self.unknown_tokens)
        self._turns.add_next(request, table, done, step, self._late, self.unknown_tokens)
        return True

    def _close(self, table: Table, done: int, step: int) -> None:
        """Give back what a decode leaves behind, and note how much of it is free."""
        pool, free, cached = self._pool, self._pool.free, self._pool.cached
        self._leave_behind(table, self._processed(table, done))
        freed, kept = pool.free - free, pool.cached - cached
        if freed:
            table.note_closed(step, freed, kept)
            self._closed += freed
            self._closed_cached += kept

    def take_closed(self) -> int:
        """Blocks that decodes have given back since the last call; they count as held until it."""
        closed, self._closed, self._closed_cached = self._closed, 0, 0
        return closed

    def steps_to_more(self, request: Request) -> int:
        """Steps until a decode gives something back, or fills a block that may be found."""
        if self._contents.is_deferred:
            return 1
        return self._turns.steps_to_next(self.batch) if self.batch is not None else 0

    def _processed(self, table: Table, done: int) -> int:
        """Tokens of a decoding request that no step under way still computes."""
        return table.before if done == table.joined else done - self._late

    @property
    def _late(self) -> int:
        """Tokens of a decoding request that a step under way computes."""
        return self.unknown_tokens if self._waits else 0

    # ---- recurrent states -----------------------------------------------------------------

    def begin_step(self) -> None:
        """States that the step before has named are there from now on."""
        self._contents.begin_step()

    def chunk(self, request: Request, tokens: int) -> int:
        """Tokens of a running request's next chunk, which ends where states are kept."""
        return self._chunk(request, table_of(request), request.computed_tokens, tokens)

    def _chunk(self, request: Request, table: Table, start: int, tokens: int) -> int:
        if self._states is None:
            return tokens
        return self._states.chunk(request, start, tokens, table.junction, self.longest_chunk)

    def passed_slots(self, request: Request) -> int:
        """Slots of the tokens of its last chunk that only the state at their end is kept of."""
        return table_of(request).passed * self.slots_per_block

    def _beside(self, request: Request, start: int, end: int) -> int:
        """Blocks of a chunk with states beside its newest one."""
        return self._states.beside(request, start, end) if self._states is not None else 0

    # ---- blocks ---------------------------------------------------------------------------

    def _need(self, hit: Hit, tokens: int, beside: int = 0, *, is_gate: bool = False) -> int:
        """Blocks that an admission takes from the queue, idle ones that it finds among them."""
        need = self._fixed
        for growth, found in zip(self._groups, hit.blocks, strict=True):
            due, first = ceil_div(tokens, growth.block_size), first_block(growth, hit.tokens)
            if is_gate and growth.window is not None and not growth.is_state:
                due = min(due, growth.window.admitted_blocks)
            missing = max(0, due - max(first, hit.tokens // growth.block_size))
            need += growth.width * new_blocks(growth, missing, beside)
            need += sum(not block.refs for number, block in found.items() if number >= first)
        return need

    def _adopt(self, table: Table, hit: Hit) -> None:
        """Hold what was found, group by group, but for what is left behind already."""
        for at, (growth, found) in enumerate(zip(self._groups, hit.blocks, strict=True)):
            stop = hit.tokens // growth.block_size
            first = min(stop, first_block(growth, hit.tokens))
            for number in range(first, stop):
                self._pool.touch(found[number])
                table.blocks[at][number] = found[number]
            table.first[at], table.stop[at], table.named[at] = first, stop, stop
            self._left_blocks += first

    def _grow(
        self, request: Request, table: Table, tokens: int, known_tokens: int, beside: int = 0
    ) -> None:
        """Take the blocks that are missing, in every group; then name those that are full."""
        self._pool.take(table.opening(self._groups, tokens, beside))
        table.passed = 0
        for at, growth in enumerate(self._groups):
            table.passed += growth.width * table.extend(at, growth, tokens, beside)
        self._left_blocks += table.passed
        self._contents.name(request, table, known_tokens)
        self._count()

    def _leave_behind(self, table: Table, processed: int) -> None:
        """Give back the blocks that no token to come looks back on."""
        for at, growth in enumerate(self._groups):
            first = min(first_block(growth, processed), table.stop[at])
            if first > table.first[at]:
                self._left_blocks += growth.width * self._drop(table, at, first)
        self._count()

    def _drop(self, table: Table, at: int, first: int) -> int:
        """Give the blocks of a group before a number back, the last of them first; count them."""
        blocks, holes = table.blocks[at], table.holes[at]
        numbers = range(first - 1, table.first[at] - 1, -1)
        table.first[at] = first
        count = len(numbers)
        if holes:
            count -= len(holes.intersection(numbers))
            holes.difference_update(numbers)
        named = [blocks.pop(number) for number in numbers if number in blocks] if blocks else []
        self._pool.give_back_nameless(self._groups[at].width * count - len(named))
        if named:
            self._pool.give_back(named)
        return count

    def _count(self) -> None:
        """Take over what the pool counts."""
        pool = self._pool
        self.free_blocks, self.cached_blocks = pool.free, pool.cached
        self.further_refs, self.evictions = pool.further_refs, pool.evictions

    # ---- what is seen from outside --------------------------------------------------------

    @property
    def held_slots(self) -> int:
        """Slots that live requests hold as the step that is planned begins."""
        held = self.total_blocks - self.free_blocks + self._closed
        return held * self.slots_per_block

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Slots of idle prefixes; those that several hold together, or that are left behind."""
        size = self.slots_per_block
        unheld = self.further_refs + self._left_blocks - self._closed
        cached = self.cached_blocks - self._closed_cached
        return Slots(cached=cached * size, shared=unheld * size)

    @property
    def shared_blocks(self) -> int:
        """Blocks with two or more references."""
        return self._pool.shared_blocks

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """What each request holds alone: all of its blocks but the shared ones."""
        holdings = []
        for request, _ in live:
            table = table_of(request)
            shared = sum(block.refs > 1 for group in table.blocks for block in group.values())
            held = self._fixed + table.held(self._groups)
            holdings.append(Holding(request.row, held - shared))
        return holdings

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State the laws of the pool, and that every table covers its window."""
        held: list[Block] = []
        nameless = left = 0
        for request, tokens in live:
            table = table_of(request)
            for at, growth in enumerate(self._groups):
                stop = table.stop[at] * growth.block_size
                if table.first[at] > first_block(growth, tokens) or stop < tokens:
                    raise InvariantError(f"{request} lacks blocks of group {at}")
                held += table.blocks[at].values()
            left += table.left(self._groups)
            nameless += self._fixed + table.held(self._groups)
        self._pool.check(held, nameless - len(held), self.total_blocks)
        if left != self._left_blocks or self.free_blocks != self._pool.free:
            raise InvariantError(f"{left} blocks are left behind, {self._left_blocks} are counted")
