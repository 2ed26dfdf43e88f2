"""One thing to time: its sizes, what it moves and computes, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from kvsim.calibrate.measure.workspace import Workspace

__all__ = ["ELEMENT_BYTES", "Call", "Case", "LocalCase", "Row", "Timing", "halved", "summarise"]

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}

_FAR = 3.0  # interquartile ranges from which a sample is an outlier

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(ABC):
    """One thing to time.

    Parameters
    ----------
    dtype : str
        "fp32", "fp16", "bf16" or "fp8".

    Attributes
    ----------
    kind : str
        Name of this sort of measurement, as in the CSV.
    rotates : bool
        Whether it is of memory that no cache may hold, so that it must not become too small.
    """

    kind: ClassVar[str]
    rotates: ClassVar[bool] = False
    dtype: str

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return ELEMENT_BYTES[self.dtype]

    @property
    def optional(self) -> bool:
        """Whether a device may lack it: then a failure is noted and the session goes on."""
        return self.dtype == "fp8"

    @property
    def moved_bytes(self) -> float:
        """Bytes that one call has to read or write in the device's memory."""
        return 0.0

    @property
    def flops(self) -> float:
        """FLOPs of one call."""
        return 0.0

    @property
    def calls_in_turn(self) -> int:
        """Calls of one run, each on inputs of its own."""
        return int(getattr(self, "sets", 1))

    @property
    @abstractmethod
    def buffer_bytes(self) -> float:
        """Bytes that must be allocated to time it, all rotated inputs together."""

    def smaller(self) -> Case | None:
        """Return the next smaller case to try when memory is short; None when there is none."""
        return None

    def sizes(self) -> dict[str, Any]:
        """Return the fields that say how large it is, for the CSV."""
        names = [field.name for field in fields(self) if field.name != "dtype"]
        return {name: getattr(self, name) for name in names}

    @property
    def label(self) -> str:
        """The case in a few words: "gemm bf16 m=1 n=4096 k=4096"."""
        sizes = " ".join(f"{name}={value}" for name, value in self.sizes().items())
        return f"{self.kind} {self.dtype} {sizes}"


C = TypeVar("C", bound=Case)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCase(Case):
    """A case that this process runs on one device.

    Attributes
    ----------
    captured : bool
        Whether the calls may be replayed as a CUDA graph, so that launches do not count.
    hosted : bool
        Whether the host's seconds count: what it takes to launch the calls on an idle device.
    """

    captured: ClassVar[bool] = True
    hosted: ClassVar[bool] = False

    @abstractmethod
    def calls(self, space: Workspace) -> list[Call]:
        """Allocate the inputs; return calls that do the same work on different ones."""


def halved(case: C, *names: str) -> C | None:
    """Return the case with the first of the named sizes above 1 halved; None when all are 1."""
    for name in names:
        size = int(getattr(case, name))
        if size > 1:
            smaller: dict[str, Any] = {name: size // 2}
            return replace(case, **smaller)
    return None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call.

    Parameters
    ----------
    seconds : float
        Median of the samples.
    low_seconds, high_seconds : float
        Quartiles.
    samples, outliers : int
        Samples taken, and those further from the quartiles than three times their distance.
    captured : bool
        Whether a CUDA graph was replayed.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    samples: int
    outliers: int = 0
    captured: bool = False

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.high_seconds - self.low_seconds) / self.seconds


def summarise(samples: Sequence[float], *, captured: bool = False) -> Timing:
    """Median, quartiles and outliers of samples, seconds.

    Examples
    --------
    >>> timing = summarise([1.0, 1.0, 1.1, 1.2, 9.0])
    >>> timing.seconds, timing.low_seconds, timing.outliers
    (1.1, 1.0, 1)
    """
    low, middle, high = (float(q) for q in np.percentile(samples, (25, 50, 75)))
    reach = _FAR * (high - low)
    outliers = sum(not low - reach <= sample <= high + reach for sample in samples)
    return Timing(middle, low, high, len(samples), outliers, captured)


@dataclass(frozen=True, slots=True)
class Row:
    """A case and how long it took."""

    case: Case
    timing: Timing

    @property
    def seconds(self) -> float:
        """Median seconds of one call."""
        return self.timing.seconds
