"""One quantity predicted and measured: what every comparison with reality is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

__all__ = ["Pair", "latency_keys", "pairs_of"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One quantity, predicted and measured, in the unit that its name states."""

    name: str
    predicted: float
    measured: float

    @property
    def error_percent(self) -> float | None:
        """How far the prediction is off, percent of the measurement; None of nothing."""
        off = 100 * (self.predicted / self.measured - 1) if self.measured else inf
        return off if isfinite(off) else None

    def record(self) -> dict[str, Any]:
        """The pair as JSON."""
        return {**asdict(self), "error_percent": self.error_percent}


def latency_keys(*names: str) -> tuple[str, ...]:
    """Keys of latencies in a result of ``vllm bench serve``: mean, median and p99 of each.

    Examples
    --------
    >>> latency_keys("ttft")
    ('mean_ttft_ms', 'median_ttft_ms', 'p99_ttft_ms')
    """
    return tuple(f"{point}_{name}_ms" for name in names for point in ("mean", "median", "p99"))


def pairs_of(
    predicted: Mapping[str, Any], measured: Mapping[str, Any], keys: Iterable[str]
) -> tuple[Pair, ...]:
    """Pair the numbers that two summaries both state, in the order of the keys."""
    return tuple(
        Pair(key, float(predicted[key]), float(measured[key]))
        for key in keys
        if _is_number(predicted.get(key)) and _is_number(measured.get(key))
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
