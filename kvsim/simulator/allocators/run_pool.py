"""Runs of blocks with neighbouring identities: which are held, which are idle, which go first.

::

    index   first identity -> run      [ 3:0 ........ 3:127 ][ A:128 .. A:140 ]
    copies  identity -> runs of one block, which take over when the first is evicted
    idle    oldest run first           evicted from its end: [ A:128 .. A:137 ] is left
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Slots
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.request import Request

__all__ = ["Run", "RunPool"]


class Run:
    """Neighbouring blocks that are held by the same requests.

    Attributes
    ----------
    first, stop : int
        Their identities are ``range(first, stop)``.
    refs : int
        Requests that hold them; 0: they are idle.
    is_named : bool
        False for idle blocks without identity; `first` and `stop` only count them then.
    """

    __slots__ = ("first", "is_named", "refs", "stop")

    def __init__(self, first: int, stop: int, refs: int = 1, is_named: bool = True) -> None:
        self.first, self.stop, self.refs, self.is_named = first, stop, refs, is_named

    def __repr__(self) -> str:
        return f"Run({self.first}..{self.stop - 1}, {self.refs} refs)"


class RunPool(Paged):
    """A pool of which idle blocks keep what they hold, in runs, until they are needed.

    Parameters
    ----------
    total_blocks : int
        Size of the pool.
    curve : BlockCurve
        Blocks of one sequence.
    nameless_first : bool
        Whether freed blocks without identity are used again before all others.
    """

    def __init__(self, total_blocks: int, curve: BlockCurve, *, nameless_first: bool) -> None:
        super().__init__(total_blocks, curve)
        self._nameless_first = nameless_first
        self._front = total_blocks  # nameless idle blocks before all that is in:
        self._idle: OrderedDict[Run, None] = OrderedDict()
        self.cached_blocks = self.further_refs = 0
        self._index: dict[int, Run] = {}
        self._copies: dict[int, list[Run]] = {}

    def _touch(self, run: Run, count: int) -> None:
        """Hold the first blocks of a run once more, reviving them if they were idle."""
        was_idle = not run.refs
        if count < run.stop - run.first:
            head = Run(run.first, run.first + count, run.refs)
            run.first += count  # the rest keeps its place among the idle
            self._index[head.first], self._index[run.first] = head, run
            run = head
        elif was_idle:
            del self._idle[run]
        run.refs += 1
        if was_idle:
            self.cached_blocks -= count
            self.free_blocks -= count
        else:
            self.further_refs += count

    def _allocate_new(self, count: int) -> None:
        """Allocate blocks in order of eviction; what they held is forgotten."""
        self.free_blocks -= count
        if count <= self._front:
            self._front -= count
            return
        count -= self._front
        self._front = 0
        idle = self._idle
        while count:
            run = next(iter(idle))
            first, stop = run.first, run.stop
            taken = stop - first
            if taken > count:
                taken = count
                first = run.stop = stop - count
            else:
                del idle[run]
            count -= taken
            if run.is_named:
                self.evictions += taken
                self.cached_blocks -= taken
                if first == run.first or self._copies:
                    self._forget(run, first, stop)

    def _forget(self, run: Run, first: int, stop: int) -> None:
        """Drop the last identities of a run, ``range(first, stop)``; copies of them take over."""
        index, copies = self._index, self._copies
        if first == run.first:
            if index.get(first) is not run:  # a copy, of one block
                _remove(copies, first, run)
                return
            del index[first]
        if copies:
            for known in range(first, stop):
                if known in copies:
                    index[known] = copies[known][0]
                    _remove(copies, known, copies[known][0])

    def _let_go(self, count: int) -> None:
        """Put nameless blocks among the idle, those that were freed with them after them."""
        self.free_blocks += count
        if self._nameless_first or not self._idle:
            self._front += count
        else:
            self._idle[Run(0, count, 0, is_named=False)] = None

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Slots of idle prefixes, and of those that several requests begin with."""
        size = self._size
        return Slots(cached=self.cached_blocks * size, shared=self.further_refs * size)

    @property
    def shared_blocks(self) -> int:
        """Blocks with two or more references."""
        return sum(run.stop - run.first for run in self._all() if run.refs > 1)

    def _all(self) -> Iterator[Run]:
        """Every run with an identity."""
        yield from self._index.values()
        for others in self._copies.values():
            yield from others

    def _check_runs(self, holders: Counter[Run], nameless: int) -> None:
        """State ``held + idle = total``, and that references are counted and runs disjoint."""
        held = {run: run.refs for run in self._all() if run.refs}
        if holders != Counter(held):
            raise InvariantError("references to shared blocks are miscounted")
        more = sum((refs - 1) * (run.stop - run.first) for run, refs in held.items())
        if more != self.further_refs:
            raise InvariantError(f"{self.further_refs} further references, but {more} are counted")
        blocks = sum(run.stop - run.first for run in held)
        queued = self._front + sum(run.stop - run.first for run in self._idle)
        if queued != self.free_blocks:
            raise InvariantError(f"{queued} idle blocks, but {self.free_blocks} free")
        if blocks + nameless + self.free_blocks != self.total_blocks:
            raise InvariantError(
                f"{blocks} named + {nameless} nameless + {self.free_blocks} free blocks"
                f" != {self.total_blocks}"
            )
        idle = {run for run in self._all() if not run.refs}
        if idle != {run for run in self._idle if run.is_named}:
            raise InvariantError("an idle run is lost, or is in the queue while it is held")
        if self.cached_blocks != sum(run.stop - run.first for run in idle):
            raise InvariantError("idle blocks with an identity are miscounted")
        ends = sorted((run.first, run.stop) for run in self._index.values())
        if any(stop > first for (_, stop), (first, _) in pairwise(ends)):
            raise InvariantError("two runs claim the same identity")


def _remove(copies: dict[int, list[Run]], known: int, run: Run) -> None:
    """Take a run out of the copies of an identity."""
    others = copies[known]
    others.remove(run)
    if not others:
        del copies[known]
