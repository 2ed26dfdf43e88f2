"""What a replica must meet: a latency, its limit, and the share of requests within it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.results.result import SimulationResult
from kvsim.results.statistics import Floats
from kvsim.results.words import SHORT
from kvsim.simulator.scenario import SLO

__all__ = [
    "JUDGED",
    "Objective",
    "objectives_of",
    "over",
    "percentile_ms",
    "shares_of",
    "stated_as_slo",
]

JUDGED = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2el_ms"}
"""Latencies that have objectives, and what a scenario calls their limits."""


@dataclass(frozen=True)
class Objective:
    """A latency that a share of the requests must keep within a limit.

    Parameters
    ----------
    latency : str
        "ttft", "tpot" or "e2el".
    limit_ms : float
        Milliseconds.
    share : float
        0.99 asks that the 99th percentile is within the limit.

    Raises
    ------
    InputError
        For an unknown latency, a limit that is not above 0, and a share outside of (0, 1].

    Examples
    --------
    >>> Objective("ttft", 2000.0).name
    'ttft_p99'
    """

    latency: str
    limit_ms: float
    share: float = 0.99

    def __post_init__(self) -> None:
        if self.latency not in JUDGED:
            raise InputError(
                f"no objective of {self.latency!r}", fix=f"choose one of {', '.join(JUDGED)}"
            )
        if not (self.limit_ms > 0 and isfinite(self.limit_ms)):
            raise InputError(f"{self.limit_ms:g} ms is no limit of {SHORT[self.latency]}")
        if not 0 < self.share <= 1:
            raise InputError(f"share = {self.share:g} is not above 0 and at most 1")

    @property
    def name(self) -> str:
        """Latency and percentile: "ttft_p99"."""
        return f"{self.latency}_p{100 * self.share:g}"

    @property
    def words(self) -> str:
        """In words: "p99 TTFT of 2,000 ms"."""
        return f"p{100 * self.share:g} {SHORT[self.latency]} of {self.limit_ms:,.10g} ms"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: latency, percentile and limit."""
        return {
            "latency": self.latency,
            "percentile": 100 * self.share,
            "limit_ms": self.limit_ms,
        }

    def missed(self, milliseconds: Floats, finished: np.ndarray) -> float:
        """Share of the requests that miss it.

        Parameters
        ----------
        milliseconds : float array (n,)
            Its latency by request; NaN: a request without a second token has no TPOT to miss.
        finished : bool array (n,)
            A request that was rejected or never finished misses every objective.
        """
        within = finished & (np.isnan(milliseconds) | (milliseconds <= self.limit_ms))
        return float(1 - within.mean())

    def is_met(self, missed: float) -> bool:
        """Whether so many may miss it."""
        return missed <= 1 - self.share + 1e-12


def objectives_of(slo: SLO, share: float) -> tuple[Objective, ...]:
    """Objectives that a scenario states, those without a percentile for one share of requests."""
    found = []
    for latency, key in JUDGED.items():
        limit, percentile = getattr(slo, key), getattr(slo, f"{latency}_percentile")
        if limit is not None:
            own = share if percentile is None else percentile / 100
            found.append(Objective(latency, limit, own))
    return tuple(found)


def over(objectives: Sequence[Objective], slo: SLO, share: float) -> tuple[Objective, ...]:
    """Objectives, and those of a scenario whose latencies they do not name."""
    named = {each.latency for each in objectives}
    kept = [each for each in objectives_of(slo, share) if each.latency not in named]
    return (*objectives, *kept)


def stated_as_slo(objectives: Iterable[Objective]) -> dict[str, float]:
    """Objectives as keys of a scenario's `slo`; of two for one latency the higher percentile."""
    found: dict[str, float] = {}
    for each in sorted(objectives, key=lambda objective: objective.share):
        found[JUDGED[each.latency]] = each.limit_ms
        found[f"{each.latency}_percentile"] = 100 * each.share
    return found


def shares_of(objectives: Iterable[Objective], share: float) -> dict[str, float]:
    """The highest share that is asked of each latency, else `share`."""
    asked = dict.fromkeys(JUDGED, 0.0)
    for each in objectives:
        asked[each.latency] = max(asked[each.latency], each.share)
    return {latency: own or share for latency, own in asked.items()}


def percentile_ms(result: SimulationResult, latency: str, share: float) -> float | None:
    """What a share of the judged requests is within, ms; None where nothing was seen."""
    values = 1e3 * result.latencies[latency][result.judged]
    seen = values[~np.isnan(values)]
    return float(np.quantile(seen, share)) if len(seen) else None
