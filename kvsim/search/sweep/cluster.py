"""Workers on other machines: a Dask cluster that somebody has started.

::

    this process   a few batches ahead ▶ scheduler ▶ worker, one batch after another
                   ledger ◀───────────── outcomes ◀──┘

No more batches are under way than keep the workers busy, so a sweep of 10^6 runs needs no 10^6
futures. Short runs go in batches that take a moment together. Dask does again what a worker that
died had under way; what it gives up is tried alone, because it counts a death against all that the
worker had been handed. The files that runs read lie at the same path on every worker; models and
accelerators travel with the tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from kvsim.interrupts import released
from kvsim.search.sweep.connection import Connection, said_apart
from kvsim.search.sweep.task import Outcome, StoppedError, Task, died

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["Cluster"]

_TICK_SECONDS = 0.5
_COUNTED_SECONDS = 2.0  # from one count of the workers to the next
_ALONE_SECONDS = 60.0  # without any worker, before nobody waits any more
_BATCH_SECONDS = 0.1  # of runs in a batch: beside it, what passing it costs is little
_LARGEST_BATCH = 64
_AHEAD = 3  # batches under way for each thread of the cluster


class Cluster:
    """A Dask cluster, for one sweep.

    Parameters
    ----------
    address : str
        Its scheduler's, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    MissingExtraError
        Without the package distributed.
    InputError
        When no scheduler or no worker answers in time, or versions differ from those here.
    """

    def __init__(self, address: str) -> None:
        self._connection = Connection(address)
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._under_way: dict[Any, list[Task]] = {}
        self._suspects: deque[Task] = deque()
        self._run_seconds = _BATCH_SECONDS
        self._threads, self._counted, self._met = 1, -_COUNTED_SECONDS, monotonic()

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[list[Outcome]]:
        """Yield what came of the tasks as batches end; an empty list now and then meanwhile.

        Raises
        ------
        StoppedError
            When the scheduler or all workers are gone, or one lacks what a run needs.
        KeyboardInterrupt
            When one came; what was under way is given up.
        """
        try:
            while self._hand_out(tasks):
                yield self._heard()
        finally:
            self._connection.close()

    def _hand_out(self, tasks: Iterator[Task]) -> bool:
        """Put batches under way until there are enough; whether any is."""
        self._count_workers()
        if self._suspects:
            if not self._under_way:
                self._submit([self._suspects[0]])
            return True
        while len(self._under_way) < _AHEAD * self._threads:
            size = int(_BATCH_SECONDS / self._run_seconds)
            batch = list(islice(tasks, max(1, min(size, _LARGEST_BATCH))))
            if not batch:
                break
            self._submit(batch)
        return bool(self._under_way)

    def _submit(self, batch: list[Task]) -> None:
        future = self._connection.submit(batch)
        self._under_way[future.key] = batch
        future.add_done_callback(self._ended.put)

    def _count_workers(self) -> None:
        """Follow a cluster that grows and shrinks; give up one that stays empty."""
        now = monotonic()
        if now - self._counted < _COUNTED_SECONDS:
            return
        self._counted, self._threads = now, self._connection.threads()
        if self._threads:
            self._met = now
        elif now - self._met > _ALONE_SECONDS:
            raise StoppedError(f"no worker is left at {self._connection.address}")

    def _heard(self) -> list[Outcome]:
        """Take what came of the next batch that ends, if one does soon."""
        try:
            with released():
                future = self._ended.get(timeout=_TICK_SECONDS)
        except Empty:
            return []
        batch = self._under_way.pop(future.key)
        answer = self._connection.answer(future)
        if answer is None:
            return self._given_up(batch)
        if differs := said_apart(answer.versions):
            raise StoppedError(f"a worker at {self._connection.address} {differs}")
        unfit = next((found.unfit for found in answer.outcomes if found.unfit), "")
        if unfit:
            raise StoppedError(f"a worker at {self._connection.address} cannot do a run: {unfit}")
        if self._suspects and batch[0] is self._suspects[0]:
            self._suspects.popleft()
        self._run_seconds = max(answer.seconds / len(batch), 1e-6)
        return answer.outcomes

    def _given_up(self, batch: list[Task]) -> list[Outcome]:
        """Try alone what workers died with; one that was alone is the cause."""
        if self._suspects and batch[0] is self._suspects[0]:
            return [died(self._suspects.popleft().key)]
        self._suspects += batch
        return []
