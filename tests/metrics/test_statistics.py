"""Intervals and tests: known answers, coverage, and refusals."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bqcore.metrics.statistics import (
    Interval,
    clopper_pearson,
    correlation,
    correlation_gain,
    detectable_difference,
    mcnemar,
    paired_bootstrap,
    paired_difference,
    percentile,
    prediction_interval,
    seed_correlation,
    within_level_correlation,
)

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60)


def coverage(distribution, n: int, repeats: int, mean=None, k: int = 1) -> tuple[float, float]:
    """
    Return how often the interval from n runs holds the next value, and the standard error of that share.

    The next value is not drawn: its probability of falling inside is known, which makes the error 10 times smaller.
    """
    generator = np.random.default_rng([n, k, repeats])
    next_value = mean or distribution
    drawn = distribution.rvs((repeats, n), random_state=generator)
    _, low, high = np.transpose([prediction_interval(runs, k) for runs in drawn])
    below = next_value.cdf(low) - (next_value.pmf(low) if hasattr(next_value.dist, "pmf") else 0.0)
    inside = next_value.cdf(high) - below
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


# Differences of a level of noise, of counts, and skewed; the least coverage to expect of 10 seeds is Student's own there.
@pytest.mark.parametrize(
    ("distribution", "n", "least"),
    [
        (scipy_stats.norm(0.5), 5, 0.89), (scipy_stats.norm(0.5), 10, 0.93), (scipy_stats.norm(0.5), 40, 0.94),
        (scipy_stats.expon(), 10, 0.88), (scipy_stats.poisson(0.3), 10, 0.93),
    ],
)  # fmt: skip
def test_paired_bootstrap_covers_the_mean_difference(distribution, n, least):
    repeats = 400
    generator = np.random.default_rng(n)
    draws = distribution.rvs((repeats, n), random_state=generator)
    common = generator.normal(0, 100, (repeats, n))  # of the seed, in both
    found = [paired_bootstrap(a + b, b, rng=i, resamples=1000) for i, (a, b) in enumerate(zip(draws, common))]
    covered = np.mean([low - 1e-9 <= distribution.mean() <= high + 1e-9 for _, low, high in found])
    error = math.sqrt(0.95 * 0.05 / repeats)
    assert least - 3 * error <= covered <= 0.96 + 3 * error
    assert [estimate for estimate, _, _ in found] == pytest.approx(draws.mean(axis=1))


def test_paired_bootstrap_obeys_its_seed_and_leaves_the_global_generator_alone():
    first, second = np.random.default_rng(0).normal(size=(2, 12))
    np.random.seed(7)  # noqa: NPY002 - the global generator is what is watched here
    untouched = np.random.RandomState(7).random()
    one, again, other = (paired_bootstrap(first, second, rng=seed) for seed in (3, 3, 4))
    assert one == again and one != other
    assert np.random.random() == untouched  # noqa: NPY002
    assert one[1:] == pytest.approx(other[1:], abs=0.1)  # of 10 000 resamples, far out


def test_paired_bootstrap_of_many_normal_seeds_is_student_s_interval():
    first, second = np.random.default_rng(1).normal(size=(2, 400))
    student = paired_difference(first, second)
    # 10 000 resamples leave an error of about 2 % of a deviation in a quantile at 2.5 %.
    assert paired_bootstrap(first, second, rng=0) == pytest.approx(student, abs=0.025 * (student.high - student.low))
    assert paired_bootstrap(np.arange(9.0), np.arange(9.0) - 0.5, rng=0) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("n", "power", "level"), [(3, 0.8, 0.95), (10, 0.8, 0.95), (10, 0.5, 0.99), (20, 0.9, 0.8), (10, 0.1, 0.95)]
)
def test_detectable_difference_is_found_as_often_as_the_power_says(n, power, level):
    # The spread of six differences, known; then that many pairs are drawn with that spread about that mean.
    pilot = np.array([0.0, 0.3, 1.0, -0.4, 0.7, 2.0])
    mean = detectable_difference(pilot, 0 * pilot, seeds=n, level=level, power=power)
    draws = np.random.default_rng(n).normal(mean, pilot.std(ddof=1), (20_000, n))
    found = scipy_stats.ttest_1samp(draws, 0, axis=1)
    seen = ((found.pvalue < 1 - level) & (found.statistic > 0)).mean()
    assert seen == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / 20_000))


def test_detectable_difference_shrinks_with_seeds_and_is_none_without_spread():
    first, second = np.random.default_rng(2).normal(size=(2, 8))
    sizes = [detectable_difference(first, second, seeds=n) for n in (2, 4, 8, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] == detectable_difference(first, second) == detectable_difference(second + 5, first)
    assert detectable_difference([1, 2, 3], [0, 1, 2]) == 0


def test_mcnemar_by_hand_and_its_level():
    first, second = np.zeros((2, 20), bool)
    first[:7], second[6:8] = True, True  # 6 for one alone, 1 for the other, 1 for both
    assert mcnemar(first, second) == (6, 1, pytest.approx(2 * (1 + 7) / 2**7))
    assert mcnemar(second, first)[:2] == (1, 6)
    assert mcnemar(first, first) == (0, 0, 1.0)
    # Exact: of equal methods it rejects 5 % at most, and power comes from discordant inputs alone.
    generator = np.random.default_rng(0)
    equal = [mcnemar(*(generator.random((2, 60)) < 0.2)).p_value <= 0.05 for _ in range(600)]
    assert 0.005 < np.mean(equal) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)
    unequal = [mcnemar(*(generator.random((2, 60)) < [[0.5], [0.05]])).p_value <= 0.05 for _ in range(50)]
    assert np.mean(unequal) > 0.95


def networks(n: int, repeats: int, skewed: bool = False) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Draw values of two splits, (repeats, n, 7 levels), with effects of level and seed; and the true correlations."""
    generator = np.random.default_rng([n, repeats, skewed])
    draw = (
        (lambda *size: generator.exponential(size=size) - 1) if skewed else (lambda *size: generator.normal(size=size))
    )
    levels = np.linspace(-2, 2, 7)
    seeds = levels + 0.5 * draw(repeats, n, 1)
    first, second = (seeds + 0.3 * draw(repeats, n, 7) for _ in range(2))
    between, within = levels.var(), 0.5**2
    return first, second, (between + within) / (between + within + 0.09), within / (within + 0.09)


@pytest.mark.parametrize(
    ("n", "skewed", "least", "least_within"),
    [(5, False, 0.93, 0.91), (10, False, 0.92, 0.91), (30, False, 0.93, 0.92), (10, True, 0.91, 0.82)],
)
def test_correlations_over_seeds_cover_the_true_ones(n, skewed, least, least_within):
    first, second, whole, within = networks(n, 300, skewed)
    for call, true, floor in ((seed_correlation, whole, least), (within_level_correlation, within, least_within)):
        covered = np.mean([low <= true <= high for _, low, high in map(call, first, second)])
        assert floor - 0.02 <= covered <= 0.985  # 0.02: 1.6 binomial standard errors at 0.95


def test_fisher_s_interval_covers_independent_pairs_and_fails_for_clusters():
    generator = np.random.default_rng(3)
    for r, n in ((0.0, 8), (0.9, 20), (-0.6, 50)):
        draws = generator.multivariate_normal([0, 1], [[1, r], [r, 1]], (600, n))
        covered = np.mean([low <= r <= high for _, low, high in (correlation(*d.T) for d in draws)])
        assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 600))
    first, second, _, within = networks(10, 300)
    centred = [x - x.mean(axis=1, keepdims=True) for x in (first, second)]
    # Seven levels of a seed are not seven networks: this is why the interval over seeds stands beside it.
    assert np.mean([low <= within <= high for _, low, high in map(correlation, *centred)]) < 0.8


def test_correlations_by_hand():
    generator = np.random.default_rng(4)
    first = generator.normal(size=(9, 5))
    second = first + generator.normal(size=(9, 5))
    reference = scipy_stats.pearsonr(first.ravel(), second.ravel())
    assert correlation(first, second) == pytest.approx((reference.statistic, *reference.confidence_interval()))
    assert seed_correlation(first, second).estimate == pytest.approx(reference.statistic)
    centred = [(x - x.mean(axis=0)).ravel() for x in (first, second)]
    assert within_level_correlation(first, second).estimate == pytest.approx(np.corrcoef(*centred)[0, 1])
    # One level has nothing but seeds: within it is the whole, and a cluster is one pair.
    one, whole = (call(first[:, :1], second[:, :1]) for call in (within_level_correlation, seed_correlation))
    assert one == pytest.approx(whole)
    # Levels that differ, networks that do not go together.
    apart = 10 * np.arange(5.0)
    assert correlation(first + apart, -first + apart).estimate > 0.9
    assert within_level_correlation(first + apart, -first + apart) == pytest.approx((-1, -1, -1), abs=1e-9)
    assert seed_correlation(first, 3 * first - 1) == pytest.approx((1, 1, 1))


def test_the_gain_of_one_correlation_over_another_by_hand():
    generator = np.random.default_rng(7)
    second = generator.normal(size=(8, 4))
    good, bad = second + 0.3 * generator.normal(size=(8, 4)), second + 3 * generator.normal(size=(8, 4))

    def gain(rows):
        r = [np.corrcoef(x[rows].ravel(), second[rows].ravel())[0, 1] for x in (good, bad)]
        return np.arctanh(r[0]) - np.arctanh(r[1])

    left = [gain(np.delete(np.arange(8), i)) for i in range(8)]
    half = scipy_stats.t.isf(0.025, 7) * np.sqrt(7 / 8 * np.sum((left - np.mean(left)) ** 2))
    found = correlation_gain(good, bad, second)
    assert found == pytest.approx((gain(np.arange(8)), gain(np.arange(8)) - half, gain(np.arange(8)) + half))
    assert found.low > 0
    assert correlation_gain(bad, good, second) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert correlation_gain(good, good * 3 - 1, second) == pytest.approx((0, 0, 0), abs=1e-9)
    # Within levels, what a level has in common is taken off both.
    apart = 50 * np.arange(4.0)
    centred = [x - x.mean(axis=0) for x in (good, bad, second)]
    r = [np.corrcoef(x.ravel(), centred[2].ravel())[0, 1] for x in centred[:2]]
    assert correlation_gain(good + apart, bad - apart, second + apart, within=True).estimate == pytest.approx(
        np.arctanh(r[0]) - np.arctanh(r[1])
    )


def test_the_jackknife_s_spread_is_that_of_resampled_seeds():
    (first,), (second,), _, _ = networks(200, 1)
    index = np.arange(len(first))
    found = scipy_stats.bootstrap(
        (index,), lambda i: np.arctanh(np.corrcoef(first[i].ravel(), second[i].ravel())[0, 1]),
        vectorized=False, n_resamples=999, method="percentile", rng=0,
    )  # fmt: skip
    _, low, high = seed_correlation(first, second)
    half = (np.arctanh(high) - np.arctanh(low)) / 2
    assert half / scipy_stats.t.isf(0.025, 199) == pytest.approx(found.standard_error, rel=0.15)


@settings(max_examples=40)
@given(st.integers(3, 12), st.integers(1, 6), st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-50, 50))
def test_correlations_do_not_depend_on_units_or_on_the_order_of_seeds(n, levels, number, scale, shift):
    generator = np.random.default_rng(number)
    first, second = generator.normal(size=(2, n, levels))
    order = generator.permutation(n)
    for call in (seed_correlation, within_level_correlation) + ((correlation,) if n * levels >= 4 else ()):
        one = call(first, second)
        assert -1 <= one.low <= one.estimate <= one.high <= 1
        assert call(first[order] * scale + shift, second[order]) == pytest.approx(one, abs=1e-6)
        assert call(second, -first) == pytest.approx((-one.estimate, -one.high, -one.low), abs=1e-6)


def test_no_pixel_is_ever_resampled():
    # What draws again lives in bqcore.metrics.statistics, which takes one value a seed; nothing else in the project draws again.
    root = Path(__file__).resolve().parents[2]
    again = re.compile(r"(?<!paired_)bootstrap\(|permutation_test|resample\(|replace=True|monte_carlo|jackknife\(")
    found = [
        path.name
        for folder in ("bqcore", "studies", "notebooks")
        for path in root.glob(f"{folder}/**/*.py")
        if again.search(path.read_text("utf-8"))
    ]
    assert found == ["statistics.py"]
    for call in (
        lambda x: prediction_interval(x),
        lambda x: paired_difference(x, x),
        lambda x: paired_bootstrap(x, x, rng=0),
    ):
        with pytest.raises(ValueError, match=r"Runs have shape \(5, 40, 40\): give one value a seed"):
            call(np.zeros((5, 40, 40)))
    for call in (seed_correlation, within_level_correlation):
        with pytest.raises(ValueError, match=r"shape \(5, 40, 40\): give \(seeds, levels\)"):
            call(np.zeros((5, 40, 40)), np.zeros((5, 40, 40)))


def test_the_level_is_kept_by_all_intervals():
    runs = np.random.default_rng(0).normal(size=200)
    grid = runs.reshape(40, 5)
    for interval in (
        prediction_interval,
        lambda r, level: paired_difference(r, 0 * r, level),
        lambda r, level: paired_bootstrap(r, 0 * r, rng=0, level=level),
        lambda r, level: correlation(r, r**3, level=level),
        lambda r, level: seed_correlation(grid, grid**3, level=level),
        lambda r, level: within_level_correlation(grid, grid**3, level=level),
    ):
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
        (lambda: paired_bootstrap([1, 2], [1, 2, 3], rng=0), r"Paired values come in 2 and 3 runs"),
        (lambda: paired_bootstrap([1, 2], [1, 2], rng=None), r"Seed of the resampling is None: give an integer\."),
        (
            lambda: paired_bootstrap([1, 2], [1, 2], rng=0, resamples=100),
            r"Resamples is 100: give an integer of at least 1000",
        ),
        (lambda: detectable_difference([1, 2], [1, 2], seeds=1), r"Seeds is 1: give an integer of at least 2\."),
        (lambda: detectable_difference([1, 2], [1, 2], power=1), r"Level is 0\.95 and power 1: give power between"),
        (lambda: detectable_difference([1, 2], [1, 2], level=1), r"Level is 1 and power 0\.8: give power between"),
        (lambda: mcnemar([1, 0], [True, False]), r"First is of type int64: give True where the method changes"),
        (lambda: mcnemar([], np.zeros(0, bool)), r"First is of type float64"),
        (lambda: mcnemar([[True]], [[True]]), r"First has shape \(1, 1\): give one truth value an input"),
        (lambda: mcnemar([True], [True, False]), r"First have shape \(1,\) and second \(2,\): both must come from"),
        (lambda: correlation([1, 2, 3], [1, 2, 4]), r"needs at least 4 pairs of values, and there are 3\."),
        (lambda: correlation([1, 2, 3, 4], [1, 2, 3]), r"First values have shape \(4,\) and second values \(3,\)"),
        (
            lambda: correlation([1, 2, 3, math.nan], [1, 2, 3, 4]),
            r"First values hold 1 non-finite values of 4, first at index \(3,\)",
        ),
        (lambda: correlation([1, 2, 3, 4], [5, 5, 5, 5]), r"Second values of 4 seeds do not differ: without spread"),
        (
            lambda: seed_correlation([[1, 2], [2, 3]], [[1, 2], [2, 3]]),
            r"First values have shape \(2, 2\): give \(seeds, levels\), at least 3",
        ),
        (lambda: seed_correlation([1, 2, 3], [1, 2, 3]), r"First values have shape \(3,\)"),
        (
            lambda: within_level_correlation([[1, 2]] * 4, [[3, 4]] * 4),
            r"First values of 4 seeds do not differ within each level",
        ),
        (
            lambda: within_level_correlation([[1], [1], [1], [2]], [[3], [1], [4], [1]]),
            r"First values of 3 seeds do not differ within",
        ),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
