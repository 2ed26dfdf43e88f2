r"""A run as a Chrome trace, for Perfetto or chrome://tracing.

::

    slot 0   |prefill|      decode      |   |prefill|  decode  |
    slot 1        |prefill|     decode          |
    KV blocks  ___/‾‾‾‾‾‾\__________/‾‾‾         counters, sampled
    requests   decoding, waiting                 counters, sampled
    !          preempted: request 7              instants

A lane is a place among the running requests, the lowest that is free. Times are microseconds.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.results.result import SimulationResult

__all__ = ["MOST_REQUESTS", "MOST_SAMPLES", "timeline"]

MOST_REQUESTS = 5_000
MOST_SAMPLES = 5_000

_PID = 1
_COUNTER_TID = 0
Event = dict[str, Any]
Floats = npt.NDArray[np.float64]


def timeline(
    result: SimulationResult,
    *,
    most_requests: int = MOST_REQUESTS,
    most_samples: int = MOST_SAMPLES,
) -> dict[str, Any]:
    """Return a run as a Chrome trace object.

    Parameters
    ----------
    result : SimulationResult
        The run.
    most_requests : int
        Lanes show this many requests, the first to be scheduled.
    most_samples : int
        Counters are sampled evenly down to this many runs of steps.
    """
    requests = _scheduled(result)
    shown = min(len(requests["row"]), most_requests)
    lanes = _lanes(requests, shown, result.recording.end_seconds)
    steps = result.recording.recorder.step_columns()
    events = _names(max(lanes, default=-1) + 1)
    events += _slices(requests, lanes, result.recording.end_seconds)
    events += _counters(result, steps, most_samples)
    events += _preemptions(result, steps["start_seconds"], set(requests["row"][:shown].tolist()))
    return {
        "displayTimeUnit": "ms",
        "traceEvents": events,
        "otherData": {
            "scenario": result.setup.scenario.name,
            "requests_shown": shown,
            "requests_left_out": len(requests["row"]) - shown,
        },
    }


def _scheduled(result: SimulationResult) -> dict[str, Floats]:
    """Columns of the requests that ran, in the order in which they were scheduled."""
    columns = result.columns
    ran = np.flatnonzero(~np.isnan(columns["scheduled_seconds"]))
    order = ran[np.argsort(columns["scheduled_seconds"][ran], kind="stable")]
    return {name: values[order] for name, values in columns.items()}


def _lanes(requests: dict[str, Floats], shown: int, end_seconds: float) -> list[int]:
    """Give each request the lowest lane that is free when it is scheduled."""
    ends = np.nan_to_num(requests["finish_seconds"], nan=end_seconds)
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    lanes: list[int] = []
    for start, end in zip(requests["scheduled_seconds"][:shown], ends[:shown], strict=True):
        while busy and busy[0][0] <= start:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (float(end), lane))
        lanes.append(lane)
    return lanes


def _names(lanes: int) -> list[Event]:
    process = {"name": "process_name", "ph": "M", "pid": _PID, "args": {"name": "replica 0"}}
    threads = [
        {
            "name": "thread_name",
            "ph": "M",
            "pid": _PID,
            "tid": lane + 1,
            "args": {"name": f"slot {lane}"},
        }
        for lane in range(lanes)
    ]
    return [process, *threads]


def _slices(requests: dict[str, Floats], lanes: list[int], end_seconds: float) -> list[Event]:
    """Two slices per request: until its first token, and until its last."""
    first = np.nan_to_num(requests["first_token_seconds"], nan=end_seconds)
    finish = np.nan_to_num(requests["finish_seconds"], nan=end_seconds)
    events: list[Event] = []
    for at, lane in enumerate(lanes):
        args = {
            "prompt_tokens": int(requests["prompt_tokens"][at]),
            "output_tokens": int(requests["output_tokens"][at]),
            "cached_tokens": int(requests["cached_tokens"][at]),
            "preemptions": int(requests["preemptions"][at]),
        }
        phases = (
            ("prefill", requests["scheduled_seconds"][at], first[at]),
            ("decode", first[at], finish[at]),
        )
        name = f"request {int(requests['row'][at])}"
        events += [
            {
                "name": f"{name} {phase}",
                "cat": phase,
                "ph": "X",
                "pid": _PID,
                "tid": lane + 1,
                "ts": _microseconds(start),
                "dur": _microseconds(end - start),
                "args": args,
            }
            for phase, start, end in phases
            if end > start
        ]
    return events


def _counters(result: SimulationResult, steps: dict[str, Floats], most: int) -> list[Event]:
    """Sample the pool and the queue evenly."""
    rows = len(steps["start_seconds"])
    chosen = np.unique(np.linspace(0, max(0, rows - 1), min(rows, most)).astype(int))
    size = result.setup.curve.block_size
    events: list[Event] = []
    for row in chosen:
        held, cached = steps["held_slots"][row] / size, steps["cached_slots"][row] / size
        queue = {"decoding": int(steps["sequences"][row]), "waiting": int(steps["waiting"][row])}
        start = _microseconds(steps["start_seconds"][row])
        events.append(_counter("KV blocks", start, {"held": held, "cached": cached}))
        events.append(_counter("requests", start, queue))
    return events


def _counter(name: str, start: float, values: dict[str, Any]) -> Event:
    return {
        "name": name,
        "ph": "C",
        "pid": _PID,
        "tid": _COUNTER_TID,
        "ts": start,
        "args": {key: round(float(value), 3) for key, value in values.items()},
    }


def _preemptions(result: SimulationResult, starts: Floats, shown: set[float]) -> list[Event]:
    """Mark the preemptions of the requests shown, at the step that began with them."""
    last = len(starts) - 1
    return [
        {
            "name": f"preempted: request {row}",
            "cat": "preemption",
            "ph": "i",
            "s": "p",
            "pid": _PID,
            "tid": _COUNTER_TID,
            "ts": _microseconds(starts[min(step, last)]),
        }
        for row, step in result.recording.recorder.preempted
        if row in shown and last >= 0
    ]


def _microseconds(seconds: float) -> float:
    return round(1e6 * float(seconds), 3)
