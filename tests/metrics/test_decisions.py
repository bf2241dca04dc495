"""Decisions: known answers, what holds for any logits, and every refusal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bqcore.metrics.decisions import (
    band_flip_rate,
    boundary_band,
    decide,
    flips,
    margin,
    pair_order_flip_rate,
    top_pair,
)


@st.composite
def logit_pairs(draw, classes=(2, 12), least=1):
    """Draw logits before and after, and true classes; few distinct values give ties, many give none."""
    shape = draw(st.integers(least, 40)), draw(st.integers(*classes))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        before, after = generator.integers(-2, 3, (2, *shape)).astype(draw(st.sampled_from(["f4", "f8", "i8"])))
    else:
        before = generator.normal(size=shape) * 10.0 ** draw(st.integers(-30, 30))
        after = before + draw(st.sampled_from([0.0, 0.1, 1.0])) * np.abs(before).max() * generator.normal(size=shape)
    return before, after, generator.integers(shape[1], size=shape[0])


def first_two(row) -> tuple[int, int]:
    """Rank by the plainest rule: larger first, lower index first on ties."""
    ranked = sorted(range(len(row)), key=lambda k: (-row[k], k))
    return ranked[0], ranked[1]


def test_the_paper_s_four_rates_on_a_case_worked_by_hand():
    before = np.array([[3.0, 2, 0], [3, 2, 0], [3, 2, 0], [3, 2, 0], [0, 1, 0.5]])
    after = np.array([
        [3.0, 2, 0],  # kept
        [2, 3, 0],  # 0 -> 1, the pair reversed
        [2, 1, 4],  # 0 -> 2, the pair in order
        [1, 2, 4],  # 0 -> 2, the pair reversed
        [0, 1, 1],  # a tie is no flip: the first index wins, and equal is in order
    ])  # fmt: skip
    assert flips(before, after, [0, 0, 2, 1, 1]) == (3 / 5, 1 / 5, 1 / 5, 1 / 5)
    assert pair_order_flip_rate(before, after) == 2 / 5
    assert margin(before).tolist() == [1, 1, 1, 1, 0.5]
    assert boundary_band(before).tolist() == [4] and boundary_band(before, 0.4).tolist() == [4, 0]
    assert band_flip_rate(before, after) == 0 and band_flip_rate(before, after, 0.6) == 1 / 3


@given(logit_pairs())
def test_winner_runner_up_and_margin_by_the_plain_rule(drawn):
    logits = drawn[0]
    kept = logits.copy()
    pairs = [first_two(row) for row in logits.tolist()]
    assert decide(logits).tolist() == [a for a, _ in pairs]
    assert np.stack(top_pair(logits), axis=1).tolist() == [list(pair) for pair in pairs]
    assert margin(logits).tolist() == [float(row[a]) - float(row[b]) for row, (a, b) in zip(logits.tolist(), pairs)]
    assert np.array_equal(logits, kept)


@given(logit_pairs(least=5), st.floats(0.01, 1))
def test_rates_are_shares_counted_one_by_one(drawn, share):
    before, after, targets = drawn
    n, ranks = len(before), [first_two(row) for row in before.tolist()]
    old, new = [a for a, _ in ranks], [first_two(row)[0] for row in after.tolist()]
    changed = [o != c for o, c in zip(old, new)]
    kinds = [
        sum(c and o == t for c, o, t in zip(changed, old, targets)),
        sum(c and k == t for c, k, t in zip(changed, new, targets)),
        sum(c and t not in (o, k) for c, o, k, t in zip(changed, old, new, targets)),
    ]
    assert flips(before, after, targets) == (sum(changed) / n, *(kind / n for kind in kinds))
    assert sum(kinds) == sum(changed)
    reversed_pairs = sum(row[a] < row[b] for row, (a, b) in zip(after.tolist(), ranks))
    assert pair_order_flip_rate(before, after) == reversed_pairs / n
    band = boundary_band(before, share)
    assert band_flip_rate(before, after, share) == np.mean([changed[i] for i in band])


@given(logit_pairs())
def test_without_true_classes_only_the_rate_is_known(drawn):
    before, after, targets = drawn
    found = flips(before, after)
    assert found.rate == flips(before, after, targets).rate and all(map(math.isnan, found[1:]))
    assert flips(before, before, targets) == (0, 0, 0, 0) and pair_order_flip_rate(before, before) == 0


@given(logit_pairs(least=5), st.integers(1, 100))
def test_band_holds_the_smallest_margins_in_order_earlier_first(drawn, percent):
    m = margin(drawn[0])
    size = -(-percent * len(m) // 100)  # rounded up, in integers
    expected = sorted(range(len(m)), key=lambda i: (m[i], i))[:size]
    assert boundary_band(drawn[0], percent / 100).tolist() == expected


def test_whole_numbers_are_not_rounded_up():
    """Floating point may miss them, 0.07 · 100 for instance, or leave nothing."""
    for percent in range(1, 101):
        assert len(boundary_band(np.zeros((100, 2)), percent / 100)) == percent
    for n in range(5, 500, 5):
        assert len(boundary_band(np.zeros((n, 2)))) == n // 5 and len(boundary_band(np.zeros((n + 1, 2)))) == n // 5 + 1
    assert len(boundary_band(np.zeros((450, 2)), 1e-12)) == 1


@given(logit_pairs(classes=(2, 2)))
def test_two_classes_flip_when_their_order_does_but_for_ties(drawn):
    before, after, _ = drawn
    assume((margin(before) > 0).all() and (margin(after) > 0).all())
    assert flips(before, after).rate == pair_order_flip_rate(before, after)


@given(logit_pairs(classes=(3, 12)))
def test_with_more_classes_a_reversed_pair_is_always_a_flip(drawn):
    """The other way round a third class may win; a flip with the pair in order needs one."""
    before, after, _ = drawn
    (a, b), new, row = top_pair(before), decide(after), np.arange(len(before))
    reversed_pair = after[row, a] < after[row, b]
    assert pair_order_flip_rate(before, after) <= flips(before, after).rate
    assert (new[reversed_pair] != a[reversed_pair]).all()
    tied = after[row, a] == after[row, b]
    in_order = (new != a) & ~reversed_pair & ~tied
    assert (new[in_order] != b[in_order]).all()


@given(logit_pairs(least=5), st.integers(0, 2**32 - 1))
def test_renaming_the_classes_changes_no_rate(drawn, seed):
    before, after, targets = drawn
    assume((margin(before) > 0).all() and (margin(after) > 0).all())
    order = np.random.default_rng(seed).permutation(before.shape[1])
    renamed = np.argsort(order)  # class k is now called renamed[k]
    assert decide(before[:, order]).tolist() == renamed[decide(before)].tolist()
    assert flips(before[:, order], after[:, order], renamed[targets]) == flips(before, after, targets)
    assert pair_order_flip_rate(before[:, order], after[:, order]) == pair_order_flip_rate(before, after)
    assert boundary_band(before[:, order]).tolist() == boundary_band(before).tolist()


@given(logit_pairs(least=5), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_tensors_of_any_float_type_give_what_their_values_give(drawn, dtype):
    before, after, targets = (torch.from_numpy(np.asarray(x)) for x in drawn)
    before, after = before.to(dtype).requires_grad_(True), after.to(dtype)
    assume(torch.isfinite(before).all() and torch.isfinite(after).all())
    values = before.detach().double().numpy(), after.double().numpy()
    assert flips(before, after, targets) == flips(*values, targets.numpy())
    assert pair_order_flip_rate(before, after) == pair_order_flip_rate(*values)
    assert margin(before).tolist() == margin(values[0]).tolist() and margin(before).dtype == np.float64
    assert boundary_band(before).tolist() == boundary_band(values[0]).tolist()


def test_a_thousand_classes():
    logits = np.zeros((5, 1000))
    logits[:, 999], logits[:, 998] = 3, 2
    assert decide(logits).tolist() == [999] * 5 and top_pair(logits)[1].tolist() == [998] * 5
    assert margin(logits).tolist() == [1] * 5


def holding(value, *places) -> np.ndarray:
    logits = np.zeros((45, 100))
    for place in places:
        logits[place] = value
    return logits


REFUSED = [
    (holding(np.nan, (17, 2), (17, 3), (44, 0)), "hold 3 non-finite values of 4500, first at sample 17, class 2: the"),
    (holding(-np.inf, (0, 99)), "hold 1 non-finite values of 4500, first at sample 0, class 99"),
    (torch.from_numpy(holding(np.inf, (3, 1))).bfloat16(), "hold 1 non-finite values of 4500, first at sample 3"),
    (np.zeros((0, 3)), r"hold no samples \(shape \(0, 3\)\): give at least one"),
    (np.zeros((5, 1)), r"have K = 1 class: a decision boundary needs two"),
    (np.zeros((5, 0)), r"have K = 0 class"),
    (np.zeros(5), r"have shape \(5,\): give one row a sample and one column a class, \(N, K\)"),
    (np.zeros((5, 3, 2)), r"have shape \(5, 3, 2\): give one row"),
    (np.zeros((5, 3), complex), "are of type complex128: give real numbers"),
    (np.zeros((5, 3), bool), "are of type bool: give real numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("logits", "message"), REFUSED)
def test_logits_are_refused(logits, message):
    for measure in (decide, top_pair, margin, boundary_band):
        name = "Logits " if measure is not boundary_band else ""
        with pytest.raises(ValueError, match=name + message):
            measure(logits)
    good = np.zeros(logits.shape)
    for measure in (flips, pair_order_flip_rate, band_flip_rate):
        with pytest.raises(ValueError, match="Reference logits " + message):
            measure(logits, good)
        if good.ndim == 2 and good.shape[0] > 0 and good.shape[1] > 1:
            with pytest.raises(ValueError, match="Candidate logits " + message):
                measure(good, logits)


@pytest.mark.parametrize("measure", [flips, pair_order_flip_rate, band_flip_rate])
@pytest.mark.parametrize("other", [(9, 3), (10, 4)])
def test_logits_of_other_inputs_or_classes_are_refused(measure, other):
    message = rf"Reference logits have shape \(10, 3\) and candidate logits \({other[0]}, {other[1]}\): both must come"
    with pytest.raises(ValueError, match=message):
        measure(np.zeros((10, 3)), np.zeros(other))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1, 3], "Targets run from 0 to 3, but the logits have classes 0 to 2"),
        ([0, -1, 2], "Targets run from -1 to 2, but the logits"),
        ([0, 1], r"Decisions have shape \(3,\) and targets \(2,\)"),
        ([0.0, 1.0, 2.0], "Targets are of type float64: give class indices as integers"),
        ([[0, 1, 2]], r"Targets have shape \(1, 3\): expected 1 dimension\."),
        ([], r"Targets are empty \(shape \(0,\)\): give at least one"),
    ],
)
def test_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        flips(np.zeros((3, 3)), np.zeros((3, 3)), targets)


def test_bands_are_refused():
    for n in range(1, 5):
        with pytest.raises(ValueError, match=f"A boundary band needs at least 5 inputs, and there are {n}"):
            boundary_band(np.zeros((n, 2)))
        with pytest.raises(ValueError, match=f"A boundary band needs at least 5 inputs, and there are {n}"):
            band_flip_rate(np.zeros((n, 2)), np.zeros((n, 2)))
    with pytest.raises(ValueError, match="Band fraction is 0: the boundary band would be empty"):
        boundary_band(np.zeros((10, 2)), 0)
    for share in (-0.1, 1.1, float("nan"), True, "0.2", None):
        with pytest.raises(ValueError, match=f"Band fraction is {share!r}: give a number from 0 to 1"):
            boundary_band(np.zeros((10, 2)), share)
