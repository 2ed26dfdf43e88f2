"""What a serving engine's own code adds to a step and to a request, by engine and release.

::

    vllm   0.2 ──── 0.7 │ 0.8 ──── 0.13 │ 0.14 ─── 0.18 │ 0.19 ─────────▶
           V0             V1               the next step is scheduled while this one runs

Each entry of ``data/hosts.yaml`` names the releases that it was fitted on; another release is
priced with the nearest of them, and `HostCost.source` says so.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kvsim.engines.base import Engine
from kvsim.engines.common import read_shipped
from kvsim.specs.checked import read
from kvsim.specs.hardware import HostCost

__all__ = ["host_cost"]

_DATA = Path(__file__).parent / "data" / "hosts.yaml"


class _Entry(NamedTuple):
    """Host costs, and whose they are."""

    first: str  # releases that it was fitted on, from one to the other
    last: str
    is_async: bool
    cost: HostCost

    def distance(self, release: tuple[int, ...]) -> tuple[int, ...]:
        """How far a release is outside, as differences of its numbers; all zero inside."""
        first, last = _numbers(self.first), _numbers(self.last)
        if release < first:
            return _gap(first, release)
        return _gap(release, last) if release[: len(last)] > last else (0, 0, 0)


def host_cost(engine: Engine, *, is_async: bool) -> HostCost | None:
    """Return the host costs of an engine's release; None where nobody knows the engine's.

    Parameters
    ----------
    engine : Engine
        The engine at a release.
    is_async : bool
        Whether a step is scheduled while the one before it is computed.

    Returns
    -------
    HostCost or None
        Where no entry covers the release, or none was fitted with or without asynchronous
        scheduling, the nearest one; its `source` says whose it is.
    """
    release = _numbers(engine.version)
    entries = _entries().get(engine.name, ())
    if not entries:
        return None
    best = min(entries, key=lambda each: (each.is_async != is_async, each.distance(release)))
    if best.is_async == is_async and not any(best.distance(release)):
        return best.cost
    way = "with" if best.is_async else "without"
    said = f"priced with {best.first} to {best.last}'s, {way} asynchronous scheduling"
    return best.cost.model_copy(update={"source": f"{best.cost.source} ({said})"})


def _numbers(release: str) -> tuple[int, ...]:
    """Numbers of a release, at most three; no number at all is newest."""
    found = tuple(int(part) for part in re.findall(r"\d+", release)[:3])
    return found or (1 << 30,)


def _gap(high: tuple[int, ...], low: tuple[int, ...]) -> tuple[int, ...]:
    padded = zip((*high, 0, 0, 0)[:3], (*low, 0, 0, 0)[:3], strict=True)
    return tuple(abs(a - b) for a, b in padded)


@cache
def _entries() -> dict[str, tuple[_Entry, ...]]:
    """Every engine's entries, in the file's order."""
    data = read_shipped(_DATA)
    return {name: tuple(map(_entry, entries)) for name, entries in data.items()}


def _entry(fields: dict[str, Any]) -> _Entry:
    rest = {key: value for key, value in fields.items() if key not in ("first", "last", "async")}
    return _Entry(fields["first"], fields["last"], fields["async"], read(HostCost, rest))
