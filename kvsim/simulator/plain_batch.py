"""The decoding sequences, advanced many steps at once.

Between two changes (a completion, an admission, a block shortage, a window that fills)
every decode step is known in advance, so nothing is counted per token and nothing per step.

A global counter ``step`` takes the place of every sequence's own length: a sequence that
joins with ``c`` cached tokens keeps ``base = c - step``, and its length is ``base + step``
for ever after. What the next k steps need follows from three small structures::

    phases          how many blocks open at each step of a cycle (`kvsim.simulator.phases`)
    finish heap     the step at which each sequence produces its last token
    bend heap       the step at which a sequence's window fills (`HybridBatch` only)
"""

from __future__ import annotations

from heapq import heappop, heappush

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.phases import Phases
from kvsim.simulator.request import Request
from kvsim.steptime.kv_reads import KVReadCurve

__all__ = ["DecodeBatch"]


class DecodeBatch:
    """Every sequence that produces one token per step, of a model without windows.

    All its sequences open a block every `block_size` steps and read the same number of
    bytes more with each token, so the sums follow from two counters.

    Parameters
    ----------
    blocks : BlockCurve
        Blocks that a sequence holds as a function of its cached tokens.
    reads : KVReadCurve
        Bytes that a step reads for a sequence as a function of its context.

    Attributes
    ----------
    step : int
        Decode steps taken so far.
    sequences : int
        Decoding sequences, parallel samples counted each.
    tokens : int
        Cached tokens of all of them.
    shared_slots : int
        Slots of blocks that a request's samples share, once for every sample but the first.
    phases, pool_phases : Phases, list of Phases
        Blocks of the first pool, and of every pool, that open at each step of a cycle.
    kv_bytes, kv_slope : int
        Bytes that the next step reads, and what each further step reads more.
    members : dict of Request to None
        The requests, in the order in which they joined.
    """

    def __init__(self, blocks: BlockCurve, reads: KVReadCurve) -> None:
        self.blocks = blocks
        self.reads = reads
        self.step = 0
        self.sequences = 0
        self.tokens = 0
        self.shared_slots = 0
        self.kv_bytes = 0
        self.kv_slope = 0
        self.members: dict[Request, None] = {}
        self.phases = Phases(blocks.block_size)
        self.pool_phases = [self.phases]
        self._finish: list[tuple[int, int, Request]] = []
        self._growing = blocks.growing
        self._slope = reads.slope_at(1)
        self._first_bytes = reads.bytes_at(1)

    # ---- membership -----------------------------------------------------------------------

    def join(self, request: Request) -> None:
        """Let a request that has just produced a token go on decoding."""
        step, computed, samples = self.step, request.computed_tokens, request.samples
        request.base = base = computed - step
        request.finish_step = finish = step + request.output_tokens - request.generated_tokens
        self.members[request] = None
        heappush(self._finish, (finish, request.row, request))
        self.sequences += samples
        self.tokens += computed * samples
        if samples > 1:
            self.shared_slots += self.shared_slots_of(request)
        slope, opens = self._slope, self._growing * samples
        self.kv_bytes += (self._first_bytes + slope * computed) * samples
        self.kv_slope += slope * samples
        phases = self.phases
        phases.opens += opens
        phases.counts[-base % phases.size] += opens

    def leave(self, request: Request) -> None:
        """Take a request out: its last token was produced, or it is preempted."""
        base, samples = request.base, request.samples
        request.computed_tokens = computed = base + self.step
        request.finish_step = None
        del self.members[request]
        self.sequences -= samples
        self.tokens -= computed * samples
        if samples > 1:
            self.shared_slots -= self.shared_slots_of(request)
        slope, opens = self._slope, self._growing * samples
        self.kv_bytes -= (self._first_bytes + slope * computed) * samples
        self.kv_slope -= slope * samples
        phases = self.phases
        phases.opens -= opens
        phases.counts[-base % phases.size] -= opens

    def cached_tokens(self, request: Request) -> int:
        """Cached tokens per sequence, of one of the members."""
        return request.base + self.step

    def slots_of(self, tokens: int) -> int:
        """Slots that one sequence of `tokens` cached tokens fills."""
        return tokens

    def shared_slots_of(self, request: Request) -> int:
        """Slots of the prompt's full blocks, for every sample but the first."""
        shared = self.blocks.shared_blocks_at(request.prompt_tokens) * self.blocks.slots_per_block
        return (request.samples - 1) * shared

    # ---- time -----------------------------------------------------------------------------

    def advance(self, steps: int) -> list[Request]:
        """Take `steps` decode steps; the caller has bounded them by every change.

        Returns
        -------
        list of Request
            Those whose last token has just been produced; they have left the batch.
        """
        self.step = step = self.step + steps
        self.tokens += steps * self.sequences
        self.kv_bytes += steps * self.kv_slope
        heap = self._finish
        done: list[Request] = []
        while heap and heap[0][0] <= step:
            finish, _, request = heappop(heap)
            if request.finish_step == finish:
                self.leave(request)
                done.append(request)
        return done

    def steps_to_change(self) -> int:
        """Steps until the next completion."""
        heap = self._finish
        while True:
            finish, _, request = heap[0]
            if request.finish_step == finish:
                return finish - self.step
            heappop(heap)

    # ---- blocks ---------------------------------------------------------------------------

    @property
    def opening(self) -> int:
        """New blocks of the first pool that the very next step takes."""
        return self.phases.counts[self.step % self.phases.size]

    def check(self) -> None:
        """State the laws: sums over the members equal the counters.

        Raises
        ------
        InvariantError
            When a counter has drifted.
        """
        for name, (counted, summed) in self._laws().items():
            if counted != summed:
                raise InvariantError(f"batch.{name} is {counted}, its members sum to {summed}")

    def _contexts(self) -> list[tuple[int, int]]:
        """Cached tokens and samples of every member."""
        return [(r.base + self.step, r.samples) for r in self.members]

    def _laws(self) -> dict[str, tuple[int, int]]:
        """What is counted, and what it must be."""
        contexts, reads = self._contexts(), self.reads
        opens = sum(n * self.blocks.groups_open_at(c) for c, n in contexts)
        return {
            "sequences": (self.sequences, sum(n for _, n in contexts)),
            "tokens": (self.tokens, sum(c * n for c, n in contexts)),
            "shared_slots": (self.shared_slots, sum(map(self.shared_slots_of, self.members))),
            "opens": (self.phases.opens, opens),
            "phases": (sum(self.phases.counts), opens),
            "kv_bytes": (self.kv_bytes, sum(n * reads.bytes_at(c + 1) for c, n in contexts)),
            "kv_slope": (self.kv_slope, sum(n * reads.slope_at(c + 1) for c, n in contexts)),
        }
