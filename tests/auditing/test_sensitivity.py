"""Which layer: each is measured as itself alone, with its bytes; one on the grid already changes nothing."""

import copy

import numpy as np
import torch
from torch import nn

import bqcore
from bqcore.metrics import decisions, margins
from bqcore.quantizers import uniform


def test_each_layer_alone_is_measured_as_itself_and_the_worst_comes_first(deep):
    model, _, (x, y) = deep
    found = bqcore.blame_layers(model, (x, y), bits=3, gradient_samples=1000)
    assert sorted(found.layer.values) == ["0", "2", "4", "6"]
    for ranked in (found, bqcore.blame_layers(model, (x, y), bits=8)):  # at 8 bits no band flip tells them apart
        order = list(zip(ranked.band_flip_rate.values, ranked.margin_change.sel(quantile=0.5).values))
        assert order == sorted(order, reverse=True)
    assert len(set(ranked.band_flip_rate.values)) < 4
    with torch.no_grad():
        z = model(x)
    for name in found.layer.values:
        twin = copy.deepcopy(model)
        layer = twin.get_submodule(str(name))
        layer.weight.data = uniform.quantize(layer.weight.data, 3)
        here = found.sel(layer=name)
        with torch.no_grad():
            q = twin(x)
        assert float(here.flip_rate) == decisions.flips(z, q).rate
        assert float(here.band_flip_rate) == decisions.band_flip_rate(z, q)
        change = margins.local_change(copy.deepcopy(model).double(), twin.double(), x.double())
        np.testing.assert_array_equal(here.displacement, np.quantile(np.abs(change.displacement), [0.5, 0.95]))
        assert int(here.weights) == layer.weight.numel() and int(here.bytes) == -(-layer.weight.numel() * 3 // 8) + 4


def test_a_layer_s_bytes_are_its_packed_weights_and_their_steps():
    model, x = nn.Linear(6, 3).eval(), torch.rand(40, 6)
    for granularity, steps in (("tensor", 1), ("channel", 3)):
        found = bqcore.blame_layers(model, x, bits=3, granularity=granularity).bytes
        assert found.long_name == "packed weights with their steps" and found.values.tolist() == [7 + 4 * steps]
        assert int(found[0]) == bqcore.model_bytes(model, 3, granularity=granularity) - 4 * 3  # biases


def test_a_layer_that_is_on_the_grid_already_is_not_to_blame(deep):
    model, _, held = deep
    model = copy.deepcopy(model)
    model[2].weight.data = uniform.quantize(model[2].weight.data, 4)
    last = bqcore.blame_layers(model, held, bits=4).isel(layer=-1)
    assert last.layer == "2" and last.flip_rate == 0
    # The step is computed anew from the quantized weights: equal but for a rounding of float32.
    assert float(last.margin_change.max()) < 1e-5 and float(last.displacement.max()) < 1e-5
