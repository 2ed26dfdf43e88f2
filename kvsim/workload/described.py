"""What descriptions have in common: frozen, strict about keys, finite numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kvsim.errors import InputError
from kvsim.units import parse_seconds

__all__ = [
    "Count",
    "Described",
    "Duration",
    "NonNegative",
    "Positive",
    "Real",
    "Seconds",
    "Tokens",
    "Whole",
]


class Described(BaseModel):
    """Base of everything a person writes about a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_truth(value: Any) -> Any:
    """Refuse true and false, of which pydantic would make 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]

Count = Annotated[Whole, Field(ge=1, le=2**40)]
Tokens = Annotated[Whole, Field(ge=1, le=2**31)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]


def _seconds(value: object) -> object:
    """Let "10min" through as 600; leave anything that is not text to pydantic."""
    try:
        return parse_seconds(value) if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(f"should be a duration: {error.fix}") from None


Seconds = Annotated[Real, BeforeValidator(_seconds), Field(ge=0)]
Duration = Annotated[Real, BeforeValidator(_seconds), Field(gt=0)]
