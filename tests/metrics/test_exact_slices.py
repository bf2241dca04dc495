"""Exact slices: rational arithmetic, closed forms, contours and a fine grid as oracles; degenerate networks; refusals."""

import copy
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import contourpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import find_contours
from torch import nn

from bqcore.metrics import exact_slices
from bqcore.metrics.boundary_distances import boundary_distances, tolerance_jaccard
from bqcore.metrics.exact_slices import changed_area, exact_slice, interpolated_slice, shared_areas
from bqcore.metrics.label_grids import grid_change, label_grid
from bqcore.metrics.masks import junction_cells
from bqcore.metrics.planes import Plane, pca_plane
from bqcore.quantizers.uniform import quantize_model
from studies.networks import mlp

SEEDS = st.integers(0, 2**32 - 1)


def flat_plane(low=(0.0, 0.0), high=(1.0, 1.0)) -> Plane:
    """Give the plane itself as input space: coordinates are inputs."""
    return Plane(np.zeros(2), np.eye(2), np.array(low, float), np.array(high, float), np.ones(2) / 2, (2,))


def network(*layers) -> nn.Sequential:
    """Build a ReLU network in float64 from (weight, bias) of each layer."""
    modules = []
    for weight, bias in layers:
        weight, bias = np.array(weight, float), np.array(bias, float)
        linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight)), linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def logits_at(model, plane, points) -> np.ndarray:
    inputs = torch.from_numpy(plane.points(points[:, 0], points[:, 1]).reshape(len(points), *plane.shape))
    with torch.no_grad():
        return copy.deepcopy(model).double()(inputs).numpy()


def area_of(ring) -> float:
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(ring, [*ring[1:], *ring[:1]])) / 2


def terms(model, plane) -> float:
    """Bound the terms that the logits are sums of, through all layers: the same map of magnitudes."""
    absolute = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in absolute.parameters():
            p.abs_()
    for module in absolute.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.abs_().neg_()
    corners = np.array([[a, b] for a, b in product(*zip(plane.low, plane.high))])
    reach = np.abs(plane.points(*corners.T)).max(axis=0).reshape(1, *plane.shape)
    with torch.no_grad():
        return float(absolute(torch.from_numpy(reach)).max())


def check_slice(model, plane, exact):
    """
    Check what holds on every exact slice.

    Margins: within 1e-12 of the terms that the logits are sums of; float64 leaves 1e-16 of each. Areas: within 1e-12 of
    the box. Segments and regions: by the divergence theorem, class by class, for fields that vanish on the box's sides; a
    segment too many, too few or of the wrong classes would break it.
    """
    sides = plane.high - plane.low
    box = sides.prod()
    assert abs(exact.areas.sum() - box) <= 1e-12 * box
    area = np.array([area_of((ring - ring[0]).tolist()) for ring in exact.polygons])
    assert (area >= 0).all()
    np.testing.assert_allclose(np.bincount(exact.classes, area, len(exact.areas)), exact.areas, atol=1e-12 * box)
    ends = exact.segments.reshape(-1, 2)
    scale = terms(model, plane)
    if len(ends):
        z = logits_at(model, plane, ends)
        left, right = np.repeat(exact.pairs, 2, axis=0).T
        row = np.arange(len(z))
        assert np.abs(z[row, left] - z[row, right]).max() <= 1e-12 * scale
        assert (z.max(axis=1) - z[row, left]).max() <= 1e-12 * scale
        assert (exact.pairs[:, 0] < exact.pairs[:, 1]).all()
    if len(exact.junctions):
        z = logits_at(model, plane, exact.junctions)
        for values, classes in zip(z, exact.junction_classes):
            assert np.ptp(values[classes[classes >= 0]]) <= 1e-12 * scale
            assert (classes[:3] >= 0).all() and (np.diff(classes[classes >= 0]) > 0).all()
    centre = (plane.low + plane.high) / 2
    for axis in (0, 1):
        # Field u = (low − x)(x − high) along *axis*; its divergence 2 (centre − x) is linear: its mean over a triangle
        # is its value at the centroid. On a segment u is quadratic: Simpson's rule is exact.
        inside = np.zeros(len(exact.areas))
        for ring, label in zip(exact.polygons, exact.classes):
            for p, q in zip(ring[1:-1], ring[2:]):
                triangle = ((p - ring[0])[0] * (q - ring[0])[1] - (p - ring[0])[1] * (q - ring[0])[0]) / 2
                inside[label] += triangle * 2 * (centre[axis] - (ring[0] + p + q)[axis] / 3)
        along = exact.segments[:, 1] - exact.segments[:, 0]
        normal = along[:, 1] if axis == 0 else -along[:, 0]  # to the right of the segment: out of the left region
        three = np.stack([exact.segments[:, 0], exact.segments.mean(axis=1), exact.segments[:, 1]])[..., axis]
        flux = normal * ([1, 4, 1] @ ((three - plane.low[axis]) * (plane.high[axis] - three))) / 6
        outward = np.bincount(exact.pairs[:, 0], flux, len(inside)) - np.bincount(exact.pairs[:, 1], flux, len(inside))
        np.testing.assert_allclose(outward, inside, atol=1e-11 * box * sides[axis])


def check_cells(model, plane, exact, seed=0):
    """Check that every convex piece has the network's own decision at a random point of its inside."""
    weights = np.random.default_rng(seed).dirichlet(np.ones(exact.polygons.shape[1]), len(exact.polygons))
    points = (weights[..., None] * exact.polygons).sum(axis=1)
    z = logits_at(model, plane, points)
    gap = z.max(axis=1) - z[np.arange(len(z)), exact.classes]
    assert gap.max() <= 1e-12 * (1 + np.abs(z).max())


# --- linear classifiers: closed forms ---


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


# --- small integers: every degeneracy, against rational arithmetic ---


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
    Give for each class its convex pieces, from every pattern of active units, in rational arithmetic.

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


# --- random networks ---


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


# --- trained networks: grids and contours ---


@pytest.fixture(scope="module")
def plane(trained) -> Plane:
    return pca_plane(trained.split.train_inputs)


def test_the_network_is_left_as_found_and_the_slice_repeats(trained, plane):
    model = copy.deepcopy(trained.model)
    first, second = exact_slice(model, plane), exact_slice(model, plane)
    assert all(np.array_equal(x, y) for x, y in zip(first, second))
    for p, q in zip(model.parameters(), trained.model.parameters()):
        assert torch.equal(p, q) and p.dtype == torch.float32 and p.requires_grad


def deep(trained) -> nn.Sequential:
    """Give a 64-32-32-10 network whose boundary bends much: four times the trained weights of a random one."""
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


# --- logits interpolated on a grid, for any classifier ---


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


def test_a_line_through_a_corner_of_cells_cuts_no_slivers():
    """Two lines cross at (p, q) and a unit of the next layer is zero on a third line through it: 6 cells, not 7."""
    for p, q, slope in np.random.default_rng(0).uniform(0.1, 1, (50, 3)).tolist():
        first = ([[1, 0], [0, 1], [1, 0], [0, 1]], [-p, -q, 5, 5])
        second = ([[0, 0, slope, 1], [0, 0, -slope, -1]], [-slope * (p + 5) - (q + 5), slope * (p + 5) + (q + 5)])
        exact = exact_slice(network(first, second, ([[1, 1], [1, 1]], [0, -1])), flat_plane((-1, -1), (2, 2)))
        assert exact.cells == 6


# --- refusals ---


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


def test_boxes_cells_and_pairs_of_networks_are_refused(trained, plane, monkeypatch):
    model = network(([[1, 0], [0, 1]], [0, 0]))
    for low, high in (((0, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 0), (np.inf, 1)), ((np.nan, 0), (1, 1))):
        with pytest.raises(ValueError, match=r"The box runs from \(.*\) to \(.*\): give one of finite, positive area"):
            exact_slice(model, flat_plane(low, high))
    with pytest.raises(ValueError, match="The slice has more than 99 cells: raise most_cells or shrink the box"):
        exact_slice(trained.model, plane, most_cells=99)
    monkeypatch.setattr(exact_slices, "_MOST_VALUES", 9999)
    with pytest.raises(ValueError, match=r"64 units of a layer at \d+ corners of cells take over 2 GB: shrink the box"):
        exact_slice(trained.model, plane)
    for wrong in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"Most cells is {wrong!r}: give an integer"):
            exact_slice(model, flat_plane(), most_cells=wrong)
    with pytest.raises(ValueError, match="The first network has K = 2 classes and the second 3: compare equal tasks"):
        shared_areas(model, network(([[1, 0], [0, 1], [1, 1]], [0, 0, 0])), flat_plane())
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(8, 8\)"):
        exact_slice(trained.model, replace(plane, shape=(8, 8)))
