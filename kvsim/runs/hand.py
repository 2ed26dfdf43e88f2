"""Another process: how this one talks to it, and what it does there."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

from kvsim.runs.board import LOOK_SECONDS, Board, Look

__all__ = ["Hand", "serve"]

_BOOT = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import {0}; {0}.serve()"
_LOADS = "kvsim.runs.replicate"  # by the time that it says that it is ready
_END_SECONDS = 2.0


class Hand:
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

    def begin(self, board: Board, *, watches: bool) -> None:
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

    def _work(self, board: Board, watches: bool) -> None:
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
            next_seconds = time.monotonic() + LOOK_SECONDS
            _say(answers, "seen", (clock, requests, usage))

    return watch
