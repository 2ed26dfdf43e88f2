"""Named random streams: a name's numbers depend on the seed and the name alone."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.workload.streams import Streams


def test_order_of_asking_does_not_matter():
    one, other = Streams(5), Streams(5)
    first = one.stream("arrivals").random(4)
    other.stream("prompts").random(100)
    other.stream("think").random(3)
    np.testing.assert_array_equal(other.stream("arrivals").random(4), first)


@given(st.integers(0, 2**64), st.text(max_size=8), st.text(max_size=8))
def test_streams_differ_by_name_and_by_seed(seed, name, other):
    drawn = Streams(seed).stream(name).integers(2**62, size=4).tolist()
    assert drawn == Streams(seed).stream(name).integers(2**62, size=4).tolist()
    assert drawn != Streams(seed + 1).stream(name).integers(2**62, size=4).tolist()
    if name != other:
        assert drawn != Streams(seed).stream(other).integers(2**62, size=4).tolist()


def test_children_are_families_of_their_own():
    parent = Streams(1)
    draws = {
        tuple(family.stream("think").integers(2**62, size=2).tolist())
        for family in (parent, parent.child("a"), parent.child("b"), parent.child("a").child("b"))
    }
    assert len(draws) == 4


def test_same_numbers_in_another_process_with_another_hash_seed():
    code = (
        "from kvsim.workload.streams import Streams;"
        " print(Streams(3).stream('outputs').integers(2**62))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{Streams(3).stream('outputs').integers(2**62)}\n"}


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7", None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match="seed"):
        Streams(seed)
