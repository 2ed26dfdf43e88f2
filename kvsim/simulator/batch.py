"""The decoding sequences that a model and its pools need: plain ones (`plain_batch`), or these.

For models whose layers do not all grow alike, and for engines that keep several pools apart.

::

    blocks of a sequence        full group + window group: from the bend on the window's stay
        |            .·''
        |        .·''   one group opens blocks
        |    .·''
        | .·'  both do
        +--------+-----------▶ cached tokens
               bend

Every pool that an engine keeps apart, and every block size in it, has phase counters of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.plain_batch import DecodeBatch, blocks_between
from kvsim.simulator.request import Request
from kvsim.steptime.kv_reads import KVReadCurve

__all__ = ["DecodeBatch", "HybridBatch", "decode_batch"]


class _Phases:
    """How many blocks of one size each coming step opens, in one pool.

    Parameters
    ----------
    curve : BlockCurve
        Groups of blocks of this size.
    slots : int
        Slots that a token fills of one such block.
    """

    def __init__(self, curve: BlockCurve, slots: int) -> None:
        self.curve = curve
        self.size = curve.block_size
        self.slots = slots
        self.opens = 0
        self.phase = [0] * self.size

    def add(self, base: int, computed: int, samples: int) -> int:
        """Count the groups that are still open to a sequence of `computed` cached tokens."""
        opens = samples * self.curve.groups_open_at(computed)
        self.opens += opens
        self.phase[-base % self.size] += opens
        return opens

    def blocks_for(self, step: int, steps: int) -> int:
        """Blocks that `steps` steps from `step` on take."""
        return blocks_between(self.phase, self.opens, step, steps)


class HybridBatch(DecodeBatch):
    """The decoding sequences of a model whose layers stop growing at a window or a chunk.

    A sequence's share of what each step adds changes at a few lengths, its bends. The next
    bend of every sequence lies on a heap, and a run of steps never crosses one.

    Parameters
    ----------
    pools : tuple of (BlockCurve, int)
        For every pool, the blocks of a sequence, and what a slot of it weighs where pools
        are added up.
    reads : KVReadCurve
        As in `DecodeBatch`.

    Attributes
    ----------
    filled_slots, fill_slope : int
        Slots of their blocks that hold something (tokens of every group, at most a window of
        them, states), and what each step fills more. Elsewhere a slot is a token.
    """

    def __init__(self, pools: tuple[tuple[BlockCurve, int], ...], reads: KVReadCurve) -> None:
        super().__init__(pools[0][0], reads)
        self._growing = 0  # which groups are open depends on the length: `_add_slopes`
        self.pools = pools
        self._phases = [list(_phases(curve, weight)) for curve, weight in pools]
        self._sizes = [phases for sizes in self._phases for phases in sizes]
        self.fill_slope = self.filled_slots = 0
        self._bends: list[tuple[int, int, Request]] = []
        breakpoints = (point for curve, _ in pools for point in curve.breakpoints)
        self._bend_points = sorted({*breakpoints, *reads.breakpoints})

    # ---- membership -----------------------------------------------------------------------

    def join(self, request: Request) -> None:
        """Let a request go on decoding, and note its next bend."""
        super().join(request)
        self._depart(request, request.computed_tokens, request.samples)
        self._push_bend(request)

    def leave(self, request: Request) -> None:
        """Take a request out, bent if this is its bend; the heap's entry is stale then."""
        if request.bend_step == self.step:
            self._bend(request)
        super().leave(request)
        self._depart(request, request.computed_tokens, -request.samples)
        request.bend_step = None

    # ---- slots ----------------------------------------------------------------------------

    def slots_of(self, tokens: int) -> int:
        """Slots that one sequence of `tokens` cached tokens fills, all pools added."""
        return sum(weight * curve.slots_at(tokens) for curve, weight in self.pools)

    # ---- time -----------------------------------------------------------------------------

    def advance(self, steps: int) -> list[Request]:
        """Take `steps` decode steps, and bend whatever has come to its bend."""
        self.filled_slots += steps * self.fill_slope
        done = super().advance(steps)
        while self._bends and self._bends[0][0] <= self.step:
            at, _, request = heappop(self._bends)
            if request.bend_step == at:
                self._bend(request)
        return done

    def steps_to_change(self) -> int:
        """Steps until the next completion or bend, whichever is first."""
        steps = super().steps_to_change()
        return min(steps, self._bends[0][0] - self.step) if self._bends else steps

    # ---- blocks ---------------------------------------------------------------------------

    @property
    def opening(self) -> int:
        """New blocks of the first pool that the very next step takes."""
        return self.blocks_for(1)

    def blocks_for(self, steps: int, pool: int = 0) -> int:
        """New blocks of one pool that the next `steps` steps take."""
        sizes = self._phases[pool]
        if len(sizes) == 1:
            return sizes[0].blocks_for(self.step, steps)
        return sum(phases.blocks_for(self.step, steps) for phases in sizes)

    def steps_within(self, free_blocks: int, limit: int, pool: int = 0) -> int:
        """Return the most steps, up to `limit`, that `free_blocks` new blocks of a pool allow."""
        if self.blocks_for(limit, pool) <= free_blocks:
            return limit
        fits, fails = 0, limit
        while fails - fits > 1:
            middle = (fits + fails) // 2
            enough = self.blocks_for(middle, pool) <= free_blocks
            fits, fails = (middle, fails) if enough else (fits, middle)
        return fits

    # ---- bends ----------------------------------------------------------------------------

    def _depart(self, request: Request, computed: int, samples: int) -> None:
        """Add (or, negative, remove) how far a request has bent away from its first line."""
        straight = self._first_bytes + self._slope * computed
        self.kv_bytes += samples * (self.reads.bytes_at(computed + 1) - straight)
        self.filled_slots += samples * self.slots_of(computed)
        self._add_slopes(request, computed, samples)

    def _add_slopes(self, request: Request, computed: int, samples: int) -> None:
        """Add (or, negative, remove) what a request of this length adds with each step."""
        for phases in self._sizes:
            self.fill_slope += phases.slots * phases.add(request.base, computed, samples)
        first = self._phases[0]
        self.opens = first[0].opens if len(first) == 1 else sum(each.opens for each in first)
        self.kv_slope += samples * (self.reads.slope_at(computed + 1) - self._slope)

    def _push_bend(self, request: Request) -> None:
        """Note the step at which the request's blocks or reads grow differently next."""
        computed = self.step + request.base
        for point in self._bend_points:
            if computed < point:
                request.bend_step = self.step + point - computed
                heappush(self._bends, (request.bend_step, request.row, request))
                return
        request.bend_step = None

    def _bend(self, request: Request) -> None:
        """Change the slopes of a request whose window has just filled.

        The first step past the bend may also read a different number of bytes than the old
        line foresaw (attention in chunks starts its sawtooth there).
        """
        computed = self.step + request.base
        foreseen = self.reads.bytes_at(computed) + self.reads.slope_at(computed)
        self.kv_bytes += request.samples * (self.reads.bytes_at(computed + 1) - foreseen)
        self._add_slopes(request, computed - 1, -request.samples)
        self._add_slopes(request, computed, request.samples)
        self._push_bend(request)

    def _laws(self) -> dict[str, tuple[int, int]]:
        """What is counted, and what it must be, in every pool."""
        contexts = self._contexts()
        laws = super()._laws()
        del laws["opens"], laws["phases"]
        laws["slots"] = self.filled_slots, sum(n * self.slots_of(c) for c, n in contexts)
        for number, sizes in enumerate(self._phases):
            for phases in sizes:
                opens = sum(n * phases.curve.groups_open_at(c) for c, n in contexts)
                laws[f"opens of pool {number}, blocks of {phases.size}"] = phases.opens, opens
                laws[f"phases of pool {number}, {phases.size}"] = sum(phases.phase), opens
        return laws


def _phases(curve: BlockCurve, weight: int) -> Iterator[_Phases]:
    """Counters of one pool, whose slots weigh so much where pools are added up."""
    whole = curve.slots_per_block
    for part in curve.parts:
        yield _Phases(part, weight * (whole // part.block_size))


def decode_batch(
    blocks: BlockCurve | tuple[tuple[BlockCurve, int], ...], reads: KVReadCurve
) -> DecodeBatch:
    """Make the batch that a model needs: plain, or with bends and several pools.

    Parameters
    ----------
    blocks : BlockCurve or tuple of (BlockCurve, int)
        Blocks of a sequence in the one pool, or in each of several with its slots' weight.
    reads : KVReadCurve
        Bytes that a step reads for a sequence.
    """
    pools = ((blocks, 1),) if isinstance(blocks, BlockCurve) else blocks
    first, weight = pools[0]
    is_plain = len(pools) == 1 and weight == 1 and first == BlockCurve(first.block_size)
    if is_plain and not reads.breakpoints:
        return DecodeBatch(first, reads)
    return HybridBatch(pools, reads)
