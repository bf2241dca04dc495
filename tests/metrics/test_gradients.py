"""Gradients of margins: autograd as oracle, to the last bit, for any classifier; every refusal."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bqcore.metrics.margins import margin_gradient, radius
from studies.networks import mlp
from tests.helpers.margins import Wavy, measures, radius_one_by_one
from tests.helpers.nets import SEEDS


@st.composite
def perceptrons(draw):
    """Draw a ReLU network of any depth and width, and its inputs: with dead units, ties and classes without a gradient."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)) + [draw(st.integers(2, 7))]
    generator = torch.Generator().manual_seed(draw(SEEDS))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    layers = []
    for into, out in zip(sizes, sizes[1:]):
        layer = nn.Linear(into, out, bias=draw(st.booleans())).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(out, into, generator=generator, dtype=dtype))
            layer.weight[torch.rand(out, generator=generator) < draw(st.sampled_from([0, 0.4]))] = 0  # dead, or flat
            if draw(st.booleans()):
                layer.weight.round_()  # many ties, and units at zero exactly
        layers += [layer, nn.ReLU(inplace=draw(st.booleans()))]
    layers = layers if draw(st.booleans()) else layers[:-1]
    inputs = torch.randn(draw(st.integers(1, 20)), sizes[0], generator=generator, dtype=dtype)
    if draw(st.booleans()):
        layers, inputs = [nn.Flatten(), *layers], inputs[:, None]
    return nn.Sequential(*layers), inputs.round() if draw(st.booleans()) else inputs


@given(perceptrons(), st.sampled_from([1, 7, 4096]))
def test_layer_by_layer_gradients_are_autograd_s_to_the_last_bit(case, batch_size):
    """The same operations in the same order; published results were made by autograd."""
    model, inputs = case
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(0.7 * weight.flip(0))
    expected = measures(lambda x: model(x), lambda x: other(x), inputs, batch_size=batch_size)
    before = inputs.clone()
    for x, y in zip(measures(model, other, inputs, batch_size=batch_size), expected):
        np.testing.assert_array_equal(x, y)
    assert torch.equal(inputs, before)


class Doubled(nn.Sequential):
    """More than its layers say."""

    def forward(self, x):
        return super().forward(x) ** 2


def test_what_is_no_plain_perceptron_goes_through_autograd():
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = mlp((6, 8, 4), 0).double()
    hooked, curved = copy.deepcopy(layers), nn.Sequential(*layers, nn.Tanh())
    hooked[1].register_forward_hook(lambda module, given, output: output**2)
    for model in (Doubled(*layers), hooked, curved, nn.Sequential(layers, layers[1])):
        found, (expected, rivals) = radius(model, inputs), zip(*radius_one_by_one(model, inputs))
        np.testing.assert_allclose(found.radius, expected, rtol=1e-10)
        assert found.rival.tolist() == list(rivals)
    maps = torch.randn(5, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"Logits have shape \(5, 3, 4\): give one row a sample"):
        radius(layers, maps)


@given(st.integers(2, 7), st.integers(1, 9), SEEDS)
def test_a_pair_s_margin_and_its_gradient_one_by_one(classes, n, seed):
    generator = torch.Generator().manual_seed(seed)
    winner = torch.randint(classes, (n,), generator=generator)
    rival = (winner + torch.randint(1, classes, (n,), generator=generator)) % classes
    images = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    for model, inputs in ((Wavy(classes), images), (mlp((16, 8, classes), 0).double(), images.flatten(1))):
        margin, gradient = margin_gradient(model, inputs, winner, rival.numpy().astype("u1"))
        assert gradient.shape == inputs.shape and not gradient.requires_grad and not margin.requires_grad
        for i in range(n):
            x = inputs[i : i + 1].clone().requires_grad_(True)
            z = model(x)[0]
            (expected,) = torch.autograd.grad(z[winner[i]] - z[rival[i]], x)
            np.testing.assert_allclose(gradient[i], expected[0], rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(margin[i], (z[winner[i]] - z[rival[i]]).item(), rtol=1e-10, atol=1e-13)


def test_a_first_layer_that_works_in_place_leaves_the_inputs_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), *mlp((4, 3), 0))
    inputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    before = inputs.clone()
    found = radius(model, inputs)
    assert torch.equal(inputs, before)
    np.testing.assert_array_equal(found.radius, radius(lambda x: model(x), inputs).radius)


def test_finite_inputs_whose_sum_overflows_are_taken():
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.eye(2) * 1e-10, "bias": torch.zeros(2)})
    found = radius(model, torch.tensor([[3e38, 1e38], [3e38, 2e38]]))
    np.testing.assert_allclose(found.radius, np.array([2e38, 1e38]) / 2**0.5, rtol=1e-5)


def test_what_overflows_in_the_classifier_is_the_caller_s():
    margin, gradient = margin_gradient(lambda x: x.exp(), torch.tensor([[0.0, 1e4]]), [1], [0])
    assert margin.tolist() == [torch.inf] and gradient.tolist() == [[-1, torch.inf]]


@pytest.mark.parametrize(
    ("winner", "rival", "message"),
    [
        ([0, 1], [1, 3], "Winners and rivals run from 0 to 3: give each input two classes from 0 to 2"),
        ([0, -1], [1, 0], "Winners and rivals run from -1 to 1: give each input two classes from 0 to 2"),
        ([0, 1], [1, 1], "Winners and rivals run from 0 to 1: give each input two classes from 0 to 2"),
        ([0, 1, 2], [1, 2, 0], r"Winners have shape \(3,\) and decisions \(2,\): both must come from the same inputs"),
        ([0, 1], [1], r"Winners have shape \(2,\) and rivals \(1,\): both must come from the same inputs"),
        ([0.0, 1.0], [1, 2], "Winners are of type float64: give class indices as integers"),
    ],
)
def test_classes_of_a_pair_are_refused(winner, rival, message):
    with pytest.raises(ValueError, match=message):
        margin_gradient(mlp((3, 4, 3), 0), torch.ones(2, 3), winner, rival)
