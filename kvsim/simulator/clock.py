"""How long the planned steps take: a run of decode steps in closed form, a mixed step in one sum.

A decode step at a constant batch costs ``base + per_byte * bytes``, and each step reads
``slope`` bytes more than the last, so k steps are an arithmetic series::

    first  = base + per_byte * bytes            growth = per_byte * slope
    seconds(k) = k * first + growth * k * (k - 1) / 2

Where every kernel is launched by the host, a step takes at least what that takes: what attention
reads is free until it outlasts the `slack` that launches leave beyond the step's other work::

    seconds of a step                       .·'
          base + slack |-------------------'
                       +-------------------+-------▶ steps
                                          level
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt
from typing import NamedTuple

from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.schedulers.steps import StepPlan
from kvsim.steptime.model import ConstantStepTime, StepLoad, StepTimeModel

__all__ = ["RecomputeClock", "StepClock", "steps_reaching"]

_PROBE = 2.0**40


class StepClock:
    """The step-time model with its answers remembered.

    Parameters
    ----------
    model : StepTimeModel or ConstantStepTime
        What a step costs.
    pairs : callable
        ``pairs(start, count)``: query-key pairs of a prefill chunk, per layer.
    link_seconds_per_token : float
        Seconds that a cached token takes to cross the host link (swapping).
    copy_seconds_per_token : float
        Seconds that the device takes to copy a cached token (compaction, concatenation).
    """

    def __init__(
        self,
        model: StepTimeModel | ConstantStepTime,
        pairs: Callable[[int, int], float],
        *,
        link_seconds_per_token: float = 0.0,
        copy_seconds_per_token: float = 0.0,
    ) -> None:
        self.copy_seconds_per_token = copy_seconds_per_token
        self._model = model
        self._pairs = pairs
        self._link_seconds_per_token = link_seconds_per_token
        self._per_byte = model.kv_seconds_per_byte
        # Both are linear in the model, so one probe gives the rate: decodes in a step that
        # also computes a prompt read more slowly; pipeline stages share the sequences' pairs.
        reading = StepLoad(tokens=2, sequences=1, kv_read_bytes=_PROBE)
        self._mixed_per_byte = self._added(StepLoad(tokens=2, sequences=1), reading) / _PROBE
        self._per_pair: dict[int, float] = {}
        self._base: dict[tuple[int, int], tuple[float, float]] = {}
        self._decode_base: dict[int, tuple[float, float]] = {}

    def _added(self, still: StepLoad, attending: StepLoad) -> float:
        """Seconds of work that attention adds."""
        cost = self._model.cost
        return cost(attending).worked_seconds - cost(still).worked_seconds

    def base_seconds(self, tokens: int, sequences: int) -> tuple[float, float]:
        """Seconds of a step without what its attention reads, and the slack that launches leave.

        Remembered by its shape. The step takes ``base + max(slack, attention)``.
        """
        shape = tokens, sequences
        known = self._base.get(shape)
        if known is None:
            cost = self._model.cost(StepLoad(tokens, sequences))
            known = self._base[shape] = cost.worked_seconds, cost.launch_seconds
        return known

    def _decode_seconds(self, sequences: int) -> tuple[float, float]:
        """`base_seconds` of a step of decodes alone (remembered)."""
        known = self._decode_base[sequences] = self.base_seconds(sequences, sequences)
        return known

    def pair_seconds(self, sequences: int) -> float:
        """Seconds of one query-key pair in a step of so many sequences (remembered)."""
        seconds = self._per_pair.get(sequences)
        if seconds is None:
            still = StepLoad(2 * sequences, sequences)
            seconds = self._added(still, still._replace(prefill_pairs=_PROBE)) / _PROBE
            self._per_pair[sequences] = seconds
        return seconds

    def mixed_seconds(self, plan: StepPlan, batch: DecodeBatch) -> float:
        """Seconds of one step that computes prompt chunks, with or without decodes."""
        tokens = sequences = batch.sequences if plan.decodes else 0
        pairs = 0.0
        for request, count in plan.prefills:
            tokens += count
            sequences += 1
            pairs += self._pairs(request.computed_tokens, count)
        attention = 0.0
        if pairs:
            attention = pairs * (self._per_pair.get(sequences) or self.pair_seconds(sequences))
        if plan.decodes:
            slowed = tokens > sequences
            attention += (self._mixed_per_byte if slowed else self._per_byte) * batch.kv_bytes
        seconds = 0.0
        if tokens:
            shape = tokens, sequences
            base, slack = self._base.get(shape) or self.base_seconds(tokens, sequences)
            seconds = base + (attention if attention > slack else slack)
        if plan.moved_tokens:
            seconds += plan.moved_tokens * self._link_seconds_per_token
        return seconds

    def decode_run(
        self, batch: DecodeBatch, limit: int, gap: float, beyond: int = 0
    ) -> tuple[int, float, float]:
        """Steps of a decode-only run, their seconds, and those of all of them but the last.

        Parameters
        ----------
        batch : DecodeBatch
            Who decodes.
        limit : int
            Most steps before the plan changes.
        gap : float
            Seconds until an arrival that may change the plan (infinite: none); the run ends
            with the first step that reaches it.
        beyond : int
            Steps after that one that are planned already when the request arrives.
        """
        sequences = batch.sequences
        first, slack = self._decode_base.get(sequences) or self._decode_seconds(sequences)
        reads = self._per_byte * batch.kv_bytes
        growth = self._per_byte * batch.kv_slope
        if slack > reads:
            level = _LevelledSteps.of(first + slack, slack - reads, growth, limit)
            return level.until(gap, limit, beyond)
        first += reads
        if limit == 1:
            return 1, first, 0.0
        steps, seconds = limit, limit * first + growth * (limit * (limit - 1) // 2)
        if gap < seconds:
            steps = beyond + (steps_reaching(gap, first, growth, limit) if gap > 0 else 0)
            if steps < limit:
                seconds = steps * first + growth * (steps * (steps - 1) // 2)
            else:
                steps = limit
        return steps, seconds, (steps - 1) * first + growth * ((steps - 1) * (steps - 2) // 2)


class _LevelledSteps(NamedTuple):
    """Decode steps of which the first take as long as their launches.

    Parameters
    ----------
    levelled : int
        How many.
    level : float
        Seconds of each of them.
    first, growth : float
        Seconds of the next one, and by how much each later one takes longer.
    """

    levelled: int
    level: float
    first: float
    growth: float

    @classmethod
    def of(cls, level: float, room: float, growth: float, limit: int) -> _LevelledSteps:
        """Split at most `limit` steps; attention has `room` seconds left before it counts."""
        levelled = limit if growth * limit <= room else int(room / growth) + 1
        return cls(levelled, level, level - room + growth * levelled, growth)

    def seconds(self, steps: int) -> float:
        """Seconds of the first steps."""
        rest = max(0, steps - self.levelled)
        rising = rest * self.first + self.growth * (rest * (rest - 1) // 2)
        return (steps - rest) * self.level + rising

    def until(self, gap: float, limit: int, beyond: int) -> tuple[int, float, float]:
        """As `StepClock.decode_run`."""
        steps = limit
        if gap < self.seconds(limit):
            steps = beyond + (self._reaching(gap, limit) if gap > 0 else 0)
            steps = max(1, min(limit, steps))
        return steps, self.seconds(steps), self.seconds(steps - 1)

    def _reaching(self, gap: float, limit: int) -> int:
        """Return the fewest steps whose seconds reach `gap`."""
        if gap <= self.seconds(self.levelled):
            steps = min(self.levelled, ceil(gap / self.level) + 1)
            while steps > 1 and self.seconds(steps - 1) >= gap:
                steps -= 1
            return steps
        rest = gap - self.seconds(self.levelled)
        return self.levelled + steps_reaching(rest, self.first, self.growth, limit - self.levelled)


class RecomputeClock(StepClock):
    """The clock of an engine without a cache: every step computes every context again."""

    def mixed_seconds(self, plan: StepPlan, batch: DecodeBatch) -> float:
        """Seconds of one step: whole contexts, nothing read from a cache."""
        contexts = [
            (batch.cached_tokens(request) + 1, request.samples)
            for request in (batch.members if plan.decodes else ())
        ]
        contexts += [(request.computed_tokens + count, 1) for request, count in plan.prefills]
        tokens = sum(context * samples for context, samples in contexts)
        pairs = sum(self._pairs(0, context) * samples for context, samples in contexts)
        sequences = sum(samples for _, samples in contexts)
        base, slack = self.base_seconds(tokens, sequences)
        return base + max(slack, self.pair_seconds(sequences) * pairs)

    def decode_run(
        self, batch: DecodeBatch, limit: int, gap: float, beyond: int = 0
    ) -> tuple[int, float, float]:
        """One step: the next one computes more."""
        return 1, self.mixed_seconds(StepPlan([], decodes=True), batch), 0.0


def steps_reaching(gap: float, first: float, growth: float, limit: int) -> int:
    """Return the fewest steps, from 1 to `limit`, whose seconds reach `gap`.

    ``steps * first + growth * steps * (steps - 1) / 2 >= gap`` is a quadratic; it is solved
    in the form that keeps its precision when `growth` is tiny, then corrected by whole steps
    where rounding has moved it.

    Examples
    --------
    >>> steps_reaching(10.0, first=3.0, growth=0.0, limit=100)
    4
    >>> steps_reaching(10.0, first=3.0, growth=2.0, limit=100)  # 3 + 5 = 8, 3 + 5 + 7 = 15
    3
    """
    linear = first - growth / 2
    steps = min(limit, ceil(2 * gap / (linear + sqrt(linear * linear + 2 * growth * gap))))
    while steps > 1 and (steps - 1) * first + growth * ((steps - 1) * (steps - 2) // 2) >= gap:
        steps -= 1
    while steps < limit and steps * first + growth * (steps * (steps - 1) // 2) < gap:
        steps += 1
    return steps
