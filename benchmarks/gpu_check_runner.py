"""How ``make gpu-check`` runs commands: each ends in time, or is ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gpu_check_verdicts import Done

_PROBES = Path(__file__).resolve().parent / "gpu_check_probes.py"
_LEAST_SECONDS = 1.0
_PARTING_SECONDS = 5.0  # for a holder to give memory back
_LOOK_SECONDS = 0.05  # between two looks at a file that grows

KVSIM = (sys.executable, "-m", "kvsim")
PROBE = (sys.executable, str(_PROBES))


class Runner:
    """Runs kvsim and probes until a deadline.

    Parameters
    ----------
    seconds : float
        From now to the deadline.
    kvsim, probe : sequence of str
        How their commands begin.
    """

    def __init__(
        self, seconds: float, kvsim: Sequence[str] = KVSIM, probe: Sequence[str] = PROBE
    ) -> None:
        self._kvsim, self._probe = tuple(kvsim), tuple(probe)
        self._start = time.monotonic()
        self._deadline = self._start + seconds

    @property
    def spent_seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    @property
    def is_late(self) -> bool:
        """Whether nothing may begin any more."""
        return time.monotonic() >= self._deadline

    def kvsim(self, *words: str, most_seconds: float | None = None) -> Done:
        """Run kvsim to its end."""
        with _started((*self._kvsim, *words)) as process:
            return self._ended(process, most_seconds)

    def probe(self, name: str, device: str) -> Done:
        """Run a probe to its end."""
        with _started((*self._probe, name, device)) as process:
            return self._ended(process)

    def interrupted(self, words: Sequence[str], file: Path, lines: int) -> Done:
        """Run kvsim, and send it Ctrl-C once a file has so many lines."""
        with _started((*self._kvsim, *words)) as process:
            while process.poll() is None and _count(file) < lines and not self.is_late:
                time.sleep(_LOOK_SECONDS)
            if not self.is_late:
                process.send_signal(signal.SIGINT)
            return self._ended(process)

    @contextmanager
    def holding(self, device: str) -> Iterator[str]:
        """Hold the device's memory meanwhile; yields what the holder says, "" when it does not.

        It ends with us in any case: it waits for the end of what it reads from here.
        """
        with _started((*self._probe, "hold", device)) as process:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], self._left())
            yield process.stdout.readline() if ready else ""
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_PARTING_SECONDS)  # which ends what it reads

    def _left(self, most_seconds: float | None = None) -> float:
        left = max(_LEAST_SECONDS, self._deadline - time.monotonic())
        return left if most_seconds is None else min(left, most_seconds)

    def _ended(self, process: subprocess.Popen[str], most_seconds: float | None = None) -> Done:
        start, most = time.monotonic(), self._left(most_seconds)
        try:
            out, err = process.communicate(timeout=most)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            code, out, err = None, "", ""
        return Done(code, out, err, time.monotonic() - start, most)


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own: Ctrl-C is ours to hand on; all of it ends here."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # nobody of it is left
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers that torch starts
        process.communicate()


def _hear_interrupts() -> None:
    """Take Ctrl-C, which a shell switches off in what it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _count(file: Path) -> int:
    """Lines of a file that may not be there yet."""
    return file.read_text("utf-8").count("\n") if file.exists() else 0
