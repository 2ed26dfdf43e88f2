"""What the simulator recorded against what the stepping engine wrote down."""

from __future__ import annotations

import numpy as np

from tests import oracle
from tests.support.parts import Log

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def compare_requests(log: Log, engine: oracle.Engine) -> None:
    """Who was refused, admitted with which hits, preempted; and when everything happened."""
    assert log.rejected_rows == engine.rejected, "others are refused"
    admitted = [(row, hits) for row, _, hits in log.admissions]
    stepped = [(row, hits) for row, _, hits in engine.admissions]
    assert admitted == stepped, "others are admitted, or with other hits"
    for one, other in zip(log.admissions, engine.admissions, strict=True):
        np.testing.assert_allclose(one[1], other[1], **CLOSE)
    assert log.swapped_tokens == engine.swapped_tokens, "tokens swapped out"
    assert log.recomputed_tokens == engine.recomputed_tokens, "tokens to recompute"
    pairs = (
        (log.scheduled_seconds, engine.scheduled),
        (log.first_token_seconds, engine.first_token),
        (log.finish_seconds, engine.finished),
    )
    for recorded, stepped_times in pairs:
        times = [stepped_times.get(row, np.nan) for row in range(len(recorded))]
        np.testing.assert_allclose(np.array(recorded), times, **CLOSE)


def compare_steps(log: Log, engine: oracle.Engine) -> None:
    """Every run of steps against the steps that it stands for."""
    columns = log.step_columns()
    steps = columns["steps"].astype(int)
    assert steps.sum() == len(engine.rows), "steps in all"
    first = np.concatenate([[0], np.cumsum(steps)])
    preempted = [(row, int(first[run])) for row, run in log.preempted]
    assert preempted == engine.preemptions, "others are preempted, or at other steps"
    rows = {
        name: np.array([getattr(row, name) for row in engine.rows], dtype=float)
        for name in oracle.StepRow.__dataclass_fields__
    }
    starts, ends = first[:-1], first[1:]
    sums = {
        name: np.concatenate([[0], np.cumsum(rows[name])])
        for name in ("seconds", "grown", "filling", "left")
    }
    expected = {
        "start_seconds": rows["start"][starts],
        "seconds": sums["seconds"][ends] - sums["seconds"][starts],
        "sequences": rows["sequences"][starts],
        "prefill_tokens": rows["prefill_tokens"][starts],
        "waiting": rows["waiting"][starts],
        "kv_read_bytes": rows["read_bytes"][starts],
        "filled_slots": rows["filled"][starts],
        "left_slots": sums["left"][ends] - sums["left"][starts],
        "filling_slots": sums["filling"][ends] - sums["filling"][starts],
        "claimed_slots": rows["held"][starts],  # by two ways of counting
        "held_slots": rows["held"][starts],
        "grown_slots": sums["grown"][ends] - sums["grown"][starts],
        "reserved_slots": rows["reserved"][starts],
        "external_slots": rows["external"][starts],
        "cached_slots": rows["cached"][starts],
    }
    for name, values in expected.items():
        tolerance = 1e-9 if name.endswith("seconds") else 0.0
        np.testing.assert_allclose(
            columns[name], values, rtol=tolerance, atol=tolerance, err_msg=name
        )
    held_after = [int(held) for held in rows["held_after"][ends - 1]]
    assert log.held_after == held_after, "slots held after steps"
