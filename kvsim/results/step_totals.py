r"""The books of a run's steps: where the pool's slots and the engine's time went.

Step rows are read a page at a time, so that a run of a million requests is judged in the
memory that one page takes. Within a run of steps every decoding sequence writes one token a
step, so each part of the pool changes linearly between the row's two ends::

    tokens     ____/     written: sequences * steps + prefill tokens
    reserved   ‾‾‾‾\     what is written was reserved (contiguous), or
    held       ____/     lies in blocks that the run took (paged: in stairs; the ends are exact)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvsim.steptime.model import StepCost, StepLoad

__all__ = ["SPLIT", "Accounts", "Books", "StepCosts", "keep_books", "slot_split"]

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]
Ends = tuple[Floats, Floats]

SPLIT = ("token_states", "reserved", "internal", "external", "cached")
_RESOURCES = ("bandwidth", "compute", "link", "host")
_SHAPE_BASE = 2.0**26  # more sequences than any batch holds


class StepCosts(Protocol):
    """The step-time model, as far as the books need it."""

    @property
    def kv_seconds_per_byte(self) -> float:
        """Seconds that one more KV byte read adds to a step."""

    def cost(self, load: StepLoad) -> StepCost:
        """Every term of one step."""


@dataclass(frozen=True)
class Books:
    """What to keep the books of, and from when.

    Parameters
    ----------
    costs : StepCosts
        What a step costs, to say which resource bound it.
    pool_slots : float
        Token slots of the pool.
    max_num_seqs, max_num_batched_tokens : float
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
    max_num_batched_tokens: float
    from_seconds: float
    to_seconds: float
    first_tokens: Floats | None = None


@dataclass(frozen=True)
class Accounts:
    """Integrals over the time that counts.

    Parameters
    ----------
    span_seconds, busy_seconds : float
        All of it, and that in which steps ran.
    slot_seconds : dict of str to float
        Slot-seconds of each part of `SPLIT`.
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


def keep_books(pages: Iterable[Columns], books: Books) -> Accounts:
    """Add up a run's step rows.

    Parameters
    ----------
    pages : iterable of dict of str to float array (rows,)
        The columns of `kvsim.simulator.recorder.STEP_COLUMNS`, in order of time.
    books : Books
        What counts.
    """
    ledger = _Ledger(books)
    for page in pages:
        ledger.add(page)
    return ledger.close()


def slot_split(steps: Columns, pool_slots: float) -> dict[str, Ends]:
    """Say where the pool's slots are at the start and the end of every run of steps.

    What a run takes beyond the free slots it takes from those that are kept: at its end,
    finished prefixes fill no more than what is not held.

    Parameters
    ----------
    steps : dict of str to float array (rows,)
        The columns of `kvsim.simulator.recorder.STEP_COLUMNS`.
    pool_slots : float
        Token slots of the pool.

    Returns
    -------
    dict of str to pair of float arrays (rows,)
        The parts of `SPLIT`, in slots; what they leave of the pool is free. Shared blocks
        are held once while several requests count their tokens, so token states end at
        what is held.
    """
    held = steps["held_slots"], steps["held_slots"] + steps["grown_slots"]
    written = steps["steps"] * steps["sequences"] + steps["prefill_tokens"]
    tokens = (
        np.minimum(steps["tokens"], held[0]),
        np.minimum(steps["tokens"] + written, held[1]),
    )
    reserved = steps["reserved_slots"], np.maximum(0, steps["reserved_slots"] - written)
    internal = (
        np.maximum(0, held[0] - tokens[0] - reserved[0]),
        np.maximum(0, held[1] - tokens[1] - reserved[1]),
    )
    left = np.maximum(0, pool_slots - held[1])
    external = steps["external_slots"], np.minimum(steps["external_slots"], left)
    cached = steps["cached_slots"], np.minimum(steps["cached_slots"], left - external[1])
    parts = (tokens, reserved, internal, external, cached)
    return dict(zip(SPLIT, parts, strict=True))


class _Ledger:
    """Adds pages up."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._slots = dict.fromkeys(SPLIT, 0.0)
        self._bound = dict.fromkeys(_RESOURCES, 0.0)
        self._held = self._peak = self._sequences = self._starved = self._busy = 0.0
        self._gaps: list[Ends] = []
        self._last_end = books.from_seconds
        self._decoded = -np.inf  # end of the last run that decoded
        self._arms: dict[float, tuple[float, ...]] = {}

    def add(self, steps: Columns) -> None:
        """Add one page."""
        if not len(steps["seconds"]):
            return
        ends = steps["start_seconds"] + steps["seconds"]
        counted = np.clip(ends - self._books.from_seconds, 0, steps["seconds"])
        self._add_memory(steps, ends, counted)
        self._add_time(steps, counted)
        self._add_bounds(steps, counted)
        self._add_gaps(steps, ends, counted)
        self._last_end = float(ends[-1])

    def close(self) -> Accounts:
        """Return the totals."""
        gaps = [np.concatenate(parts) for parts in zip(*self._gaps, strict=True)]
        return Accounts(
            span_seconds=max(0.0, self._books.to_seconds - self._books.from_seconds),
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
        for name, (start, end) in slot_split(steps, self._books.pool_slots).items():
            self._slots[name] += float(((start + end) * counted).sum() / 2)
        # An idle engine holds nothing but finished prefixes.
        before = np.concatenate([[self._last_end], ends[:-1]])
        idle = np.maximum(0, steps["start_seconds"] - np.maximum(before, self._books.from_seconds))
        self._slots["cached"] += float((steps["cached_slots"] * idle).sum())
        held_end = steps["held_slots"] + steps["grown_slots"]
        self._held += float(((steps["held_slots"] + held_end) * counted).sum() / 2)
        self._peak = max(self._peak, float(held_end[counted > 0].max(initial=0.0)))

    def _add_time(self, steps: Columns, counted: Floats) -> None:
        """Integrate busy time, batch size and starvation."""
        self._busy += float(counted.sum())
        self._sequences += float((steps["sequences"] * counted).sum())
        computed = steps["sequences"] + steps["prefill_tokens"]
        running = steps["sequences"] + (steps["prefill_tokens"] > 0)
        starved = (steps["waiting"] > 0) & (running < self._books.max_num_seqs)
        starved &= computed < self._books.max_num_batched_tokens
        self._starved += float(counted[starved].sum())

    def _add_bounds(self, steps: Columns, counted: Floats) -> None:
        """Split busy time by what bound each step."""
        arms = self._arms_before_reads(steps)
        arms[:, _RESOURCES.index("bandwidth")] += (
            self._books.costs.kv_seconds_per_byte * steps["kv_read_bytes"]
        )
        spent = np.bincount(arms.argmax(axis=1), weights=counted, minlength=len(_RESOURCES))
        for name, seconds in zip(_RESOURCES, spent.tolist(), strict=True):
            self._bound[name] += seconds

    def _arms_before_reads(self, steps: Columns) -> Floats:
        """Seconds of each resource, shape (rows, resources), before KV is read.

        Steps of one shape (tokens, sequences) cost the same, so the model is asked once a
        shape; pure decode steps are the most and are told apart by their sequences alone.
        """
        sequences = steps["sequences"].astype(np.intp)
        by_sequences = np.zeros((int(sequences.max()) + 1, len(_RESOURCES)))
        for count in np.flatnonzero(np.bincount(sequences)).tolist():
            by_sequences[count] = self._arms_of(count * _SHAPE_BASE + count)
        arms = by_sequences[sequences]
        mixed = np.flatnonzero(steps["prefill_tokens"])
        tokens = sequences[mixed] + steps["prefill_tokens"][mixed]
        known, where = np.unique(tokens * _SHAPE_BASE + sequences[mixed], return_inverse=True)
        if len(known):
            arms[mixed] = np.array([self._arms_of(shape) for shape in known.tolist()])[where]
        return arms

    def _arms_of(self, shape: float) -> tuple[float, ...]:
        """Seconds of each resource in a step of that shape, before KV is read."""
        if shape not in self._arms:
            tokens, decoding = (int(part) for part in divmod(shape, _SHAPE_BASE))
            sequences = decoding + (tokens > decoding)
            shares = self._books.costs.cost(StepLoad(tokens, sequences)).resource_seconds
            self._arms[shape] = tuple(shares[name] for name in _RESOURCES)
        return self._arms[shape]

    def _add_gaps(self, steps: Columns, ends: Floats, counted: Floats) -> None:
        """Note inter-token latencies: a decode step is one, for each of its sequences."""
        warm = (steps["sequences"] > 0) & (counted > 0)
        if not warm.any():
            return
        gaps = steps["seconds"][warm] / steps["steps"][warm]
        tokens = steps["sequences"][warm] * steps["steps"][warm]
        if self._books.first_tokens is not None:
            starts, sequences = steps["start_seconds"][warm], steps["sequences"][warm]
            runs = _Runs(gaps, sequences, starts, ends[warm])
            tokens = tokens - self._add_stalls(runs, self._books.first_tokens)
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
    """Runs of decode steps: seconds a step, sequences, and both ends."""

    gaps: Floats
    sequences: Floats
    starts: Floats
    ends: Floats


def _counting(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 0, 1, ... within each of so many members: [2, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
