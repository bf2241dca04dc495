"""
The finite-scale law: what boundary-mask Jaccard distance a shift of the boundary causes on a grid, and the way back.

A straight piece whose normal has the direction θ marks, on cells of h_a × h_b, a band of the width
w = h_a |cos θ| + h_b |sin θ|: the cells whose centres lie within w / 2 of it. Moved by d along its normal, it marks a
second band. The two share max(w − d, 0) of their widths and cover w + min(d, w) together, so over a whole boundary,
piece by piece weighted by length,

    J = 1 − E[max(w − d, 0)] / E[w + min(d, w)].
"""

from typing import NamedTuple

import numpy as np

from .._checks import check_share


class Range(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float


def mask_width(angles, steps: tuple[float, float]):
    """
    Return the width of the band of centres of cells that a straight boundary crosses.

    Parameters
    ----------
    angles : float or array
        Direction of the boundary's normal, in radians.
    steps : (h_a, h_b)
        Grid steps, in input units.

    Returns
    -------
    width : float or array, input units
    """
    h_a, h_b = _check_steps(steps)
    return h_a * np.abs(np.cos(angles)) + h_b * np.abs(np.sin(angles))


def expected_jaccard(displacements, angles, steps: tuple[float, float], *, weights=None) -> float:
    """
    Return the boundary-mask Jaccard distance to expect on a grid from the displacement of each piece of a boundary.

    Feed the pieces of both boundaries, each with its distance from the other
    (:func:`bqcore.metrics.boundary_distances.shifts`): then parts that only one of them has count as they should.

    Parameters
    ----------
    displacements : float array, shape (N,)
        Distance of the piece from the other boundary, in input units; only the magnitude counts. Infinite where there
        is none.
    angles : float array, shape (N,)
        Direction of the normals, in radians.
    steps : (h_a, h_b)
        Grid steps, in input units, above 0.
    weights : float array, shape (N,), optional
        Lengths of the pieces, at least 0 and not all 0; equal if left out.

    Returns
    -------
    distance : float, 0 to 1
        By the finite-scale law above.

    Raises
    ------
    ValueError
        If the arrays differ in shape, displacements are NaN, or weights or steps are not as said.

    Examples
    --------
    >>> import bqcore as bq
    >>> round(bq.expected_jaccard([0.5], [0.0], (1.0, 1.0)), 4)
    0.6667
    """
    displacements, angles = (np.asarray(x, dtype=np.float64) for x in (displacements, angles))
    weights = np.ones(displacements.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (displacements.ndim == 1 and displacements.shape == angles.shape == weights.shape and len(weights)):
        raise ValueError(
            f"Displacements, angles and weights have shapes {displacements.shape}, {angles.shape} and {weights.shape}: "
            "give one of each a piece, (N,), N >= 1."
        )
    if np.isnan(displacements).any():
        raise ValueError(
            f"Displacements hold {int(np.isnan(displacements).sum())} NaN of {len(displacements)}: "
            "where a piece has no counterpart, give infinity."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("Weights must be finite, at least 0 and not all 0: give the lengths of the pieces.")
    width = mask_width(angles, steps)
    kept = np.maximum(width - np.abs(displacements), 0)
    return float(1 - (weights @ kept) / (weights @ (2 * width - kept)))


def isotropic_jaccard(displacement, steps: tuple[float, float]):
    """
    Return the Jaccard distance of a boundary that runs equally long in every direction and moves by *displacement*.

    Up to the smaller grid step it is 2 d / (w̄ + d), w̄ = 2 (h_a + h_b) / π, the inverse of
    :func:`bqcore.metrics.masks.effective_displacement`; from the cell's diagonal on it is 1.

    Parameters
    ----------
    displacement : float or array, input units
    steps : (h_a, h_b)

    Returns
    -------
    distance : float or array, 0 to 1
    """
    steps = _check_steps(steps)
    d, reach, tilt = np.abs(displacement), np.hypot(*steps), np.arctan2(steps[1], steps[0])
    # w = reach cos(θ − tilt) over a quarter turn; it exceeds d for θ within *turn* of tilt.
    turn = np.arccos(np.minimum(d / reach, 1))
    low, high = np.maximum(tilt - turn, 0), np.minimum(tilt + turn, np.pi / 2)
    kept = 2 / np.pi * np.maximum(reach * (np.sin(high - tilt) - np.sin(low - tilt)) - d * (high - low), 0)
    mean = 2 * sum(steps) / np.pi
    return np.clip(1 - kept / (2 * mean - kept), 0, 1)


def implied_displacement(distance: float, steps: tuple[float, float]) -> float:
    """
    Return the shift that explains a Jaccard distance: :func:`isotropic_jaccard` read backwards.

    Equal to :func:`bqcore.metrics.masks.effective_displacement` up to the smaller grid step; beyond it, that function
    is too small. At a distance of 1 any shift of a cell's diagonal or more fits, and the diagonal is given.

    Parameters
    ----------
    distance : float, 0 to 1
    steps : (h_a, h_b)

    Returns
    -------
    displacement : float, input units
    """
    distance = check_share("Jaccard distance", distance)
    steps = _check_steps(steps)
    low, high = 0.0, float(np.hypot(*steps))
    straight = 2 * sum(steps) / np.pi * distance / (2 - distance)
    if straight <= min(steps):
        return straight
    for _ in range(100):  # the law grows with the shift: halve the interval down to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if isotropic_jaccard(middle, steps) < distance else (low, middle)
    return high


def implied_step(distance: float, displacement: tuple[float, float], *, rounding: float = 0.0) -> Range:
    """
    Return the grid steps, on square cells, on which shifts in an interval cause a Jaccard distance.

    Reads a reported distance backwards: the law fixes the ratio of shift to step, so a step follows from a shift.

    Parameters
    ----------
    distance : float, above 0 and below 1
    displacement : (low, high)
        Interval of the shift, in input units, above 0.
    rounding : float
        Largest error of *distance*, such as 0.0005 for three decimals.

    Returns
    -------
    Range
        In input units.

    Examples
    --------
    >>> [round(step, 3) for step in implied_step(2 / 3, (0.01, 0.02))]
    [0.016, 0.031]
    """
    distance = check_share("Jaccard distance", distance)
    rounding = check_share("Rounding", rounding)
    shift = [check_share("Displacement", value, 0.0, np.inf) for value in displacement]
    if not rounding < distance < 1 - rounding:
        raise ValueError(
            f"Jaccard distance is {distance:g} within {rounding:g}: at 0 or 1 it implies no step, only a bound."
        )
    if len(shift) != 2 or not 0 < shift[0] <= shift[1] < np.inf:
        raise ValueError(f"Displacement runs over {tuple(shift)}: give an interval (low, high) of lengths above 0.")
    most, least = (implied_displacement(distance + sign * rounding, (1.0, 1.0)) for sign in (1, -1))
    return Range(shift[0] / most, shift[1] / least)


def _check_steps(steps) -> tuple[float, float]:
    """Return two lengths above 0, or raise ValueError."""
    steps = tuple(check_share("Grid step", step, 0.0, np.inf) for step in steps)
    if len(steps) != 2 or not all(0 < step < np.inf for step in steps):
        raise ValueError(f"Grid steps are {steps}: give two lengths above 0, (h_a, h_b).")
    return steps
