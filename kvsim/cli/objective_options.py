"""The flags that say what must be met: a limit of a latency at a percentile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.cli.options import DURATION, decorate
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.search import Objective

__all__ = ["objective_options", "objectives"]

F = TypeVar("F", bound=Callable[..., Any])

_LATENCIES = {"ttft": ("ttft", "time to first token"), "tpot": ("tpot", "time per output token")}
_LATENCIES |= {"e2e": ("e2el", "end to end")}
_POINTS = (50, 90, 95, 99)
_USUAL = 99


def _name(flag: str, point: int) -> str:
    return f"{flag}_p{point}"


def _option(flag: str, point: int) -> Callable[[F], F]:
    """One objective; that of the usual percentile has a short name, and speaks for the others."""
    if point != _USUAL:
        return click.option(f"--{flag}-p{point}", type=DURATION, hidden=True)
    _, words = _LATENCIES[flag]
    others = ", ".join(f"--{flag}-p{each}" for each in _POINTS if each != _USUAL)
    return click.option(
        f"--{flag}",
        f"--{flag}-p{point}",
        _name(flag, point),
        type=DURATION,
        help=f"p{point} {words} at most, as 500ms; also {others}.",
    )


def objective_options(function: F) -> F:
    """Add a flag for each latency and percentile; `objectives` reads them."""
    return decorate(function, tuple(_option(flag, p) for flag in _LATENCIES for p in _POINTS))


def objectives(flags: dict[str, Any]) -> tuple[Objective, ...]:
    """Take the objectives out of a command's flags.

    Raises
    ------
    InputError
        For a limit of 0.
    """
    from kvsim.search import Objective

    found = []
    for flag, (latency, _) in _LATENCIES.items():
        for point in _POINTS:
            seconds = flags.pop(_name(flag, point))
            if seconds is None:
                continue
            try:
                found.append(Objective(latency, 1e3 * seconds, point / 100))
            except InputError as error:
                raise InputError(error.what, where=f"--{flag}-p{point}") from None
    return tuple(found)
