"""Requests to fit, requests to judge by, and how far a prediction is off on each.

::

    send ──────────────────────────────────────────────────────────────────────────────▶
          | fitted | not fitted | fitted | not fitted | fitted | not fitted |
                 [--- a request in both blocks is in neither part ---]

Blocks alternate, rather than a first half and a second: a benchmark that raises its rate, or a
server that warms up, is then in both parts alike. Requests of one queue are not independent, so a
block is several answers long, and what crosses a border counts in neither part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.served.replay import METRICS, Latencies
from kvsim.calibrate.served.requests import ServedRequests
from kvsim.errors import InputError

__all__ = ["FEWEST", "Error", "Parts", "errors_of", "split"]

Mask = NDArray[np.bool_]

FEWEST = 30  # requests in a part
_MOST_BLOCKS = 10
_BLOCK_ANSWERS = 5  # how many median answers a block lasts at least


@dataclass(frozen=True, slots=True)
class Parts:
    """Which requests are fitted, and which only judged.

    Parameters
    ----------
    fitted, judged : bool array (n,)
        No request is in both.
    blocks : int
        Blocks of time.
    """

    fitted: Mask
    judged: Mask
    blocks: int


@dataclass(frozen=True, slots=True)
class Error:
    """How far the simulation of some requests is off, in percent; too long is positive.

    Parameters
    ----------
    mean_percent : float
        Of the means.
    median_percent, median_absolute_percent, mean_absolute_percent : float
        Of each request by itself: its median with and without the sign, its mean without.
    requests : int
        Requests of which the metric was measured.
    """

    mean_percent: float
    median_percent: float
    median_absolute_percent: float
    mean_absolute_percent: float
    requests: int


def split(requests: ServedRequests) -> Parts:
    """Split requests by time into alternate blocks.

    Raises
    ------
    InputError
        When either part would have too few requests with a TTFT.
    """
    sent, ended = requests.send_seconds, requests.send_seconds + requests.e2e_seconds
    span = float(sent[-1]) or 1.0
    longest = _BLOCK_ANSWERS * float(np.median(requests.e2e_seconds))
    blocks = 2 * max(1, min(_MOST_BLOCKS, int(span / longest)) // 2)
    first, last = (np.minimum(times * blocks // span, blocks - 1) for times in (sent, ended))
    inside = (first == last) & ~np.isnan(requests.ttft_seconds)
    parts = Parts(inside & (first % 2 == 0), inside & (first % 2 == 1), blocks)
    fewest = min(int(parts.fitted.sum()), int(parts.judged.sum()))
    if np.isnan(requests.ttft_seconds).all():
        raise InputError(
            "no request has a time to first token of its own",
            where=str(requests.path),
            fix="measure with streaming",
        )
    if fewest < FEWEST:
        raise InputError(
            f"{len(requests):,} requests make parts of which one has {fewest}, fewer than {FEWEST}:"
            " those fitted, and those only predicted",
            where=str(requests.path),
            fix="take a longer run: minutes, with streaming",
        )
    return parts


def errors_of(simulated: Latencies, measured: Latencies, part: Mask) -> dict[str, Error | None]:
    """How far a simulation is off on a part of the requests, by metric; None: not measured."""
    return {name: _error(simulated[name][part], measured[name][part]) for name in METRICS}


def _error(simulated: NDArray[np.float64], measured: NDArray[np.float64]) -> Error | None:
    known = ~np.isnan(simulated) & ~np.isnan(measured)
    if not known.any():
        return None
    ours, theirs = simulated[known], measured[known]
    each = 100 * (ours / theirs - 1)
    return Error(
        mean_percent=float(100 * (ours.mean() / theirs.mean() - 1)),
        median_percent=float(np.median(each)),
        median_absolute_percent=float(np.median(np.abs(each))),
        mean_absolute_percent=float(np.mean(np.abs(each))),
        requests=int(known.sum()),
    )
