"""What a row of steps says, and that the two ways to write it down are one."""

import numpy as np
import pytest

import kvsim
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.recorder import DECODE_ROW, ROW_COLUMNS, STEP_COLUMNS, STEP_ROW, Recorder
from kvsim.simulator.schedulers import Scheduler, SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.memories import Pool
from tests.support.parts import Case, Given, simulated, table


def test_a_row_of_decodes_is_a_row_whose_other_columns_are_zero():
    """What the decode lane leaves out must be what it has nothing to say of."""
    said = {
        "start_seconds": 1.5,
        "seconds": 0.25,
        "steps": 7,
        "sequences": 3,
        "kv_read_bytes": 11,
        "filled_slots": 500,
        "claimed_slots": 512,
        "held_slots": 512,
        "grown_slots": 16,
    }
    whole = STEP_ROW.pack(*(said.get(name, 0) for name in ROW_COLUMNS))
    assert DECODE_ROW.pack(*said.values()) == whole


def slots_told(scheduler, pool, requests):
    """Per run of steps: slots filled when it begins, those that it fills, and slots held."""
    case = Case(scheduler, pool, SchedulerLimits(8, 64, 100), step_time=ConstantStepTime(1.0))
    columns = simulated(case, Given([requests])).step_columns()
    names = ("filled_slots", "filling_slots", "held_slots")
    return list(zip(*(columns[name].astype(int) for name in names), strict=True))


def test_in_a_plain_pool_a_filled_slot_is_a_token():
    """Prompts of 4 and 5 in blocks of 4, then 3 tokens each: held are 3, then 4 blocks."""
    told = slots_told("vllm-v1", Pool("paged", 30), table([0, 0], [4, 5], [4, 4]))
    assert told == [(0, 9, 12), (9, 6, 12)]


def test_what_an_ended_member_of_a_static_batch_filled_stays_filled():
    """The first ends with 5 tokens after a decode; the second takes two more alone."""
    told = slots_told("static", Pool("paged", 30), table([0, 0], [4, 4], [2, 4]))
    assert told == [(0, 8, 8), (8, 2, 8), (10, 2, 16)]
    windowed = Pool("paged", 30, BlockCurve(4, 1, (2,)))  # and once more in a window of 8
    told = slots_told("static", windowed, table([0, 0], [4, 4], [2, 4]))
    assert told == [(0, 16, 16), (16, 4, 16), (20, 4, 32)]


def test_a_window_stops_filling_slots_when_it_is_full():
    """A group that grows, one of two blocks of 4, a state of a block: 6 + 6 + 4 slots at first.

    The window is full after two decodes; from then on a token fills a slot and not two.
    """
    pool = Pool("paged", 30, BlockCurve(4, 1, (2,), fixed=1))
    told = slots_told("vllm-v1", pool, table([0], [6], [5]))
    assert told == [(0, 16, 20), (16, 4, 20), (20, 2, 20)]


def test_blocks_of_two_sizes_count_in_slots_of_their_own():
    """A block is 8 slots: a token fills one of a block of 8, and two of a block of 4."""
    pool = Pool("paged", 30, BlockCurve(4, 1, beside=(BlockCurve(8),)))
    told = slots_told("vllm-v1", pool, table([0], [6], [4]))
    assert told == [(0, 18, 24), (18, 9, 24)]


def test_pools_kept_apart_are_added_by_their_weights():
    """10 tokens at a weight of 3, and the window's 4 at a weight of 5; held 12 and 4."""
    pool = Pool("apart", 30, weight=3, beside=((9, BlockCurve(4, 0, (1,)), 5),))
    told = slots_told("vllm-v1", pool, table([0], [10], [2]))
    assert told == [(0, 3 * 10 + 5 * 4, 3 * 12 + 5 * 4), (50, 3, 56)]


@pytest.mark.parametrize(("allocator", "reserved"), [("paged", [9, 0]), ("none", [0] * 4)])
def test_what_a_step_s_prompts_are_about_to_write_is_reserved(allocator, reserved):
    """Prompts of 4 and 5, then decodes; without a cache nothing is held for anybody."""
    case = Case("vllm-v1", Pool(allocator, 30), SchedulerLimits(8, 64, 100))
    log = simulated(case, Given([table([0, 0], [4, 5], [4, 4])]))
    assert list(log.step_columns()["reserved_slots"]) == reserved


# ---- interrupted ------------------------------------------------------------------------


def test_an_interrupt_between_two_notes_of_a_row_loses_that_row_alone():
    """Where a slot is no token, its filling is noted first; the tables broke in between."""
    recorder = Recorder()
    recorder.filling_slots.append(5)
    assert {name: len(column) for name, column in recorder.step_columns().items()} == {
        name: 0 for name in STEP_COLUMNS
    }
    recorder.write_steps(STEP_ROW.pack(*range(len(ROW_COLUMNS))))
    recorder.filling_slots.append(7)
    columns = recorder.step_columns()
    assert columns["filling_slots"].tolist() == [5]
    assert columns["start_seconds"].tolist() == [0]


def test_an_interrupted_run_ends_with_the_last_that_it_recorded(monkeypatch):
    """Among decodes its end was that of the last mixed step, before requests that finished."""
    decoded, seen = Scheduler.decoded, []

    def impatient(self, steps, now):
        done = decoded(self, steps, now)
        seen.extend(done)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Scheduler, "decoded", impatient)
    lengths = {"prompt": {"kind": "fixed", "tokens": 40}, "output": {"kind": "uniform", "low": 5}}
    lengths["output"] |= {"high": 50}
    keys = {
        "workload.arrivals": {"kind": "at_once"},
        "workload.lengths": lengths,
        "workload.requests": 8,
    }
    result = kvsim.simulate(kvsim.load_scenario("peer-w", keys))
    finished = result.requests["finish_seconds"].dropna()
    assert len(finished) > 1
    assert result.recording.interrupted
    assert np.isclose(finished.max(), result.recording.end_seconds, rtol=0, atol=0)
