"""Workers on this machine: processes that do one run after another.

::

    this process   task ▶ pipe of a worker ▶ outcome ▶ yielded, the next task
    a worker       boots, says that it is ready, and does what comes through its pipe

Each worker has a pipe of its own, so that the end of one is seen at once, is known to be its run's,
and disturbs no other: it is replaced and its run done again. They are booted anew (spawn), which
works everywhere and beside threads. A worker ignores Ctrl-C, which is this process's to handle, and
ends itself when this process is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from kvsim.interrupts import SIGNALS, blocked, released
from kvsim.search.sweep.task import DEATHS, Outcome, StoppedError, Task, died, run

__all__ = ["Pool"]

_TICK_SECONDS = 0.5
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A process, this end of its pipe, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    is_ready: bool = False
    task: Task | None = None


class Pool:
    """Processes of this machine.

    Parameters
    ----------
    processes : int
        How many work at once.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._crew: list[_Worker] = []
        self._again: deque[Task] = deque()
        self._deaths: Counter[str] = Counter()
        self._stillborn = 0

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[list[Outcome]]:
        """Yield what came of the tasks as they end; an empty list now and then meanwhile.

        Raises
        ------
        StoppedError
            When no worker starts, or one lacks what a run needs.
        KeyboardInterrupt
            When one came; no worker is left.
        """
        try:
            while self._hand_out(tasks):
                ends = {worker.pipe: worker for worker in self._crew if worker.task}
                with released():
                    ready = connection.wait(list(ends), timeout=_TICK_SECONDS)
                heard = [self._heard(ends[pipe]) for pipe in ready if isinstance(pipe, Connection)]
                self._hand_out(tasks)  # nobody waits while outcomes are written
                yield [outcome for outcome in heard if outcome is not None]
        finally:
            self._end()

    def _hand_out(self, tasks: Iterator[Task]) -> bool:
        """Give each worker that is free a task; whether any is at work."""
        idle = deque(worker for worker in self._crew if worker.task is None)
        while idle or len(self._crew) < self.processes:
            task = self._again.popleft() if self._again else next(tasks, None)
            if task is None:
                break
            worker = idle.popleft() if idle else self._start()
            worker.task = task
            with suppress(OSError):  # it has died: heard of in its turn
                worker.pipe.send(task)
        return any(worker.task for worker in self._crew)

    def _start(self) -> _Worker:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(there,), daemon=True)
        resource_tracker.ensure_running()  # as it starts, it lets signals through
        with blocked():  # a worker must not meet a signal as if it were this process
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._crew.append(worker)
        return worker

    def _heard(self, worker: _Worker) -> Outcome | None:
        """Take what a worker says: an outcome, that it is ready, or nothing any more."""
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(worker)
        if said is None:
            worker.is_ready, self._stillborn = True, 0
            return None
        if said.unfit:
            raise StoppedError(f"a run cannot be done here: {said.unfit}")
        worker.task = None
        return said if isinstance(said, Outcome) else None

    def _lost(self, worker: _Worker) -> Outcome | None:
        """Have the run of a worker that has died done again, by another."""
        self._crew.remove(worker)
        _kill(worker)
        task = worker.task
        if task is None:
            return None
        if not worker.is_ready:
            self._stillborn += 1
            if self._stillborn >= DEATHS:
                raise StoppedError(
                    "worker processes end before they begin; a script is a file that calls"
                    " kvsim.sweep below `if __name__ == '__main__':`"
                )
        else:
            self._deaths[task.key] += 1
            if self._deaths[task.key] >= DEATHS:
                return died(task.key)
        self._again.append(task)
        return None

    def _end(self) -> None:
        with blocked():
            for worker in self._crew:
                _kill(worker)
            self._crew.clear()


def _kill(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.pipe.close()


# --- in a worker ------------------------------------------------------------------------------


def _work(pipe: Connection) -> None:
    """Do runs until nobody asks for more. Ctrl-C goes to all processes; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # whoever asked is gone
        pipe.send(None)
        while True:
            pipe.send(run(pipe.recv()))


def _end_with_parent() -> None:
    """Leave no run behind that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
