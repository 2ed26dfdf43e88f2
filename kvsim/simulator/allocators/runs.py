"""Prefix caching in vLLM's order, at the cost of the runs of blocks that a request touches.

Identities of neighbouring blocks mostly follow one another (a system prompt, a turn, an answer),
and such blocks are named, found, held, freed and evicted together. A run is split where a holder
needs a part of it::

    request A   [ 3:0 ........ 3:127 ][ A:128 .. A:140 ]
    request B   [ 3:0 ........ 3:127 ][ B:128 .. B:131 ]

The runs themselves, held and idle, are in `kvsim.simulator.allocators.run_pool`. The rules are
those of ``vllm/v1/core/block_pool.py`` and ``single_type_kv_cache_manager.py``:

- blocks get their identity when the step that fills them is scheduled (``cache_blocks``);
- a second block with a known identity keeps it, and takes over when the first is evicted
  (``BlockHashToBlockMap``);
- a request frees its tail first; named blocks go to the end of the free queue, nameless ones to
  its front, or, before release 0.23, to its end as well (``free_blocks``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Holding
from kvsim.simulator.allocators.prefix import hybrid_error
from kvsim.simulator.allocators.run_pool import Run, RunPool
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request
from kvsim.workload.content import Segments

__all__ = ["PrefixRuns"]


class Note:
    """What a request holds (``request.blocks``).

    Attributes
    ----------
    named : int
        Its leading blocks that have an identity; all others are its own, and nameless.
    tail : Run or None
        The run that it named last, which grows as long as nobody else holds it.
    copies : dict of int to Run
        By the number of a block, the run of that one block, where another block had its identity
        before it.
    beside : int or None
        First identity of the run that held those of the last of them.
    """

    __slots__ = ("beside", "copies", "named", "tail")

    def __init__(self) -> None:
        self.named = 0
        self.tail: Run | None = None
        self.copies: dict[int, Run] = {}
        self.beside: int | None = None


class PrefixRuns(RunPool):
    """Automatic prefix caching, least recently used first.

    Parameters
    ----------
    total_blocks : int
        Size of the pool.
    curve : BlockCurve
        Blocks of one sequence; must be that of a plain model.
    nameless_first : bool
        Whether freed blocks without identity are used again before all others.

    Raises
    ------
    InputError
        For a hybrid model, whose groups keep different parts of a prefix.
    """

    shares_prefixes = running_first = True

    def __init__(
        self, total_blocks: int, curve: BlockCurve, *, nameless_first: bool = True
    ) -> None:
        if curve != BlockCurve(curve.block_size):
            raise hybrid_error()
        super().__init__(total_blocks, curve, nameless_first=nameless_first)
        # decoding requests, whose blocks are named when somebody asks: by the first identity of
        # what they write, where all come by who write or read the same
        self._growing: dict[int, list[Request]] = {}

    # ---- a request's life -----------------------------------------------------------------

    def cached_tokens(self, request: Request) -> int:
        """Tokens that a lookup finds."""
        found, _ = self._find(request)
        return sum(count for _, count in found) * self._size

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Look the prompt up; touch its hits and allocate blocks for the first new chunk."""
        found, idle = self._find(request)
        hits = 0
        for _, count in found:
            hits += count
        size, target = self._size, request.prefill_tokens
        cached = hits * size
        end = cached + chunk_tokens
        if end > target:
            end = target
        new = self.blocks_of(request, end) - hits
        need = new if end == target or not whole else self.blocks_of(request, target) - hits
        if need + idle + spare_blocks > self.free_blocks:
            return None
        note = request.blocks = Note()
        note.named = hits
        for run, count in found:
            self._touch(run, count)
        self._allocate_new(new)
        self._name(request, note, end // size, is_last=True)
        if end == target:
            self._let_grow(request)
        return cached

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Allocate the blocks of a further chunk and name those that it fills."""
        computed = request.computed_tokens
        need = self.blocks_of(request, tokens)
        need -= self.blocks_of(request, computed) if computed else 0
        if need + spare_blocks > self.free_blocks:
            return False
        if not computed:
            request.blocks = Note()
        self._allocate_new(need)
        note = _note(request)
        target = request.prefill_tokens
        if tokens <= target or not computed:  # a decode's are named when somebody asks
            turn, self.turn = self.turn, request.seat + 1
            self._name(request, note, tokens // self._size)
            self.turn = turn
            if tokens >= target:
                self._let_grow(request)
        return True

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Allocate the blocks that open during the run."""
        if opening:
            self._allocate_new(opening)

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free the tail first, so that a prefix outlives what was built on it."""
        note = _note(request)
        tokens = request.computed_tokens + planned_tokens
        held = self.blocks_of(request, tokens) if tokens else 0
        self._stop_growing(request)
        if not (preempted or self.unknown_tokens):
            self.turn = 0  # it ended before the step to come
        self._name(request, note, (tokens - self.unknown_tokens) // self._size)
        if not preempted:
            self.turn = inf
            if self.unknown_tokens:  # its newest token is known once all have had their turn
                self._name(request, note, tokens // self._size, is_last=True)
        nameless = held - note.named
        if nameless:
            self._let_go(nameless)
        runs = self._runs(request, note)
        runs.reverse()
        idle = self._idle
        for run in runs:
            count = run.stop - run.first
            if run.refs == 1:
                run.refs = 0
                idle[run] = None
                self.cached_blocks += count
                self.free_blocks += count
            else:
                run.refs -= 1
                self.further_refs -= count
        request.blocks = None

    # ---- what is known --------------------------------------------------------------------

    def _find(self, request: Request) -> tuple[list[tuple[Run, int]], int]:
        """Runs that a prompt begins with, how much of each, and how many blocks are idle.

        The last token is always computed, so a prompt is never found whole
        (``KVCacheManager.get_computed_blocks``).
        """
        index, growing = self._index, self._growing
        limit = (request.prefill_tokens - 1) // self._size
        found: list[tuple[Run, int]] = []
        idle = at = 0
        segments = request.segments or self._segments(request)
        last = len(segments) - 1
        for number, (start, first) in enumerate(segments):
            end = segments[number + 1][0] if number < last else limit
            if end > limit:
                end = limit
            shift = first - start
            while at < end:
                run = index.get(at + shift)
                if run is None:
                    if first in growing and self._name_grown(first):
                        return self._find(request)  # maybe a run found before is longer now
                    return found, idle
                count = run.stop - run.first
                if count > end - at:
                    count = end - at
                found.append((run, count))
                if not run.refs:
                    idle += count
                at += count
            if at >= limit:
                break
        return found, idle

    def steps_to_more(self, request: Request) -> int:
        """Steps until somebody who decodes may have filled a block that the prompt begins with."""
        size, steps = self._size, 0
        for _, first in request.segments or ():
            for other in self._growing.get(first, ()):
                left = size - self._known_tokens(other) % size
                steps = min(steps or left, left)
        return steps

    def _segments(self, request: Request) -> Segments:
        """Where a request's identities begin anew; worked out once."""
        request.segments = segments = request.identities(self._size)
        return segments

    def _runs(self, request: Request, note: Note) -> list[Run]:
        """Runs that a request holds, in the order of its tokens."""
        index, copies, named = self._index, note.copies, note.named
        runs: list[Run] = []
        at = 0
        segments = request.segments or self._segments(request)
        last = len(segments) - 1
        for number, (start, first) in enumerate(segments):
            end = min(segments[number + 1][0], named) if number < last else named
            while at < end:
                run = copies.get(at) or index[at + first - start]
                runs.append(run)
                at += run.stop - run.first
        return runs

    # ---- names ----------------------------------------------------------------------------

    def _name(self, request: Request, note: Note, upto: int, *, is_last: bool = False) -> None:
        """Give the blocks before number `upto` their identities.

        Who is admitted comes last: all that run have had their turn in this step.
        """
        at = note.named
        if at >= upto:
            return
        segments = request.segments or self._segments(request)
        index, growing = self._index, self._growing
        number = len(segments) - 1
        while segments[number][0] > at:
            number -= 1
        while at < upto:
            start, first = segments[number]
            number += 1
            end = min(segments[number][0], upto) if number < len(segments) else upto
            if first in growing:
                self._name_grown(first, ahead_of=None if is_last else request)
            while at < end:
                known = at + first - start
                run = index.get(known)
                if run is None and note.beside is not None:
                    run = self._beside(note, known)
                if run is not None:
                    at += self._copy(note, run, known, at, end)
                    continue
                tail = note.tail
                if tail is not None and tail.stop == known and tail.refs == 1:
                    tail.stop += end - at
                else:
                    note.tail = index[known] = Run(known, known + end - at)
                at = end
        note.named = upto

    def _beside(self, note: Note, known: int) -> Run | None:
        """The run of which a request copied blocks before, if it goes on with an identity."""
        index, first = self._index, note.beside
        run = None if first is None or first > known else index.get(first)
        while run is not None and run.stop <= known:
            run = index.get(run.stop)  # it was split
        return run

    def _copy(self, note: Note, run: Run, known: int, at: int, end: int) -> int:
        """Note second blocks of known identities, one by one; return how many."""
        count = min(end - at, run.stop - known)
        for more in range(count):
            copy = Run(known + more, known + more + 1)
            self._copies.setdefault(known + more, []).append(copy)
            note.copies[at + more] = copy
        note.beside, note.tail = run.first, None
        return count

    def _let_grow(self, request: Request) -> None:
        """Remember that a request goes on to write blocks, to be named when asked for."""
        if request.content is not None and request.segments is not None:
            self._growing.setdefault(request.segments[-1][1], []).append(request)

    def _stop_growing(self, request: Request) -> None:
        """Forget it, if it was so far."""
        if request.content is None or request.segments is None:
            return
        first = request.segments[-1][1]
        others = self._growing.get(first)
        if others is None or request not in others:
            return
        others.remove(request)
        if not others:
            del self._growing[first]

    def _name_grown(self, first: int, ahead_of: Request | None = None) -> bool:
        """Name what decoding requests have filled of the blocks from an identity on.

        Who filled a block first comes first.

        Parameters
        ----------
        first : int
            First identity of what they write.
        ahead_of : Request, optional
            Name those alone who were ahead of it, and what they had filled before it.

        Returns
        -------
        bool
            Whether there was anything to name.
        """
        others = self._growing[first]
        ahead = sorted(others, key=self._place) if len(others) > 1 else list(others)
        if ahead_of is not None:
            place = self._place(ahead_of)
            ahead = [each for each in ahead if self._place(each) < place]
        named = False
        for request in ahead:
            known = self._known_tokens(request)
            note, upto = _note(request), known // self._size
            if upto > note.named:
                others.remove(request)  # or it would be asked for itself
                if not others:
                    del self._growing[first]
                self._name(request, note, upto)
                self._let_grow(request)
                others = self._growing[first]
                named = True
        return named

    def _place(self, request: Request) -> tuple[int, int]:
        """Order of those who write the same: the most tokens before this step, the first seat."""
        batch = self.batch
        decodes = batch is not None and request in batch.members
        tokens = batch.cached_tokens(request) if batch and decodes else request.computed_tokens
        return -tokens, request.seat

    def _known_tokens(self, request: Request) -> int:
        """Tokens that a request has in its blocks, and that are known.

        Those of this step are among them, unless its turn comes later in it.
        """
        batch = self.batch
        if batch is None or request not in batch.members:  # it has ended, or sits this step out
            return request.computed_tokens - self.unknown_tokens
        planned = self.planned_tokens if request.seat < self.turn else 0
        return batch.cached_tokens(request) + planned - self.unknown_tokens

    # ---- what is seen from outside --------------------------------------------------------

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """What each request holds alone: all of its blocks but the shared ones."""
        holdings = []
        for request, tokens in live:
            runs = self._runs(request, _note(request))
            shared = sum(run.stop - run.first for run in runs if run.refs > 1)
            holdings.append(Holding(request.row, self.blocks_of(request, tokens) - shared))
        return holdings

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State ``held + idle = total``, and that references are counted and runs disjoint."""
        holders: Counter[Run] = Counter()
        nameless = 0
        for request, tokens in live:
            note = _note(request)
            holders.update(self._runs(request, note))
            nameless += self.blocks_of(request, tokens) - note.named
        self._check_runs(holders, nameless)


def _note(request: Request) -> Note:
    """The request's note, made on first use."""
    note = request.blocks
    if not isinstance(note, Note):
        note = request.blocks = Note()
    return note
