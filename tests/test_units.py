"""Sizes, durations and counts: read and printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.units import (
    GB,
    GIB,
    ceil_div,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80 * 10**9),
        ("80GiB", 80 * 2**30),
        ("80 gib", 80 * 2**30),
        ("79.19 GiB", int(79.19 * 2**30)),
        ("1.5MiB", 3 * 2**19),
        ("512", 512),
        (512, 512),
        ("1e9 B", 10**9),
        ("64K", 65536),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


def test_gb_is_decimal_and_gib_binary():
    assert (GB, GIB) == (10**9, 2**30)
    assert parse_bytes("1GiB") / parse_bytes("1GB") == pytest.approx(1.0737, abs=1e-4)


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 XB", "1,5 GB", "nan", "inf", "1e400", "1 2"])
def test_a_size_that_cannot_be(text):
    with pytest.raises(InputError):
        parse_bytes(text)
    with pytest.raises(InputError):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("2", 2), (1.5, 1.5), ("3min", 180), ("1h", 3600)]
)
def test_durations(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@given(st.integers(0, 2**62))
def test_a_printed_size_reads_back_to_three_digits(size):
    assert parse_bytes(format_bytes(size).replace("TiB", "tib")) == pytest.approx(size, rel=6e-3)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_ceil_div_is_the_least_count_that_covers(numerator, denominator):
    count = ceil_div(numerator, denominator)
    assert count * denominator >= numerator > (count - 1) * denominator


def test_what_people_read():
    assert format_bytes(2**40) == "1 TiB"
    assert format_bytes(-GIB) == "-1 GiB"
    assert [format_seconds(x) for x in (0, 95e-6, 0.0173, 75)] == [
        "0 s",
        "95 us",
        "17.3 ms",
        "75 s",
    ]
