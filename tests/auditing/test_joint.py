"""Weights and activations together: measured as they are, with every flip laid to one of the two, to either or both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bqcore
from bqcore.auditing import joint
from bqcore.quantizers.activations import fake_quantize
from bqcore.quantizers.uniform import quantize
from studies import networks
from tests.helpers.nets import normal


def by_hand(model, x, *, bits=None, ranges=None, activation_bits=8):
    """Return the decisions of a plain network with its weights, its activations, or both rounded."""
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            if ranges is not None:
                x = fake_quantize(x, *ranges[i], activation_bits)
            weight = layer.weight if bits is None else quantize(layer.weight, bits)
            x = nn.functional.linear(x, weight, layer.bias)
        else:
            x = layer(x)
    return x.argmax(1).numpy()


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(2, 5), st.integers(2, 6), st.sampled_from([None, 16]))
def test_flips_are_those_of_a_loop_over_the_layers_and_each_has_one_cause(seed, bits, activation_bits, size):
    model, x, held = networks.mlp((6, 8, 4), seed).eval(), normal(40, 6, seed=seed), normal(60, 6, seed=seed + 1)
    options = {"activations": "static", "activation_bits": activation_bits, "batch_size": size}
    found = bqcore.sweep(model, x, held, bits=(8, bits), **options)
    with torch.no_grad():
        ranges, y = {}, x
        for i, layer in enumerate(model):
            ranges[i], y = (float(y.min()), float(y.max())), layer(y)
        on, z = held, by_hand(model, held)
        w = by_hand(model, on, bits=bits) != z
        a = by_hand(model, on, ranges=ranges, activation_bits=activation_bits) != z
        both = by_hand(model, on, bits=bits, ranges=ranges, activation_bits=activation_bits) != z
    counts = [(both & w & ~a).sum(), (both & a & ~w).sum(), (both & w & a).sum(), (both & ~w & ~a).sum()]
    here = found.dataset.sel(split="heldout", bits=bits)
    assert here.flips_by.values.tolist() == counts and int(here.flip_rate_events) == both.sum() == sum(counts)
    assert here.flips_by.long_name and found.dataset.activation_bits == activation_bits
    assert f"Activations have {activation_bits} bits (static)" in found.conclusion


def test_the_recommendation_is_for_both_together():
    model = nn.Linear(2, 2, bias=False).eval()
    model.weight.data = 3 * torch.eye(2)  # exact at any bits
    a = torch.linspace(0.0, 1.0, 201)[:, None]
    x = torch.cat([a, 0.9 - a], dim=1)[(a[:, 0] - 0.45).abs() > 0.01]  # inputs from -0.1 to 1
    assert bqcore.sweep(model, x, x, bits=(8, 4)).recommended == (4, True)
    found = bqcore.sweep(model, x, x, bits=(8, 4), activations="static", activation_bits=2)
    # The step is 1.1 / 3 and the levels are 0 to 3 of it: where both inputs round to one level, the first class wins.
    levels = (x * 3 / 1.1).round()
    flips = int(((levels[:, 0] >= levels[:, 1]) != (x[:, 0] > x[:, 1])).sum())
    assert flips > 10 and not found.recommended.kept and not found.dataset.flips_by.sel(cause="weights").any()
    assert (found.dataset.flips_by.sel(cause="activations") == flips).all()
    assert f"of {flips} held-out flips at 8 bits, 0 are due to the weights alone, {flips} to the activations" in str(
        found
    )


def test_dynamic_ranges_need_no_calibration_and_do_not_depend_on_the_batch():
    model, x = networks.mlp((6, 8, 4), 3).eval(), normal(60, 6)
    found = [bqcore.sweep(model, iter([x]), x, bits=(4,), activations="dynamic", batch_size=n).dataset for n in (60, 7)]
    assert found[0].flips_by.equals(found[1].flips_by)
    np.testing.assert_allclose(found[0].margin_change, found[1].margin_change, rtol=1e-4)


def test_skipped_layers_keep_their_activations():
    model, x = networks.mlp((6, 8, 4), 3).eval(), normal(60, 6)
    rounded = joint.rounding(model, x, "static", bits=2, percentile=100.0, batch_size=None, skip="0")
    assert list(rounded(model).ranges) == ["2"]
    with torch.no_grad():
        y = torch.relu(model[0](x))
        expected = model[2](fake_quantize(y, 0.0, y.max(), 2))
        assert torch.equal(rounded(model)(x), expected)


def test_what_can_not_be_is_refused():
    model, x = networks.mlp((6, 8, 4), 3).eval(), normal(60, 6)
    with pytest.raises(ValueError, match="a list_iterator, which can be gone through once, and static"):
        bqcore.sweep(model, iter([x]), x, activations="static")
    with pytest.raises(ValueError, match="Kind of activations is 'both': choose one of 'static', 'dynamic'."):
        bqcore.sweep(model, x, x, activations="both")
    assert np.array_equal(joint.CAUSES, ["weights", "activations", "either", "together"])
