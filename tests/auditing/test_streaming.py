"""Splits batch by batch: as all logits at once, in little memory; probabilities and shuffled rows are found."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special
from torch import nn

import bqcore
from bqcore.auditing import adapters, streaming
from bqcore.metrics import decisions, statistics
from bqcore.quantizers import uniform
from tests.helpers.audits import GOOD, X, after, before, held, of_logits, pairs_of_logits

# Pooled batches


@pytest.mark.slow
@given(pairs_of_logits(), st.integers(1, 70), st.floats(0.01, 1))
def test_batches_of_any_size_give_what_all_logits_give(drawn, size, share):
    z, q, y = drawn
    assume(not streaming._are_probabilities(adapters.to_numpy(z)))
    assume(not streaming._are_probabilities(adapters.to_numpy(q)))
    found = of_logits(z, q, y, fraction=share, batch_size=size)
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


@given(st.integers(1, 9), st.integers(2, 5), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_rows_are_kept_alike_in_pieces_of_any_size_and_with_classes_masked(n, classes, piece, seed):
    """Many ties and −∞: sorting in plain Python says who wins and who comes second, a masked class if all others are."""
    z, q, r = np.random.default_rng(seed).choice(np.float32([-np.inf, -1, 0, 1]), (3, n, classes))
    for values in (z, q, r):
        values[np.arange(n), np.random.default_rng(seed).integers(classes, size=n)] = 2.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_PIECE", piece)
        a, b, margin, *others = streaming._kept([(values, values.argmax(axis=1)) for values in (z, q, r)])
    ranks = [sorted(range(classes), key=lambda j, row=row: (-row[j], j)) for row in z]
    assert [(i, j) for i, j, *_ in ranks] == list(zip(a, b)) and a.dtype == b.dtype == np.int32
    rows = np.arange(n)
    assert np.array_equal(margin, z[rows, a] - z[rows, b])
    for found, other in ((others[:3], q), (others[3:], r)):
        decision, moved, tied = found
        assert decision.tolist() == [row.tolist().index(max(row)) for row in other]
        same = other[rows, a] == other[rows, b]
        assert np.array_equal(moved[~same], (other[rows, a] - other[rows, b])[~same]) and not moved[same].any()
        assert tied.tolist() == (other[rows, a] == other.max(axis=1)).tolist()


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


# Probabilities


@pytest.mark.parametrize("size", [1, 7, 999, 1000, 1001, 3000])
@pytest.mark.parametrize("first_logits", [3, 998, 999, 1000, 2999, None])
def test_probabilities_are_found_by_a_thousand_rows_whatever_the_batch_size(size, first_logits):
    """Rows like (1, 0) are logits if any of the first thousand rows is no probability."""
    z = np.tile([1.0, 0.0], (3000 if first_logits is None or first_logits > 999 else 1003, 1))
    if first_logits is not None:
        z[first_logits] = -1, 2
    if first_logits is not None and first_logits < 1000:
        assert held(of_logits(z, 2 * z, batch_size=size)).flip_rate == 0
        return
    with pytest.raises(ValueError, match="The reference seems to give probabilities .* or say probabilities=True"):
        of_logits(z, 2 * z, batch_size=size)


def test_a_long_split_of_probabilities_is_refused_before_it_is_measured():
    measured = []

    def candidate(batch):
        measured.append(len(batch))
        return np.full((len(batch), 4), 0.25)

    with pytest.raises(ValueError, match="The candidate seems to give probabilities"):
        bqcore.audit(GOOD, candidate, None, np.tile(X, (50, 1)), batch_size=300, nodes=0)
    assert sum(measured) <= 1200 + 2 * 300  # its first batch is asked for twice, and its half


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


# What a split may not be


def test_a_batch_s_own_range_is_noticed():
    def own_range(x):
        return x @ np.eye(3) * (1 + 1e-2 * np.abs(x).max())

    x = np.random.default_rng(0).normal(size=(200, 3)) * np.linspace(0.1, 1, 200)[:, None]
    found = bqcore.audit(lambda x: x, own_range, None, x)
    assert any(note.startswith("The candidate's logits depend on what else is in the batch") for note in found.notes)


def test_decisions_that_the_rest_of_a_batch_moves_are_counted():
    def centred(x):
        return x - x.mean(axis=0)

    x = np.random.default_rng(0).normal(size=(200, 3)) + np.linspace(0, 1, 200)[:, None] * [0, 1, 2]
    moved = (centred(x)[:100].argmax(axis=1) != centred(x[:100]).argmax(axis=1)).sum()
    found = bqcore.audit(lambda x: x, centred, None, x, check_order=False)
    (note,) = (note for note in found.notes if "depend on what else" in note)
    assert f"moving {moved} of 100 decisions between batches of 200 and 100)" in note and moved > 5


@pytest.mark.parametrize("span", [1e-3, 1e3])
def test_two_answers_differ_by_a_fraction_of_the_logits_range(span):
    noise = np.random.default_rng(0)
    for part, differs in ((1e-7, False), (1e-4, True)):
        again = lambda x, part=part: span * (x + part * noise.random(x.shape))  # noqa: E731
        if differs:
            with pytest.raises(ValueError, match="answers one batch twice with different logits"):
                bqcore.audit(again, again, None, X, check_order=False, nodes=0, gradient_samples=0)
        else:
            bqcore.audit(again, again, None, X, check_order=False, nodes=0, gradient_samples=0)


def test_a_bar_is_named_and_counts_the_samples_of_every_classifier(monkeypatch):
    out, bar = io.StringIO(), tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bar(**options | {"disable": False, "file": out}))
    streaming.decide_split({"reference": GOOD, "candidate": GOOD}, X, "heldout", progress="Audit")
    last = out.getvalue().split("\r")[-1]
    assert last.startswith("Audit, Held-out split: 100%") and "400/400" in last


def test_classes_that_change_between_batches_are_refused():
    with pytest.raises(ValueError, match="The reference gives 3 classes and its first batch 4"):
        bqcore.audit(lambda b: b, lambda b: b, None, iter([X[:, :4], X[:, :3]]))


def test_a_classifier_that_draws_at_random_is_refused():
    generator = np.random.default_rng(0)
    noisy = lambda x: GOOD(x) + generator.normal(size=(len(x), 4))  # noqa: E731
    with pytest.raises(
        ValueError, match=r"The candidate answers one batch twice with different logits \(200 of 200 rows"
    ):
        bqcore.audit(GOOD, noisy, None, X)


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
