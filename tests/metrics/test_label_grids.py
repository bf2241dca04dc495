"""Label grids: those of scikit-learn for any classifier, nodes that nest, ties and close calls, every refusal."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from torch import nn

from bqcore.metrics.label_grids import grid_change, label_grid
from bqcore.metrics.planes import Plane, pca_plane
from bqcore.quantizers.uniform import quantize_model
from studies.networks import mlp
from tests.helpers.nets import apart, normal, shared
from tests.helpers.slices import SEEDS, flat_plane, label_grids


class Doubled(nn.Module):
    """Adds to its input what a ReLU makes of it; the ReLU may be another layer's too."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return x + self.act(x)


def with_residual() -> nn.Sequential:
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 6), act, nn.Linear(6, 6), Doubled(act), nn.Linear(6, 4)).eval()


@pytest.mark.parametrize("make", [lambda: shared(1), with_residual])
def test_layers_that_stand_in_several_places_are_labelled_as_copies_are(make):
    torch.manual_seed(0)
    model, plane = make(), pca_plane(normal(60, 6).double())
    twin = apart(model).double()
    expected = label_grid(lambda points: twin(torch.from_numpy(points)).numpy(), plane, 31)
    assert np.array_equal(label_grid(model, plane, 31), expected) and len(np.unique(expected)) > 1


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
    """Adds and takes off a number so large that float32 forgets some of what was there, or all."""

    def __init__(self, much: float):
        super().__init__()
        self.much = much

    def forward(self, x):
        return (x + self.much) - self.much


@pytest.mark.parametrize("much, wrong", [(1e9, 50), (1e5, 0)])  # of the latter, float32 is off by some close calls
def test_where_float32_cannot_be_trusted_float64_does_it_all(much, wrong):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), Rough(much), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).double()
    plane = pca_plane(np.random.default_rng(0).normal(size=(20, 1, 8, 8)))
    nodes = torch.from_numpy(plane.points(*(v.ravel() for v in np.meshgrid(*plane.nodes(25)))).reshape(-1, 1, 8, 8))
    expected = model(nodes).argmax(1)
    assert (model.float()(nodes.float()).argmax(1) != expected).sum() > wrong
    assert np.array_equal(label_grid(model.double(), plane, 25).ravel(), expected)


def test_one_node_where_float32_cannot_be_trusted_is_enough():
    """Half of the nodes are rough, with the first, which is looked at; close calls among the others are all well."""

    class Half(Rough):
        def forward(self, x):
            return torch.where(x[:, :1, :1, :1] * sign > 0, super().forward(x), x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), Half(1e9), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).double()
    plane = pca_plane(np.random.default_rng(0).normal(size=(20, 1, 8, 8)))
    nodes = torch.from_numpy(plane.points(*(v.ravel() for v in np.meshgrid(*plane.nodes(25)))).reshape(-1, 1, 8, 8))
    sign = model[0](nodes[:1])[0, 0, 0, 0].sign().item()
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


@given(st.integers(64, 150), st.integers(2, 11), st.integers(1, 70), st.integers(2, 12), st.floats(-2, 2), SEEDS)
def test_labels_by_tiles_are_those_of_every_node(n, inputs, width, classes, scale, seed):
    generator = np.random.default_rng(seed)
    plane = pca_plane(generator.normal(size=(9, inputs)), padding=1)
    model = mlp((inputs, width, classes), seed % 1000)
    with torch.no_grad():
        model[0].weight.mul_(10**scale), model[2].bias.mul_(10**-scale)
    labels = label_grid(model, plane, n, batch_size=n - 1)  # too few for tiles
    assert np.array_equal(label_grid(model, plane, n), labels)
    assert np.array_equal(label_grid(model, plane, n, batch_size=n), labels)


@given(st.floats(0.1, 0.9), st.integers(64, 200), st.integers(0, 1), st.booleans())
def test_a_line_between_the_corners_of_tiles_is_seen(place, n, axis, negative):
    """Class 1 in a band, one or two nodes wide, across one axis: by the least bend of two ReLUs that can do so."""
    half = 0.6 / (n - 1)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.zero_()[:, axis] = torch.tensor([1.0, -1.0])
        model[0].bias.copy_(torch.tensor([-place, place]))
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [-1.0, -1.0]] if negative else [[1.0, 1.0], [0.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([0.0, half]))
    from_line = np.abs(np.arange(n) / (n - 1) - place)
    sure = np.abs(from_line - half) > 1e-9
    labels = np.moveaxis(label_grid(model, flat_plane(), n), 1 - axis, 0)[sure]
    assert np.array_equal(labels, np.repeat((from_line < half)[sure, None], n, axis=1))


def test_tiles_refuse_what_is_not_finite():
    for bias, weight, classes in ((torch.inf, 1.0, "class 0"), (0.0, 1e38, "class"), (torch.nan, 1.0, "class 0")):
        model = mlp((2, 8, 3), 0).double()
        with torch.no_grad():
            model[0].weight.mul_(1e200 * weight), model[2].weight.mul_(1e100), model[2].bias[0].fill_(bias)
        with pytest.raises(ValueError, match=f"Logits on the slice hold .*, {classes}"):
            label_grid(model, flat_plane((-1, -1)), 64)


@given(st.integers(2, 45), SEEDS)
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
    """Return a classifier of a 5 × 5 grid on the unit square with *value* in the logit of class 1 at one node."""
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
        (lambda x: 10000 * np.arange(len(x)), r"The classifier's labels run from 0 to \d+: give 0 to 32767"),
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


@given(label_grids(count=2, least=1))
def test_grid_change_is_the_share_of_nodes(grids):
    a, b = (grid.tolist() for grid in grids)
    changed = sum(p != q for row_a, row_b in zip(a, b) for p, q in zip(row_a, row_b))
    assert grid_change(*grids) == changed / grids[0].size == grid_change(*grids[::-1])
