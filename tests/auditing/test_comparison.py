"""The audit: known answers, what comes out, its limits and notes, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from torch import nn

import bqcore
from bqcore._threads import one_thread
from bqcore.metrics import boundary_distances, exact_slices, planes
from bqcore.metrics.statistics import mcnemar
from bqcore.quantizers import uniform
from studies import catalogue
from tests.helpers.audits import GOOD, SPEC, X, held, of_logits, pairs_of_logits

# Known answers


def test_a_case_worked_by_hand():
    z = np.array([[3.0, 2, 0], [3, 2, 0], [3, 2, 0], [3, 2, 0], [0, 1, 0.5]])
    q = np.array([[3.0, 2, 0], [2, 3, 0], [2, 1, 4], [1, 2, 4], [0, 1, 1]])
    found = of_logits(z, q, np.array([0, 0, 2, 1, 1]), fraction=0.4)
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
        "pair_order_flip_rate", "band_pair_order_flip_rate", "displacement", "signed_distance_change",
        "normal_variation", "third_class",
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


# What comes out


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


# Notes


def test_a_candidate_fitted_to_its_calibration_split_is_noticed():
    z = np.random.default_rng(0).normal(size=(400, 4))
    found = of_logits(z, -z, calibration={"before": z, "after": z})
    assert any("more often (100.00%) than those of the calibration split (0.00%)" in note for note in found.notes)


def test_classes_that_the_candidate_lost_are_counted():
    columns = np.array([0, 1, 1, 2, 2, 2, 3, 3])
    ones = 9 * np.eye(5)
    z, q = ones[columns], ones[np.where(columns == 3, 3, 2)]
    q[0] = ones[3]  # of the four classes that are decided for, two are lost; the fifth is nobody's
    (note,) = (note for note in of_logits(z, q).notes if "never decides" in note)
    assert note == "The candidate never decides for 2 of the classes that the reference decides for."
    q[:2] = ones[[0, 1]]
    assert not any("never decides" in note for note in of_logits(z, q).notes)


def test_a_reference_that_knows_no_more_than_one_class_is_doubted():
    right = GOOD(X).argmax(axis=1)
    mostly_one = np.where(np.arange(200) < 150, 0, right)
    for classes, doubted in ((right, False), ((right + 1) % 4, True), (mostly_one, True)):
        found = bqcore.audit(GOOD, GOOD, None, (X, classes), nodes=0, check_order=False)
        hits, most = (right == classes).sum(), np.bincount(classes).max()
        assert doubted == (hits <= most) == any("are its weights loaded" in note for note in found.notes), (hits, most)
    assert not any("weights" in note for note in bqcore.audit(GOOD, GOOD, None, X, nodes=0).notes)
    always = np.stack([np.ones(200), np.zeros(200)], axis=1) + 9  # as often right as one class for all
    assert any("right on 150 of 200" in note for note in of_logits(always, always, np.arange(200) // 150).notes)


# Refusals


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
    (GOOD, GOOD, (X, np.full(200, 0.5)), "Held-out split: classes are of type float64, and 200 of 200 are no whole numbers, first 0.5: give class indices"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 1}, "Nodes a side is 1: give at least 2, or 0 to leave slices out"),
        ({"fraction": 0}, "Band fraction is 0: the boundary band would be empty"),
    ],
)
def test_what_no_split_allows_is_refused_before_one_is_measured(options, message):
    with pytest.raises(ValueError, match=message):
        bqcore.audit(GOOD, lambda x: pytest.fail("measured"), X, X, **options)


# The numbers of others


@settings(max_examples=60)
@given(pairs_of_logits(), st.sampled_from([0.1, 0.2, 1.0]))
def test_what_scikit_learn_and_scipy_measure_too_is_the_same(pair, fraction):
    z, q, y = pair
    found = of_logits(z, q, y, fraction=fraction)
    d = held(found)
    a, b = (np.asarray(torch.as_tensor(x).double()).argmax(1) for x in (z, q))
    assert float(d.accuracy_reference) == pytest.approx(metrics.accuracy_score(y, a))
    assert float(d.accuracy) == pytest.approx(metrics.accuracy_score(y, b))
    assert float(d.flip_rate) == pytest.approx(1 - metrics.accuracy_score(a, b))
    table = metrics.confusion_matrix(a, b, labels=range(z.shape[1]))
    flips = {(i, j): table[i, j] for i, j in np.argwhere(table) if i != j}
    assert dict(zip(zip(d.pair_from.values, d.pair_to.values), d.pair_flips.values)) == flips
    assert d.decided_both.values.tolist() == table.diagonal().tolist()
    assert (d.decided_reference.values.tolist(), d.decided_candidate.values.tolist()) == (
        table.sum(axis=1).tolist(), table.sum(axis=0).tolist(),
    )  # fmt: skip
    kinds = metrics.confusion_matrix(a == y, b == y, labels=[True, False])
    assert (d.right_to_wrong_events, d.wrong_to_right_events) == (kinds[0, 1], kinds[1, 0])
    for name, trials in (("flip_rate", d.samples), ("band_flip_rate", d.band_samples), ("accuracy", d.samples)):
        exact = scipy.stats.binomtest(int(d[f"{name}_events"]), int(trials)).proportion_ci(method="exact")
        assert (float(d[f"{name}_low"]), float(d[f"{name}_high"])) == pytest.approx((exact.low, exact.high), abs=1e-9)


@given(pairs_of_logits(), st.floats(0.001, 0.3))
def test_mcnemars_test_of_a_loss_agrees_with_the_verdict_at_a_limit_of_zero(pair, alpha):
    """What is lost without doubt by the bounds of the verdict is lost by McNemar's exact test as SciPy has it."""
    z, q, y = pair
    found = of_logits(z, q, y)
    lost, won = (int(held(found)[f"{name}_events"]) for name in ("right_to_wrong", "wrong_to_right"))
    if found.judge({"accuracy_loss": 0.0}, alpha=alpha).word == "do not ship":
        assert scipy.stats.binomtest(lost, lost + won, alternative="greater").pvalue <= alpha
    a, b = (np.asarray(torch.as_tensor(x).double()).argmax(1) == y for x in (z, q))
    assert mcnemar(a, b)[:2] == (lost, won)
