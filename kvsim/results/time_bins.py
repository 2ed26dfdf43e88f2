"""A run as a few hundred bins of time, however many rows were recorded.

Within a row every part of the pool changes linearly (see `kvsim.results.pool_parts`), so its
integral up to any moment is known exactly; a bin's mean is the difference of two integrals,
divided by its width. The bins add up to what the summary says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvsim.results.pool_parts import pool_parts
from kvsim.results.result import SimulationResult

__all__ = ["TimeBins", "preemption_seconds", "time_bins"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TimeBins:
    """Means over bins of equal width.

    Parameters
    ----------
    edges : float array (bins + 1,)
        Simulated seconds.
    slots : dict of str to float array (bins,)
        Mean token slots of each part of the pool, "free" among them.
    waiting, decoding : float array (bins,)
        Mean requests in the queue, and mean sequences that decode.
    most_waiting : float array (bins,)
        Longest queue.
    preemptions : int array (bins,)
        How many fell into each bin.
    """

    edges: Floats
    slots: dict[str, Floats]
    waiting: Floats
    decoding: Floats
    most_waiting: Floats
    preemptions: npt.NDArray[np.int64]

    @property
    def middles(self) -> Floats:
        """Middle of every bin, seconds."""
        middles: Floats = (self.edges[:-1] + self.edges[1:]) / 2
        return middles


def time_bins(
    result: SimulationResult, *, bins: int = 300, end_seconds: float | None = None
) -> TimeBins:
    """Bin a run over time.

    Parameters
    ----------
    result : SimulationResult
        The run.
    bins : int
        How many.
    end_seconds : float, optional
        End of the last bin, to set runs of unequal length side by side; the run's own end
        when left out.
    """
    steps = result.recording.recorder.step_columns()
    edges = np.linspace(0.0, end_seconds or result.recording.end_seconds or 1.0, bins + 1)
    width = edges[1] - edges[0]

    def mean(start: Floats, end: Floats) -> Floats:
        means: Floats = np.diff(_integral(steps, start, end, edges)) / width
        return means

    pool = result.setup.pool_slots
    slots = {name: mean(*ends) for name, ends in pool_parts(steps, pool).items()}
    kept, ones = np.diff(_idle_cached(steps, edges)) / width, np.ones(len(steps["seconds"]))
    slots["cached"] = slots["cached"] + kept
    slots["free"] = slots["free"] + pool * (1 - mean(ones, ones)) - kept
    return TimeBins(
        edges=edges,
        slots=slots,
        waiting=mean(steps["waiting"], steps["waiting"]),
        decoding=mean(steps["sequences"], steps["sequences"]),
        most_waiting=_most(steps["start_seconds"], steps["waiting"], edges),
        preemptions=np.histogram(preemption_seconds(result)[1], edges)[0],
    )


def preemption_seconds(result: SimulationResult) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the request row and the simulated second of every preemption, in order."""
    pairs = np.array(result.recording.recorder.preempted, dtype=np.int64).reshape(-1, 2)
    starts = result.recording.recorder.step_columns()["start_seconds"]
    if not len(starts):
        return pairs[:, 0], starts  # both empty
    return pairs[:, 0], starts[np.minimum(pairs[:, 1], len(starts) - 1)]


def _integral(steps: Mapping[str, Floats], start: Floats, end: Floats, at: Floats) -> Floats:
    """Integrate from 0 to each moment of `at` what goes linearly from `start` to `end`."""
    if not len(start):
        return np.zeros(len(at))
    begins, seconds = steps["start_seconds"], steps["seconds"]
    whole = np.concatenate([[0.0], np.cumsum((start + end) / 2 * seconds)])
    row = np.searchsorted(begins, at, side="right") - 1
    inside = np.maximum(row, 0)
    passed = np.clip(at - begins[inside], 0, seconds[inside])
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(seconds > 0, (end - start) / seconds, 0.0)
    part = passed * (start[inside] + slope[inside] * passed / 2)
    return np.where(row < 0, 0.0, whole[inside] + part)


def _idle_cached(steps: Mapping[str, Floats], at: Floats) -> Floats:
    """Integrate the finished prefixes that an idle engine keeps, between its runs of steps."""
    begins = steps["start_seconds"]
    before = np.concatenate([[0.0], (begins + steps["seconds"])[:-1]]) if len(begins) else begins
    gaps = {"start_seconds": before, "seconds": np.maximum(0, begins - before)}
    return _integral(gaps, steps["cached_slots"], steps["cached_slots"], at)


def _most(begins: Floats, values: Floats, edges: Floats) -> Floats:
    """Return the largest value that held at any moment of each bin."""
    bins = len(edges) - 1
    most = np.zeros(bins)
    if not len(begins):
        return most
    row = np.searchsorted(begins, edges[:-1], side="right") - 1
    most[row >= 0] = values[row[row >= 0]]
    at = np.clip(np.searchsorted(edges, begins, side="right") - 1, 0, bins - 1)
    np.maximum.at(most, at, values)
    return most
