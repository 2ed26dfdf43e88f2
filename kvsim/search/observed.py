"""What a search reads off its runs: throughput, requests in flight, how varied they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kvsim.results.result import SimulationResult
from kvsim.results.statistics import Floats

__all__ = ["common_slope", "in_flight", "most_running", "sustained_throughput", "variability"]

_RAMP = 0.2  # of the requests: while the batch fills


def sustained_throughput(result: SimulationResult) -> float:
    """Requests per second of an overloaded run, without ramp-up and drain; 0: none was served.

    The slope of requests finished over time, by least squares, from the first fifth of them to the
    last admission: before, the batch fills, afterwards it runs empty. Many finish in one step, so
    two points of the staircase would say much of where they were taken::

        requests                  |    ____ 256 more
                          ____----|
                  ____----        |         and then the drain
          ramp    |               last admission
    """
    finish, scheduled = result.columns["finish_seconds"], result.columns["scheduled_seconds"]
    order = np.sort(finish[~np.isnan(finish)])
    if not len(order):
        return 0.0
    last = int(np.searchsorted(order, np.nanmax(scheduled), side="right"))
    times = order[int(_RAMP * len(order)) : last]
    if not len(times) or times[-1] - times[0] < np.nanmean(finish - scheduled):
        return len(order) / result.recording.end_seconds  # no batch was replaced in between
    return float(common_slope([np.column_stack((times, np.arange(len(times))))]) or 0.0)


def common_slope(groups: Iterable[Sequence[tuple[float, float]] | Floats]) -> float | None:
    """Least squares of one slope for groups of (x, y), each about a mean of its own."""
    apart = [np.array(group) - np.mean(group, axis=0) for group in groups]
    x, y = np.concatenate(apart).T if apart else np.empty((2, 0))
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 0 else None


def in_flight(result: SimulationResult) -> float:
    """Requests in the replica at once, on average: Little's law."""
    arrivals = result.columns["arrival_seconds"]
    stays = result.latencies["e2el"]
    span = float(arrivals.max() - arrivals.min())
    return float(np.nansum(stays) / span) if span > 0 else 0.0


def most_running(result: SimulationResult) -> float:
    """Requests in the batch at once under overload: Little's law of those admitted."""
    columns = result.columns
    inside = columns["finish_seconds"] - columns["scheduled_seconds"]
    return float(np.nansum(inside) / result.recording.end_seconds)


def variability(result: SimulationResult) -> float:
    """Squared coefficient of variation of the tokens of a request."""
    tokens = result.columns["prompt_tokens"] + result.columns["output_tokens"]
    return float(np.var(tokens) / np.mean(tokens) ** 2)
