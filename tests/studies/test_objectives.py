"""Rounding objectives: known answers, what holds on any network, every refusal; the study on a tiny data set."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore._store import load_dataset
from bqcore.quantizers import learned_steps
from bqcore.quantizers import objectives as rounding_objectives
from bqcore.quantizers.adaround import optimize_rounding
from bqcore.quantizers.gptq import error_feedback, gptq
from bqcore.quantizers.learned_steps import learn_steps
from bqcore.quantizers.objectives import OBJECTIVES, PLAIN, by_layer, divergence, hinge, learn
from bqcore.quantizers.uniform import level_range, quantize, quantize_model, step_size
from studies import __main__, networks, objectives, sweeps

SEEDS = st.integers(0, 2**32 - 1)
QUICK = {"steps": 20, "batch_size": 8}


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(seed: int, kind: str = "mlp") -> tuple[nn.Module, torch.Tensor]:
    if kind == "mlp":
        return networks.mlp((6, 8, 4), seed), normal(40, 6, seed=seed)
    return networks.build("cnn", (1, 8, 8), 4, width=3, seed=seed), normal(40, 1, 8, 8, seed=seed)


def strength_of(objective: str) -> float:
    return 0.0 if objective == PLAIN else 1.0


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


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


def test_learned_steps_are_the_best_that_were_passed_and_never_worse_than_ptq():
    for seed in range(6):
        model, inputs = net(seed)
        errors = []
        for steps in (5, 50, 200):  # the same path, followed further
            rounded, _ = learn_steps(model, inputs, 3, seed=0, steps=steps, learning_rate=0.01, batch_size=8)
            errors.append(float((rounded(inputs) - model(inputs)).square().sum(1).mean().detach()))
        nearest = float((quantize_model(model, 3)(inputs) - model(inputs)).square().sum(1).mean().detach())
        assert errors[2] <= errors[1] <= errors[0] <= nearest * (1 + 1e-6)  # float32: two ways to the same weights
        assert errors[2] < nearest


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


def test_the_gradient_of_a_step_is_that_of_lsq():
    weight = torch.tensor([0.3, -0.26, 0.94, -4.0], dtype=torch.float64)
    size = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    out = learned_steps._through(weight, size, -3, 3)
    (gradient,) = torch.autograd.grad((out * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum(), size)
    # Inside: code − w/s; beyond the ends: the end itself. Codes are 1, −1, 3 (clipped at 3.76) and −3.
    assert out.tolist() == [0.25, -0.25, 0.75, -0.75]
    assert float(gradient) == pytest.approx((1 - 1.2) + 10 * (-1 + 1.04) + 100 * 3 - 1000 * 3, abs=1e-9)


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


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_gptq_lowers_the_error_of_a_network(kind):
    gains = []
    for seed in range(5):
        model, inputs = net(seed, kind)
        model = model.eval()
        with torch.no_grad():
            errors = [
                float((other(inputs) - model(inputs)).square().sum(1).mean())
                for other in (gptq(model, inputs, 3), quantize_model(model, 3))
            ]
        gains.append(errors[1] - errors[0])
    assert np.mean(gains) > 0


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
        ({"share": 1.5}, r"Band share is 1\.5: give a number from 0 to 1\."),
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


def test_the_study_runs_resumes_and_learns_nothing_from_held_out_inputs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "FRESH", tmp_path)
    tiny = objectives.Objectives(nodes=(11, 6), epochs=2, steps=3, examples=64)
    monkeypatch.setattr(objectives, "BASELINES", {tiny: 2})
    many = objectives.sweep(tiny, workers=1, progress=False)
    assert dict(many.sizes) | {"seed": 2, "bits": 1} == dict(many.sizes)
    assert set(objectives.families()) == {objectives.family_of(m) for m in many.method.values} - {"float"}
    kept = sorted(objectives.folder(tiny).glob("*.nc"))
    assert [path.name for path in kept] == ["seed-000.nc", "seed-001.nc", "seeds-000-001.nc"]
    kept[2].unlink()
    times = [path.stat().st_mtime_ns for path in kept[:2]]
    assert objectives.sweep(tiny, workers=1, progress=False).identical(many)
    assert [path.stat().st_mtime_ns for path in kept[:2]] == times
    out = tmp_path / "out.nc"
    assert __main__.main(["objectives", "digits", "--workers", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"objectives, digits: 2 runs in {out}\n" and load_dataset(out).identical(many)

    split = sweeps.split_of(tiny)
    model = sweeps.trained(tiny, split, sweeps.checkpoint_file(tiny))
    spoiled = split._replace(held_out_inputs=split.held_out_inputs.flip(0) * 0.5)
    found = objectives.measure(tiny, spoiled, model).sel(split="calibration")
    xr.testing.assert_equal(
        found.drop_vars("split"), many.sel(split="calibration", seed=0)[list(found)].drop_vars(["split", "seed"])
    )


def test_the_strength_is_chosen_on_inputs_apart_the_weaker_of_equals():
    names = [m for m, *_ in objectives.methods()]
    names = ["float", *objectives.BASELINES_OF, *names]
    flips = np.full((2, len(names)), 0.5)
    flips[1, names.index("kl 3")] = 0.4
    many = xr.Dataset(
        {"choosing_band_flips": (("seed", "method"), flips), "x": (("seed", "method"), flips * 0 + range(len(names)))},
        {"method": names, "seed": [0, 1]},
    )
    picked = objectives.chosen(many).sel(family="kl")
    assert picked.strength.values.tolist() == [0.3, 3.0]
    assert picked.x.values.tolist() == [names.index("kl 0.3"), names.index("kl 3")]
    found = objectives.compare(objectives.chosen(many.assign(x=many.x + many.seed * (many.method == "gptq"))), "gptq",
                               lambda ds: ds.x)  # fmt: skip
    assert found.difference.estimate == names.index("gptq") - names.index(PLAIN) + 0.5
    assert found.strict.low < found.difference.low and found.detectable > 0
    with pytest.raises(ValueError, match=r"Family is 'x': choose one of 'nearest', 'gptq'"):
        objectives.compare(objectives.chosen(many), "x", lambda ds: ds.x)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"granularity": "channel"}, r"granularity is 'channel': the objectives are compared with one step a tensor\."),
     ({"steps": 0}, r"steps is 0"), ({"examples": 31}, r"examples is 31")],
)  # fmt: skip
def test_specs_of_the_study_are_checked(changes, says):
    with pytest.raises(ValueError, match=says):
        objectives.Objectives(**changes)
    with pytest.raises(ValueError, match=r"dataset is 'svhn': choose one of 'digits'"):
        objectives.baseline("svhn")
