"""Exact slices: closed forms and rational arithmetic as oracles; degenerate and random networks; refusals."""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore.metrics import _mesh
from bqcore.metrics.exact_slices import exact_slice, shared_areas
from bqcore.metrics.planes import pca_plane
from tests.helpers.exact_slices import area_of, check_cells, check_slice, logits_at, network
from tests.helpers.nets import apart, normal, shared
from tests.helpers.slices import SEEDS, flat_plane


def test_a_layer_that_runs_twice_is_cut_by_twice():
    model, plane = shared(1), pca_plane(normal(60, 6).double())
    ours, expected = exact_slice(model, plane), exact_slice(apart(model), plane)
    assert ours.cells == expected.cells and np.array_equal(ours.segments, expected.segments)
    check_slice(model, plane, ours)


@given(st.integers(2, 7), SEEDS)
def test_linear_classifiers_have_the_regions_of_their_half_planes(classes, seed):
    """Clip the box by z_c ≥ z_j one after the other: areas, and as junctions the points where three win together."""
    generator = np.random.default_rng(seed)
    weight, bias = generator.normal(size=(classes, 2)), 0.3 * generator.normal(size=classes)
    plane = flat_plane((-1, -2), (2, 1))
    model = network((weight, bias))
    exact = exact_slice(model, plane)
    check_slice(model, plane, exact)
    check_cells(model, plane, exact, seed)
    for c in range(classes):
        ring = [(-1.0, -2.0), (2.0, -2.0), (2.0, 1.0), (-1.0, 1.0)]
        for j in range(classes):
            ring = clip(ring, *(weight[c] - weight[j]), bias[c] - bias[j])
        assert abs(area_of(ring) - exact.areas[c]) < 1e-12 if ring else exact.areas[c] == 0
    expected = {}
    for triple in combinations(range(classes), 3):
        a, b, c = triple
        point = np.linalg.solve(weight[[b, c]] - weight[a], bias[a] - bias[[b, c]])
        z = weight @ point + bias
        if z.max() <= z[a] + 1e-9 and (point >= plane.low).all() and (point <= plane.high).all():
            expected[triple] = point
    assert sorted(expected) == sorted(map(tuple, exact.junction_classes.tolist()))
    for point, triple in zip(exact.junctions, exact.junction_classes.tolist()):
        np.testing.assert_allclose(point, expected[tuple(triple)], atol=1e-9)


def test_one_hidden_unit_bends_the_boundary():
    """z_1 − z_0 = b − ReLU(a): the boundary runs along b = 0, then along b = a."""
    model = network(([[1, 0], [0, 1], [0, -1]], [0, 0, 0]), ([[0, 0, 0], [-1, 1, -1]], [0, 0]))
    exact = exact_slice(model, flat_plane((-1, -1), (1, 1)))
    assert np.hypot(*(exact.segments[:, 1] - exact.segments[:, 0]).T).sum() == pytest.approx(1 + 2**0.5, rel=1e-12)
    assert exact.areas.tolist() == [2.5, 1.5] and exact.pairs.tolist() == [[0, 1]] * len(exact.pairs)
    # Walking along a segment, the smaller class is on the left: class 0 is below, so the walk goes to the left.
    assert (exact.segments[:, 1, 0] < exact.segments[:, 0, 0]).all() and len(exact.junctions) == 0


def clip(ring, a, b, c):
    """Keep the part of a convex ring where a x + b y + c ≥ 0."""
    out = []
    for p, q in zip(ring, [*ring[1:], *ring[:1]]):
        u, v = (a * x + b * y + c for x, y in (p, q))
        if u >= 0:
            out.append(p)
        if (u > 0 > v) or (u < 0 < v):
            t = u / (u - v)
            out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return out


def rational_regions(layers, box):
    """
    Return for each class its convex pieces, from every pattern of active units, in rational arithmetic.

    An affine map is (a, b, c) for a x + b y + c. A unit that is 0 throughout is inactive; a class that ties with an
    earlier one throughout loses.
    """
    regions = []

    def follow(ring, maps, depth):
        weight, bias = layers[depth]
        sums = [
            tuple(sum(w * m[i] for w, m in zip(row, maps)) + (b if i == 2 else 0) for i in range(3))
            for row, b in zip(weight, bias)
        ]
        if depth == len(layers) - 1:
            for c, mine in enumerate(sums):
                piece = ring
                for j, other in enumerate(sums):
                    difference = tuple(u - v for u, v in zip(mine, other))
                    if j < c and not any(difference):
                        piece = []
                    piece = clip(piece, *difference)
                if area_of(piece) > 0:
                    regions.append((c, piece))
            return
        for pattern in product([True, False], repeat=len(sums)):
            piece = ring
            for active, m in zip(pattern, sums):
                if active and not any(m):
                    piece = []
                piece = clip(piece, *(m if active else tuple(-x for x in m)))
            if area_of(piece) > 0:
                zero = (Fraction(0),) * 3
                follow(piece, [m if active else zero for active, m in zip(pattern, sums)], depth + 1)

    one, none = Fraction(1), Fraction(0)
    follow(box, [(one, none, none), (none, one, none)], 0)
    return regions


def holds(ring, point) -> bool:
    return all(
        (q[0] - p[0]) * (point[1] - p[1]) - (q[1] - p[1]) * (point[0] - p[0]) >= 0
        for p, q in zip(ring, [*ring[1:], *ring[:1]])
    )


@st.composite
def integer_layers(draw):
    """
    Draw networks of small multiples of 1, 1/3 or 1/7: duplicate, parallel, dead and zero units, common points and ties abound.

    As thirds and sevenths are rounded in float64, what should coincide does so only up to rounding.
    """
    hidden = draw(st.sampled_from([(), (1,), (2,), (3,), (4,), (2, 2), (3, 2), (2, 1, 2)]))
    sizes = (2, *hidden, draw(st.integers(2, 4)))
    of = draw(st.sampled_from([1, 3, 7]))
    integer = st.integers(-2, 2).map(lambda k: Fraction(k, of))
    return [
        (draw(st.lists(st.lists(integer, min_size=i, max_size=i), min_size=o, max_size=o)),
         draw(st.lists(integer, min_size=o, max_size=o)))
        for i, o in zip(sizes, sizes[1:])
    ]  # fmt: skip


@given(integer_layers())
def test_degenerate_networks_have_the_areas_and_junctions_of_rational_arithmetic(layers):
    plane = flat_plane((-2, -1), (2, 2))
    exact = exact_slice(network(*layers), plane)
    check_slice(network(*layers), plane, exact)
    check_cells(network(*layers), plane, exact)
    regions = rational_regions(layers, [tuple(map(Fraction, p)) for p in ((-2, -1), (2, -1), (2, 2), (-2, 2))])
    areas = [float(sum(area_of(piece) for c, piece in regions if c == k)) for k in range(len(layers[-1][1]))]
    np.testing.assert_allclose(exact.areas, areas, atol=1e-12 * 12)
    expected = {}
    for point in {p for _, piece in regions for p in piece}:
        classes = sorted({c for c, piece in regions if holds(piece, point)})
        if len(classes) > 2:
            expected[point] = classes
    found = {
        tuple(p): [c for c in row if c >= 0]
        for p, row in zip(exact.junctions.tolist(), exact.junction_classes.tolist())
    }
    assert len(found) == len(expected)
    for point, classes in expected.items():
        near = min(found, key=lambda p: abs(p[0] - point[0]) + abs(p[1] - point[1]))
        assert np.allclose(near, [float(x) for x in point], atol=1e-12) and found[near] == classes


@given(integer_layers(), integer_layers())
def test_shared_areas_of_degenerate_networks_are_those_of_rational_arithmetic(one, two):
    if len(one[-1][1]) != len(two[-1][1]):
        return
    plane = flat_plane((-2, -1), (2, 2))
    corners = [tuple(map(Fraction, p)) for p in ((-2, -1), (2, -1), (2, 2), (-2, 2))]
    expected = np.zeros((len(one[-1][1]),) * 2)
    others = rational_regions(two, corners)
    for c, piece in rational_regions(one, corners):
        for d, other in others:
            shared = piece
            for p, q in zip(other, [*other[1:], *other[:1]]):
                a, b = p[1] - q[1], q[0] - p[0]
                shared = clip(shared, a, b, -a * p[0] - b * p[1])
            expected[c, d] += float(area_of(shared))
    np.testing.assert_allclose(shared_areas(network(*one), network(*two), plane), expected, atol=1e-11)


def test_four_regions_in_one_point_are_one_junction_of_four_classes():
    model = network(([[1, 1], [-1, 1], [-1, -1], [1, -1]], [0, 0, 0, 0]))
    exact = exact_slice(model, flat_plane((-1, -1), (1, 1)))
    assert exact.junctions.tolist() == [[0, 0]] and exact.junction_classes.tolist() == [[0, 1, 2, 3]]
    for ring in exact.polygons.tolist():  # which lists each corner once, then the first one to its end
        assert len({*map(tuple, ring)}) == (ring[1:] + ring[:1]).index(ring[0]) + 1
    mixed = exact_slice(
        network(([[1, 1], [-1, 1], [-1, -1], [1, -1], [3, 0]], [0, 0, 0, 0, -1])), flat_plane((-1, -1), (1, 1))
    )
    assert [0, 1, 2, 3] in mixed.junction_classes.tolist() and [0, 3, 4, -1] in mixed.junction_classes.tolist()


@pytest.mark.parametrize("layers", [
    (([[0, 0], [0, 0]], [1, 0]),),
    (([[0, 0], [0, 0], [0, 0]], [0, 0, 0]),),
    (([[1, 0], [1, 0]], [-9, -9]), ([[1, 1], [0, 5]], [0, -1])),
])  # fmt: skip
def test_one_class_on_the_slice_is_no_error(layers):
    exact = exact_slice(network(*layers), flat_plane())
    assert exact.areas.tolist() == [1.0] + [0.0] * (len(exact.areas) - 1)
    assert exact.segments.shape == (0, 2, 2) and exact.pairs.shape == (0, 2)
    assert exact.junctions.shape == (0, 2) and exact.junction_classes.shape == (0, 3)
    assert exact.polygons.shape == (1, 4, 2) and exact.classes.tolist() == [0]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 12), min_size=0, max_size=3), st.integers(2, 6), SEEDS, st.integers(-8, 8))
def test_random_networks_of_any_depth_and_scale(hidden, classes, seed, power):
    """Scales from 1e-8 to 1e8 of the box."""
    generator = np.random.default_rng(seed)
    sizes = (5, *hidden, classes)
    layers = [
        (generator.normal(size=(o, i)), generator.normal(size=o) * 10.0 ** (power if depth == 0 else 0))
        for depth, (i, o) in enumerate(zip(sizes, sizes[1:]))
    ]
    model = network(*layers)
    plane = pca_plane(generator.normal(size=(9, 5)) * 10.0**power, padding=1)
    exact = exact_slice(model, plane)
    check_slice(model, plane, exact)
    check_cells(model, plane, exact, seed)
    turned = network(*layers)
    with torch.no_grad():
        turned[0].weight.add_(0.1 * torch.from_numpy(generator.normal(size=layers[0][0].shape)))
    shared = shared_areas(model, turned, plane)
    box = (plane.high - plane.low).prod()
    np.testing.assert_allclose(shared.sum(axis=1), exact.areas, atol=1e-11 * box)
    np.testing.assert_allclose(shared.sum(axis=0), exact_slice(turned, plane).areas, atol=1e-11 * box)
    np.testing.assert_allclose(shared_areas(model, model, plane), np.diag(exact.areas), atol=1e-11 * box)


@given(SEEDS)
def test_duplicate_units_and_the_order_of_units_and_classes_change_nothing(seed):
    generator = np.random.default_rng(seed)
    one, two = (
        (generator.normal(size=(6, 2)), generator.normal(size=6)),
        (generator.normal(size=(4, 6)), generator.normal(size=4)),
    )
    plane = flat_plane((-2, -2), (2, 2))
    exact = exact_slice(network(one, two), plane)
    order = generator.permutation(12) % 6
    again = exact_slice(network((one[0][order], one[1][order]), (two[0][:, order] / 2, two[1])), plane)
    np.testing.assert_allclose(again.areas, exact.areas, atol=1e-11)
    assert len(again.junctions) == len(exact.junctions) and again.cells == exact.cells
    name = generator.permutation(4)
    renamed = exact_slice(network(one, (two[0][name], two[1][name])), plane)
    np.testing.assert_allclose(renamed.areas, exact.areas[name], atol=1e-11)
    rows = [tuple(sorted(np.argsort(name)[row])) for row in exact.junction_classes]
    assert sorted(rows) == sorted(map(tuple, renamed.junction_classes.tolist()))


def test_units_that_differ_by_the_rounding_of_a_large_mean_are_one():
    """A batch norm takes off what the layer before it adds: what is left is rounded as the large numbers are."""
    generator = np.random.default_rng(0)
    weight, bias, last = generator.normal(size=(6, 2)), generator.normal(size=6), generator.normal(size=(4, 6))
    plane = flat_plane((-2, -2), (2, 2))
    expected = exact_slice(network((weight, bias), (last, np.zeros(4))), plane)
    model = network((np.repeat(weight, 2, axis=0), np.zeros(12)), (np.repeat(last, 2, axis=1) / 2, np.zeros(4)))
    norm = nn.BatchNorm1d(12, eps=0).double().eval()
    with torch.no_grad():
        large = torch.logspace(3, 8, 12, dtype=torch.float64)
        model[0].bias.copy_(large), norm.running_mean.copy_(large)
        norm.bias.copy_(torch.from_numpy(np.repeat(bias, 2)))
    exact = exact_slice(nn.Sequential(model[0], norm, *model[1:]), plane)
    assert exact.cells == expected.cells
    np.testing.assert_allclose(exact.areas, expected.areas, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_a_class_that_leads_by_rounding_alone_does_not_lead(first):
    """Two logits are y + 5, one of them with 1e8 (x + 5) added and taken off again; the third is 6."""
    hidden = ([[1, 0], [0.3, 0], [0, 1]], [5, 1.5, 5])
    equal = [[1e8, -1e8 / 0.3, 1], [0, 0, 1]]
    last = ([*(equal if first == 0 else equal[::-1]), [0, 0, 0]], [0, 0, 6])
    found = exact_slice(network(hidden, last), flat_plane((-1.9, -2), (1.1, 2)))
    assert found.areas == pytest.approx([3, 0, 9]) and np.unique(found.pairs).tolist() == [0, 2]


def image_networks() -> dict[str, nn.Sequential]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        norm = nn.BatchNorm2d(3)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias), nn.init.normal_(norm.running_mean)
        return {
            "flatten": nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)),
            "convolution": nn.Sequential(
                nn.Conv2d(1, 3, 3, padding=1, stride=2), norm, nn.ReLU(), nn.Dropout(), nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
                nn.Linear(12, 10),
            ),
            "two convolutions": nn.Sequential(
                nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                nn.Flatten(), nn.Linear(4, 10),
            ),
            "ReLU last": nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5), nn.ReLU()),
        }  # fmt: skip


@pytest.mark.parametrize("name", image_networks())
def test_convolutional_networks(trained, name):
    model = image_networks()[name].eval()
    plane = pca_plane(trained.split.train_inputs.reshape(-1, 1, 8, 8), padding=1)
    if name != "ReLU last":  # all classes tie in the middle, so that several of them win around it
        with torch.no_grad():
            model[-1].bias.sub_(torch.from_numpy(logits_at(model, plane, np.zeros((1, 2)))[0]))
    exact = exact_slice(model, plane)
    assert (exact.areas > 0).sum() >= 2
    check_slice(model, plane, exact)
    check_cells(model, plane, exact)


def test_a_line_through_a_corner_of_cells_cuts_no_slivers():
    """Two lines cross at (p, q) and a unit of the next layer is zero on a third line through it: 6 cells, not 7."""
    for p, q, slope in np.random.default_rng(0).uniform(0.1, 1, (50, 3)).tolist():
        first = ([[1, 0], [0, 1], [1, 0], [0, 1]], [-p, -q, 5, 5])
        second = ([[0, 0, slope, 1], [0, 0, -slope, -1]], [-slope * (p + 5) - (q + 5), slope * (p + 5) + (q + 5)])
        exact = exact_slice(network(first, second, ([[1, 1], [1, 1]], [0, -1])), flat_plane((-1, -1), (2, 2)))
        assert exact.cells == 6


class Odd(nn.Module):
    def forward(self, x):
        return x


def with_hook() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].register_forward_hook(lambda module, inputs, output: -output)
    return model


def filled(value) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].bias[1] = value
    return model


@pytest.mark.parametrize(("model", "message"), [
    (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), r"Layer '1' \(Tanh\) is neither affine nor ReLU: exact slices follow"),
    (nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.GELU()), nn.Linear(3, 2)), r"Layer '0.1' \(GELU\) is neither affine nor ReLU"),
    (nn.Sequential(nn.Linear(2, 3), nn.Softmax(1)), r"Layer '1' \(Softmax\) is neither"),
    (Odd(), r"Layer 'model' \(Odd\) is neither affine nor ReLU"),
    (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), r"Layer '1' \(BatchNorm1d\) depends on the batch or on chance: put the model in eval"),
    (nn.Sequential(nn.Linear(2, 3), nn.Dropout()), r"Layer '1' \(Dropout\) depends on the batch or on chance"),
    (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(), r"Layer '1' \(BatchNorm1d\) depends on the batch"),
    (with_hook(), "Layer '2' has a hook, which may do anything: remove it"),
    (nn.Sequential(nn.Linear(3, 2)), r"The classifier does not take inputs of shape \(2,\): "),
    (nn.Sequential(nn.Linear(2, 1)), r"The classifier gives shape \(1,\) for an input: expected K >= 2 logits"),
    (nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2))), r"The classifier gives shape \(2, 2\) for an input: expected K >= 2"),
    (filled(np.nan), "Values on the slice hold 4 non-finite values of 8, first at corner 0, unit 1: the model diverged there"),
    (filled(np.inf), "Values on the slice hold 4 non-finite values of 8"),
])  # fmt: skip
def test_networks_are_refused(model, message):
    for call in (lambda: exact_slice(model, flat_plane()), lambda: shared_areas(model, model, flat_plane())):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_slice_may_hold_as_many_numbers_as_the_limit(monkeypatch):
    model, refused = network(([[1, 0], [0, 1]], [0, 0])), {}
    for limit in range(1, 90):
        monkeypatch.setattr(_mesh, "_MOST_VALUES", limit)
        try:
            exact_slice(model, flat_plane())
        except ValueError as error:
            units, corners = re.match(r"(\d+) units of a layer at (\d+) corners of cells", str(error)).groups()
            refused[limit] = (int(units) + 2) * int(corners)  # with the two coordinates
    assert [*refused] == [*range(1, max(refused.values()))] and all(limit < needed for limit, needed in refused.items())


def test_boxes_cells_and_pairs_of_networks_are_refused(trained, plane, monkeypatch):
    model = network(([[1, 0], [0, 1]], [0, 0]))
    for low, high in (((0, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 0), (np.inf, 1)), ((np.nan, 0), (1, 1))):
        with pytest.raises(ValueError, match=r"The box runs from \(.*\) to \(.*\): give one of finite, positive area"):
            exact_slice(model, flat_plane(low, high))
    with pytest.raises(ValueError, match="The slice has more than 99 cells: raise most_cells or shrink the box"):
        exact_slice(trained.model, plane, most_cells=99)
    monkeypatch.setattr(_mesh, "_MOST_VALUES", 9999)
    with pytest.raises(ValueError, match=r"64 units of a layer at \d+ corners of cells take over 2 GB: shrink the box"):
        exact_slice(trained.model, plane)
    for wrong in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"Most cells is {wrong!r}: give an integer"):
            exact_slice(model, flat_plane(), most_cells=wrong)
    with pytest.raises(ValueError, match="The first network has K = 2 classes and the second 3: compare equal tasks"):
        shared_areas(model, network(([[1, 0], [0, 1], [1, 1]], [0, 0, 0])), flat_plane())
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(8, 8\)"):
        exact_slice(trained.model, replace(plane, shape=(8, 8)))


def test_a_corner_of_two_edges_at_the_border_is_a_junction_of_three_classes():
    points, classes = _mesh.junctions(np.array([[0, 1], [0, 2]]), np.array([[0, 1], [1, 2]]))
    assert points.tolist() == [0] and classes.tolist() == [[0, 1, 2]]
