"""Errors: their tree, their one line, and the names that are offered instead."""

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
    few,
    nearest,
)


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


def test_a_list_of_known_names_is_no_question():
    error = UnknownNameError("engine", "zzz", ["vllm", "sglang"])
    assert str(error) == "unknown engine 'zzz'; known are sglang, vllm"
    assert str(UnknownNameError("letter", "zzz", "abcdefghijk")).endswith("g, h, ...")


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


def test_a_long_message_keeps_both_ends():
    error = InputError(f"unknown {'x' * 5000}", where="file.yaml, line 3", fix="choose paged")
    assert len(str(error)) == 500
    assert str(error).startswith("file.yaml, line 3: unknown xxx")
    assert str(error).endswith("xxx; choose paged")
    assert len(str(UnsupportedError("y" * 501))) == 500
    assert str(UnsupportedError("y" * 500)) == "y" * 500


def test_few_says_what_there_is_room_for():
    assert few(["one"], room=1) == "one"
    assert few(["one", "two", "three"], room=6) == "one; two; and 1 more"
    assert few(["one", "two"], room=6) == "one; two"
