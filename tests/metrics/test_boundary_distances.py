"""Two exact boundaries: dense samples and SciPy as oracles, closed forms of moved lines, assignments tried one by one."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from bqcore.metrics.boundary_distances import (
    boundary_distances,
    lengths,
    match_junctions,
    shifts,
    tolerance_jaccard,
)
from bqcore.metrics.exact_slices import exact_slice
from bqcore.metrics.planes import Plane
from tests.helpers.halfplanes import halves
from tests.helpers.nets import SEEDS

LINE = np.array([[[0.0, 0.0], [1.0, 0.0]]])
NONE = np.empty((0, 2, 2))


@st.composite
def boundaries(draw, most=6):
    """Draw two sets of segments, some of them on a coarse lattice: touching, crossing, parallel, equal, of length 0."""
    generator = np.random.default_rng(draw(SEEDS))
    out = [generator.random((draw(st.integers(1, most)), 2, 2)) for _ in range(2)]
    return [np.round(3 * x) / 3 for x in out] if draw(st.booleans()) else out


def sampled(segments, n=400):
    """Return middles of n equal pieces of each segment, and the length of each piece."""
    t = (np.arange(n) + 0.5) / n
    points = segments[:, None, 0] + t[:, None] * (segments[:, 1] - segments[:, 0])[:, None]
    return points.reshape(-1, 2), np.repeat(lengths(segments) / n, n)


@given(boundaries())
def test_distances_are_those_of_dense_samples(pair):
    """Samples are half a piece off at most, 1.42 / 800; the ends are sampled too, for the nearest and farthest."""
    one, two = pair
    assume(lengths(one).sum() > 0 and lengths(two).sum() > 0)
    found = boundary_distances(one, two, step=0.02)
    (p, v), (q, w) = sampled(one), sampled(two)
    apart = cdist(np.concatenate([p, one.reshape(-1, 2)]), np.concatenate([q, two.reshape(-1, 2)]))
    rows, columns = apart.min(axis=1), apart.min(axis=0)
    assert found.nearest == pytest.approx(apart.min(), abs=2e-3) and found.nearest <= apart.min() + 1e-12
    assert found.hausdorff == pytest.approx(max(rows.max(), columns.max()), abs=4e-3)
    mean = (v @ rows[: len(v)] / v.sum() + w @ columns[: len(w)] / w.sum()) / 2
    assert abs(found.mean - mean) <= found.mean_error + 3e-3 and found.mean_error <= 0.005
    assert found.nearest <= found.mean + found.mean_error <= found.hausdorff + 2 * found.mean_error


@given(boundaries(), st.floats(0, 0.5))
def test_tolerance_jaccard_is_that_of_dense_samples(pair, tolerance):
    """Each segment's share within the tolerance consists of up to 7 intervals, whose ends are off by a sample each."""
    one, two = pair
    (p, v), (q, w) = sampled(one), sampled(two)
    total = v.sum() + w.sum()
    assume(total > 0 and tolerance > 0.01)
    near = [size @ (boundary_far(points, other) <= tolerance) for points, size, other in ((p, v, two), (q, w, one))]
    found = tolerance_jaccard(one, two, tolerance)
    # A set that lies exactly at the tolerance, as on the lattice, is left to rounding.
    spread = [
        size @ (np.abs(boundary_far(points, other) - tolerance) < 4e-3)
        for points, size, other in ((p, v, two), (q, w, one))
    ]
    assert abs(found - (1 - sum(near) / total)) <= sum(spread) / total + 1e-9
    assert 0 <= found <= 1 and found == pytest.approx(tolerance_jaccard(two, one, tolerance), abs=1e-12)


def boundary_far(points, segments):
    """Return the distance from points to segments, all pairs, by projection."""
    a, d = segments[None, :, 0], (segments[:, 1] - segments[:, 0])[None]
    t = ((points[:, None] - a) * d).sum(-1) / np.maximum((d**2).sum(-1), 1e-300)
    return np.linalg.norm(points[:, None] - a - np.clip(t, 0, 1)[..., None] * d, axis=-1).min(axis=1)


@given(boundaries(), st.floats(0.02, 0.5), st.floats(0.05, 20), st.integers(1, 4))
def test_units_and_the_division_into_segments_do_not_matter(pair, tolerance, unit, parts):
    one, two = pair
    assume(lengths(one).sum() > 0 and lengths(two).sum() > 0)
    t = np.arange(parts + 1) / parts
    points = one[:, :1] + t[:, None] * (one[:, 1:] - one[:, :1])
    finer = np.stack([points[:, :-1], points[:, 1:]], axis=2).reshape(-1, 2, 2)[::-1]
    before, after = (
        boundary_distances(x, y, step=s) for x, y, s in ((one, two, 0.1), (unit * finer, unit * two, 0.03 * unit))
    )
    assert after.nearest == pytest.approx(unit * before.nearest, abs=1e-9 * unit)
    assert after.hausdorff == pytest.approx(unit * before.hausdorff, rel=1e-9)
    assert abs(after.mean / unit - before.mean) <= before.mean_error + after.mean_error / unit
    # Just off the lattice's own distances, where rounding decides.
    tolerance += 1e-3 * np.pi
    assert tolerance_jaccard(unit * finer, unit * two, unit * tolerance) == pytest.approx(
        tolerance_jaccard(one, two, tolerance), abs=1e-7
    )


def test_a_line_against_itself_and_moved():
    assert boundary_distances(LINE, LINE, step=0.1) == (0, pytest.approx(0, abs=1e-15), pytest.approx(0.025), 0)
    up = boundary_distances(LINE, LINE + [0, 0.25], step=0.1)
    assert up == (0.25, pytest.approx(0.25), pytest.approx(0.025), 0.25)
    along = boundary_distances(LINE, LINE + [3, 0], step=0.001)
    assert along == (2, pytest.approx(2.5, rel=1e-9), pytest.approx(0.00025), 3)
    cross = np.array([[[0.5, -1.0], [0.5, 1.0]]])
    found = boundary_distances(LINE, cross, step=1e-4)
    assert found == (0, pytest.approx(0.375, rel=1e-4), pytest.approx(2.5e-5, rel=0.01), 1)
    # Within 0.3: of the line 0.6 of 1, of the upright one 0.6 of 2.
    assert tolerance_jaccard(LINE, cross, 0.3) == pytest.approx(1 - 1.2 / 3, rel=1e-12)
    assert tolerance_jaccard(LINE, LINE + [0.5, 0], 0.0) == pytest.approx(0.5, rel=1e-12)
    assert tolerance_jaccard(LINE, LINE + [0, 0.25], 0.25) == 0  # at the tolerance is within it


def test_empty_boundaries():
    assert boundary_distances(NONE, NONE, step=1) == (0, 0, 0, 0)
    assert (
        boundary_distances(NONE, LINE, step=1) == boundary_distances(LINE, NONE, step=1) == (np.inf, np.inf, 0, np.inf)
    )
    assert tolerance_jaccard(NONE, NONE, 0.1) == 0 and tolerance_jaccard(NONE, LINE, 9.0) == 1
    pairs = np.empty((0, 2), int)
    assert len(shifts(NONE, pairs, LINE, np.array([[0, 1]]), step=1).points) == 0
    assert np.isnan(shifts(LINE, np.array([[0, 1]]), NONE, pairs, step=1).displacement).all()
    assert lengths(NONE).sum() == 0
    matching = match_junctions(np.empty((0, 2)), np.empty((0, 3)), np.array([[0, 1]]), np.array([[0, 1, 2]]), radius=1)
    assert matching.matched.shape == (0, 2) and matching.appeared.tolist() == [0] and len(matching.vanished) == 0


# --- displacement ---


@given(st.floats(0, 2 * np.pi), st.floats(-0.3, 0.3), st.floats(-0.2, 0.2), st.floats(0.01, 1))
def test_a_moved_line_is_displaced_by_its_shift(angle, offset, shift, step):
    """Positive is towards the right class, 1, as class 0 grows; the normal leads there. Ends may miss the other line."""
    plane = Plane(np.zeros(2), np.eye(2), -np.ones(2), np.ones(2), np.ones(2) / 2, (2,))
    one, two = (exact_slice(halves(angle, at), plane) for at in (offset, offset + shift))
    found = shifts(one.segments, one.pairs, two.segments, two.pairs, step=step)
    inside = np.isfinite(found.displacement)
    assert found.lengths.sum() == pytest.approx(lengths(one.segments).sum()) and found.lengths.max() <= step * (
        1 + 1e-12
    )
    assert found.lengths[~inside].sum() <= 2 * abs(shift) + 2 * step
    np.testing.assert_allclose(found.displacement[inside], shift, atol=1e-12)
    np.testing.assert_allclose(np.cos(found.angles - angle), 1, rtol=1e-12)
    np.testing.assert_allclose(found.points @ [np.cos(angle), np.sin(angle)], offset, atol=1e-12)


@given(SEEDS, st.floats(0, 2 * np.pi))
def test_no_normal_slips_through_where_two_segments_meet(seed, angle):
    """The other boundary has a corner exactly before each point; turned, the corners are so but for rounding."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.stack([np.linspace(-1.05, 1.05, 22), np.random.default_rng(seed).uniform(0.1, 0.2, 22)], axis=1)
    others = np.stack([corners[:-1], corners[1:]], axis=1)
    line, pairs = np.array([[[-1.0, 0], [1, 0]]]), np.array([[0, 1]])
    found = shifts(line @ turn, pairs, others @ turn, np.repeat(pairs, 21, axis=0), step=0.1)
    np.testing.assert_allclose(np.abs(found.displacement), corners[1:-1, 1], rtol=1e-9)


def test_only_the_same_pair_counts_and_the_nearest_of_them():
    pairs = np.array([[0, 1]])
    others = np.concatenate([LINE + [0, 0.1], LINE - [0, 0.2], LINE + [0, 0.3]])
    kinds = np.array([[0, 2], [0, 1], [0, 1]])
    # The line runs to the right, so its right side is below.
    assert shifts(LINE, pairs, others, kinds, step=1).displacement.tolist() == [pytest.approx(0.2)]
    assert shifts(LINE, pairs, others[::2], kinds[::2], step=1).displacement.tolist() == [pytest.approx(-0.3)]
    assert np.isnan(shifts(LINE, np.array([[1, 2]]), others, kinds, step=0.5).displacement).all()


# --- junctions ---


@given(st.integers(0, 5), st.integers(0, 5), st.floats(0.05, 1), SEEDS)
def test_junctions_are_matched_as_the_best_of_all_assignments(n, m, radius, seed):
    generator = np.random.default_rng(seed)
    points = [generator.random((k, 2)) for k in (n, m)]
    classes = [np.array([[0, 1, 2], [0, 1, 3]])[generator.integers(2, size=k)] for k in (n, m)]
    found = match_junctions(points[0], classes[0], points[1], classes[1], radius=radius)

    def cost(i, j):
        apart = float(np.hypot(*(points[0][i] - points[1][j])))
        return apart if (classes[0][i] == classes[1][j]).all() and apart <= radius else None

    best = (0, 0.0)
    for order in permutations(range(max(n, m)), min(n, m)):
        pairs = list(zip(range(n), order)) if n <= m else list(zip(order, range(m)))
        costs = [c for c in (cost(i, j) for i, j in pairs) if c is not None]
        best = min(best, (-len(costs), sum(costs)))
    assert (-len(found.matched), found.distances.sum()) == (best[0], pytest.approx(best[1]))
    for (i, j), apart in zip(found.matched, found.distances):
        assert cost(i, j) == pytest.approx(apart)
    assert sorted([*found.matched[:, 0], *found.vanished]) == list(range(n))
    assert sorted([*found.matched[:, 1], *found.appeared]) == list(range(m))


def test_two_matches_within_the_radius_are_better_than_one_that_is_closer():
    first, second = np.array([[0, 0], [0.95, 0]]), np.array([[0.9, 0], [1.85, 0]])
    classes = np.array([[0, 1, 2]] * 2)
    assert match_junctions(first, classes, second, classes, radius=1).matched.tolist() == [[0, 0], [1, 1]]


@given(SEEDS)
def test_junctions_in_float32_are_measured_in_float64(seed):
    generator = np.random.default_rng(seed)
    first, second = (generator.random((5, 2), dtype=np.float32) for _ in range(2))
    classes = np.array([[0, 1, 2]] * 5)
    found = match_junctions(first, classes, second, classes, radius=1)
    expected = match_junctions(first.astype(float), classes, second.astype(float), classes, radius=1)
    assert found.matched.tolist() == expected.matched.tolist() and np.array_equal(found.distances, expected.distances)


def test_junctions_of_three_and_of_four_classes_do_not_match():
    here = np.zeros((1, 2))
    three, padded, four = np.array([[0, 1, 2]]), np.array([[0, 1, 2, -1]]), np.array([[0, 1, 2, 3]])
    assert len(match_junctions(here, three, here, padded, radius=0.1).matched) == 1
    assert len(match_junctions(here, three, here, four, radius=0.1).matched) == 0


# --- refusals ---


@pytest.mark.parametrize(("call", "message"), [
    (lambda: lengths(np.zeros((3, 2))), r"Segments have shape \(3, 2\): give two ends of two coordinates each"),
    (lambda: tolerance_jaccard(LINE, np.zeros((3, 2)), 1.0), r"Second segments have shape \(3, 2\)"),
    (lambda: lengths(LINE * np.nan), "Segments hold 4 non-finite values of 4, first at segment 0, end 0, coordinate 0: leave out"),
    (lambda: tolerance_jaccard(LINE, LINE, -0.1), "Tolerance is -0.1: give a number from 0 to inf"),
    (lambda: tolerance_jaccard(LINE, LINE, np.nan), "Tolerance is nan: give a number"),
    (lambda: boundary_distances(LINE, LINE, step=0), "Step is 0.*: give a length in input units"),
    (lambda: boundary_distances(LINE, LINE, step=-1), "Step is -1: give a number from 0 to inf"),
    (lambda: shifts(LINE, np.array([[0, 1], [0, 1]]), LINE, [[0, 1]], step=1), r"Class pairs have shape \(2, 2\) and segments \(1, 2\)"),
    (lambda: shifts(LINE, np.array([[0, 1]]), LINE, np.array([[0.0, 1]]), step=1), "Class pairs are of type float64: give class indices as integers"),
    (lambda: match_junctions(np.zeros(2), [[0, 1, 2]], np.zeros((1, 2)), [[0, 1, 2]], radius=1), r"Junctions have shape \(2,\): give two"),
    (lambda: match_junctions(np.zeros((1, 2)), [[0, 1, 2]], np.zeros((2, 2)), [[0, 1, 2]], radius=1), "Second junctions are 2 points with 1 rows"),
    (lambda: match_junctions(np.zeros((1, 2)), [[0, 1, 2]], np.full((1, 2), np.inf), [[0, 1, 2]], radius=1), "Second junctions hold 2 non-finite"),
    (lambda: match_junctions(np.zeros((1, 2)), [[0, 1, 2]], np.zeros((1, 2)), [[0, 1, 2]], radius=0), "Radius is 0.*: give a length"),
])  # fmt: skip
def test_boundaries_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
