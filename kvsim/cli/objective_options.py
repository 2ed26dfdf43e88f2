"""The flags that say what must be met: a limit of a latency at a percentile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.cli.options import DurationText, decorate
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.search import Objective

__all__ = ["objective_options", "objectives"]

F = TypeVar("F", bound=Callable[..., Any])

_LATENCIES = {"ttft": ("ttft", "time to first token"), "tpot": ("tpot", "time per output token")}
_LATENCIES |= {"e2e": ("e2el", "end to end")}
_LIMIT = DurationText(bare=False)  # 500 is milliseconds in other tools
_POINTS = (50, 90, 95, 99)
_USUAL = 99


def _options(flag: str) -> list[Callable[[F], F]]:
    """The objectives of one latency: the short name is of the usual percentile."""
    _, words = _LATENCIES[flag]
    others = ", ".join(f"--{flag}-p{each}" for each in _POINTS)
    said = f"p{_USUAL} {words} at most, as 500ms; also {others}."
    of_points = [click.option(f"--{flag}-p{point}", type=_LIMIT, hidden=True) for point in _POINTS]
    return [click.option(f"--{flag}", type=_LIMIT, help=said), *of_points]


def objective_options(function: F) -> F:
    """Add a flag for each latency and percentile; `objectives` reads them."""
    return decorate(function, tuple(each for flag in _LATENCIES for each in _options(flag)))


def objectives(flags: dict[str, Any]) -> tuple[Objective, ...]:
    """Take the objectives out of a command's flags.

    Raises
    ------
    InputError
        For a limit of 0, and two of one percentile.
    """
    from kvsim.search import Objective

    found = []
    for flag, (latency, _) in _LATENCIES.items():
        limits = {point: flags.pop(f"{flag}_p{point}") for point in _POINTS}
        usual = flags.pop(flag)
        if usual is not None and limits[_USUAL] is not None:
            raise InputError(
                f"--{flag} is p{_USUAL}, too", where=f"--{flag}-p{_USUAL}", fix="say it once"
            )
        limits[_USUAL] = limits[_USUAL] if usual is None else usual
        for point, seconds in limits.items():
            if seconds is None:
                continue
            try:
                found.append(Objective(latency, 1e3 * seconds, point / 100))
            except InputError as error:
                raise InputError(error.what, where=f"--{flag}-p{point}") from None
    return tuple(found)
