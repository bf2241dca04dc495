"""
Decisions before and after quantization: flips, the low-margin boundary band, pair-order flips.

Everything here takes logits of shape (N, K) of the float classifier (the *reference*) and of the quantized one (the
*candidate*) on the same inputs in the same order; K comes from the logits. Rates are fractions in [0, 1].
"""

import math
from typing import NamedTuple

import numpy as np

from .._checks import check_labels, check_logits, check_same_shape, check_share


class Flips(NamedTuple):
    """Fractions of inputs whose decision changed, and of the three kinds of change (NaN without true labels)."""

    rate: float
    right_to_wrong: float
    wrong_to_right: float
    wrong_to_other: float


def decide(logits) -> np.ndarray:
    """
    Return the predicted class of each input: the argmax, the first index on ties.

    Parameters
    ----------
    logits : array or tensor, shape (N, K), N >= 1 and K >= 2

    Returns
    -------
    classes : int array, shape (N,), from 0 to K − 1

    Raises
    ------
    ValueError
        If the logits are not finite or not of that shape.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.decide([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    array([1, 0])
    """
    return check_logits(logits).argmax(axis=1)


def top_pair(logits) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the winning class a and the runner-up b of each input; the lower index first on ties.

    Parameters
    ----------
    logits : array or tensor, shape (N, K), N >= 1 and K >= 2

    Returns
    -------
    winner, runner_up : int arrays, shape (N,), from 0 to K − 1

    Raises
    ------
    ValueError
        If the logits are not finite or not of that shape.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.top_pair([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    (array([1, 0]), array([2, 1]))
    """
    return pair_of(check_logits(logits))


def pair_of(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`top_pair` of logits that have been checked: in a large audit another look at each would show."""
    winner = z.argmax(axis=1)
    return winner, second_of(z, winner)


def second_of(z: np.ndarray, winner: np.ndarray) -> np.ndarray:
    """Return the runner-up to the winning class of each row of checked logits."""
    rest = z.copy()
    np.put_along_axis(rest, winner[:, None], -np.inf, axis=1)
    return rest.argmax(axis=1)


def margin(logits) -> np.ndarray:
    """
    Return the top-2 logit margin z_a − z_b of each input.

    Parameters
    ----------
    logits : array or tensor, shape (N, K), N >= 1 and K >= 2

    Returns
    -------
    margin : float array, shape (N,)
        In units of the logits; never negative, 0 on a tie.

    Raises
    ------
    ValueError
        If the logits are not finite or not of that shape.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.margin([[0.0, 2.0, 0.5], [3.0, 3.0, 0.0]])
    array([1.5, 0. ])
    """
    z = check_logits(logits)
    top = np.partition(z, z.shape[1] - 2, axis=1)[:, -2:].astype(np.float64)
    return top[:, 1] - top[:, 0]


def flips(reference, candidate, targets=None) -> Flips:
    """
    Measure how many decisions change, by kind: the paper's flip rate.

    Parameters
    ----------
    reference, candidate : array or tensor, shape (N, K)
        Logits of the float and of the quantized classifier.
    targets : int array, shape (N,), from 0 to K − 1, optional
        True classes; without them the three kinds are NaN.

    Returns
    -------
    Flips
        Fractions of all N inputs; ``rate`` is the sum of the three kinds: right → wrong, wrong → right, wrong → other.

    Raises
    ------
    ValueError
        If the logits are not finite or differ in shape, or the targets are not N classes from 0 to K − 1.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.flips([[2.0, 0], [2.0, 0], [0, 1.0], [0, 1.0]], [[2.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]], [0, 0, 0, 0])
    Flips(rate=0.5, right_to_wrong=0.25, wrong_to_right=0.25, wrong_to_other=0.0)
    """
    before, after = _both(reference, candidate)
    a, b = before.argmax(axis=1), after.argmax(axis=1)
    changed = a != b
    if targets is None:
        return Flips(float(changed.mean()), math.nan, math.nan, math.nan)
    y = check_labels(targets, "Targets")
    check_same_shape("Decisions", a, "targets", y)
    if y.min() < 0 or y.max() >= before.shape[1]:
        raise ValueError(
            f"Targets run from {y.min()} to {y.max()}, but the logits have classes 0 to {before.shape[1] - 1}."
        )
    kinds = [changed & (a == y), changed & (b == y), changed & (a != y) & (b != y)]
    return Flips(float(changed.mean()), *(float(kind.mean()) for kind in kinds))


def boundary_band(reference, fraction: float = 0.2) -> np.ndarray:
    """
    Return the low-margin boundary band: the ⌈fraction · N⌉ inputs of smallest float top-2 margin.

    Parameters
    ----------
    reference : array or tensor, shape (N, K), N >= 5
        Logits of the float classifier.
    fraction : float
        In (0, 1]; the paper's note points to 0.2.

    Returns
    -------
    band : int array, shape (⌈fraction · N⌉,)
        Indices into the inputs by growing margin, earlier inputs first on ties.

    Raises
    ------
    ValueError
        If there are fewer than five inputs, the logits are not finite, or *fraction* is not in (0, 1].

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.boundary_band([[0.0, 3], [0, 1], [2, 0], [0, 5], [4, 0]], 0.4)
    array([1, 2])
    """
    fraction = check_share("Band fraction", fraction)
    m = margin(reference)
    if fraction == 0:
        raise ValueError("Band fraction is 0: the boundary band would be empty.")
    if len(m) < 5:
        raise ValueError(f"A boundary band needs at least 5 inputs, and there are {len(m)}.")
    # 0.07 * 100 is 7.000000000000001 in floating point: nine digits hold any fraction a person writes.
    size = max(1, math.ceil(round(fraction * len(m), 9)))
    near = np.flatnonzero(m <= np.partition(m, size - 1)[size - 1])  # sorting all of a large split takes longer
    return near[np.argsort(m[near], kind="stable")[:size]]


def band_flip_rate(reference, candidate, fraction: float = 0.2) -> float:
    """
    Return the flip rate inside the boundary band of the float classifier: the paper's boundary-band flips.

    Parameters
    ----------
    reference, candidate : array or tensor, shape (N, K), N >= 5
        Logits of the float and of the quantized classifier.
    fraction : float
        Of the inputs in the band, in (0, 1], as in :func:`boundary_band`.

    Returns
    -------
    rate : float, 0 to 1
        A fraction of the band's inputs.

    Raises
    ------
    ValueError
        If the logits are not finite or differ in shape, or as :func:`boundary_band`.

    Examples
    --------
    >>> import bqcore as bq
    >>> before, after = [[0.0, 3], [0, 1], [2, 0], [0, 5], [4, 0]], [[0.0, 3], [1, 0], [2, 0], [0, 5], [4, 0]]
    >>> bq.band_flip_rate(before, after, 0.4)
    0.5
    """
    before, after = _both(reference, candidate)
    band = boundary_band(before, fraction)
    return flips(before[band], after[band]).rate


def pair_order_flip_rate(reference, candidate) -> float:
    """
    Return the fraction of inputs whose float top-2 pair (a, b) has z_a < z_b after quantization; equal is no flip.

    Not the flip rate: a third class can win with the pair in order, or lose with the pair reversed.

    Parameters
    ----------
    reference, candidate : array or tensor, shape (N, K)
        Logits of the float and of the quantized classifier.

    Returns
    -------
    rate : float, 0 to 1

    Raises
    ------
    ValueError
        If the logits are not finite or differ in shape.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.pair_order_flip_rate([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]], [[2.0, 1.0, 3.0], [1.0, 2.0, 0.0]])
    0.5
    """
    before, after = _both(reference, candidate)
    a, b = top_pair(before)
    row = np.arange(len(a))
    return float((after[row, a] < after[row, b]).mean())


def _both(reference, candidate) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays of logits after the checks."""
    before, after = check_logits(reference, "Reference logits"), check_logits(candidate, "Candidate logits")
    check_same_shape("Reference logits", before, "candidate logits", after)
    return before, after
