"""A binned run adds up to the run."""

from types import SimpleNamespace

import numpy as np
import pytest

import kvsim
from kvsim.results.time_bins import preemption_seconds, time_bins
from kvsim.simulator.recorder import STEP_COLUMNS


def run(name, **overrides):
    overrides = {"run.warmup_fraction": 0, "workload.requests": 800} | overrides
    return kvsim.simulate(kvsim.load_scenario(name, overrides))


@pytest.mark.parametrize("bins", [1, 7, 300])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("preemption-edge", {}),
        ("pagedattention-orca", {}),
        ("mooncake-prefix-reuse", {}),
        ("static-vs-continuous", {"memory.allocator": "reserve-pow2"}),
    ],
)
def test_the_split_of_the_bins_is_that_of_the_summary(name, overrides, bins):
    result = run(name, **overrides)
    binned = time_bins(result, bins=bins)
    for part, share in result.summary["kv_cache"]["waste"].items():
        mean = binned.slots[part].mean() / result.setup.pool_slots
        assert mean == pytest.approx(share, rel=1e-9, abs=1e-9), part


def test_the_batch_of_the_bins_is_that_of_the_summary():
    result = run("preemption-edge", **{"memory.num_blocks": 2000})
    binned = time_bins(result, bins=50)
    sequence_seconds = binned.decoding.mean() * result.recording.end_seconds
    assert sequence_seconds == pytest.approx(result.totals.sequence_seconds, rel=1e-9)
    assert binned.preemptions.sum() == result.summary["preemptions"] > 0


def test_queue_and_waiting_time_obey_littles_law():
    """Mean queue x time = sum of waits (nobody is preempted, so none waits twice)."""
    result = run("pagedattention-orca")
    waits = result.latencies["queue"]
    binned = time_bins(result, bins=40)
    # The queue is read when a run of steps begins; a run in progress hides a later arrival.
    total = binned.waiting.mean() * result.recording.end_seconds
    assert total == pytest.approx(np.nansum(waits), rel=0.02)
    assert (binned.most_waiting >= binned.waiting - 1e-9).all()


def test_a_longer_window_ends_in_a_free_pool():
    result = run("preemption-edge")
    binned = time_bins(result, bins=10, end_seconds=2 * result.recording.end_seconds)
    assert binned.edges[-1] == 2 * result.recording.end_seconds
    np.testing.assert_allclose(binned.slots["free"][5:], result.setup.pool_slots, rtol=1e-12)
    assert not binned.decoding[5:].any()


def test_two_steps_by_hand():
    """One request of 32 + 3 tokens in blocks of 16, a second a step, arriving at 0.

    ::

        s     0    1    2    3        the prompt's step, then two decode steps
        tokens 0   32   33   34       linear inside every run
    """
    result = run(
        "preemption-edge",
        **{
            "workload.requests": 1,
            "workload.arrivals": {"kind": "at_once"},
            "workload.lengths.prompt": {"kind": "fixed", "tokens": 32},
            "workload.lengths.output": {"kind": "fixed", "tokens": 3},
            "step_time": {"kind": "constant", "seconds": 1.0},
        },
    )
    binned = time_bins(result, bins=6)
    assert result.recording.end_seconds == 3
    assert binned.slots["token_states"].tolist() == pytest.approx(
        [8, 24, 32.25, 32.75, 33.25, 33.75]
    )
    assert binned.decoding.tolist() == [0, 0, 1, 1, 1, 1]


def test_preemptions_have_the_moment_of_their_step():
    result = run("preemption-edge")
    rows, seconds = preemption_seconds(result)
    columns = result.columns
    assert len(rows) == result.summary["preemptions"]
    assert (np.diff(seconds) >= 0).all()
    assert (seconds >= columns["scheduled_seconds"][rows]).all()
    assert (seconds <= columns["finish_seconds"][rows]).all()


def test_a_run_without_steps_is_empty():
    result = run("preemption-edge", **{"run.max_seconds": 1e-9})
    binned = time_bins(result, bins=4)
    assert (binned.slots["free"] == result.setup.pool_slots).all()
    assert not binned.waiting.any()


# --- four rows by hand ---------------------------------------------------------------------


def recorded(preempted=(), end_seconds=8.0, **columns):
    """A run of rows that were never simulated: what `time_bins` reads of one."""
    lengths = {len(values) for values in columns.values()}
    rows = dict.fromkeys(STEP_COLUMNS, np.zeros(*lengths))
    rows |= {name: np.array(values, dtype=float) for name, values in columns.items()}
    recorder = SimpleNamespace(step_columns=lambda: rows, preempted=list(preempted))
    recording = SimpleNamespace(recorder=recorder, end_seconds=end_seconds)
    return SimpleNamespace(recording=recording, setup=SimpleNamespace(pool_slots=100))


ROWS = {
    "start_seconds": [1, 2, 5, 7],
    "seconds": [1, 2, 2, 0],
    "sequences": [3, 1, 2, 4],
    "waiting": [5, 0, 2, 9],
    "claimed_slots": [10, 20, 30, 0],
    "held_slots": [10, 20, 30, 0],
    "grown_slots": [10, 0, 4, 0],
    "cached_slots": [8, 6, 40, 3],
}


def test_rows_by_hand():
    """Idle from 0 to 1 and from 4 to 5, when the next run's prefixes lie there."""
    binned = time_bins(recorded(**ROWS), bins=4)
    assert binned.edges.tolist() == [0, 2, 4, 6, 8]
    assert binned.middles.tolist() == [1, 3, 5, 7]
    assert binned.decoding.tolist() == [3 / 2, 1, 2 / 2, 2 / 2]
    assert binned.waiting.tolist() == [5 / 2, 0, 2 / 2, 2 / 2]
    # held goes from 10 to 20 in 1 to 2, then 20, then from 30 to 34 in 5 to 7
    assert binned.slots["internal"].tolist() == [15 / 2, 20, 31 / 2, 33 / 2]
    assert binned.slots["cached"].tolist() == [8, 6, 40, 40 / 2]
    assert binned.slots["free"].tolist() == [
        pytest.approx(100 - inside - kept)
        for inside, kept in zip([7.5, 20, 15.5, 16.5], [8, 6, 40, 20], strict=True)
    ]


def test_the_longest_queue_of_a_bin_may_have_begun_before_it():
    """Edges at 0, 2.5, 5, 7.5 and 10: the second bin begins with nobody waiting."""
    binned = time_bins(recorded(end_seconds=10.0, **ROWS), bins=4)
    assert binned.most_waiting.tolist() == [5, 0, 9, 9]
    late = time_bins(recorded(end_seconds=7.0, **ROWS), bins=7)
    assert late.most_waiting.tolist() == [0, 5, 0, 0, 0, 2, 9]


def test_preemptions_by_hand():
    """Of requests 7, 8 and 9 when rows 1, 2 and (one that was never written) 4 began."""
    result = recorded([(7, 1), (8, 2), (9, 4)], **ROWS)
    rows, seconds = preemption_seconds(result)
    assert rows.tolist() == [7, 8, 9]
    assert seconds.tolist() == [2, 5, 7]
    assert time_bins(result, bins=4).preemptions.tolist() == [0, 1, 1, 1]


def test_a_run_that_ends_at_zero_has_a_second():
    assert time_bins(recorded(end_seconds=0.0, start_seconds=[]), bins=2).edges[-1] == 1.0
