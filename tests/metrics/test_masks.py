"""Slices: scikit-learn, scikit-image and brute force as oracles, closed forms of straight boundaries, every refusal."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.morphology import dilation
from skimage.segmentation import find_boundaries
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
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
from bqcore.metrics.planes import Plane, data_region, pca_plane, share_outside
from bqcore.quantizers.uniform import interpolate, quantize_model
from studies.networks import mlp

SEEDS = st.integers(0, 2**32 - 1)


def flat_plane(low=(0.0, 0.0), high=(1.0, 1.0)) -> Plane:
    """Give the plane itself as input space: coordinates are inputs."""
    return Plane(np.zeros(2), np.eye(2), np.array(low), np.array(high), np.array([0.5, 0.5]), (2,))


@st.composite
def label_grids(draw, count=1, least=2):
    """Draw label grids of one shape, blocky or speckled, with up to six classes."""
    shape = draw(st.integers(least, 9)), draw(st.integers(least, 9))
    generator = np.random.default_rng(draw(SEEDS))
    block, classes = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    grids = [
        np.kron(generator.integers(classes, size=shape), np.ones((block, block), int))[: shape[0], : shape[1]]
        for _ in range(count)
    ]
    return grids[0] if count == 1 else grids


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


# --- the plane ---


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


# --- labels of the nodes ---


class OnPlane(ClassifierMixin, BaseEstimator):
    """What scikit-learn asks for: a fitted classifier of slice coordinates; it makes full inputs of them."""

    def __init__(self, model=None, plane=None):
        self.model = model
        self.plane = plane
        self.classes_ = np.arange(10)

    def fit(self, X, y=None):  # noqa: N803
        return self

    def predict(self, X):  # noqa: N803
        points = self.plane.points(X[:, 0], X[:, 1]).reshape(len(X), *self.plane.shape)
        if not isinstance(self.model, nn.Module):
            return self.model(points).argmax(1)
        with torch.no_grad():
            return copy.deepcopy(self.model).double()(torch.from_numpy(points)).argmax(1).numpy()


def scikit_learn_labels(model, plane: Plane, n: int) -> np.ndarray:
    box = np.stack([plane.low, plane.high])
    display = DecisionBoundaryDisplay.from_estimator(
        OnPlane(model, plane), box, grid_resolution=n, eps=0.0, response_method="predict"
    )
    plt.close(display.figure_)
    return display.response


class Residual(nn.Module):
    """A module that is no nn.Sequential."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(x + torch.tanh(4 * self.first(x)))


class Reversed(nn.Sequential):
    """An nn.Sequential that does something else than its layers."""

    def forward(self, x):
        return super().forward(x).flip(1)


def hooked(model: nn.Module) -> nn.Module:
    model[0].register_forward_hook(lambda module, inputs, output: -output)
    return model


def matrix_classifier(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x) @ np.random.default_rng(0).normal(size=(64, 10))


def some_modules() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "linear": nn.Sequential(nn.Linear(64, 10)),
            "bare layer": nn.Linear(64, 10),
            "two hidden layers": mlp((64, 32, 16, 10), 0),
            "no bias": nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)),
            "tanh, batch norm": nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.BatchNorm1d(32), nn.Linear(32, 10)),
            "custom": Residual(),
            "subclass": Reversed(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            "hook": hooked(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
            "inner flatten": nn.Sequential(
                nn.Linear(64, 36), nn.ReLU(), nn.Unflatten(1, (1, 6, 6)),
                nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 10),
            ),
        }  # fmt: skip


def image_modules() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return {
            "flatten first": nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            "convolution": nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)),
            "two flattens": nn.Sequential(
                nn.Flatten(), nn.Linear(64, 36), nn.ReLU(), nn.Unflatten(1, (1, 6, 6)),
                nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 10),
            ),
            "rows first": nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(40, 10)),
        }  # fmt: skip


@pytest.fixture(scope="module")
def plane(trained) -> Plane:
    return pca_plane(trained.split.train_inputs)


def test_labels_of_the_digits_slice_are_those_of_scikit_learn(trained, plane):
    labels = label_grid(trained.model, plane, 150)
    assert labels.shape == (150, 150) and len(np.unique(labels)) >= 5
    assert np.array_equal(labels, scikit_learn_labels(trained.model, plane, 150))
    coarse = quantize_model(trained.model, 3)
    assert np.array_equal(label_grid(coarse, plane, 150), scikit_learn_labels(coarse, plane, 150))


@pytest.mark.parametrize("name", some_modules())
def test_labels_of_any_module_are_those_of_scikit_learn(name, plane):
    model = some_modules()[name].eval()
    wide = Plane(plane.origin, plane.axes, 9 * plane.low, 9 * plane.high, plane.explained, plane.shape)
    labels = label_grid(model, wide, 40)
    assert len(np.unique(labels)) >= 3  # else there is nothing to compare
    assert np.array_equal(labels, scikit_learn_labels(model, wide, 40))


@pytest.mark.parametrize("name", image_modules())
def test_labels_of_image_classifiers_are_those_of_scikit_learn(name, plane):
    model = image_modules()[name].eval()
    wide = Plane(plane.origin, plane.axes, 9 * plane.low, 9 * plane.high, plane.explained, (1, 8, 8))
    labels = label_grid(model, wide, 40)
    assert len(np.unique(labels)) >= 3
    assert np.array_equal(labels, scikit_learn_labels(model, wide, 40))


@settings(max_examples=15)
@given(SEEDS, st.floats(1e-3, 1e3), st.booleans())
def test_close_calls_of_convolutions_are_made_in_float64(seed, scale, tied):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(108, 5)
        )
        model = model.double()
        with torch.no_grad():
            model[-1].weight.mul_(scale)
            model[-1].bias.mul_(scale)
            if tied:  # two classes that differ by less than float32 can tell, and by its sign alone
                model[-1].weight[1] = model[-1].weight[0] * (1 + 1e-9)
                model[-1].bias[1] = model[-1].bias[0] * (1 + 1e-9)
        generator = np.random.default_rng(seed)
        plane = pca_plane(generator.normal(size=(20, 1, 8, 8)), padding=0.1)
        labels = label_grid(model, plane, 25, batch_size=200)
        nodes = torch.from_numpy(plane.points(*(v.ravel() for v in np.meshgrid(*plane.nodes(25)))).reshape(-1, 1, 8, 8))
        assert np.array_equal(labels.ravel(), model(nodes).argmax(1))


class Rough(nn.Module):
    """Adds and takes off a number so large that float32 forgets what was there."""

    def forward(self, x):
        return (x + 1e9) - 1e9


def test_where_float32_cannot_be_trusted_float64_does_it_all():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), Rough(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).double()
    plane = pca_plane(np.random.default_rng(0).normal(size=(20, 1, 8, 8)))
    nodes = torch.from_numpy(plane.points(*(v.ravel() for v in np.meshgrid(*plane.nodes(25)))).reshape(-1, 1, 8, 8))
    expected = model(nodes).argmax(1)
    assert (model.float()(nodes.float()).argmax(1) != expected).sum() > 50
    assert np.array_equal(label_grid(model.double(), plane, 25).ravel(), expected)


def test_labels_of_plain_callables_are_those_of_scikit_learn(trained, plane):
    expected = scikit_learn_labels(matrix_classifier, plane, 40)
    for classifier in (
        matrix_classifier,
        lambda x: torch.from_numpy(matrix_classifier(x)),
        lambda x: matrix_classifier(x).argmax(1),
        lambda x: matrix_classifier(x).argmax(1).astype(np.uint8),
        lambda x: torch.from_numpy(matrix_classifier(x).argmax(1)),
    ):
        assert np.array_equal(label_grid(classifier, plane, 40), expected)
    split = trained.split
    pipeline = LogisticRegression(max_iter=50, tol=1).fit(split.train_inputs.double().numpy(), split.train_classes)
    points = plane.points(plane.nodes(9)[0], plane.nodes(9)[1][:, None]).reshape(-1, 64)
    assert np.array_equal(label_grid(pipeline.predict, plane, 9), pipeline.predict(points).reshape(9, 9))


def test_rows_run_along_b_and_columns_along_a():
    plane = flat_plane((0, 10), (2, 14))
    assert label_grid(lambda x: x[:, 0].astype(int), plane, 3).tolist() == [[0, 1, 2]] * 3
    assert label_grid(lambda x: x[:, 1].astype(int), plane, 3).tolist() == [[10] * 3, [12] * 3, [14] * 3]


def test_ties_go_to_the_first_class():
    for classifier in (lambda x: np.zeros((len(x), 3)), lambda x: torch.zeros(len(x), 3), nn.Linear(2, 3)):
        if isinstance(classifier, nn.Module):
            with torch.no_grad():
                classifier.weight.zero_(), classifier.bias.zero_()
        assert (label_grid(classifier, flat_plane(), 5) == 0).all()


@pytest.mark.parametrize("kind", ["folded", "module", "callable", "labels"])
@pytest.mark.parametrize("batch_size", [1, 7, 30, 31, 32, 100, 961, 10**6])
def test_batches_bound_what_goes_through_at_once_and_change_no_label(trained, plane, kind, batch_size):
    """Two sums in another order could differ where logits tie to the last bit; on this slice none do."""
    seen = []
    double = copy.deepcopy(trained.model).double()

    def count(module, inputs, output=None):
        seen.append(len(inputs[0]))

    def counting(x):
        seen.append(len(x))
        z = double(torch.from_numpy(x))
        return z.numpy() if kind == "callable" else z.argmax(1).numpy()

    classifier = counting
    if kind in ("folded", "module"):
        classifier = copy.deepcopy(trained.model)
        if kind == "folded":
            classifier[1] = Counting(seen)
        else:
            classifier.register_forward_pre_hook(count)
    labels = label_grid(classifier, plane, 31, batch_size=batch_size)
    assert np.array_equal(labels, label_grid(trained.model, plane, 31))
    assert max(seen) <= batch_size and sum(seen) == 31 * 31


class Counting(nn.Module):
    """A ReLU that writes down how many rows it saw."""

    def __init__(self, seen: list):
        super().__init__()
        self.seen = seen

    def __deepcopy__(self, memo):
        return Counting(self.seen)

    def forward(self, x):
        self.seen.append(len(x))
        return x.relu()


@given(st.integers(2, 25), SEEDS)
def test_grids_of_n_nodes_are_every_other_node_of_2n_minus_1(n, seed):
    generator = np.random.default_rng(seed)
    plane = pca_plane(generator.normal(size=(9, 5)), padding=1)
    model = mlp((5, 8, 4), seed % 1000)
    assert np.array_equal(label_grid(model, plane, n), label_grid(model, plane, 2 * n - 1)[::2, ::2])


def test_classifiers_are_left_as_found(trained, plane):
    model = copy.deepcopy(trained.model)
    label_grid(model, plane, 20)
    assert all(
        torch.equal(p, q) and p.dtype == torch.float32 for p, q in zip(model.parameters(), trained.model.parameters())
    )
    assert not model[1].inplace and all(p.requires_grad for p in model.parameters())
    assert not model(torch.zeros(1, 64)).is_inference()


def test_a_thousand_classes_and_half_precision():
    def numbered(x):
        return (40 * x[:, 1] + x[:, 0]).round().astype(int) % 1000

    labels = label_grid(lambda x: np.eye(1000)[numbered(x)], flat_plane(high=(39, 39)), 40)
    assert np.array_equal(labels.ravel(), np.arange(1600) % 1000)
    for dtype in (torch.float16, torch.bfloat16):
        labels = label_grid(lambda x, dtype=dtype: torch.from_numpy(x).to(dtype), flat_plane((-1, -1)), 11)
        expected = label_grid(
            lambda x, dtype=dtype: torch.from_numpy(x).to(dtype).double().numpy(), flat_plane((-1, -1)), 11
        )
        assert np.array_equal(labels, expected)


def bad_at(value, row: int, column: int):
    """Give a classifier of a 5 × 5 grid on the unit square with *value* in the logit of class 1 at one node."""
    return lambda x: np.where((x == [column / 4, row / 4]).all(1)[:, None] & [False, True], value, x)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (bad_at(np.nan, 3, 1), "Logits on the slice hold 1 non-finite values of .* at row 3, column 1, class 1: the"),
        (bad_at(np.inf, 4, 4), "hold 1 non-finite values of .*, first at row 4, column 4, class 1"),
        (bad_at(-np.inf, 0, 2), "hold 1 non-finite values of .*, first at row 0, column 2, class 1"),
        (lambda x: torch.from_numpy(bad_at(-np.inf, 2, 0)(x)), "first at row 2, column 0, class 1"),
        (nn.Sequential(nn.Linear(2, 2), nn.Threshold(1e9, torch.nan)), "first at row 0, column 0, class 0"),
        (lambda x: x[:, :1], r"gave shape \(\d+, 1\) of float64 for \d+ nodes: expected logits \(N, K >= 2\)"),
        (lambda x: x[:, 0], r"gave shape \(\d+,\) of float64 for \d+ nodes: expected logits .* or integer labels"),
        (lambda x: x[1:], r"The classifier gave shape \(\d+, 2\) of float64 for \d+ nodes"),
        (lambda x: x[1:, 0].astype(int), r"The classifier gave shape \(\d+,\) of int64 for \d+ nodes"),
        (lambda x: x[None], r"The classifier gave shape \(1, \d+, 2\)"),
        (lambda x: x.astype(complex), r"The classifier gave shape \(\d+, 2\) of complex128"),
        (lambda x: x.astype(str), r"The classifier gave shape \(\d+, 2\) of <U"),
        (lambda x: None, r"The classifier gave shape \(\) of object"),
        (lambda x: np.full(len(x), 40000), "The classifier's labels run from 40000 to 40000: give 0 to 32767"),
        (lambda x: -x[:, 0].astype(int), "The classifier's labels run from -1 to 0: give 0 to 32767"),
        (mlp((3, 4, 2), 0), "The classifier takes 3 values and the plane lies in 2: span the plane by"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch_size", [5, 100])
def test_classifiers_are_refused(classifier, message, batch_size):
    with pytest.raises(ValueError, match=message):
        label_grid(classifier, flat_plane(), 5, batch_size=batch_size)


@pytest.mark.parametrize("n", [1, 0, -3, 2.0, True, "9"])
def test_numbers_of_nodes_and_batch_sizes_are_refused(n):
    plane = flat_plane()
    for call in (plane.nodes, plane.steps, lambda n: label_grid(nn.Linear(2, 2), plane, n)):
        with pytest.raises(ValueError, match=f"Nodes a side is {n!r}: give an integer"):
            call(n)
    if n != 1 or n is True:
        with pytest.raises(ValueError, match=f"Batch size is {n!r}: give an integer"):
            label_grid(nn.Linear(2, 2), plane, 3, batch_size=n)


# --- cells: boundary and junctions ---


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


# --- two grids: Jaccard distance, effective displacement, grid change ---


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


def straight(angle, offset, shift, steps, n=120) -> tuple[np.ndarray, np.ndarray]:
    """
    Give the masks of a straight boundary and of the same moved by *shift* along its normal, on cells of size *steps*.

    Inside a disc, so that the boundary is equally long in every direction.
    """
    b, a = (np.arange(n)[:, None] - (n - 1) / 2) * steps[1], (np.arange(n) - (n - 1) / 2) * steps[0]
    along = np.cos(angle) * a + np.sin(angle) * b - offset
    disc = np.hypot(a, b)[:-1, :-1] < 0.48 * n * min(steps)
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


@given(label_grids(count=2, least=1))
def test_grid_change_is_the_share_of_nodes(grids):
    a, b = (grid.tolist() for grid in grids)
    changed = sum(p != q for row_a, row_b in zip(a, b) for p, q in zip(row_a, row_b))
    assert grid_change(*grids) == changed / grids[0].size == grid_change(*grids[::-1])


def test_grids_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"The first mask have shape \(3, 3\) and the second \(3, 4\): both must come"):
        boundary_jaccard(np.ones((3, 3), bool), np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"The first grid's labels have shape \(3, 3\) and the second's \(4, 3\)"):
        grid_change(np.ones((3, 3), int), np.ones((4, 3), int))
    with pytest.raises(ValueError, match="Grid labels are of type float64"):
        grid_change(np.ones((3, 3)), np.ones((3, 3)))


# --- transitions ---


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


# --- what lies outside the data ---


def test_the_region_of_the_data_read_aloud():
    """A box twice as wide and twice as high as the data; then data that reach beyond it, and data without an area in it."""
    plane = flat_plane((0, 0), (4, 4))
    corners = data_region(plane, np.array([[1.0, 1.0], [3.0, 3.0]]))
    np.testing.assert_allclose(corners[corners[:, 0].argsort()][:, 0], [1, 1, 3, 3], atol=1e-8)
    assert share_outside(plane, torch.tensor([[1.0, 1.0], [3.0, 3.0]])) == pytest.approx(0.75, abs=1e-8)
    assert share_outside(plane, np.array([[-1.0, -1.0], [9.0, 9.0]])) == 0
    assert share_outside(plane, np.array([[5.0, 1.0], [6.0, 3.0]])) == 1
    # Beside the box; a line, a point in it.
    for data in ([[5.0, 1.0], [6.0, 3.0]], [[2.0, 1.0], [2.0, 3.0]], [[2.0, 2.0]]):
        assert data_region(plane, np.array(data)).shape == (0, 2)


@given(SEEDS, st.sampled_from([0.0, 0.5]))
def test_the_share_outside_is_that_of_the_nodes_outside(seed, padding):
    """Values that never change, which rounding alone puts outside their range, among those that do."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(12, 7)) ** 3
    inputs[:, 3] = 0.1
    plane, n = pca_plane(inputs, padding=padding), 201
    points = plane.points(*np.meshgrid(*plane.nodes(n)))
    beyond = np.maximum(points - inputs.max(0), inputs.min(0) - points).max(-1)
    # The polygon's edge crosses at most 4 n cells.
    assert share_outside(plane, inputs) == pytest.approx((beyond > 1e-9).mean(), abs=4 / n)


def test_data_of_another_plane_or_not_finite_have_no_region():
    with pytest.raises(ValueError, match="Inputs have 3 values and the plane 2: give inputs like its own"):
        data_region(flat_plane(), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="Inputs hold 1 non-finite values of 8, first at sample 3, value 1"):
        share_outside(flat_plane(), np.array([[0.0, 0.0]] * 3 + [[0.0, np.nan]]))
