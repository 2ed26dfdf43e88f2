"""Ctrl-C and SIGTERM: they end what is going on, and never lose what is finished.

A command runs inside `stopping`. The first signal raises ``KeyboardInterrupt`` where the program
is, unless that is inside `held`, where finished work is judged and written: there it waits until
`held` is left, or until `released` begins something new. It is raised once; later ones are
only counted, because what comes after the first is the writing of what was finished.

::

    stopping ─────────────────────────────────────────────────────────────────────
              held ────────────────────────────────────────────────────────────
                    released ── signal: raised     judge, write ── signal: waits

Outside `stopping` (a notebook, a thread, the dashboard) all three do nothing, and Python's own
rules hold.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGNALS", "Stop", "blocked", "held", "released", "stopping"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What came while a command ran.

    Parameters
    ----------
    again : callable
        Called, without arguments, for the first signal that comes after one was raised.

    Attributes
    ----------
    signal : int or None
        Number of the first signal.
    was_raised : bool
        Whether it has cut something.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self.signal: int | None = None
        self._again = again
        self.was_raised = self._is_held = self._was_told = False

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended: 130 or 143; 0 without one."""
        return 128 + self.signal if self.signal else 0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        self.signal = self.signal or number
        if self.was_raised and not self._was_told:
            self._was_told = True
            self._again()
        self.deliver()

    def deliver(self) -> None:
        """Raise the signal that came, once, unless it is held."""
        if self.signal and not self._is_held and not self.was_raised:
            self.was_raised = True
            raise KeyboardInterrupt

    @contextmanager
    def holding(self, is_held: bool) -> Iterator[None]:
        """Hold signals, or let them through, for a while."""
        before, self._is_held = self._is_held, is_held
        try:
            self.deliver()
            yield
        finally:
            self._is_held = before
        self.deliver()


_stop: Stop | None = None


@contextmanager
def stopping(again: Callable[[], None]) -> Iterator[Stop]:
    """Take Ctrl-C and SIGTERM for a command; see the module and `Stop`.

    In a thread other than the main one signals do not arrive, and nothing changes.
    """
    global _stop
    stop = Stop(again)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    outer, _stop = _stop, stop
    handlers = {number: signal.signal(number, stop.handle) for number in SIGNALS if _taken(number)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _stop = outer


def _taken(number: int) -> bool:
    """Whether a signal ends this process now: not under nohup, nor where C code handles it."""
    return signal.getsignal(number) not in (signal.SIG_IGN, None)


@contextmanager
def held() -> Iterator[None]:
    """Let what is finished be judged or written: a signal waits until the end.

    Raises
    ------
    KeyboardInterrupt
        At the end, when a signal came and nothing around holds it too.
    """
    if _stop is None:
        yield
        return
    with _stop.holding(True):
        yield


@contextmanager
def released() -> Iterator[None]:
    """Let signals through again inside `held`, for what may be cut.

    What Python makes of an interrupt on its way, such as a RuntimeError of one that comes while
    it makes a class (3.11), is an interrupt again.

    Raises
    ------
    KeyboardInterrupt
        When a signal came, also before.
    """
    if _stop is None:
        yield
        return
    before = _stop.was_raised
    try:
        with _stop.holding(False):
            yield
    except Exception:
        if _stop.was_raised == before:
            raise
        raise KeyboardInterrupt from None


@contextmanager
def blocked() -> Iterator[None]:
    """Keep signals out of this thread, and of what it starts meanwhile, whatever handles them.

    Raises
    ------
    KeyboardInterrupt
        At the end, when a signal came and nothing around holds it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
