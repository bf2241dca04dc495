"""The audit: the numbers of the measures themselves for classifiers and data of every kind, and every refusal."""

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import nn

import bqcore
from bqcore import _store
from bqcore._threads import one_thread
from bqcore.auditing import adapters, geometry, streaming
from bqcore.metrics import boundary_distances, decisions, exact_slices, label_grids, margins, planes, statistics
from bqcore.quantizers import uniform
from studies import catalogue, networks, specs, training
from studies.data import splits

SPEC = specs.Levels(seed=3, epochs=8, nodes=(41, 21, 11), width=12, bits=(8, 4, 2))
before, after = (lambda batch, key=key: batch[key] for key in ("before", "after"))


def of_logits(z, q, y=None, *, calibration=None, **options):
    """Audit logits that are there already."""
    inputs = {"before": z, "after": q}
    return bqcore.audit(before, after, calibration, inputs if y is None else (inputs, y), check_order=False, **options)


def held(found):
    return found.dataset.sel(split="heldout")


@pytest.fixture(scope="module")
def lively():
    """Give the split of SPEC and its trained model."""
    split = splits.digits(SPEC.seed)
    model = networks.mlp((64, SPEC.width, 10), SPEC.seed)
    return split, training.fit(model, split.train_inputs, split.train_classes, epochs=SPEC.epochs, seed=SPEC.seed)


# Known answers


def test_a_case_worked_by_hand():
    z = np.array([[3.0, 2, 0], [3, 2, 0], [3, 2, 0], [3, 2, 0], [0, 1, 0.5]])
    q = np.array([[3.0, 2, 0], [2, 3, 0], [2, 1, 4], [1, 2, 4], [0, 1, 1]])
    found = of_logits(z, q, np.array([0, 0, 2, 1, 1]), share=0.4)
    d = held(found)
    assert [float(d[name]) for name in ("flip_rate", "right_to_wrong", "wrong_to_right", "wrong_to_other")] == [
        3 / 5, 1 / 5, 1 / 5, 1 / 5,
    ]  # fmt: skip
    assert (d.band_flip_rate, d.pair_order_flip_rate, d.band_samples, d.flips_in_band) == (0, 2 / 5, 2, 0)
    assert (d.accuracy_reference, d.accuracy) == (3 / 5, 3 / 5)
    assert list(zip(d.pair_from.values, d.pair_to.values, d.pair_flips.values)) == [(0, 2, 2), (0, 1, 1)]
    assert d.flipped_sample.values.tolist() == [1, 2, 3] and d.flipped_moved.values.tolist() == [-1, 1, -1]
    assert d.flipped_target.values.tolist() == [0, 2, 1] and not d.flipped_in_band.values.any()
    assert d.decided_reference.values.tolist() == [4, 1, 0] and d.decided_candidate.values.tolist() == [1, 2, 2]
    assert d.decided_both.values.tolist() == [1, 1, 0]
    assert found.conclusion == (
        "The candidate changes 3 of 5 held-out decisions (60.0 %, 95 % interval 14.7 to 94.7 %), 0 of them among the 2 of "
        "lowest float margin (0.0 %); accuracy stays 0.6000."
    )
    assert found.notes == (
        "5 held-out samples are few: the flip rate could be as high as 94.7%; take some hundreds.",
        "Slices are left out: the inputs are a dictionary, and a slice needs one array.",
        "Radius and displacement are left out: the reference has no gradient with respect to these inputs.",
    ) or set(found.notes) >= {
        "5 held-out samples are few: the flip rate could be as high as 94.7%; take some hundreds."
    }


@pytest.mark.parametrize("bits", SPEC.bits)
def test_digits_give_the_numbers_of_the_chapters_to_the_last_digit(lively, bits):
    split, model = lively
    chapter = catalogue.measure(SPEC).sel(bits=bits)
    candidate = uniform.quantize_model(model, bits)
    with one_thread():
        found = bqcore.audit(
            model, candidate, (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes),
            nodes=41, check_order=False,
        )  # fmt: skip
    ours = held(found)
    for name in (
        "accuracy", "flip_rate", "right_to_wrong", "wrong_to_right", "wrong_to_other", "band_flip_rate",
        "pair_order_flip_rate", "band_pair_order_flip_rate", "displacement", "normal_variation", "third_class",
    ):  # fmt: skip
        assert np.array_equal(ours[name].values, chapter[name].values), name
    ours = found.dataset.sel(split="calibration", model="candidate")  # the chapters' slice is that of the training set
    assert np.array_equal(ours.radius.values, chapter.radius.values)
    for name in ("boundary_jaccard", "effective_displacement", "grid_change", "junctions", "step_a", "step_b"):
        for nodes in SPEC.nodes:
            assert ours[name].sel(nodes=nodes) == chapter[name].sel(nodes=nodes), (name, nodes)
    assert float(chapter.flip_rate) > 0 or bits == 8
    plane = planes.pca_plane(split.train_inputs)
    segments = [exact_slices.interpolated_slice(given, plane, 21).segments for given in (model, candidate)]
    expected = boundary_distances.tolerance_jaccard(*segments, ours.tau.values * float(max(plane.high - plane.low)))
    assert ours.tolerance_jaccard.values.tolist() == expected.tolist() and expected[0] > expected[-1]


# Pooled batches


@st.composite
def pairs_of_logits(draw):
    n, k = draw(st.integers(5, 60)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):  # ties
        z, q = generator.integers(-2, 3, (2, n, k)).astype(draw(st.sampled_from(["f2", "f4", "f8", "i8"])))
    else:
        z = generator.normal(size=(n, k)) * 10.0 ** draw(st.integers(-4, 4))
        q = z + draw(st.sampled_from([0.0, 0.1, 1.0])) * np.abs(z).max() * generator.normal(size=(n, k))
    kind = draw(st.sampled_from([None, torch.float16, torch.bfloat16, torch.float32]))
    if kind is not None:
        z, q = (torch.from_numpy(np.asarray(x, float)).to(kind) for x in (z, q))
    return z, q, generator.integers(k, size=n)


@pytest.mark.slow
@given(pairs_of_logits(), st.integers(1, 70), st.floats(0.01, 1))
def test_batches_of_any_size_give_what_all_logits_give(drawn, size, share):
    z, q, y = drawn
    assume(not streaming._are_probabilities(adapters.to_numpy(z)))
    assume(not streaming._are_probabilities(adapters.to_numpy(q)))
    found = of_logits(z, q, y, share=share, batch_size=size)
    d, n = held(found), len(y)
    assert tuple(float(d[name]) for name in list(streaming.RATES)[:4]) == decisions.flips(z, q, y)
    band = decisions.boundary_band(z, share)
    assert float(d.band_flip_rate) == decisions.band_flip_rate(z, q, share)
    assert float(d.pair_order_flip_rate) == decisions.pair_order_flip_rate(z, q)
    assert float(d.band_pair_order_flip_rate) == decisions.pair_order_flip_rate(z[band], q[band])
    assert (
        float(d.accuracy) == (decisions.decide(q) == y).mean() and float(d.band_margin) == decisions.margin(z)[band[-1]]
    )
    for name in streaming.RATES:
        of = len(band) if name.startswith("band") else n
        interval = statistics.clopper_pearson(int(d[f"{name}_events"]), of)
        assert (float(d[name]), float(d[f"{name}_low"]), float(d[f"{name}_high"])) == interval
    flipped = np.flatnonzero(decisions.decide(z) != decisions.decide(q))
    margins = decisions.margin(z)
    assert d.flipped_sample.values.tolist() == sorted(flipped, key=lambda i: (margins[i], i))
    assert int(d.pair_flips.sum()) == int(d.group_flips.sum()) == len(flipped) and int(d.group_samples.sum()) == n
    assert np.array_equal(d.flipped_in_band.values, np.isin(d.flipped_sample.values, band))


@pytest.mark.slow
@settings(max_examples=30)
@given(pairs_of_logits(), st.integers(1, 70))
def test_a_generator_a_loader_and_an_array_give_the_same(drawn, size):
    z, q, y = drawn
    assume(not any(streaming._are_probabilities(adapters.to_numpy(x)) for x in (z, q)))

    def stream():
        for start in range(0, len(y), size):
            part = slice(start, start + size)
            yield {"before": z[part], "after": q[part]}, y[part]

    whole = of_logits(z, q, y)
    for split in (stream, stream(), list(stream())):
        found = bqcore.audit(before, after, None, split, check_order=False)
        assert found.dataset.equals(whole.dataset) and found.conclusion == whole.conclusion


def test_a_pair_may_be_a_list_and_a_loader_may_have_inputs_alone(lively):
    split, model = lively
    x, y = split.test_inputs, split.test_classes
    moved = uniform.quantize_model(model, 3)
    whole = bqcore.audit(model, moved, None, (x, y), nodes=0)
    assert bqcore.audit(model, moved, None, [x, y], nodes=0).dataset.equals(whole.dataset)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 450)
    assert bqcore.audit(model, moved, None, loader, nodes=0).dataset.flip_rate.equals(whole.dataset.flip_rate)
    two = bqcore.audit(model, moved, None, [x[:200], x[200:]], nodes=0)
    assert int(two.dataset.samples.sel(split="heldout")) == 450


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_and_inputs_in_half_precision(lively, dtype):
    split, model = lively
    half, x = copy.deepcopy(model).to(dtype), split.test_inputs
    found = bqcore.audit(model, half, None, (x, split.test_classes), nodes=11)
    with torch.no_grad():
        z, q = model(x), half(x.to(dtype))
    assert float(held(found).flip_rate) == decisions.flips(z, q).rate
    assert float(held(found).band_flip_rate) == decisions.band_flip_rate(z, q)
    assert 0 < float(held(found).displacement.sel(quantile=0.5)) < 0.05
    found = bqcore.audit(half, half, None, (x.to(dtype), split.test_classes), nodes=11)
    assert (held(found).flip_rate, held(found).boundary_jaccard.max()) == (0, 0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_split():
    code = """
import resource, sys, numpy as np, bqcore
z = np.random.default_rng(0).normal(size=(1000, 1000)).astype("f4")
q = z + np.float32(0.01) * z[::-1]
def batches(n):
    for _ in range(n):
        yield {"z": z + 0, "q": q + 0}  # fresh, as from a file
for n in (2, 100):
    bqcore.audit(lambda b: b["z"], lambda b: b["q"], None, batches(n))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    few, many = map(int, done.stdout.split())
    assert many - few < 60_000  # kB; the 98 further batches hold 784 MB


def test_a_thousand_classes_of_which_most_never_occur():
    generator = np.random.default_rng(0)
    z = generator.normal(size=(600, 1000)).astype(np.float32)
    z[:, 7] += 20  # nearly all
    q = z + generator.normal(size=z.shape).astype(np.float32)
    d = held(of_logits(z, q, decisions.decide(z)))
    assert d.sizes["class"] == 1000 and d.decided_reference[7] == 600
    assert float(d.flip_rate) == decisions.flips(z, q).rate


# Classifiers of every kind


class Rows(nn.Module):
    """A linear classifier whose inputs come as an image and a row, by name."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, image, row):
        return {"logits": self.linear(torch.cat([image.flatten(1), row], dim=1))}


def linear_session(
    linear: nn.Linear, outputs=("logits",), *, takes=onnx.TensorProto.FLOAT, rows="n"
) -> onnxruntime.InferenceSession:
    """Give a linear layer as an ONNX Runtime session, of inputs of a type and, if it is fixed, a number."""
    tensors = [("w", linear.weight), ("c", linear.bias)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT)]
        + [onnx.helper.make_node("Gemm", ["floats", "w", "c"], [name], transB=1) for name in outputs],
        "linear",
        [onnx.helper.make_tensor_value_info("x", takes, [rows, linear.in_features])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [rows, None]) for name in outputs],
        [onnx.numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in tensors],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def linear():
    """Give a linear classifier and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(12, 4).eval(), torch.randn(300, 12)


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
    assert (np.sort(scores, axis=1)[:, 1] < np.log(adapters.TINY)).any()  # two of a row
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


def test_the_device_is_that_of_the_model(linear):
    """On a machine with a GPU the model lies there; elsewhere the meta device says where batches would go."""
    layer, x = linear
    device = "cuda" if torch.cuda.is_available() else "meta"
    assert adapters.tensors(x.double().numpy(), nn.Linear(12, 4, device=device)).device.type == device
    assert adapters.tensors({"a": x}, nn.Linear(12, 4, device=device))["a"].device.type == device


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
    logits, own = geometry._differentiable(nn.Linear(12, 4, device="meta").eval(), x, False)
    assert own.device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta tensor"):
        logits(x.double())


def test_probabilities_by_consent_have_the_margins_of_their_logarithms(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    soft = [nn.Sequential(model, nn.Softmax(1)).eval() for model in (layer, moved)]
    found = bqcore.audit(*soft, None, x, probabilities=True, nodes=0)
    plain = bqcore.audit(layer, moved, None, x, nodes=0)
    assert float(held(found).flip_rate) == float(held(plain).flip_rate)
    np.testing.assert_allclose(held(found).band_margin, held(plain).band_margin, rtol=1e-4)  # a float32 softmax between
    with pytest.raises(ValueError, match="The reference does not give probabilities .* leave probabilities=True"):
        bqcore.audit(layer, moved, None, x, probabilities=True)


def test_boundaries_of_probabilities_are_those_of_their_logarithms(linear):
    layer, x = linear[0], linear[1].double()
    moved = uniform.quantize_model(layer, 3)
    weight, bias = (value.detach().double().numpy() for value in (moved.weight, moved.bias))
    soft, moved_soft = (nn.Sequential(model, nn.Softmax(1)).eval() for model in (layer, moved))
    function = lambda batch: special.softmax(batch.numpy() @ weight.T + bias, axis=1)  # noqa: E731
    plain = held(bqcore.audit(layer, moved, None, x, nodes=21))
    on_slice = ("boundary_jaccard", "effective_displacement", "tolerance_jaccard", "grid_change", "junctions")
    by_gradients = ("normal_variation", "radius")  # of both; displacement takes the reference's alone
    for candidate, names in ((moved_soft, on_slice + by_gradients), (function, on_slice)):
        found = held(bqcore.audit(soft, candidate, None, x, nodes=21, probabilities=True))
        for name in (*names, "displacement"):
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.radius.sel(model="reference"), plain.radius.sel(model="reference"), rtol=1e-6)
    assert plain.tolerance_jaccard.max() > 0 and plain.displacement.min() > 0
    certain = torch.tensor([[0.0, 1.0]])
    np.testing.assert_allclose(geometry._logits(certain, True), streaming._logarithm(lambda p: p, "one")(certain))


@pytest.mark.parametrize(
    ("dtype", "off", "is_one"),
    [
        (torch.float16, 0.005, True), (torch.float16, 0.03, False), (torch.bfloat16, 0.05, True),
        (torch.bfloat16, 0.15, False), (torch.float32, 0.0005, True), (torch.float32, 0.005, False),
    ],
)  # fmt: skip
def test_a_row_of_probabilities_sums_to_one_as_well_as_its_type_can(dtype, off, is_one):
    z = 3 * np.random.default_rng(0).normal(size=(50, 30))
    p = torch.from_numpy((1 + off) * special.softmax(z, axis=1)).to(dtype)
    if is_one:
        with pytest.raises(ValueError, match="The reference seems to give probabilities"):
            of_logits(p, p)
        assert held(of_logits(p, p, probabilities=True)).flip_rate == 0
        return
    assert held(of_logits(p, p)).flip_rate == 0
    with pytest.raises(ValueError, match="The reference does not give probabilities"):
        of_logits(p, p, probabilities=True)


# What comes out


def test_results_go_to_json_and_netcdf(lively, tmp_path):
    split, model = lively
    found = bqcore.audit(
        model, uniform.quantize_model(model, 2), None, (split.test_inputs, split.test_classes), nodes=21,
    )  # fmt: skip
    _store.save_dataset(found.to_dataset(), tmp_path / "audit.nc")
    assert _store.load_dataset(tmp_path / "audit.nc").flip_rate.equals(found.dataset.flip_rate)
    assert not [name for name in found.dataset.data_vars if "long_name" not in found.dataset[name].attrs]
    content = json.loads(found.to_json(samples=3))
    assert content["conclusion"] == found.conclusion == found.dataset.conclusion
    rate = content["splits"]["heldout"]["flip_rate"]
    assert (rate["estimate"], rate["events"]) == (float(held(found).flip_rate), int(held(found).flip_rate_events))
    assert len(content["flipped"]) == 3 and content["flipped_left_out"] == rate["events"] - 3
    assert [set(row) for row in content["pairs"][:1]] == [{"from", "to", "flips"}]
    assert content["splits"]["heldout"]["outside"] == float(held(found).outside) > 0
    grids = content["splits"]["heldout"]["slices"]
    assert [row["nodes"] for row in grids] == [21, 11, 6]
    assert [row["junctions"] for row in grids] == held(found).junctions.values.tolist() != [[0, 0]] * 3
    assert sum(group["flips"] for group in content["groups"]) == rate["events"] > 0
    assert sum(group["samples"] for group in content["groups"]) == held(found).samples
    assert found.to_dict(3) == content and found.to_dict() == json.loads(found.to_json())


def test_equal_classifiers_change_nothing(lively):
    split, model = lively
    found = bqcore.audit(model, model, None, (split.test_inputs, split.test_classes), nodes=11)
    d = held(found)
    assert (d.flip_rate, d.pair_order_flip_rate, d.displacement.max(), d.boundary_jaccard.max()) == (0, 0, 0, 0)
    assert (
        "The candidate's margins equal the reference's on every held-out sample: was it changed at all?" in found.notes
    )
    assert d.sizes["flip"] == d.sizes["pair"] == 0 and json.loads(found.to_json())["flipped"] == []
    assert found.conclusion.startswith(
        "The candidate changes none of 450 held-out decisions (95 % interval 0 to 0.82 %)"
    )


def test_limits_are_exceeded_by_more_than_the_limit():
    from bqcore.auditing.comparison import exceeded

    z = np.tile([[2.0, 0.0]], (10, 1))
    q = z.copy()
    q[:2] = [[0.0, 2.0]]
    dataset = of_logits(z, q, np.zeros(10, int)).dataset
    assert exceeded(dataset, {"flip_rate": 0.2, "accuracy_loss": 0.25}) == []
    assert exceeded(dataset, {"flip_rate": 0.19, "accuracy_loss": 0.1}) == [
        "flip rate: 0.2000 exceeds the limit 0.19", "loss of accuracy: 0.2000 exceeds the limit 0.1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="for accuracy_loss, which is not measured without classes: give them with"):
        exceeded(of_logits(z, q).dataset, {"accuracy_loss": 0.1})
    with pytest.raises(ValueError, match="A limit is 'flips': choose one of 'flip_rate', "):
        exceeded(dataset, {"flips": 0.1})
    with pytest.raises(ValueError, match="Limit of flip_rate is 10: give a number from -1 to 1"):
        exceeded(dataset, {"flip_rate": 10})


@given(st.integers(1, 300), st.data())
def test_a_loss_of_exactly_its_limit_is_kept(n, drawn):
    """As the difference of two shares, in floating point, it is as often above the limit: 0.9 - 0.89 > 0.01."""
    from bqcore.auditing.comparison import exceeded

    lost = drawn.draw(st.integers(0, n))
    before = drawn.draw(st.integers(lost, n))
    right = (np.arange(n) < before, np.arange(n) < before - lost)
    rates = {"accuracy_reference": right[0].mean(), "accuracy": right[1].mean()}
    dataset = xr.Dataset({name: ("split", [rate]) for name, rate in rates.items()}, {"split": ["heldout"]})
    assert exceeded(dataset, {"accuracy_loss": lost / n}) == []
    assert len(exceeded(dataset, {"accuracy_loss": lost / n - 1e-6})) == 1


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    code = "import sys, bqcore; assert 'torch' not in sys.modules; bqcore.audit; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert callable(bqcore.audit) and "audit" in dir(bqcore)
    with pytest.raises(AttributeError, match="module 'bqcore' has no attribute 'adit'"):
        bqcore.adit  # noqa: B018


# Notes


def test_a_batch_s_own_range_is_noticed():
    def own_range(x):
        return x @ np.eye(3) * (1 + 1e-2 * np.abs(x).max())

    x = np.random.default_rng(0).normal(size=(200, 3)) * np.linspace(0.1, 1, 200)[:, None]
    found = bqcore.audit(lambda x: x, own_range, None, x)
    assert any(note.startswith("The candidate's logits depend on what else is in the batch") for note in found.notes)


def test_a_candidate_fitted_to_its_calibration_split_is_noticed():
    z = np.random.default_rng(0).normal(size=(400, 4))
    found = of_logits(z, -z, calibration={"before": z, "after": z})
    assert any("more often (100.00%) than those of the calibration split (0.00%)" in note for note in found.notes)


# Refusals

X = np.random.default_rng(5).normal(size=(200, 6))
GOOD = lambda x: x @ np.arange(24.0).reshape(6, 4) / 9 - x[:, :4]  # noqa: E731


def replaced(place, value):
    def model(x):
        z = GOOD(x).copy()
        z[place] = value
        return z

    return model


REFUSED = [
    (GOOD, lambda x: GOOD(x)[:, :3], X, "The candidate gives 3 classes and the reference 4: both must know the same"),
    (replaced((7, 2), np.nan), GOOD, X, "Held-out split: reference logits hold 1 non-finite values of 800, first at sample 7, class 2"),
    (GOOD, lambda x: GOOD(x)[1:], X, "Held-out split: candidate logits have 199 rows for 200 inputs: the classifier must give one row"),
    (GOOD, lambda x: GOOD(x)[:, 0], X, r"Held-out split: candidate logits have shape \(200,\): give one row a sample"),
    (GOOD, lambda x: (GOOD(x), 1), X, "Held-out split: candidate logits are a tuple: give a classifier that returns them alone"),
    (GOOD, GOOD, X[:4], "Held-out split has 4 samples: a boundary band needs at least 5"),
    (GOOD, GOOD, X[:0], "Held-out split holds no samples"),
    (GOOD, GOOD, iter([]), "Held-out split holds no samples"),
    (GOOD, GOOD, None, "Held-out split is NoneType: give inputs"),
    (GOOD, GOOD, "held.npz", "Held-out split is str: give inputs"),
    (GOOD, GOOD, [1, 2], "Held-out split: inputs are int: give an array"),
    (GOOD, GOOD, {"a": X, "b": X[1:]}, "Held-out split: inputs hold arrays of different lengths (a: 200, b: 199)".replace("(", r"\(").replace(")", r"\)")),
    (GOOD, GOOD, (X, np.zeros(199, int)), "Held-out split has 200 inputs and 199 classes: give one class an input"),
    (GOOD, GOOD, (X, np.full(200, 4)), "Held-out split: classes run from 4 to 4, but the logits have columns 0 to 3"),
    (GOOD, GOOD, (X, np.full(200, 4)), r"give each class as the index of its column, for scikit-learn np.searchsorted\(model.classes_,"),
    (GOOD, GOOD, (X, np.zeros(200)), "Held-out split: classes are of type float64: give class indices"),
    (GOOD, GOOD, (X, np.full(200, "cat")), "classes are names, such as 'cat': give each as the index of its column, for scikit-learn np"),
    (GOOD, GOOD, (X, pd.Series(["cat"] * 200)), "classes are names, such as 'cat': give each"),
    (GOOD, "int8.onnx", X, "The candidate is the text 'int8.onnx': open the file first, an .onnx one by onnxruntime.InferenceSession"),
    (GOOD, GOOD, [(X, np.zeros(200, int)), X], "some batches have classes and others have none"),
    (GOOD, lambda x: np.exp(GOOD(x)) / np.exp(GOOD(x)).sum(1, keepdims=True), X, "The candidate seems to give probabilities"),
    (GOOD, GOOD(X), X, "The candidate is ndarray: give a torch module"),
    (LogisticRegression, GOOD, X, "The reference is the class LogisticRegression: give an object"),
    (nn.Sequential(nn.Linear(6, 4), nn.Dropout()), GOOD, X, r"The reference is in training mode \(Sequential is\): dropout and"),
    (nn.Linear(6, 4).eval(), GOOD, X.astype(np.uint8), r"The reference fails on inputs of type torch.uint8 \(.*\): give them as in training"),
    (nn.Sequential(nn.Linear(6, 4), nn.Dropout().train()).eval().append(nn.Dropout()), GOOD, X, r"in training mode \(Dropout is\)"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "candidate", "split", "message"), REFUSED)
def test_what_is_wrong_is_named(reference, candidate, split, message):
    with pytest.raises(ValueError, match=message) as caught:
        bqcore.audit(reference, candidate, None, split, nodes=0)
    assert "\n" not in str(caught.value)


def test_a_reference_that_knows_no_more_than_one_class_is_doubted():
    right = GOOD(X).argmax(axis=1)
    mostly_one = np.where(np.arange(200) < 150, 0, right)
    for classes, doubted in ((right, False), ((right + 1) % 4, True), (mostly_one, True)):
        found = bqcore.audit(GOOD, GOOD, None, (X, classes), nodes=0, check_order=False)
        hits, most = (right == classes).sum(), np.bincount(classes).max()
        assert doubted == (hits <= most) == any("are its weights loaded" in note for note in found.notes), (hits, most)
    assert not any("weights" in note for note in bqcore.audit(GOOD, GOOD, None, X, nodes=0).notes)


def test_classes_that_change_between_batches_are_refused():
    with pytest.raises(ValueError, match="The reference gives 3 classes and its first batch 4"):
        bqcore.audit(lambda b: b, lambda b: b, None, iter([X[:, :4], X[:, :3]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 1}, "Nodes a side is 1: give at least 2, or 0 to leave slices out"),
        ({"share": 0}, "Band share is 0: the boundary band would be empty"),
    ],
)
def test_what_no_split_allows_is_refused_before_one_is_measured(options, message):
    with pytest.raises(ValueError, match=message):
        bqcore.audit(GOOD, lambda x: pytest.fail("measured"), X, X, **options)


def failing(says):
    raise RuntimeError(says)


@pytest.mark.parametrize(
    ("off", "note"),
    [
        (lambda z: z * np.nan, "Logits on the slice hold 484 non-finite values of 484, first at row 0, column 0, class 0: the model diverged there"),
        (lambda z: failing("No such point.\nTraceback"), "No such point"),
        (lambda z: z[1:], r"The classifier gave shape (120, 4) of float64 for 121 nodes: expected logits (N, K >= 2) or integer labels (N,)"),
    ],
)  # fmt: skip
def test_what_a_classifier_does_beyond_the_data_leaves_its_decisions(off, note):
    def candidate(x):
        return GOOD(x) if np.isin(x[:, 0], X[:, 0]).all() else off(GOOD(x))

    found = bqcore.audit(GOOD, candidate, X, X, nodes=11)
    assert held(found).flip_rate == 0 and f"Slices are left out: {note}." in found.notes
    assert found.dataset.flip_rate.equals(bqcore.audit(GOOD, candidate, X, X, nodes=0).dataset.flip_rate)


def test_gradients_that_are_not_finite_leave_decisions_and_slices():
    x = torch.from_numpy(X).clone()
    x[7, 2] = 0.0  # where the root has no slope
    rooted = lambda x: x.abs().sqrt()  # noqa: E731
    found = bqcore.audit(rooted, lambda x: rooted(x) + 0.01 * x, None, x, nodes=11)
    says = "Radius and displacement are left out: Reference logits: margin gradients hold 1 non-finite values of 200, first at sample 7"
    assert any(note.startswith(says) for note in found.notes)
    assert held(found).flip_rate > 0 and "boundary_jaccard" in found.dataset and "displacement" not in found.dataset


def test_a_session_of_a_fixed_number_of_rows_keeps_its_decisions(linear):
    layer, x = linear
    moved = uniform.quantize_model(layer, 3)
    found = bqcore.audit(layer, linear_session(moved, rows=1), None, x, nodes=11, batch_size=1)
    assert float(held(found).flip_rate) == decisions.flips(layer(x), moved(x)).rate
    for measure, shape in (("Slices", "(121, 12)"), ("Radius and displacement", "(300, 12)")):
        (note,) = (note for note in found.notes if note.startswith(f"{measure} are left out: "))
        assert f"The candidate fails on x {shape} (" in note and note.endswith("give shapes that it was exported for.")
    with pytest.raises(ValueError, match=r"The candidate fails on x \(300, 12\) \(.*\): give shapes that it was"):
        bqcore.audit(layer, linear_session(moved, rows=1), None, x)


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


@pytest.mark.parametrize("dtype", ["u1", "u8", "i4"])
def test_classes_may_be_integers_of_any_type(dtype):
    right = GOOD(X).argmax(axis=1)
    usual = bqcore.audit(GOOD, GOOD, (X, right), (X, right), nodes=0)
    mixed = [(X[:99], right[:99].astype(dtype)), (X[99:], right[99:])]
    found = bqcore.audit(GOOD, GOOD, (X, right.astype(dtype)), mixed, nodes=0)
    assert found.dataset.equals(usual.dataset) and found.notes == usual.notes


def test_a_classifier_that_draws_at_random_is_refused():
    generator = np.random.default_rng(0)
    noisy = lambda x: GOOD(x) + generator.normal(size=(len(x), 4))  # noqa: E731
    with pytest.raises(
        ValueError, match=r"The candidate answers one batch twice with different logits \(200 of 200 rows"
    ):
        bqcore.audit(GOOD, noisy, None, X)


def test_a_session_of_several_outputs_needs_one_named_logits(linear):
    session = linear_session(linear[0], ("scores", "labels"))
    with pytest.raises(ValueError, match=r"The candidate gives 2 outputs \(scores, labels\): name one of them logits"):
        bqcore.audit(linear[0], session, None, linear[1])


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(60, 400))
def test_shuffled_rows_are_refused_and_named(seed, classes, n):
    generator = np.random.default_rng(seed)
    y = np.arange(n) % classes
    z = 10 * np.eye(classes)[y] + generator.normal(size=(n, classes))
    q = z + 0.1 * generator.normal(size=z.shape)
    order = generator.permutation(n)
    assume((y[order] == y).mean() < (classes == 2) * 0.5 + 1.5 / classes)
    sure = {"nodes": 0, "gradient_samples": 0}
    inputs = {"before": z, "after": q}
    bqcore.audit(before, after, None, (inputs, y), **sure)
    for odd, (split, targets) in {
        "the candidate's are in another order": ({"before": z, "after": q[order]}, y),
        "the reference's decisions are in another order": ({"before": z[order], "after": q}, y),
        "the given classes are in another order": (inputs, y[order]),
    }.items():
        with pytest.raises(ValueError, match=odd):
            bqcore.audit(before, after, None, (split, targets), **sure)
    with pytest.raises(ValueError, match="one of them is in another order"):
        bqcore.audit(before, after, None, {"before": z, "after": q[order]}, **sure)
    bqcore.audit(before, after, None, {"before": z, "after": q[order]}, check_order=False, **sure)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_bad_and_unbalanced_candidates_are_not_taken_for_shuffled_ones(seed):
    """One that decides for one class only, one right half of the time, and one where a class has nine tenths."""
    generator = np.random.default_rng(seed)
    y = np.arange(300) % 10
    z = 10 * np.eye(10)[y] + generator.normal(size=(300, 10))
    one_class = z.copy()
    one_class[:, 3] = 100
    half = np.where(generator.random((300, 1)) < 0.5, z, generator.permutation(z))
    for q in (one_class, half):
        bqcore.audit(before, after, None, {"before": z, "after": q})
    rare = (generator.random(300) < 0.1).astype(int)
    z = 10 * np.eye(2)[rare] + generator.normal(size=(300, 2))
    bqcore.audit(before, after, None, ({"before": z, "after": -z[:, ::-1]}, rare))


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


def test_what_the_package_exports_has_no_module_s_name():
    """Python would put the module in its place once that is imported."""
    names = {path.stem for path in Path(bqcore.__file__).parent.glob("*.py")}
    assert not names & set(bqcore._HOME) and all(callable(getattr(bqcore, name)) for name in bqcore._HOME)
