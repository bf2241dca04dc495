"""Slices and gradients of any two classifiers; what stops them leaves the decisions, with a note."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import bqcore
from bqcore.auditing import geometry, report, streaming
from bqcore.metrics import label_grids, margins, planes
from bqcore.quantizers import uniform
from tests.helpers.audits import GOOD, X, held, linear_session


def test_integer_images_have_no_slice_and_images_of_any_shape_have():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 3, 4, 4)).astype(np.uint8)
    weight = generator.normal(size=(48, 5))
    float_one, rounded = (lambda x, w=w: x.reshape(len(x), -1).astype(float) @ w for w in (weight, weight.round(1)))
    found = bqcore.audit(float_one, rounded, None, images)
    assert "boundary_jaccard" not in found.dataset
    assert any("no array of floating-point numbers, between which a slice would lie." in note for note in found.notes)
    found = bqcore.audit(float_one, rounded, None, images / 255.0, nodes=12)
    assert found.dataset.nodes.values.tolist() == [12] and found.dataset.labels.shape == (2, 12, 12)
    plane = planes.pca_plane(images / 255.0)
    assert np.array_equal(found.dataset.labels.sel(model="reference"), label_grids.label_grid(float_one, plane, 12))


def test_a_module_that_knows_no_float64_is_audited_in_its_own_type(linear):
    class Single(nn.Linear):
        def forward(self, x):
            assert x.dtype == torch.float32
            return super().forward(x)

    layer, x = linear
    moved = Single(12, 4).eval()
    moved.load_state_dict(uniform.quantize_model(layer, 3).state_dict())
    found = bqcore.audit(layer, moved, None, x, nodes=21)
    plain = bqcore.audit(layer, uniform.quantize_model(layer, 3), None, x, nodes=21)
    np.testing.assert_allclose(held(found).displacement, held(plain).displacement, rtol=1e-5)  # one float32 forward
    np.testing.assert_allclose(held(found).normal_variation, held(plain).normal_variation, rtol=1e-3)


class Elsewhere(torch.Tensor):
    """A tensor that NumPy cannot read before it is brought to the CPU, as one on a GPU."""

    def numpy(self, **options):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_answers_of_another_device_are_brought_back(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    plain = bqcore.audit(layer, lambda batch: moved(batch).detach(), None, x, nodes=11, gradient_samples=0)
    there = lambda batch: moved(batch).detach().as_subclass(Elsewhere)  # noqa: E731
    assert bqcore.audit(layer, there, None, x, nodes=11, gradient_samples=0).dataset.equals(plain.dataset)
    # Inputs of the reference go to where a candidate lies, here the meta device, of which nothing can come back.
    logits, own, _ = geometry._differentiable(nn.Linear(12, 4, device="meta").eval(), x, False)
    assert own.device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta tensor"):
        logits(x.double())


def test_boundaries_of_probabilities_are_those_of_their_logarithms(linear):
    layer, x = linear[0], linear[1].double()
    moved = uniform.quantize_model(layer, 3)
    weight, bias = (value.detach().double().numpy() for value in (moved.weight, moved.bias))
    soft, moved_soft = (nn.Sequential(model, nn.Softmax(1)).eval() for model in (layer, moved))
    function = lambda batch: special.softmax(batch.numpy() @ weight.T + bias, axis=1)  # noqa: E731
    plain = held(bqcore.audit(layer, moved, None, x, nodes=21))
    on_slice = ("boundary_jaccard", "effective_displacement", "tolerance_jaccard", "grid_change", "junctions")
    by_gradients = (
        "normal_variation",
        "signed_distance_change",
        "radius",
    )  # of both; displacement takes the reference's alone
    for candidate, names in ((moved_soft, on_slice + by_gradients), (function, on_slice)):
        found = held(bqcore.audit(soft, candidate, None, x, nodes=21, probabilities=True))
        for name in (*names, "displacement"):
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.radius.sel(model="reference"), plain.radius.sel(model="reference"), rtol=1e-6)
    assert plain.tolerance_jaccard.max() > 0 and plain.displacement.min() > 0
    certain = torch.tensor([[0.0, 1.0]])
    np.testing.assert_allclose(geometry._logits(certain, True), streaming._logarithm(lambda p: p, "one")(certain))


def failing(says):
    raise RuntimeError(says)


@pytest.mark.parametrize(
    ("off", "note"),
    [
        (lambda z: z * np.nan, "Logits on the slice hold 484 non-finite values of 484, first at row 0, column 0, class 0: the model diverged there"),
        (lambda z: failing("No such point.\nTraceback"), "The candidate fails on inputs of shape (121, 6) and type float64 (RuntimeError: No such point): call it on them alone to see where"),
        (lambda z: {}["points"], "The candidate fails on inputs of shape (121, 6) and type float64 (KeyError: 'points'): call it on them alone to see where"),
        (lambda z: z // 0 if z.ndim < 2 else [1 // 0], "The candidate fails on inputs of shape (121, 6) and type float64 (ZeroDivisionError: integer division or modulo by zero): call it on them alone to see where"),
        (lambda z: z[1:], r"The classifier gave shape (120, 4) of float64 for 121 nodes: expected logits (N, K >= 2) or integer labels (N,)"),
    ],
)  # fmt: skip
def test_what_a_classifier_does_beyond_the_data_leaves_its_decisions(off, note):
    def candidate(x):
        return GOOD(x) if np.isin(x[:, 0], X[:, 0]).all() else off(GOOD(x))

    found = bqcore.audit(GOOD, candidate, X, X, nodes=11)
    assert held(found).flip_rate == 0 and f"Slices are left out: {note}." in found.notes
    assert found.dataset.flip_rate.equals(bqcore.audit(GOOD, candidate, X, X, nodes=0).dataset.flip_rate)


class Wild(nn.Linear):
    """A layer whose gradients, copies or float64 raise what nobody expects."""

    def __init__(self, layer, when):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.when = when

    def forward(self, x):
        if {"gradient": x.requires_grad, "float64": x.dtype == torch.float64}.get(self.when, False):
            raise LookupError("no such table")
        return super().forward(x)

    def __deepcopy__(self, memo):
        if self.when == "copy":
            raise AssertionError("not to be copied")
        return Wild(self, self.when)


@pytest.mark.parametrize("when", ["gradient", "float64", "copy"])
def test_whatever_a_module_raises_in_slices_or_gradients_leaves_its_decisions(linear, when):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    found = bqcore.audit(layer, Wild(moved, when).eval(), None, x, nodes=11)
    plain = bqcore.audit(layer, moved, None, x, nodes=0, gradient_samples=0)
    assert all(found.dataset[name].equals(plain.dataset[name]) for name in plain.dataset)
    assert "boundary_jaccard" in found.dataset and "displacement" in found.dataset


def test_what_the_measures_themselves_raise_becomes_a_note(monkeypatch):
    def broken(*given, **options):
        raise TypeError("array type float128 is unsupported\nin linalg")

    monkeypatch.setattr(planes, "pca_plane", broken)
    monkeypatch.setattr(margins, "local_change", broken)
    x = torch.from_numpy(X)
    found = bqcore.audit(lambda x: x, lambda x: 2 * x, None, x, nodes=11)
    says = "are left out: TypeError: array type float128 is unsupported."
    assert {f"Slices {says}", f"Radius and displacement {says}"} <= set(found.notes) and held(found).flip_rate == 0


def test_batches_of_different_shapes_are_measured_and_those_of_the_first_shape_sliced():
    generator = np.random.default_rng(0)
    buckets = [generator.normal(size=(40, 3, side, side)) for side in (4, 4, 6, 4)]
    reference = lambda x: x.mean((2, 3)) @ np.eye(3)  # noqa: E731
    candidate = lambda x: (4 * reference(x)).round() / 4  # noqa: E731
    found = bqcore.audit(reference, candidate, None, buckets, nodes=11)
    z, q = (np.concatenate([model(x) for x in buckets]) for model in (reference, candidate))
    assert float(held(found).flip_rate) == (z.argmax(1) != q.argmax(1)).mean() > 0
    says = (
        "Held-out split: batches have samples of different shapes, (3, 4, 4) and (3, 6, 6): slices and gradients take "
    )
    assert any(note.startswith(says) for note in found.notes)
    assert int(held(found).slice_samples) == 120
    alone = bqcore.audit(reference, candidate, None, [buckets[0], buckets[1], buckets[3]], nodes=11)
    assert held(found).boundary_jaccard.equals(held(alone).boundary_jaccard)
    words = [{"ids": generator.integers(1, 9, (20, n)), "mask": np.ones((20, n))} for n in (5, 8, 3)]
    counts = lambda x: np.stack([(x["ids"] > k).sum(1) for k in (2, 5, 7)], axis=1) * 1.0  # noqa: E731
    assert held(bqcore.audit(counts, counts, None, words)).samples == 60


def test_gradients_that_are_not_finite_leave_decisions_and_slices():
    x = torch.from_numpy(X).clone()
    x[7, 2] = 0.0  # where the root has no slope
    rooted = lambda x: x.abs().sqrt()  # noqa: E731
    found = bqcore.audit(rooted, lambda x: rooted(x) + 0.01 * x, None, x, nodes=11)
    says = "Radius and displacement are left out: Reference logits: margin gradients hold 1 non-finite values of 200, first at sample 7"
    assert any(note.startswith(says) for note in found.notes)
    assert held(found).flip_rate > 0 and "boundary_jaccard" in found.dataset and "displacement" not in found.dataset


def test_slices_and_gradients_take_as_many_images_at_a_time_as_a_cache_holds():
    weight, counts = torch.from_numpy(np.random.default_rng(0).normal(size=(3072, 4))), []

    def reference(x):
        counts.append(len(x))
        return x.flatten(1) @ weight

    x = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 3, 32, 32)))
    found = bqcore.audit(reference, lambda x: reference(x).round(), None, x, nodes=13, batch_size=50)
    assert {"boundary_jaccard", "displacement", "radius"} <= set(found.dataset)
    assert 80 < max(counts) <= 2**18 // 3072
    assert sum(counts) > 200 + 13**2


def test_gradients_that_are_not_there_are_named(lively):
    split, model = lively
    found = bqcore.audit(linear_session(nn.Linear(64, 10)), model, None, split.test_inputs, nodes=0, check_order=False)
    assert (
        "Radius and displacement are left out: the reference has no gradient with respect to these inputs."
        in found.notes
    )
    change = margins.local_change(model.double(), lambda x: model(x.double()) * 1.0, split.test_inputs.double())
    assert change.displacement.max() == 0
    model.float()


def test_a_candidate_of_another_scale_is_displaced_by_radii_and_keeps_its_distances(linear):
    layer, x = linear
    double = nn.Linear(12, 4).eval()
    double.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    found = bqcore.audit(layer, double, None, x, nodes=0)
    known = margins.top_margins(layer.double(), x.double())
    layer.float()
    assert held(found).flip_rate == 0 and held(found).displacement.min() > 0.01
    np.testing.assert_allclose(held(found).displacement, np.quantile(known.margin / known.length, [0.5, 0.95]))
    np.testing.assert_allclose(held(found).signed_distance_change, 0, atol=1e-12)
    gradients = found.to_dict()["gradients"]
    assert gradients["signed_distance_change"] == held(found).signed_distance_change.values.tolist()


def test_without_the_candidate_s_gradient_displacement_is_measured_and_its_distance_is_not(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    found = bqcore.audit(layer, lambda batch: moved(batch).detach(), None, x, nodes=0)
    assert np.isfinite(held(found).displacement).all() and np.isnan(held(found).signed_distance_change).all()
    assert found.to_dict()["gradients"]["signed_distance_change"] == [None, None]
    row = '<tr><th scope="row">signed distance change, magnitude</th><td>–</td><td>–</td></tr>'
    assert row in " ".join(report.page(found, "Audit").split()).replace("> <", "><")
