"""
Intervals and tests. The units to resample are seeds (or slices), never pixels, nodes or grid cells.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from .checks import check_finite, check_integer, check_share


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    estimate: float
    low: float
    high: float


def clopper_pearson(events: int, trials: int, level: float = 0.95) -> Interval:
    """
    Give the exact interval of a rate from *events* in *trials*.

    Examples
    --------
    >>> round(clopper_pearson(0, 450).high, 4)
    0.0082
    """
    trials = check_integer("Trials", trials, 1)
    events = check_integer("Events", events, 0, trials)
    result = scipy_stats.binomtest(events, trials).proportion_ci(check_share("Level", level), method="exact")
    return Interval(events / trials, float(result.low), float(result.high))


def prediction_interval(runs, means_of: int = 1, level: float = 0.95) -> Interval:
    """
    Give the interval that the next value falls into with probability *level*, from independent *runs*.

    The next value is one run, or the mean of *means_of* runs. For one run, and runs enough for it, the interval is
    free of a distribution: the run of rank (n + 1) p, which the next one undercuts with probability p. Otherwise it is
    Student's: mean ± t · s · sqrt(1/k + 1/n).

    Parameters
    ----------
    runs : array, shape (n,), n >= 2
        One value a seed, finite.
    means_of : int
        How many runs the value to be judged is a mean of.
    level : float

    Returns
    -------
    Interval
        The estimate is the median of the runs where the interval is distribution-free, their mean otherwise.

    Raises
    ------
    ValueError
        If there are fewer than two runs or one is not finite.

    Examples
    --------
    >>> prediction_interval(range(1, 40))
    Interval(estimate=20.0, low=1.0, high=39.0)
    """
    runs, k = _runs(runs), check_integer("Runs a mean", means_of, 1)
    tail = (1 - check_share("Level", level)) / 2
    n = len(runs)
    # Nine digits: 40 · 0.025 is 1.0000000000000009, and with that the run of rank 1 itself would be outside.
    rank = round((n + 1) * tail, 9)
    if k == 1 and rank >= 1:
        low, high = np.interp([rank, n + 1 - rank], np.arange(1, n + 1), np.sort(runs))
        return Interval(float(np.median(runs)), float(low), float(high))
    half = scipy_stats.t.isf(tail, n - 1) * runs.std(ddof=1) * math.sqrt(1 / k + 1 / n)
    return Interval(float(runs.mean()), float(runs.mean() - half), float(runs.mean() + half))


def percentile(runs, value: float) -> float:
    """
    Give the percentile of *value* among *runs*, 0 to 100; ties count half.

    Examples
    --------
    >>> percentile([0.0, 0.0, 1.0, 2.0], 0.0)
    25.0
    """
    return float(scipy_stats.percentileofscore(_runs(runs, least=1), value, kind="mean"))


def paired_difference(first, second, level: float = 0.95) -> Interval:
    """
    Give the mean of first − second over paired seeds with its Student interval.

    Parameters
    ----------
    first, second : arrays, shape (n,), n >= 2
        One value a seed, in the same order of seeds.
    """
    first, second = _runs(first), _runs(second)
    if first.shape != second.shape:
        raise ValueError(f"Paired values come in {len(first)} and {len(second)} runs: pair them seed by seed.")
    d = first - second
    half = scipy_stats.t.isf((1 - check_share("Level", level)) / 2, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
    return Interval(float(d.mean()), float(d.mean() - half), float(d.mean() + half))


def mcnemar(first, second) -> float:
    """
    Give the exact p value of two methods failing equally often on the same inputs, from those where one alone fails.

    Parameters
    ----------
    first, second : bool arrays, shape (n,)
        Where each of them fails, input by input.

    Examples
    --------
    >>> mcnemar([True] * 6 + [False], [False] * 7)
    0.03125
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"Failures have shapes {first.shape} and {second.shape}: pair them input by input.")
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    return float(scipy_stats.binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0


def _runs(values, least: int = 2) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least:
        raise ValueError(f"Runs have shape {array.shape}: give one value a seed, at least {least}.")
    check_finite("Runs", array, "leave out the seeds that have no value, and say so", ("run",))
    return array
