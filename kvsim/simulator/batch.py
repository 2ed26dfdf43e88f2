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
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.phases import MixedPhases, Phases
from kvsim.simulator.plain_batch import DecodeBatch
from kvsim.simulator.request import Request
from kvsim.steptime.kv_reads import KVReadCurve

__all__ = ["DecodeBatch", "HybridBatch", "decode_batch"]

_LENGTHS = 1 << 16  # whose shares are remembered


class _Counter:
    """Groups whose blocks are of one size and of one pool, and the steps that open them.

    Parameters
    ----------
    curve : BlockCurve
        Groups of blocks of this size.
    slots : int
        Slots that a token fills of one such block.
    phases : Phases
        Where the blocks that they open are counted.
    pool : Phases
        Those of the whole pool: the same, or a mixture.
    """

    def __init__(self, curve: BlockCurve, slots: int, phases: Phases, pool: Phases) -> None:
        self.curve = curve
        self.slots = slots
        self.phases = phases
        self.pool = pool

    def add(self, base: int, opens: int) -> None:
        """Count (or, negative, no longer) groups that are still open to a sequence."""
        phases = self.phases
        phases.opens += opens
        phases.counts[-base % phases.size] += opens
        if self.pool is not phases:
            self.pool.opens += opens

    def open_to(self, contexts: list[tuple[int, int]]) -> int:
        """What its phases must sum to, given every sequence's cached tokens and samples."""
        return sum(n * self.curve.groups_open_at(tokens) for tokens, n in contexts)


class _Share(NamedTuple):
    """What one sequence of a certain length adds to the sums.

    Parameters
    ----------
    slots, fill_slope : int
        Slots that it fills, and that its next token fills.
    opens : tuple of int
        By counter, the groups that are still open to it.
    bent_bytes, bent_slope : int
        How far what it reads, and reads more with each token, is from the first line.
    """

    slots: int
    fill_slope: int
    opens: tuple[int, ...]
    bent_bytes: int
    bent_slope: int


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
        them, states), and what each step fills more beside blocks of states. Elsewhere a slot
        is a token.
    """

    def __init__(self, pools: tuple[tuple[BlockCurve, int], ...], reads: KVReadCurve) -> None:
        super().__init__(pools[0][0], reads)
        self._growing = 0  # which groups are open depends on the length: `_add_slopes`
        self.pools = pools
        self._pools = [list(_counters(curve, weight)) for curve, weight in pools]
        self._counters = [counter for counters in self._pools for counter in counters]
        self._of_states = [
            (counter, curve.states * curve.block_size)
            for counter in self._counters
            if (curve := counter.curve).states
        ]
        self.pool_phases = [counters[0].pool for counters in self._pools]
        self.phases = self.pool_phases[0]
        self.fill_slope = self.filled_slots = 0
        self._share = lru_cache(maxsize=_LENGTHS)(self._work_share_out)
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
        return self._share(tokens).slots if tokens else 0

    def filling_slots(self, steps: int) -> int:
        """Slots that the next `steps` steps fill; those of a state as soon as its block opens."""
        filling = steps * self.fill_slope
        for counter, states in self._of_states:
            blocks = counter.phases.blocks_for(self.step, steps)
            filling += states * counter.slots * blocks // counter.curve.growing
        return filling

    def shared_slots_of(self, request: Request) -> int:
        """Slots of the prompt's full blocks in all pools, for every sample but the first."""
        prompt = request.prompt_tokens
        shared = sum(
            weight * curve.slots_per_block * curve.shared_blocks_at(prompt)
            for curve, weight in self.pools
        )
        return (request.samples - 1) * shared

    # ---- time -----------------------------------------------------------------------------

    def advance(self, steps: int) -> list[Request]:
        """Take `steps` decode steps, and bend whatever has come to its bend."""
        self.filled_slots += self.filling_slots(steps)
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

    @property
    def opening(self) -> int:
        """New blocks of the first pool that the very next step takes."""
        return self.phases.blocks_for(self.step, 1)

    # ---- bends ----------------------------------------------------------------------------

    def _work_share_out(self, computed: int) -> _Share:
        """What a sequence of so many cached tokens adds; remembered, as lengths come again."""
        reads, counters = self.reads, self._counters
        opens = tuple(counter.curve.groups_open_at(computed) for counter in counters)
        straight = self._first_bytes + self._slope * computed
        return _Share(
            slots=sum(weight * curve.slots_at(computed) for curve, weight in self.pools),
            fill_slope=sum(
                (n - counter.curve.states) * counter.slots
                for n, counter in zip(opens, counters, strict=True)
            ),
            opens=opens,
            bent_bytes=reads.bytes_at(computed + 1) - straight,
            bent_slope=reads.slope_at(computed + 1) - self._slope,
        )

    def _depart(self, request: Request, computed: int, samples: int) -> None:
        """Add (or, negative, remove) how far a request has bent away from its first line."""
        share = self._share(computed)
        self.kv_bytes += samples * share.bent_bytes
        self.filled_slots += samples * share.slots
        self._add_slopes(request, share, samples)

    def _add_slopes(self, request: Request, share: _Share, samples: int) -> None:
        """Add (or, negative, remove) what a request of some length adds with each step."""
        base = request.base
        for counter, opens in zip(self._counters, share.opens, strict=True):
            counter.add(base, samples * opens)
        self.fill_slope += samples * share.fill_slope
        self.kv_slope += samples * share.bent_slope

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
        self._add_slopes(request, self._share(computed - 1), -request.samples)
        self._add_slopes(request, self._share(computed), request.samples)
        self._push_bend(request)

    def _laws(self) -> dict[str, tuple[int, int]]:
        """What is counted, and what it must be, in every pool."""
        contexts = self._contexts()
        laws = super()._laws()
        del laws["opens"], laws["phases"]
        laws["slots"] = self.filled_slots, sum(n * self.slots_of(c) for c, n in contexts)
        for number, counters in enumerate(self._pools):
            for counter in counters:
                opens = counter.open_to(contexts)
                blocks = f"pool {number}, blocks of {counter.phases.size}"
                laws[f"opens of {blocks}"] = counter.phases.opens, opens
                laws[f"phases of {blocks}"] = sum(counter.phases.counts), opens
            of_all = sum(counter.phases.opens for counter in counters)
            laws[f"opens of pool {number}"] = counters[0].pool.opens, of_all
        return laws


def _counters(curve: BlockCurve, weight: int) -> Iterator[_Counter]:
    """Counters of one pool, whose slots weigh so much where pools are added up."""
    whole = curve.slots_per_block
    each = [Phases(part.block_size) for part in curve.parts]
    pool = MixedPhases(each) if len(each) > 1 else each[0]
    for part, phases in zip(curve.parts, each, strict=True):
        yield _Counter(part, weight * (whole // part.block_size), phases, pool)


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
