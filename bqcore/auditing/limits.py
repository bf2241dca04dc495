"""Limits that guard a release: the largest rates that an audit may find, and which are kept, exceeded, or open."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import scipy
import xarray as xr

from .._checks import check_choice, check_share
from ..metrics.statistics import Interval, clopper_pearson
from .streaming import RATES

LIMITS = (*RATES, "accuracy_loss")
TITLES = {name: re.sub("(low-margin )?boundary-band", "band", says) for name, says in RATES.items()} | {
    "accuracy_loss": "loss of accuracy"
}
# The band and the rate are those that bqcore.sweep recommends bits by; a band of a fifth that flips at 5 % is a flip
# rate of 1 % by itself. Of the flips that are allowed, at most half may be lost on balance.
DEFAULTS = {"flip_rate": 0.01, "band_flip_rate": 0.05, "accuracy_loss": 0.005}
ALPHA = 0.025  # chance of a wrong *ship*, and of a wrong *do not ship*; the upper bounds end 95 % intervals
CHANCE = 0.8  # that a number of samples settles what is open
_BY_CLASSES = {name for name in LIMITS if name.startswith(("right_", "wrong_", "accuracy"))}
_ROUNDING = 1e-12  # fractions of N and decimals differ in their last digits: 0.9 - 0.89 > 0.01
_MOST = 2**24  # samples, after which none is looked for: the rate is at its limit


class Judged(NamedTuple):
    """A measure and its limit: what was found, its one-sided bounds, and what follows."""

    name: str  # of LIMITS
    estimate: float
    low: float
    high: float
    limit: float
    outcome: str  # "kept", "exceeded" or "open"


def check_limits(limits: Mapping[str, float], *, labelled: bool = True) -> None:
    """
    Refuse limits that cannot be judged: of no name in :data:`LIMITS`, not in [-1, 1], or of what needs classes.

    It takes no audit, only whether held-out classes are given (*labelled*).
    """
    for name, limit in limits.items():
        check_share(f"Limit of {check_choice('A limit', name, LIMITS)}", limit, -1.0)
        if name in _BY_CLASSES and not labelled:
            raise ValueError(
                f"A limit is stated for {name}, which is not measured without classes: give them with the held-out "
                "inputs."
            )


def exceeded(dataset: xr.Dataset, limits: Mapping[str, float]) -> list[str]:
    """
    Return a line for each of the *limits*, by name of :data:`LIMITS`, that the held-out numbers of an audit exceed.

    A rate at its limit does not exceed it. Chance is not asked about here: :func:`judge` does.
    """
    held, lines = dataset.sel(split="heldout"), []
    check_limits(limits, labelled=bool(np.isfinite(held.accuracy)))
    for name, limit in limits.items():
        value = float(held.accuracy_reference - held.accuracy if name == "accuracy_loss" else held[name])
        if value > limit + _ROUNDING:
            lines.append(f"{RATES.get(name, 'loss of accuracy')}: {value:.4f} exceeds the limit {limit:g}")
    return lines


def judge(held: xr.Dataset, limits: Mapping[str, float], alpha: float = ALPHA) -> list[Judged]:
    """
    Judge each of the *limits*, by name of :data:`LIMITS`, by the numbers of one split.

    A limit is kept if the upper bound is not above it, exceeded if the lower bound is, open otherwise. Bounds are exact
    (Clopper–Pearson). All limits are kept by chance with a probability of at most *alpha* where one is truly exceeded,
    since that one alone must be found kept (an intersection-union test). Where none is, some limit is found exceeded
    with a probability of at most *alpha*: one is enough, so each lower bound has its part of it.
    """
    check_limits(limits)
    out: dict[str, Judged] = {}
    for name, limit in limits.items():
        counts, trials = _counted(held, name)
        if min(counts) < 0:  # needs classes that are not given
            out[name] = Judged(name, math.nan, math.nan, math.nan, limit, "open")
            continue
        estimate, _, high = _bounds(counts, trials, alpha)
        low = _bounds(counts, trials, alpha / len(limits)).low
        outcome = "exceeded" if low > limit + _ROUNDING else "kept" if high <= limit + _ROUNDING else "open"
        out[name] = Judged(name, estimate, low, high, limit, outcome)
    if (loss := out.get("accuracy_loss")) and loss.outcome == "open":
        # No more accuracy is lost than decisions change: whoever has shown that has shown this, with the same error.
        more = [out[name] for name in ("flip_rate", "right_to_wrong") if name in out]
        if any(one.outcome == "kept" and one.limit <= loss.limit for one in more):
            out["accuracy_loss"] = loss._replace(outcome="kept")
    return list(out.values())


def word_of(judged: Iterable[Judged]) -> str:
    """Return *do not ship* if a limit is exceeded, *look* if one is open, *ship* if all are kept."""
    outcomes = {one.outcome for one in judged}
    return "do not ship" if "exceeded" in outcomes else "look" if "open" in outcomes else "ship"


def samples_to_settle(held: xr.Dataset, judged: list[Judged], alpha: float = ALPHA) -> int | None:
    """
    Return how many samples settle the open limits with a chance of 80 %, if rates stay as they are.

    Where an estimate is above its limit, one such limit is enough, for *do not ship*; otherwise all are needed. None if
    nothing is open, or no number settles it: a rate at its limit, a limit of 0 that nothing has broken yet, or classes
    that are not given.
    """
    still = [one for one in judged if one.outcome == "open"]
    over = [one for one in still if one.estimate > one.limit + _ROUNDING]
    alpha, part = (alpha / len(judged), 1 - CHANCE) if over else (alpha, (1 - CHANCE) / max(1, len(still)))
    numbers = [_samples(held, one, alpha, part) for one in over or still]
    known = [number for number in numbers if number is not None]
    if not known or (not over and len(known) < len(numbers)):
        return None
    return min(known) if over else max(known)


def _counted(held: xr.Dataset, name: str) -> tuple[list[int], int]:
    """Return the events of a measure, lost and won of a loss of accuracy, and how many samples they are of."""
    names = ("right_to_wrong", "wrong_to_right") if name == "accuracy_loss" else (name,)
    trials = held.band_samples if name.startswith("band_") else held.samples
    return [int(held[f"{one}_events"]) for one in names], int(trials)


def _bounds(counts, trials: int, alpha: float) -> Interval:
    """Return a rate, or a loss from what is lost and won, with bounds that are each wrong with at most *alpha*."""
    if len(counts) == 1:
        return clopper_pearson(counts[0], trials, 1 - 2 * alpha)
    lost, won = (clopper_pearson(count, trials, 1 - alpha) for count in counts)  # each has half of alpha
    return Interval(lost.estimate - won.estimate, lost.low - won.high, lost.high - won.low)


def _samples(held: xr.Dataset, one: Judged, alpha: float, missed: float) -> int | None:
    """Return how many samples of the split settle one open limit, but for a chance of *missed*."""
    counts, trials = _counted(held, one.name)
    if min(counts) < 0:
        return None
    over, part = one.estimate > one.limit, missed / len(counts)

    def settled(n: int) -> bool:
        # Counts that are no better, for what is to be shown, than most of the time.
        tails = (part, 1 - part) if over else (1 - part, part)
        likely = [int(scipy.stats.binom.ppf(tail, n, count / trials)) for tail, count in zip(tails, counts)]
        found = _bounds(likely, n, alpha)
        return found.low > one.limit if over else found.high <= one.limit

    number = _first(settled, trials)
    return number and math.ceil(number * int(held.samples) / trials)


def _first(settled: Callable[[int], bool], known: int) -> int | None:
    """Return a number above *known* that settles it, where a smaller one hardly does, by doubling and halving."""
    high = known + 1
    while not settled(high):
        high *= 2
        if high > _MOST:
            return None
    low = max(known, high // 2)
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high
