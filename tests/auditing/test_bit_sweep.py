"""Which bit-width: the numbers of the chapters, the rules of choice, and every refusal of sweeps, layers and plans."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bqcore
from bqcore._threads import one_thread
from bqcore.auditing import bit_sweep
from bqcore.quantizers import mixed_precision
from studies import catalogue, networks, specs, training
from studies.data import splits

SPEC = specs.Levels(seed=3, epochs=8, nodes=(11,), width=12, bits=(8, 5, 4, 3, 2))


@pytest.fixture(scope="module")
def lively():
    """Return a trained network with calibration and held-out splits."""
    split = splits.digits(SPEC.seed)
    model = networks.mlp((64, SPEC.width, 10), SPEC.seed)
    training.fit(model, split.train_inputs, split.train_classes, epochs=SPEC.epochs, seed=SPEC.seed)
    return model, (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)


@pytest.mark.slow
def test_a_sweep_gives_the_numbers_of_the_chapters_to_the_last_digit(lively):
    model, calibration, held = lively
    chapter = catalogue.measure(SPEC)
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
    assert found.to_json() == json.dumps(content, indent=1)  # for people to read
    assert content["recommended"] == {"bits": found.recommended.bits, "kept": found.recommended.kept}
    assert content["levels"][0]["heldout"]["flip_rate"] == float(found.dataset.flip_rate.sel(bits=8, split="heldout"))


@pytest.mark.parametrize(("change", "says"), [("permuted", "numbered in another way"), ("rows", "in another order")])
def test_classes_that_do_not_belong_to_the_inputs_are_asked_about(lively, change, says):
    model, calibration, (x, _) = lively
    y = model(x).argmax(1)
    y = (y + 1) % 10 if change == "permuted" else y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    found = bqcore.sweep(model, calibration, (x, y), bits=(8, 2))
    assert f"the given classes are {says}: do inputs and classes belong together?" in found.conclusion
    assert "belong together" not in bqcore.sweep(model, calibration, (x, model(x).argmax(1)), bits=(8, 2)).conclusion


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
