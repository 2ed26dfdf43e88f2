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

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Protocol, TypeAlias, Union

from kvsim.errors import InputError
from kvsim.interrupts import released

__all__ = [
    "WORTH_REQUESTS",
    "Crew",
    "Job",
    "Jobs",
    "Work",
    "at_once",
    "cores",
    "crew_for",
    "gathered",
]

# Fewer requests in all are simulated before another process is there to help: it boots in half a
# second of a core, in which this one simulates some 40,000.
WORTH_REQUESTS = 40_000
_LOOK_SECONDS = 0.1
_BOOT = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import {0}; {0}.serve()"
_LOADS = "kvsim.runs.replicate"  # by the time that it says that it is ready
_END_SECONDS = 2.0

Look = Callable[[float, int, float], None]  # as `kvsim.simulator.replica.Watch`


class Job(NamedTuple):
    """What another process calls: a function of a module, and its arguments."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]


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
        self.hands: list[_Hand] = []
        for _ in range(others if sys.executable else 0):
            with suppress(OSError):  # no more processes here: fewer do as well
                self.hands.append(_Hand())

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


@contextmanager
def crew_for(jobs: Jobs, tasks: int, requests: int | None = None) -> Iterator[Crew]:
    """Yield the crew given, or one of as many processes as `at_once` says."""
    if isinstance(jobs, Crew):
        yield jobs
        return
    with Crew(at_once(jobs, tasks, requests) - 1) as crew:
        yield crew


class Work(Protocol):
    """Numbered tasks, which can be done here or by another process."""

    @property
    def tasks(self) -> int:
        """How many there are."""

    def here(self, number: int) -> Any:
        """Do a task in this process; its answer."""

    def there(self, number: int) -> Job:
        """What another process calls for it; asked for as it is handed over."""

    def keep(self, number: int, answer: Any) -> None:
        """Take an answer, from here or there; called by one thread at a time."""

    def is_cut(self, answer: Any) -> bool:
        """Whether an interrupt cut an answer of `here`, which ends everything."""


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
    board = _Board(work)
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


@dataclass
class _Board:
    """Who does what: the numbers that nobody has begun, and those that others are at."""

    work: Work
    error: Exception | None = None
    seen: tuple[float, int, float] | None = None
    _failed: int = -1
    _next: int = 0
    _open: bool = True
    _refused: deque[int] = field(default_factory=deque)  # by others; done here
    _away: set[int] = field(default_factory=set)  # others are at them
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def mine(self, watch: Look | None) -> int | None:
        """A task for this process; None when all are done. Waits while others are at the last."""
        while True:
            with self._changed:
                number = self._begin(here=True)
                if number is not None or not self._away:
                    return number
            with released():
                with self._changed:
                    if self._away and not self._refused:
                        self._changed.wait(_LOOK_SECONDS)
                if watch is not None and self.seen is not None:
                    watch(*self.seen)

    def theirs(self) -> int | None:
        """A task for another process; None when none is left."""
        with self._changed:
            return self._begin(here=False) if self._open else None

    def _begin(self, *, here: bool) -> int | None:
        """The lowest number that is not begun, or that others gave back."""
        while here and self._refused:
            number = self._refused.popleft()
            if self._counts(number):
                return number
        if self._next >= self.work.tasks or not self._counts(self._next):
            return None
        number, self._next = self._next, self._next + 1
        if not here:
            self._away.add(number)
        return number

    def _counts(self, number: int) -> bool:
        """Whether an answer to it can matter: not behind a task that failed."""
        return self.error is None or number < self._failed

    def put(self, number: int, answer: Any) -> None:
        """Take an answer."""
        with self._changed:
            self._away.discard(number)
            if self._open:
                self.work.keep(number, answer)
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        """Another process could not do it."""
        with self._changed:
            self._away.discard(number)
            self._refused.append(number)
            self._changed.notify_all()

    def fail(self, number: int, error: Exception) -> None:
        """Remember the error of the lowest number: what is behind it need not be done."""
        with self._changed:
            if self._counts(number):
                self._failed, self.error = number, error
            self._away = {each for each in self._away if each < self._failed}

    def close(self) -> None:
        """Hand out nothing and take nothing any more."""
        with self._changed:
            self._open = False


class _Hand:
    """Another process, and the thread here that talks to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(__name__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what goes wrong there is done, and said, here
        )
        self._thread: threading.Thread | None = None
        self._is_ready = False
        self._send(sys.path)
        self._send(_LOADS)

    def begin(self, board: _Board, *, watches: bool) -> None:
        """Work on the tasks of a board."""
        if self._thread is not None:
            self._thread.join()
        self._thread = threading.Thread(target=self._work, args=(board, watches), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for what was told to end; nothing is left of it."""
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._thread is not None:
            self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not sent yet has nobody to go to
                    stream.close()

    def _work(self, board: _Board, watches: bool) -> None:
        try:
            if not self._is_ready:
                self._is_ready = bool(self._receive())
        except Exception:  # it did not come up
            return
        while (number := board.theirs()) is not None:
            try:
                self._send((board.work.there(number), watches))
                while (said := self._receive())[0] == "seen":
                    board.seen = said[1]
            except Exception:  # it is gone, or cannot be told: a pickle may raise anything
                board.give_back(number)
                self.process.kill()
                return
            if said[0] == "done":
                board.put(number, said[1])
            else:
                board.give_back(number)

    def _send(self, message: Any) -> None:
        stream = self.process.stdin
        if stream is not None:
            with suppress(BrokenPipeError):  # seen as an end when it is read from
                stream.write(pickle.dumps(message))
                stream.flush()

    def _receive(self) -> Any:
        stream = self.process.stdout
        return None if stream is None else pickle.load(stream)


# --- in the other process --------------------------------------------------------------------


def serve() -> None:
    """Do what is asked on stdin and answer on stdout, until there is nobody to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; only one decides
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a policy prints is no answer
    importlib.import_module(pickle.load(asked))
    _say(answers, "ready", None)
    while True:
        try:
            job, watches = pickle.load(asked)
        except EOFError:
            return
        except Exception:  # of what only the asking process knows
            _say(answers, "failed", None)
            continue
        try:
            answer = job.work(*job.arguments, watch=_teller(answers) if watches else None)
        except (Exception, KeyboardInterrupt):
            _say(answers, "failed", None)
        else:
            _say(answers, "done", answer)


def _say(answers: IO[bytes], kind: str, content: Any) -> None:
    try:
        answers.write(pickle.dumps((kind, content), protocol=pickle.HIGHEST_PROTOCOL))
        answers.flush()
    except BrokenPipeError:  # nobody waits for it any more
        os._exit(0)


def _teller(answers: IO[bytes]) -> Look:
    """A watch that tells the asking process now and then."""
    next_seconds = 0.0

    def watch(clock: float, requests: int, usage: float) -> None:
        nonlocal next_seconds
        if time.monotonic() >= next_seconds:
            next_seconds = time.monotonic() + _LOOK_SECONDS
            _say(answers, "seen", (clock, requests, usage))

    return watch
