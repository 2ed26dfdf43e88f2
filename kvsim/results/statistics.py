"""Pure statistics on a run's arrays: distributions, saturation, intervals, break-evens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "PERCENTILES",
    "Distribution",
    "Interval",
    "break_even_tokens",
    "confidence_interval",
    "distribution",
    "is_saturated",
    "quantiles",
    "queue_means",
]

Floats = npt.NDArray[np.float64]
PERCENTILES = (50, 90, 95, 99)
_SHARES = np.array(PERCENTILES) / 100

# Two-sided 95 % quantiles of Student's t by degrees of freedom (any statistics textbook).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean, spread and percentiles of one quantity, in its own unit; None: no observation."""

    mean: float | None = None
    std: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class Interval(NamedTuple):
    """A mean over replications and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def distribution(values: Floats, weights: Floats | None = None) -> Distribution:
    """Summarise observations.

    Parameters
    ----------
    values : float array (n,)
        Observations; NaN (it never happened) is left out.
    weights : float array (n,), optional
        How often each was observed: an engine step that gives 200 sequences a token counts
        200 times among inter-token latencies.

    Returns
    -------
    Distribution
        Percentiles interpolate linearly without weights, as in ``vllm bench serve``; with
        weights they are inverted from the empirical distribution.

    Examples
    --------
    >>> distribution(np.array([1.0, 2.0, 3.0])).p50
    2.0
    """
    unseen = np.isnan(values)
    if unseen.any():
        values = values[~unseen]
        weights = weights if weights is None else weights[~unseen]
    if not len(values) or (weights is not None and not weights.sum()):
        return Distribution()
    points = quantiles(values, _SHARES, weights).tolist()
    if weights is None:
        return Distribution(float(values.mean()), float(values.std()), *points)
    mean = float(np.average(values, weights=weights))
    spread = sqrt(float(np.average((values - mean) ** 2, weights=weights)))
    return Distribution(mean, spread, *points)


def quantiles(values: Floats, shares: Floats, weights: Floats | None = None) -> Floats:
    """Values below which given shares of the observations lie.

    Parameters
    ----------
    values : float array (n,)
        Observations, at least one, all finite.
    shares : float array (m,)
        From 0 to 1.
    weights : float array (n,), optional
        How often each was observed, at least one of them more than never.

    Returns
    -------
    float array (m,)
        Interpolated linearly without weights; with weights, the inverse of the empirical
        distribution.

    Examples
    --------
    >>> quantiles(np.array([1.0, 2.0]), np.array([0.5, 0.9]), np.array([3.0, 1.0])).tolist()
    [1.0, 2.0]
    """
    found: Floats
    if weights is None:
        found = _interpolated(np.sort(values), shares)
    else:
        seen = weights > 0
        found = np.quantile(values[seen], shares, weights=weights[seen], method="inverted_cdf")
    return found


def _interpolated(ordered: Floats, shares: Floats) -> Floats:
    """`numpy.quantile` to the last bit, which imports numpy.ma on its first call (10 ms)."""
    at = shares * (len(ordered) - 1)
    below = at.astype(np.int64)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    part, gap = at - below, high - low
    found: Floats = np.where(part < 0.5, low + gap * part, high - gap * (1 - part))
    return found


def is_saturated(arrivals: Floats, departures: Floats) -> bool:
    """Whether the queue kept growing: requests came faster than they could be served.

    Parameters
    ----------
    arrivals : float array (n,)
        Arrival times, seconds, in any order.
    departures : float array (n,)
        When each left the queue; NaN if it never did.

    Notes
    -----
    Two things must hold. When the last request arrives, more than ``3 sqrt(n)`` wait: at
    exactly the critical load, Poisson chance alone leaves about ``sqrt(n)``. And the queue
    is, on average, more than twice as long in the second half of the arrivals as in the
    first: one that grows in proportion is three times as long, a burst that will pass or a
    batch that came at once is not.

    Examples
    --------
    >>> arrivals = np.arange(1000.0)
    >>> is_saturated(arrivals, arrivals + 5), is_saturated(arrivals, arrivals * 1.5)
    (False, True)
    """
    if len(arrivals) < 20:
        return False
    left = np.where(np.isnan(departures), inf, departures)
    end = float(arrivals.max())
    backlog = int((left > end).sum())
    early, late = queue_means(arrivals, left, end)
    return backlog > 3 * sqrt(len(arrivals)) and late > 2 * early


def queue_means(arrivals: Floats, departures: Floats, end: float) -> tuple[float, float]:
    """Mean number waiting in the first and the second half of ``[first arrival, end]``."""
    start = float(arrivals.min())
    middle = (start + end) / 2
    if not start < middle < end:  # no half has a length that a float can tell
        return 0.0, 0.0

    def waited(low: float, high: float) -> float:
        overlap = np.minimum(departures, high) - np.maximum(arrivals, low)
        return float(np.maximum(overlap, 0).sum()) / (high - low)

    return waited(start, middle), waited(middle, end)


def confidence_interval(samples: Floats) -> Interval:
    """95 % Student interval of the mean of independent replications.

    Examples
    --------
    >>> confidence_interval(np.array([9.0, 11.0])).high
    22.706
    """
    mean = float(samples.mean())
    if len(samples) < 2:
        return Interval(mean, mean, mean)
    freedom = len(samples) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    half = quantile * float(samples.std(ddof=1)) / sqrt(len(samples))
    return Interval(mean, mean - half, mean + half)


def break_even_tokens(
    recompute_seconds: Callable[[int], float], move_seconds_per_token: float, most: int
) -> int | None:
    """Length from which moving a preempted request's cache costs no more than recomputing it.

    Parameters
    ----------
    recompute_seconds : callable
        Seconds that so many more prompt tokens add to a step; convex, 0 at 0: linear in the
        tokens, quadratic in their attention, free below the knee of the roofline.
    move_seconds_per_token : float
        Seconds to move one cached token out and back in.
    most : int
        Longest request, tokens.

    Returns
    -------
    int or None
        The fewest tokens at which recomputing costs as much as moving; shorter requests are
        cheaper to recompute, longer ones to move. None: recomputing is always cheaper.

    Examples
    --------
    >>> break_even_tokens(lambda n: 2e-5 * n + 1e-8 * n * n, 4e-5, most=131072)  # 2e-5 / 1e-8
    2000
    """

    def moving_pays(tokens: int) -> bool:
        return recompute_seconds(tokens) >= move_seconds_per_token * tokens * (1 - 1e-12)

    if not moving_pays(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moving_pays(middle) else (middle, high)
    return high
