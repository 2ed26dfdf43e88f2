"""Numbers that come from outside, by one rule: JSON, YAML, CSV, a log, a call.

::

    3, "3", 3.0, "3e0"                          whole(...)  3
    0.5, "0.5", "5e-1"                          finite(...) 0.5
    true, "1_000", "٣", nan, inf, 10**400       ValueError, in the words of `WHOLE` and `FINITE`

A value is refused in a few words; who reads it adds the file, the line and the key.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any

__all__ = [
    "FINITE",
    "LARGEST_WHOLE",
    "LONGEST_NUMBER",
    "LONGEST_SECONDS",
    "WHOLE",
    "finite",
    "seconds",
    "shown",
    "whole",
]

FINITE = "should be a finite number"
WHOLE = "should be a whole number"
LARGEST_WHOLE = 2**63 - 1  # what a column of numpy's holds
# 317 years. Beside it a double still tells microseconds apart; at 1e15 s the clock of a
# simulation would stand still between steps of a millisecond.
LONGEST_SECONDS = 1e10
# Longer text is no number that anybody measured, and Python takes quadratic time over it.
LONGEST_NUMBER = 100
_PLAIN_DIGITS = 18  # as many are always within `LARGEST_WHOLE`
_EXACT = 2**53  # beyond, a double is whole because it has no room for a fraction
_DIGITS = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def finite(value: Any) -> float:
    """Read a finite number, or text that spells one.

    Raises
    ------
    ValueError
        For anything else, true and false included.

    Examples
    --------
    >>> finite(2), finite("3.35e12")
    (2.0, 3350000000000.0)
    """
    if isinstance(value, str):
        number = _of_text(value)
    elif isinstance(value, bool) or not hasattr(value, "__float__"):
        number = None
    else:
        number = _float(value)
    if number is None or not math.isfinite(number):
        raise ValueError(FINITE)
    return float(number)


def whole(value: Any) -> int:
    """Read a whole number of at most 63 bits, or text that spells one.

    Raises
    ------
    ValueError
        For anything else, true and false included.

    Examples
    --------
    >>> whole(374), whole("374"), whole(374.0), whole("010")
    (374, 374, 374, 10)
    """
    if isinstance(value, str):
        if len(value) <= _PLAIN_DIGITS and value.isascii() and value.isdecimal():
            return int(value)  # millions of rows of a trace
        number: Any = _of_text(value)
    else:
        number = value
    if isinstance(number, float) and number.is_integer() and abs(number) <= _EXACT:
        number = int(number)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ValueError(WHOLE)
    exact = operator.index(number)
    if abs(exact) > LARGEST_WHOLE:
        raise ValueError(f"{WHOLE} of at most 63 bits")
    return exact


def seconds(value: Any) -> float:
    """Read a time: finite, 0 or more, and within `LONGEST_SECONDS`.

    Raises
    ------
    ValueError
        For anything else.
    """
    number = finite(value)
    if number < 0:
        raise ValueError("should be at least 0")
    if number > LONGEST_SECONDS:
        raise ValueError(f"should be at most {LONGEST_SECONDS:.0e} s")
    return number


def shown(value: Any, most: int = 60) -> str:
    """Print somebody's value in one line of a few characters.

    Examples
    --------
    >>> shown("fast"), shown(10**5000), shown([1] * 99, 12)
    ("'fast'", 'what is too long to print', '[1, 1, 1,...')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of over 4,300 digits, or a deep nest
        return "what is too long to print"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _of_text(text: str) -> int | float | None:
    """The number that a text spells, in digits of ASCII; None for any other text."""
    text = text.strip()
    if len(text) > LONGEST_NUMBER:
        return None
    if _DIGITS.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else None


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
