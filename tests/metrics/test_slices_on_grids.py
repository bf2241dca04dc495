"""Exact slices of trained networks beside fine grids and contours; slices interpolated on a grid, for any classifier."""

import copy

import contourpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import find_contours
from torch import nn

from bqcore.metrics.boundary_distances import boundary_distances, tolerance_jaccard
from bqcore.metrics.exact_slices import (
    changed_area,
    exact_slice,
    interpolate,
    interpolated_slice,
    logits_on,
    shared_areas,
)
from bqcore.metrics.label_grids import grid_change, label_grid
from bqcore.metrics.masks import junction_cells
from bqcore.metrics.planes import pca_plane
from bqcore.quantizers.uniform import quantize_model
from studies.networks import mlp
from tests.helpers.exact_slices import check_cells, check_slice, logits_at, network
from tests.helpers.slices import SEEDS, flat_plane


def test_the_network_is_left_as_found_and_the_slice_repeats(trained, plane):
    model = copy.deepcopy(trained.model)
    first, second = exact_slice(model, plane), exact_slice(model, plane)
    assert all(np.array_equal(x, y) for x, y in zip(first, second))
    for p, q in zip(model.parameters(), trained.model.parameters()):
        assert torch.equal(p, q) and p.dtype == torch.float32 and p.requires_grad


def deep(trained) -> nn.Sequential:
    """Return a 64-32-32-10 network whose boundary bends much: four times the trained weights of a random one."""
    model = mlp((64, 32, 32, 10), 4)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    return model


@pytest.mark.parametrize("case", ["float", "4 bits", "deep"])
def test_a_brute_force_grid_of_4001_nodes_a_side_agrees(trained, plane, case):
    """
    Cells of 1/4000 of a side: their nodes give areas within the boundary's length in cells, by far less when it is
    crossed at random; 20 standard deviations of that stand here. Junction cells: none without a junction within a cell's
    diagonal, and none missed that has no other one near.
    """
    model = {"float": trained.model, "4 bits": quantize_model(trained.model, 4), "deep": deep(trained)}[case]
    exact = exact_slice(model, plane)
    check_slice(model, plane, exact)
    check_cells(model, plane, exact)
    z = np.sort(logits_at(model, plane, exact.segments.reshape(-1, 2)), axis=1)
    assert (z[:, -1] - z[:, -2]).max() < 1e-12 * np.abs(z).max()
    n = 4001
    labels = label_grid(model, plane, n)
    step = np.array(plane.steps(n))
    cells = np.stack([labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]])
    share = (
        np.mean([np.bincount(corner.ravel(), minlength=len(exact.areas)) for corner in cells], axis=0) / cells[0].size
    )
    box = (plane.high - plane.low).prod()
    length = np.hypot(*(exact.segments[:, 1] - exact.segments[:, 0]).T / step[:, None]).sum()
    assert np.abs(share - exact.areas / box).max() < 20 * np.sqrt(length) / cells[0].size
    row, column = np.nonzero(junction_cells(labels))
    centres = plane.low + (np.stack([column, row], axis=1) + 0.5) * step
    apart = (
        np.hypot(*(exact.junctions[:, None] - centres).transpose(2, 0, 1)) if len(exact.junctions) else np.ones((0, 9))
    )
    assert (apart.min(axis=0) < 2 * np.hypot(*step)).all()
    assert (apart.min(axis=1) < 2 * np.hypot(*step)).mean() > 0.9
    assert len(exact.junctions) == pytest.approx(len(centres), abs=1 + 0.1 * len(centres))


def test_changed_area_is_what_grid_change_tends_to(trained, plane):
    coarse = quantize_model(trained.model, 4)
    exact = changed_area(shared_areas(trained.model, coarse, plane))
    errors = []
    for n in (101, 1601):
        one, two = (label_grid(model, plane, n) for model in (trained.model, coarse))
        errors.append(abs(grid_change(one, two) - exact))
    assert errors[1] < 2e-4 and errors[1] < errors[0] < 4e-3


@pytest.mark.parametrize("pair", [(0, 1), (2, 8)])
def test_lengths_are_those_of_contours(trained, plane, pair):
    """
    The zero contour of the margin of two classes on a fine grid, where these two lead: contourpy's and scikit-image's.

    Both are exact where the margin is linear between nodes; a polygon's corner is cut by less than a cell. Within 0.3 %.
    """
    model = trained.model
    exact = exact_slice(model, plane)
    counts = np.unique(exact.pairs, axis=0, return_counts=True)
    pair = counts[0][np.argsort(-counts[1])[pair[0] % 2]]
    n = 1001
    a, b = plane.nodes(n)
    grid = np.stack([x.ravel() for x in np.meshgrid(a, b)], axis=1)
    z = logits_at(model, plane, grid).reshape(n, n, -1)
    margin = z[..., pair[0]] - z[..., pair[1]]
    rest = np.delete(z, pair, axis=2).max(axis=2)
    step = np.array(plane.steps(n))
    ours = exact.segments[(exact.pairs == pair).all(axis=1)]
    length = np.hypot(*(ours[:, 1] - ours[:, 0]).T).sum()
    lines = contourpy.contour_generator(a, b, margin).lines(0.0)
    others = [plane.low + line[:, ::-1] * step for line in find_contours(margin, 0.0)]
    for contours in (lines, others):
        total = 0.0
        for line in contours:
            middle = (line[1:] + line[:-1]) / 2
            i, j = np.clip(((middle - plane.low) / step).round().astype(int), 0, n - 1).T
            leads = np.maximum(z[j, i, pair[0]], z[j, i, pair[1]]) >= rest[j, i]
            total += (np.hypot(*np.diff(line, axis=0).T) * leads).sum()
        assert total == pytest.approx(length, rel=3e-3)


@pytest.mark.slow
@settings(max_examples=25)  # a second each, for the most nodes
@given(st.integers(2, 6), st.integers(2, 12), SEEDS)
def test_for_linear_classifiers_interpolation_is_exact(classes, n, seed):
    generator = np.random.default_rng(seed)
    model = network((generator.normal(size=(classes, 2)), 0.3 * generator.normal(size=classes)))
    plane = flat_plane((-1, -2), (2, 1))
    exact, found = exact_slice(model, plane), interpolated_slice(model, plane, n)
    check_slice(model, plane, found)
    np.testing.assert_allclose(found.areas, exact.areas, atol=1e-11)
    assert sorted(found.junction_classes.tolist()) == sorted(exact.junction_classes.tolist())
    assert boundary_distances(exact.segments, found.segments, step=1.0).hausdorff in (0.0, pytest.approx(0, abs=1e-9))


def test_interpolated_boundaries_converge_with_the_square_of_the_step(trained, plane):
    """From 41 to 161 nodes a side the mean distance from the true boundary falls by more than 8, here 16 or so."""
    coarse = quantize_model(trained.model, 5)
    one, two = exact_slice(trained.model, plane), exact_slice(coarse, plane)
    errors = []
    for n in (41, 161):
        found, other = (interpolated_slice(model, plane, n) for model in (trained.model, coarse))
        errors.append(boundary_distances(one.segments, found.segments, step=1e-3).mean)
    assert errors[1] < errors[0] / 8 and errors[1] < 0.01 * min(plane.steps(161))
    assert len(found.junctions) == len(one.junctions)
    np.testing.assert_allclose(found.areas, one.areas, atol=1e-4 * one.areas.sum())
    truth = tolerance_jaccard(one.segments, two.segments, 0.03)
    assert tolerance_jaccard(found.segments, other.segments, 0.03) == pytest.approx(truth, abs=0.02)


def test_interpolation_takes_any_classifier(trained):
    """Whether a module with any layers or a callable, and however it is batched."""
    plane = pca_plane(trained.split.train_inputs.reshape(-1, 1, 8, 8), padding=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)).eval()
    with torch.no_grad():
        model[-1].bias.sub_(torch.from_numpy(logits_at(model, plane, np.zeros((1, 2)))[0]))
    double = copy.deepcopy(model).double()
    found = interpolated_slice(model, plane, 21)
    assert (found.areas > 0).sum() >= 2 and abs(found.areas.sum() / (plane.high - plane.low).prod() - 1) < 1e-12
    calls = (lambda x: double(torch.from_numpy(x)), lambda x: double(torch.from_numpy(x)).detach().numpy())
    for call in calls:
        again = interpolated_slice(call, plane, 21, batch_size=441)
        np.testing.assert_allclose(again.areas, found.areas, atol=1e-9)
    assert all(np.array_equal(x, y) for x, y in zip(found, interpolated_slice(model, plane, 21)))
    labels = label_grid(model, plane, 201)
    share = np.bincount(labels.ravel(), minlength=5) / labels.size
    np.testing.assert_allclose(found.areas / found.areas.sum(), share, atol=0.02)


def test_what_interpolation_refuses():
    for classifier, message in (
        (lambda x: x[1:], "The classifier gave 24 rows for 25 nodes: it must give one row of logits a node"),
        (lambda x: x[:, :1], "Logits on the slice have K = 1 class"),
        (lambda x: np.full_like(x, np.nan), "Logits on the slice hold 50 non-finite values of 50, first at sample 0"),
    ):
        with pytest.raises(ValueError, match=message):
            interpolated_slice(classifier, flat_plane(), 5)
    with pytest.raises(ValueError, match="Nodes a side is 1: give an integer of at least 2"):
        interpolated_slice(lambda x: x, flat_plane(), 1)
    with pytest.raises(ValueError, match="The box runs from"):
        interpolated_slice(lambda x: x, flat_plane((0, 0), (0, 1)), 3)


def test_logits_are_interpolated_where_they_are_and_left_as_found(trained, plane):
    logits = logits_on(trained.model, plane, 21)
    logits[5, 5, 3] = 1e-300  # what counts as 0
    kept = logits.copy()
    found = interpolate(logits, plane)
    assert np.array_equal(logits, kept) and len(found.segments) > 20
