"""A binned run adds up to the run."""

import numpy as np
import pytest

import kvsim
from kvsim.results.time_bins import preemption_seconds, time_bins


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
    assert (binned.slots["free"][5:] == result.setup.pool_slots).all()
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
