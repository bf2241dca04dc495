"""
Points and segments on a plane: distances, pieces, crossings, and what of one set of segments lies near another.

What :mod:`bqcore.metrics.boundary_distances` measures with. Segments have shape (M, 2, 2): two ends of two coordinates.
"""

import numpy as np
import scipy  # its submodules are imported when first used

CHUNK = 1 << 20  # pairs of segments looked at together


def lengths(segments: np.ndarray) -> np.ndarray:
    """Return the length of each of *segments* (M, 2, 2)."""
    return np.hypot(*(segments[:, 1] - segments[:, 0]).T)


class Near:
    """The distance from points to a boundary, exactly, and the segment that is nearest."""

    def __init__(self, segments: np.ndarray):
        # The result does not depend on the size of the pieces, only the number of candidates does.
        self.pieces = pieces_of(segments, max(lengths(segments).sum() / 256, np.finfo(float).tiny))
        self.half = lengths(self.pieces).max() / 2
        self.tree = scipy.spatial.KDTree(self.pieces.mean(axis=1))

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
    """Return the distance from each point to its segment; the two are broadcast together."""
    start, end = (_numbers(segments[..., i, :]) for i in (0, 1))
    along, away = end - start, _numbers(points) - start
    square = _dot(along, along)
    foot = np.clip(_dot(away, along) / np.where(square > 0, square, 1), 0, 1)
    return np.abs(away - foot * along)


def farthest(pieces: np.ndarray, near: Near) -> float:
    """Return the largest distance from *pieces* to a boundary, by branch and bound."""
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
        pieces = pieces_of(pieces[open_], 0.0, 2)
    return float(best)


def pieces_of(segments: np.ndarray, step: float, count: int | None = None) -> np.ndarray:
    """Divide segments into equal pieces of at most *step*, or into *count* each."""
    counts = piece_counts(segments, step) if count is None else np.full(len(segments), count)
    source = np.repeat(np.arange(len(segments)), counts)
    number = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = np.stack([number, number + 1], axis=1) / counts[source, None]
    start, end = segments[source, None, 0], segments[source, None, 1]
    return np.where(ends[..., None] == 1, end, start + ends[..., None] * (end - start))


def piece_counts(segments: np.ndarray, step: float) -> np.ndarray:
    """Return into how many pieces, of *step* at most, each segment is cut."""
    return np.maximum(np.ceil(lengths(segments) / step), 1).astype(np.intp)


def crosses(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether a segment of one crosses one of the other inside both; what touches is at distance 0 anyway."""

    def side(line, point):
        """Return on which side of each line each point lies."""
        along, away = line[:, None, 1] - line[:, None, 0], point[None] - line[:, None, 0]
        return np.sign(along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0])

    for part in np.array_split(first, 1 + len(first) * len(second) // CHUNK):
        apart = side(part, second[:, 0]) * side(part, second[:, 1]) < 0
        if (apart & (side(second, part[:, 0]) * side(second, part[:, 1]) < 0).T).any():
            return True
    return False


def way_along(points: np.ndarray, normal: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the signed way from each point along its normal to the nearest of *segments* that it meets, or NaN."""
    start, along = segments[:, 0] - points[:, None], segments[:, 1] - segments[:, 0]
    cross = normal[:, None, 0] * along[:, 1] - normal[:, None, 1] * along[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        way = (start[..., 0] * along[:, 1] - start[..., 1] * along[:, 0]) / cross
        place = (start[..., 0] * normal[:, None, 1] - start[..., 1] * normal[:, None, 0]) / cross
    slack = 1e-12  # between two segments that share an end no ray slips through
    way[~((place >= -slack) & (place <= 1 + slack))] = np.inf
    shortest = way[np.arange(len(points)), np.abs(way).argmin(axis=1)]
    return np.where(np.isfinite(shortest), shortest, np.nan)


def lengths_near(first: np.ndarray, second: np.ndarray, tolerances: list[float]) -> np.ndarray:
    """
    Return the length of *first* within each of *tolerances* of *second*.

    A segment A of the first, for a tolerance τ, beside two segments B and C of the second:

        B   ━━━━━━━━━                 C ━━━━━━━━━
                     ╲ τ           τ ╱
        A ━━━━━━━━━━━━━───────────━━━━━━━━━━━━━━━     of A, the part ─── is farther than τ from both
          [  near B   ]           [   near C    ]     one interval each, as what lies near a segment is convex

    1. If both ends of A are within τ of B, the whole of A is: distance to B is convex along A.
    2. Distance grows no faster than the way walked, so that between the ends it is at least (d0 + d1 − |A|) / 2: most B
       are out of reach of A, and are left out.
    3. For the rest, the interval of A near each B, and the length that the intervals cover together.
    """
    total = np.zeros(len(tolerances))
    for part in np.array_split(first, 1 + len(first) * len(second) // CHUNK) if len(second) and len(first) else ():
        size = lengths(part)
        one, two = (_distance(part[:, None, end], second) for end in (0, 1))
        whole, least = np.maximum(one, two).min(axis=1), (one + two - size[:, None]) / 2
        partly = [np.flatnonzero(whole > tolerance) for tolerance in tolerances]
        pairs = [np.nonzero(least[rows] <= tolerance) for rows, tolerance in zip(partly, tolerances)]
        # The intervals for all tolerances together: few pairs take as long as one.
        ours = part[np.concatenate([rows[row] for rows, (row, _) in zip(partly, pairs)])]
        theirs = second[np.concatenate([column for _, column in pairs])]
        counts = [len(row) for row, _ in pairs]
        cut = range(CHUNK, len(ours), CHUNK)
        split = zip(*(np.split(x, cut) for x in (ours, theirs, np.repeat(tolerances, counts))))
        start, end = np.concatenate([_intervals(*some) for some in split], axis=1)
        for i, (rows, (row, _)) in enumerate(zip(partly, pairs)):
            mine = slice(sum(counts[:i]), sum(counts[: i + 1]))
            covered = _covered(row, start[mine], end[mine], len(rows))
            total[i] += size[whole <= tolerances[i]].sum() + size[rows] @ covered
    return total


def _covered(row: np.ndarray, start: np.ndarray, end: np.ndarray, rows: int) -> np.ndarray:
    """Return what the union of each row's intervals covers of it; *row* does not fall."""
    place = np.arange(len(row)) - np.searchsorted(row, row)
    low, high = np.full((2, rows, place.max(initial=0) + 1), [[[1.0]], [[0.0]]])
    low[row, place], high[row, place] = start, end
    order = np.argsort(low, axis=1)
    low, high = np.take_along_axis(low, order, 1), np.take_along_axis(high, order, 1)
    reached = np.maximum.accumulate(high, axis=1)
    fresh = np.maximum(low, np.concatenate([np.zeros((rows, 1)), reached[:, :-1]], axis=1))
    return np.maximum(high - fresh, 0).sum(axis=1)


def _intervals(first: np.ndarray, second: np.ndarray, tolerance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return for each two segments the interval of the first, from 0 to 1, within its tolerance of the second: (P,) twice.

              ╭─────────────────╮         what is within the tolerance of a segment: two discs about its ends, and the
             (  ●━━━━━━━━━━━━━●  )        strip beside it; a line meets each of the three in an interval, and all three
              ╰─────────────────╯         together in one, as the whole is convex

    Empty intervals run from 1 to 0.
    """
    (start, way), (base, along) = ((_numbers(x[:, 0]), _numbers(x[:, 1] - x[:, 0])) for x in (first, second))
    square = _dot(way, way)
    square = np.where(square > 0, square, 1)
    discs = [_in_disc(start - end, way, square, tolerance) for end in (base, base + along)]
    strip = _in_strip(start - base, way, along, tolerance)
    enter, leave = np.array([*discs, strip]).transpose(1, 0, 2)
    enter, leave = np.maximum(enter, 0), np.minimum(leave, 1)
    some = enter <= leave
    return np.where(some, enter, 1.0).min(axis=0), np.where(some, leave, 0.0).max(axis=0)


def _in_disc(
    away: np.ndarray, way: np.ndarray, square: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of t on which away + t way lies in the disc about 0; *square* is the square of |way|."""
    middle = -_dot(away, way) / square
    foot = away + middle * way
    room = radius**2 - _dot(foot, foot)
    reach = np.sqrt(np.maximum(room, 0) / square)
    return np.where(room >= 0, middle - reach, np.inf), middle + reach


def _in_strip(away: np.ndarray, way: np.ndarray, along: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of t on which away + t way lies beside the segment from 0 to *along*, at most *width* off."""
    size = np.abs(along)
    unit = along / np.where(size > 0, size, 1)
    beside = _within(_dot(away, unit), _dot(way, unit), 0.0, size)
    close = _within(_dot(away, 1j * unit), _dot(way, 1j * unit), -width, width)
    # A segment of length 0 has no side to be beside of.
    return np.where(size > 0, np.maximum(beside[0], close[0]), np.inf), np.minimum(beside[1], close[1])


def _numbers(points: np.ndarray) -> np.ndarray:
    """Return points of the plane as complex numbers: numpy is several times as slow along an axis of two."""
    return np.ascontiguousarray(points).view(np.complex128)[..., 0]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b.conj()).real


def _within(value: np.ndarray, slope: np.ndarray, least, most) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of t on which least <= value + t slope <= most; an empty one runs from inf to -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (least - value) / slope, (most - value) / slope
    flat = slope == 0
    inside = flat & (value >= least) & (value <= most)
    enter = np.where(flat, np.where(inside, -np.inf, np.inf), np.minimum(one, two))
    return enter, np.where(flat, np.where(inside, np.inf, -np.inf), np.maximum(one, two))
