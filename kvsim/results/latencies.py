"""Latencies among a summary's keys: how they are named, which have no value, how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvsim.results.statistics import PERCENTILES, Distribution, Interval
from kvsim.results.words import SHORT
from kvsim.simulator.prepare import Setup
from kvsim.steptime.bands import TimeBand, time_band
from kvsim.steptime.model import StepTimeModel

__all__ = [
    "SATURATED_MEANINGLESS",
    "TIME_BANDS",
    "bands_record",
    "bench_keys",
    "grows_with_the_run",
    "sure_words",
    "time_bands",
    "without_growing",
]

SATURATED_MEANINGLESS = ("ttft", "e2el", "queue")
"""Latencies that grow for as long as a saturated run goes on: a mean of them says nothing."""

TIME_BANDS = "time_bands"
"""Key of a summary under which the bands are."""

_BANDED = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot", "e2el": "e2el"}
"""Latencies that have a band, and whose it is: a gap between tokens errs as their mean does."""

_SURE_OF = ("mean", "median", *(f"p{point}" for point in PERCENTILES))


def bench_keys(name: str, found: Distribution) -> dict[str, float | None]:
    """Keys such as ``mean_ttft_ms`` of one distribution in milliseconds."""
    keys = {"mean": found.mean, "median": found.p50, "std": found.std}
    keys |= {f"p{point}": getattr(found, f"p{point}") for point in PERCENTILES}
    return {f"{statistic}_{name}_ms": value for statistic, value in keys.items()}


def grows_with_the_run(key: str) -> bool:
    """Whether a key of the summary states a latency that a saturated run has no value of.

    Examples
    --------
    >>> [grows_with_the_run(key) for key in ("p99_ttft_ms", "p99_tpot_ms", "duration")]
    [True, False, False]
    """
    return key.endswith("_ms") and key.rsplit("_", 2)[-2] in SATURATED_MEANINGLESS


def without_growing(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary as that of a saturated run: what grows with the run has no value."""
    kept = {key: None if grows_with_the_run(key) else value for key, value in summary.items()}
    bands = summary[TIME_BANDS]
    intervals = {
        key: found for key, found in bands["intervals"].items() if not grows_with_the_run(key)
    }
    return kept | {TIME_BANDS: bands | {"intervals": intervals}, "saturated": True}


def time_bands(setup: Setup) -> dict[str, TimeBand]:
    """Return the band of each latency by its name; none where steps take a stated time.

    The queue has none of its own: it is what is left of TTFT and hangs on the load more than on
    the model.
    """
    if not isinstance(setup.step_time, StepTimeModel):
        return {}
    engine, deployment = setup.sizing.engine.name, setup.deployment
    return {
        name: time_band(engine, deployment.accelerator, deployment.model, key)
        for name, key in _BANDED.items()
    }


def sure_words(bands: Mapping[str, TimeBand]) -> list[str]:
    """Say what bands rest on: a sentence for all latencies of which the same is to be said.

    Examples
    --------
    >>> band = TimeBand(0.9, 0.8, 1.2, 20, "vllm, dense", is_extrapolated=False)
    >>> sure_words({"ttft": band, "itl": band})
    ['TTFT, ITL: 90% sure, by 20 served runs that the fit had not seen (vllm, dense).']
    """
    of: dict[str, list[str]] = {}
    for name, band in bands.items():
        of.setdefault(band.words, []).append(SHORT[name])
    return [f"{', '.join(names)}: {words}." for words, names in of.items()]


def bands_record(
    bands: Mapping[str, TimeBand],
    summary: Mapping[str, Any],
    means: Mapping[str, Interval] | None = None,
) -> dict[str, Any]:
    """Return a summary's ``time_bands``: the factors by latency, and the intervals by key.

    Parameters
    ----------
    bands : mapping of str to TimeBand
        By latency.
    summary : mapping
        Its statistics of the latencies, milliseconds; None has no interval.
    means : mapping of str to Interval, optional
        Means over replications, by key of the summary, instead of its values.
    """
    factors = {
        name: {
            "low": band.low,
            "high": band.high,
            "share": band.share,
            "runs": band.runs,
            "like": band.like,
            "is_extrapolated": band.is_extrapolated,
        }
        for name, band in bands.items()
    }
    found = _around_means(bands, means) if means is not None else _around(bands, summary)
    return {"factors": factors, "intervals": {key: list(ends) for key, ends in found}}


def _around(
    bands: Mapping[str, TimeBand], summary: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float]]]:
    for key, band in _sure_keys(bands):
        if summary[key] is not None:
            yield key, band.around(summary[key])


def _around_means(
    bands: Mapping[str, TimeBand], means: Mapping[str, Interval]
) -> Iterator[tuple[str, tuple[float, float]]]:
    for key, band in _sure_keys(bands):
        if key in means:
            yield key, band.around_mean(*means[key])


def _sure_keys(bands: Mapping[str, TimeBand]) -> Iterator[tuple[str, TimeBand]]:
    """Keys of the statistics that a band stands around: all but the standard deviation."""
    for name, band in bands.items():
        for statistic in _SURE_OF:
            yield f"{statistic}_{name}_ms", band
