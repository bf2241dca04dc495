"""Which bit-width, which layer, which bits for which layer: known answers, the rules, and every refusal."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bqcore
from bqcore._threads import one_thread
from bqcore.auditing import bit_sweep, sensitivity
from bqcore.metrics import decisions, margins
from bqcore.quantizers import mixed_precision, uniform
from studies import networks, specs, sweeps, training
from studies.data import splits

SPEC = specs.Levels(seed=3, epochs=8, nodes=(11,), width=12, bits=(8, 5, 4, 3, 2))


@pytest.fixture(scope="module")
def lively():
    """Give a trained network with calibration and held-out splits."""
    split = splits.digits(SPEC.seed)
    model = networks.mlp((64, SPEC.width, 10), SPEC.seed)
    training.fit(model, split.train_inputs, split.train_classes, epochs=SPEC.epochs, seed=SPEC.seed)
    return model, (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)


@pytest.fixture(scope="module")
def deep():
    """Give a trained network of four layers with calibration and held-out splits."""
    split = splits.digits(1)
    model = networks.mlp((64, 48, 24, 16, 10), 1)
    x, y = split.train_inputs, split.train_classes
    training.fit(model, x[:900], y[:900], epochs=15, seed=1)
    return model, (x[900:], y[900:]), (split.test_inputs, split.test_classes)


def images() -> nn.Module:
    """Give a small convolutional network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


# Sweeps


def test_a_sweep_gives_the_numbers_of_the_chapters_to_the_last_digit(lively):
    model, calibration, held = lively
    chapter = sweeps.measure(SPEC)
    with one_thread():
        found = bqcore.sweep(model, calibration, held, bits=SPEC.bits).dataset.sel(split="heldout")
    for name in ("accuracy", "flip_rate", "wrong_to_right", "band_flip_rate", "band_pair_order_flip_rate"):
        assert found[name].values.tolist() == [float(chapter[name].sel(bits=b)) for b in SPEC.bits], name


def plain_choice(values: dict, limit: float) -> tuple[int, bool]:
    """Walk down by the plainest rule."""
    best = None
    for bits in sorted(values)[::-1]:
        if values[bits] > limit:
            break
        best = bits
    return (max(values), False) if best is None else (best, True)


@given(
    st.dictionaries(st.integers(2, 16), st.sampled_from([-0.1, 0.0, 0.01, 0.05, 0.3]), min_size=1),
    st.sampled_from([0.0, 0.01, 0.02]),
)
def test_the_choice_is_the_fewest_bits_before_the_limit_is_first_exceeded(values, limit):
    assert bit_sweep.choose_bits(values, limit) == plain_choice(values, limit)


def test_a_level_that_would_qualify_again_further_down_is_not_reached():
    assert bit_sweep.choose_bits({8: 0.0, 6: 0.0, 5: 0.2, 4: 0.0}, 0.1) == (6, True)
    assert bit_sweep.choose_bits({8: 0.2, 6: 0.0}, 0.1) == (8, False)
    with pytest.raises(ValueError, match="Calibration measures hold 1 non-finite values of 1"):
        bit_sweep.choose_bits({8: float("nan")}, 0.1)


@pytest.mark.parametrize(
    ("rule", "measure", "limit"),
    [("accuracy", None, 0), ("flips", "flip_rate", 0.02), ("band_flips", "band_flip_rate", 0.2)],
)
def test_the_recommendation_is_made_on_the_calibration_split_alone(lively, rule, measure, limit):
    model, calibration, held = lively
    found = bqcore.sweep(model, calibration, held, rule=rule, limit=limit)
    on = found.dataset.sel(split="calibration")
    lost = dict(zip(on.bits.values.tolist(), (on.accuracy_reference - on.accuracy).values))
    values = lost if measure is None else dict(zip(lost, on[measure].values))
    assert found.recommended == plain_choice(values, limit) and found.by_accuracy == plain_choice(lost, 0)
    shuffled = held[0].flip(1), held[1]
    again = bqcore.sweep(model, calibration, shuffled, rule=rule, limit=limit)
    assert (again.recommended, again.by_accuracy) == (found.recommended, found.by_accuracy)
    assert f"{found.recommended.bits} bits" in found.conclusion and str(found) == found.conclusion
    content = json.loads(found.to_json())
    assert content["recommended"] == {"bits": found.recommended.bits, "kept": found.recommended.kept}
    assert content["levels"][0]["heldout"]["flip_rate"] == float(found.dataset.flip_rate.sel(bits=8, split="heldout"))


def test_without_classes_there_is_no_choice_by_accuracy(lively):
    model, (x, _), (x_held, _) = lively
    found = bqcore.sweep(model, x, x_held, bits=(8, 2), limit=1.0)
    assert found.by_accuracy is None and found.recommended == (2, True)
    assert found.conclusion.startswith(
        "2 bits are the fewest that keep a band flip rate of at most 1 on the calibration split; held-out, they"
    )
    assert "by accuracy" not in found.conclusion
    none = bqcore.sweep(model, x, x_held, bits=(3, 2), limit=0.0)
    assert none.recommended == (3, False) and none.conclusion.startswith(
        "Not even 3 bits, the most, keep a band flip rate"
    )


# Layers


@pytest.mark.parametrize("granularity", uniform.GRANULARITIES)
@pytest.mark.parametrize("make", [images, lambda: networks.mlp((36, 8, 5), 0).eval()])
def test_all_layers_at_one_bit_width_are_ptq_w_and_the_model_stays(make, granularity):
    model = make()
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) if make is images else torch.rand(20, 36)
    every = mixed_precision.mixed(
        model, dict.fromkeys(mixed_precision.layers(model), 3), scheme="full", granularity=granularity
    )
    expected = uniform.quantize_model(model, 3, scheme="full", granularity=granularity)
    assert torch.equal(every(x), expected(x)) and not torch.equal(model(x), expected(x))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(mixed_precision.mixed(model, {})(x), model(x))


def test_a_single_layer_is_a_model_too():
    model = nn.Linear(6, 3).eval()
    x = torch.rand(40, 6)
    assert torch.equal(mixed_precision.mixed(model, {"": 2})(x), uniform.quantize_model(model, 2)(x))
    assert bqcore.blame_layers(model, x, bits=2).layer.values.tolist() == [""]


def test_each_layer_alone_is_measured_as_itself_and_the_worst_comes_first(deep):
    model, _, (x, y) = deep
    found = bqcore.blame_layers(model, (x, y), bits=3)
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


# Plans


def test_bytes_are_those_of_packed_weights_and_their_steps():
    model = images()
    biases = 4 * (4 + 5)
    assert mixed_precision.model_bytes(model, 8) == (36 + 4) + (720 + 4) + biases
    assert mixed_precision.model_bytes(model, 3) == (14 + 4) + (270 + 4) + biases
    assert (
        mixed_precision.model_bytes(model, {"0": 8, "3": 2}, granularity="channel") == (36 + 16) + (180 + 20) + biases
    )
    assert (
        mixed_precision.model_bytes(model, {"3": 2}) == 4 * 36 + (180 + 4) + biases
    )  # what is not named stays in float


@pytest.mark.parametrize("name", networks.MODELS)
def test_equal_bits_count_as_the_chapters_count_them(name):
    model = networks.build(name, (3, 8, 8), 10, width=4, seed=0)
    for bits, granularity in itertools.product((2, 7, 16, 32), uniform.GRANULARITIES):
        expected = uniform.model_bytes(model, bits, granularity=granularity)
        assert mixed_precision.model_bytes(model, bits, granularity=granularity) == expected
        named = dict.fromkeys(mixed_precision.layers(model), bits)
        assert mixed_precision.model_bytes(model, named, granularity=granularity) == expected


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0, 1))
def test_plans_hold_the_budget_and_add_no_more_noise_than_uniform_bits(seed, depth, share):
    generator = np.random.default_rng(seed)
    model = networks.mlp(tuple(int(n) for n in generator.integers(1, 30, depth)) + (4, 3), 0)
    names, levels = list(mixed_precision.layers(model)), [8, 5, 4, 2]
    low, high = (mixed_precision.model_bytes(model, b) for b in (2, 8))
    budget = int(low + share * (high - low))
    # Any noise at all: more bits may even be worse.
    noise = {(name, b): float(generator.random() * 4.0 ** -generator.integers(9)) for name in names for b in levels}
    chosen = mixed_precision.spend(model, noise, budget)
    assert list(chosen) == names and set(chosen.values()) <= set(levels)
    assert mixed_precision.model_bytes(model, chosen) <= budget
    uniform = max(b for b in levels if mixed_precision.model_bytes(model, b) <= budget)
    assert sum(noise[item] for item in chosen.items()) <= sum(noise[name, uniform] for name in names)


def test_a_plan_is_measured_beside_uniform_bits_at_no_more_bytes(deep):
    model, calibration, held = deep
    budget = mixed_precision.model_bytes(model, 4)
    plan = bqcore.plan_bits(model, calibration, held, budget=budget)
    ds = plan.dataset
    assert plan.uniform == 4 and set(plan.bits.values()) != {4}
    assert (
        ds.bytes.sel(way="uniform")
        == budget
        >= ds.bytes.sel(way="plan")
        == mixed_precision.model_bytes(model, plan.bits)
    )
    assert dict(zip(ds.layer.values.tolist(), ds.layer_bits.sel(way="plan").values)) == plan.bits
    with torch.no_grad():
        z = model(held[0])
        for way, q in (
            ("plan", mixed_precision.mixed(model, plan.bits)),
            ("uniform", uniform.quantize_model(model, 4)),
        ):
            here = ds.sel(split="heldout", way=way)
            assert float(here.band_flip_rate) == decisions.band_flip_rate(z, q(held[0]))
    assert str(plan).startswith(f"Within {budget} bytes the plan (0: ") and "4 bits for all" in str(plan)
    on = ds.sel(split="calibration")
    assert float(on.band_flip_rate.sel(way="plan")) < float(on.band_flip_rate.sel(way="uniform"))
    most = bqcore.plan_bits(model, calibration, held, budget=10**6)
    assert set(most.bits.values()) == {8} and most.uniform == 8
    batches = [tuple(half) for half in zip(*(part.split(200) for part in calibration))]
    again = bqcore.plan_bits(model, batches, iter([held]), budget=budget)  # the held-out split is gone through once
    assert again.bits == plan.bits


def test_a_plan_whose_logits_collapse_is_not_taken_for_a_quiet_one():
    model = networks.mlp((100, 64, 10), 1).eval()
    first = model.get_submodule("0").weight
    with torch.no_grad():
        first[0, 0] = 4 * first.std()  # one step for all: at 2 bits nearly every other weight is 0
        inputs = torch.from_numpy(np.random.default_rng(1).standard_normal((1000, 100), np.float32))
    budget, levels = mixed_precision.model_bytes(model, 3), (8, 3, 2)
    alone = sensitivity.one_at_a_time(model, inputs, levels)
    chosen = mixed_precision.spend(
        model, {key: sensitivity.margin_noise(part, 0.2) for key, part in alone.items()}, budget
    )
    assert chosen == {"0": 2, "2": 8}  # the margins of the band, which are small, move by little
    plan = bqcore.plan_bits(model, inputs, inputs, budget=budget, bits=levels)
    assert plan.bits == {"0": 3, "2": 3}


# Refusals


def test_tied_and_computed_weights_are_refused_by_name():
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    tied[2].weight = tied[0].weight
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))).eval()
    for model, name, message in (
        (tied, "2", "Layer '2': its weight is tied to that of '0': give it a copy of its own first"),
        (computed, "0", "Layer '0': its weight is computed from other parameters: remove that parametrization first"),
    ):
        calls = (
            (mixed_precision.mixed, {name: 4}),
            (bqcore.model_bytes, {name: 4}),
            (bqcore.blame_layers, torch.rand(40, 4)),
        )
        for call, argument in calls:
            with pytest.raises(ValueError, match=message):
                call(model, argument)
    tied[2].weight = nn.Parameter(tied[2].weight.detach().clone())
    assert bqcore.model_bytes(tied, 4) == 2 * (8 + 4 + 16)
    again = nn.Sequential(tied[0], nn.ReLU(), tied[0])  # one layer that runs twice has one name, and is counted once
    assert list(mixed_precision.layers(again)) == ["0"] and bqcore.model_bytes(again, 4) == 8 + 4 + 16


def test_what_is_wrong_is_named(deep):
    model, calibration, held = deep
    cases = [
        (lambda: bqcore.sweep(lambda x: x, *deep[1:]), "The model is function: PTQ-W needs a torch module"),
        (lambda: bqcore.sweep(nn.ReLU().eval(), *deep[1:]), r"The model \(ReLU\) has no linear or convolution layer"),
        (lambda: bqcore.sweep(copy.deepcopy(model).train(), *deep[1:]), "The reference is in training mode"),
        (lambda: bqcore.sweep(*deep, rule="jaccard"), "Rule is 'jaccard': choose one of 'accuracy', 'flips', 'band_flips'"),
        (lambda: bqcore.sweep(*deep, limit=2), "Limit is 2: give a number from 0 to 1"),
        (lambda: bqcore.sweep(*deep, bits=()), "There are no bit-widths: give some"),
        (lambda: bqcore.sweep(*deep, bits=(1,)), "Bit-width is 1: give an integer from 2 to 16"),
        (lambda: bqcore.sweep(model, calibration[0], held, rule="accuracy"), "The rule is accuracy, and the calibration split has no classes"),
        (lambda: mixed_precision.mixed(model, {"1": 4}), "There is no layer '1' to quantize: choose from '0', '2', '4', '6'"),
        (lambda: bqcore.plan_bits(*deep, budget=100), "The budget is 100 bytes, and 2 bits for all take 1600: give more bytes or fewer"),
        (lambda: bqcore.plan_bits(*deep, budget=1e6), "Budget is 1000000.0: give an integer"),
        (lambda: bqcore.plan_bits(*deep, budget=10**4, bits=()), "There are no bit-widths: give some"),
        (lambda: bqcore.plan_bits(model, (part for part in [calibration]), held, budget=10**4),
         "The calibration split is a generator, which can be gone through once, and a plan goes three times: give a list"),
        (lambda: bqcore.plan_bits(model, iter([calibration]), held, budget=10**4), "The calibration split is a list_iterator"),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
