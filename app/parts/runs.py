"""Simulations on a thread of their own: watched, stopped, limited, remembered.

A page asks for an answer by its identity (everything that it depends on, as text). What takes
longer than a moment shows its progress and a stop button; what was finished before a stop is
shown. A run that depends only on what kvsim ships is remembered for everybody, one on a file
that somebody brought for that visitor alone.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from app.parts.trouble import say
from app.parts.words import plain
from kvsim import KVSimError

__all__ = ["MOST_REQUESTS", "MOST_SECONDS", "Run", "Task", "answer_of", "say_again", "start"]

MOST_REQUESTS = 200_000
MOST_SECONDS = 60.0
MOST_AT_ONCE = 2
REMEMBERED = 8
MOST_REMEMBERED_REQUESTS = 50_000
PATIENCE_SECONDS = 0.8
REFRESH_SECONDS = 0.4

_log = logging.getLogger(__name__)
_BY_ITSELF, _PROBLEMS = "redrawn by itself", "problems of the link"
_FOLDERS = re.compile(r"/(?:[\w.+@-]+/)+")
_place = threading.BoundedSemaphore(MOST_AT_ONCE)

Watch = Callable[[float, int, float], None]


@dataclass(frozen=True)
class Task:
    """Something to compute.

    Parameters
    ----------
    identity : str
        Everything that the answer depends on.
    work : callable
        ``work(watch)``: computes it; calls ``watch(simulated_seconds, requests, usage)`` now
        and then, and keeps what is finished when that raises KeyboardInterrupt.
    requests : int or None
        Requests of one of its simulations, where known.
    simulations : int
        How many there are.
    shared : bool
        Whether other visitors may see the answer.
    """

    identity: str
    work: Callable[[Watch], Any]
    requests: int | None = None
    simulations: int = 1
    shared: bool = True


@dataclass
class Run:
    """A task that is being computed, or was.

    Attributes
    ----------
    answer : object
        What the work returned, once there is something.
    trouble : str
        Why there is nothing.
    cut : str
        Why the answer is not whole: "stopped", or the time limit.
    """

    task: Task
    answer: Any = None
    trouble: str = ""
    cut: str = ""
    clock: float = 0.0
    requests: int = 0
    simulation: int = 1
    _deadline: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._done.is_set()

    @property
    def share(self) -> float:
        """How much is done, 0 to 1, as far as anybody can tell."""
        whole = self.task.requests or MOST_REQUESTS
        done = self.simulation - 1 + min(1.0, self.requests / whole)
        return min(1.0, done / self.task.simulations)

    def begin(self) -> Run:
        """Start the thread."""
        threading.Thread(target=self._go, daemon=True, name="kvsim-run").start()
        return self

    def stop(self) -> None:
        """Ask the run to end; it keeps what it has."""
        self.cut = self.cut or "stopped"
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait a moment; whether the run has finished."""
        return self._done.wait(seconds)

    def watch(self, clock: float, requests: int, usage: float) -> None:
        """Note the progress; end the run when it was stopped or its time is over."""
        if requests < self.requests:
            self.simulation += 1
        self.clock, self.requests = clock, requests
        if time.monotonic() > self._deadline and not self._stop.is_set():
            self.cut = f"cut after {MOST_SECONDS:.0f} s, the limit of a run here"
            self._stop.set()
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _go(self) -> None:
        try:
            with _place:
                self._deadline = time.monotonic() + MOST_SECONDS
                if not self._stop.is_set():
                    self.answer = self.task.work(self.watch)
        except KVSimError as error:
            self.trouble = _FOLDERS.sub("", str(error))
        except KeyboardInterrupt:
            pass  # stopped before anything was finished
        except Exception as error:  # a page never shows a traceback
            _log.exception("a simulation broke")
            self.trouble = f"the simulation broke: {type(error).__name__}"
        finally:
            self._done.set()


def start(page: str, task: Task) -> Run:
    """Return the run of a task: remembered, under way, or new.

    Draws its progress while it goes on; a task that replaces another stops that one.
    """
    run = _found(page, task)
    if not run.wait(PATIENCE_SECONDS):
        _follow(run)
    elif task.shared and run.answer is not None and not run.cut:
        _remember(run)
    return run


def say_again(problems: list[str]) -> None:
    """Say once more what was wrong with a link, when a page redraws itself for its run."""
    if not st.session_state.pop(_BY_ITSELF, False):
        st.session_state[_PROBLEMS] = problems
        return
    for problem in st.session_state.get(_PROBLEMS, ()):
        st.warning(plain(f"This link is not quite right: {problem}"))


def answer_of(page: str, run: Run, cut: str) -> Any:
    """Return what a finished run came to, having said what went wrong; None of a failed one.

    Parameters
    ----------
    page : str
        Where it is shown.
    run : Run
        The run.
    cut : str
        A sentence for a run that was cut, with "{}" for the reason.
    """
    if run.trouble:
        say(run.trouble)
    elif run.cut:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.warning(plain(cut.format(run.cut)))
        right.button("Run it again", on_click=_forget, args=(page,))
    return run.answer


def _forget(page: str) -> None:
    """Forget the visitor's run of a page, so that it starts anew."""
    st.session_state.pop(_key(page), None)


def _found(page: str, task: Task) -> Run:
    mine: Run | None = st.session_state.get(_key(page))
    if mine is not None and mine.task.identity == task.identity:
        return mine
    if mine is not None and not mine.finished:
        mine.stop()
    run = _remembered().get(task.identity) if task.shared else None
    run = run or Run(task).begin()
    st.session_state[_key(page)] = run
    return run


def _key(page: str) -> str:
    return f"run of {page}"


@st.cache_resource(show_spinner=False)
def _remembered() -> OrderedDict[str, Run]:
    """Whole runs on what kvsim ships, for everybody, the latest last."""
    return OrderedDict()


def _remember(run: Run) -> None:
    if run.requests * run.task.simulations > MOST_REMEMBERED_REQUESTS:
        return
    known = _remembered()
    known[run.task.identity] = run
    while len(known) > REMEMBERED:
        known.popitem(last=False)


@st.fragment(run_every=REFRESH_SECONDS)
def _follow(run: Run) -> None:
    """Show the progress again and again; redraw the page when the run has finished."""
    if run.finished:
        st.session_state[_BY_ITSELF] = True
        st.rerun()
    which = f"{run.simulation} of {run.task.simulations}, " if run.task.simulations > 1 else ""
    text = f"Simulation {which}{run.requests:,} requests, {run.clock:,.0f} s simulated"
    st.progress(run.share, text=plain(text))
    st.button("Stop", key="stop run", on_click=run.stop, icon=":material/stop:")
