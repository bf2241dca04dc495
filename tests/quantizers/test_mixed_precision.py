"""A bit-width for each layer: all equal is PTQ-W, bytes by hand, budgets, shared and computed weights."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bqcore
from bqcore.quantizers import mixed_precision, uniform
from studies import networks


def images() -> nn.Module:
    """Return a small convolutional network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


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


def test_uniform_bits_are_the_most_whose_weights_and_steps_the_budget_holds():
    model, names = images(), ["0", "3"]
    for granularity in uniform.GRANULARITIES:
        budget = mixed_precision.model_bytes(model, 5, granularity=granularity)
        for bytes_, bits in ((budget, 5), (budget - 1, 4)):
            assert mixed_precision.uniform_bits(model, (8, 5, 4), bytes_, names, granularity=granularity) == bits


def test_mixed_weights_in_a_copy_in_float64_are_the_same():
    model, x = images(), torch.rand(20, 1, 8, 8)
    mixed = mixed_precision.mixed(model, {"3": 2})
    found = mixed.on(copy.deepcopy(model).double())(x.double())
    torch.testing.assert_close(found, mixed(x).double())
    assert not torch.allclose(found, model(x).double())


def test_what_a_step_costs_counts_by_the_bytes_that_it_saves():
    """One large layer goes down for its bytes; the two small ones together cost more and save less."""
    model = nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in ((4, 32), (32, 16), (16, 4))))
    noise = {"0": (7.0, 10.0, 17.0), "1": (5.0, 11.0, 13.0), "2": (6.0, 11.0, 14.0)}
    cost = {(name, bits): value for name, of in noise.items() for bits, value in zip((8, 4, 2), of)}
    assert mixed_precision.spend(model, cost, 366) == {"0": 8, "1": 2, "2": 8}  # all at 4 bits cost 32, these 26


def test_a_step_that_a_larger_one_made_needless_is_taken_back():
    model = nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in ((4, 32), (32, 16), (16, 4))))
    noise = {"0": (0.0, 100.0), "1": (0.0, 10.0), "2": (0.0, 1.0)}
    cost = {(name, bits): value for name, of in noise.items() for bits, value in zip((8, 4), of)}
    budget = mixed_precision.model_bytes(model, 8) - 60  # the small layer gives 32 bytes first, the large one 256 then
    assert mixed_precision.spend(model, cost, budget) == {"0": 8, "1": 4, "2": 8}


def test_computed_weights_are_refused_by_name():
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))).eval()
    message = "Layer '0': its weight is computed from other parameters: remove that parametrization first"
    for call, argument in (
        (mixed_precision.mixed, {"0": 4}), (bqcore.model_bytes, {"0": 4}), (bqcore.blame_layers, torch.rand(40, 4)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call(computed, argument)


def test_a_layer_that_runs_twice_has_one_name_and_is_counted_once():
    layer = nn.Linear(4, 4)
    again = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(mixed_precision.layers(again)) == ["0"] and bqcore.model_bytes(again, 4) == 8 + 4 + 16
