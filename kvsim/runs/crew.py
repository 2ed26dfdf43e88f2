"""Processes that work beside this one, each on a core of its own.

::

    this process   starts ── task 0 ────── task 2 ────── task 4 ── waits ── answers in order
    another           boots ······ task 1 ────── task 3 ─────────┘
    another           boots ······ (task 5)                          what comes first, goes first

A process takes a task when it has nothing else to do, so one that is late takes none, and this
one never waits for another to boot. Each is a Python of its own that imports kvsim, not a copy of
this one: threads and locks here do not matter, a script needs no ``__main__`` guard, and what only
this process knows (`kvsim.register`) is run here, as is all that fails there: its error is then
raised here, as if nothing else had been tried.

Ctrl-C is this process's: the others ignore it and are ended with what they are about. They end by
themselves when this process is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias, Union

from kvsim.errors import InputError
from kvsim.runs.board import Board, Look, Work
from kvsim.runs.hand import Hand

__all__ = ["WORTH_REQUESTS", "Crew", "Jobs", "at_once", "cores", "crew_for", "gathered"]

# Fewer requests in all are simulated before another process is there to help: it boots in half a
# second of a core, in which this one simulates some 40,000.
WORTH_REQUESTS = 40_000

# How many processes, None for one a core; or those that were started before.
Jobs: TypeAlias = Union[int, "Crew", None]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def at_once(jobs: int | None, tasks: int, requests: int | None = None) -> int:
    """How many processes work on so many tasks, this one included.

    Parameters
    ----------
    jobs : int or None
        As asked; None is one a core, where that pays.
    tasks : int
        Pieces of work.
    requests : int or None
        Requests of all of them together; None is not known, and taken for many.

    Raises
    ------
    InputError
        For a number of jobs below 1.
    """
    if jobs is None:
        pays = requests is None or requests >= WORTH_REQUESTS
        return max(1, min(cores(), tasks)) if pays else 1
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs = {jobs!r} is no number of processes", fix="choose 1 or more")
    return max(1, min(jobs, tasks))


class Crew:
    """Other processes, ready or booting; as a context, they are ended when it is left."""

    def __init__(self, others: int) -> None:
        self.hands: list[Hand] = []
        for _ in range(others if _is_python(sys.executable) else 0):
            with suppress(OSError):  # no more processes here: fewer do as well
                self.hands.append(Hand())

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes with whatever they are about."""
        for hand in self.hands:
            hand.process.terminate()
        for hand in self.hands:
            hand.end()
        self.hands = []


def _is_python(executable: str | None) -> bool:
    """Whether it takes ``-c``: a program that embeds Python, or is frozen, is called otherwise."""
    return os.path.basename(executable or "").lower().startswith(("python", "pypy"))  # noqa: PTH119


@contextmanager
def crew_for(jobs: Jobs, tasks: int, requests: int | None = None) -> Iterator[Crew]:
    """Yield the crew given, or one of as many processes as `at_once` says."""
    if isinstance(jobs, Crew):
        yield jobs
        return
    with Crew(at_once(jobs, tasks, requests) - 1) as crew:
        yield crew


def gathered(crew: Crew, work: Work, watch: Look | None = None) -> bool:
    """Do tasks in the order of their numbers, here and in the crew's processes.

    Parameters
    ----------
    crew : Crew
        Who helps.
    work : Work
        What is done; it keeps the answers.
    watch : callable, optional
        Shown what the others are about while this process waits for them.

    Returns
    -------
    bool
        Whether all of it was done: False when an interrupt came before.

    Raises
    ------
    Exception
        That of the first task, by number, which fails here.
    """
    board = Board(work)
    try:
        number = board.mine(watch)
        for hand in crew.hands:  # the first task is this process's
            hand.begin(board, watches=watch is not None)
        while number is not None:
            try:
                answer = work.here(number)
                board.put(number, answer)
                if work.is_cut(answer):
                    raise KeyboardInterrupt
            except Exception as error:
                board.fail(number, error)
            number = board.mine(watch)
    except KeyboardInterrupt:
        board.close()
        crew.end()
        return False
    finally:
        board.close()
    if board.error is not None:
        raise board.error
    return True
