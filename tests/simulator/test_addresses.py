"""A real address space: where regions go, what holes remain, and when halves are joined."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InvariantError, UnknownNameError
from kvsim.simulator.allocators.addresses import PLACEMENTS, FirstFit
from tests.oracle import Space


def holed(placement: str) -> list[int | None]:
    """Fill 100 slots with 30, 10, 20, 10, 15 and 15, free the 30, the 20 and the last 15."""
    space = PLACEMENTS.find(placement)(100)
    regions = [space.allocate(length) for length in (30, 10, 20, 10, 15, 15)]
    for gone in (0, 2, 5):
        space.free(regions[gone] or 0)
    space.check()
    return [space.allocate(18), space.allocate(15), space.allocate(12), space.allocate(1)]


def test_what_fills_a_hole_leaves_none() -> None:
    """A hole of no length would be free, and never be used."""
    for placement in ("first-fit", "best-fit"):
        space = PLACEMENTS.find(placement)(30)
        assert [space.allocate(10) for _ in range(3)] == [0, 10, 20]
        assert space._free_spans() == []
        space.free(10)
        assert space._free_spans() == [(10, 10)]
        assert space.allocate(10) == 10
        assert space._free_spans() == []


def test_a_placement_of_somebodys_may_have_parameters_beside_the_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kvsim hands the size to it; every other argument of its constructor is its own."""

    class Aligned(FirstFit):
        def __init__(self, size: int, multiple: int) -> None:
            super().__init__(size)

    monkeypatch.setitem(PLACEMENTS, "aligned", Aligned)
    assert PLACEMENTS.parameters("aligned") == {"multiple": True}
    assert PLACEMENTS.parameters("first-fit") == {}


def test_first_fit_takes_the_lowest_hole() -> None:
    """Holes of 30 at 0, 20 at 40 and 15 at 85; the 12 goes beside the first 18."""
    assert holed("first-fit") == [0, 40, 18, 30 + 25]


def test_best_fit_takes_the_tightest_hole() -> None:
    """The 18 goes into the 20, the 15 into the 15, the 12 into the 30; then 2 are left at 58."""
    assert holed("best-fit") == [40, 85, 0, 58]


def test_enough_free_slots_in_pieces_are_not_enough() -> None:
    """External fragmentation: 60 slots are free, 50 do not fit."""
    space = PLACEMENTS.find("first-fit")(100)
    for length in (20, 20, 20, 20, 20):
        space.allocate(length)
    for address in (0, 40, 80):
        space.free(address)
    assert space.free_slots == 60
    assert not space.can_allocate(50)
    assert space.allocate(50) is None


def test_a_freed_region_joins_the_holes_on_both_sides() -> None:
    """Freed in the order low, high, middle, three regions leave one hole."""
    space = PLACEMENTS.find("first-fit")(30)
    for _ in range(3):
        space.allocate(10)
    for address in (0, 20, 10):
        space.free(address)
        space.check()
    assert space.allocate(30) == 0


def test_buddies_split_in_halves_and_join_again() -> None:
    """A 5 takes 8 of 32: halves of 16 and 8 remain; freeing it makes 32 of them again."""
    space = PLACEMENTS.find("buddy")(32)
    assert space.region_size(5) == 8
    assert space.allocate(5) == 0
    assert [space.can_allocate(16), space.can_allocate(17)] == [True, False]
    assert space.allocate(16) == 16
    assert space.allocate(3) == 8  # the lower half of the 8 that was left
    assert space.free_slots == 4
    space.free(0)
    assert not space.can_allocate(9)  # its twin at 8 is in use
    space.free(8)
    assert space.allocate(16) == 0  # 8 + 4 + 4 joined


def test_buddies_live_in_a_space_that_is_no_power_of_two() -> None:
    """24 slots are 16 and 8: the 8 serves first, and the two never join."""
    space = PLACEMENTS.find("buddy")(24)
    assert space.allocate(8) == 16
    assert space.allocate(9) == 0
    assert space.allocate(1) is None
    space.free(0)
    space.free(16)
    assert not space.can_allocate(17)
    space.check()


def test_compaction_slides_regions_down_in_order() -> None:
    """Regions at 10 and 40 move to 0 and 10; whoever lies at its place stays."""
    space = PLACEMENTS.find("best-fit")(60)
    for length in (10, 10, 20, 10):
        space.allocate(length)
    space.free(0)
    space.free(20)
    assert space.compact() == {10: 0, 40: 10}
    assert space.regions() == [(0, 10), (10, 10)]
    space.check()
    assert space.compact() == {}
    assert space.allocate(40) == 20


def test_buddies_do_not_move() -> None:
    """Their addresses are multiples of their sizes."""
    space = PLACEMENTS.find("buddy")(16)
    space.allocate(4)
    space.allocate(4)
    space.free(0)
    assert space.compact() == {}
    assert space.regions() == [(4, 4)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@settings(max_examples=60)
@given(
    size=st.integers(1, 70),
    moves=st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=60),
    compacting=st.booleans(),
)
def test_placements_agree_with_an_array_of_slots(
    placement: str, size: int, moves: list[tuple[bool, int]], compacting: bool
) -> None:
    """Place and free at random beside a space that remembers the owner of every slot."""
    space, plain = PLACEMENTS.find(placement)(size), Space(size, placement)
    live = []
    for places, number in moves:
        if places:
            assert space.can_allocate(number) == (plain.find(number) is not None)
            region, address = plain.put(number), space.allocate(number)
            assert address == (None if region is None else region.start)
            live += [] if region is None else [region]
        elif live:
            region = live.pop(number % len(live))
            space.free(region.start)
            plain.clear(region)
        if compacting and placement != "buddy" and number == 7:
            space.compact()
            plain.slide()
        assert space.free_slots == size - plain.held
        assert space.regions() == sorted((r.start, r.length) for r in live)
        space.check()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_broken_books_are_noticed(placement: str) -> None:
    """A miscount, an overlap and a leak each break the law."""
    space = PLACEMENTS.find(placement)(16)
    space.allocate(4)
    space.free_slots += 1
    with pytest.raises(InvariantError, match="miscounted"):
        space.check()
    space.free_slots -= 1
    space._regions[4] = 4
    with pytest.raises(InvariantError, match="two things"):
        space.check()
    space._regions = {}
    with pytest.raises(InvariantError, match="belongs to nothing"):
        space.check()


def test_an_unknown_placement_names_the_known_ones() -> None:
    """One clear line."""
    with pytest.raises(UnknownNameError, match="first-fit"):
        PLACEMENTS.find("worst-fit")(10)
