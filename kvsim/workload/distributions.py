"""Distributions of lengths (tokens) and pauses (seconds), and how each is drawn.

Each kind takes the parameters its literature uses, or its mean and coefficient of variation
(CV, the standard deviation over the mean): one pair, never both.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from kvsim.workload.base import Floats, Ints
from kvsim.workload.described import Described, NonNegative, Positive, Seconds, Tokens

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

    mean: Positive | None = None
    cv: Positive | None = None

    def _own(self) -> tuple[str, str]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _one_pair(self) -> Any:
        first, second = self._own()
        own = (getattr(self, first), getattr(self, second))
        moments = (self.mean, self.cv)
        if None not in own and moments == (None, None):
            return self
        if None not in moments and own == (None, None):
            return self
        raise ValueError(f"give mean and cv, or {first} and {second}")


class Lognormal(_TwoParameters):
    """Lognormal: `mu` and `sigma` of the logarithm, or `mean` and `cv`."""

    kind: Literal["lognormal"]
    mu: Annotated[float, Field(allow_inf_nan=False, ge=-50, le=50)] | None = None
    sigma: Annotated[float, Field(gt=0, le=10)] | None = None

    def _own(self) -> tuple[str, str]:
        return "mu", "sigma"

    @cached_property
    def parameters(self) -> tuple[float, float]:
        """(mu, sigma); from the moments, sigma**2 = ln(1 + cv**2), mu = ln mean - sigma**2/2."""
        if self.mean is None or self.cv is None:
            return self.mu, self.sigma  # type: ignore[return-value]
        variance = math.log1p(self.cv**2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        mu, sigma = self.parameters
        return rng.lognormal(mu, sigma, count)


class Gamma(_TwoParameters):
    """Gamma: `shape` and `scale`, or `mean` and `cv` (shape = 1 / cv**2)."""

    kind: Literal["gamma"]
    shape: Positive | None = None
    scale: Positive | None = None

    def _own(self) -> tuple[str, str]:
        return "shape", "scale"

    @cached_property
    def parameters(self) -> tuple[float, float]:
        """(shape, scale)."""
        if self.mean is None or self.cv is None:
            return self.shape, self.scale  # type: ignore[return-value]
        return self.cv**-2, self.mean * self.cv**2

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        shape, scale = self.parameters
        return rng.gamma(shape, scale, count)


class Weibull(_TwoParameters):
    """Weibull: `shape` and `scale`, or `mean` and `cv`."""

    kind: Literal["weibull"]
    shape: Positive | None = None
    scale: Positive | None = None

    def _own(self) -> tuple[str, str]:
        return "shape", "scale"

    @cached_property
    def parameters(self) -> tuple[float, float]:
        """(shape, scale); mean = scale * gamma(1 + 1/shape)."""
        if self.mean is None or self.cv is None:
            return self.shape, self.scale  # type: ignore[return-value]
        shape = weibull_shape(self.cv)
        return shape, self.mean / math.gamma(1 + 1 / shape)

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        shape, scale = self.parameters
        return scale * rng.weibull(shape, count)


class Zipf(Distribution):
    """Zipf over the whole numbers from `low` to `high`: P(k) is proportional to k**-exponent."""

    kind: Literal["zipf"]
    exponent: Positive
    low: Annotated[int, Field(ge=1)] = 1
    high: Annotated[int, Field(ge=1, le=10**7)]

    @model_validator(mode="after")
    def _ordered(self) -> Zipf:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self

    @cached_property
    def _cumulative(self) -> Floats:
        weights = np.arange(self.low, self.high + 1, dtype=float) ** -self.exponent
        return np.asarray(np.cumsum(weights) / weights.sum())

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        rank = np.searchsorted(self._cumulative, rng.random(count), side="right")
        return self.low + np.minimum(rank, self.high - self.low).astype(float)


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
    def _cumulative(self) -> Floats:
        weights = np.ones(len(self.values)) if self.weights is None else np.array(self.weights)
        return np.asarray(np.cumsum(weights) / weights.sum())

    def _draw(self, rng: np.random.Generator, count: int) -> Floats:
        at = np.searchsorted(self._cumulative, rng.random(count), side="right")
        return np.asarray(self.values, dtype=float)[np.minimum(at, len(self.values) - 1)]


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
