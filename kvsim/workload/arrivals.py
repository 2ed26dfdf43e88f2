"""When requests arrive: processes in open loop, and the clients of a closed loop.

Every process yields batches of times in seconds, in order, drawn from the streams "arrivals"
and (for bursts) "bursts". Processes whose rate varies are a unit-rate process seen through a
clock that runs at that rate::

    unit-rate times      |  |   | |  |    |   |         mean gap 1
    cumulated rate(t)    ____----____                    t = inverse of the integral of rate
    arrivals             |    || |||   |      |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, cycle
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from kvsim.workload.base import BATCH_ROWS, Floats
from kvsim.workload.described import (
    Count,
    Described,
    Duration,
    Flag,
    NonNegative,
    Positive,
    Real,
    Seconds,
    ShapeCV,
)
from kvsim.workload.distributions import Fixed, Pause, weibull_shape
from kvsim.workload.streams import Streams

__all__ = [
    "Arrivals",
    "AtOnce",
    "ClosedLoopArrivals",
    "Constant",
    "Diurnal",
    "GammaArrivals",
    "OnOff",
    "Phase",
    "Piecewise",
    "Poisson",
    "WeibullArrivals",
]


def _cumulated(gaps: Iterator[Floats]) -> Iterator[Floats]:
    now = 0.0
    for batch in gaps:
        times = now + np.cumsum(batch)
        now = float(times[-1])
        yield times


def _at_rate(unit_times: Iterator[Floats], rate: float) -> Iterator[Floats]:
    """Slow unit-rate times down, or speed them up."""
    return (times / rate for times in unit_times)


def _unit_gaps(streams: Streams, cv: float) -> Iterator[Floats]:
    """Gaps of mean 1 and the given CV: gamma, or exponential at cv 1."""
    rng = streams.stream("arrivals")
    while True:
        if cv == 1:
            yield rng.exponential(1.0, BATCH_ROWS)
        else:
            yield rng.gamma(cv**-2, cv**2, BATCH_ROWS)


class Poisson(Described):
    """Independent arrivals: ``{kind: poisson, rate: 4}``, `rate` in requests/s."""

    kind: Literal["poisson"]
    rate: Positive

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end."""
        return _at_rate(_cumulated(_unit_gaps(streams, 1.0)), self.rate)


class GammaArrivals(Described):
    """Gamma gaps with a coefficient of variation: below 1 smoother than Poisson, above burstier.

    vLLM's ``--burstiness`` is ``1 / cv**2``.
    """

    kind: Literal["gamma"]
    rate: Positive
    cv: ShapeCV

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end."""
        return _at_rate(_cumulated(_unit_gaps(streams, self.cv)), self.rate)


class WeibullArrivals(Described):
    """Weibull gaps with a coefficient of variation."""

    kind: Literal["weibull"]
    rate: Positive
    cv: ShapeCV

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end."""
        rng, shape = streams.stream("arrivals"), weibull_shape(self.cv)
        scale = 1 / (self.rate * math.gamma(1 + 1 / shape))
        return _cumulated(scale * rng.weibull(shape, BATCH_ROWS) for _ in count())


class Constant(Described):
    """Evenly spaced arrivals, the first one gap after the start."""

    kind: Literal["constant"]
    rate: Positive

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end; draws nothing."""
        batch = np.arange(1, BATCH_ROWS + 1)
        return ((start * BATCH_ROWS + batch) / self.rate for start in count())


class AtOnce(Described):
    """Everything at time 0: an offline batch, ``--request-rate inf``."""

    kind: Literal["at_once"]

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield zeros, without end; draws nothing."""
        return (np.zeros(BATCH_ROWS) for _ in count())


class Phase(Described):
    """A stretch of time with a constant rate (requests/s); 0 is silence."""

    seconds: Duration
    rate: NonNegative


class Piecewise(Described):
    """A rate that changes in steps: ``phases: [{seconds: 60, rate: 2}, ...]``.

    With `repeat` the phases start over, else arrivals end with the last phase. `cv` is that
    of the gaps when measured in expected arrivals.
    """

    kind: Literal["piecewise"]
    phases: tuple[Phase, ...] = Field(min_length=1)
    repeat: Flag = False
    cv: ShapeCV = 1.0

    @model_validator(mode="after")
    def _arrives(self) -> Piecewise:
        if all(phase.rate == 0 for phase in self.phases):
            raise ValueError("every phase has a rate of 0: nothing would ever arrive")
        if self.repeat:
            _check_cycle(sum(phase.rate * phase.seconds for phase in self.phases))
        return self

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, to the end of the phases."""
        phases = cycle(self.phases) if self.repeat else iter(self.phases)
        steps = ((phase.seconds, phase.rate) for phase in phases)
        return _through_clock(_cumulated(_unit_gaps(streams, self.cv)), steps)


class OnOff(Described):
    """Bursts: `on_rate` for a while, then `off_rate`, by turns.

    Lengths of the on and off periods are exponential around their means (a two-state
    Markov-modulated Poisson process), or exact with ``periods: fixed``.
    """

    kind: Literal["on_off"]
    on_rate: Positive
    off_rate: NonNegative = 0.0
    on_seconds: Duration
    off_seconds: Duration
    periods: Literal["exponential", "fixed"] = "exponential"
    cv: ShapeCV = 1.0

    @model_validator(mode="after")
    def _arrives(self) -> OnOff:
        _check_cycle(self.on_rate * self.on_seconds)
        return self

    @property
    def rate(self) -> float:
        """Mean rate in requests/s."""
        on, off = self.on_seconds, self.off_seconds
        return (self.on_rate * on + self.off_rate * off) / (on + off)

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end."""
        unit = _cumulated(_unit_gaps(streams, self.cv))
        return _through_clock(unit, self._steps(streams.stream("bursts")))

    def _steps(self, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        for mean, rate in cycle(
            ((self.on_seconds, self.on_rate), (self.off_seconds, self.off_rate))
        ):
            yield (mean if self.periods == "fixed" else float(rng.exponential(mean))), rate


def _check_cycle(expected: float) -> None:
    if expected < 1e-6:
        raise ValueError(f"{expected:.2g} arrivals expected a cycle: raise the rate")


def _through_clock(
    unit: Iterator[Floats], steps: Iterator[tuple[float, float]]
) -> Iterator[Floats]:
    """Map unit-rate times through the inverse of the cumulated rate of `steps`.

    Ends when `steps` end. Knots (seconds, expected arrivals) are kept only as far back as the
    current batch needs them.
    """
    seconds, expected = [0.0], [0.0]
    for batch in unit:
        ended = False
        while expected[-1] <= batch[-1]:
            step = next(steps, None)
            if step is None:
                ended = True
                break
            seconds.append(seconds[-1] + step[0])
            expected.append(expected[-1] + step[0] * step[1])
        inside = batch[batch < expected[-1]]
        if len(inside):
            yield _invert(inside, np.array(seconds), np.array(expected))
        if ended:
            return
        keep = int(np.searchsorted(expected, batch[-1], side="right")) - 1
        seconds, expected = seconds[keep:], expected[keep:]


def _invert(values: Floats, seconds: Floats, expected: Floats) -> Floats:
    """Read seconds at which the cumulated rate reaches `values`; silence is skipped over."""
    at = np.searchsorted(expected, values, side="right") - 1
    slope = (seconds[at + 1] - seconds[at]) / (expected[at + 1] - expected[at])
    return np.maximum.accumulate(seconds[at] + (values - expected[at]) * slope)


class Diurnal(Described):
    """A day: ``rate * (1 + amplitude * cos(2 pi (t - peak_seconds) / period_seconds))``."""

    kind: Literal["diurnal"]
    rate: Positive
    amplitude: Annotated[Real, Field(ge=0, le=1)] = 0.5
    period_seconds: Duration = 86_400.0
    peak_seconds: Seconds = 43_200.0
    cv: ShapeCV = 1.0

    def times(self, streams: Streams) -> Iterator[Floats]:
        """Yield arrival times in seconds, without end."""
        return (self._invert(batch) for batch in _cumulated(_unit_gaps(streams, self.cv)))

    def _expected(self, seconds: Floats) -> Floats:
        """Arrivals expected up to each time: the integral of the rate from 0."""
        turn = 2 * np.pi / self.period_seconds
        wave = np.sin(turn * (seconds - self.peak_seconds)) + math.sin(turn * self.peak_seconds)
        return self.rate * (seconds + self.amplitude / turn * wave)

    def _invert(self, values: Floats) -> Floats:
        """Bisect for the times at which `_expected`, which never falls, reaches `values`."""
        slack = self.amplitude * self.period_seconds / math.pi
        low, high = values / self.rate - slack, values / self.rate + slack
        for _ in range(64):
            middle = (low + high) / 2
            below = self._expected(middle) < values
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.maximum.accumulate(np.maximum(high, 0.0))


class ClosedLoopArrivals(Described):
    """`clients` that each wait for an answer, think, and ask again.

    First requests are spread evenly over `ramp_seconds` (0: all at once).
    """

    kind: Literal["closed_loop"]
    clients: Count
    think: Pause = Fixed(kind="fixed", seconds=0.0)
    ramp_seconds: Seconds = 0.0


Arrivals = Annotated[
    Poisson
    | GammaArrivals
    | WeibullArrivals
    | Constant
    | AtOnce
    | Piecewise
    | OnOff
    | Diurnal
    | ClosedLoopArrivals,
    Field(discriminator="kind"),
]
