"""The same seed gives the same bytes: in another process, with another order of hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, json, sys
import kvsim

scenario = kvsim.load_scenario("peer-w", overrides=json.loads(sys.argv[1]))
result = kvsim.simulate(scenario, seed=int(sys.argv[2]))
print(json.dumps(result.summary))
columns = {**result.columns, **result.recording.recorder.step_columns()}
for name, column in columns.items():
    print(name, len(column), hashlib.sha256(column.tobytes()).hexdigest())
print(result.recording.recorder.preempted, sorted(result.recording.recorder.cached_tokens.items()))
"""

SPREAD = {
    "workload.requests": 300,
    "workload.lengths.prompt": {"kind": "lognormal", "mean": 300, "cv": 1.0},
    "workload.lengths.output": {"kind": "lognormal", "mean": 100, "cv": 1.0},
}
PRESSED = SPREAD | {"memory.num_blocks": 700, "workload.arrivals.rate": 40}
GROUPS = {
    "workload.prefix": {"kind": "groups", "groups": 5, "tokens": 200},
    "memory.allocator": "prefix",
}
TALKS = {
    "workload.arrivals": {"kind": "closed_loop", "clients": 12, "ramp_seconds": 3},
    "workload.prefix": {
        "kind": "conversations",
        "turns": {"kind": "fixed", "tokens": 4},
        "think": {"kind": "exponential", "mean": 1},
        "max_context_tokens": 8000,
    },
    "memory.allocator": "prefix",
}
QUESTIONS = {
    "peer-w, shorter": {"workload.requests": 500},
    "preemption": PRESSED,
    "shared prefixes, evicted by use": PRESSED | GROUPS | {"memory.eviction": "lfu"},
    "swapping under priorities": PRESSED
    | {"scheduler.preemption": "swap", "scheduler.admission": "priority"},
    "a closed loop": SPREAD | TALKS,
}


def answer(question: dict[str, object], seed: int, hash_seed: int) -> bytes:
    """What a process of its own prints."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(question), str(seed)],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("question", QUESTIONS)
def test_two_processes_print_the_same_bytes(question: str) -> None:
    """Summary, request columns and step rows, to the last bit."""
    first = answer(QUESTIONS[question], 7, 0)
    assert first == answer(QUESTIONS[question], 7, 123)
    assert first.count(b"\n") > 20


def test_another_seed_gives_another_run() -> None:
    """Else the test above would prove nothing."""
    question = QUESTIONS["preemption"]
    assert answer(question, 7, 0) != answer(question, 8, 0)
