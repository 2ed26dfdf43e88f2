"""Between a load that passes and one that fails: found by octaves, then narrowed."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

__all__ = ["bisect", "bracket", "near"]

_MOST_OCTAVES = 8
_MOST_STEPS = 8
_ROUNDING = 1e-9


def bracket(
    passes: Callable[[float], bool],
    start: float,
    ceiling: float = inf,
    rounded: Callable[[float], float] = float,
    enough: float = inf,
) -> tuple[float, float | None] | tuple[None, float]:
    """Double or halve from `start` until one load passes and its double fails.

    Parameters
    ----------
    passes : callable
        Whether a load passes.
    start : float
        Where to begin, below `ceiling`.
    ceiling : float
        A load that is known to fail.
    rounded : callable
        The nearest load that there is.
    enough : float
        A load beyond which none is tried.

    Returns
    -------
    tuple
        The one that passes (None: none did) and the one that fails (None: none did).
    """
    rate = start
    if passes(rate):
        for _ in range(_MOST_OCTAVES):
            if rate >= enough:
                break
            if 2 * rate >= ceiling:
                return rate, ceiling
            if not passes(2 * rate):
                return rate, 2 * rate
            rate *= 2
        return rate, None
    for _ in range(_MOST_OCTAVES):
        half = rounded(rate / 2)
        if half == rate:
            break
        if passes(half):
            return half, rate
        rate = half
    return None, rate


def bisect(
    passes: Callable[[float], bool],
    low: float,
    high: float,
    tolerance: float,
    rounded: Callable[[float], float] = float,
) -> tuple[float, float]:
    """Narrow (passes, fails) by geometric means until they are `tolerance` apart.

    Parameters
    ----------
    passes : callable
        Whether a load passes.
    low, high : float
        One that passes and one that fails.
    tolerance : float
        Relative width to reach.
    rounded : callable
        The nearest load that there is.

    Examples
    --------
    >>> low, high = bisect(lambda rate: rate <= 3, 2.0, 4.0, 0.01)
    >>> low <= 3 < high <= 1.01 * low
    True
    """
    while high / low > (1 + tolerance) * (1 + _ROUNDING):
        middle = rounded(sqrt(low * high))
        if not low < middle < high:
            break
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low, high


def near(
    passes: Callable[[float], bool],
    found: tuple[float, float],
    ceiling: float,
    rounded: Callable[[float], float] = float,
) -> tuple[float, float]:
    """Find (passes, fails) for another seed, from where those of the first were `found`.

    Steps begin with their ratio and grow, then are halved to it. Nothing passed after some: 0 does.

    Examples
    --------
    >>> near(lambda rate: rate <= 3, (4.0, 5.0), inf)
    (2.56, 3.2)
    """
    ratio = found[1] / found[0]
    low, high = found if found[1] <= ceiling else (ceiling / ratio, ceiling)
    step = ratio
    if passes(low):
        while high < ceiling and passes(high):
            low, step = high, step * step
            high = min(ceiling, rounded(high * step))
    else:
        for _ in range(_MOST_STEPS):
            low, high, step = rounded(low / step), low, step * step
            if low == high:
                return 0.0, high
            if passes(low):
                break
        else:
            return 0.0, low
    return bisect(passes, low, high, ratio - 1, rounded)
