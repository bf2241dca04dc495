"""
Two exact boundaries compared: lengths, distances, displacement, junctions. Nothing here depends on a grid.

A boundary is an array of segments, shape (M, 2, 2): M segments, two ends, two slice coordinates in input units, with
the class pair of each, shape (M, 2), as :func:`bqcore.metrics.exact_slices.exact_slice` gives them; any other source
will do.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its submodules are imported when first used

from .._checks import check_finite, check_labels, check_same_shape, check_share
from . import _segments


class Distances(NamedTuple):
    """Distances between two boundaries in input units; infinite if one is empty, and 0 if both are."""

    nearest: float  # between the closest two points; 0 where they cross
    mean: float  # from a point of either boundary to the other one, both boundaries counting half
    mean_error: float  # bound on the error of the mean
    hausdorff: float  # from the worst point of either boundary to the other one


class Shifts(NamedTuple):
    """How far each piece of a boundary, at its middle, is from the other boundary; lengths in input units."""

    points: np.ndarray  # (N, 2) slice coordinates
    lengths: np.ndarray  # (N,) of the pieces: the weights of what follows
    angles: np.ndarray  # (N,) direction of the normal, from the left class to the right one, in radians
    displacement: np.ndarray  # (N,) along the normal to the same pair's boundary, positive towards the right; or NaN
    distance: np.ndarray  # (N,) to the nearest point of the other boundary, whatever its pair; infinite if it is empty


class Matching(NamedTuple):
    """Junctions of two boundaries, matched by their classes."""

    matched: np.ndarray  # (P, 2) indices into the first and the second
    distances: np.ndarray  # (P,) input units
    vanished: np.ndarray  # indices of the first without a match
    appeared: np.ndarray  # indices of the second without a match


def lengths(segments: np.ndarray) -> np.ndarray:
    """
    Return the length of each segment; their sum is the boundary's.

    Examples
    --------
    >>> import numpy as np
    >>> lengths(np.array([[[0, 0], [3, 4]]]))
    array([5.])
    """
    return _segments.lengths(_check(segments))


def boundary_distances(first: np.ndarray, second: np.ndarray, *, step: float) -> Distances:
    """
    Measure the nearest, the mean and the Hausdorff distance between two boundaries.

    The nearest and the Hausdorff distance are exact: the first is reached at an end of a segment unless two cross, the
    other is enclosed by halving pieces, over each of which the distance to one segment is convex. The mean is a sum
    over pieces of at most *step*; distance grows no faster than the way walked, so a piece errs by at most a quarter of
    its length.

    Parameters
    ----------
    first, second : float arrays, shapes (M, 2, 2) and (N, 2, 2), M and N >= 0
        Segments in slice coordinates, as :func:`bqcore.metrics.exact_slices.exact_slice` returns them.
    step : float
        Longest piece, in input units, above 0.

    Returns
    -------
    Distances
        In input units; infinite if one boundary is empty, 0 if both are.

    Raises
    ------
    ValueError
        If segments have another shape or are not finite, or *step* is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> line = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    >>> bq.boundary_distances(line, line + [0.0, 0.25], step=0.1)
    Distances(nearest=0.25, mean=0.25, mean_error=0.025, hausdorff=0.25)
    """
    first, second, step = _check(first), _check(second, "Second segments"), _check_step(step)
    if not len(first) or not len(second):
        value = 0.0 if not len(first) and not len(second) else np.inf
        return Distances(value, value, 0.0, value)
    sides = []
    for one, other in ((first, second), (second, first)):
        pieces, near = _segments.pieces_of(one, step), _segments.Near(other)
        size = lengths(pieces)
        mean = near(pieces.mean(axis=1))[0] @ size / size.sum()
        bound, worst = (size @ size) / size.sum() / 4, _segments.farthest(pieces, near)
        sides.append((near(one.reshape(-1, 2))[0].min(), mean, bound, worst))
    nearest, mean, error, farthest = np.array(sides).T
    return Distances(
        0.0 if _segments.crosses(first, second) else float(nearest.min()), float(mean.mean()), float(error.mean()),
        float(farthest.max()),
    )  # fmt: skip


def tolerance_jaccard(first: np.ndarray, second: np.ndarray, tolerance):
    """
    Measure the fraction of the two boundaries' length that has no counterpart in the other one within *tolerance*.

    1 − (|A near B| + |B near A|) / (|A| + |B|): 0 for boundaries within the tolerance of each other, 1 for ones that
    are nowhere so near. One minus the normalized surface distance of Nikolov et al. (2021); like Boundary IoU, but of
    lengths instead of pixels, so that no grid is involved and *tolerance* is a length in input units. Exact: what lies
    within the tolerance of one segment is an interval on any other.

    Parameters
    ----------
    first, second : float arrays, shapes (M, 2, 2) and (N, 2, 2), M and N >= 0
        Segments in slice coordinates, as :func:`bqcore.metrics.exact_slices.exact_slice` returns them.
    tolerance : float, or sequence of T
        In input units, at least 0. Several at once take less time than one after the other.

    Returns
    -------
    distance : float, 0 to 1, or float array (T,); 0 if both boundaries are empty

    Raises
    ------
    ValueError
        If segments have another shape or are not finite, or a tolerance is below 0.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> line = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    >>> bq.tolerance_jaccard(line, line + [0.0, 0.1], [0.2, 0.05])
    array([0., 1.])
    """
    first, second = _check(first), _check(second, "Second segments")
    several = np.ndim(tolerance) == 1
    tolerances = [check_share("Tolerance", t, 0.0, np.inf) for t in (tolerance if several else [tolerance])]
    total = lengths(first).sum() + lengths(second).sum()
    near = _segments.lengths_near(first, second, tolerances) + _segments.lengths_near(second, first, tolerances)
    distance = np.clip(1 - near / total, 0, 1) if total else np.zeros(len(tolerances))
    return distance if several else float(distance[0])


def shifts(
    first: np.ndarray, first_pairs: np.ndarray, second: np.ndarray, second_pairs: np.ndarray, *, step: float
) -> Shifts:
    """
    Measure the true displacement in the plane: from points of the first boundary along its normal to the second.

    Only segments between the same two classes count, and of these the nearest on either side. The
    distance to the second boundary of any classes is measured too, which is what a boundary mask sees.

    Parameters
    ----------
    first, second : float arrays, shapes (M, 2, 2) and (N, 2, 2)
        Left of each segment lies the first class of its pair.
    first_pairs, second_pairs : int arrays, shapes (M, 2) and (N, 2)
    step : float
        Longest piece, in input units.

    Returns
    -------
    Shifts
    """
    first, second, step = _check(first), _check(second, "Second segments"), _check_step(step)
    first_pairs, second_pairs = _check_pairs(first_pairs, first), _check_pairs(second_pairs, second)
    pieces = _segments.pieces_of(first, step)
    source = np.repeat(np.arange(len(first)), _segments.piece_counts(first, step))
    along, points, size = pieces[:, 1] - pieces[:, 0], pieces.mean(axis=1), lengths(pieces)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / size[:, None]
    distance = _segments.Near(second)(points)[0] if len(second) and len(points) else np.full(len(points), np.inf)
    displacement = np.full(len(pieces), np.nan)
    for pair in np.unique(first_pairs, axis=0):
        here = np.flatnonzero((first_pairs[source] == pair).all(axis=1))
        others = second[(second_pairs == pair).all(axis=1)]
        for part in np.array_split(here, 1 + len(here) * len(others) // _segments.CHUNK) if len(others) else ():
            displacement[part] = _segments.way_along(points[part], normal[part], others)
    return Shifts(points, size, np.arctan2(normal[:, 1], normal[:, 0]), displacement, distance)


def match_junctions(
    first: np.ndarray, first_classes: np.ndarray, second: np.ndarray, second_classes: np.ndarray, *, radius: float
) -> Matching:
    """
    Match the junctions of two boundaries that join the same classes and lie within *radius* of each other.

    As many as possible are matched, and among such matchings the one of the smallest total distance is taken.

    Parameters
    ----------
    first, second : float arrays, shapes (J, 2) and (L, 2)
        Points in slice coordinates, as :func:`bqcore.metrics.exact_slices.exact_slice` returns them.
    first_classes, second_classes : int arrays, shapes (J, ≥ 3) and (L, ≥ 3), filled with −1
    radius : float
        Largest distance of two that match, in input units, above 0.

    Returns
    -------
    Matching
        Indices of what matches, the distances in input units, and what has no counterpart.

    Raises
    ------
    ValueError
        If points have another shape or are not finite, come without their classes, or *radius* is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> found = bq.match_junctions(
    ...     np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0, 1, 2], [0, 1, 3]]),
    ...     np.array([[0.0, 0.5]]), np.array([[0, 1, 2]]), radius=1.0)
    >>> found.matched.tolist(), found.distances.tolist(), found.vanished.tolist(), found.appeared.tolist()
    ([[0, 0]], [0.5], [1], [])
    """
    radius = _check_step(radius, "Radius")
    points = [_check_points(first, "Junctions"), _check_points(second, "Second junctions")]
    names = [
        [tuple(c for c in row if c >= 0) for row in np.asarray(x).tolist()] for x in (first_classes, second_classes)
    ]
    for name, found, classes in zip(("Junctions", "Second junctions"), points, names):
        if len(found) != len(classes):
            raise ValueError(
                f"{name} are {len(found)} points with {len(classes)} rows of classes: give one row a point."
            )
    matched = []
    for triple in sorted(set(names[0]) & set(names[1])):
        i, j = (np.array([k for k, name in enumerate(side) if name == triple]) for side in names)
        apart = np.hypot(*(points[0][i, None] - points[1][j]).transpose(2, 0, 1))
        # A pair too far apart costs more than all others together.
        row, column = scipy.optimize.linear_sum_assignment(np.where(apart <= radius, apart / radius, len(i) + len(j)))
        close = apart[row, column] <= radius
        matched += zip(i[row[close]], j[column[close]])
    matched = np.array(sorted(matched), dtype=np.intp).reshape(-1, 2)
    distances = np.hypot(*(points[0][matched[:, 0]] - points[1][matched[:, 1]]).T)
    vanished, appeared = (np.setdiff1d(np.arange(len(p)), matched[:, k]) for k, p in enumerate(points))
    return Matching(matched, distances, vanished, appeared)


def _check(segments, name: str = "Segments") -> np.ndarray:
    """Return segments as a finite float array (M, 2, 2), or raise ValueError."""
    array = np.asarray(segments, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != (2, 2):
        raise ValueError(f"{name} have shape {array.shape}: give two ends of two coordinates each, (M, 2, 2).")
    check_finite(name, array, "leave out what is unbounded", ("segment", "end", "coordinate"))
    return array


def _check_points(points, name: str) -> np.ndarray:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} have shape {array.shape}: give two coordinates a point, (J, 2).")
    check_finite(name, array, "leave out what is unbounded", ("point", "coordinate"))
    return array


def _check_pairs(pairs, segments) -> np.ndarray:
    pairs = np.asarray(pairs)
    if not pairs.size:
        pairs = pairs.reshape(-1, 2).astype(np.intp)
    else:
        pairs = check_labels(pairs, "Class pairs", ndim=2)
    check_same_shape("Class pairs", pairs, "segments", np.asarray(segments)[..., 0])
    return pairs


def _check_step(step, name: str = "Step") -> float:
    step = check_share(name, step, 0.0, np.inf)
    if step == 0:
        raise ValueError(f"{name} is 0: give a length in input units.")
    return step
