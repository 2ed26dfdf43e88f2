"""What descriptions have in common: frozen, strict about keys, finite numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kvsim.errors import InputError
from kvsim.specs.numbers import LONGEST_SECONDS, finite, whole
from kvsim.units import parse_seconds

__all__ = [
    "Count",
    "Described",
    "Duration",
    "Flag",
    "NonNegative",
    "Positive",
    "Real",
    "Seconds",
    "ShapeCV",
    "Tokens",
    "Whole",
]


class Described(BaseModel):
    """Base of everything a person writes about a scenario."""

    # Built when it is first used: of twenty kinds of distribution a scenario has two.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def _plain_truth(value: Any) -> Any:
    """Take true and false alone, where pydantic would take "yes" and 1 for true."""
    if not isinstance(value, bool):
        raise ValueError("should be true or false")
    return value


Flag = Annotated[bool, BeforeValidator(_plain_truth)]
Whole = Annotated[int, BeforeValidator(whole)]
Real = Annotated[float, BeforeValidator(finite), Field(allow_inf_nan=False)]

# Nothing that is simulated is smaller or larger; squares and products of these stay floats.
_LEAST, _MOST = 1e-12, 1e15


def _not_tiny(value: float) -> float:
    if value < _LEAST:
        raise ValueError(f"should be at least {_LEAST:g}")
    return value


Count = Annotated[Whole, Field(ge=1, le=2**40)]
Tokens = Annotated[Whole, Field(ge=1, le=2**31)]
Positive = Annotated[Real, Field(gt=0, le=_MOST), AfterValidator(_not_tiny)]
NonNegative = Annotated[Real, Field(ge=0, le=_MOST)]

# Beyond, a Gamma or a Weibull distribution has a shape that doubles do not resolve.
ShapeCV = Annotated[Real, Field(ge=0.01, le=100)]


def _seconds(value: object) -> object:
    """Let "10min" through as 600; leave anything that is not text to the number's own check."""
    try:
        return parse_seconds(value) if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(f"should be a duration: {error.fix}") from None


Seconds = Annotated[Real, Field(ge=0, le=LONGEST_SECONDS), BeforeValidator(_seconds)]
Duration = Annotated[
    Real, Field(gt=0, le=LONGEST_SECONDS), AfterValidator(_not_tiny), BeforeValidator(_seconds)
]
