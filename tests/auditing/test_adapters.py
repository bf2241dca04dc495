"""Classifiers of every kind give what the same classifier gives in any other form, or say what is wrong with them."""

import copy
import operator
import threading
import warnings

import numpy as np
import onnx
import pandas as pd
import pytest
import scipy
import torch
import torch.nn.utils.prune
import xarray as xr
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import nn

import bqcore
from bqcore.auditing import adapters, estimators
from bqcore.metrics import decisions, margins
from bqcore.quantizers import uniform
from tests.helpers.audits import GOOD, X, held, linear_session


class Rows(nn.Module):
    """A linear classifier whose inputs come as an image and a row, by name."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, image, row):
        return {"logits": self.linear(torch.cat([image.flatten(1), row], dim=1))}


def test_the_same_classifier_in_every_form_gives_the_same(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    twin = LogisticRegression()
    twin.classes_, twin.coef_, twin.intercept_ = np.arange(4), *(p.detach().numpy() for p in (moved.weight, moved.bias))
    pipeline = make_pipeline("passthrough", twin)
    weight, bias = moved.weight.detach(), moved.bias.detach()
    forms = {
        "torch": moved, "session": linear_session(moved), "session of two": linear_session(moved, ("other", "logits")),
        "scikit-learn": pipeline, "function": lambda batch: batch @ weight.T + bias,
    }  # fmt: skip
    found = {name: bqcore.audit(layer, model, x[:100], x[100:], nodes=21) for name, model in forms.items()}
    found["double"] = bqcore.audit(layer, moved, x[:100].double(), x[100:].double(), nodes=21)
    rate = decisions.flips(layer(x[100:]), moved(x[100:])).rate
    assert rate > 0
    for name, result in found.items():
        d = held(result)
        assert float(d.flip_rate) == rate, name
        # float32 sums in another order move a displacement by 1e-6 of a logit
        np.testing.assert_allclose(d.displacement, held(found["torch"]).displacement, rtol=1e-4)
        assert float(d.boundary_jaccard.sel(nodes=21)) == float(held(found["torch"]).boundary_jaccard.sel(nodes=21))
        has_gradients = name not in ("session", "session of two", "scikit-learn")
        assert np.isfinite(d.normal_variation).all() == has_gradients, name
        assert np.isfinite(d.radius.sel(model="candidate")).all() == has_gradients


def test_inputs_by_name_reach_a_torch_module_and_a_session(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    inputs = {"image": x[:, :8].reshape(-1, 2, 2, 2).numpy(), "row": x[:, 8:].numpy()}
    found = bqcore.audit(Rows(layer).eval(), Rows(moved).eval(), None, inputs)
    assert float(held(found).flip_rate) == decisions.flips(layer(x), moved(x)).rate
    assert "Slices are left out: the inputs are a dictionary, and a slice needs one array." in found.notes
    says = "Radius and displacement are left out: the inputs are a dictionary, and gradients are taken of one array."
    assert says in found.notes
    found = bqcore.audit(linear_session(layer), linear_session(moved), None, {"x": x})
    assert float(held(found).flip_rate) == decisions.flips(layer(x), moved(x)).rate
    with pytest.raises(ValueError, match="The reference takes the inputs x, and the data hold y"):
        bqcore.audit(linear_session(layer), linear_session(moved), None, {"y": x})


def test_scikit_learn_estimators_with_scores_with_probabilities_of_zero_and_on_data_frames():
    x, y = np.random.default_rng(0).normal(size=(400, 3)), np.random.default_rng(1).integers(2, size=400)
    frame = pd.DataFrame(x, columns=list("abc"))
    two = make_pipeline(StandardScaler(), LinearSVC(random_state=0)).fit(frame, y)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(frame, y)
    found = bqcore.audit(two, forest, None, (frame, y), check_order=False)
    assert float(held(found).accuracy_reference) == two.score(frame, y)
    assert float(held(found).accuracy) == pytest.approx(
        forest.score(frame, y), abs=0.01
    )  # argmax and predict break ties
    assert any("would lie; .to_numpy() makes one of a data frame" in note for note in found.notes)
    few = RandomForestClassifier(2, random_state=0).fit(frame, y)  # of which both trees often agree: a logarithm of 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(bqcore.audit(few, few, None, (frame, y), check_order=False).dataset.accuracy).all()
    labels = np.array([0, 1])[adapters.logits_function(two)(frame).argmax(1)]
    assert np.array_equal(labels, two.predict(frame))


def test_scores_far_below_any_logarithm_of_a_probability_stay_apart(linear):
    layer, x = linear
    steep = LogisticRegression()
    steep.classes_, steep.intercept_ = np.arange(4), np.zeros(4)
    steep.coef_ = 1e4 * layer.weight.detach().numpy()
    scores = steep.decision_function(x.numpy())
    assert (np.sort(scores, axis=1)[:, 1] < np.log(estimators.TINY)).any()  # two of a row
    assert np.array_equal(adapters.logits_function(steep)(x), scores)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_scores_of_pairs_of_classes_are_no_scores_of_classes(classes):
    x, y = np.random.default_rng(0).normal(size=(120, 2)), np.arange(120) % classes
    for wrap in (lambda model: model, make_pipeline, lambda model: GridSearchCV(model, {"C": [1.0]}, cv=2)):
        usual, pairs = (wrap(SVC(decision_function_shape=shape)).fit(x, y) for shape in ("ovr", "ovo"))
        assert adapters.logits_function(usual)(x).shape == (120, classes)
        if classes == 2:  # one pair, one score
            assert np.array_equal(adapters.logits_function(pairs)(x), adapters.logits_function(usual)(x))
            continue
        says = r"The candidate scores pairs of classes \(decision_function_shape='ovo'\), not classes: say set_params"
        with pytest.raises(ValueError, match=says):
            bqcore.audit(usual, pairs, None, x)


@pytest.mark.parametrize(
    ("takes", "values", "first"),
    [
        ("UINT8", [3.5, -1.0], "uint8, which would change 2 of 2400 values of type float32, first 3.5: give whole"),
        ("UINT8", [300.0, 2.0], "uint8, which would change 1 of 2400 values of type float32, first 300: give whole"),
        ("INT64", [7.0, np.nan], "int64, which would change 1 of 2400 values of type float32, first nan: give whole"),
        ("INT32", [-3.0, 7.0], None),
    ],
)
def test_a_session_that_takes_integers_gets_the_values_that_are_given(linear, takes, values, first):
    layer, _ = linear
    pixels = np.random.default_rng(0).integers(0, 256, (200, 12)).astype(np.float32)
    session = linear_session(uniform.quantize_model(layer, 3), takes=getattr(onnx.TensorProto, takes))
    found = bqcore.audit(layer, session, None, pixels, nodes=11)  # whole numbers are fine, points between them are not
    assert float(held(found).flip_rate) > 0 and np.isfinite(held(found).displacement).all()
    says = f"Slices are left out: The candidate's input x takes {takes.lower()}, which would change "
    assert any(note.startswith(says) for note in found.notes)
    pixels[17, 3:5] = values
    if first is None:
        assert np.array_equal(
            adapters.logits_function(session)(pixels), adapters.logits_function(session)(pixels.astype(int))
        )
        return
    with pytest.raises(ValueError, match=f"The model's input x takes {first} numbers, such as unscaled pixels"):
        adapters.logits_function(session)(pixels)


class Failing(nn.Module):
    """A module that raises what it is told."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, *given, **named):
        raise self.error


ERRORS = [KeyError("layer"), AssertionError(), TypeError("of two\nlines"), NotImplementedError("none"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["module", "function", "estimator", "module by name"])
def test_whatever_a_classifier_raises_is_one_line_that_names_it_and_its_inputs(error, kind):
    model, given = Failing(error).eval(), np.ones((8, 3))
    shape = r"inputs of shape \(8, 3\) and type float64"
    if kind == "function":
        model = model.forward
    if kind == "estimator":
        model, plain = LogisticRegression(), model
        model.decision_function = plain.forward
    if kind == "module by name":
        given, shape = {"a": given, "b": given[:, 0]}, r"a of shape \(8, 3\) and type float64, b of shape \(8,\) and"
    end = "; each goes to it by its name; classes would be called classes, .* or target" * (kind == "module by name")
    says = (
        f"^The candidate fails on {shape}.*\\({type(error).__name__}.*\\): call it on them alone to see where{end}\\.$"
    )
    with pytest.raises(ValueError, match=says) as caught:
        bqcore.audit(lambda x: np.ones((8, 3)), model, None, given, nodes=0)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error


def test_a_model_without_values_on_the_meta_device_is_named():
    with torch.device("meta"):
        empty, half = nn.Linear(3, 2).eval(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    half[0] = nn.Linear(3, 3)
    for model, says in ((empty, "2 of 2 tensors, first weight"), (half, "2 of 4 tensors, first 1.weight")):
        with pytest.raises(
            ValueError, match=rf"The candidate has no values yet \({says}, are on the meta device\): load"
        ):
            bqcore.audit(nn.Linear(3, 2).eval(), model, None, np.ones((8, 3)))


def test_outputs_in_other_containers_are_opened_and_strange_ones_named():
    plain = bqcore.audit(GOOD, GOOD, None, X, nodes=0)
    forms = [
        lambda x: GOOD(x).tolist(), lambda x: (GOOD(x),), lambda x: {"scores": GOOD(x)},
        lambda x: pd.DataFrame(GOOD(x)), lambda x: GOOD(x).astype(">f8"), lambda x: GOOD(x).astype(np.longdouble),
        lambda x: scipy.sparse.csr_array(GOOD(x)),
    ]  # fmt: skip
    for form in forms:
        assert bqcore.audit(GOOD, form, None, X, nodes=0).dataset.flip_rate.equals(plain.dataset.flip_rate)
    for strange, says in (
        (lambda x: None, "candidate logits are None"), (lambda x: [[1.0, 2.0], [3.0]], "candidate logits are a list that is no"),
        (lambda x: {"a": GOOD(x), "b": GOOD(x)}, r"candidate logits are a dict \(a, b\): give a classifier that returns them"),
        (lambda x: torch.empty(200, 4, device="meta"), "candidate logits are a Tensor that is no array"),
        (lambda x: GOOD(x) > 0, "candidate logits are of type bool"), (lambda x: GOOD(x) * 1j, "are of type complex128"),
        (lambda x: np.full((200, 4), "a"), "candidate logits are of type <U1"), (lambda x: object(), "are a object that is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says) as caught:
            bqcore.audit(GOOD, strange, None, X, nodes=0)
        assert "\n" not in str(caught.value)


IN_PLACE = {
    "relu": (nn.ReLU(inplace=True), nn.ReLU()),
    "hardtanh": (nn.Hardtanh(-0.4, 0.4, inplace=True), nn.Hardtanh(-0.4, 0.4)),
    "nested": (nn.Sequential(nn.Flatten(), nn.ELU(inplace=True)), nn.Sequential(nn.Flatten(), nn.ELU())),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_that_works_in_place_changes_no_number(linear, kind, dtype):
    layer, x = linear
    x = x.to(dtype)
    pairs = [
        [
            nn.Sequential(first, copy.deepcopy(model)).to(dtype).eval()
            for model in (layer, uniform.quantize_model(layer, 3))
        ]
        for first in IN_PLACE[kind]
    ]
    found, expected = (bqcore.audit(*pair, None, x, nodes=11) for pair in pairs)
    assert int(held(expected).flip_rate_events) > 0 and found.notes == expected.notes
    xr.testing.assert_allclose(found.dataset, expected.dataset, rtol=1e-4)  # of an output or an input: last digits
    radii = [margins.radius(pair[0], x).radius for pair in pairs]
    np.testing.assert_allclose(*radii, rtol=1e-4)
    assert np.isfinite(radii[0]).any()


def test_logits_that_are_in_the_batch_are_read_where_they_are_and_any_other_function_gets_a_copy():
    batch = {"reference": np.eye(2), "candidate": np.ones((2, 2))}
    stored = adapters.logits_function(operator.itemgetter("candidate"))(batch)
    assert np.shares_memory(stored, batch["candidate"])
    copied = adapters.logits_function(lambda x: x["candidate"])(batch)
    assert np.array_equal(copied, stored) and not np.shares_memory(copied, stored)


class Overwriting:
    """A classifier whose ``predict`` writes to what it is given."""

    def __call__(self, x):
        return np.concatenate([x, -x], axis=1)

    def predict(self, x):
        x *= -1
        return (x > 0).astype(int).ravel()


def test_a_predict_that_writes_to_its_batch_changes_no_input():
    x = np.array([[1.0], [-2.0]])
    logits = adapters.logits_function(Overwriting())
    assert logits(x).tolist() == logits(x).tolist() == [[1, -1], [-2, 2]] and x.tolist() == [[1], [-2]]


def test_a_function_that_writes_to_its_batch_or_to_one_buffer_changes_no_number(linear):
    layer, x = linear
    matrix, x = layer.weight.detach().numpy().T.astype(np.float64), x.numpy().astype(np.float64)
    rounded, buffer = np.rint(3 * matrix) / 3, np.empty((len(x), 4))

    def clips(weights):
        return lambda batch: np.clip(batch, -0.3, None, out=batch) @ weights

    def one_buffer(weights):
        return lambda batch: np.matmul(np.maximum(batch, -0.3), weights, out=buffer[: len(batch)])

    def frames(weights):
        def logits(batch):
            batch.clip(lower=-0.3, inplace=True)
            return batch.to_numpy() @ weights

        return logits

    expected = (np.maximum(x, -0.3) @ matrix).argmax(1) != (np.maximum(x, -0.3) @ rounded).argmax(1)
    for make, data in ((clips, x), (one_buffer, x), (frames, pd.DataFrame(x))):
        before = data.copy()
        found = bqcore.audit(make(matrix), make(rounded), None, data, nodes=0, gradient_samples=0)
        assert int(held(found).flip_rate_events) == expected.sum() > 0 and np.array_equal(before, data)


def test_the_device_is_that_of_the_model(linear):
    """On a machine with a GPU the model lies there; elsewhere the meta device says where batches would go."""
    layer, x = linear
    device = "cuda" if torch.cuda.is_available() else "meta"
    assert adapters.tensors(x.double().numpy(), nn.Linear(12, 4, device=device)).device.type == device
    assert adapters.tensors({"a": x}, nn.Linear(12, 4, device=device))["a"].device.type == device


@pytest.mark.parametrize("rows", [1, 7, 64, 300, 1000])
def test_a_session_of_a_fixed_number_of_rows_gives_what_one_of_any_does(linear, rows):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    expected = bqcore.audit(layer, linear_session(moved), None, x, nodes=11)
    found = bqcore.audit(layer, linear_session(moved, rows=rows), None, x, nodes=11)
    xr.testing.assert_allclose(found.dataset, expected.dataset, rtol=1e-5)
    assert found.notes == expected.notes and "boundary_jaccard" in found.dataset and "displacement" in found.dataset
    two = adapters.logits_function(linear_session(layer, rows=rows))({"x": x.numpy()})
    np.testing.assert_allclose(two, layer(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_session_says_which_shapes_it_does_not_take(linear):
    layer, x = linear
    for rows in ("n", 1, 7):
        session = linear_session(layer, rows=rows)
        with pytest.raises(ValueError, match=r"The candidate fails on x \(\d+, 11\) \(.*\): give shapes that it was"):
            bqcore.audit(lambda x: x[:, :4], session, None, x[:, :11])


class Scaled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return weight * 1.1


def copies(layer):
    """Return the layer in forms that do not like to be copied, or are no modules."""
    twin = lambda: copy.deepcopy(layer)  # noqa: E731
    parametrized, pruned, normed = twin(), twin(), twin()
    nn.utils.parametrize.register_parametrization(parametrized, "weight", Scaled())
    nn.utils.prune.l1_unstructured(pruned, "weight", 0.3)
    nn.utils.parametrizations.weight_norm(normed)
    stateful = twin()
    stateful.register_buffer("lock", torch.zeros(1))
    stateful.handle = threading.Lock()
    rows = torch.export.Dim("rows")
    exported = torch.export.export(nn.Sequential(twin()).eval(), (torch.zeros(4, 12),), dynamic_shapes=({0: rows},))
    fixed = torch.export.export(nn.Sequential(twin()).eval(), (torch.zeros(16, 12),))
    scripted = torch.jit.trace(twin(), torch.zeros(2, 12))
    frozen = twin().requires_grad_(False)
    return {
        "parametrized": (parametrized, parametrized), "pruned": (pruned, pruned), "normed": (normed, normed),
        "with a lock": (stateful, layer), "exported": (exported, layer), "exported for 16": (fixed, layer),
        "scripted": (scripted, layer), "frozen": (frozen, layer), "compiled": (torch.compile(twin(), backend="eager"), layer),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*isinstance.*LeafSpec:FutureWarning")
def test_modules_of_every_kind_are_audited(linear):
    layer, x = linear
    for name, (model, same) in copies(layer).items():
        with torch.no_grad():
            z = same(x)
        state = model.state_dict() if isinstance(model, nn.Module) else model.state_dict
        before = [value.clone() for value in state.values()]
        found = bqcore.audit(uniform.quantize_model(layer, 3), model, None, x, nodes=5)
        assert (
            float(held(found).flip_rate) == decisions.flips(uniform.quantize_model(layer, 3)(x).detach(), z).rate > 0
        ), name
        assert "boundary_jaccard" in found.dataset and "displacement" in found.dataset, (name, found.notes)
        assert np.isfinite(held(found).normal_variation).all() == (name != "exported for 16"), name
        assert all(torch.equal(a, b) for a, b in zip(before, state.values())), name


def test_a_session_of_several_outputs_needs_one_named_logits(linear):
    session = linear_session(linear[0], ("scores", "labels"))
    with pytest.raises(ValueError, match=r"The candidate gives 2 outputs \(scores, labels\): name one of them logits"):
        bqcore.audit(linear[0], session, None, linear[1])
