"""How sure a predicted time is: what served runs of its class were measured at, over simulated.

::

    simulated x low ───────── simulated ──────────────── simulated x high
              └─── nine of ten served runs of the class lie within ───┘

A class is an engine, whether the card's step times were fitted to its own tables, and whether the
model has routed experts. ``data/time_bands.yaml`` has a row for each class and latency; the runs
behind it were left out of the fit, so a row holds for a model that nobody measured. A class
without a row, or with too few runs, reaches as far down and up as any row of its engine (of all,
for an engine of which too few runs were compared) and says so; on a card whose step times are its
architecture's medians it is wider still, by what those are off on a card left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kvsim.engines.common import read_shipped
from kvsim.errors import InputError
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec, MoeMlp
from kvsim.steptime.defaults import efficiency_of
from kvsim.steptime.rates import TWIN

__all__ = ["FEWEST_RUNS", "SHARE", "TimeBand", "band_of", "is_measured", "time_band"]

SHARE = 0.9
"""Share of served runs that a band holds."""

FEWEST_RUNS = 19
"""With fewer runs a class has no band of its own: it would reach as far as its farthest run."""

_DATA = Path(__file__).parent / "data" / "time_bands.yaml"


@dataclass(frozen=True, slots=True)
class TimeBand:
    """How far a measured mean may be from the simulated one, as factors of it.

    Parameters
    ----------
    share : float
        Share of such served runs that lie within (0.9).
    low, high : float
        Factors of the simulated time; neither need hold 1 between them, where a class is
        always slower than simulated.
    runs : int
        How many served runs of the class were compared.
    like : str
        The class, in words.
    is_extrapolated : bool
        Whether the factors are other classes', as too few runs of this one were compared.
    """

    share: float
    low: float
    high: float
    runs: int
    like: str
    is_extrapolated: bool

    def around(self, simulated: float) -> tuple[float, float]:
        """The interval of a simulated time, in its unit."""
        return self.low * simulated, self.high * simulated

    def around_mean(self, mean: float, low: float, high: float) -> tuple[float, float]:
        """The interval of a mean over replications that has an interval of its own.

        Chance (whose requests came when) and the model's error have nothing to do with each
        other, and each multiplies the time. So their logarithms add up as independent errors do:
        half widths in quadrature, each side for itself, about the middle of the band. The
        replications' interval is one of 95 % and the band one of 90 %, which errs to the wide side.

        Parameters
        ----------
        mean, low, high : float
            The mean of a latency over replications, and its interval, in one unit. A `low` of 0
            or less, as few replications may have, leaves the interval open to 0.

        Examples
        --------
        >>> from math import exp
        >>> band = TimeBand(0.9, exp(-0.3), exp(0.3), 20, "", is_extrapolated=False)
        >>> low, high = band.around_mean(1.0, exp(-0.4), 1.0)
        >>> round(low - exp(-0.5), 12), round(high - exp(0.3), 12)
        (0.0, 0.0)
        """
        middle, half = _middle_and_half(self)
        below = math.log(mean / low) if low > 0 else math.inf
        above = math.log(high / mean) if mean > 0 else 0.0
        return (
            mean * math.exp(middle - math.hypot(half, below)),
            mean * math.exp(middle + math.hypot(half, above)),
        )

    @property
    def sure(self) -> str:
        """How sure, in a word or two: "90% sure", or "extrapolated"."""
        return "extrapolated" if self.is_extrapolated else f"{self.share:.0%} sure"

    @property
    def words(self) -> str:
        """What the band rests on, in one clause."""
        runs = f"{self.runs or 'no'} served run{'' if self.runs == 1 else 's'}"
        if self.is_extrapolated:
            return f"extrapolated from other classes, with {runs} of its own ({self.like})"
        return f"{self.share:.0%} sure, by {runs} that the fit had not seen ({self.like})"


class _Row(NamedTuple):
    """A row of the data file."""

    engine: str
    measured: bool
    experts: bool
    key: str
    low: float
    high: float
    runs: int


def time_band(
    engine_name: str, accelerator: AcceleratorProfile, model: ModelSpec, key: str
) -> TimeBand:
    """Return the band of a latency that is simulated with the step-time model.

    Parameters
    ----------
    engine_name : str
        The engine that is simulated.
    accelerator : AcceleratorProfile
        The card; it counts as measured where its profile has coefficients of its own, and not
        those of another card by its own datasheet.
    model : ModelSpec
        The model.
    key : str
        "ttft", "tpot" or "e2el"; a step of decode is as sure as "tpot".

    Returns
    -------
    TimeBand
        Extrapolated for a class with fewer than `FEWEST_RUNS` runs, a loop that is no served
        engine (coefficients of the twin), and a latency that no run was compared in.
    """
    known = accelerator.coefficients
    engine = TWIN if known is not None and known.engine == TWIN else engine_name
    has_experts = any(isinstance(group.mlp, MoeMlp) for group in model.layer_groups)
    is_own = is_measured(accelerator)
    wanted = (engine, is_own, has_experts, key)
    own = next((row for row in _rows() if row[:4] == wanted), None)
    has_own = own is not None and own.runs >= FEWEST_RUNS
    low, high = (own.low, own.high) if own is not None and has_own else _reach(engine, key)
    if card := _card_error(accelerator):
        low = math.exp(-math.hypot(min(math.log(low), 0.0), math.log1p(-card)))
        high = math.exp(math.hypot(max(math.log(high), 0.0), math.log1p(card)))
    return TimeBand(
        share=SHARE,
        low=low,
        high=high,
        runs=own.runs if own else 0,
        like=_class_words(engine, is_measured=is_own, has_experts=has_experts),
        is_extrapolated=not has_own,
    )


def is_measured(accelerator: AcceleratorProfile) -> bool:
    """Whether a card has step times of its own, and not another's by its own datasheet."""
    return accelerator.step_times == "measured"


def band_of(log_errors: Sequence[float], share: float = SHARE) -> tuple[float, float]:
    """Return the factors between which the next run of a class lies, from the runs so far.

    Split conformal prediction about the median (Vovk et al., Algorithmic Learning in a Random
    World, 2005; Lei et al., JASA 113, 2018): the half width is the ``ceil((n + 1) share)``-th
    smallest distance from the median of the `n` errors, so the next one lies within with at
    least about `share`, whatever the errors' distribution, and few runs make a wide band. Of
    distances and not of each tail, because a tail of 5 % asks for 19 runs, and a class has a
    dozen. Where even the largest distance is too small (``n < share / (1 - share)``), it is
    stretched by the ranks that are missing. Logarithms, so that twice and half as long are
    equally far.

    Parameters
    ----------
    log_errors : sequence of float
        ``log(measured / simulated)`` of each run; at least one.
    share : float
        Share of runs that shall lie within, between 0 and 1.

    Returns
    -------
    low, high : float
        Factors of the simulated time.

    Raises
    ------
    InputError
        Without a run.

    Examples
    --------
    >>> low, high = band_of([-0.2, -0.1, 0.0, 0.1, 0.3], share=0.6)
    >>> round(math.log(low), 6), round(math.log(high), 6)
    (-0.2, 0.2)
    """
    if not log_errors:
        raise InputError("a band of times needs at least one run", where="log_errors")
    middle = _median(sorted(log_errors))
    distances = sorted(abs(error - middle) for error in log_errors)
    rank = math.ceil((len(distances) + 1) * share - 1e-9)  # 10 * 0.9 is 9, whatever floats say
    half = distances[min(rank, len(distances)) - 1] * max(1.0, rank / len(distances))
    return math.exp(middle - half), math.exp(middle + half)


def _median(ordered: Sequence[float]) -> float:
    below, above = (len(ordered) - 1) // 2, len(ordered) // 2
    return (ordered[below] + ordered[above]) / 2


def _middle_and_half(band: TimeBand) -> tuple[float, float]:
    """The band's middle and half its width, as logarithms."""
    low, high = math.log(band.low), math.log(band.high)
    return (low + high) / 2, (high - low) / 2


def _reach(engine: str, key: str) -> tuple[float, float]:
    """The lowest and the highest factor of an engine's rows of a latency; of all where too few."""
    of_it = [row for row in _rows() if row.key == key]
    own = [row for row in of_it if row.engine == engine]
    if not any(row.runs >= FEWEST_RUNS for row in own):
        known = [row for row in _rows() if row.runs >= FEWEST_RUNS]
        own += [row for row in known if row.key == key] or known
    return min(row.low for row in own), max(row.high for row in own)


def _card_error(accelerator: AcceleratorProfile) -> float:
    """What nine in ten steps are off by on a card left out of its architecture's medians, a share.

    0 for a card whose steps were measured, or derived from such a one's.
    """
    if accelerator.coefficients is not None:
        return 0.0
    return efficiency_of(accelerator).within


def _class_words(engine: str, *, is_measured: bool, has_experts: bool) -> str:
    card = "a card with step times of its own" if is_measured else "a card that nobody measured"
    return f"{engine}, {'experts' if has_experts else 'dense'}, {card}"


@cache
def _rows() -> tuple[_Row, ...]:
    return tuple(_Row(**fields) for fields in read_shipped(_DATA)["bands"])
