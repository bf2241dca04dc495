"""Cell masks: scikit-image and brute force as oracles, closed forms of straight boundaries, every refusal."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from skimage.morphology import dilation
from skimage.segmentation import find_boundaries
from torch import nn

from bqcore.metrics.label_grids import grid_change, label_grid
from bqcore.metrics.masks import (
    Transition,
    boundary_jaccard,
    boundary_mask,
    corner_classes,
    effective_displacement,
    junction_cells,
    thickened,
    transition,
)
from bqcore.quantizers.uniform import interpolate, quantize_model
from tests.helpers.slices import SEEDS, flat_plane, label_grids


@st.composite
def paths(draw):
    """Draw a path of label grids in which few nodes change at a time."""
    steps, n = draw(st.integers(2, 5)), draw(st.integers(2, 8))
    generator = np.random.default_rng(draw(SEEDS))
    block = np.ones((draw(st.integers(1, 4)),) * 2, int)  # of four nodes a side: cells that change without a boundary
    path = [np.kron(generator.integers(4, size=(n, n)), np.ones((2, 2), int))[:n, :n]]
    for _ in range(steps - 1):
        moved = generator.random((n, n)) < draw(st.sampled_from([0.0, 0.05, 0.3]))
        moved = np.kron(moved, block)[:n, :n] > 0
        path.append(np.where(moved, np.kron(generator.integers(4, size=(n, n)), block)[:n, :n], path[-1]))
    return np.stack(path)


def corners(labels: np.ndarray, i: int, j: int) -> set:
    return {labels[i, j], labels[i, j + 1], labels[i + 1, j], labels[i + 1, j + 1]}


@given(label_grids())
def test_corner_classes_masks_and_junctions_counted_one_by_one(labels):
    kept = labels.copy()
    n, m = labels.shape
    counts = np.array([[len(corners(labels, i, j)) for j in range(m - 1)] for i in range(n - 1)])
    assert np.array_equal(corner_classes(labels), counts)
    assert np.array_equal(boundary_mask(labels), counts > 1)
    assert np.array_equal(junction_cells(labels), counts >= 3)
    assert np.array_equal(labels, kept) and boundary_mask(labels).dtype == junction_cells(labels).dtype == bool


@given(label_grids())
def test_cell_mask_is_what_scikit_image_finds_between_the_nodes(labels):
    """
    find_boundaries(mode="subpixel") puts a pixel between every two nodes, in each direction.

    Its pixels at odd rows and odd columns are the cells, and it marks one if the four nodes around it are not all the
    same. The thick mask with connectivity=1 marks nodes: those with one of up to four neighbours of another label.
    A cell is therefore marked exactly if the thick mask of its own four nodes, taken alone, marks any; and a node is
    marked exactly if an edge between two labels ends there, an edge that lies on marked cells only.
    """
    cells = boundary_mask(labels)
    assert np.array_equal(cells, find_boundaries(labels, mode="subpixel")[1::2, 1::2])
    thick = find_boundaries(labels, mode="thick", connectivity=1)
    for (i, j), marked in np.ndenumerate(cells):
        four = labels[i : i + 2, j : j + 2]
        assert marked == find_boundaries(four, mode="thick", connectivity=1).any()
        assert not marked or thick[i : i + 2, j : j + 2].sum() >= 2
    around = np.pad(cells, 1)
    touched = around[:-1, :-1] | around[:-1, 1:] | around[1:, :-1] | around[1:, 1:]
    assert not (thick & ~touched).any()


def test_masks_of_the_digits_slice_are_scikit_image_s(trained, plane):
    labels = label_grid(trained.model, plane, 201)
    assert np.array_equal(boundary_mask(labels), find_boundaries(labels, mode="subpixel")[1::2, 1::2])
    assert 0 < junction_cells(labels).sum() < 100


@given(st.integers(5, 40), st.integers(0, 10**6), st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.floats(0, 2 * np.pi))
def test_the_junction_of_three_linear_classes_is_the_cell_that_holds_their_common_point(n, cell, u, v, turn):
    """
    Three normals 120° apart meet in one point, here 0.3 cells or more from the sides of its cell.

    Then each class has a corner of that cell, because a side is seen from the point under less than 120°, and no other
    cell has corners of all three: from outside, a cell is seen under less than 120° too.
    """
    row, column = divmod(cell % (n - 1) ** 2, n - 1)
    angles = turn + 2 * np.pi * np.arange(3) / 3
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    point = np.array([column + u, row + v]) / (n - 1)
    with torch.no_grad():
        net = nn.Linear(2, 3).double()
        net.weight.copy_(torch.from_numpy(normals))
        net.bias.copy_(torch.from_numpy(-normals @ point))
    common = np.linalg.solve(normals[:2] - normals[2], -(normals[:2] - normals[2]) @ -point)
    np.testing.assert_allclose(common, point, atol=1e-12)
    found = junction_cells(label_grid(net, flat_plane(), n))
    assert np.argwhere(found).tolist() == [[row, column]]


@given(label_grids(count=2), SEEDS)
def test_renaming_the_classes_changes_no_measure(grids, seed):
    name = np.random.default_rng(seed).permutation(6)
    for measure in (corner_classes, boundary_mask, junction_cells):
        assert np.array_equal(measure(name[grids[0]]), measure(grids[0]))
    assert grid_change(name[grids[0]], name[grids[1]]) == grid_change(*grids)
    first, second = transition(np.stack(grids)), transition(name[np.stack(grids)])
    for x, y in zip(first, second):
        np.testing.assert_array_equal(x, y)


def test_one_class_on_a_slice_is_no_error():
    labels = np.full((6, 6), 3)
    assert not boundary_mask(labels).any() and not junction_cells(labels).any() and (corner_classes(labels) == 1).all()
    assert boundary_jaccard(boundary_mask(labels), boundary_mask(labels)) == (0, True)
    found = transition(np.stack([labels, labels]))
    assert found.junctions.tolist() == [0, 0]
    assert (found.union, found.union_changed, found.changed, found.share_changed, found.rearranged) == (0, 0, 0, 0, 0)
    assert found.chance_slice == 0
    assert np.isnan([found.share_near, found.chance_boundary, found.share_rearranged_near]).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((1, 5), int), r"Grid labels have shape \(1, 5\): a cell needs two nodes along each axis"),
        (np.zeros((5, 1), int), r"Grid labels have shape \(5, 1\): a cell needs two nodes along each axis"),
        (np.zeros(5, int), r"Grid labels have shape \(5,\): expected 2 dimensions"),
        (np.zeros((2, 5, 5), int), r"Grid labels have shape \(2, 5, 5\): expected 2 dimensions"),
        (np.zeros((0, 5), int), r"Grid labels are empty \(shape \(0, 5\)\): give at least one"),
        (np.zeros((5, 5)), "Grid labels are of type float64: give class indices as integers"),
    ],
)
def test_grids_are_refused(labels, message):
    for measure in (corner_classes, boundary_mask, junction_cells):
        with pytest.raises(ValueError, match=message):
            measure(labels)


@given(label_grids(), st.integers(1, 3))
def test_thickened_masks_are_those_of_scikit_image_at_the_edges_too(labels, cells):
    mask = boundary_mask(labels)
    assert np.array_equal(thickened(mask, cells), dilation(mask, np.ones((2 * cells + 1, 2 * cells + 1))))


@given(label_grids(count=3))
def test_jaccard_is_a_distance_between_masks(grids):
    a, b, c = (boundary_mask(grid) for grid in grids)
    cells = [{tuple(cell) for cell in np.argwhere(mask).tolist()} for mask in (a, b)]
    union = cells[0] | cells[1]
    expected = 1 - len(cells[0] & cells[1]) / len(union) if union else 0
    ab = boundary_jaccard(a, b)
    assert ab == (expected, not union) and ab == boundary_jaccard(b, a) and 0 <= ab.distance <= 1
    assert boundary_jaccard(a, a) == (0, not a.any())
    assert (ab.distance == 0) == np.array_equal(a, b)
    assert ab.distance <= boundary_jaccard(a, c).distance + boundary_jaccard(c, b).distance + 1e-12


@given(label_grids())
def test_against_an_empty_mask_the_distance_is_one(labels):
    mask = boundary_mask(labels)
    assume(mask.any())
    assert boundary_jaccard(mask, np.zeros_like(mask)) == boundary_jaccard(np.zeros_like(mask), mask) == (1, False)
    assert boundary_jaccard(np.zeros_like(mask), np.zeros_like(mask)) == (0, True)


@lru_cache(maxsize=1)
def disc_of_cells(steps, n: int) -> tuple[np.ndarray, ...]:
    """Return places along two axes, and which cells are in the disc."""
    b, a = (np.arange(n)[:, None] - (n - 1) / 2) * steps[1], (np.arange(n) - (n - 1) / 2) * steps[0]
    return a, b, np.hypot(a, b)[:-1, :-1] < 0.48 * n * min(steps)


def straight(angle, offset, shift, steps, n=120) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the masks of a straight boundary and of the same moved by *shift* along its normal, on cells of size *steps*.

    Inside a disc, so that the boundary is equally long in every direction.
    """
    a, b, disc = disc_of_cells(steps, n)
    along = np.cos(angle) * a + np.sin(angle) * b - offset
    return disc & boundary_mask((along > 0).astype(int)), disc & boundary_mask((along > shift).astype(int))


def pooled(lines) -> float:
    """Pool cells over lines as DEFINITIONS' expectations do, then form the Jaccard distance."""
    both, either = np.sum([(np.sum(a & b), np.sum(a | b)) for a, b in lines], axis=0)
    return 1 - both / either


@given(st.floats(0, np.pi), st.floats(0, 2), st.floats(0.5, 2))
def test_straight_boundary_moved_by_d_has_the_predicted_distance(angle, d, ratio):
    """
    J = 1 - max(w - d, 0) / (w + min(d, w)), w = h_a |cos| + h_b |sin|, over offsets that cover one cell.

    Within 0.03: 24 offsets stand for all.
    """
    steps = (1.0, ratio)
    w = steps[0] * abs(np.cos(angle)) + steps[1] * abs(np.sin(angle))
    found = pooled(straight(angle, w * (k + 0.5) / 24, d, steps) for k in range(24))
    assert found == pytest.approx(1 - max(w - d, 0) / (w + min(d, w)), abs=0.03)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("h", [0.01, 1.0])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_effective_displacement_gives_the_shift_back_whatever_the_grid(share, h, ratio):
    """Over all directions, for shifts below the smaller step; within 3 %."""
    steps = (h, h * ratio)
    d = share * min(steps)
    generator = np.random.default_rng(0)
    lines = (
        straight(np.pi * (k + generator.random()) / 400, max(steps) * generator.random(), d, steps) for k in range(400)
    )
    assert effective_displacement(pooled(lines), steps) == pytest.approx(d, rel=0.03)


@given(st.floats(0, 1), st.floats(1e-3, 1e3))
def test_effective_displacement_inverts_the_straight_line_law(d_over_w, h):
    w = 4 * h / np.pi
    d = d_over_w * w
    assert effective_displacement(2 * d / (w + d), (h, h)) == pytest.approx(d, rel=1e-9, abs=1e-12)
    both = effective_displacement(np.array([0.0, 1.0]), (h, h))
    assert both.tolist() == pytest.approx([0, w])


def test_grids_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"The first mask have shape \(3, 3\) and the second \(3, 4\): both must come"):
        boundary_jaccard(np.ones((3, 3), bool), np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"The first grid's labels have shape \(3, 3\) and the second's \(4, 3\)"):
        grid_change(np.ones((3, 3), int), np.ones((4, 3), int))
    with pytest.raises(ValueError, match="Grid labels are of type float64"):
        grid_change(np.ones((3, 3)), np.ones((3, 3)))


def transition_one_by_one(path: np.ndarray) -> dict:
    """Count cells by the words of Transition's fields."""
    steps, n, m = path.shape
    cells = [(i, j) for i in range(n - 1) for j in range(m - 1)]
    at = [{cell: corners(labels, *cell) for cell in cells} for labels in path]
    junction = [{cell for cell in cells if len(at[s][cell]) >= 3} for s in range(steps)]
    pooled = {"changed": [], "visited": [], "rearranged": [], "all": []}
    for s in range(steps - 1):
        near = {(i + p, j + q) for i, j in junction[s] | junction[s + 1] for p in (-1, 0, 1) for q in (-1, 0, 1)}
        for i, j in cells:
            nodes = [(i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)]
            before, after = at[s][i, j], at[s + 1][i, j]
            changes = any(path[s][node] != path[s + 1][node] for node in nodes)
            is_near = (i, j) in near
            pooled["all"].append(is_near)
            if changes:
                pooled["changed"].append(is_near)
            if changes or len(before) > 1 or len(after) > 1:
                pooled["visited"].append(is_near)
            if len(before) > 1 and len(after) > 1 and before != after:
                pooled["rearranged"].append(is_near)
    mean = {name: np.mean(hits) if hits else np.nan for name, hits in pooled.items()}
    region = {
        (i, j)
        for i, j in cells
        if any((path[s][i : i + 2, j : j + 2] != path[s + 1][i : i + 2, j : j + 2]).any() for s in range(steps - 1))
    }
    union = set().union(*junction)
    return {
        "junctions": [len(found) for found in junction],
        "union": len(union),
        "union_changed": len(union & region),
        "changed": len(region),
        "share_changed": len(pooled["changed"]) / len(pooled["visited"]) if pooled["visited"] else 0,
        "share_near": mean["changed"],
        "chance_boundary": mean["visited"],
        "chance_slice": mean["all"],
        "rearranged": len(pooled["rearranged"]),
        "share_rearranged_near": mean["rearranged"],
    }


def agree(found: Transition, path: np.ndarray) -> None:
    for name, expected in transition_one_by_one(path).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, err_msg=name)


@given(paths())
def test_transition_counted_one_by_one(path):
    kept = path.copy()
    agree(transition(path), path)
    assert np.array_equal(path, kept)


def test_transition_of_the_digits_model_counted_one_by_one(trained, plane):
    ends = quantize_model(trained.model, 4), quantize_model(trained.model, 3)
    path = np.stack([label_grid(interpolate(*ends, t), plane, 41) for t in (0, 0.25, 0.5, 0.75, 1)])
    found = transition(path)
    assert found.changed > 50 and found.union > 5 and found.rearranged > 5
    agree(found, path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (np.zeros((1, 5, 5), int), r"The path of label grids has shape \(1, 5, 5\): give \(S, n, n\) with S >= 2"),
        (np.zeros((5, 5), int), r"The path of label grids has shape \(5, 5\): give"),
        (np.zeros((3, 1, 5), int), r"Grid labels have shape \(1, 5\): a cell needs two nodes"),
        (np.zeros((3, 5, 5)), "Grid labels are of type float64"),
    ],
)
def test_paths_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        transition(path)
