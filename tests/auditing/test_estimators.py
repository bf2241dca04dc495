"""A decision is what the estimator decides: scores are held against predict; thresholds are taken off; ties counted."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import bqcore
from bqcore.auditing import adapters
from tests.helpers.audits import held

QUICK = {"nodes": 0, "gradient_samples": 0, "check_order": False}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(400, 3))
TWO = (X[:, 0] + RANDOM.normal(size=400) > 0).astype(int)
THREE = np.digitize(X[:, 0] + 0.5 * RANDOM.normal(size=400), [-0.5, 0.5])


def flips(reference, candidate, x=X) -> int:
    return int(held(bqcore.audit(reference, candidate, None, x, **QUICK)).flip_rate_events)


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(10, random_state=0)


THRESHOLDS = {
    "fixed": lambda: FixedThresholdClassifier(LogisticRegression(), threshold=0.2),
    "of the first class": lambda: FixedThresholdClassifier(LogisticRegression(), threshold=0.7, pos_label="no"),
    "of a score": lambda: FixedThresholdClassifier(SVC(), threshold=0.7, response_method="decision_function"),
    "of a score of the first class": lambda: FixedThresholdClassifier(
        SVC(), threshold=-0.4, response_method="decision_function", pos_label="no"
    ),
    "tuned, of a forest": lambda: TunedThresholdClassifierCV(forest(), random_state=0),
    "never": lambda: FixedThresholdClassifier(forest(), threshold=1.0),
    "in a pipeline": lambda: make_pipeline(
        StandardScaler(copy=False), FixedThresholdClassifier(LogisticRegression(), threshold=0.8)
    ),
    "around a pipeline": lambda: FixedThresholdClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()), threshold=0.8
    ),
    "in a search": lambda: GridSearchCV(
        FixedThresholdClassifier(LogisticRegression(), threshold=0.3), {"estimator__C": [0.1, 1.0]}, cv=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_threshold_of_its_own_decides(kind):
    names = np.array(["no", "yes"])[TWO]
    base, other = LogisticRegression().fit(X, names), THRESHOLDS[kind]().fit(X, names)
    assert flips(base, other) == (base.predict(X) != other.predict(X)).sum() > 0


SEVERAL = [
    lambda: SVC(), lambda: OneVsOneClassifier(SVC()), lambda: OneVsRestClassifier(SVC()), RidgeClassifier, forest,
    HistGradientBoostingClassifier, AdaBoostClassifier,
]  # fmt: skip


@pytest.mark.parametrize("make", SEVERAL)
@pytest.mark.parametrize("y", [TWO, THREE])
def test_estimators_decide_as_they_predict(make, y):
    base, other = LogisticRegression().fit(X, y), make().fit(X, y)
    moved = base.predict(X) != other.predict(X)
    z = adapters.logits_function(other)(X)
    top = np.sort(z, axis=1)
    ties = top[:, -1] == top[:, -2]  # predict may break them otherwise
    assert abs(flips(base, other) - moved.sum()) <= ties.sum()
    assert np.array_equal(other.classes_[z.argmax(1)][~ties], other.predict(X)[~ties])


def test_an_estimator_without_classes_has_a_label_for_each_column():
    other = IsolationForest(n_estimators=20, random_state=0).fit(X)
    z = adapters.logits_function(other)(X)
    assert np.array_equal(np.array([-1, 1])[z.argmax(1)], other.predict(X))


class Cautious(LogisticRegression):
    """Decides for the last class wherever it is not sure."""

    def predict(self, x):
        labels = super().predict(x)
        labels[self.predict_proba(x).max(axis=1) < 0.6] = self.classes_[-1]
        return labels


class Rounded:
    """A regression made into a classifier: it predicts the nearest number and scores by distance to the first two."""

    classes_ = np.array([0, 1])

    def fit(self):
        return self

    def decision_function(self, x):
        return x[:, 0]

    def predict(self, x):
        return np.rint(x[:, 0]).astype(int)


class Thresholded(nn.Module):
    """A torch module with a method of its own for decisions."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x)

    def predict(self, x):
        return (self(x).softmax(1)[:, 1] > 0.3).long()


class Callable(Rounded):
    """Is called for its scores."""

    def __call__(self, x):
        return np.stack([0 * x[:, 0], x[:, 0] - 0.5], axis=1)

    def predict(self, x):
        return np.array(["low", "high"])[(x[:, 0] > 0.6).astype(int)]

    classes_ = None


def test_a_decision_that_is_not_the_largest_score_s_is_refused_with_the_sample():
    cautious = Cautious().fit(X, TWO)
    usual = LogisticRegression().fit(X, TWO)
    wrong = np.flatnonzero(usual.predict(X) != cautious.predict(X))
    says = (
        rf"^The candidate decides otherwise than by its largest score on {len(wrong)} of 400 samples of a batch, first "
        rf"at its sample {wrong[0]}: predict says 1, and the largest score is that of class 0: give a function"
    )
    with pytest.raises(ValueError, match=says):
        flips(usual, cautious)
    with pytest.raises(ValueError, match="The reference decides otherwise .* on .* of 400"):
        flips(Rounded(), usual)
    torch.manual_seed(0)
    module = Thresholded().eval()
    for size in (1, 64, 400):
        with pytest.raises(ValueError, match="The reference decides otherwise than by its largest score"):
            bqcore.audit(module, module, None, X.astype(np.float32), batch_size=size, **QUICK)
        with pytest.raises(
            ValueError, match="decides otherwise .* predict says '(low|high)', and the largest score is that of"
        ):
            bqcore.audit(Callable(), Callable(), None, X, batch_size=size, **QUICK)
    assert flips(module.forward, module.forward, torch.from_numpy(X).float()) == 0


def test_an_estimator_of_named_columns_predicts_from_what_it_was_given():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    scaled = ColumnTransformer([("scaled", StandardScaler(), ["c", "a"])])
    model, other = (make_pipeline(scaled, LogisticRegression(C=c)).fit(frame, THREE) for c in (1.0, 1e-3))
    assert flips(model, other, frame) == (model.predict(frame) != other.predict(frame)).sum() > 0


class Single(nn.Linear):
    """Has one score, and a decision."""

    def predict(self, x):
        return (self(x)[:, 0] > 0).long()


def test_a_single_score_is_refused_by_what_it_is_and_not_held_against_decisions():
    with pytest.raises(ValueError, match="reference logits have K = 1 class: a decision boundary needs two"):
        flips(Single(3, 1).eval(), Single(3, 1).eval(), torch.from_numpy(X).float())


class Turned(Rounded):
    """Predicts for each column the name of another, always the same one."""

    classes_ = np.array(["a", "b", "c"])

    def decision_function(self, x):
        return x

    def predict(self, x):
        return self.classes_[::-1][x.argmax(axis=1)]


def test_the_names_of_columns_are_the_estimator_s_and_are_not_learned_from_what_it_predicts():
    wrong = (X.argmax(axis=1) != 1).sum()
    with pytest.raises(
        ValueError, match=f"largest score on {wrong} of 400 samples .* predict says '[ac]', and the larg"
    ):
        flips(Turned(), Turned())


def test_votes_that_tie_go_to_the_class_that_the_estimator_takes():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(600, 2))
    y = np.arange(600) % 7
    votes, usual = SVC(gamma=5).fit(x, y), LogisticRegression().fit(x, y)
    scores = votes.decision_function(x)
    assert not np.array_equal(scores.argmax(1), votes.predict(x))
    for wrapped in (votes, make_pipeline(votes), GridSearchCV(votes, {"C": [1.0]}, cv=2).fit(x, y)):
        assert flips(usual, wrapped, x) == (usual.predict(x) != wrapped.predict(x)).sum()
    assert np.allclose(np.sort(adapters.logits_function(votes)(x))[:, -1], scores.max(1))
    assert flips(usual, votes.set_params(break_ties=True), x) == (usual.predict(x) != scores.argmax(1)).sum()


def test_several_labels_a_sample_are_refused():
    many = OneVsRestClassifier(LogisticRegression()).fit(X, np.stack([TWO, 1 - TWO, THREE > 1], axis=1))
    with pytest.raises(ValueError, match=r"The reference predicts several labels a sample \(shape \(400, 3\)\)"):
        flips(many, many)


class Predicting:
    """Has a predict that is none of labels, or that fails."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def __call__(self, x):
        return np.stack([x[:, 0], -x[:, 0]], axis=1)

    def predict(self, x):
        self.asked += 1
        return self.answer(x)


@pytest.mark.parametrize("answer", [lambda x: x[:, 0], lambda x: x[:, :2], lambda x: 1 / 0, lambda x: None])
def test_a_predict_that_says_no_labels_is_not_asked_again(answer):
    model = Predicting(answer)
    assert flips(model, model) == 0 and model.asked <= 2  # once as the reference and once as the candidate


# Ties


def test_ties_of_a_candidate_that_answers_in_integers_are_counted_apart():
    z = np.random.default_rng(0).normal(size=(1000, 4))
    votes = np.rint(2 * z).astype(int)
    a = z.argmax(1)
    moved = votes.argmax(1) != a
    ties = moved & (votes[np.arange(1000), a] == votes.max(1))
    found = bqcore.audit(lambda b: b, lambda b: np.rint(2 * b).astype(int), None, z, **QUICK)
    assert int(held(found).tied_flips) == ties.sum() == moved.sum() > 50  # rounding keeps the order
    assert f", {ties.sum()} of them ties of its largest scores, which the order of the columns decides" in str(found)
    found = bqcore.audit(lambda b: b, lambda b: b + 0.1 * b[:, ::-1], None, z, **QUICK)
    assert int(held(found).tied_flips) == 0 and "ties" not in found.conclusion


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 50))
def test_ties_are_those_of_plain_numpy(seed, classes, size):
    generator = np.random.default_rng(seed)
    z, q = generator.normal(size=(60, classes)), generator.integers(-2, 3, (60, classes))
    inputs = {"z": z, "q": q}
    found = bqcore.audit(lambda b: b["z"], lambda b: b["q"], None, inputs, batch_size=size, **QUICK)
    expected = sum(r[a] == r.max() and r.argmax() != a for a, r in zip(z.argmax(1), q))
    assert int(held(found).tied_flips) == expected


# Outputs that are no scores of classes


def test_one_column_and_sigmoids_are_asked_about():
    s = np.random.default_rng(0).normal(size=(60, 3))
    p = 1 / (1 + np.exp(-s))
    for one, shape in ((p[:, :1], "K = 1 class"), (p[:, 0], r"shape \(60,\)")):
        with pytest.raises(ValueError, match=rf"{shape}: .*; is it a score s, give the columns \(0, s\); is it a prob"):
            bqcore.audit(lambda b: b, lambda b: b, None, one, **QUICK)
    says = (
        "The reference's scores all lie in [0, 1] and have no common sum, as sigmoids of several labels do. Are several"
    )
    found = bqcore.audit(lambda b: b, lambda b: b, p, p, **QUICK)
    assert sum(note.startswith(says) for note in found.notes) == 1
    module = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()).eval()
    assert says in str(bqcore.sweep(module, s, s)) and says in str(bqcore.plan_bits(module, s, s, budget=10**6))
    scaled = p / p.sum(axis=1, keepdims=True) * 0.9
    for scores in (scaled, 2 * p, s):
        assert says not in str(bqcore.audit(lambda b: b, lambda b: b, None, scores, **QUICK))
