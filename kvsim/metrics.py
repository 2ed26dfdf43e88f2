"""Pure statistics on a run's arrays: distributions, time averages, saturation, intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

__all__ = [
    "PERCENTILES",
    "Distribution",
    "Interval",
    "confidence_interval",
    "distribution",
    "is_saturated",
    "time_mean",
]

Floats = npt.NDArray[np.float64]
PERCENTILES = (50, 90, 95, 99)

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


@dataclass(frozen=True, slots=True)
class Interval:
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
    seen = ~np.isnan(values)
    values = values[seen]
    if not len(values):
        return Distribution()
    if weights is None:
        points = np.percentile(values, PERCENTILES)
        return Distribution(float(values.mean()), float(values.std()), *map(float, points))
    weights = weights[seen]
    if not weights.sum():
        return Distribution()
    mean = float(np.average(values, weights=weights))
    spread = sqrt(float(np.average((values - mean) ** 2, weights=weights)))
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    ranks = np.searchsorted(reached, np.array(PERCENTILES) / 100 * reached[-1])
    return Distribution(mean, spread, *map(float, values[order][ranks]))


def time_mean(start: Floats, end: Floats, seconds: Floats, span: float) -> float:
    """Time average of a quantity that goes linearly from `start` to `end` in each interval.

    Parameters
    ----------
    start, end : float arrays (n,)
        The quantity at both ends of each interval.
    seconds : float array (n,)
        Lengths of the intervals.
    span : float
        The whole time, seconds; outside the intervals (an idle engine) the quantity is 0.
    """
    return float(((start + end) / 2 * seconds).sum() / span) if span > 0 else 0.0


def is_saturated(arrivals: Floats, departures: Floats) -> bool:
    """Whether the queue kept growing: requests came faster than they could be served.

    Parameters
    ----------
    arrivals : float array (n,)
        Arrival times in order, seconds.
    departures : float array (n,)
        When each left the queue; NaN if it never did.

    Notes
    -----
    In a stable system the queue at the last arrival is like that at half time. Past
    saturation it grows in proportion: here it must be longer by half, at least ten requests,
    and more than one in a hundred of all that came.
    """
    if len(arrivals) < 20:
        return False
    left = np.sort(np.where(np.isnan(departures), np.inf, departures))
    end = arrivals[-1]
    half = (arrivals[0] + end) / 2

    def queue(at: float) -> int:
        return int(
            np.searchsorted(arrivals, at, side="right") - np.searchsorted(left, at, side="right")
        )

    final = queue(end)
    return final >= max(10, len(arrivals) / 100) and final > 1.5 * queue(half)


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
