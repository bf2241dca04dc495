"""Rows and classes in one order: permuted classes are named, and told from shuffled rows and from bad classifiers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bqcore
from bqcore.auditing import orders
from tests.helpers.audits import after, before

PLAIN = {"nodes": 0, "gradient_samples": 0}


def drawn(seed: int, classes: int, n: int, right: float = 1.0):
    """Return classes, and logits that decide for them in a fraction of the samples."""
    generator = np.random.default_rng(seed)
    y = generator.integers(classes, size=n)
    chosen = np.where(generator.random(n) < right, y, generator.integers(classes, size=n))
    return y, 10 * np.eye(classes)[chosen] + generator.normal(size=(n, classes))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(200, 500), st.data())
def test_permuted_classes_are_named_and_no_shuffled_rows(seed, classes, n, data):
    y, z = drawn(seed, classes, n, 0.9)
    order = np.array(data.draw(st.permutations(range(classes))))
    assume((order != np.arange(classes)).any())
    moved = np.flatnonzero(order != np.arange(classes))
    assume(np.bincount(y, minlength=classes)[moved].min() > 10)
    expected = {int(c): int(order[c]) for c in moved}
    assert orders.renumbered(z.argmax(1), order[z.argmax(1)], classes) == expected
    first = moved[0]
    says = rf"what is {first}.* in the reference's decisions is {order[first]}.* in the given classes .*: the given classes"
    with pytest.raises(ValueError, match=says):
        bqcore.audit(before, after, None, ({"before": z, "after": z}, order[y]), **PLAIN)
    columns = np.argsort(order)  # the candidate's column c is the reference's columns[c]
    with pytest.raises(ValueError, match=rf"is {order[first]}.* in the candidate's .*: the candidate's are numbered"):
        bqcore.audit(before, after, None, ({"before": z, "after": z[:, columns]}, y), **PLAIN)


@pytest.mark.parametrize("swapped", [(3, 5), (0, 9, 4)])
def test_two_classes_of_ten_that_are_swapped_are_named_where_accuracy_is_merely_bad(swapped):
    y, z = drawn(0, 10, 2000, 0.97)
    order = np.arange(10)
    order[list(swapped)] = np.roll(swapped, 1)
    named = order[y]
    accuracy = (z.argmax(1) == named).mean()
    assert accuracy > 0.6
    inputs = {"before": z, "after": z}
    says = rf"they agree on {accuracy:.1%} of the samples as they are and on {(z.argmax(1) == y).mean():.1%} so\)"
    with pytest.raises(ValueError, match=says):
        bqcore.audit(before, after, None, (inputs, named), **PLAIN)
    found = bqcore.audit(before, after, None, (inputs, named), check_order=False, **PLAIN)
    (note,) = (note for note in found.notes if "number the classes differently" in note)
    assert "check_order" not in note and note.endswith("the given classes are numbered in another way.")


def test_a_circle_of_classes_with_a_sample_each_is_found():
    y = np.arange(30)
    assert orders.renumbered(y, np.roll(y, 1), 30) == dict(enumerate(np.roll(y, 1).tolist()))


def test_a_permutation_is_looked_for_among_the_most_frequent_classes(monkeypatch):
    monkeypatch.setattr(orders, "_MOST", 2)
    y = np.repeat([0, 1, 2, 3], (30, 100, 100, 30))
    assert orders.renumbered(y, 3 - y, 4) == {1: 2, 2: 1}


@pytest.mark.parametrize(("classes", "more"), [(8, ""), (9, ", …")])
def test_so_many_classes_are_listed_and_of_more_the_first(classes, more):
    y = np.repeat(np.arange(classes), 9)
    shown = "0, 1, 2, 3, 4, 5, 6, 7"
    assert f"what is {shown}{more} in A is" in orders._permuted("A", "B", y, (y + 1) % classes, classes)


def test_rows_look_shuffled_from_an_overlap_of_seven_tenths_on():
    y = np.repeat([0, 1, 2], (50, 20, 30))
    for counts, says in (((50, 50, 0), "overlap 70%"), ((49, 51, 0), "")):  # by chance 35 of 100 agree
        other = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], counts))
        assert says in orders._shuffled("A", "B", y, other, 3) and bool(
            orders._shuffled("A", "B", y, other, 3)
        ) == bool(says)


def test_classes_that_begin_at_one_are_named():
    y, z = drawn(1, 6, 300)
    y[y == 5], z[y == 5] = 4, 0  # so that classes 1 to 5 occur
    z[np.arange(300), y] = 20
    with pytest.raises(
        ValueError, match=r"what is 0, 1, 2, 3, 4.* in the reference's decisions is 1, 2, 3, 4, 5.* in the"
    ):
        bqcore.audit(before, after, None, ({"before": z, "after": z}, y + 1), **PLAIN)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(50, 500), st.sampled_from([0.0, 0.3, 0.6]))
def test_bad_confused_and_shuffled_classifiers_are_not_renumbered(seed, classes, n, right):
    y, z = drawn(seed, classes, n, right)
    generator = np.random.default_rng(seed)
    if classes > 2:  # of three classes one always goes to another: no circle
        collapsed = np.where(y == 0, 1, y)
        assert orders.renumbered(y, collapsed, classes) == {}
    assert orders.renumbered(y, np.zeros(n, int), classes) == {}
    for other in (z.argmax(1), generator.permutation(y)):
        assert orders.renumbered(y, other, classes) == {}


def test_many_classes_take_little_time_and_memory():
    y, z = drawn(2, 3, 50)
    generator = np.random.default_rng(0)
    first = generator.integers(50_000, size=200_000)
    order = np.arange(50_000)
    order[[7, 8]] = 8, 7
    first[:600] = np.arange(600) % 2 + 7
    assert orders.renumbered(first, order[first], 50_000) == {7: 8, 8: 7}
    assert orders.renumbered(first, generator.permutation(first), 50_000) == {}


# What is wrong with a classifier that gives two answers


def test_a_classifier_that_changes_itself_draws_nothing_at_random():
    import torch
    from torch import nn

    class Observed(nn.Linear):
        """A layer with the running range of an observer, by which it scales."""

        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("highest", torch.ones(1))

        def forward(self, x):
            self.highest += 0.1
            return super().forward(x) * self.highest

    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    says = (
        r"its tensor highest \(1 of 3\) changes while it answers: freeze it \(observers, running statistics, caches\)\."
    )
    with pytest.raises(ValueError, match=r"The candidate answers one batch twice with different logits .*: " + says):
        bqcore.audit(nn.Linear(3, 3).eval(), Observed().eval(), None, x)
    calls = []

    def counting(batch):
        calls.append(0)
        return batch.numpy() * (1 + 0.1 * len(calls))

    with pytest.raises(ValueError, match=r"drawn at random .* or kept from one call to the next"):
        bqcore.audit(nn.Linear(3, 3).eval(), counting, None, x)


# Masked classes


def test_classes_that_are_masked_are_legal_and_never_runner_up_by_chance():
    z = np.array([[2.0, 1, -np.inf], [-np.inf, 0, -np.inf], [1, 2, 3], [3, 1, 0], [0, 1, 2]])
    q = np.array([[1.0, 2, -np.inf], [-np.inf, 1, -np.inf], [1, 0, -np.inf], [-np.inf, -np.inf, 0], [0, 1, 2]])
    found = bqcore.audit(before, after, None, {"before": z, "after": q}, **PLAIN)
    d = found.dataset.sel(split="heldout")
    assert d.flip_rate == 3 / 5 and d.pair_order_flip_rate == 2 / 5
    assert d.flipped_sample.values.tolist() == [0, 2, 3] and d.flipped_margin.values.tolist() == [1, 1, 2]
    assert d.flipped_moved.values.tolist() == [-1, -np.inf, 0]  # of the last, both are masked: nothing is reversed
    assert np.isfinite(found.to_dict()["splits"]["heldout"]["band_margin"]) and d.margin_change[0] == 2
    assert found.to_dict()["flipped"][1]["moved"] is None and "–" in found.to_html()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(20, 100), st.floats(0, 0.6))
def test_masked_logits_give_what_very_low_ones_do(seed, classes, n, share):
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(n, classes))
    q = z + 0.3 * generator.normal(size=z.shape)
    hidden = generator.random(z.shape) < share
    hidden[np.arange(n), generator.integers(classes, size=n)] = False
    masked, low = (
        {"before": np.where(hidden, value, z), "after": np.where(hidden, value, q)} for value in (-np.inf, -1e9)
    )
    found, expected = (bqcore.audit(before, after, None, inputs, **PLAIN).dataset for inputs in (masked, low))
    for name in ("flip_rate", "band_flip_rate", "flipped_sample", "pair_flips", "group_flips", "decided_candidate"):
        assert found[name].equals(expected[name]), name


def test_logarithms_of_probabilities_of_zero_are_legal():
    from sklearn.ensemble import RandomForestClassifier

    x, y = np.random.default_rng(0).normal(size=(300, 3)), np.random.default_rng(1).integers(3, size=300)
    forest = RandomForestClassifier(3, max_depth=6, random_state=0).fit(x, y)
    with np.errstate(divide="ignore"):
        assert np.isneginf(forest.predict_log_proba(x)).any()
        found = bqcore.audit(forest, forest.predict_log_proba, None, (x, y), check_order=False, nodes=9)
    assert found.dataset.flip_rate.sel(split="heldout") == 0


@pytest.mark.parametrize(
    ("value", "place", "says"),
    [
        (np.nan, (7, 2), "candidate logits hold 1 non-finite values of 60, first at sample 7, class 2: the model"),
        (np.inf, (3, 0), "candidate logits hold 1 non-finite values of 60, first at sample 3, class 0: the model"),
        (
            -np.inf,
            (4,),
            "candidate logits are −∞ for every class in 1 rows of 20, first at sample 4: leave at least one",
        ),
        (np.inf, (9,), "hold 3 non-finite values of 60, first at sample 9, class 0: the model diverged"),
    ],
)
def test_what_is_no_logit_is_named(value, place, says):
    z = np.random.default_rng(0).normal(size=(20, 3))
    q = z.copy()
    q[place] = value
    with pytest.raises(ValueError, match=says):
        bqcore.audit(before, after, None, {"before": z, "after": q}, **PLAIN)


def test_inputs_that_are_not_finite_are_named_as_the_reason():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[5, 1], x[6, 0] = np.nan, np.nan
    says = (
        "reference logits hold 6 non-finite values of 60, first at sample 5, class 0: the inputs hold 2, too; clean or"
    )
    with pytest.raises(ValueError, match=says):
        bqcore.audit(lambda x: x @ np.eye(3), lambda x: x, None, x, **PLAIN)
