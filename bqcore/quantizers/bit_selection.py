"""
Calibration-to-test stopping: how few bits a rule allows that looks at calibration data alone.

A rule goes down from the most bits and stops before a calibration measure first passes its limit. Levels that a rule
would allow again further down are not reached.
"""

from typing import NamedTuple

import numpy as np

from .._checks import check_finite

# A share of N inputs and the same share written as a decimal differ in their last digits: 0.9 - 0.89 > 0.01.
_ROUNDING = 1e-12


class Choice(NamedTuple):
    """The level that a rule chooses, as an index, and whether it fell back to the most bits since none qualified."""

    level: np.ndarray
    fallback: np.ndarray


def last_before(measures, limits) -> Choice:
    """
    Return the last level, going down, before one of the calibration *measures* first exceeds its limit.

    *measures* (M, ..., L) are M of which none may pass (accuracy lost, flip rate, …) at L levels, from the most bits to
    the fewest; *limits* (M,) their limits, which they may equal. Both arrays of the choice have shape (...). If the
    first level does not qualify, it is the choice all the same, and a fallback.

    >>> last_before([[[0.0, 0.01, 0.2, 0.01]]], [0.1])
    Choice(level=array([1]), fallback=array([False]))
    """
    measures, limits = np.asarray(measures, dtype=np.float64), np.asarray(limits, dtype=np.float64)
    if measures.ndim < 2 or measures.shape[-1] == 0:
        raise ValueError(f"Measures have shape {measures.shape}: give (M, ..., L), at least one level each.")
    if limits.shape != measures.shape[:1]:
        raise ValueError(f"Limits have shape {limits.shape} for {len(measures)} measures: give one each.")
    check_finite("Calibration measures", measures, "a level that cannot be measured cannot be chosen")
    check_finite("Limits", limits, "leave out the measure that has none")
    exceeded = (measures > limits.reshape(-1, *[1] * (measures.ndim - 1)) + _ROUNDING).any(axis=0)
    reached = np.cumprod(~exceeded, axis=-1).sum(axis=-1)
    return Choice(np.maximum(reached - 1, 0), reached == 0)


def loosest(flip_rates, limits, target: float):
    """
    Return the index of the loosest limit whose choices change few enough calibration decisions.

    *flip_rates* (T,) are the calibration flip rates of what each of the T limits chooses, a mean over seeds. The index
    is that of the largest limit of at most *target*, or of the smallest limit if there is none.
    """
    rates = np.asarray(flip_rates, dtype=np.float64)
    check_finite("Flip rates", rates, "a limit that cannot be judged cannot be chosen")
    order = np.argsort(np.asarray(limits, dtype=np.float64), kind="stable")
    fits = [int(i) for i in order if rates[i] <= target + _ROUNDING]
    return fits[-1] if fits else int(order[0])
