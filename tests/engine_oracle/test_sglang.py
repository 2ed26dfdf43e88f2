"""SGLang's own scheduler beside ours: live where it can be imported, recorded everywhere."""

import json
from pathlib import Path

import pytest

from tests.engine_oracle import sglang_ours
from tests.engine_oracle.sglang import disagreement
from tests.engine_oracle.sglang_cases import FAMILIES, case_of
from tests.engine_oracle.sglang_stub import missing

# Written by `python -m tests.engine_oracle.sglang --record`: what the engine did.
RECORDED = json.loads((Path(__file__).parent / "sglang_recorded.json").read_text())


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_what_the_engine_did_is_done_again(name):
    family, seed = name.split()
    seen = sglang_ours.run(case_of(family, int(seed)))
    assert sorted(map(list, seen.events)) == RECORDED["runs"][name]


def test_the_recorded_runs_retract_and_chunk_and_hit():
    """They are worth their file: memory ran out in some, and prompts came in pieces."""
    words = [event[1] for events in RECORDED["runs"].values() for event in events]
    assert words.count("preempted") >= 20
    hits = [
        n for events in RECORDED["runs"].values() for _, word, _, n in events if word == "admitted"
    ]
    assert sum(n > 0 for n in hits) >= 20
    chunked = [
        max(job.prompt for job in case.jobs) > case.chunk
        for case in (case_of(*_named(name)) for name in RECORDED["runs"])
    ]
    assert sum(chunked) >= 3


def _named(name):
    family, seed = name.split()
    return family, int(seed)


@pytest.mark.filterwarnings("ignore")  # the engine's own, and torch's
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_agrees(family):
    lacks = missing()
    if lacks:
        pytest.skip(lacks)
    found = {seed: disagreement(case_of(family, seed)) for seed in range(20)}
    assert not any(found.values()), found
