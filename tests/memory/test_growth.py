"""How the blocks of a sequence grow, and how many slots of them it fills."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.memory.growth import BlockCurve, Growth, Window

GROWTHS = st.builds(
    Growth,
    st.sampled_from([1, 2, 3, 4, 16]),
    st.sampled_from([None, 0, 1, 2, 5]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([None, Window.state(2, 0)]),
)
GROUPS = st.lists(GROWTHS, min_size=1, max_size=5).map(tuple)
TOKENS = st.integers(0, 200)
MIXED = (Growth.full(16), Growth.capped(4, 3), Growth.capped(4, 3), Growth.constant(2))


# ---- known answers ----------------------------------------------------------------------


def test_a_group_grows_to_the_end_to_a_cap_or_not_at_all() -> None:
    lengths = (0, 1, 4, 5, 100)
    assert [Growth.full(4).blocks_at(n) for n in lengths] == [0, 1, 1, 2, 25]
    assert [Growth.capped(4, 2).blocks_at(n) for n in lengths] == [0, 1, 1, 2, 2]
    assert [Growth.constant(3).blocks_at(n) for n in lengths] == [3] * 5
    assert [Growth.full(4, width=2).blocks_at(n) for n in lengths] == [0, 2, 2, 4, 50]


def test_groups_of_one_block_size_are_one_curve() -> None:
    """Two blocks open at once where the width is two; caps ascend."""
    groups = (Growth.capped(16, 65, width=2), Growth.full(16, width=2), Growth.capped(16, 9))
    assert BlockCurve.of(groups) == BlockCurve(16, 2, (9, 65, 65))
    assert BlockCurve.of((Growth.full(16),)) == BlockCurve(16)


def test_what_never_grows_has_no_block_size_of_its_own() -> None:
    """States take the size of what grows beside them; alone, their blocks are of one token."""
    assert BlockCurve.of((Growth.constant(2), Growth.full(16))) == BlockCurve(16, fixed=2)
    assert BlockCurve.of((Growth.constant(2),)) == BlockCurve(1, 0, fixed=2)


def test_larger_blocks_stand_beside_the_smallest() -> None:
    """Windows of three blocks of 4 and a group of 16: the pool's states are counted once."""
    curve = BlockCurve.of(MIXED)
    assert curve == BlockCurve(4, 0, (3, 3), 2, (BlockCurve(16),))
    assert curve.slots_per_block == 16
    assert [curve.blocks_at(n) for n in (1, 4, 5, 12, 16, 17, 100)] == [5, 5, 7, 9, 9, 10, 15]
    assert curve.breakpoints == (12,)
    assert curve.shared_blocks_at(40) == 2


def test_a_token_fills_a_whole_number_of_slots_in_every_group() -> None:
    """Blocks of 6 and 4 are 12 slots: a token fills two of the one and three of the other."""
    curve = BlockCurve.of((Growth.full(6), Growth.capped(4, 2), Growth.constant(1)))
    assert curve.slots_per_block == 12
    assert [curve.slots_at(n) for n in (1, 6, 8, 9)] == [17, 42, 52, 54]
    assert [curve.slot_slope_at(n) for n in (0, 7, 8, 100)] == [5, 5, 2, 2]


def test_a_window_keeps_its_last_tokens() -> None:
    """Two blocks of 4: 8 slots, whatever comes after."""
    curve = BlockCurve(4, 0, (2,))
    assert [curve.slots_at(n) for n in (0, 3, 8, 9, 1000)] == [0, 3, 8, 8, 8]


@pytest.mark.parametrize(
    ("groups", "blocks", "tokens"),
    [
        ((Growth.full(16),), 3, 48),
        ((Growth.full(16), Growth.full(4)), 10, 32),  # 2 + 8; 33 tokens take 3 + 9
        ((Growth.full(16), Growth.full(4)), 9, 28),  # 2 + 7
        (MIXED, 10, 32),  # 2 states, 2 * 3 of windows, 2 that grow
        (MIXED, 4, 0),  # a first token takes 5
        (MIXED, 5, 4),
        ((Growth.capped(4, 3), Growth.capped(16, 1)), 4, inf),
        ((Growth.capped(4, 3), Growth.capped(16, 1)), 3, 8),
        ((Growth.constant(2),), 2, inf),
        ((Growth.constant(2),), 1, 0),
    ],
)
def test_the_longest_sequence(groups: tuple[Growth, ...], blocks: int, tokens: float) -> None:
    assert BlockCurve.of(groups).longest(blocks) == tokens


# ---- laws -------------------------------------------------------------------------------


@given(groups=GROUPS, tokens=TOKENS)
def test_a_curve_is_the_sum_of_its_groups(groups: tuple[Growth, ...], tokens: int) -> None:
    curve = BlockCurve.of(groups)
    assert curve.blocks_at(tokens) == sum(each.blocks_at(tokens) for each in groups)
    assert list(curve.parts) == sorted(curve.parts, key=lambda part: part.block_size)


@given(groups=GROUPS, blocks=st.integers(0, 40))
def test_the_longest_is_found_by_trying(groups: tuple[Growth, ...], blocks: int) -> None:
    """No group stops after 80 tokens, and 40 blocks hold at most 640 of those that grow."""
    curve = BlockCurve.of(groups)
    fitting = [tokens for tokens in range(1, 800) if curve.blocks_at(tokens) <= blocks]
    longest = max(fitting, default=0)
    assert curve.longest(blocks) == (inf if longest == 799 else longest)


@given(groups=GROUPS, tokens=TOKENS)
def test_the_slope_is_what_the_next_token_fills(groups: tuple[Growth, ...], tokens: int) -> None:
    curve = BlockCurve.of(groups)
    opened = (part for part in curve.parts if tokens % part.block_size == 0)
    states = sum(part.states for part in opened) * curve.slots_per_block
    more = curve.slots_at(tokens + 1) - curve.slots_at(tokens)
    assert more == curve.slot_slope_at(tokens) + states


@given(groups=GROUPS, tokens=TOKENS)
def test_the_slope_changes_at_breakpoints_alone(groups: tuple[Growth, ...], tokens: int) -> None:
    curve = BlockCurve.of(groups)
    if tokens + 1 not in curve.breakpoints:
        assert curve.slot_slope_at(tokens + 1) == curve.slot_slope_at(tokens)
    else:
        assert curve.slot_slope_at(tokens + 1) < curve.slot_slope_at(tokens)


@given(groups=GROUPS, tokens=TOKENS)
def test_nothing_is_filled_that_is_not_held(groups: tuple[Growth, ...], tokens: int) -> None:
    curve = BlockCurve.of(groups)
    assert curve.blocks_at(tokens) * curve.slots_per_block >= curve.slots_at(tokens)


@given(groups=GROUPS, tokens=TOKENS)
def test_blocks_of_one_token_waste_nothing(groups: tuple[Growth, ...], tokens: int) -> None:
    curve = BlockCurve.of(tuple(each._replace(block_size=1) for each in groups))
    assert curve.slots_per_block == 1
    assert curve.blocks_at(tokens) == curve.slots_at(tokens)
