"""Some points of a large space: by the seed alone, counted, and none that is dearer than chance."""

from dataclasses import replace

import pytest

import kvsim
from tests.search.test_find import PRICES, QUICK, served

VARY = {
    "gpu": ["a100", "h100"],
    "tp": [1, 2],
    "max_num_seqs": [1, 2, 3, 4, 6, 8],
    "block_size": [16, 32],
}


def some(evaluations, settings=QUICK, **options):
    return kvsim.find_cheapest(
        kvsim.Space(served(0.1), VARY),
        25,
        settings,
        prices=PRICES,
        evaluations=evaluations,
        **options,
    )


@pytest.fixture
def sampler():
    return pytest.importorskip("optuna", reason="points of a large space need the extra optimize")


def test_so_many_points_are_tried_and_counted(sampler):
    found = some(10)
    assert (len(found.options), found.points) == (10, 48)
    assert len({option.label for option in found.options}) == 10
    assert found.cheapest


def test_the_seed_alone_says_which(sampler):
    first, again = (some(8, jobs=jobs) for jobs in (1, 2))
    other = some(8, replace(QUICK, seed=7))
    assert first.options == again.options
    assert [o.label for o in first.options] != [o.label for o in other.options]


def test_half_of_the_points_find_the_cheapest_of_all(sampler):
    """One a100 with batches of 3 or more carries it, for 1 an hour."""
    assert some(24).cheapest[0].cost_per_hour == some(None).cheapest[0].cost_per_hour == (1, 1)


def test_a_space_that_is_no_larger_is_searched_whole_without_the_extra():
    found, whole = some(48), some(None)
    assert found == whole


def test_a_stop_keeps_what_is_settled(sampler):
    def stop(stage, done, of, best):
        if stage == "searched" and done >= 4:
            raise KeyboardInterrupt

    found = some(20, told=stop)
    assert found.interrupted
    assert 4 <= len(found.options) < 20


def test_none_is_no_number_of_evaluations():
    with pytest.raises(kvsim.InputError, match="0 evaluations try nothing"):
        some(0)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(kvsim.MissingExtraError, match=r"kvsim\[optimize\]"):
        some(3)
