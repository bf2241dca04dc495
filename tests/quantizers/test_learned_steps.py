"""Learned step sizes: never worse than PTQ-W, with the gradient of LSQ."""

import pytest
import torch

from bqcore.quantizers import learned_steps
from bqcore.quantizers.learned_steps import learn_steps
from bqcore.quantizers.uniform import level_range, quantize_model
from tests.helpers import nets


@pytest.mark.slow
def test_learned_steps_are_the_best_that_were_passed_and_never_worse_than_ptq():
    for seed in range(6):
        model, inputs = nets.net("mlp", seed, 40)
        errors = []
        for steps in (5, 50, 200):  # the same path, followed further
            rounded, _ = learn_steps(model, inputs, 3, seed=0, steps=steps, learning_rate=0.01, batch_size=8)
            errors.append(float((rounded(inputs) - model(inputs)).square().sum(1).mean().detach()))
        nearest = float((quantize_model(model, 3)(inputs) - model(inputs)).square().sum(1).mean().detach())
        assert errors[2] <= errors[1] <= errors[0] <= nearest * (1 + 1e-6)  # float32: two ways to the same weights
        assert errors[2] < nearest


def test_the_last_step_is_looked_at_although_the_pass_is_not_over():
    model, inputs = nets.net("mlp", 0, 40)
    _, before = learn_steps(model, inputs, 3, seed=0, steps=1, learning_rate=1e-12, batch_size=8)
    rounded, sizes = learn_steps(model, inputs, 3, seed=0, steps=3, learning_rate=0.01, batch_size=8)
    errors = [(m(inputs) - model(inputs)).square().sum(1).mean() for m in (rounded, quantize_model(model, 3))]
    assert sizes != pytest.approx(before, rel=1e-6) and errors[0] < errors[1]


def test_learned_steps_reach_both_ends_of_either_range():
    model, inputs = nets.net("mlp", 0, 40)
    for scheme in ("narrow", "full"):
        rounded, sizes = learn_steps(model, inputs, 2, scheme=scheme, seed=0, steps=1, batch_size=8)
        codes = torch.cat([(rounded.get_submodule(n).weight.detach() / size).flatten() for n, size in sizes.items()])
        assert (codes.min().round(), codes.max().round()) == level_range(2, scheme)


def test_the_gradient_of_a_step_is_that_of_lsq():
    weight = torch.tensor([0.3, -0.26, 0.94, -4.0], dtype=torch.float64)
    size = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    out = learned_steps._through(weight, size, -3, 3)
    (gradient,) = torch.autograd.grad((out * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum(), size)
    # Inside: code − w/s; beyond the ends: the end itself. Codes are 1, −1, 3 (clipped at 3.76) and −3.
    assert out.tolist() == [0.25, -0.25, 0.75, -0.75]
    assert float(gradient) == pytest.approx((1 - 1.2) + 10 * (-1 + 1.04) + 100 * 3 - 1000 * 3, abs=1e-9)
