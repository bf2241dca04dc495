"""Intervals and tests: known answers, coverage, and refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bqcore.stats import Interval, clopper_pearson, paired_difference, percentile, prediction_interval

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60)


def coverage(distribution, n: int, repeats: int, mean=None, k: int = 1) -> tuple[float, float]:
    """
    Give how often the interval from n runs holds the next value, and the standard error of that share.

    The next value is not drawn: its probability of falling inside is known, which makes the error 10 times smaller.
    """
    generator = np.random.default_rng([n, k, repeats])
    next_value = mean or distribution
    inside = []
    for runs in distribution.rvs((repeats, n), random_state=generator):
        _, low, high = prediction_interval(runs, k)
        below = next_value.cdf(low) - (next_value.pmf(low) if hasattr(next_value.dist, "pmf") else 0.0)
        inside.append(next_value.cdf(high) - below)
    return float(np.mean(inside)), float(np.std(inside) / math.sqrt(repeats))


@pytest.mark.parametrize(("n", "rank"), [(39, 1), (79, 2), (119, 3), (199, 5)])
def test_rank_interval_leaves_a_fortieth_of_the_ranks_on_each_side(n, rank):
    runs = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert prediction_interval(runs) == Interval((n + 1) / 2, rank, n + 1 - rank)


# 0.002 beside the error of the simulation: between two ranks the ends are interpolated, which is exact for uniform runs.
@pytest.mark.parametrize("n", [39, 100])
@pytest.mark.parametrize(
    "distribution",
    [scipy_stats.norm(), scipy_stats.uniform(), scipy_stats.expon(), scipy_stats.lognorm(2.0), scipy_stats.t(1.5)],
    ids=lambda d: d.dist.name,
)
def test_rank_interval_covers_95_percent_whatever_the_distribution(distribution, n):
    found, error = coverage(distribution, n, 400)
    assert found == pytest.approx(0.95, abs=4 * error + 0.002)


@pytest.mark.parametrize(
    "distribution",
    [scipy_stats.binom(450, 0.01), scipy_stats.binom(450, 0.0005), scipy_stats.poisson(0.3), scipy_stats.randint(0, 9)],
    ids=lambda d: f"{d.dist.name}{d.args}",
)
def test_rank_interval_covers_at_least_95_percent_of_counts(distribution):
    found, error = coverage(distribution, 100, 300)
    assert found >= 0.95 - 4 * error
    assert found <= 1.0


@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 1), (38, 1), (10, 3), (100, 3), (39, 10)])
def test_student_interval_covers_95_percent_of_normal_runs(n, k):
    found, error = coverage(scipy_stats.norm(3, 2), n, 1500, scipy_stats.norm(3, 2 / math.sqrt(k)), k)
    assert found == pytest.approx(0.95, abs=4 * error)
    assert 4 * error < 0.025


def test_student_interval_of_means_of_skewed_runs_is_near_95_percent():
    # The mean of 10 exponential runs still has a skewness of 0.63, hence one percent beside the simulation's error.
    found, error = coverage(scipy_stats.expon(), 100, 600, scipy_stats.gamma(10, scale=0.1), 10)
    assert found == pytest.approx(0.95, abs=4 * error + 0.01)


def test_student_interval_by_hand():
    # Runs 1, 2, 3: mean 2, deviation 1, t(2) = 4.302653 for 95 %.
    for k in (1, 2, 3):
        half = 4.302653 * math.sqrt(1 / k + 1 / 3)
        assert prediction_interval([1, 3, 2], k) == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)


@settings(max_examples=60)
@given(VALUES, st.integers(1, 5), st.floats(0.5, 0.99), st.floats(-50, 50), st.floats(0.1, 10))
def test_prediction_interval_moves_and_scales_with_the_runs(runs, k, level, shift, scale):
    first = np.array(prediction_interval(runs, k, level))
    assert first[1] <= first[0] + 1e-9 and first[0] <= first[2] + 1e-9
    moved = prediction_interval(np.array(runs) * scale + shift, k, level)
    assert moved == pytest.approx(first * scale + shift, abs=1e-7 * (1 + np.abs(first).max() * scale))
    assert prediction_interval(sorted(runs), k, level) == pytest.approx(tuple(first), abs=1e-9 * (1 + abs(first).max()))


@pytest.mark.parametrize("trials", [1, 2, 12, 60])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_clopper_pearson_covers_at_least_its_level_at_every_rate(trials, level):
    p = np.linspace(0, 1, 501)
    intervals = [clopper_pearson(events, trials, level) for events in range(trials + 1)]
    covered = sum(
        scipy_stats.binom.pmf(events, trials, p) * ((interval.low <= p) & (p <= interval.high))
        for events, interval in enumerate(intervals)
    )
    assert covered.min() >= level - 1e-12
    assert [interval.estimate for interval in intervals] == [events / trials for events in range(trials + 1)]


@pytest.mark.parametrize("events", [1, 3, 17])
def test_clopper_pearson_ends_leave_a_fortieth_of_the_chance_beyond(events):
    _, low, high = clopper_pearson(events, 450)
    assert scipy_stats.binom.sf(events - 1, 450, low) == pytest.approx(0.025)
    assert scipy_stats.binom.cdf(events, 450, high) == pytest.approx(0.025)


def test_clopper_pearson_of_no_event_and_of_all():
    none, every = clopper_pearson(0, 450), clopper_pearson(450, 450)
    assert none == pytest.approx((0, 0, 1 - 0.025 ** (1 / 450)))  # 0.8 %
    assert every == pytest.approx((1, 0.025 ** (1 / 450), 1))


@settings(max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(-4, 4))
def test_percentile_counts_the_runs_below_and_half_the_ties(runs, value):
    below, ties = sum(run < value for run in runs), runs.count(value)
    assert percentile(runs, value) == pytest.approx(100 * (below + ties / 2) / len(runs))


def test_paired_difference_is_student_s_interval_and_uses_the_pairing():
    generator = np.random.default_rng(5)
    ours = []
    for _ in range(1000):
        seed_effect = generator.normal(0, 100, 12)  # common to both, so it must not widen the interval
        first, second = (seed_effect + generator.normal(mean, 1, 12) for mean in (0.5, 0))
        ours.append(paired_difference(first, second))
    reference = scipy_stats.ttest_rel(first, second).confidence_interval()
    assert ours[-1] == pytest.approx((np.mean(first - second), reference.low, reference.high))
    covered = np.mean([low <= 0.5 <= high for _, low, high in ours])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 1000))  # four binomial standard errors
    assert np.mean([high - low for _, low, high in ours]) < 4


def test_the_level_is_kept_by_all_intervals():
    runs = np.random.default_rng(0).normal(size=200)
    for interval in (prediction_interval, lambda r, level: paired_difference(r, 0 * r, level)):
        narrow, wide = interval(runs, level=0.5), interval(runs, level=0.99)
        assert wide.low < narrow.low < narrow.high < wide.high
    assert prediction_interval(np.arange(1.0, 20), level=0.9) == (10, 1, 19)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prediction_interval([]), r"Runs have shape \(0,\): give one value a seed, at least 2\."),
        (lambda: prediction_interval([1.0]), r"Runs have shape \(1,\): give one value a seed, at least 2\."),
        (lambda: prediction_interval([[1.0, 2.0]]), r"Runs have shape \(1, 2\)"),
        (
            lambda: prediction_interval([1, math.nan, 2]),
            r"Runs hold 1 non-finite values of 3, first at run 1: leave out",
        ),
        (lambda: prediction_interval([1, 2], 0), r"Runs a mean is 0: give an integer of at least 1\."),
        (lambda: prediction_interval([1, 2], level=95), r"Level is 95: give a number from 0 to 1\."),
        (lambda: clopper_pearson(0, 0), r"Trials is 0: give an integer of at least 1\."),
        (lambda: clopper_pearson(5, 4), r"Events is 5: give an integer from 0 to 4\."),
        (lambda: clopper_pearson(0.5, 4), r"Events is 0\.5: give an integer\."),
        (lambda: clopper_pearson(1, 4, level=-0.1), r"Level is -0\.1"),
        (lambda: percentile([], 1.0), r"Runs have shape \(0,\): give one value a seed, at least 1\."),
        (lambda: paired_difference([1, 2], [1, 2, 3]), r"Paired values come in 2 and 3 runs: pair them seed by seed\."),
        (lambda: paired_difference([1], [1]), r"Runs have shape \(1,\)"),
        (lambda: paired_difference([1, 2], [1, math.inf]), r"Runs hold 1 non-finite values of 2, first at run 1"),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
