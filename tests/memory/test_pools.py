"""An engine's pools: what fits, what runs out first, and what they come to in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.memory.growth import BlockCurve, Growth
from kvsim.memory.pools import Group, KVPools, Pool


def pool(name: str, blocks: int, size: int, *growths: Growth, withheld: int = 0) -> Pool:
    """A pool of `blocks` blocks of `size` bytes, with a group for each of these."""
    groups = tuple(
        Group(name, 1, 0, growth.block_size, size, 0, growth)
        for growth in growths or (Growth.full(16),)
    )
    return Pool(name, groups[0].block_size, size, blocks, withheld, groups)


FULL = pool("full", 101, 1600, withheld=1)
WINDOW = pool("window", 30, 4800, Growth.capped(16, 3))
STATES = pool("states", 12, 70_000, Growth.constant(1))
APART = KVPools((FULL, WINDOW, STATES), 1.0)


def test_nobody_is_given_what_is_withheld() -> None:
    assert FULL.given_blocks == 100
    assert pool("nothing", 0, 16, withheld=1).given_blocks == 0
    assert APART.total_bytes == 101 * 1600 + 30 * 4800 + 12 * 70_000
    assert APART.given_bytes == APART.total_bytes - 1600


def test_plain_is_one_group_that_grows() -> None:
    assert FULL.is_plain
    assert not WINDOW.is_plain
    assert not STATES.is_plain
    assert not pool("two groups", 9, 16, Growth.full(16), Growth.full(16)).is_plain


@pytest.mark.parametrize(
    ("tokens", "requests", "name"),
    [
        (1, 12, "states"),  # 100, 30 and 12 would fit
        (33, 10, "window"),  # 33, 10 and 12
        (160, 10, "full"),  # 10, 10 and 12: the first of those that tie
        (176, 9, "full"),
        (1601, 0, "full"),
    ],
)
def test_the_first_pool_to_run_out_decides(tokens: int, requests: int, name: str) -> None:
    assert APART.requests(tokens) == requests
    assert APART.scarcest(tokens).name == name


def test_a_sequence_has_blocks_in_every_pool() -> None:
    """Of 50 tokens: 4 blocks, the window's 3, and a state."""
    assert APART.sequence_bytes(50) == 4 * 1600 + 3 * 4800 + 70_000


def test_a_slot_weighs_its_bytes_where_there_are_several_pools() -> None:
    """A token takes 100 bytes of the one, 300 of the window; a state is a slot."""
    assert KVPools((FULL,), 1.0).slot_weights == (1,)
    assert KVPools((FULL,), 1.0).slots == 1600
    assert APART.slot_weights == (100, 300, 70_000)
    assert APART.slots == APART.given_bytes


def test_who_keeps_a_token_together_has_the_same_bytes_in_one_pool() -> None:
    """Of 400 bytes a token: 1,144,000 / 400."""
    alike = APART.contiguous(400.2, 0)
    assert len(alike.pools) == 1
    assert alike.main.is_plain
    assert (alike.main.block_bytes, alike.main.given_blocks) == (400, 1_144_000 // 400)
    assert alike.main.groups == (Group("all layers", 1, 0, 1, 400, 0, Growth(1, None, 0, 1)),)


@pytest.mark.parametrize(("fixed_bytes", "fixed_blocks"), [(0, 0), (1, 1), (400, 1), (401, 2)])
def test_what_is_fixed_takes_whole_tokens(fixed_bytes: int, fixed_blocks: int) -> None:
    (group,) = APART.contiguous(400, fixed_bytes).main.groups
    assert group.growth == Growth(1, None, fixed_blocks, 1)


def test_a_token_of_less_than_a_byte_takes_one() -> None:
    assert APART.contiguous(0.2, 0).main.block_bytes == 1


def test_pools_that_a_sequence_draws_nothing_from_hold_any_number() -> None:
    """Three windows' worth of a pool that is empty and that nobody draws from."""
    nobody = KVPools((pool("states", 12, 7, Growth.constant(0)),), 1.0)
    assert (nobody.requests(9), nobody.concurrency(9)) == (0, 0.0)
    assert nobody.scarcest(9).name == "states"


def test_one_plain_pool_is_left_as_it_is() -> None:
    """Its blocks are the engine's; only who draws from them changes."""
    plain = KVPools((FULL,), 1.0)
    assert plain.contiguous(100, 0) is plain


@given(
    token_bytes=st.floats(0.1, 5000),
    ratio=st.floats(0.1, 80),
    blocks=st.lists(st.integers(0, 1000), min_size=2, max_size=3),
)
def test_contiguous_conserves_bytes(token_bytes: float, ratio: float, blocks: list[int]) -> None:
    """All but what is less than a token."""
    kinds = (Growth.full(4), Growth.capped(4, 2), Growth.constant(2))
    made = [pool("any", n, 64, kind) for n, kind in zip(blocks, kinds, strict=False)]
    pools = KVPools(tuple(made), ratio)
    alike = pools.contiguous(token_bytes, 0)
    lost = pools.given_bytes - alike.given_bytes
    assert 0 <= lost < alike.main.block_bytes
    assert alike.layout_ratio == ratio


@given(
    blocks=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    tokens=st.integers(1, 300),
)
def test_requests_are_those_that_every_pool_holds(blocks: list[int], tokens: int) -> None:
    """One more would be one too many for the scarcest."""
    kinds = (Growth.full(4), Growth.capped(4, 2), Growth.constant(2))
    made = [pool("any", n, 64, kind) for n, kind in zip(blocks, kinds, strict=False)]
    pools = KVPools(tuple(made), 1.0)
    fit = pools.requests(tokens)
    assert all(fit * each.blocks_at(tokens) <= each.given_blocks for each in pools)
    scarcest = pools.scarcest(tokens)
    assert (fit + 1) * scarcest.blocks_at(tokens) > scarcest.given_blocks


def test_a_pool_s_curve_is_that_of_its_groups() -> None:
    mixed = pool("mixed", 9, 16, Growth.capped(4, 3), Growth.full(16), Growth.constant(1))
    assert mixed.curve == BlockCurve(4, 0, (3,), 1, (BlockCurve(16),))
    assert mixed.blocks_at(20) == mixed.curve.blocks_at(20) == 3 + 2 + 1


def test_pools_beside_the_main_one_bound_what_a_smaller_main_need_would_give() -> None:
    group = Group("g", 1, 0, 1, 10, 0, Growth.full(1))
    main = Pool("full", 1, 10, 1000, 0, (group,))
    window = Pool("window", 1, 10, 30, 0, (group._replace(growth=Growth.capped(1, 8)),))
    apart = KVPools((main, window), 1.0)
    assert apart.requests(100) == 30 // 8 == 3
    assert (apart.concurrency(100), apart.concurrency_beside(100)) == (30 / 8, 30 / 8)
    assert apart.concurrency(500) == 2
    assert apart.concurrency_beside(500) == 30 / 8
    assert KVPools((main,), 1.0).concurrency_beside(100) == float("inf")
