"""Lengths keep their laws, their clipping and, in pairs, their correlation."""

import math

import numpy as np
import pytest
from scipy import stats

from kvsim.errors import InputError
from kvsim.workload.distributions import Empirical, Fixed, Gamma, Lognormal, Uniform, Weibull, Zipf
from kvsim.workload.lengths import IndependentLengths, PairsFile
from kvsim.workload.streams import Streams

COUNT = 100_000


def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize(
    ("distribution", "law"),
    [
        (Lognormal(kind="lognormal", mu=6.6, sigma=0.55), stats.lognorm(0.55, scale=math.exp(6.6))),
        (Gamma(kind="gamma", shape=1.338, scale=863.3), stats.gamma(1.338, scale=863.3)),
        (Weibull(kind="weibull", shape=2.879, scale=2860), stats.weibull_min(2.879, scale=2860)),
        (Uniform(kind="uniform", low=10, high=20), stats.uniform(10, 10)),
    ],
)
def test_reals_follow_their_distribution(distribution, law):
    assert stats.kstest(distribution.draw(rng(), 20_000), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    "distribution",
    [
        Lognormal(kind="lognormal", mean=300, cv=1.5),
        Gamma(kind="gamma", mean=300, cv=1.5),
        Weibull(kind="weibull", mean=300, cv=1.5),
    ],
)
def test_mean_and_cv_are_met(distribution):
    drawn = distribution.draw(rng(), COUNT * 4)
    assert drawn.mean() == pytest.approx(300, rel=5 * 1.5 / math.sqrt(COUNT * 4))
    assert drawn.std() / drawn.mean() == pytest.approx(1.5, rel=0.05)


def test_uniform_tokens_reach_both_ends_equally():
    drawn = Uniform(kind="uniform", low=3, high=7).draw_tokens(rng(), COUNT)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_zipf_shares_fall_as_the_power_says():
    drawn = Zipf(kind="zipf", exponent=1.3, low=2, high=6).draw_tokens(rng(), COUNT)
    values, counts = np.unique(drawn, return_counts=True)
    weights = np.arange(2, 7) ** -1.3
    assert values.tolist() == [2, 3, 4, 5, 6]
    assert stats.chisquare(counts, weights / weights.sum() * COUNT).pvalue > 1e-4


def test_histogram_keeps_its_weights():
    histogram = Empirical(kind="empirical", values=(10, 20, 30), weights=(1, 0, 3))
    values, counts = np.unique(histogram.draw_tokens(rng(), COUNT), return_counts=True)
    assert values.tolist() == [10, 30]
    assert stats.chisquare(counts, [COUNT / 4, COUNT * 3 / 4]).pvalue > 1e-4


def test_clipping_is_where_it_says_and_lengths_are_at_least_one():
    clipped = Lognormal(kind="lognormal", mean=100, cv=2, min=50, max=200)
    drawn = clipped.draw_tokens(rng(), 5000)
    assert (drawn.min(), drawn.max()) == (50, 200)
    assert Gamma(kind="gamma", mean=0.01, cv=1).draw_tokens(rng(), 1000).min() == 1


def test_pairs_stay_together():
    spec = PairsFile(kind="pairs", pairs=((10, 100), (20, 200), (30, 300)), max_output_tokens=250)
    from pathlib import Path

    prompt, output = spec.load(Path()).draw(Streams(0), 1000)
    assert set(zip(prompt.tolist(), output.tolist(), strict=True)) == {
        (10, 100),
        (20, 200),
        (30, 250),
    }


def test_pairs_from_a_file_keep_its_correlation(kvsim_data):
    """traces/README.md, lengths bwb 4k: Spearman 0.81; apart it would be 0."""
    spec = PairsFile(kind="pairs", file="traces/lengths_bwb_4k_llama2.csv")
    prompt, output = spec.load(kvsim_data).draw(Streams(0), COUNT)
    assert stats.spearmanr(prompt, output).statistic == pytest.approx(0.8053, abs=0.01)


def test_prompt_and_output_use_streams_of_their_own():
    """Another output distribution leaves the prompts as they were."""
    prompt = Lognormal(kind="lognormal", mean=300, cv=1)
    drawn = [
        IndependentLengths(prompt=prompt, output=output).draw(Streams(4), 100)[0]
        for output in (Fixed(kind="fixed", tokens=5), Gamma(kind="gamma", mean=9, cv=1))
    ]
    np.testing.assert_array_equal(*drawn)


def test_a_missing_pairs_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        PairsFile(kind="pairs", file="nowhere.csv").load(tmp_path)
