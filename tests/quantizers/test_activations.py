"""Rounded activations: grids by hand, as torch's own, ranges by calibration, and a model that stays as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bqcore.quantizers import activations
from tests.helpers.nets import normal


def test_levels_by_hand():
    x = torch.tensor([-3.0, -1.0, -0.4, 0.0, 0.4, 1.4, 1.6, 2.0, 7.0])
    expected = torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0])
    assert torch.equal(activations.fake_quantize(x, -1.0, 2.0, 2), expected)
    # A range that does not hold 0 is widened to it: 4 levels from 0 to 6.
    assert activations.fake_quantize(torch.tensor([2.9, 3.1, 5.5]), 3.0, 6.0, 2).tolist() == [2.0, 4.0, 6.0]
    assert activations.fake_quantize(torch.tensor([0.0, 0.7]), 0.0, 0.0).tolist() == [0.0, 1.0]  # a range of nothing
    assert torch.isnan(activations.fake_quantize(torch.tensor([float("nan")]), 0.0, 1.0)).all()


@given(st.integers(0, 999), st.integers(2, 12), st.floats(-100, 50), st.floats(0.01, 150))
def test_levels_are_those_of_torch(seed, bits, low, width):
    x, high = 40 * normal(64, seed=seed), low + width
    low_, high_ = torch.tensor(min(low, 0.0)), torch.tensor(max(high, 0.0))
    step = (high_ - low_) / (2**bits - 1)
    zero = int(torch.round(-low_ / step))
    own = activations.fake_quantize(x, low, high, bits)
    theirs = torch.fake_quantize_per_tensor_affine(x, step.item(), zero, 0, 2**bits - 1)
    apart = (own - theirs).abs()
    # They multiply by the inverse, so that a value halfway between levels may fall to the other side.
    assert ((apart < 1e-4) | ((x / step - (x / step).floor() - 0.5).abs() < 1e-3)).all() and apart.max() <= step * 1.001
    assert len(own.unique()) <= 2**bits and (activations.fake_quantize(torch.zeros(3), low, high, bits) == 0).all()


def test_ranges_are_those_of_what_goes_into_each_layer():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).eval()
    model[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    batches = [torch.tensor([[1.0, -3.0]]), torch.tensor([[5.0, 2.0]])]
    assert activations.calibrate(model, batches) == {"0": [(-3.0, 5.0)], "2": [(0.0, 6.0)]}
    assert activations.calibrate(model, batches, skip="0") == {"2": [(0.0, 6.0)]}
    x = normal(1000, 2)
    (found,) = activations.calibrate(model, [x], percentile=99)["0"]
    assert found == pytest.approx(np.quantile(x.numpy(), [0.01, 0.99]), rel=1e-6)
    halves = [activations.calibrate(model, [part], percentile=99)["0"][0] for part in x.split(500)]
    assert activations.calibrate(model, x.split(500), percentile=99)["0"][0] == pytest.approx(np.mean(halves, axis=0))


def test_static_and_dynamic_rounding_by_hand():
    layer = nn.Linear(2, 1, bias=False).eval()
    layer.weight.data = torch.tensor([[1.0, 10.0]])
    x = torch.tensor([[0.6, 3.0], [0.2, 0.3]])
    # Static, levels 0, 1, 2, 3: (1, 3) and (0, 0). Dynamic, each row to its own largest: 0.3 has levels 0, 0.1, 0.2, 0.3.
    static = activations.activated(layer, [torch.tensor([[0.0, 3.0]])], bits=2)
    assert static(x).flatten().tolist() == [31.0, 0.0]
    dynamic = activations.activated(layer, bits=2, kind="dynamic")
    assert dynamic(x).flatten().tolist() == pytest.approx([31.0, 3.2]) and torch.equal(dynamic(x)[1:], dynamic(x[1:]))
    assert torch.equal(dynamic(x[1]), dynamic(x)[1])  # without a batch axis
    assert layer(x).flatten().tolist() == pytest.approx([30.6, 3.2]) and not layer._forward_pre_hooks


def test_ranges_may_be_of_a_part_of_what_is_called():
    inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    ranges, x = activations.calibrate(inner, [normal(50, 2)]), normal(9, 2, seed=1)
    around = activations.Activated(nn.Sequential(inner), ranges, bits=2, of=inner)
    assert torch.equal(around(x), activations.Activated(inner, ranges, bits=2)(x))
    assert not torch.allclose(around(x), inner(x), atol=0.01)


def test_shared_layers_attention_recurrent_layers_and_keywords_are_rounded_once_a_call():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps, self.look = nn.GRU(1, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)
            self.head, self.words = nn.Linear(4, 4), nn.Embedding(3, 4)

        def forward(self, x):
            h, _ = self.steps(x[..., None])
            h = self.look(h, key=h, value=h)[0].mean(1)
            return self.head(self.head(input=h) + self.words(torch.zeros(len(x), dtype=torch.long)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().eval()
    x, seen = normal(20, 6), []
    with torch.no_grad(), activations.inputs_through(model, lambda name, i, x: seen.append((name, i)) or x):
        plain = model(x)
    assert [place for place in seen if place[0] == "head"] == [("head", 0)] * 2
    assert [i for name, i in seen if name.startswith("look.") and "out" not in name] == [0, 1, 2]
    assert not any(name.startswith("words") for name, _ in seen)
    with torch.no_grad():
        fine = activations.activated(model, [x], bits=16)(x)
        coarse = activations.activated(model, [x], bits=3)(x)
    assert 0 < (fine - plain).abs().max() < 1e-3 < (coarse - plain).abs().max()


def test_what_is_no_choice_is_refused():
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="Kind of activations is 'fixed': choose one of 'static', 'dynamic'."):
        activations.activated(layer, kind="fixed")
    with pytest.raises(ValueError, match="Bits of activations is 1: give an integer from 2 to 16."):
        activations.fake_quantize(torch.zeros(2), 0.0, 1.0, 1)
    with pytest.raises(ValueError, match="Percentile is 40: give a number from 50 to 100."):
        activations.calibrate(layer, [], percentile=40)
