"""Gates between two grid points, their schedule and penalty, and the quadratic error of a layer."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore.quantizers import _gates
from bqcore.quantizers._gates import Grid, exponent_at, gates_of
from bqcore.quantizers._layers import Quadratic
from bqcore.quantizers.adaround import optimize_rounding
from bqcore.quantizers.uniform import quantize
from tests.helpers.nets import SEEDS, normal


@given(st.integers(0, 99), st.integers(2, 8))
@settings(max_examples=10)
def test_gates_start_at_the_float_weights_and_end_at_the_nearest_if_nothing_moves_them(seed, bits):
    weight = normal(7, 5, seed=seed)
    grid = Grid(weight, bits, "narrow", "tensor")
    torch.testing.assert_close(grid.soft(gates_of(grid.start)), weight, rtol=1e-4, atol=1e-5)
    assert torch.equal(grid.hard(grid.start), quantize(weight, bits))
    assert torch.equal(grid.soft(torch.zeros(7, 5)), grid.lower * grid.step)


def test_a_gate_halfway_goes_up():
    grid = Grid(torch.tensor([3.0, 0.5, -1.25]), 3, "narrow", "tensor")
    halfway = torch.zeros(3)
    assert gates_of(halfway).tolist() == [0.5] * 3 and grid.hard(halfway).tolist() == [3, 1, -1]


def test_gates_at_the_ends_of_what_is_undecided_are_decided(monkeypatch):
    monkeypatch.setattr(_gates, "gates_of", lambda gates: gates)
    grid = Grid(torch.tensor([3.0, 0.5, -1.25, 0.25, 1.75]), 3, "narrow", "tensor")
    gates = torch.tensor([0.5, 0.01, 0.99, 0.011, 0.989])  # the first weight is on the grid, and has no gate
    assert grid.undecided(gates) == 2 and grid.undecided(torch.tensor([0.5, 0, 1, 0.01, 0.99])) == 0


def test_a_weight_on_the_grid_stays_there():
    weight = torch.tensor([[3.0, 0.0, -1.0, 0.4], [-3.0, 2.0, 1.0, 0.6]])
    layer = nn.Linear(4, 2, bias=False)
    layer.load_state_dict({"weight": weight})
    rounded, record = optimize_rounding(layer, normal(40, 4) * 10, 3, seed=0)
    assert torch.equal(rounded.weight[:, :3], weight[:, :3]) and record.free == {"": 2}
    for bits in range(2, 17):  # the largest weight is on the grid, whichever way 1/step rounds
        for seed in range(20):
            weight = normal(30, seed=seed)
            assert Grid(weight, bits, "narrow", "tensor").span[weight.abs().argmax()] == 0


def test_beta_falls_from_20_to_2_after_the_warm_up():
    betas = [exponent_at(step, 100) for step in range(100)]
    assert betas[:20] == [None] * 20 and betas[20] == 20 and betas[60] == pytest.approx(11) and 2 < betas[99] < 2.01
    assert sorted(betas[20:], reverse=True) == betas[20:]
    assert [exponent_at(step, 2) for step in (0, 1)] == [None, pytest.approx(11 + 9 * math.cos(math.pi * 3 / 8))]
    assert exponent_at(0, 1) is None  # a single step is all warm-up


def test_the_penalty_is_that_of_the_definition():
    grid = Grid(torch.tensor([3.0, 0.5, 1.25]), 3, "narrow", "tensor")
    gates = torch.tensor([0.5, 0.5, 0.25])  # the first weight is on the grid, and has no gate
    assert grid.penalty(gates, 2.0).item() == pytest.approx(1 + (1 - 0.5**2))


LAYERS = [
    (nn.Linear(5, 3), (7, 5)), (nn.Linear(5, 3, bias=False), (4, 2, 5)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9)),
    (nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 3, 6, 5)), (nn.Conv2d(2, 3, (3, 2), (1, 2), dilation=(2, 1)), (2, 2, 9, 8)),
    (nn.Conv2d(4, 4, 3, padding="same", groups=4), (2, 4, 5, 5)), (nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), (2, 2, 5, 6)),
    (nn.Conv2d(2, 3, 4, padding="same"), (2, 2, 5, 5)), (nn.Conv3d(2, 3, 2, stride=2), (2, 2, 4, 5, 4)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch copies the input: so be it
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value).split("(")[0])
@given(seed=SEEDS)
@settings(max_examples=5)
def test_the_error_of_a_layer_is_a_quadratic_form(layer, shape, seed):
    layer = copy.deepcopy(layer).double().requires_grad_(False)
    x, target_x = normal(*shape, seed=seed).double(), normal(*shape, seed=seed + 1).double()
    target = layer(target_x)
    form = Quadratic(layer)
    for part, y in zip(x.split(2), target.split(2)):
        form.add(part, y)
    form.close()
    other = copy.deepcopy(layer)
    other.weight += 0.1 * normal(*layer.weight.shape, seed=seed + 2)
    axis = -1 if isinstance(layer, nn.Linear) else 1

    def direct(weight):
        out = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return (out - target).square().sum(axis).mean()

    error, gradient = form(other.weight)
    torch.testing.assert_close(error, direct(other.weight), rtol=1e-11, atol=1e-11)
    expected = torch.func.grad(direct)(other.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)
