"""The totals of a run's steps: where the pool's slots and the engine's time went.

Step rows are read a page at a time, so that a run of a million requests is judged in the
memory that one page takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvsim.results.pool_parts import POOL_PARTS, pool_parts
from kvsim.steptime.model import StepCost, StepLoad

__all__ = ["StepCosts", "StepTotals", "TotalsScope", "step_totals"]

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]

_RESOURCES = ("bandwidth", "compute", "link", "host")
_SHAPE_BASE = 2.0**26  # more sequences than any batch holds


class StepCosts(Protocol):
    """The step-time model, as far as the totals need it."""

    @property
    def kv_seconds_per_byte(self) -> float:
        """Seconds that one more KV byte read adds to a step."""

    def cost(self, load: StepLoad) -> StepCost:
        """Every term of one step."""


@dataclass(frozen=True)
class TotalsScope:
    """What to add up, and over which time.

    Parameters
    ----------
    costs : StepCosts
        What a step costs, to say which resource bound it.
    pool_slots : float
        Token slots of the pool.
    max_num_seqs, full_step_tokens : float
        A step that holds as many keeps requests out by itself; memory does not.
    from_seconds, to_seconds : float
        The time that counts; earlier steps are warm-up.
    first_tokens : float array (n,), optional
        When each sequence that will decode had its first token, ascending, seconds. Given
        for schedulers whose prefill steps make decoding wait (vLLM V0).
    """

    costs: StepCosts
    pool_slots: float
    max_num_seqs: float
    full_step_tokens: float
    from_seconds: float
    to_seconds: float
    first_tokens: Floats | None = None


@dataclass(frozen=True)
class StepTotals:
    """Integrals over the time that counts.

    Parameters
    ----------
    span_seconds, busy_seconds : float
        All of it, and that in which steps ran.
    slot_seconds : dict of str to float
        Slot-seconds of each part of `POOL_PARTS`, and "free".
    held_slot_seconds, peak_held_slots : float
        Slots that live requests hold: integral and maximum.
    sequence_seconds : float
        Integral of the decoding sequences.
    starved_seconds : float
        Time in which requests waited although the step had room for them: memory kept
        them out.
    bound_seconds : dict of str to float
        Busy time by the resource that most of a step waited for.
    gap_seconds, gap_tokens : float arrays (n,)
        Inter-token latencies, and how many tokens saw each.
    """

    span_seconds: float
    busy_seconds: float
    slot_seconds: dict[str, float]
    held_slot_seconds: float
    peak_held_slots: float
    sequence_seconds: float
    starved_seconds: float
    bound_seconds: dict[str, float]
    gap_seconds: Floats
    gap_tokens: Floats


def step_totals(pages: Iterable[Columns], scope: TotalsScope) -> StepTotals:
    """Add up a run's step rows.

    Parameters
    ----------
    pages : iterable of dict of str to float array (rows,)
        The columns of `kvsim.simulator.recorder.STEP_COLUMNS`, in order of time.
    scope : TotalsScope
        What counts.
    """
    adder = _Adder(scope)
    for page in pages:
        adder.add(page)
    return adder.totals()


class _Adder:
    """Adds pages up."""

    def __init__(self, scope: TotalsScope) -> None:
        self._scope = scope
        self._slots = dict.fromkeys((*POOL_PARTS, "free"), 0.0)
        self._bound = dict.fromkeys(_RESOURCES, 0.0)
        self._held = self._peak = self._sequences = self._starved = self._busy = 0.0
        self._gaps: list[tuple[Floats, Floats]] = []
        self._last_end = scope.from_seconds
        self._decoded = -np.inf  # end of the last run that decoded
        self._shares: dict[float, tuple[float, ...]] = {}

    def add(self, steps: Columns) -> None:
        """Add one page."""
        if not len(steps["seconds"]):
            return
        ends = steps["start_seconds"] + steps["seconds"]
        counted = np.clip(ends - self._scope.from_seconds, 0, steps["seconds"])
        self._add_memory(steps, ends, counted)
        self._add_time(steps, counted)
        self._add_bounds(steps, counted)
        self._add_gaps(steps, ends, counted)
        self._last_end = float(ends[-1])

    def totals(self) -> StepTotals:
        """Return the totals."""
        span = max(0.0, self._scope.to_seconds - self._scope.from_seconds)
        self._slots["free"] += self._scope.pool_slots * (span - self._busy)  # while it was idle
        gaps = [np.concatenate(parts) for parts in zip(*self._gaps, strict=True)]
        return StepTotals(
            span_seconds=span,
            busy_seconds=self._busy,
            slot_seconds=self._slots,
            held_slot_seconds=self._held,
            peak_held_slots=self._peak,
            sequence_seconds=self._sequences,
            starved_seconds=self._starved,
            bound_seconds={name: spent for name, spent in self._bound.items() if spent},
            gap_seconds=gaps[0] if gaps else np.empty(0),
            gap_tokens=gaps[1] if gaps else np.empty(0),
        )

    def _add_memory(self, steps: Columns, ends: Floats, counted: Floats) -> None:
        """Integrate the split, by the trapezoid that is exact for linear parts."""
        for name, (start, end) in pool_parts(steps, self._scope.pool_slots).items():
            self._slots[name] += float(((start + end) * counted).sum() / 2)
        # An idle engine holds nothing but finished prefixes.
        before = np.concatenate([[self._last_end], ends[:-1]])
        idle = np.maximum(0, steps["start_seconds"] - np.maximum(before, self._scope.from_seconds))
        kept = float((steps["cached_slots"] * idle).sum())
        self._slots["cached"] += kept
        self._slots["free"] -= kept
        held_end = steps["held_slots"] + steps["grown_slots"]
        self._held += float(((steps["held_slots"] + held_end) * counted).sum() / 2)
        self._peak = max(self._peak, float(held_end[counted > 0].max(initial=0.0)))

    def _add_time(self, steps: Columns, counted: Floats) -> None:
        """Integrate busy time, batch size and starvation."""
        self._busy += float(counted.sum())
        self._sequences += float((steps["sequences"] * counted).sum())
        computed = steps["sequences"] + steps["prefill_tokens"]
        running = steps["sequences"] + (steps["prefill_tokens"] > 0)
        starved = (steps["waiting"] > 0) & (running < self._scope.max_num_seqs)
        starved &= computed < self._scope.full_step_tokens
        self._starved += float(counted[starved].sum())

    def _add_bounds(self, steps: Columns, counted: Floats) -> None:
        """Split busy time by what bound each step."""
        shares = self._shares_before_reads(steps)
        reads = self._scope.costs.kv_seconds_per_byte * steps["kv_read_bytes"]
        arms, slack = shares[:, :-1], shares[:, -1]
        arms[:, _RESOURCES.index("bandwidth")] += reads
        # launches are waited for only as long as attention does not fill the time
        arms[:, _RESOURCES.index("host")] -= np.minimum(slack, reads)
        spent = np.bincount(arms.argmax(axis=1), weights=counted, minlength=len(_RESOURCES))
        for name, seconds in zip(_RESOURCES, spent.tolist(), strict=True):
            self._bound[name] += seconds

    def _shares_before_reads(self, steps: Columns) -> Floats:
        """Seconds of each resource, and the wait for launches, before KV is read.

        Shape (rows, resources + 1).

        Steps of one shape (tokens, sequences) cost the same, so the model is asked once a
        shape; pure decode steps are the most and are told apart by their sequences alone.
        """
        sequences = steps["sequences"].astype(np.intp)
        by_sequences = np.zeros((int(sequences.max()) + 1, len(_RESOURCES) + 1))
        for count in np.flatnonzero(np.bincount(sequences)).tolist():
            by_sequences[count] = self._shares_of(count * _SHAPE_BASE + count)
        shares = by_sequences[sequences]
        mixed = np.flatnonzero(steps["prefill_tokens"])
        tokens = sequences[mixed] + steps["prefill_tokens"][mixed]
        known, where = np.unique(tokens * _SHAPE_BASE + sequences[mixed], return_inverse=True)
        if len(known):
            shares[mixed] = np.array([self._shares_of(shape) for shape in known.tolist()])[where]
        return shares

    def _shares_of(self, shape: float) -> tuple[float, ...]:
        """Seconds of each resource and of the wait for launches, before KV is read."""
        if shape not in self._shares:
            tokens, decoding = (int(part) for part in divmod(shape, _SHAPE_BASE))
            sequences = decoding + (tokens > decoding)
            cost = self._scope.costs.cost(StepLoad(tokens, sequences))
            arms = cost.resource_seconds
            self._shares[shape] = (*(arms[name] for name in _RESOURCES), cost.launch_seconds)
        return self._shares[shape]

    def _add_gaps(self, steps: Columns, ends: Floats, counted: Floats) -> None:
        """Note inter-token latencies: a decode step is one, for each of its sequences."""
        warm = (steps["sequences"] > 0) & (counted > 0)
        if not warm.any():
            return
        gaps = steps["seconds"][warm] / steps["steps"][warm]
        tokens = steps["sequences"][warm] * steps["steps"][warm]
        if self._scope.first_tokens is not None:
            starts, sequences = steps["start_seconds"][warm], steps["sequences"][warm]
            runs = _Runs(gaps, sequences, starts, ends[warm])
            tokens = tokens - self._add_stalls(runs, self._scope.first_tokens)
        self._gaps.append((gaps, tokens))

    def _add_stalls(self, runs: _Runs, first: Floats) -> Floats:
        """Note the first latency of each decode run, which may hold a wait for prefills.

        Newcomers have waited since their first token, the others since the last decode step.

        Returns
        -------
        float array (runs,)
            Tokens that were noted here.
        """
        before = np.concatenate([[self._decoded], runs.ends[:-1]])
        self._decoded = float(runs.ends[-1])
        low = np.searchsorted(first, before, side="right")
        high = np.searchsorted(first, runs.starts, side="right")
        new = np.minimum(high - low, runs.sequences).astype(int)
        old = runs.sequences - new
        waited = np.where(old > 0, runs.starts - before, 0.0)
        self._gaps.append((runs.gaps + waited, old))
        joined = np.repeat(np.arange(len(new)), new)
        came = first[low[joined] + _counting(new)]
        self._gaps.append((runs.gaps[joined] + runs.starts[joined] - came, np.ones(len(joined))))
        return runs.sequences


class _Runs(NamedTuple):
    """Runs of decode steps: seconds per step, sequences, and both ends."""

    gaps: Floats
    sequences: Floats
    starts: Floats
    ends: Floats


def _counting(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 0, 1, ... within each of so many members: [2, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
