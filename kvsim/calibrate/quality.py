"""How far a fit may miss the rows that it was made on, and what is said of one that misses more."""

from __future__ import annotations

from kvsim.errors import InputError

__all__ = ["poor_fit", "refuse_meaningless"]

# The shipped cards' fits miss their own rows by 2.7 to 6.6 %: three times the worst is no fit
# of theirs. At half of the measurement, a guess within a factor of two is as good.
_POOR_PERCENT = 20.0
_MEANINGLESS_PERCENT = 50.0


def poor_fit(error_percent: float) -> str:
    """Say what is wrong with coefficients that miss their own rows by so much; "" of good ones.

    Examples
    --------
    >>> poor_fit(31)
    'misses its own rows by 31 %, over 20 %: do not trust what is simulated with it'
    >>> poor_fit(4.9)
    ''
    """
    if error_percent <= _POOR_PERCENT:
        return ""
    off = f"{error_percent:.0f} %, over {_POOR_PERCENT:.0f} %"
    return f"misses its own rows by {off}: do not trust what is simulated with it"


def refuse_meaningless(error_percent: float, source: object) -> None:
    """Refuse a fit that says nothing of its own rows, before it becomes a profile.

    Raises
    ------
    InputError
        When it misses them by more than half, or by what is no number.
    """
    if not error_percent <= _MEANINGLESS_PERCENT:
        raise InputError(
            f"no step times of this accelerator fit: the nearest are {error_percent:.0f} % off",
            where=str(source),
            fix="check the units of the rows, and that --gpu is what they were measured on",
        )
