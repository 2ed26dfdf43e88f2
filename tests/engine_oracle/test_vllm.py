"""vLLM's own scheduler and ours agree on random workloads, event by event and block by block."""

from __future__ import annotations

import pytest

from . import vllm_ours
from .seen import differences
from .vllm_cases import FAMILIES, case_of
from .vllm_recorded import recorded
from .vllm_stub import missing

RECORDED = recorded()


@pytest.mark.parametrize(("family", "seed"), RECORDED)
def test_what_the_engine_did_is_what_we_do(family: str, seed: int) -> None:
    """Runs of vLLM 0.33, kept in ``vllm_recorded.json``."""
    assert differences(vllm_ours.run(case_of(family, seed)), RECORDED[family, seed]) is None


def test_the_recorded_runs_press_the_pool_and_find_prefixes() -> None:
    """Runs in which nothing happens would show nothing."""
    assert {family for family, _ in RECORDED} == set(FAMILIES)
    events = [event for seen in RECORDED.values() for event in seen.events]
    assert sum(word == "preempted" for _, word, _, _ in events) > 50
    assert sum(word == "admitted" and cached > 0 for _, word, _, cached in events) > 50


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_agrees(family: str, seed: int) -> None:
    """A workload of a family; more seeds by ``python -m tests.engine_oracle``."""
    from . import vllm_driver

    case = case_of(family, seed)
    assert differences(vllm_ours.run(case), vllm_driver.run(case)) is None
