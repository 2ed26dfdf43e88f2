"""vLLM's own scheduler and ours agree on random workloads, event by event and block by block."""

from __future__ import annotations

import pytest

from kvsim.engines.vllm.rules import Rules

from . import RELEASES, vllm_ours
from .seen import Seen, differences
from .vllm_cases import FAMILIES, case_of, lacks
from .vllm_recorded import recorded
from .vllm_stub import missing, release

RECORDED = recorded()


def ours(release: str, family: str, seed: int) -> Seen:
    """What the product does with a case by the rules of a release."""
    return vllm_ours.run(case_of(family, seed), Rules.of(release))


@pytest.mark.parametrize(("release", "family", "seed"), RECORDED)
def test_what_the_engine_did_is_what_we_do(release: str, family: str, seed: int) -> None:
    """Runs of vLLM's releases, kept in ``vllm_recorded.json``."""
    assert differences(ours(release, family, seed), RECORDED[release, family, seed]) is None


@pytest.mark.parametrize("release", RELEASES)
def test_the_recorded_runs_press_the_pool_and_find_prefixes(release: str) -> None:
    """Runs in which nothing happens would show nothing."""
    kept = {family: seen for (of, family, _), seen in RECORDED.items() if of == release}
    assert kept.keys() == {each for each in FAMILIES if not lacks(each, Rules.of(release))}
    events = [
        event for (of, _, _), seen in RECORDED.items() if of == release for event in seen.events
    ]
    assert sum(word == "preempted" for _, word, _, _ in events) > 50
    assert sum(word == "admitted" and cached > 0 for _, word, _, cached in events) > 50


@pytest.mark.parametrize(("release", "other"), [("0.11.2", "0.19.1"), ("0.19.1", "0.33.0")])
def test_the_recorded_runs_tell_neighbouring_releases_apart(release: str, other: str) -> None:
    """A rule with the wrong release would be seen."""
    kept = {key: seen for key, seen in RECORDED.items() if key[0] == release}
    assert any(differences(ours(other, *key[1:]), seen) for key, seen in kept.items())


@pytest.mark.parametrize("release", RELEASES)
def test_a_family_says_which_of_its_flags_a_release_lacks(release: str) -> None:
    """Settings that are not there would be left out in silence otherwise."""
    absent = {each: said for each in FAMILIES if (said := lacks(each, Rules.of(release)))}
    kinds = [each for each in FAMILIES if "windows" in each or "states" in each]
    kept = {each: absent.pop(each) for each in kinds if each in absent}
    assert len(kept) == (len(kinds) if release != "0.33.0" else 0)
    assert all("are not compared" in said for said in kept.values())
    assert absent.keys() <= {each for each in FAMILIES if "settings" in each or "chunk" in each}
    assert bool(absent) == (release != "0.33.0")
    assert all(
        "long_prefill_token_threshold_adaptive" in said or "isl" in said for said in absent.values()
    )


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_agrees(family: str, seed: int) -> None:
    """A workload of a family; more seeds by ``python -m tests.engine_oracle``."""
    from . import vllm_driver

    rules = Rules.of(release())
    if said := lacks(family, rules):
        pytest.skip(said)
    case = case_of(family, seed)
    assert differences(vllm_ours.run(case, rules), vllm_driver.run(case)) is None
