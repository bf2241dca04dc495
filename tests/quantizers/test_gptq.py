"""GPTQ: error feedback by hand, and the error of whole networks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore.quantizers.gptq import error_feedback, gptq
from bqcore.quantizers.uniform import level_range, quantize, quantize_model, step_size
from tests.helpers import nets
from tests.helpers.nets import SEEDS, normal


@given(seed=SEEDS, bits=st.integers(2, 8))
@settings(max_examples=25)
def test_gptq_with_an_identity_hessian_rounds_to_nearest(seed, bits):
    weight = normal(5, 7, seed=seed)
    low, high = level_range(bits)
    step = float(step_size(weight, bits))
    assert torch.equal(error_feedback(weight, torch.eye(7), step, low, high), quantize(weight, bits))
    # Without any input there is no curvature, and nearest is as good as any.
    assert torch.equal(error_feedback(weight, torch.zeros(7, 7), step, low, high), quantize(weight, bits))


def test_gptq_feeds_an_error_to_the_weights_after_it():
    # Inputs that always come together: 0.4 is lost by the first, so that the second goes up from 1.3 to 1.7 and to 2.
    weight, together = torch.tensor([[1.4, 1.3, 3.0]]), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert error_feedback(weight, together, 1.0, -3, 3, damping=1e-4).tolist() == [[1.0, 2.0, 3.0]]


@given(seed=SEEDS, damping=st.floats(0.003, 0.3))
@settings(max_examples=25)
def test_what_is_fed_on_makes_the_damped_error_least(seed, damping):
    """Of two columns the second is moved to where the quadratic error, with the mean curvature added, is least."""
    weight, root = normal(64, 2, seed=seed).double(), normal(2, 2, seed=seed + 1).double()
    root[:, 0] *= 10  # curvatures far apart: their mean is not the largest
    hessian = root.T @ root
    full = hessian + damping * hessian.diagonal().mean() * torch.eye(2)
    first = (weight[:, 0] / 0.5).round().clamp(-99, 99) * 0.5
    moved = weight[:, 1] - full[1, 0] / full[1, 1] * (first - weight[:, 0])
    expected = torch.stack([first, (moved / 0.5).round().clamp(-99, 99) * 0.5], dim=1)
    assert torch.equal(error_feedback(weight, hessian, 0.5, -99, 99, damping=damping), expected + 0.0)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_gptq_lowers_the_error_of_a_network(kind):
    gains = []
    for seed in range(5):
        model, inputs = nets.net(kind, seed, 40)
        model = model.eval()
        with torch.no_grad():
            errors = [
                float((other(inputs) - model(inputs)).square().sum(1).mean())
                for other in (gptq(model, inputs, 3), quantize_model(model, 3))
            ]
        gains.append(errors[1] - errors[0])
    assert np.mean(gains) > 0
