"""Sizes, durations and error messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim.errors
from kvsim.errors import (
    InputError,
    InvariantError,
    KVSimError,
    MissingExtraError,
    UnknownNameError,
    UnsupportedError,
    nearest,
)
from kvsim.units import (
    GB,
    GIB,
    ceil_div,
    format_bytes,
    format_count,
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
    assert format_count(17_412.4) == "17,412"
    assert format_count(2.25) == "2.25"
    assert [format_seconds(x) for x in (0, 95e-6, 0.0173, 75)] == [
        "0 s",
        "95 us",
        "17.3 ms",
        "75 s",
    ]


def test_the_drawn_tree_is_the_real_tree():
    """The module's docstring draws each exception below its base."""
    tree = {
        InputError: KVSimError,
        UnknownNameError: InputError,
        UnsupportedError: KVSimError,
        MissingExtraError: KVSimError,
        InvariantError: KVSimError,
    }
    assert all(child.__bases__ == (base,) for child, base in tree.items())
    for error in (KVSimError, *tree):
        assert error.__name__ in kvsim.errors.__doc__
        assert error.exit_code == (70 if error is InvariantError else 2)


def test_an_error_says_where_what_and_the_fix_in_that_order():
    error = InputError(
        "utilisation 1.2", where="--gpu-memory-utilization", fix="choose from 0 to 1"
    )
    assert str(error) == "--gpu-memory-utilization: utilisation 1.2; choose from 0 to 1"


def test_an_unknown_name_lists_near_ones_or_all():
    near = str(UnknownNameError("engine", "vlm", ["vllm", "sglang"], fix="see the list"))
    assert near == "unknown engine 'vlm'; did you mean vllm?; see the list"
    assert "known are sglang, vllm" in str(UnknownNameError("engine", "zzz", ["vllm", "sglang"]))


def test_a_missing_extra_names_what_to_install():
    text = str(MissingExtraError("torch", "calibrate", "kvsim calibrate"))
    assert "pip install 'kvsim[calibrate]'" in text
    assert "'torch'" in text


@given(st.text(max_size=30))
def test_nearest_only_returns_known_names(name):
    known = ["llama2-7b", "llama3-8b", "gpt2", "A100"]
    found = nearest(name, known)
    assert set(found) <= set(known)
    assert len(found) == len(set(found)) <= 4
