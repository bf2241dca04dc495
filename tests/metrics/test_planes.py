"""Slicing planes: scikit-learn's components as oracle, nodes that nest, what lies outside the data, every refusal."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import nn

from bqcore.metrics.label_grids import label_grid
from bqcore.metrics.planes import data_region, fraction_outside, pca_plane
from tests.helpers.slices import SEEDS, flat_plane


@given(st.integers(3, 30), st.integers(2, 12), SEEDS, st.floats(0, 1), st.integers(-6, 6))
def test_plane_spans_the_scores_of_the_first_two_components(n, d, seed, padding, power):
    generator = np.random.default_rng(seed)
    inputs = (generator.normal(size=(n, d)) + generator.normal(size=d)) * 10.0**power
    plane = pca_plane(inputs, padding=padding)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    _, singular, rows = np.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    assume(singular[0] > 1.001 * singular[1] and (len(singular) == 2 or singular[1] > 1.001 * singular[2]))
    np.testing.assert_allclose(np.abs(np.sum(plane.axes * rows[:2], axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(plane.explained, singular[:2] ** 2 / (singular**2).sum(), rtol=1e-9)
    scores = plane.project(inputs)
    np.testing.assert_allclose(scores, (inputs - inputs.mean(0)) @ plane.axes.T, atol=1e-12 * 10.0**power)
    margin = padding * (scores.max(0) - scores.min(0))
    np.testing.assert_allclose(plane.low, scores.min(0) - margin, atol=1e-9 * 10.0**power)
    np.testing.assert_allclose(plane.high, scores.max(0) + margin, atol=1e-9 * 10.0**power)
    np.testing.assert_allclose(plane.project(plane.points(scores[:, 0], scores[:, 1])), scores, atol=1e-9 * 10.0**power)


def test_plane_takes_images_and_tensors_and_keeps_their_shape():
    images = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    plane, same = pca_plane(images), pca_plane(images.flatten(1).double().numpy())
    assert plane.shape == (1, 4, 4) and same.shape == (16,)
    assert np.array_equal(plane.axes, same.axes) and np.array_equal(plane.low, same.low)
    assert plane.points(np.zeros((3, 1)), np.zeros(5)).shape == (3, 5, 16)
    np.testing.assert_allclose(plane.project(images), same.project(images.flatten(1)))


@given(st.integers(2, 60), SEEDS)
def test_nodes_end_on_the_box_and_nest(n, seed):
    box = np.random.default_rng(seed).normal(size=(2, 2)) * [[1], [10]]
    plane = flat_plane(box.min(axis=0), box.max(axis=0))
    for axis, (nodes, finer) in enumerate(zip(plane.nodes(n), plane.nodes(2 * n - 1))):
        assert nodes[0] == plane.low[axis] and nodes[-1] == plane.high[axis] and len(nodes) == n
        assert np.array_equal(nodes, finer[::2])
        np.testing.assert_allclose(np.diff(nodes), plane.steps(n)[axis], rtol=1e-6)
    assert plane.steps(n) == pytest.approx((plane.high - plane.low) / (n - 1), rel=1e-9)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones((9, 4)), "The 9 inputs vary in fewer than two directions: they span no plane"),
        (np.outer(np.arange(9), [1, 2, 3]), "The 9 inputs vary in fewer than two directions"),
        (np.zeros((2, 4)), r"Inputs have shape \(2, 4\): a PCA slice needs at least 3 samples of at least 2 values"),
        (np.zeros((5, 1)), r"Inputs have shape \(5, 1\): a PCA slice needs"),
        (np.zeros(5), r"Inputs have shape \(5,\): a PCA slice needs"),
        (np.zeros((0, 4)), r"Inputs have shape \(0, 4\): a PCA slice needs"),
        (np.float64(3), r"Inputs have shape \(\): a PCA slice needs"),
        (
            np.array([[0, 1, 2], [3, np.nan, 5], [np.inf, 7, 8]]),
            "Inputs hold 2 non-finite values of 9, first at sample 1, value 1: clean the data before fitting a slice",
        ),
    ],
)
def test_planes_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        pca_plane(inputs)


@pytest.mark.parametrize("padding", [-0.1, 1.1, float("nan"), True, "0"])
def test_paddings_are_refused(padding):
    with pytest.raises(ValueError, match=f"Padding is {padding!r}: give a number from 0 to 1"):
        pca_plane(np.eye(4), padding=padding)


@pytest.mark.parametrize("count", [1001, 1200])
def test_wide_and_many_inputs_are_decomposed_iteratively_to_the_same_plane(count):
    generator = np.random.default_rng(count)
    inputs = generator.normal(size=(count, 1100)) * np.geomspace(5, 0.1, 1100)
    plane, same = pca_plane(inputs), pca_plane(inputs)
    full = PCA(2, svd_solver="full").fit(inputs)
    np.testing.assert_allclose(plane.axes, full.components_, rtol=0, atol=1e-9)  # rounding over the gap of the spectrum
    np.testing.assert_allclose(plane.explained, full.explained_variance_ratio_, rtol=1e-9)
    assert plane.axes.tobytes() == same.axes.tobytes()
    label_grid(nn.Linear(1100, 3), plane, 5)  # torch takes the axes as they are
    for flat in (np.ones((count, 1100)), np.outer(np.arange(count), generator.normal(size=1100))):
        with pytest.raises(ValueError, match="vary in fewer than two directions"):
            pca_plane(flat)


def test_the_region_of_the_data_read_aloud():
    """A box twice as wide and twice as high as the data; then data that reach beyond it, and data without an area in it."""
    plane = flat_plane((0, 0), (4, 4))
    corners = data_region(plane, np.array([[1.0, 1.0], [3.0, 3.0]]))
    np.testing.assert_allclose(corners[corners[:, 0].argsort()][:, 0], [1, 1, 3, 3], atol=1e-8)
    assert fraction_outside(plane, torch.tensor([[1.0, 1.0], [3.0, 3.0]])) == pytest.approx(0.75, abs=1e-8)
    assert fraction_outside(plane, np.array([[-1.0, -1.0], [9.0, 9.0]])) == 0
    assert fraction_outside(plane, np.array([[5.0, 1.0], [6.0, 3.0]])) == 1
    # Beside the box; a line, a point in it.
    for data in ([[5.0, 1.0], [6.0, 3.0]], [[2.0, 1.0], [2.0, 3.0]], [[2.0, 2.0]]):
        assert data_region(plane, np.array(data)).shape == (0, 2)


@given(SEEDS, st.sampled_from([0.0, 0.5]))
def test_the_fraction_outside_is_that_of_the_nodes_outside(seed, padding):
    """Values that never change, which rounding alone puts outside their range, among those that do."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(12, 7)) ** 3
    inputs[:, 3] = 0.1
    plane, n = pca_plane(inputs, padding=padding), 201
    points = plane.points(*np.meshgrid(*plane.nodes(n)))
    beyond = np.maximum(points - inputs.max(0), inputs.min(0) - points).max(-1)
    # The polygon's edge crosses at most 4 n cells.
    assert fraction_outside(plane, inputs) == pytest.approx((beyond > 1e-9).mean(), abs=4 / n)


def test_data_of_another_plane_or_not_finite_have_no_region():
    with pytest.raises(ValueError, match="Inputs have 3 values and the plane 2: give inputs like its own"):
        data_region(flat_plane(), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="Inputs hold 1 non-finite values of 8, first at sample 3, value 1"):
        fraction_outside(flat_plane(), np.array([[0.0, 0.0]] * 3 + [[0.0, np.nan]]))
