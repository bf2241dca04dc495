"""Optimized rounding: best of all roundings by hand, what holds on any network, the gap term, folding, every refusal."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore.metrics import decisions
from bqcore.metrics.margins import local_change
from bqcore.quantizers._gates import Grid, gates_of
from bqcore.quantizers.adaround import TARGETS, optimize_rounding
from bqcore.quantizers.batchnorm import fold_batchnorm
from bqcore.quantizers.uniform import GRANULARITIES, SCHEMES, level_range, quantize, quantize_model, step_size
from studies import networks
from tests.helpers.nets import FOLDED, SEEDS, logit_error, net, normal, same_bits, with_statistics

QUICK = {"steps": 30, "batch_size": 8}


@pytest.mark.parametrize("on", TARGETS)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_a_layer_is_no_worse_than_nearest_and_no_better_than_the_best_of_all_roundings(on, seed):
    layer = networks.mlp((5, 2), seed)
    mixed = normal(40, 5, seed=seed) @ normal(5, 5, seed=seed + 1)
    rounded, record = optimize_rounding(layer, mixed, 3, on=on, seed=0, steps=100, learning_rate=0.05)
    step = step_size(layer[0].weight, 3)
    lower = (layer[0].weight.detach() / step).floor().clamp(-3, 3)
    best = 0.0  # rows do not touch each other, so each has its own best
    for row in range(2):
        ways = (lower[row] + torch.tensor(list(itertools.product((0, 1), repeat=5)))).clamp(-3, 3) * step
        best += float((mixed @ (ways - layer[0].weight[row].detach()).T).double().square().mean(0).min())
    ours, nearest = (logit_error(layer, other, mixed) for other in (rounded, quantize_model(layer, 3)))
    assert best * (1 - 1e-5) <= ours <= nearest * (1 + 1e-5)  # float32 sums in another order
    (key,) = record.errors
    assert record.errors[key] == pytest.approx(ours, rel=1e-4) and record.nearest_errors[key] == pytest.approx(
        nearest, rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("on", TARGETS)
def test_the_logit_error_is_on_average_far_below_that_of_nearest(on):
    """On the logits it is never above; layer by layer that is so of each layer's error, and of the logits' on average."""
    ratios = []
    for seed in range(5):
        model, inputs = net("mlp", seed)
        rounded, _ = optimize_rounding(model, inputs, 3, on=on, seed=0, steps=300, batch_size=8)
        ratios.append(logit_error(model, rounded, inputs) / logit_error(model, quantize_model(model, 3), inputs))
    # Of 20 seeds the mean is 0.5 at most and the deviation 0.14: four standard errors of five seeds.
    assert np.mean(ratios) < 0.75
    assert on == "layers" or max(ratios) <= 1


@pytest.mark.parametrize("on", TARGETS)
@pytest.mark.parametrize("bits", [3, 4])
def test_a_trained_network_keeps_a_third_of_the_error_of_nearest_at_most(trained, on, bits):
    inputs = trained.split.train_inputs[:400]
    rounded, _ = optimize_rounding(trained.model, inputs, bits, on=on, seed=0, steps=400, learning_rate=0.03)
    for x in (inputs, trained.split.test_inputs):
        error, nearest = (logit_error(trained.model, q, x) for q in (rounded, quantize_model(trained.model, bits)))
        assert error < nearest / 3  # of three networks 0.11 is the most layer by layer, 0.26 on the logits


@pytest.mark.parametrize("on", TARGETS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@given(st.integers(0, 99), st.integers(2, 8), st.sampled_from(SCHEMES), st.sampled_from(GRANULARITIES))
@settings(max_examples=8)
def test_every_weight_is_one_of_its_two_neighbours_on_the_grid(on, kind, seed, bits, scheme, granularity):
    model, inputs = net(kind, seed)
    grid = {"scheme": scheme, "granularity": granularity}
    rounded, record = optimize_rounding(model, inputs, bits, on=on, seed=seed, **grid, **QUICK)
    low, high = level_range(bits, scheme)
    changed = {}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            step, ours = step_size(layer.weight, bits, **grid), rounded.get_submodule(name).weight
            level = (ours.double() / step.double()).round()
            assert torch.equal(ours, level.float() * step) and low <= level.min() and level.max() <= high
            x = (layer.weight.double() / step.double()).clamp(low, high)
            slack = 2.0 ** (bits - 22)  # float32 puts x off by so much of a level at most
            assert ((level >= (x - slack).floor()) & (level <= (x + slack).ceil())).all()
            changed[name] = int((ours != quantize(layer.weight, bits, **grid)).sum())
            assert torch.equal(rounded.get_submodule(name).bias, layer.bias)
    assert record.changed == changed and not record.skipped
    assert all(record.changed[name] <= record.free[name] for name in changed)
    assert all(record.errors[k] <= record.nearest_errors[k] for k in record.errors)


@pytest.mark.parametrize("on", TARGETS)
def test_the_prefix_is_quantized_and_the_target_is_float(on):
    model, inputs = net("mlp", 3)
    rounded, record = optimize_rounding(model, inputs, 3, on=on, seed=0, **QUICK)
    if on == "layers":  # the last layer's error is that of the logits: its inputs came from the rounded first layer
        assert record.errors["2"] == pytest.approx(logit_error(model, rounded, inputs), rel=1e-4)
    else:
        assert record.errors["logits"] == pytest.approx(logit_error(model, rounded, inputs), rel=1e-6)
    assert [len(losses) for losses in record.losses.values()] == [30] * (2 if on == "layers" else 1)


def test_layers_are_taken_in_the_order_in_which_they_run():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = networks.mlp((4, 3), 0)[0], networks.mlp((5, 4), 0)[0]

        def forward(self, x):
            return self.last(torch.relu_(self.first(x)))

    _, record = optimize_rounding(Swapped(), normal(8, 5), 4, seed=0, **QUICK)
    assert list(record.errors) == ["first", "last"]


# --- the boundary-gap term ---


@pytest.mark.slow
@given(st.integers(0, 99), st.integers(2, 5))
@settings(max_examples=10)
def test_without_a_gap_weight_it_is_plain_optimized_rounding_to_the_last_bit(seed, bits):
    model, inputs = net("mlp", seed)
    plain, record = optimize_rounding(model, inputs, bits, on="logits", seed=seed, **QUICK)
    # 1e-30 computes the whole term, and leaves no trace of it: the batches do not depend on the band
    for gap in (0, 0.0, 1e-30):
        other, theirs = optimize_rounding(model, inputs, bits, on="logits", seed=seed, gap=gap, **QUICK)
        assert same_bits(plain, other) and np.array_equal(record.losses["logits"], theirs.losses["logits"])
    assert np.isnan(record.gap) and np.isnan(record.nearest_gap)


@given(st.integers(0, 99), st.integers(2, 4), st.sampled_from([0.0, 3.0]))
@settings(max_examples=10)
def test_from_a_start_it_ends_at_no_higher_a_loss_than_the_start_s(seed, bits, gap):
    model, inputs = net("mlp", seed)
    start, _ = optimize_rounding(model, inputs, bits, seed=0, **QUICK)
    rounded, record = optimize_rounding(model, inputs, bits, seed=0, on="logits", start=start, gap=gap, **QUICK)
    band = inputs[decisions.boundary_band(model(inputs), 0.2)]

    def loss(other) -> float:
        moved = local_change(model, other, band).displacement if gap else np.zeros(1)
        return logit_error(model, other, inputs) + gap * np.nanmean(moved**2)  # NaN of flat inputs, which are left out

    losses = [loss(other) for other in (rounded, start, quantize_model(model, bits))]
    slack = 1e-4 if gap else 1e-6  # a change of margins is a small difference of float32 logits
    assert losses[0] <= min(losses[1:]) * (1 + slack)
    assert record.errors["logits"] + (gap * record.gap if gap else 0) == pytest.approx(losses[0], rel=slack)
    for ours, theirs in zip(rounded.parameters(), model.parameters()):
        if ours.ndim > 1:  # still one of the two neighbours on the grid
            assert ((ours - theirs).abs() < step_size(theirs.detach(), bits) * 1.00001).all()


def test_gates_start_near_the_start_s_and_stay_there_if_nothing_moves_them():
    model, inputs = net("mlp", 3)
    start, record = optimize_rounding(model, inputs, 3, seed=0, steps=200, batch_size=8)
    assert sum(record.changed.values()) > 5
    options = {"seed": 0, "on": "logits", "steps": 1, "batch_size": 8, "learning_rate": 1e-9, "regularization": 0.0}
    kept, _ = optimize_rounding(model, inputs, 3, start=start, **options)
    assert same_bits(kept, start)
    grid = Grid(model[0].weight.detach(), 3, "narrow", "tensor")
    gates = gates_of(grid.near(start[0].weight.detach()))
    up = (start[0].weight.detach() != grid.lower * grid.step) & (grid.span > 0)
    expected = 0.2 * gates_of(grid.start) + 0.8 * up  # four fifths of the way
    assert torch.allclose(gates[grid.span > 0], expected[grid.span > 0], atol=1e-6)


def test_a_start_must_be_on_the_grid_and_is_only_for_the_logits():
    model, inputs = net("mlp", 0)
    with pytest.raises(
        ValueError, match=r"^The start's layer '0' is not rounded on this grid: round it at these bits\.$"
    ):
        optimize_rounding(model, inputs, 4, seed=0, on="logits", start=quantize_model(model, 3), **QUICK)
    with pytest.raises(ValueError, match=r"^A start is given layer by layer: choose on='logits', or leave it out\.$"):
        optimize_rounding(model, inputs, 4, seed=0, start=quantize_model(model, 4), **QUICK)


def test_the_gap_is_the_mean_squared_displacement_in_the_band():
    model, inputs = net("mlp", 5)
    rounded, record = optimize_rounding(model, inputs, 3, on="logits", seed=0, gap=10.0, fraction=0.4, **QUICK)
    band = decisions.boundary_band(model(inputs), 0.4)
    for found, candidate in ((record.gap, rounded), (record.nearest_gap, quantize_model(model, 3))):
        moved = local_change(model, candidate, inputs[band]).displacement
        assert len(moved) == 10 and found == pytest.approx((moved**2).mean(), rel=1e-4)
    # The loss starts at 0 but for rounding, whose sign is the processor's and decides Adam's first step: 0.03 of each
    # gate. After the quick steps some gates are within that of a half; after 300, several end far on opposite sides of it.
    longer = {"on": "logits", "seed": 0, "fraction": 0.4, **QUICK, "steps": 300}
    assert not same_bits(*(optimize_rounding(model, inputs, 3, gap=gap, **longer)[0] for gap in (10.0, 0.0)))


@pytest.mark.slow
def test_a_gap_weight_lowers_the_gap_on_average():
    gaps = {1e-30: [], 1e4: []}  # the logits alone, and next to nothing of them
    for gap, found in gaps.items():
        for seed in range(6):
            layer, inputs = networks.mlp((8, 3), seed), normal(60, 8, seed=seed) @ normal(8, 8, seed=seed + 1)
            options = {"on": "logits", "gap": gap, "steps": 200, "batch_size": 12, "learning_rate": 0.05}
            options["regularization"] = 0.01 * max(1.0, gap)  # or gates that the term holds between stay undecided
            found.append(optimize_rounding(layer, inputs, 3, seed=0, **options)[1].gap)
    assert np.mean(gaps[1e4]) < 0.8 * np.mean(gaps[1e-30])


class Flat(nn.Module):
    """A classifier whose logits do not depend on inputs below 0, as a dead ReLU has it."""

    def __init__(self):
        super().__init__()
        self.line = networks.mlp((2, 3), 0)[0]

    def forward(self, x):
        return self.line(torch.relu(x))


def test_flat_inputs_of_the_band_are_left_out_and_counted():
    inputs = normal(40, 2)
    _, record = optimize_rounding(Flat(), inputs, 3, on="logits", seed=0, gap=1.0, fraction=1.0, **QUICK)
    assert record.flat == int((inputs <= 0).all(1).sum()) > 0
    with pytest.raises(ValueError, match="The band of 8 inputs is empty: at none of them has the float margin a grad"):
        optimize_rounding(Flat(), -inputs.abs(), 3, on="logits", seed=0, gap=1.0, **QUICK)


@pytest.mark.parametrize("on", TARGETS)
def test_a_folded_resnet_is_rounded_as_a_whole(on):
    model = fold_batchnorm(with_statistics(FOLDED["resnet"](0)[0], 0).float())
    rounded, record = optimize_rounding(model, normal(16, 3, 8, 8), 4, on=on, seed=0, steps=100, batch_size=8)
    assert len(record.changed) == 10 and sum(record.changed.values()) > 0 and not record.skipped
    assert all(e <= n for e, n in zip(record.errors.values(), record.nearest_errors.values()))
    assert rounded(normal(2, 3, 8, 8)).shape == (2, 5)


# --- what a seed fixes, and what is left as found ---


@pytest.mark.parametrize("on", TARGETS)
def test_seeds_are_obeyed(on):
    model, inputs = net("cnn", 1)
    runs = [optimize_rounding(model, inputs, 3, on=on, seed=seed, **QUICK) for seed in (0, 0, 1)]
    losses = [np.concatenate(list(record.losses.values())) for _, record in runs]
    assert same_bits(runs[0][0], runs[1][0]) and np.array_equal(losses[0], losses[1])
    # Layer by layer every step sees all inputs: there are no batches to draw.
    assert np.array_equal(losses[0], losses[2]) == (on == "layers")


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_model_generators_threads_and_inputs_are_left_as_found(gap):
    model, inputs = net("mlp", 0)
    model.train()
    model[0].weight.requires_grad_(False)
    before, kept = copy.deepcopy(model), inputs.clone()

    def state():
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        return *generators, torch.get_num_threads()

    found = state()
    rounded, _ = optimize_rounding(model, inputs, 3, on="logits", seed=0, gap=gap, **QUICK)
    assert state() == found and torch.equal(inputs, kept) and same_bits(model, before) and model.training
    assert all(p.grad is None for p in [*model.parameters(), *rounded.parameters()]) and not rounded.training
    assert [p.requires_grad for p in rounded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *rounded.modules()])


def test_the_number_of_threads_does_not_matter():
    model, inputs = net("cnn", 2)
    threads, rounded = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            rounded.append(optimize_rounding(model, inputs, 3, on="logits", seed=0, **QUICK)[0])
    finally:
        torch.set_num_threads(threads)
    assert same_bits(*rounded)


@pytest.mark.parametrize("on", TARGETS)
def test_progress_is_shown_if_it_has_a_name(capsys, on):
    model, inputs = net("mlp", 0)
    optimize_rounding(model, inputs, 3, on=on, seed=0, **QUICK)
    assert capsys.readouterr().err == ""
    optimize_rounding(model, inputs, 3, on=on, seed=0, progress="rounding", **QUICK)
    total = 60 if on == "layers" else 30
    assert f"{total}/{total}" in (err := capsys.readouterr().err) and "rounding: 100%" in err


# --- refusals ---


def tied() -> nn.Module:
    model = nn.Sequential(*networks.mlp((4, 4, 4, 4), 0), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def in_two_places() -> nn.Module:
    first, last = networks.mlp((4, 4), 0)[0], nn.Linear(4, 3)
    return nn.Sequential(first, nn.ReLU(), first, last)


class Unused(nn.Module):
    """Has a layer that never runs and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.never, self.twice, self.once = (
            networks.mlp((4, 4), 0)[0],
            networks.mlp((4, 4), 1)[0],
            networks.mlp((4, 3), 0)[0],
        )

    def forward(self, x):
        return self.once(self.twice(self.twice(x)))


class Transposed(nn.Module):
    """Has a layer that PTQ-W does not quantize."""

    def __init__(self):
        super().__init__()
        self.up, self.last = nn.ConvTranspose1d(1, 1, 3), networks.mlp((6, 3), 0)[0]

    def forward(self, x):
        return self.last(self.up(x[:, None])[:, 0])


UNFIT = {
    "tied": (tied, {}, r"Layer '0': its weight is tied, '0', '2' hold it", ("0", "2")),
    "two places": (in_two_places, {"on": "logits"}, r"Layer '0': its weight is tied, '0', '2' hold it", ("0",)),
    "twice": (Unused, {}, r"Layer 'twice': it runs 2 times in a forward pass, and once is needed", ("twice", "never")),
    "never": (Unused, {"on": "logits"}, r"Layer 'never': it runs 0 times in a forward pass, and once is needed", ("never",)),
    "kind": (Transposed, {}, r"Layer 'up': ConvTranspose1d has weights but is no linear or convolution layer", ("up",)),
    "computed": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3)), {},
                 r"Layer '0': its weight is computed from other parameters", ("0",)),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_layers_that_cannot_be_quantized_are_refused_or_skipped_by_choice(case):
    make, options, message, skipped = UNFIT[case]
    model, inputs = make(), normal(8, 4)
    with pytest.raises(ValueError, match=f"{message}; unquantizable='skip' leaves it in float"):
        optimize_rounding(model, inputs, 3, seed=0, **QUICK, **options)
    rounded, record = optimize_rounding(model, inputs, 3, seed=0, unquantizable="skip", **QUICK, **options)
    assert set(record.skipped) >= set(skipped) and not set(record.skipped) & set(record.changed)
    for name in skipped:
        assert same_bits(rounded.get_submodule(name), model.get_submodule(name))
    assert not same_bits(rounded, model)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_weights_of_one_channel_are_no_matter(value):
    model = networks.mlp((4, 3, 3), 0)
    with torch.no_grad():
        model[0].weight[1] = value
    optimize_rounding(model, normal(8, 4), 3, seed=0, **QUICK)
    rounded, _ = optimize_rounding(model, normal(8, 4), 3, seed=0, granularity="channel", **QUICK)
    assert torch.equal(rounded[0].weight[1], model[0].weight[1])  # it lies on its own grid


GOOD = networks.mlp((4, 3, 3), 0)


@pytest.mark.parametrize("on", TARGETS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 1}, "Bit-width is 1: give an integer from 2 to 16"),
        ({"scheme": "ful"}, "Scheme is 'ful': choose one of 'narrow', 'full'"),
        ({"granularity": "row"}, "Granularity is 'row': choose one of 'tensor', 'channel'"),
        ({"on": "layer"}, "Target is 'layer': choose one of 'layers', 'logits'"),
        ({"unquantizable": "drop"}, "Unquantizable is 'drop': choose one of 'refuse', 'skip'"),
        ({"steps": 0}, "Steps is 0: give an integer of at least 1"),
        ({"batch_size": 0}, "Batch size is 0: give an integer of at least 1"),
        ({"batch_size": 9}, "The calibration set holds 8 inputs, fewer than a batch of 9: give more inputs or a smaller"),
        ({"seed": -1}, "Seed is -1: give an integer of at least 0"),
        ({"learning_rate": 0}, "Learning rate is 0: give a number above 0"),
        ({"learning_rate": float("nan")}, "Learning rate is nan: give a number above 0"),
        ({"regularization": -1}, "Regularization is -1: give a number of at least 0"),
        ({"gap": -0.1}, r"Gap weight is -0\.1: give a number of at least 0"),
        ({"gap": True}, "Gap weight is True: give a number of at least 0"),
        ({"gap": 1.0, "on": "layers"}, "Gap weight is 1 layer by layer: margins are of logits, so choose on='logits'"),
        ({"fraction": -0.5}, r"Band fraction is -0\.5: give a number from 0 to 1"),
        ({"gap": 1.0, "fraction": 0, "on": "logits"}, "Band fraction is 0: the boundary band would be empty"),
        ({"gap": 1.0, "fraction": 1.5, "on": "logits"}, r"Band fraction is 1\.5: give a number from 0 to 1"),
        ({"gap": 1.0, "on": "logits", "inputs": normal(4, 4), "batch_size": 4}, "A boundary band needs at least 5 inputs"),
        ({"inputs": normal(8, 4).where(normal(8, 4) < 1.8, torch.nan)}, "Inputs hold 1 non-finite values of 32, first at sample"),
        ({"inputs": torch.ones(8, 4, dtype=torch.int64)}, r"Inputs are Tensor of shape \(8, 4\): give a float tensor, \(N"),
        ({"inputs": [[1.0]]}, r"Inputs are list of shape \(\): give a float tensor"),
        ({"inputs": normal(8, 4) * 1e30}, r"The loss of (layer '0'|the logits) is (inf|nan) at step 1: lower the learning rate or"),
        ({"model": nn.ReLU()}, r"The model \(ReLU\) has no linear or convolution layer to round\.$"),
        ({"model": copy.deepcopy(GOOD).half()}, r"Layer '0': its weights are torch\.float16, and gates are learned in float32"),
        ({"model": networks.mlp((4, 2), 0), "bits": 8.0}, r"Bit-width is 8\.0: give an integer"),
    ],
)  # fmt: skip
def test_arguments_are_refused(on, changed, message):
    arguments = {"model": GOOD, "inputs": normal(8, 4), "bits": 3, "seed": 0, "on": on, **QUICK} | changed
    before = copy.deepcopy(arguments["model"])
    if str(arguments["model"].state_dict().get("0.weight", torch.ones(1)).dtype) == "torch.float16":
        arguments["inputs"] = arguments["inputs"].half()
    with pytest.raises(ValueError, match=message) as refusal:
        optimize_rounding(**arguments)
    assert "\n" not in str(refusal.value) and same_bits(arguments["model"], before)


def test_weights_that_are_not_finite_are_refused_even_where_layers_may_be_skipped():
    model = copy.deepcopy(GOOD)
    with torch.no_grad():
        model[2].weight[0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"Layer '2': Weights hold 1 non-finite values of 9, first at index \(0, 1\)"):
        optimize_rounding(model, normal(8, 4), 3, seed=0, unquantizable="skip", **QUICK)


def test_a_model_of_skipped_layers_only_is_refused():
    with pytest.raises(ValueError, match=r"no linear or convolution layer to round, with '0' skipped\."):
        half = nn.Sequential(nn.Linear(4, 3)).half()
        optimize_rounding(half, normal(8, 4).half(), 3, seed=0, unquantizable="skip", **QUICK)
