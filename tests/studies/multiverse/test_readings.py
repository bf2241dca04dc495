"""The readings of the paper's words: masks, junctions, planes and displacements, by other libraries and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label
from skimage.segmentation import find_boundaries

from bqcore.metrics import margins, masks, planes
from bqcore.metrics.masks import boundary_mask
from bqcore.quantizers import uniform
from studies.multiverse import readings

GRIDS = arrays(np.int16, st.tuples(st.integers(3, 8), st.integers(3, 8)), elements=st.integers(0, 10))
PATHS = st.integers(3, 7).flatmap(
    lambda n: arrays(np.int16, st.tuples(st.integers(2, 4), st.just(n), st.just(n)), elements=st.integers(0, 4))
)


@given(GRIDS)
def test_node_masks_are_those_of_scikit_image(labels):
    both, one = (readings.node_mask(labels, sides=sides) for sides in ("two", "one"))
    np.testing.assert_array_equal(both, find_boundaries(labels, mode="thick", connectivity=1))
    assert not (one & ~both).any()
    # The neighbours of lower index of the nodes marked one-sidedly are what two sides add.
    right, up = labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:]
    grown = one.copy()
    grown[:, 1:] |= right
    grown[1:] |= up
    np.testing.assert_array_equal(grown, both)
    assert one.sum() <= right.sum() + up.sum()


def _pairs(labels: np.ndarray) -> set:
    """Return the set of (row, column, class, other class) by plain loops."""
    found = set()
    for i in range(labels.shape[0] - 1):
        for j in range(labels.shape[1] - 1):
            here = sorted({int(c) for c in labels[i : i + 2, j : j + 2].ravel()})
            found |= {(i, j, a, b) for a in here for b in here if a < b}
    return found


@given(st.integers(3, 7).flatmap(lambda n: arrays(np.int16, (2, n, n), elements=st.integers(0, 10))))
def test_masks_by_class_pair_are_sets_of_pairs(pair):
    a, b = (_pairs(labels) for labels in pair)
    masks = [readings.pair_mask(labels) for labels in pair]
    assert [int(np.bitwise_count(mask).sum()) for mask in masks] == [len(a), len(b)]
    expected = 1 - len(a & b) / len(a | b) if a | b else 0.0
    assert readings.mask_jaccard(*masks) == pytest.approx(expected, abs=1e-15)
    np.testing.assert_array_equal(masks[0] > 0, boundary_mask(pair[0]))


def test_every_kind_of_mask_is_at_distance_0_from_itself_and_1_from_none():
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    for name, mask in readings.MASKS.items():
        here, none = mask(labels), mask(np.zeros((3, 4), np.int64))
        assert readings.mask_jaccard(here, here) == 0 == readings.mask_jaccard(none, none), name
        assert readings.mask_jaccard(here, none) == 1, name


def test_masks_refuse():
    with pytest.raises(ValueError, match=r"^Grid labels run from 0 to 11: give 0 to 10\.$"):
        readings.pair_mask(np.array([[0, 11], [0, 0]]))
    with pytest.raises(ValueError, match=r"^Sides is 'both': choose one of 'one', 'two'\.$"):
        readings.node_mask(np.zeros((2, 2), int), sides="both")
    with pytest.raises(ValueError, match=r"^The masks are of uint64 and bool: compare two of one kind\.$"):
        readings.mask_jaccard(np.zeros((1, 1), np.uint64), np.zeros((1, 1), bool))
    with pytest.raises(ValueError, match="both must come from the same inputs"):
        readings.mask_jaccard(np.zeros((1, 1), np.uint64), np.zeros((1, 2), np.uint64))


@given(PATHS)
def test_junction_counts_are_those_of_plain_loops(path):
    found = dict(zip(readings.COUNTS, readings.junction_counts(path)))
    steps, n = len(path), path.shape[1]
    moved = (path[1:] != path[:-1]).any(0)

    def windows(size: int) -> tuple[np.ndarray, np.ndarray]:
        where, changed = np.zeros((steps, n - size + 1, n - size + 1), bool), np.zeros((n - size + 1,) * 2, bool)
        for i, j in np.ndindex(changed.shape):
            changed[i, j] = moved[i : i + size, j : j + size].any()
            for s in range(steps):
                where[s, i, j] = len(set(path[s, i : i + size, j : j + size].ravel().tolist())) >= 3
        return where, changed

    def groups(one: np.ndarray) -> int:
        return int(label(one, connectivity=2).max())

    for name, size, count in (("corner cells", 2, np.sum), ("3×3 windows", 3, np.sum), ("components", 2, groups)):
        where, changed = windows(size)
        union = where.any(0)
        expected = [count(where[-1]), max(count(one) for one in where), count(union), count(union & changed)]
        assert found[name].tolist() == expected, name
    move = masks.transition(path)
    assert found["corner cells"].tolist() == [move.junctions[-1], max(move.junctions), move.union, move.union_changed]


def test_cells_that_touch_at_a_corner_are_one_group():
    grid = np.array([[1, 0, 0], [2, 0, 3], [2, 0, 4]])  # three classes meet in the first cell and in the last
    cells, _, groups = readings.junction_counts(np.stack([grid, grid]))
    assert cells.tolist() == [2, 2, 2, 0] and groups.tolist() == [1, 1, 1, 0]


def test_junction_counts_refuse():
    with pytest.raises(ValueError, match=r"has shape \(1, 4, 4\): give \(S, n, n\) with S >= 2 and n >= 3\.$"):
        readings.junction_counts(np.zeros((1, 4, 4), int))
    with pytest.raises(ValueError, match=r"^The path's labels run from 0 to 63: give 0 to 62\.$"):
        readings.junction_counts(np.full((2, 3, 3), [[0, 0, 63]]))
    wide = np.zeros((2, 3, 3), int)
    wide[:, 0] = 40, 50, 62  # words of 64 bits
    assert readings.junction_counts(wide)[0].tolist() == [2, 2, 2, 0]


@given(arrays(np.float64, (3, 5), elements=st.floats(-9, 9)), st.floats(0, 1))
def test_a_plane_through_three_images_holds_them(points, padding):
    scores = np.linalg.svd(points[1:] - points[0], compute_uv=False)
    if scores[1] < 1e-6:
        return
    plane = readings.plane_through(points, padding=padding)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)
    found = plane.project(points)
    np.testing.assert_allclose(plane.points(*found.T), points, atol=1e-9)
    width = found.max(0) - found.min(0)
    np.testing.assert_allclose(plane.low, found.min(0) - padding * width, atol=1e-9)
    np.testing.assert_allclose(plane.high, found.max(0) + padding * width, atol=1e-9)


def test_a_plane_through_three_images_refuses():
    with pytest.raises(ValueError, match=r"^The three points lie on a line: they span no plane\.$"):
        readings.plane_through(np.array([[0, 0], [1, 2], [2, 4.0]]))
    with pytest.raises(ValueError, match=r"^The points have shape \(2, 3\): give three of at least two values\.$"):
        readings.plane_through(np.eye(3)[:2])
    with pytest.raises(ValueError, match="The points hold 1 non-finite values of 9, first at point 0, value 1"):
        readings.plane_through(np.where(np.arange(9).reshape(3, 3) == 1, np.nan, np.eye(3)))


def test_displacements_agree_with_the_measures_of_the_baseline(trained):
    model, inputs = trained.model.double(), trained.split.test_inputs[:60].double()
    candidate = uniform.quantize_model(model, 4)
    axes = planes.pca_plane(trained.split.train_inputs).axes
    at, then = (readings.linearize(one, inputs) for one in (model, candidate))
    found = readings.displacements(at, then, axes)
    trained.model.float()
    change = margins.local_change(model.double(), candidate, inputs)
    np.testing.assert_allclose(found[0, 0], np.abs(change.displacement), rtol=1e-12)
    radii = [margins.radius(one, inputs).radius for one in (model, candidate)]
    np.testing.assert_allclose(found[3, 1], np.abs(radii[1] - radii[0]), atol=1e-12)
    trained.model.float()
    assert (found[2] > found[0]).all()  # the plane holds a part of the gradient
    back = readings.displacements(then, at, axes)
    same = (at.logits.argsort(1)[:, -2:] == then.logits.argsort(1)[:, -2:]).all(1)
    np.testing.assert_allclose(found[1, 0][same], back[0, 0][same], rtol=1e-9)  # the quantized gradient, by swapping
    with pytest.raises(ValueError, match=r"^The axes have shape \(2, 3\) for 64 inputs: give \(2, D\)\.$"):
        readings.displacements(at, then, np.eye(3)[:2])
