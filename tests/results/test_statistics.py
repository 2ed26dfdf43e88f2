"""Statistics against numpy, scipy, closed forms and queues whose load is known."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from kvsim.results.statistics import (
    PERCENTILES,
    break_even_tokens,
    confidence_interval,
    distribution,
    is_saturated,
    quantiles,
    queue_means,
)

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50).map(np.array)


def waits_of_a_single_server(load, requests, seed, service="fixed"):
    """Arrivals and departures from the queue of an M/D/1 or M/M/1 server: Lindley's recursion."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / load, requests))
    busy = np.ones(requests) if service == "fixed" else rng.exponential(1.0, requests)
    starts, free = np.empty(requests), 0.0
    for at in range(requests):
        starts[at] = max(arrivals[at], free)
        free = starts[at] + busy[at]
    return arrivals, starts


# --- distributions -------------------------------------------------------------------------


@given(values, st.lists(st.floats(0, 1), min_size=1, max_size=5).map(np.array))
def test_quantiles_are_numpys_to_the_last_bit(observed, shares):
    assert quantiles(observed, shares).tolist() == np.quantile(observed, shares).tolist()


@given(values)
def test_plain_percentiles_are_numpys(observed):
    found = distribution(observed)
    assert found.mean == pytest.approx(observed.mean())
    assert found.std == pytest.approx(observed.std())
    for point in PERCENTILES:
        assert getattr(found, f"p{point}") == np.percentile(observed, point)


@given(values, st.data())
def test_a_weight_is_a_number_of_repetitions(observed, data):
    weights = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(observed),
                                          max_size=len(observed))), dtype=float)  # fmt: skip
    repeated = np.repeat(observed, weights.astype(int))
    found = distribution(observed, weights)
    if not len(repeated):
        assert found.mean is None
        return
    assert found.mean == pytest.approx(repeated.mean(), abs=1e-6)
    assert found.std == pytest.approx(repeated.std(), abs=1e-3)
    for point in PERCENTILES:
        expected = np.percentile(repeated, point, method="inverted_cdf")
        assert getattr(found, f"p{point}") == expected


@given(values, st.data())
def test_weighted_quantiles_at_any_share_invert_the_distribution(observed, data):
    """From the least to the most, also where several shares fall close together."""
    weights = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(observed),
                                          max_size=len(observed))), dtype=float)  # fmt: skip
    assume(weights.any())
    shares = np.arange(33) / 32  # exact in binary, so that no product is rounded across a step
    repeated = np.repeat(observed, weights.astype(int))
    expected = np.quantile(repeated, shares, method="inverted_cdf")
    assert quantiles(observed, shares, weights).tolist() == expected.tolist()


def test_what_never_happened_is_left_out():
    assert distribution(np.array([1.0, np.nan, 3.0])).mean == 2.0
    assert distribution(np.array([1.0, np.nan, 3.0]), np.array([1.0, 5.0, 3.0])).mean == 2.5
    assert distribution(np.array([np.nan])).p99 is None
    assert distribution(np.empty(0)).mean is None


# --- intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10, 31])
def test_intervals_are_students(count):
    samples = np.random.default_rng(count).normal(5, 2, count)
    low, high = stats.t.interval(0.95, count - 1, samples.mean(), stats.sem(samples))
    found = confidence_interval(samples)
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-4)


def test_intervals_cover_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(7)
    found = [confidence_interval(rng.normal(3, 1, 5)) for _ in range(2000)]
    covered = sum(interval.low <= 3 <= interval.high for interval in found)
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)  # four standard errors


def test_one_run_has_no_width():
    assert confidence_interval(np.array([4.0])) == (4.0, 4.0, 4.0)


# --- saturation ----------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["fixed", "exponential"])
@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
def test_a_stable_queue_is_not_saturated(load, service):
    found = [is_saturated(*waits_of_a_single_server(load, 2000, s, service)) for s in range(20)]
    assert not any(found)


@pytest.mark.parametrize("service", ["fixed", "exponential"])
@pytest.mark.parametrize("load", [1.3, 2.0, 10.0])
def test_an_overloaded_queue_is_saturated(load, service):
    assert all(is_saturated(*waits_of_a_single_server(load, 2000, s, service)) for s in range(20))


def test_a_little_overload_shows_in_a_long_run():
    assert is_saturated(*waits_of_a_single_server(1.05, 20_000, 1))


def test_requests_that_never_left_count_as_waiting():
    arrivals, starts = waits_of_a_single_server(2.0, 500, 0)
    starts[arrivals > arrivals[-1] / 2] = np.nan
    assert is_saturated(arrivals, starts)


def test_the_order_of_requests_does_not_matter():
    arrivals, starts = waits_of_a_single_server(1.5, 400, 0)
    order = np.random.default_rng(0).permutation(400)
    assert is_saturated(arrivals[order], starts[order])


def test_a_batch_at_once_and_a_burst_that_passes_are_not_saturation():
    together = np.zeros(500)
    assert not is_saturated(together, np.arange(500.0))
    burst = np.sort(np.concatenate([np.full(300, 10.0), np.linspace(0, 1000, 300)]))
    assert not is_saturated(burst, np.maximum(burst, np.arange(600) * 0.5))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=2, max_size=20))
def test_mean_queues_are_those_of_a_fine_grid(stays):
    arrivals = np.array([at for at, _ in stays])
    departures = arrivals + np.array([stay for _, stay in stays])
    start, end = arrivals.min(), arrivals.max()
    early, late = queue_means(arrivals, departures, end)
    if not start < (start + end) / 2 < end:
        assert (early, late) == (0.0, 0.0)
        return
    cells = 4000
    grid = start + (np.arange(cells) + 0.5) * (end - start) / cells
    present = [((arrivals <= t) & (t < departures)).sum() for t in grid]
    slack = 2 * len(stays) / cells + 1e-9
    assert early == pytest.approx(np.mean(present[: cells // 2]), abs=2 * slack)
    assert late == pytest.approx(np.mean(present[cells // 2 :]), abs=2 * slack)


# --- swap or recompute ---------------------------------------------------------------------


@given(st.floats(1e-7, 1e-4), st.floats(1e-10, 1e-7), st.floats(1e-6, 1e-3))
def test_break_even_of_a_quadratic(linear, quadratic, move):
    """linear n + quadratic n**2 = move n, at n = (move - linear) / quadratic."""
    most = 10**6
    found = break_even_tokens(lambda n: linear * n + quadratic * n * n, move, most)
    exact = (move - linear) / quadratic
    if exact > most * (1 + 1e-9):
        assert found is None
    elif exact <= 1:
        assert found == 1
    else:
        assert found == pytest.approx(exact, abs=1.01, rel=1e-9)


def test_free_recomputing_beats_any_move():
    assert break_even_tokens(lambda n: 0.0, 1e-6, 10**6) is None


# --- at the edges --------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", range(1, 31))
def test_students_table(freedom):
    """Every degree of freedom in it, by scipy's quantiles."""
    samples = np.arange(freedom + 1, dtype=float)
    found = confidence_interval(samples)
    half = stats.t.ppf(0.975, freedom) * samples.std(ddof=1) / np.sqrt(freedom + 1)
    assert found.mean == freedom / 2
    assert found.high - found.mean == pytest.approx(half, rel=3e-4)
    assert found.mean - found.low == pytest.approx(half, rel=3e-4)


def test_beyond_the_table_the_normal_quantile_stands_in():
    samples = np.arange(32.0)
    found = confidence_interval(samples)
    assert found.high - found.mean == pytest.approx(1.96 * samples.std(ddof=1) / np.sqrt(32))


def test_mean_queues_by_hand():
    """One waits from 0 to 3, one from 4 to 10; halves of [0, 8] are 4 s long."""
    found = queue_means(np.array([0.0, 4.0]), np.array([3.0, 10.0]), 8.0)
    assert found == (0.75, 1.0)


@pytest.mark.parametrize(("stuck", "saturated"), [(30, False), (31, True)])
def test_more_than_three_roots_of_n_must_wait(stuck, saturated):
    """100 requests: 3 * sqrt(100) = 30; the others are served at once."""
    arrivals = np.arange(100.0)
    departures = np.where(arrivals < 100 - stuck, arrivals, np.nan)
    assert is_saturated(arrivals, departures) is saturated


@pytest.mark.parametrize(("later", "saturated"), [(400, False), (401, True)])
def test_the_queue_must_more_than_double(later, saturated):
    """400 wait from 0 on, as many or one more from the middle on, and one comes at the end."""
    arrivals = np.repeat([0.0, 50.0, 100.0], [400, later, 1])
    assert is_saturated(arrivals, np.full(len(arrivals), np.nan)) is saturated


@pytest.mark.parametrize(("requests", "saturated"), [(19, False), (20, True)])
def test_fewer_than_twenty_requests_are_no_evidence(requests, saturated):
    arrivals = np.arange(float(requests))
    assert is_saturated(arrivals, np.full(requests, np.nan)) is saturated


def test_who_leaves_as_the_last_arrives_does_not_wait():
    arrivals = np.arange(100.0)
    assert not is_saturated(arrivals, np.maximum(arrivals, 99.0))


def test_weights_of_a_spread_by_hand():
    """1 once and 4 twice: mean 3, variance (4 + 1 + 1) / 3 = 2."""
    found = distribution(np.array([1.0, 4.0]), np.array([1.0, 2.0]))
    assert (found.mean, found.std) == (3.0, pytest.approx(np.sqrt(2)))
    assert (found.p50, found.p90, found.p95, found.p99) == (4.0, 4.0, 4.0, 4.0)


@pytest.mark.parametrize(("most", "expected"), [(999, None), (1000, 1000), (1001, 1000)])
def test_a_break_even_at_the_longest_request(most, expected):
    """1e-8 n**2 = 1e-5 n at 1,000."""
    assert break_even_tokens(lambda n: 1e-8 * n * n, 1e-5, most) == expected


def test_costs_that_are_equal_but_for_rounding_are_equal():
    """0.1 n + 0.2 n is 0.3 n, of which 43 in binary is an ulp more."""
    assert 0.1 * 43 + 0.2 * 43 < 0.3 * 43
    assert break_even_tokens(lambda n: 0.1 * n + 0.2 * n, 0.3, 43) == 1
