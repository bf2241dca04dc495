"""Inputs of every kind as batches: arrays, pairs, loaders and generators give the same."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bqcore
from bqcore.auditing import adapters, batching, streaming
from bqcore.quantizers import uniform
from tests.helpers.audits import GOOD, X, after, before, of_logits, pairs_of_logits


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


@pytest.mark.parametrize("dtype", ["u1", "u8", "i4"])
def test_classes_may_be_integers_of_any_type(dtype):
    right = GOOD(X).argmax(axis=1)
    usual = bqcore.audit(GOOD, GOOD, (X, right), (X, right), nodes=0)
    mixed = [(X[:99], right[:99].astype(dtype)), (X[99:], right[99:])]
    found = bqcore.audit(GOOD, GOOD, (X, right.astype(dtype)), mixed, nodes=0)
    assert found.dataset.equals(usual.dataset) and found.notes == usual.notes


def test_a_batch_is_512_samples_or_fewer_of_wide_ones():
    sizes = {width: batching.usual(np.empty((3, width), bool)) for width in (1, 1 << 15, 1 << 17, 1 << 25)}
    assert list(sizes.values()) == [512, 512, 128, 1]
