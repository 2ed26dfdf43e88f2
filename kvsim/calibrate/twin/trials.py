"""Trying what a library offers: whatever it says, and however it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvsim.calibrate.measure.failures import is_out_of_memory
from kvsim.errors import first_line

__all__ = ["reason_against"]

_LONGEST = 120  # characters


def reason_against(trial: Callable[[], float], tolerated: float) -> str:
    """Why not to take what was tried; "" where it runs and is right.

    Parameters
    ----------
    trial : callable
        Sets it up, runs it and returns how far off it is, as a multiple of what rounding explains.
    tolerated : float
        The most that is right.

    Raises
    ------
    RuntimeError, MemoryError
        When memory is short: that says nothing of what was tried.
    """
    try:
        with _apart_from_the_answer():
            error = trial()
    except ImportError as absent:
        return f"{absent.name or first_line(absent)} is not installed"
    except Exception as failure:  # compilers and kernels have errors of every kind
        if is_out_of_memory(failure):
            raise
        return f"{first_line(failure):.{_LONGEST}}"
    return "" if error <= tolerated else f"is off by {error:.2g} times what rounding explains"


@contextmanager
def _apart_from_the_answer() -> Iterator[None]:
    """Send to stderr what libraries and compilers print: stdout is the command's answer."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
