"""Bounded robust least squares: what every fit of kvsim minimises with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.rows import Floats
from kvsim.errors import MissingExtraError

__all__ = ["Free", "at_bounds", "least_squares", "load_optimize"]

_SOFT_ERROR = 0.03
_AT = 1e-3  # of a bound, which the optimiser keeps away from


@dataclass(frozen=True, slots=True)
class Free:
    """One free parameter: where to start, its bounds, and the unit it is written in."""

    name: str
    start: float
    low: float
    high: float
    unit: str = ""


def least_squares(
    residuals: Callable[[Floats], Floats],
    free: tuple[Free, ...],
    *,
    slopes: Callable[[Floats], Floats] | None = None,
    soft: float = _SOFT_ERROR,
    most: int | None = None,
) -> NDArray[np.float64]:
    """Minimise soft-L1 of the residuals inside the parameters' bounds.

    Parameters
    ----------
    residuals : callable
        Of the parameters' values (parameters,): (n,).
    free : tuple of Free
        The parameters.
    slopes : callable, optional
        Derivatives (n, parameters) of `residuals`; without it by differences of 1e-8, which a
        simulation does not notice.
    soft : float
        Residual beyond which a row counts by its distance, no more by its square.
    most : int, optional
        Most iterations, and then a change of a thousandth ends it; without it the optimiser's own.
    """
    tolerance = {} if most is None else {"max_nfev": most, "xtol": 1e-3, "ftol": 1e-3}
    result = load_optimize().least_squares(
        residuals,
        [parameter.start for parameter in free],
        jac=slopes or "2-point",
        bounds=([p.low for p in free], [p.high for p in free]),
        x_scale=[max(abs(parameter.start), 0.1) for parameter in free],
        loss="soft_l1",
        f_scale=soft,
        **tolerance,
    )
    return np.asarray(result.x, dtype=np.float64)


def at_bounds(free: tuple[Free, ...], values: Floats) -> tuple[str, ...]:
    """Names of the parameters that ended where their search does; a cost of 0 is an answer.

    Examples
    --------
    >>> at_bounds((Free("a", 1, 0, 2), Free("b", 1, 0.5, 2)), np.array([0.0, 0.5]))
    ('b',)
    """
    return tuple(
        each.name
        for each, value in zip(free, values, strict=True)
        if value >= each.high * (1 - _AT) or (each.low > 0 and value <= each.low * (1 + _AT))
    )


def load_optimize() -> Any:
    """Import scipy's optimisers.

    Raises
    ------
    MissingExtraError
        When scipy is not installed.
    """
    try:
        from scipy import optimize
    except ImportError:
        raise MissingExtraError("scipy", "calibrate", "fitting") from None
    return optimize
