"""Numbered tasks, and who is at which: shared by the threads that have them done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kvsim.interrupts import released

__all__ = ["LOOK_SECONDS", "Board", "Job", "Look", "Work"]

LOOK_SECONDS = 0.1  # between two looks at what others are about

Look = Callable[[float, int, float], None]  # as `kvsim.simulator.replica.Watch`


class Job(NamedTuple):
    """What another process calls: a function of a module, and its arguments."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]


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


@dataclass
class Board:
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
                        self._changed.wait(LOOK_SECONDS)
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
