"""When a decode changes something in its request's tables: a block opens, fills, or is left behind.

Between two such steps nothing happens to a request's blocks, so a run of steps visits these alone,
in the order of their steps and, within a step, of admission.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from kvsim.memory.growth import Growth
from kvsim.simulator.allocators.table import Table
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Turns"]


class Turns:
    """The next such step of every decoding request (``table.due``).

    Parameters
    ----------
    groups : sequence of Growth
        Whose tables these are.
    names : int
        Tokens of which blocks are named at once; 0: they are not.
    """

    def __init__(self, groups: Sequence[Growth], names: int) -> None:
        self._groups, self._names = set(groups), names
        self._cycles: list[tuple[int, int]] = []
        self._due: list[tuple[int, int, Request]] = []  # step, seat

    def add(self, request: Request, table: Table, step: int) -> None:
        """Note that something changes at a step."""
        table.due = step
        heappush(self._due, (step, request.seat, request))

    def add_next(
        self, request: Request, table: Table, done: int, step: int, late: int, unknown: int
    ) -> None:
        """Note the next change after a step at which `done` tokens are cached.

        Parameters
        ----------
        late, unknown : int
            Newest tokens that a step under way computes, and of which the content is not known.
        """
        if not self._cycles:
            self._cycles = list(self._work_cycles_out(late, unknown))
        ahead = 1 + min((turn - done - 1) % cycle for cycle, turn in self._cycles)
        if done == table.joined and late:
            ahead = 1  # the last chunk of its prompt is processed by then
        self.add(request, table, step + ahead)

    def _work_cycles_out(self, late: int, unknown: int) -> Iterator[tuple[int, int]]:
        """Cached tokens at which something changes, as remainders of a cycle of so many."""
        for growth in self._groups:
            size, window = growth.block_size, growth.window
            yield size, 0  # the next token opens a block
            if window is not None and window.is_chunk:
                yield window.tokens, late % window.tokens
            elif window is not None:
                yield size, (window.tokens - 1 + late) % size
        if self._names:
            yield self._names, (unknown - 1) % self._names  # the next token fills one

    def pop(self, batch: DecodeBatch, end: int) -> tuple[int, Request, Table] | None:
        """The first change before a step, taken out: its step, whose it is, and the table."""
        due = self._due
        while due and due[0][0] < end:
            at, _, request = heappop(due)
            table = _standing(request, at, batch)
            if table is not None:
                return at, request, table
        return None

    def now(self, batch: DecodeBatch) -> list[tuple[Request, Table]]:
        """Whose tables the very next step changes, in the order of admission."""
        entries = sorted(entry for entry in self._due if entry[0] == batch.step)
        found = [(request, _standing(request, at, batch)) for at, _, request in entries]
        return [(request, table) for request, table in found if table is not None]

    def steps_to_next(self, batch: DecodeBatch) -> int:
        """Steps before the next change, or 1 if it is the very next one; 0: there is none."""
        due = self._due
        while due:
            at, _, request = due[0]
            if _standing(request, at, batch) is not None:
                return max(1, at - batch.step)
            heappop(due)
        return 0


def _standing(request: Request, step: int, batch: DecodeBatch) -> Table | None:
    """The request's table, if it still is to change at this step."""
    table = request.blocks
    if isinstance(table, Table) and table.due == step and request in batch.members:
        return table
    return None
