"""Distributions of lengths (tokens) and pauses (seconds), and how each is drawn.

Each kind takes the parameters its literature uses, or its mean and coefficient of variation
(CV, the standard deviation over the mean): one pair, never both.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from kvsim.workload.base import Floats, Ints
from kvsim.workload.described import (
    Described,
    NonNegative,
    Positive,
    Real,
    Seconds,
    ShapeCV,
    Tokens,
    Whole,
)

__all__ = [
    "Distribution",
    "Empirical",
    "Exponential",
    "Fixed",
    "Gamma",
    "Lognormal",
    "Pause",
    "RealDistribution",
    "Uniform",
    "Weibull",
    "Zipf",
    "cumulated_shares",
    "drawn_places",
    "weibull_shape",
]


class Distribution(Described):
    """What every kind shares: values below `min` or above `max` are clipped to it."""

    min: NonNegative = 0.0
    max: Positive | None = None

    @model_validator(mode="after")
    def _clip_ordered(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max:g} is below min {self.min:g}")
        return self

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        raise NotImplementedError

    @property
    def least_tokens(self) -> int:
        """A length that no draw is below."""
        return max(1, round(self.min))

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Return `count` real values, clipped to [min, max]."""
        drawn = self._draw(rng, count)
        return drawn if self.max is None and self.min == 0 else np.clip(drawn, self.min, self.max)

    def draw_tokens(self, rng: np.random.Generator, count: int) -> Ints:
        """Return `count` lengths: clipped values rounded to whole tokens, 1 to 2**31."""
        return _whole(np.rint(self.draw(rng, count)))


def _whole(lengths: Floats) -> Ints:
    return np.clip(lengths, 1, 2**31).astype(np.int64)


class Fixed(Distribution):
    """Always the same: ``{kind: fixed, tokens: 512}`` or ``{kind: fixed, seconds: 2}``."""

    kind: Literal["fixed"]
    tokens: Tokens | None = None
    seconds: Seconds | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Fixed:
        if (self.tokens is None) == (self.seconds is None):
            raise ValueError("give tokens (a length) or seconds (a pause)")
        return self

    @property
    def least_tokens(self) -> int:
        """The length itself, clipped."""
        return max(1, round(float(np.clip(self.mean_value, self.min, self.max))))

    @property
    def mean_value(self) -> float:
        """The value, in its own unit."""
        return float(self.seconds if self.tokens is None else self.tokens)  # type: ignore[arg-type]

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        return np.full(count, self.mean_value)


class Uniform(Distribution):
    """Every value from `low` to `high`; for lengths both ends are whole numbers and included."""

    kind: Literal["uniform"]
    low: NonNegative
    high: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high < self.low:
            raise ValueError(f"high {self.high:g} is below low {self.low:g}")
        return self

    @property
    def least_tokens(self) -> int:
        """The lower end, clipped."""
        return max(1, math.floor(float(np.clip(self.low, self.min, self.max))))

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        return self.low + (self.high - self.low) * rng.random(count)

    def draw_tokens(self, rng: np.random.Generator, count: int) -> Ints:
        """Return `count` whole values from `low` to `high`, each as likely as the next."""
        whole = np.floor(self.low + (np.floor(self.high) + 1 - self.low) * rng.random(count))
        return _whole(np.clip(whole, self.min, self.max))


class Exponential(Distribution):
    """Exponential with a mean: ``{kind: exponential, mean: 10}``."""

    kind: Literal["exponential"]
    mean: Positive

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.exponential(self.mean, count)


class _TwoParameters(Distribution):
    """A family given by its own two parameters or by (mean, cv)."""

    own: ClassVar[tuple[str, str]]
    mean: Positive | None = None
    cv: ShapeCV | None = None

    @staticmethod
    def _of_moments(mean: float, cv: float) -> tuple[float, float]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        own, moments = self._own_values(), (self.mean, self.cv)
        for given, absent in ((own, moments), (moments, own)):
            if None not in given and absent == (None, None):
                return self
        raise ValueError(f"give mean and cv, or {' and '.join(self.own)}")

    def _own_values(self) -> tuple[float, float]:
        first, second = self.own
        return getattr(self, first), getattr(self, second)

    @cached_property
    def parameters(self) -> tuple[float, float]:
        """The family's own two parameters, whichever pair was given."""
        if self.mean is None or self.cv is None:
            return self._own_values()
        return self._of_moments(self.mean, self.cv)


class Lognormal(_TwoParameters):
    """Lognormal: `mu` and `sigma` of the logarithm, or `mean` and `cv`."""

    kind: Literal["lognormal"]
    own = ("mu", "sigma")
    mu: Annotated[Real, Field(ge=-50, le=50)] | None = None
    sigma: Annotated[Real, Field(gt=0, le=10)] | None = None

    @staticmethod
    def _of_moments(mean: float, cv: float) -> tuple[float, float]:
        """``sigma**2 = ln(1 + cv**2)``, ``mu = ln mean - sigma**2 / 2``."""
        variance = math.log1p(cv**2)
        return math.log(mean) - variance / 2, math.sqrt(variance)

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        mu, sigma = self.parameters
        return rng.lognormal(mu, sigma, count)


class _ShapeScale(_TwoParameters):
    """A family of a shape and a scale."""

    own = ("shape", "scale")
    shape: Positive | None = None
    scale: Positive | None = None


class Gamma(_ShapeScale):
    """Gamma: `shape` and `scale`, or `mean` and `cv`."""

    kind: Literal["gamma"]

    @staticmethod
    def _of_moments(mean: float, cv: float) -> tuple[float, float]:
        """``shape = 1 / cv**2``, ``mean = shape * scale``."""
        return cv**-2, mean * cv**2

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        shape, scale = self.parameters
        return rng.gamma(shape, scale, count)


class Weibull(_ShapeScale):
    """Weibull: `shape` and `scale`, or `mean` and `cv`."""

    kind: Literal["weibull"]

    @staticmethod
    def _of_moments(mean: float, cv: float) -> tuple[float, float]:
        """``mean = scale * gamma(1 + 1/shape)``."""
        shape = weibull_shape(cv)
        return shape, mean / math.gamma(1 + 1 / shape)

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        shape, scale = self.parameters
        return scale * rng.weibull(shape, count)


class Zipf(Distribution):
    """Zipf over the whole numbers from `low` to `high`: P(k) is proportional to k**-exponent."""

    kind: Literal["zipf"]
    exponent: Positive
    low: Annotated[Whole, Field(ge=1)] = 1
    high: Annotated[Whole, Field(ge=1, le=10**7)]

    @model_validator(mode="after")
    def _ordered(self) -> Zipf:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self

    @cached_property
    def _shares(self) -> Floats:
        return cumulated_shares(np.arange(self.low, self.high + 1, dtype=float) ** -self.exponent)

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        return self.low + drawn_places(self._shares, rng, count).astype(float)


class Empirical(Distribution):
    """Values seen, drawn with replacement: ``{kind: empirical, values: [...]}``.

    `weights` (one a value, any scale) makes it a histogram.
    """

    kind: Literal["empirical"]
    values: tuple[NonNegative, ...] = Field(min_length=1)
    weights: tuple[NonNegative, ...] | None = None

    @model_validator(mode="after")
    def _weighted(self) -> Empirical:
        if self.weights is not None:
            if len(self.weights) != len(self.values):
                raise ValueError(f"{len(self.weights)} weights for {len(self.values)} values")
            if sum(self.weights) <= 0:
                raise ValueError("weights sum to zero")
        return self

    @cached_property
    def _shares(self) -> Floats:
        return cumulated_shares(np.array(self.weights or np.ones(len(self.values))))

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        return np.asarray(self.values, dtype=float)[drawn_places(self._shares, rng, count)]


def cumulated_shares(weights: Floats) -> Floats:
    """Return the shares of weights of any scale, each with those before it added."""
    return np.asarray(np.cumsum(weights) / weights.sum())


def drawn_places(shares: Floats, rng: np.random.Generator, count: int) -> Ints:
    """Draw places 0, 1, ... with the shares that `cumulated_shares` gave."""
    at = np.searchsorted(shares, rng.random(count), side="right")
    return np.minimum(at, len(shares) - 1)  # the last share may round to less than 1


RealDistribution = Annotated[
    Fixed | Uniform | Exponential | Lognormal | Gamma | Weibull | Zipf | Empirical,
    Field(discriminator="kind"),
]


def _in_seconds(value: Distribution) -> Distribution:
    if isinstance(value, Fixed) and value.seconds is None:
        raise ValueError("a pause is given in seconds, not tokens")
    return value


Pause = Annotated[RealDistribution, AfterValidator(_in_seconds)]


def weibull_shape(cv: float) -> float:
    """Shape of the Weibull distribution with coefficient of variation `cv`.

    Solves ``gamma(1 + 2/k) / gamma(1 + 1/k)**2 = 1 + cv**2`` by bisection on the logarithm;
    the left side falls as k grows.

    Raises
    ------
    ValueError
        For a `cv` outside 0.01 to 100, where the shape leaves what doubles resolve.

    Examples
    --------
    >>> round(weibull_shape(1.0), 9)
    1.0
    """
    if not 0.01 <= cv <= 100:
        raise ValueError(f"a Weibull distribution with cv {cv:g} is out of range (0.01 to 100)")
    low, high = 0.05, 200.0
    for _ in range(200):
        middle = math.sqrt(low * high)
        excess = math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle) - math.log1p(cv**2)
        low, high = (middle, high) if excess > 0 else (low, middle)
    return math.sqrt(low * high)
