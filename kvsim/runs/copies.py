"""Numbered tasks, shared between this process and copies of it, a core each.

::

    this process   task 0 ──── task 2 ──── waits ── reads the answers ── does what is missing
    a copy         task 1 ──── task 3 ── ends

Who is free takes the next task. All that passes between them is files in a folder of their own:
the empty file 3 says that somebody has begun task 3, and 3.answer appears when it is done. There
is no lock, queue or thread to be left in a wrong state, so a copy may be killed at any moment. A
task without an answer is done here, in its turn, as if there had been no copies: one that failed
then raises its error here, the first in order, and one whose copy was killed is only done again.

A copy is forked: it boots nothing, and knows all that this process knows, such as policies that
were registered here. Forking is safe on Linux, beside no other thread; elsewhere there are none.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from kvsim.errors import InputError
from kvsim.interrupts import SIGNALS, blocked, released

__all__ = ["at_once", "gather"]

Answer = TypeVar("Answer")

# Fewer requests are simulated sooner than copies are made and ended.
_WORTH_REQUESTS = 5_000


def at_once(jobs: int | None, requests: int | None) -> int:
    """How many processes are to work, this one included.

    Parameters
    ----------
    jobs : int or None
        As asked; None is one a core, where that pays.
    requests : int or None
        Requests of all tasks together; None is not known, and taken for many.

    Raises
    ------
    InputError
        For a number of jobs below 1.
    """
    if jobs is None:
        return _cores() if requests is None or requests >= _WORTH_REQUESTS else 1
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"{jobs!r} is no number of processes", where="jobs", fix="give 1 or more")
    return jobs


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def gather(
    answers: dict[int, Answer],
    here: Callable[[int], Answer],
    there: Callable[[int], Answer],
    *,
    tasks: int,
    processes: int,
) -> None:
    """Do tasks by their numbers, counted from 0.

    Parameters
    ----------
    answers : dict of int to Answer
        Filled; after an interrupt it has what was finished before.
    here, there : callable
        Do a task in this process, and in a copy, which pickles its answer. Task 0 is done here.
    tasks : int
        How many there are.
    processes : int
        How many work at once, this one included.

    Raises
    ------
    KeyboardInterrupt
        When one came; no copy is left.
    Exception
        That of the first task that fails.
    """
    copies = min(processes, tasks) - 1
    if copies > 0 and sys.platform == "linux" and threading.active_count() == 1:
        with suppress(Exception):  # of a task: met again below; no folder, no fork: done without
            _share(answers, here, there, tasks, copies)
    for number in range(tasks):
        if number not in answers:
            answers[number] = here(number)


def _share(
    answers: dict[int, Answer],
    here: Callable[[int], Answer],
    there: Callable[[int], Answer],
    tasks: int,
    copies: int,
) -> None:
    """Do tasks here and in copies, until all are done or something goes wrong here."""
    fork = multiprocessing.get_context("fork")
    with TemporaryDirectory(prefix="kvsim-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        crew = [
            fork.Process(target=_work, args=(folder, there, tasks), daemon=True)
            for _ in range(copies)
        ]
        try:
            with blocked():  # a copy must not meet a signal as if it were this process
                for copy in crew:
                    copy.start()
            for number in _taken(folder, range(tasks)):
                answers[number] = here(number)
            with released():
                for copy in crew:
                    connection.wait([copy.sentinel])
        finally:
            with blocked():
                for copy in crew:
                    if copy.pid is not None:
                        copy.kill()
                        copy.join()
                answers.update(_finished(folder))


def _taken(folder: Path, numbers: range) -> Iterator[int]:
    """Take tasks that nobody has begun, until none is left or a copy failed."""
    for number in numbers:
        if (folder / "failed").exists():
            return
        with suppress(FileExistsError):
            (folder / str(number)).touch(exist_ok=False)
            yield number


def _finished(folder: Path) -> Iterator[tuple[int, Answer]]:
    """Answers of the copies."""
    for file in folder.glob("*.answer"):
        yield int(file.stem), pickle.loads(file.read_bytes())


# --- in a copy --------------------------------------------------------------------------------


def _work(folder: Path, there: Callable[[int], Answer], tasks: int) -> None:
    """Do tasks until none is left. Ctrl-C goes to all processes; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        for number in _taken(folder, range(1, tasks)):
            part = folder / f"{number}.part"
            part.write_bytes(pickle.dumps(there(number), pickle.HIGHEST_PROTOCOL))
            part.rename(folder / f"{number}.answer")
    except BaseException:  # said by the first process, which does the task again
        with suppress(OSError):
            (folder / "failed").touch()


def _end_with_parent(folder: Path) -> None:
    """Leave nothing behind when the first process was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
