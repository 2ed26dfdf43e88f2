"""One quantity predicted and measured: what every comparison with reality is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One quantity, predicted and measured, in the unit that its name states."""

    name: str
    predicted: float
    measured: float

    @property
    def error_percent(self) -> float | None:
        """How far the prediction is off, percent of the measurement; None of nothing."""
        return 100 * (self.predicted / self.measured - 1) if self.measured else None

    def record(self) -> dict[str, Any]:
        """The pair as JSON."""
        return {**asdict(self), "error_percent": self.error_percent}
