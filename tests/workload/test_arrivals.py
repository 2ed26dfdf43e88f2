"""Arrival processes keep their laws: mean rate, CV of the gaps, and where the time goes.

Bounds are five standard errors of the estimate, so that a correct process fails about once in
a million seeds; the seeds are fixed.
"""

import math
from itertools import cycle, islice

import numpy as np
import pytest
from scipy import stats

from kvsim.workload.arrivals import (
    AtOnce,
    ClosedLoopArrivals,
    Constant,
    Diurnal,
    GammaArrivals,
    OnOff,
    Phase,
    Piecewise,
    Poisson,
    WeibullArrivals,
    _through_clock,
)
from kvsim.workload.base import BATCH_ROWS
from kvsim.workload.distributions import Fixed, weibull_shape
from kvsim.workload.streams import Streams

COUNT = 50 * BATCH_ROWS


def times_of(process, seed=1, count=COUNT):
    batches = islice(process.times(Streams(seed)), math.ceil(count / BATCH_ROWS))
    return np.concatenate(list(batches))[:count]


def until(process, seconds, seed=1):
    found = []
    for batch in process.times(Streams(seed)):
        found.append(batch[batch < seconds])
        if batch[-1] >= seconds:
            break
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("process", "cv"),
    [
        (Poisson(kind="poisson", rate=4), 1.0),
        (GammaArrivals(kind="gamma", rate=4, cv=0.5), 0.5),
        (GammaArrivals(kind="gamma", rate=4, cv=3), 3.0),
        (WeibullArrivals(kind="weibull", rate=4, cv=0.4), 0.4),
        (WeibullArrivals(kind="weibull", rate=4, cv=2), 2.0),
    ],
)
def test_gaps_have_the_mean_and_the_cv(process, cv):
    gaps = np.diff(times_of(process), prepend=0.0)
    assert gaps.mean() == pytest.approx(0.25, rel=5 * cv / math.sqrt(COUNT))
    centred = (gaps - gaps.mean()) / gaps.std()
    spread_error = math.sqrt((centred**4).mean() - 1) / (2 * math.sqrt(COUNT))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=10 * spread_error)


@pytest.mark.parametrize(
    ("process", "law"),
    [
        (Poisson(kind="poisson", rate=2), stats.expon(scale=0.5)),
        (GammaArrivals(kind="gamma", rate=2, cv=2), stats.gamma(0.25, scale=2)),
        (
            WeibullArrivals(kind="weibull", rate=2, cv=2),
            stats.weibull_min(weibull_shape(2), scale=0.5 / math.gamma(1 + 1 / weibull_shape(2))),
        ),
    ],
)
def test_gaps_follow_their_distribution(process, law):
    gaps = np.diff(times_of(process, count=20_000), prepend=0.0)
    assert stats.kstest(gaps, law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.4])
def test_weibull_shape_inverts_the_cv(shape):
    law = stats.weibull_min(shape)
    assert weibull_shape(law.std() / law.mean()) == pytest.approx(shape, rel=1e-9)


def test_constant_and_at_once_are_exact():
    assert times_of(Constant(kind="constant", rate=4), count=3).tolist() == [0.25, 0.5, 0.75]
    spaced = times_of(Constant(kind="constant", rate=4), count=BATCH_ROWS + 2)
    np.testing.assert_allclose(np.diff(spaced), 0.25, rtol=1e-9)
    assert not times_of(AtOnce(kind="at_once"), count=5).any()


def test_piecewise_rates_hold_in_each_phase_and_silence_is_silent():
    phases = (Phase(seconds=1000, rate=5), Phase(seconds=500, rate=0), Phase(seconds=100, rate=50))
    times = until(Piecewise(kind="piecewise", phases=phases), math.inf)
    counts = np.histogram(times, [0, 1000, 1500, 1600])[0]
    assert times[-1] < 1600
    assert counts[1] == 0
    assert counts[0] == pytest.approx(5000, abs=5 * math.sqrt(5000))
    assert counts[2] == pytest.approx(5000, abs=5 * math.sqrt(5000))


def test_piecewise_repeats():
    phases = (Phase(seconds=1, rate=100), Phase(seconds=1, rate=0))
    times = until(Piecewise(kind="piecewise", phases=phases, repeat=True), 400.0)
    assert (np.floor(times) % 2 == 0).all()
    assert len(times) == pytest.approx(20_000, abs=5 * math.sqrt(20_000))


def test_a_constant_rate_through_the_clock_is_the_plain_process():
    """Phases of one rate are that rate: the clock runs straight."""
    phases = (Phase(seconds=3, rate=4), Phase(seconds=5, rate=4))
    clocked = Piecewise(kind="piecewise", phases=phases, repeat=True)
    plain = Poisson(kind="poisson", rate=4)
    np.testing.assert_allclose(times_of(clocked, count=9000), times_of(plain, count=9000))


def test_bursts_keep_the_mean_rate_and_are_overdispersed():
    process = OnOff(kind="on_off", on_rate=20, off_rate=1, on_seconds=5, off_seconds=20)
    times = until(process, 100_000.0)
    assert process.rate == pytest.approx(4.8)
    # a cycle's arrivals vary by about its own mean: 4,000 cycles
    assert len(times) / 100_000 == pytest.approx(4.8, rel=5 / math.sqrt(4000) * 1.2)
    counts = np.bincount(times.astype(int) // 5)
    assert counts.var() / counts.mean() > 10  # Poisson would have 1


@pytest.mark.parametrize("rate", [0.01, 1.0, 50.0])
def test_a_day_without_a_wave_is_a_poisson_process_of_its_rate(rate):
    """At any rate: the time of an arrival is found between bounds that must hold it."""
    flat = Diurnal(kind="diurnal", rate=rate, amplitude=0.0, period_seconds=1000)
    plain = Poisson(kind="poisson", rate=rate)
    assert times_of(flat, count=500) == pytest.approx(times_of(plain, count=500))


def test_fixed_periods_are_exact():
    process = OnOff(kind="on_off", on_rate=50, on_seconds=1, off_seconds=3, periods="fixed")
    assert (until(process, 200.0) % 4 < 1).all()


def test_a_day_has_its_mean_its_peak_and_its_trough():
    day = Diurnal(kind="diurnal", rate=2, amplitude=0.8, period_seconds=1000, peak_seconds=300)
    times = until(day, 50_000.0)
    phase = np.histogram(times % 1000, bins=10, range=(0, 1000))[0] / (50 * 100)
    assert len(times) == pytest.approx(100_000, abs=5 * math.sqrt(100_000))
    middles = np.arange(50, 1000, 100)
    # each bin integrates the cosine: sinc(width / period) softens it
    wave = np.sin(np.pi / 10) / (np.pi / 10) * np.cos(2 * np.pi * (middles - 300) / 1000)
    expected = 2 * (1 + 0.8 * wave)
    np.testing.assert_allclose(phase, expected, atol=5 * math.sqrt(3.6 / 5000))


def test_smooth_gaps_through_a_day_are_smoother_than_poisson():
    day = {"kind": "diurnal", "rate": 2, "amplitude": 0.5, "period_seconds": 1000}
    counts = [
        np.bincount(until(Diurnal(**day, cv=cv), 20_000.0).astype(int) // 1000).var()
        for cv in (0.1, 1.0)
    ]
    assert counts[0] < counts[1] / 10


# --- the clock ----------------------------------------------------------------------------------


def steps_until(steps, seconds):
    """Arrivals expected up to each time: the integral of ``(seconds, rate)`` steps, in turn."""
    total, start, left = np.zeros_like(seconds), 0.0, cycle(steps)
    while start < seconds.max():
        length, rate = next(left)
        total += rate * np.clip(seconds - start, 0, length)
        start += length
    return total


def day_until(day, seconds):
    """The integral of the documented rate, by Simpson's rule on each stretch between arrivals."""

    def rate(at):
        turn = 2 * np.pi * (at - day.peak_seconds) / day.period_seconds
        return day.rate * (1 + day.amplitude * np.cos(turn))

    starts = np.concatenate([[0.0], seconds[:-1]])
    middles = (starts + seconds) / 2
    return np.cumsum((seconds - starts) * (rate(starts) + 4 * rate(middles) + rate(seconds)) / 6)


STEPS = ((3.0, 4.0), (2.0, 0.0), (1.0, 9.0))
PHASES = tuple(Phase(seconds=length, rate=rate) for length, rate in STEPS)


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (
            Piecewise(kind="piecewise", phases=PHASES, repeat=True),
            lambda seconds: steps_until(STEPS, seconds),
        ),
        (
            OnOff(
                kind="on_off",
                on_rate=7,
                off_rate=1,
                on_seconds=2,
                off_seconds=3,
                periods="fixed",
            ),
            lambda seconds: steps_until(((2.0, 7.0), (3.0, 1.0)), seconds),
        ),
    ],
)
def test_every_arrival_of_steps_is_that_of_the_unit_process(process, expected):
    """Time changes as the docs draw it: as many arrivals are expected by the k-th arrival's time
    as the unit-rate process of the same seed needs seconds to its k-th."""
    unit = times_of(Poisson(kind="poisson", rate=1), count=3 * BATCH_ROWS)
    seconds = times_of(process, count=3 * BATCH_ROWS)
    np.testing.assert_allclose(expected(seconds), unit, rtol=1e-9)


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("peak_seconds", [0.0, 200.0])
def test_every_arrival_of_a_day_is_that_of_the_unit_process(amplitude, peak_seconds):
    day = Diurnal(
        kind="diurnal",
        rate=5,
        amplitude=amplitude,
        period_seconds=500,
        peak_seconds=peak_seconds,
    )
    unit = times_of(Poisson(kind="poisson", rate=1), count=2 * BATCH_ROWS)
    seconds = times_of(day, count=2 * BATCH_ROWS)
    np.testing.assert_allclose(day_until(day, seconds), unit, rtol=1e-4, atol=1e-4)


def test_phases_end_with_the_last_of_them():
    """Gaps all but even: 12 expected in 3 s, none in 2 s, 9 in the last second, and no more."""
    times = until(Piecewise(kind="piecewise", phases=PHASES, cv=0.01), math.inf)
    early = np.arange(1, 12) / 4
    np.testing.assert_allclose(times[:11], early, atol=0.05)
    late = times[12:]
    np.testing.assert_allclose(late, 5 + np.arange(1, 1 + len(late)) / 9, atol=0.05)
    assert 8 <= len(late) <= 9


def test_an_arrival_on_the_edge_of_a_silence_waits_until_it_ends():
    """Two a second for 2 s, silence for 3 s, then one a second: the fourth is due as silence
    begins, and the sixth as the phases end, so that it never comes."""
    unit = iter([np.array([1.0, 4.0]), np.array([4.5, 6.0]), np.array([9.0])])
    steps = iter([(2.0, 2.0), (3.0, 0.0), (2.0, 1.0)])
    found = np.concatenate(list(_through_clock(unit, steps)))
    assert found.tolist() == [0.5, 5.0, 5.5]


# --- what is stated, and what is not --------------------------------------------------------------


@pytest.mark.parametrize(
    ("bare", "stated"),
    [
        (
            Diurnal(kind="diurnal", rate=3),
            {"amplitude": 0.5, "period_seconds": 86_400, "peak_seconds": 43_200, "cv": 1},
        ),
        (
            OnOff(kind="on_off", on_rate=3, on_seconds=1, off_seconds=2),
            {"off_rate": 0, "periods": "exponential", "cv": 1},
        ),
        (Piecewise(kind="piecewise", phases=PHASES), {"repeat": False, "cv": 1}),
        (
            ClosedLoopArrivals(kind="closed_loop", clients=2),
            {"think": Fixed(kind="fixed", seconds=0), "ramp_seconds": 0},
        ),
    ],
)
def test_what_is_left_out_is_what_the_page_on_workloads_says(bare, stated):
    assert {name: getattr(bare, name) for name in stated} == stated


@pytest.mark.parametrize(
    ("phases", "repeat", "message"),
    [
        ([(1, 0), (2, 0)], False, "every phase has a rate of 0"),
        ([(1, 0)], True, "every phase has a rate of 0"),
        # 2 * 4e-7 arrivals a cycle; 4e-7 a second for 3 s would be enough
        ([(2, 4e-7)], True, "8e-07 arrivals expected a cycle"),
    ],
)
def test_phases_in_which_nothing_would_arrive_are_refused(phases, repeat, message):
    steps = tuple(Phase(seconds=seconds, rate=rate) for seconds, rate in phases)
    with pytest.raises(ValueError, match=message):
        Piecewise(kind="piecewise", phases=steps, repeat=repeat)


@pytest.mark.parametrize(
    ("phases", "repeat"),
    [
        ([(3, 4e-7)], True),  # 1.2e-6 a cycle
        ([(2, 4e-7)], False),  # and one that does not repeat ends
        ([(1, 0), (0.5, 2e-6)], True),  # exactly 1e-6
    ],
)
def test_phases_in_which_something_may_arrive_are_taken(phases, repeat):
    steps = tuple(Phase(seconds=seconds, rate=rate) for seconds, rate in phases)
    assert Piecewise(kind="piecewise", phases=steps, repeat=repeat).phases == steps


def test_bursts_in_which_nothing_would_arrive_are_refused():
    with pytest.raises(ValueError, match="8e-07 arrivals expected a cycle"):
        OnOff(kind="on_off", on_rate=4e-7, on_seconds=2, off_rate=1, off_seconds=9)
    assert OnOff(kind="on_off", on_rate=4e-7, on_seconds=3, off_seconds=9).rate == pytest.approx(
        1e-7
    )
