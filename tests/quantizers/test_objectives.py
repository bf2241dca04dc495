"""Rounding objectives: known answers, what holds on any network, every refusal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore.quantizers import objectives as rounding_objectives
from bqcore.quantizers.adaround import optimize_rounding
from bqcore.quantizers.gptq import error_feedback, gptq
from bqcore.quantizers.learned_steps import learn_steps
from bqcore.quantizers.objectives import OBJECTIVES, PLAIN, by_layer, divergence, hinge, learn
from bqcore.quantizers.uniform import level_range, quantize, step_size
from studies import networks
from tests.helpers import nets
from tests.helpers.nets import SEEDS, normal, same_bits

QUICK = {"steps": 20, "batch_size": 8}


def net(seed: int, kind: str = "mlp") -> tuple[nn.Module, torch.Tensor]:
    return nets.net(kind, seed, 40)


def strength_of(objective: str) -> float:
    return 0.0 if objective == PLAIN else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_plain_and_the_papers_term_are_optimized_rounding_to_the_last_bit(kind, started):
    model, inputs = net(3, kind)
    model = model.eval()
    layers, _ = optimize_rounding(model, inputs, 4, seed=0, steps=30, batch_size=8)
    assert same_bits(by_layer(model, inputs, 4, steps=30), layers)
    how = {"steps": 100, "batch_size": 8, "learning_rate": 0.1, "start": layers if started else None}
    plain, _ = learn(model, inputs, 4, seed=5, **how)
    assert same_bits(plain, optimize_rounding(model, inputs, 4, on="logits", seed=5, **how)[0])
    ours, learned = learn(model, inputs, 4, "gap", strength=3.0, seed=5, **how)
    theirs, record = optimize_rounding(model, inputs, 4, on="logits", seed=5, gap=learned.weight, **how)
    assert same_bits(ours, theirs)
    # η makes the term three times the plain error where all weights are at the nearest grid point.
    assert learned.weight * record.nearest_gap == pytest.approx(3 * record.nearest_errors["logits"], rel=1e-4)
    assert not same_bits(ours, plain)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(seed=SEEDS, bits=st.integers(2, 5), stepped=st.booleans())
@settings(max_examples=4)
def test_every_weight_is_at_a_point_of_the_grid_and_the_seed_decides(objective, seed, bits, stepped):
    model, inputs = net(seed)
    sizes = {f"{i}": 0.7 * float(step_size(model[i].weight.detach(), bits)) for i in (0, 2)} if stepped else None
    how = {"strength": strength_of(objective), "seed": seed % 1000, "step_sizes": sizes, "learning_rate": 0.1, **QUICK}
    rounded, learned = learn(model, inputs, bits, objective, **how)
    low, high = level_range(bits)
    for name, codes in learned.codes.items():
        layer, before = rounded.get_submodule(name), model.get_submodule(name)
        step = torch.tensor(learned.steps[name], dtype=torch.float32)
        assert torch.equal(layer.weight, torch.from_numpy(codes).float() * step)
        assert codes.min() >= low and codes.max() <= high
        start = torch.tensor(sizes[name]) if stepped else step_size(before.weight.detach(), bits)
        x = (before.weight.detach() / start).clamp(low, high)
        assert float((torch.from_numpy(codes) - x).abs().max()) < 1 + 1e-5  # one of two neighbours, not a third
        assert stepped or float(step) == float(start)
        assert torch.equal(layer.bias, before.bias)
    assert learned.found <= learned.nearest  # or nearest is taken
    assert learned.weight == 0 or objective not in (PLAIN, "weighted")  # which have no second term
    assert same_bits(rounded, learn(model, inputs, bits, objective, **how)[0])


def test_another_seed_another_rounding_and_the_model_is_left_as_it_was():
    model, inputs = net(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = [learn(model, inputs, 3, seed=seed, steps=60, batch_size=8)[1].losses for seed in (0, 1)]
    assert not np.array_equal(*results)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_steps_are_learned_where_they_are_asked_for():
    model, inputs = net(2)
    nearest = {name: float(step_size(model.get_submodule(name).weight.detach(), 3)) for name in ("0", "2")}
    rounded, sizes = learn_steps(model, inputs, 3, seed=0, steps=200, learning_rate=0.01, batch_size=8)
    assert all(sizes[name] != nearest[name] for name in sizes)
    for name, size in sizes.items():
        codes = rounded.get_submodule(name).weight / torch.tensor(size)
        assert torch.equal(codes, codes.round())
        assert codes.abs().max() <= 3
    _, learned = learn(model, inputs, 3, seed=0, step_sizes=sizes, steps=200, batch_size=8, learning_rate=0.1)
    assert not learned.fell_back
    assert all(learned.steps[name] != sizes[name] for name in sizes)


def test_layers_are_rounded_on_the_steps_that_are_given_and_gates_may_start_there():
    model, inputs = net(2)
    sizes = {name: 0.8 * float(step_size(model.get_submodule(name).weight.detach(), 3)) for name in ("0", "2")}
    start = by_layer(model, inputs, 3, steps=50, step_sizes=sizes)
    for name, size in sizes.items():
        x = (model.get_submodule(name).weight / torch.tensor(size)).clamp(-3, 3)
        codes = (start.get_submodule(name).weight / torch.tensor(size)).round()
        assert torch.equal(codes * torch.tensor(size), start.get_submodule(name).weight)
        assert float((codes - x).abs().max().detach()) < 1
    # A rate too small to move any gate or step past a half leaves the start as it is.
    rounded, learned = learn(
        model, inputs, 3, seed=0, step_sizes=sizes, start=start, learning_rate=1e-9, regularization=0.0, **QUICK
    )
    assert all(torch.allclose(rounded.get_submodule(n).weight, start.get_submodule(n).weight, rtol=1e-6) for n in sizes)
    assert learned.found < learned.nearest
    with pytest.raises(ValueError, match=r"The start's layer '0' is not rounded on this grid"):
        learn(model, inputs, 3, seed=0, start=start, **QUICK)


def test_nearest_is_taken_and_said_where_learning_ends_worse():
    model, inputs = net(1)
    for start in (None, by_layer(model, inputs, 3, steps=1, learning_rate=1e-9)):  # rounded to nearest too
        rounded, learned = learn(model, inputs, 3, seed=0, steps=1, batch_size=8, learning_rate=50.0, start=start)
        assert learned.fell_back and learned.found == learned.nearest
        for name in ("0", "2"):
            assert torch.equal(rounded.get_submodule(name).weight, quantize(model.get_submodule(name).weight, 3))


@given(seed=SEEDS)
def test_hinge_is_zero_where_margins_grow_and_the_gap_term_where_they_shrink(seed):
    grown = normal(20, seed=seed).abs()
    assert float(hinge(grown)) == 0
    assert float(hinge(-grown)) == pytest.approx(float(grown.square().mean()))


@given(seed=SEEDS)
def test_divergence_is_zero_for_equal_logits_positive_else_and_blind_to_a_constant(seed):
    first, second = normal(9, 4, seed=seed), normal(9, 4, seed=seed + 1)
    assert float(divergence(first, first)) == 0
    assert float(divergence(first, second)) > 0
    assert float(divergence(first, first + 3)) == pytest.approx(0, abs=1e-6)  # float32
    p, q = (x.double().softmax(1).numpy() for x in (first, second))
    assert float(divergence(first, second)) == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_agree_with_finite_differences(objective):
    model, inputs = net(4)
    model, inputs = model.double().eval().requires_grad_(False), inputs.double()
    task = rounding_objectives.Task(model, inputs, objective, 1.0, 0.5, len(inputs), 0)
    if task.band:  # one batch that holds the whole band
        task.band.batches = iter([torch.arange(len(task.near))])
    nearest = {name: quantize(model.get_submodule(name).weight, 3) for name in ("0", "2")}
    task.scale(nearest, 1.0)
    leaves = {name: weight.clone().requires_grad_() for name, weight in nearest.items()}
    found = torch.autograd.grad(task.batch_loss(leaves), list(leaves.values()))
    for (name, weight), gradient in zip(nearest.items(), found):
        way = normal(*weight.shape, seed=9).double()
        ends = [task.loss(nearest | {name: weight + h * way}) for h in (1e-6, -1e-6)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((gradient * way).sum()), rel=1e-4)


@given(seed=SEEDS)
@settings(max_examples=20)
def test_inputs_move_onto_the_boundary_along_the_normal(seed):
    model = networks.mlp((6, 4), seed).double()  # linear: one step is exact
    inputs = normal(10, 6, seed=seed).double()
    pair = torch.tensor([[0, 1]] * 10)
    moved = rounding_objectives.onto_boundary(model, inputs, pair, steps=1)
    logits = model(moved).detach()
    assert float((logits[:, 0] - logits[:, 1]).abs().max()) < 1e-9
    normal_ = (model[0].weight[0] - model[0].weight[1]).detach()
    way = moved - inputs
    along = (way @ normal_)[:, None] * normal_ / normal_.square().sum()
    assert torch.allclose(way, along, atol=1e-9)


def test_an_input_without_a_normal_stays_where_it_is():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    inputs = normal(4, 3)
    assert torch.equal(rounding_objectives.onto_boundary(model, inputs, torch.tensor([[0, 1]] * 4)), inputs)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": "kld"}, r"Objective is 'kld': choose one of 'mse', 'gap'"),
        ({"objective": "gap", "strength": 0.0}, r"Strength is 0\.0: give a number above 0\."),
        ({"strength": float("nan")}, r"Strength is nan: give a number of at least 0\."),
        ({"fraction": 1.5}, r"Band fraction is 1\.5: give a number from 0 to 1\."),
        ({"steps": 0}, r"Steps is 0: give an integer of at least 1\."),
        ({"seed": -1}, r"Seed is -1"),
        ({"step_sizes": {"0": 0.1}}, r"Step sizes are of '0': give those of '0', '2'\."),
        ({"step_sizes": {"0": 0.1, "2": 0.0}}, r"Step size of '2' is 0\.0: give a number above 0\."),
        ({"batch_size": 41}, r"The calibration set holds 40 inputs, fewer than a batch of 41"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, says):
    model, inputs = net(0)
    with pytest.raises(ValueError, match=says):
        learn(model, inputs, 4, **{"seed": 0, **QUICK} | changes)


def test_inputs_that_are_not_finite_and_an_empty_band_are_refused():
    model, inputs = net(0)
    bad = inputs.clone()
    bad[3, 1] = float("nan")
    for call in (lambda: learn(model, bad, 4, seed=0), lambda: learn_steps(model, bad, 4, seed=0),
                 lambda: gptq(model, bad, 4)):  # fmt: skip
        with pytest.raises(ValueError, match=r"Inputs hold 1 non-finite values of 240, first at sample 3: clean"):
            call()
    flat = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        flat[0].bias.fill_(-1e3)  # no unit is ever on
    with pytest.raises(ValueError, match=r"The band of 8 inputs is empty: at none of them has the float margin"):
        learn(flat, inputs, 4, "hinge", strength=1.0, seed=0, **QUICK)
    with pytest.raises(ValueError, match=r"Weights are \(2, 3\) and the Hessian \(2, 2\): give"):
        error_feedback(torch.ones(2, 3), torch.eye(2), 1.0, -7, 7)
    with pytest.raises(ValueError, match=r"Hessian entries hold 4 non-finite values of 4: clean the inputs\."):
        error_feedback(torch.ones(2, 2), torch.full((2, 2), float("nan")), 1.0, -7, 7)
