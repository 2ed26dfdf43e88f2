"""What the workload's descriptions have in common: frozen, strict about keys, finite numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kvsim.units import parse_seconds

__all__ = ["Count", "Described", "Duration", "NonNegative", "Positive", "Seconds", "Tokens"]


class Described(BaseModel):
    """Base of everything a person writes about a workload."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=1, le=2**40)]
Tokens = Annotated[int, Field(ge=1, le=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _seconds(value: object) -> object:
    """Let "10min" through as 600; leave anything that is not text to pydantic."""
    return parse_seconds(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
