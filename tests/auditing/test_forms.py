"""Inputs and classes in the forms that people have them give what plain arrays give, or are named in one line."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import bqcore
from bqcore.auditing import forms
from bqcore.quantizers import uniform
from tests.helpers.audits import GOOD, X, held, linear_session

PLAIN = {"nodes": 0, "gradient_samples": 0, "check_order": False}
Y = (GOOD(X).argmax(1) + (np.arange(200) % 7 == 0)) % 4
X32 = X.astype(np.float32)


def layers() -> tuple[nn.Module, nn.Module]:
    """Return a linear layer and its three-bit twin."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(6, 4).eval()
    return layer, uniform.quantize_model(layer, 3)


def same(found, expected):
    """Check that two audits find the same decisions and rates."""
    xr.testing.assert_allclose(
        found.dataset.drop_vars("flipped_id", errors="ignore"), expected.dataset, rtol=1e-5, atol=1e-5
    )  # sums in another order


# Inputs


class Rows(Dataset):
    """A data set of samples."""

    def __init__(self, x, y=None):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] if self.y is None else (self.x[i], self.y[i])


class Streamed(IterableDataset):
    """The same one after the other."""

    def __iter__(self):
        return zip(torch.from_numpy(X32), Y)


class ByLabel(pd.DataFrame):
    """A frame that takes a range for labels, as pandas 2 does where the index is of floats."""

    def __getitem__(self, key):
        return self.loc[key] if isinstance(key, slice) else super().__getitem__(key)


FRAME = pd.DataFrame(X32, columns=list("abcdef"))
INPUTS = {
    "big-endian": (X32.astype(">f4"), Y), "longdouble": (X32.astype(np.longdouble), Y), "lists": (X32.tolist(), Y.tolist()),
    "tuples": (tuple(map(tuple, X32.tolist())), tuple(Y.tolist())), "list of rows": (list(X32), list(Y)),
    "list of tensors": (list(torch.from_numpy(X32)), Y), "sparse": (scipy.sparse.csr_array(X32), Y),
    "sparse without slices": (scipy.sparse.coo_matrix(X32), Y), "frame": (FRAME, pd.Series(Y)),
    "frame with an index of floats": (ByLabel(FRAME.set_index(np.linspace(5, 1, 200))), Y),
    "nullable frame": (FRAME.convert_dtypes(), pd.Series(Y, dtype="Int64")), "objects": (X32.astype(object), Y),
    "mixed frame": (FRAME.astype({"a": "Float32", "b": object}), Y), "read-only": (np.lib.stride_tricks.as_strided(X32, writeable=False), Y),
    "pairs": list(zip(X32, Y)), "pairs of tensors": [(torch.from_numpy(x), torch.tensor(y)) for x, y in zip(X32, Y)],
    "data set": TensorDataset(torch.from_numpy(X32), torch.from_numpy(Y)), "own data set": Rows(X32, Y.tolist()),
    "part of a data set": Subset(Rows(np.tile(X32, (2, 1)), np.tile(Y, 2)), range(200, 400)), "stream": Streamed(),
    "loader of a stream": DataLoader(Streamed(), 64), "sparse batches": [(scipy.sparse.csr_array(X32[i : i + 50]), Y[i : i + 50]) for i in range(0, 200, 50)],
    "pairs with columns": list(zip(X32, Y[:, None])),
    "lists of batches": [[X32[:90], Y[:90]], [X32[90:], Y[90:]]],
}  # fmt: skip


@pytest.fixture(scope="module", params=["torch", "session"])
def audited(request):
    """Return two classifiers and what an audit of them finds with plain arrays."""
    models = layers() if request.param == "torch" else [linear_session(layer) for layer in layers()]
    return models, bqcore.audit(*models, None, (X32, Y), batch_size=64, **PLAIN)


@pytest.mark.parametrize("form", INPUTS)
def test_inputs_in_every_form_give_what_an_array_gives(audited, form):
    models, expected = audited
    assert 0 < held(expected).flip_rate and 0 < held(expected).accuracy < 1
    same(bqcore.audit(*models, None, INPUTS[form], batch_size=64, **PLAIN), expected)


def test_a_data_set_without_classes_and_samples_of_several_sizes():
    models = layers()
    same(bqcore.audit(*models, None, Rows(X32), **PLAIN), bqcore.audit(*models, None, X32, **PLAIN))
    mean = lambda x: np.stack([np.asarray(x, float).mean((1, 2)), x[:, 0, 0]], 1)  # noqa: E731
    sizes = [np.random.default_rng(i).normal(size=(2 + i // 7 % 2, 3)) for i in range(40)]
    found = bqcore.audit(mean, lambda x: mean(x)[:, ::-1], None, Rows(sizes), **PLAIN)
    assert held(found).samples == 40 and held(found).flip_rate == 1


@pytest.mark.parametrize("key", ["label", "labels", "target", "classes"])
def test_classes_in_a_dictionary_are_found_by_their_key(key):
    models = [lambda batch, model=model: model(torch.as_tensor(batch["x"])).detach() for model in layers()]
    expected = bqcore.audit(*models, None, ({"x": X32}, Y), **PLAIN)
    whole = {"x": X32, key: Y}
    batched = [{"x": X32[i : i + 50], key: Y[i : i + 50]} for i in range(0, 200, 50)]
    samples = [{"x": x, key: int(y)} for x, y in zip(X32, Y)]
    for split in (whole, batched, samples, DataLoader(samples, 64), Rows(samples)):
        same(bqcore.audit(*models, None, split, **PLAIN), expected)
        assert key in whole and key in batched[0] and key in samples[0]
    both = {"x": X32, key: Y, "y": X32}  # y may be an input
    same(bqcore.audit(*models, None, both, **PLAIN), expected)


def test_texts_reach_a_classifier_of_texts():
    texts = [word * (1 + i % 9) for i, word in enumerate(["good ", "bad "] * 30)]
    scores = lambda batch: np.array([[text.count("good"), text.count("bad")] for text in batch], float)  # noqa: E731
    y = np.arange(60) % 2
    expected = bqcore.audit(scores, scores, None, (np.array(texts, object), y), **PLAIN)
    assert held(expected).accuracy == 1
    for split in ((texts, y), list(zip(texts, y.tolist())), (pd.Series(texts), y)):
        same(bqcore.audit(scores, scores, None, split, **PLAIN), expected)


STRANGE = [
    (np.ma.masked_invalid(np.where(X > 2.5, np.nan, X)), r"Held-out split: inputs are masked at \d+ of 1200 places: fill"),
    ([(X, Y, np.arange(200))], "Held-out split: a batch holds 3 parts: give inputs or \\(inputs, classes\\)"),
    ([(X[:9],), 3], "Held-out split: inputs are int: give an array"),
    ([[1.0, 2.0], [3.0], [4.0]], "Held-out split: inputs are a list of rows of different lengths"),
    (torch.eye(6).to_sparse(), "Held-out split: inputs are a sparse tensor: give it as .to_dense\\(\\) or as one of scipy"),
    (X * 1j, "The reference fails on inputs of type torch.complex128"),
    (FRAME.assign(a="red"), "The reference fails on inputs of shape \\(200, 6\\) \\(ValueError: could not convert string to"),
    (FRAME.assign(a=pd.array([None] + [1.0] * 199, "Float64")), "logits hold 4 non-finite .*: the inputs hold 1, too; clean"),
    (np.zeros((200, 6), [("a", float)]), "The reference fails on inputs of shape \\(200, 6\\) and type \\[\\('a', '<f8'\\)\\]"),
    (np.zeros((200, 6), bool), "The reference fails on inputs of type torch.bool .*: give them as in training"),
    (np.array(X[0, 0]), "Held-out split is ndarray: give inputs"),
    ({}, "Held-out split: inputs are dict: give an array"),
    (X[:, :5], "The reference fails on inputs of shape \\(200, 5\\) and type float64 \\(RuntimeError: mat1 and mat2"),
    (Rows([]), "Held-out split holds no samples"),
]  # fmt: skip


@pytest.mark.parametrize(("split", "says"), STRANGE)
def test_inputs_that_cannot_be_taken_are_named_in_one_line(split, says):
    with pytest.raises(ValueError, match=says) as caught:
        bqcore.audit(*layers(), None, split, **PLAIN)
    assert "\n" not in str(caught.value)


# Classes


CLASSES = {
    "column": Y[:, None], "one-hot": np.eye(4)[Y], "one-hot of booleans": np.eye(4, dtype=bool)[Y], "floats": Y.astype(float),
    "one-hot tensor": torch.eye(4)[torch.from_numpy(Y)], "bytes": Y.astype("u1"), "big-endian": Y.astype(">i8"), "list": Y.tolist(),
    "nullable": pd.Series(Y, dtype="Int64"), "objects": Y.astype(object), "frame of one column": pd.DataFrame({"y": Y}),
    "category": pd.Series(Y).astype("category"), "nullable floats": pd.Series(Y, dtype="Float64"),
}  # fmt: skip


@pytest.mark.parametrize("form", CLASSES)
def test_classes_in_every_form_are_the_same_classes(form):
    expected = bqcore.audit(GOOD, GOOD, None, (X, Y), **PLAIN)
    same(bqcore.audit(GOOD, GOOD, None, (X, CLASSES[form]), **PLAIN), expected)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.sampled_from(["i8", "f4", "O", "u1", ">i4", "f2"]))
def test_whole_numbers_of_any_type_are_classes(classes, dtype):
    found = forms.classes_of(np.array(classes).astype(dtype), "A split")
    assert found.tolist() == classes and found.dtype.kind in "iu"
    assert forms.classes_of(np.eye(6)[classes], "A split").tolist() == classes
    assert forms.classes_of(np.array(classes)[:, None], "A split").tolist() == classes


NO_CLASSES = [
    (np.full(200, 0.5), "classes are of type float64, and 200 of 200 are no whole numbers, first 0.5: give class indices"),
    (np.where(np.arange(200) == 7, np.nan, Y), "classes are of type float64, and 1 of 200 are no whole numbers, first nan"),
    (np.full((200, 4), 0.25), "classes have shape \\(200, 4\\), and 200 of 200 rows are not one-hot, the first of sample 0"),
    (np.where(np.arange(200)[:, None] == 9, 1, np.eye(4)[Y]), "and 1 of 200 rows are not one-hot, the first of sample 9"),
    (np.where(np.arange(200)[:, None] == 9, 0.5, np.eye(4)[Y]), "and 1 of 200 rows are not one-hot, the first of sample 9"),
    (pd.Series([None, *["a"] * 199]), "1 of 200 classes are missing, first at sample 0: leave these samples out"),
    (pd.Series(["a", "a", None] + ["a"] * 197, dtype="string"), "1 of 200 classes are missing, first at sample 2: leave"),
    ([1, pd.NA, np.nan] + [2] * 197, "2 of 200 classes are missing, first at sample 1: leave these samples out"),
    (pd.Series([1, None] * 100, dtype="Int64"), "and 100 of 200 are no whole numbers, first nan"),
    (np.zeros((200, 2, 2)), "classes have shape \\(200, 2, 2\\): give one class a sample"),
    (Y * 1j, "classes are of type complex128"), (np.array(Y, "datetime64[s]"), "classes are of type datetime64"),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "says"), NO_CLASSES)
def test_what_are_no_classes_is_named_in_one_line(classes, says):
    with pytest.raises(ValueError, match=f"Held-out split: .*{says}") as caught:
        bqcore.audit(GOOD, GOOD, None, (X, classes), **PLAIN)
    assert "\n" not in str(caught.value)


# Classes by name


def estimators(classes):
    """Return two fitted estimators that know *classes*, and data with true ones."""
    generator = np.random.default_rng(3)
    names = np.array(classes)
    x, y = generator.normal(size=(300, 4)), generator.integers(len(names), size=300)
    x[np.arange(300), y] += 2
    return (
        LogisticRegression().fit(x[:200], names[y[:200]]),
        LinearSVC().fit(x[:200], names[y[:200]]),
        x[200:],
        names[y[200:]],
    )


@pytest.mark.parametrize(
    "classes", [["cat", "dog", "owl"], [3, 7, 20], [1, 2, 3], [1.0, 2.0, 3.0], [-1, 1], [False, True], ["b", "a"]]
)
def test_classes_by_name_are_those_of_the_estimator(classes):
    first, second, x, y = estimators(classes)
    expected = np.mean(first.predict(x) == y), np.mean(second.predict(x) == y)
    assert min(expected) > 0.6
    for form in (y, pd.Series(y), y.tolist(), y[:, None]):
        d = held(bqcore.audit(first, second, None, (x, form), **PLAIN))
        assert (d.accuracy_reference, d.accuracy) == expected
    others = [make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)]
    for model in others + [first.decision_function] * (len(classes) > 2):
        d = held(bqcore.audit(model, second, None, (x, y), **PLAIN))
        assert d.accuracy == expected[1]
    d = held(bqcore.audit(first, second, None, [(x[:30], y[:30]), (x[30:], y[30:])], **PLAIN))
    assert (d.accuracy_reference, d.accuracy) == expected


def test_names_that_no_estimator_knows_are_refused_and_columns_are_taken_where_names_are_words():
    first, second, x, y = estimators(["cat", "dog", "owl"])
    with pytest.raises(
        ValueError, match="Held-out split: 2 of 100 classes are unknown, first 'cow': the classifiers know 'cat'"
    ):
        bqcore.audit(first, second, None, (x, np.where(np.arange(100) < 2, "cow", y)), **PLAIN)
    columns = np.searchsorted(first.classes_, y)
    same(bqcore.audit(first, second, None, (x, columns), **PLAIN), bqcore.audit(first, second, None, (x, y), **PLAIN))
    with pytest.raises(ValueError, match="classes are names, such as '...': give each as the index of its column"):
        bqcore.audit(
            lambda x: first.decision_function(x), lambda x: 2 * first.decision_function(x), None, (x, y), **PLAIN
        )
    third, _, x, y = estimators([1, 2, 3])
    with pytest.raises(ValueError, match="98 of 100 classes are unknown, first 0: the classifiers know 1, 2, 3"):
        bqcore.audit(third, third, None, (x, np.where(np.arange(100) < 2, 1, 0)), **PLAIN)


def test_estimators_that_know_different_classes_are_not_compared():
    first, _, x, _ = estimators(["cat", "dog", "owl"])
    other = estimators(["cat", "dog", "yak"])[0]
    says = "The reference knows the classes 'cat', 'dog', 'owl' and the candidate 'cat', 'dog', 'yak': both must know"
    with pytest.raises(ValueError, match=says):
        bqcore.audit(first, other, None, x, **PLAIN)
    numbered = estimators([0, 1, 2])[0]  # the same data, encoded
    assert held(bqcore.audit(first, numbered, None, x, **PLAIN)).flip_rate == 0


class Neighbours:
    """An estimator that knows probabilities alone."""

    def __init__(self, model):
        self.predict_proba = model.predict_proba


def test_estimators_of_probabilities_alone_are_taken_by_their_logarithms():
    first, _, x, y = estimators(["cat", "dog", "owl"])
    near = KNeighborsClassifier(3).fit(x, y)
    found = bqcore.audit(first, near, None, (x, y), **PLAIN)
    assert held(found).flip_rate == np.mean(first.predict(x) != near.predict(x))
    alone = Neighbours(near)
    d = held(bqcore.audit(near, alone, None, (x, y), **PLAIN))
    assert d.flip_rate == 0 and np.isfinite(d.margin_change).all()


def test_a_warning_of_feature_names_comes_once_and_not_with_every_batch(recwarn):
    first, second, x, y = estimators(["cat", "dog", "owl"])
    framed = LogisticRegression().fit(pd.DataFrame(x, columns=list("abcd")), y)
    import warnings

    warnings.simplefilter("always")
    bqcore.audit(framed, second, None, (x, y), batch_size=5, **PLAIN)
    assert [str(w.message)[:38] for w in recwarn] == ["X does not have valid feature names, b"]


def test_a_list_of_one_row_and_lists_of_texts_are_inputs():
    assert forms.inputs_of([[1.0, 2.0]], "A split").tolist() == [[1.0, 2.0]]
    assert [type(text) for text in forms.inputs_of(["a", "bc"], "A split")] == [str, str]  # not NumPy's
    ((found,),) = forms.batches_of([{"text": "a"}, {"text": "bc"}], "A split", None)
    assert [type(text) for text in found["text"]] == [str, str]


def test_samples_by_index_come_in_batches_of_the_size_asked_for():
    class Indexed:
        __len__ = lambda self: 7  # noqa: E731
        __getitem__ = lambda self, i: (X[i], Y[i])  # noqa: E731

    sizes = [[len(y) for _, y in forms.batches_of(Indexed(), "A split", size)] for size in (3, None)]
    assert sizes == [[3, 3, 1], [7]]


def test_a_dictionary_of_what_is_called_labels_alone_holds_inputs():
    inputs, classes = forms.parts_of({"labels": X}, "A split")
    assert inputs["labels"] is X and classes is None
