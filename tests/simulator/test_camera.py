"""Frames of the pool: exact at every moment, and blind to what they look at."""

import numpy as np
import pytest

import kvsim
from kvsim.results.pool_cells import Use, pool_cells
from kvsim.simulator.allocators.base import Holding
from kvsim.simulator.camera import Camera, Frame

ALLOCATORS = [name for name in kvsim.allocator_names() if name != "none"]
SMALL = {
    "model": "opt-13b",
    "workload.requests": 60,
    "workload.lengths.prompt": {"kind": "lognormal", "mean": 160, "cv": 1.0},
    "workload.lengths.output": {"kind": "lognormal", "mean": 90, "cv": 1.0},
    "workload.prefix": {"kind": "groups", "groups": 3, "tokens": 64},
    "engine.max_model_len": 2048,
    "memory.num_blocks": 400,
    "run.warmup_fraction": 0,
}


def filmed(allocator, **overrides):
    scenario = kvsim.load_scenario(
        "preemption-edge", SMALL | {"memory.allocator": allocator} | overrides
    )
    camera = Camera()
    return kvsim.simulate(scenario, camera=camera), camera


@pytest.mark.parametrize("allocator", kvsim.allocator_names())
def test_a_run_is_the_same_whether_it_is_watched_or_not(allocator):
    watched, _ = filmed(allocator)
    alone = kvsim.simulate(watched.setup.scenario)
    for name, column in alone.columns.items():
        np.testing.assert_array_equal(watched.columns[name], column, err_msg=name)


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_in_every_frame_held_cached_and_free_make_the_pool(allocator):
    _, camera = filmed(allocator)
    assert len(camera.frames) > 20
    assert any(frame.holdings for frame in camera.frames)
    for frame in camera.frames:
        assert frame.held + frame.cached + frame.free == camera.total_blocks
        assert all(min(each.written, each.coming, each.unused) >= 0 for each in frame.holdings)
    assert camera.frames[-1].seconds <= _.recording.end_seconds


@pytest.mark.parametrize("placement", ["first-fit", "best-fit", "buddy"])
@pytest.mark.parametrize("allocator", ["reserve-max", "reserve-pow2", "reserve-oracle", "grow"])
def test_regions_lie_beside_each_other_and_never_overlap(allocator, placement):
    _, camera = filmed(allocator, **{"memory.placement": placement})
    for frame in camera.frames:
        end = 0
        for each in sorted(frame.holdings, key=lambda holding: holding.address):
            assert each.address >= end
            end = each.address + each.written + each.coming + each.unused
        assert end <= camera.total_blocks


def test_one_request_by_hand():
    """100 prompt tokens and 9 answered ones under reserve-oracle: 109 slots, 108 written."""
    request = {
        "workload.requests": 1,
        "workload.prefix": {"kind": "none"},
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 100},
        "workload.lengths.output": {"kind": "fixed", "tokens": 9},
        "step_time": {"kind": "constant", "seconds": 1.0},
        "workload.arrivals": {"kind": "at_once"},
        "engine.async_scheduling": False,  # it leaves as its last token comes
    }
    _, camera = filmed("reserve-oracle", **request)
    # After the prompt's step 100 tokens lie there, then decoding is one run to the end.
    first = camera.frames[0]
    assert first.seconds == pytest.approx(1.0)
    assert first.holdings == (Holding(0, 100, 8, 1, 0),)
    assert first.free == camera.total_blocks - 109
    assert camera.frames[-1].holdings == ()


def test_shared_blocks_are_counted_once():
    """Twenty requests that open with the same 64 tokens share four blocks of 16."""
    shared = {
        "workload.requests": 20,
        "workload.arrivals": {"kind": "constant", "rate": 50},
        "workload.prefix": {"kind": "groups", "groups": 1, "tokens": 64},
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 20},
        "workload.lengths.output": {"kind": "fixed", "tokens": 60},
    }
    _, camera = filmed("prefix", **shared)
    busiest = max(camera.frames, key=lambda frame: len(frame.holdings))
    assert len(busiest.holdings) > 5
    assert busiest.shared == 4


class Idle:
    """A scheduler in which nothing ever happens."""

    class allocator:  # noqa: N801 - stands for an attribute
        total_blocks = free_blocks = 7
        block_size = 16
        shared_blocks = 0

        @staticmethod
        def slots(tokens, head):
            return kvsim.simulator.allocators.base.Slots()

        @staticmethod
        def holdings(live):
            return []

    running, queued = (), 0


def test_a_film_of_any_length_is_thinned_evenly():
    camera = Camera(most_frames=64)
    for moment in range(100_000):
        if moment >= camera.next_seconds:
            camera.shoot(float(moment), Idle)
        assert len(camera.frames) <= 64
    gaps = np.diff([frame.seconds for frame in camera.frames])
    assert len(camera.frames) > 32
    assert gaps.min() == gaps.max() == 2048


# --- cells ---------------------------------------------------------------------------------


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("number", [0, 7, -1])
def test_one_cell_a_block_shows_every_block_of_every_holder(allocator, number):
    _, camera = filmed(allocator)
    number %= len(camera.frames)
    cells, frame = pool_cells(camera, number, most_cells=10**6), camera.frames[number]
    counts = np.bincount(cells.use, minlength=len(Use))
    assert cells.blocks_per_cell == 1
    assert counts[Use.FREE] == frame.free
    assert counts[Use.CACHED] == frame.cached
    assert counts[Use.SHARED] == frame.shared
    for each in frame.holdings:
        own = cells.use[cells.row == each.row]
        assert (own == Use.WRITTEN).sum() == each.written
        assert (own == Use.COMING).sum() == each.coming
        assert (own == Use.UNUSED).sum() == each.unused


def test_a_block_stays_where_it_is_while_it_is_held():
    _, camera = filmed("paged")
    for number in range(1, 20):
        before, after = (pool_cells(camera, at) for at in (number - 1, number))
        for each in camera.frames[number].holdings:
            old, new = (np.flatnonzero(cells.row == each.row) for cells in (before, after))
            assert set(old) <= set(new) or len(new) < len(old)


def test_contiguous_cells_are_at_their_addresses():
    camera = Camera()
    camera.total_blocks = 12
    camera.frames = [Frame(1.0, (Holding(5, 2, 1, 3, address=4),), 0, 0, 6, 0)]
    cells = pool_cells(camera, 0)
    assert cells.exact
    assert cells.use.tolist() == [0, 0, 0, 0, 3, 3, 4, 5, 5, 5, 0, 0]
    assert set(cells.row[4:10]) == {5}


def test_a_bin_shows_what_most_of_its_blocks_are():
    camera = Camera()
    camera.total_blocks = 11
    camera.frames = [Frame(1.0, (Holding(2, 5, 0, 0, address=2),), 0, 0, 6, 0)]
    cells = pool_cells(camera, 0, most_cells=4)  # three blocks a bin: ..A AAA A.. ..
    assert cells.blocks_per_cell == 3
    assert cells.use.tolist() == [Use.FREE, Use.WRITTEN, Use.FREE, Use.FREE]
