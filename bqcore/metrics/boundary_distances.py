"""
Two exact boundaries compared: lengths, distances, displacement, junctions. Nothing here depends on a grid.

A boundary is an array of segments, shape (M, 2, 2): M segments, two ends, two slice coordinates in input units, with
the class pair of each, shape (M, 2), as :func:`bqcore.metrics.exact_slices.exact_slice` gives them; any other source
will do.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from .._checks import check_finite, check_labels, check_same_shape, check_share

_CHUNK = 1 << 20  # pairs of segments looked at together


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
    Give the length of each segment; their sum is the boundary's.

    Examples
    --------
    >>> lengths(np.array([[[0, 0], [3, 4]]]))
    array([5.])
    """
    segments = _check(segments)
    return np.hypot(*(segments[:, 1] - segments[:, 0]).T)


def lengths_by_pair(segments: np.ndarray, pairs: np.ndarray, classes: int) -> np.ndarray:
    """
    Give the length of the boundary between every two classes, shape (K, K), symmetric.

    Parameters
    ----------
    segments, pairs : arrays, shapes (M, 2, 2) and (M, 2)
    classes : int
        K.
    """
    pairs = _check_pairs(pairs, segments)
    out = np.zeros((classes, classes))
    np.add.at(out, tuple(pairs.T), lengths(segments))
    return out + out.T


def boundary_distances(first: np.ndarray, second: np.ndarray, *, step: float) -> Distances:
    """
    Give the nearest, the mean and the Hausdorff distance between two boundaries.

    The nearest and the Hausdorff distance are exact: the first is reached at an end of a segment unless two cross, the
    other is enclosed by halving pieces, over each of which the distance to one segment is convex. The mean is a sum
    over pieces of at most *step*; distance grows no faster than the way walked, so a piece errs by at most a quarter of
    its length.

    Parameters
    ----------
    first, second : float arrays, shapes (M, 2, 2) and (N, 2, 2)
    step : float
        Longest piece, in input units, above 0.

    Returns
    -------
    Distances
    """
    first, second, step = _check(first), _check(second, "Second segments"), _check_step(step)
    if not len(first) or not len(second):
        value = 0.0 if not len(first) and not len(second) else np.inf
        return Distances(value, value, 0.0, value)
    sides = []
    for one, other in ((first, second), (second, first)):
        pieces, near = _pieces(one, step), _Near(other)
        size = lengths(pieces)
        mean = near(pieces.mean(axis=1))[0] @ size / size.sum()
        sides.append((near(one.reshape(-1, 2))[0].min(), mean, (size @ size) / size.sum() / 4, _farthest(pieces, near)))
    nearest, mean, error, farthest = np.array(sides).T
    return Distances(
        0.0 if _cross(first, second) else float(nearest.min()), float(mean.mean()), float(error.mean()),
        float(farthest.max()),
    )  # fmt: skip


def tolerance_jaccard(first: np.ndarray, second: np.ndarray, tolerance):
    """
    Give the share of the two boundaries' length that has no counterpart in the other one within *tolerance*.

    1 − (|A near B| + |B near A|) / (|A| + |B|): 0 for boundaries within the tolerance of each other, 1 for ones that
    are nowhere so near. One minus the normalized surface distance of Nikolov et al. (2021); like Boundary IoU, but of
    lengths instead of pixels, so that no grid is involved and *tolerance* is a length in input units. Exact: what lies
    within the tolerance of one segment is an interval on any other.

    Parameters
    ----------
    first, second : float arrays, shapes (M, 2, 2) and (N, 2, 2)
    tolerance : float, or sequence of T
        In input units, at least 0. Several at once take less time than one after the other.

    Returns
    -------
    distance : float, 0 to 1, or float array (T,); 0 if both boundaries are empty

    Examples
    --------
    >>> line = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    >>> tolerance_jaccard(line, line + [0.0, 0.1], 0.2), tolerance_jaccard(line, line + [0.0, 0.1], 0.05)
    (0.0, 1.0)
    """
    first, second = _check(first), _check(second, "Second segments")
    several = np.ndim(tolerance) == 1
    tolerances = [check_share("Tolerance", t, 0.0, np.inf) for t in (tolerance if several else [tolerance])]
    total = lengths(first).sum() + lengths(second).sum()
    near = _lengths_near(first, second, tolerances) + _lengths_near(second, first, tolerances)
    distance = np.clip(1 - near / total, 0, 1) if total else np.zeros(len(tolerances))
    return distance if several else float(distance[0])


def shifts(
    first: np.ndarray, first_pairs: np.ndarray, second: np.ndarray, second_pairs: np.ndarray, *, step: float
) -> Shifts:
    """
    Give the true displacement in the plane: from points of the first boundary along its normal to the second boundary.

    Only segments between the same two classes count, and of these the nearest on either side. Beside it stands the
    distance to the second boundary at large, which is what a boundary mask sees: masks know no classes.

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
    pieces, source = _pieces(first, step), np.repeat(np.arange(len(first)), _counts(first, step))
    along, points, size = pieces[:, 1] - pieces[:, 0], pieces.mean(axis=1), lengths(pieces)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / size[:, None]
    distance = _Near(second)(points)[0] if len(second) and len(points) else np.full(len(points), np.inf)
    displacement = np.full(len(pieces), np.nan)
    for pair in np.unique(first_pairs, axis=0):
        here = np.flatnonzero((first_pairs[source] == pair).all(axis=1))
        others = second[(second_pairs == pair).all(axis=1)]
        for part in np.array_split(here, 1 + len(here) * len(others) // _CHUNK) if len(others) else ():
            displacement[part] = _along(points[part], normal[part], others)
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
    first_classes, second_classes : int arrays, shapes (J, ≥ 3) and (L, ≥ 3), filled with −1
    radius : float
        In input units.

    Returns
    -------
    Matching
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
        row, column = linear_sum_assignment(np.where(apart <= radius, apart / radius, len(i) + len(j)))
        close = apart[row, column] <= radius
        matched += zip(i[row[close]], j[column[close]])
    matched = np.array(sorted(matched), dtype=np.intp).reshape(-1, 2)
    distances = np.hypot(*(points[0][matched[:, 0]] - points[1][matched[:, 1]]).T)
    vanished, appeared = (np.setdiff1d(np.arange(len(p)), matched[:, k]) for k, p in enumerate(points))
    return Matching(matched, distances, vanished, appeared)


class _Near:
    """The distance from points to a boundary, exactly, and the segment that is nearest."""

    def __init__(self, segments: np.ndarray):
        # The result does not depend on the size of the pieces, only the number of candidates does.
        self.pieces = _pieces(segments, max(lengths(segments).sum() / 256, np.finfo(float).tiny))
        self.half = lengths(self.pieces).max() / 2
        self.tree = KDTree(self.pieces.mean(axis=1))

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The nearest piece has its middle within half a piece of it, so no farther than the nearest middle plus that.
        reach = self.tree.query(points)[0] + self.half
        found = self.tree.query_ball_point(points, np.nextafter(reach * (1 + 1e-12), np.inf))
        count = np.fromiter(map(len, found), np.intp, len(found))
        which, start = np.concatenate(found).astype(np.intp), np.cumsum(count) - count
        distance = _distance(np.repeat(points, count, axis=0), self.pieces[which])
        shortest = np.minimum.reduceat(distance, start)
        first = np.flatnonzero(distance == np.repeat(shortest, count))
        owner = np.repeat(np.arange(len(points)), count)[first]
        return shortest, which[first[np.unique(owner, return_index=True)[1]]]


def _distance(points: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Give the distance from each point to its segment; the two are broadcast together."""
    start, end = (_numbers(segments[..., i, :]) for i in (0, 1))
    along, away = end - start, _numbers(points) - start
    square = _dot(along, along)
    share = np.clip(_dot(away, along) / np.where(square > 0, square, 1), 0, 1)
    return np.abs(away - share * along)


def _farthest(pieces: np.ndarray, near: _Near) -> float:
    """Give the largest distance from *pieces* to a boundary, by branch and bound."""
    best, scale = 0.0, np.abs(pieces).max()
    while len(pieces):
        (low, by_low), (high, by_high) = near(pieces[:, 0]), near(pieces[:, 1])
        best = max(best, low.max(), high.max())
        # The distance to one segment is convex along a piece, so its larger end bounds it.
        bound = np.minimum(
            np.maximum(low, _distance(pieces[:, 1], near.pieces[by_low])),
            np.maximum(high, _distance(pieces[:, 0], near.pieces[by_high])),
        )
        open_ = (bound > best + 1e-12 * (best + scale)) & (lengths(pieces) > 1e-12 * scale)
        pieces = _pieces(pieces[open_], 0.0, 2)
    return float(best)


def _pieces(segments: np.ndarray, step: float, count: int | None = None) -> np.ndarray:
    """Divide segments into equal pieces of at most *step*, or into *count* each."""
    counts = _counts(segments, step) if count is None else np.full(len(segments), count)
    source = np.repeat(np.arange(len(segments)), counts)
    number = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = np.stack([number, number + 1], axis=1) / counts[source, None]
    start, end = segments[source, None, 0], segments[source, None, 1]
    return np.where(ends[..., None] == 1, end, start + ends[..., None] * (end - start))


def _counts(segments: np.ndarray, step: float) -> np.ndarray:
    return np.maximum(np.ceil(lengths(segments) / step), 1).astype(np.intp)


def _cross(first: np.ndarray, second: np.ndarray) -> bool:
    """Say whether a segment of one crosses one of the other in their insides; what touches is at distance 0 anyway."""

    def side(line, point):
        """Give the side of *point* on which it lies, for every line and point."""
        along, away = line[:, None, 1] - line[:, None, 0], point[None] - line[:, None, 0]
        return np.sign(along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0])

    for part in np.array_split(first, 1 + len(first) * len(second) // _CHUNK):
        apart = side(part, second[:, 0]) * side(part, second[:, 1]) < 0
        if (apart & (side(second, part[:, 0]) * side(second, part[:, 1]) < 0).T).any():
            return True
    return False


def _along(points: np.ndarray, normal: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Give the signed way from each point along its normal to the nearest of *segments* that it meets, or NaN."""
    start, along = segments[:, 0] - points[:, None], segments[:, 1] - segments[:, 0]
    cross = normal[:, None, 0] * along[:, 1] - normal[:, None, 1] * along[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        way = (start[..., 0] * along[:, 1] - start[..., 1] * along[:, 0]) / cross
        share = (start[..., 0] * normal[:, None, 1] - start[..., 1] * normal[:, None, 0]) / cross
    slack = 1e-12  # between two segments that share an end no ray slips through
    way[~((share >= -slack) & (share <= 1 + slack))] = np.inf
    shortest = way[np.arange(len(points)), np.abs(way).argmin(axis=1)]
    return np.where(np.isfinite(shortest), shortest, np.nan)


def _lengths_near(first: np.ndarray, second: np.ndarray, tolerances: list[float]) -> np.ndarray:
    """Give the length of *first* within each of *tolerances* of *second*."""
    total = np.zeros(len(tolerances))
    slack = 1e-12 * max(np.abs(first).max(initial=0), np.abs(second).max(initial=0))  # far above what rounding does
    for part in np.array_split(first, 1 + len(first) * len(second) // _CHUNK) if len(second) and len(first) else ():
        size = lengths(part)
        one, two = (_distance(part[:, None, end], second) for end in (0, 1))
        # The distance to a segment is convex, so what has both ends within a tolerance lies within it as a whole. It
        # grows no faster than the way walked, so between the ends it is at least this.
        whole, least = np.maximum(one, two).min(axis=1), (one + two - size[:, None]) / 2
        for i, tolerance in enumerate(tolerances):
            partly = np.flatnonzero(whole > tolerance)
            row, column = np.nonzero(least[partly] <= tolerance + slack)
            start, end = _intervals(part[partly[row]], second[column], tolerance)
            total[i] += size[whole <= tolerance].sum() + size[partly] @ _covered(row, start, end, len(partly))
    return total


def _covered(row: np.ndarray, start: np.ndarray, end: np.ndarray, rows: int) -> np.ndarray:
    """Give what the union of each row's intervals covers of it; *row* does not fall."""
    place = np.arange(len(row)) - np.searchsorted(row, row)
    low, high = np.full((2, rows, place.max(initial=0) + 1), [[[1.0]], [[0.0]]])
    low[row, place], high[row, place] = start, end
    order = np.argsort(low, axis=1)
    low, high = np.take_along_axis(low, order, 1), np.take_along_axis(high, order, 1)
    reached = np.maximum.accumulate(high, axis=1)
    fresh = np.maximum(low, np.concatenate([np.zeros((rows, 1)), reached[:, :-1]], axis=1))
    return np.maximum(high - fresh, 0).sum(axis=1)


def _intervals(first: np.ndarray, second: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Give for each two segments the interval, in shares of the first, within the tolerance of the second: (P,) twice.

    A point is within it if it is so near one of the ends, or beside the segment and so near its line: three intervals,
    whose union is one, as what lies near a segment is convex. Empty ones run from 1 to 0.
    """
    (start, way), (base, along) = ((_numbers(x[:, 0]), _numbers(x[:, 1] - x[:, 0])) for x in (first, second))
    square = _dot(way, way)
    square = np.where(square > 0, square, 1)
    found = []
    for end in (base, base + along):
        away = start - end
        middle = -_dot(away, way) / square
        foot = away + middle * way
        room = tolerance**2 - _dot(foot, foot)
        reach = np.sqrt(np.maximum(room, 0) / square)
        found.append((np.where(room >= 0, middle - reach, np.inf), middle + reach))
    size = np.abs(along)
    unit = along / np.where(size > 0, size, 1)
    beside = _within(_dot(start - base, unit), _dot(way, unit), 0.0, size)
    close = _within(_dot(start - base, 1j * unit), _dot(way, 1j * unit), -tolerance, tolerance)
    # A segment of length 0 has no side to be beside of.
    found.append((np.where(size > 0, np.maximum(beside[0], close[0]), np.inf), np.minimum(beside[1], close[1])))
    enter, leave = np.array(found).transpose(1, 0, 2)
    enter, leave = np.maximum(enter, 0), np.minimum(leave, 1)
    some = enter <= leave
    return np.where(some, enter, 1.0).min(axis=0), np.where(some, leave, 0.0).max(axis=0)


def _numbers(points: np.ndarray) -> np.ndarray:
    """Give points of the plane as complex numbers: numpy is several times as slow along an axis of two."""
    return np.ascontiguousarray(points).view(np.complex128)[..., 0]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b.conj()).real


def _within(value: np.ndarray, slope: np.ndarray, least, most) -> tuple[np.ndarray, np.ndarray]:
    """Give the interval of t on which least <= value + t slope <= most; an empty one runs from inf to -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (least - value) / slope, (most - value) / slope
    flat = slope == 0
    inside = flat & (value >= least) & (value <= most)
    enter = np.where(flat, np.where(inside, -np.inf, np.inf), np.minimum(one, two))
    return enter, np.where(flat, np.where(inside, np.inf, -np.inf), np.maximum(one, two))


def _check(segments, name: str = "Segments") -> np.ndarray:
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
