"""Numbers from outside: what is one, what is none, whichever file it stands in."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.specs.numbers import LARGEST_WHOLE, LONGEST_SECONDS, finite, seconds, shown, whole
from tests.support.needs import examples

NO_NUMBERS = [
    True, False, None, "", " ", "abc", "1_000", "1,000", "٣", "0x10", "1:30", "nan", "inf",
    "-Infinity", "true", "1e", "e1", ".", "+", "--1", "1 2", [], [1], {}, math.nan, math.inf,
    -math.inf, 10**400, "9" * 400, "1e400", "9" * 5000, 10**5000, 1j, b"1", object(),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=[shown(value, 20) for value in NO_NUMBERS])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match=r"should be a finite number\Z"):
        finite(value)
    with pytest.raises(ValueError, match=r"should be a whole number( of at most 63 bits)?\Z"):
        whole(value)
    with pytest.raises(ValueError, match=r"should be a finite number\Z"):
        seconds(value)


@pytest.mark.parametrize("value", [0.5, "0.5", 2.0**60, 1e300, "1e300", 2**63, str(2**63)])
def test_a_finite_number_that_is_not_whole_or_not_known_to_be(value):
    assert finite(value) == float(value)
    with pytest.raises(ValueError, match="should be a whole number"):
        whole(value)


@pytest.mark.parametrize(
    "value", [3, "3", " 3 ", "+3", "003", 3.0, "3.0", "3.", "30e-1", np.int32(3), np.float64(3)]
)
def test_three(value):
    assert (whole(value), type(whole(value))) == (3, int)
    assert (finite(value), type(finite(value))) == (3.0, float)
    assert seconds(value) == 3.0


def test_a_fraction_is_finite():
    assert finite(Fraction(1, 4)) == finite(".25") == finite(np.float32(0.25)) == 0.25


def test_the_bounds_are_the_last_that_pass():
    assert whole(LARGEST_WHOLE) == whole(str(LARGEST_WHOLE)) == 2**63 - 1
    assert whole(-LARGEST_WHOLE) == -(2**63) + 1
    assert whole(2.0**53) == 2**53
    assert seconds(LONGEST_SECONDS) == 1e10
    with pytest.raises(ValueError, match=r"should be at most 1e\+10 s"):
        seconds(np.nextafter(LONGEST_SECONDS, np.inf))
    with pytest.raises(ValueError, match="should be at least 0"):
        seconds(-5e-324)


def test_a_clock_at_the_bound_still_tells_two_microseconds_apart():
    assert LONGEST_SECONDS + 2e-6 > LONGEST_SECONDS


@settings(max_examples=examples(300))
@given(value=st.text(max_size=30) | st.text("+-.eE0123456789_ ", max_size=12))
def test_text_that_is_read_is_read_as_python_does(value):
    try:
        number = finite(value)
    except ValueError:
        return
    assert number == float(value)


@settings(max_examples=examples(200))
@given(value=st.integers() | st.floats())
def test_a_number_and_its_text_are_read_alike(value):
    def answer(rule, given):
        try:
            return rule(given)
        except ValueError as error:
            return str(error)

    assert answer(finite, value) == answer(finite, str(value))
    assert answer(whole, value) == answer(whole, str(value))


def test_a_value_is_shown_in_one_short_line():
    for value in ("x" * 999, "a\nb\r\u2028c", 10**5000, [[10**5000]], {"a": "\x00"}, ["\x85"] * 99):
        assert len(shown(value)) <= 60
        assert len(shown(value).splitlines()) == 1
