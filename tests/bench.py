"""
Our measures beside those of other packages, in one run: `make bench` prints how many times faster ours are.

Every group holds "ours" and other ways to the same result, which is checked. Aims: a radius 20 times faster than
foolbox, a label grid 4 times faster than scikit-learn, a quantizer at least as fast as torch's own. The first is
missed: ten classes cost foolbox nine passes forward and nine back, and us one forward and the same nine back. Optimized
rounding is to end at a logit error no higher than brevitas's learned rounding, in no more time.
"""

import copy
import warnings

import foolbox
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import DecisionBoundaryDisplay
from torch import nn

from bqcore import models, train
from bqcore.boundary import radius
from bqcore.quantize import level_range, quantize, quantize_model
from bqcore.rounding import optimize_rounding
from bqcore.slices import pca_plane, slice_labels
from bqcore.train import one_thread

with warnings.catch_warnings():  # of its own brevitas.fx, which it imports itself
    warnings.simplefilter("ignore", DeprecationWarning)
    import brevitas.nn as qnn
    from brevitas.inject.enum import LearnedRoundImplType
    from brevitas.quant import Int8WeightPerTensorFloat
    from brevitas_examples.common.learned_round import learned_round_method as learned_round


@pytest.fixture
def timed(benchmark, request):
    """Time a call under the name of its way, after calling it three times or so."""

    def run(call, rounds, before=3):
        benchmark.extra_info["way"] = request.node.callspec.params["way"]
        return benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=before)

    return run


# --- radius ---

STEP = "foolbox DeepFool, one step: the same result"
DEEPFOOL = "foolbox DeepFool, its 50 steps at most"


@pytest.mark.benchmark(group="Radius of 450 digits (aim: 20)")
@pytest.mark.parametrize("way", ["ours", STEP, DEEPFOOL])
def test_radius(trained, timed, way):
    model, inputs = trained.model, trained.split.test_inputs
    decisions = model(inputs).argmax(1)
    fooled = foolbox.PyTorchModel(model, bounds=(-1e3, 1e3))
    attack = foolbox.attacks.L2DeepFoolAttack(**({"steps": 1, "overshoot": 0.0} if way == STEP else {}))
    calls = {
        "ours": lambda: radius(model, inputs),
        STEP: lambda: attack.run(fooled, inputs, decisions),
        DEEPFOOL: lambda: attack.run(fooled, inputs, decisions),
    }
    result = timed(calls[way], 100)
    if way == STEP:
        with one_thread():
            lengths = (calls[way]() - inputs).norm(dim=1).numpy()
        np.testing.assert_allclose(lengths - 1e-4, radius(model, inputs).radius, atol=2e-6)
    assert len(result if way != "ours" else result.radius) == 450


# --- grid ---


class OnPlane(ClassifierMixin, BaseEstimator):
    """What scikit-learn asks for: a fitted classifier of slice coordinates."""

    def __init__(self, label=None):
        self.label = label
        self.classes_ = np.arange(10)

    def fit(self, X, y=None):  # noqa: N803
        return self

    def predict(self, X):  # noqa: N803
        return self.label(X[:, 0], X[:, 1])


SCIKIT_LEARN = "scikit-learn's DecisionBoundaryDisplay"
FORWARD = "a plain forward pass, 4096 nodes at a time"


@pytest.mark.benchmark(group="300 x 300 label grid of a digits slice (aim: 4)")
@pytest.mark.parametrize("way", ["ours", SCIKIT_LEARN, FORWARD])
def test_grid(trained, timed, way):
    model, double = trained.model, copy.deepcopy(trained.model).double()
    plane = pca_plane(trained.split.train_inputs)

    def label(a, b):
        with torch.inference_mode():
            parts = torch.from_numpy(plane.points(a, b)).split(4096)
            return torch.cat([double(part).argmax(1) for part in parts]).numpy()

    def scikit_learn():
        box = np.stack([plane.low, plane.high])
        display = DecisionBoundaryDisplay.from_estimator(
            OnPlane(label), box, grid_resolution=300, eps=0.0, response_method="predict"
        )
        plt.close(display.figure_)
        return display.response

    def forward():
        a, b = plane.nodes(300)
        return label(*(x.ravel() for x in np.broadcast_arrays(a, b[:, None]))).reshape(300, 300)

    calls = {"ours": lambda: slice_labels(model, plane, 300), SCIKIT_LEARN: scikit_learn, FORWARD: forward}
    assert np.array_equal(timed(calls[way], 30), slice_labels(model, plane, 300))


# --- quantizer ---

LARGEST = "torch.fake_quantize, step from torch.aminmax"
GIVEN = "torch.fake_quantize, step given"


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))


@pytest.mark.benchmark(group="Quantizing 4096 x 4096 weights to 8 bits, one step for all (aim: 1)")
@pytest.mark.parametrize("way", ["ours", LARGEST, GIVEN])
def test_quantize(weight, timed, way):
    given = (weight.abs().max() / 127).item()

    def fake_quantize(step):
        return torch.fake_quantize_per_tensor_affine(weight, step, 0, *level_range(8))

    def largest():
        low, high = torch.aminmax(weight)
        return fake_quantize((torch.maximum(-low, high) / 127).item())

    calls = {"ours": lambda: quantize(weight, 8), LARGEST: largest, GIVEN: lambda: fake_quantize(given)}
    assert torch.equal(timed(calls[way], 30), quantize(weight, 8))


@pytest.mark.benchmark(group="Quantizing 4096 x 4096 weights to 8 bits, a step per channel (aim: 1)")
@pytest.mark.parametrize("way", ["ours", LARGEST, GIVEN])
def test_quantize_by_channel(weight, timed, way):
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    given = weight.abs().amax(1) / 127

    def fake_quantize(step):
        return torch.fake_quantize_per_channel_affine(weight, step, zeros, 0, *level_range(8))

    def largest():
        # amin and amax: torch.aminmax along an axis takes three times as long
        return fake_quantize(torch.maximum(-weight.amin(1), weight.amax(1)) / 127)

    calls = {
        "ours": lambda: quantize(weight, 8, granularity="channel"),
        LARGEST: largest,
        GIVEN: lambda: fake_quantize(given),
    }
    assert torch.equal(timed(calls[way], 30), quantize(weight, 8, granularity="channel"))


# --- optimized rounding ---

BREVITAS = "brevitas: its gates, losses and steps"
ON_LOGITS = "ours on the logits, in batches of 32"
STEPS, RATE, BATCH = 1000, 0.03, 32


@pytest.fixture(scope="module")
def small(trained):
    """Give a small CNN trained on the digits as images, with 448 calibration inputs and those held out."""
    split = trained.split
    images = split.train_inputs.reshape(-1, 1, 8, 8)
    model = train.fit(
        models.build("cnn", (1, 8, 8), 10, width=8, seed=0), images, split.train_classes, epochs=20, seed=0
    )
    return model, images[:448], split.test_inputs.reshape(-1, 1, 8, 8)


def brevitas_rounding(model: nn.Sequential, inputs: torch.Tensor, bits: int) -> nn.Module:
    """
    Round *model* by brevitas: its quantized layers, gates, regularizer and loss, layer by layer.

    The loop is that of its trainer, which needs more packages; it draws a batch by one index instead of image by image,
    which is faster, and takes our learning rate, since its own of 0.001 leaves most gates where they began.
    """
    generator = torch.Generator().manual_seed(0)
    quantized, x, target = copy.deepcopy(model), inputs, inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of named tensors, which it uses
        for i, layer in enumerate(model):
            with torch.no_grad():
                target = layer(target)
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                options = {"weight_bit_width": bits, "weight_quant": Int8WeightPerTensorFloat}
                if isinstance(layer, nn.Linear):
                    new = qnn.QuantLinear(layer.in_features, layer.out_features, True, **options)
                else:
                    new = qnn.QuantConv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=True, **options)
                new.load_state_dict(layer.state_dict(), strict=False)
                new.eval()
                assert torch.equal(new.quant_weight().value, quantize(layer.weight, bits))  # the same step sizes
                learned_round.insert_learned_round_quantizers(new, LearnedRoundImplType.HARD_SIGMOID)
                new.train()
                losses = [
                    learned_round.RoundRegularisationLoss(new, max_count=STEPS),
                    learned_round.MSELoss(new, reduction="none", dim=1),
                ]
                (gates,) = learned_round.return_learned_round_quantizers(new)
                optimizer = torch.optim.Adam([gates.value], lr=RATE)
                for _ in range(STEPS):
                    rows = torch.randint(len(x), (BATCH,), generator=generator)
                    optimizer.zero_grad()
                    output = new(x[rows])
                    sum(loss(output, target[rows]) for loss in losses).backward()
                    optimizer.step()
                quantized[i] = new.eval()
            with torch.no_grad():
                x = quantized[i](x)
    return quantized


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("way", ["ours", ON_LOGITS, BREVITAS])
def test_optimized_rounding(small, timed, way, bits, benchmark):
    benchmark.group = f"Optimized rounding of a small CNN to {bits} bits, 1,000 steps (aims: 1, and errors no higher)"
    model, inputs, held_out = small
    on = {"ours": "layers", ON_LOGITS: "logits"}.get(way)

    def ours():
        options = {"seed": 0, "steps": STEPS, "learning_rate": RATE, "batch_size": BATCH}
        return optimize_rounding(model, inputs, bits, on=on, **options)[0]

    def theirs():
        with one_thread():
            return brevitas_rounding(model, inputs, bits)

    def error(candidate, x):
        with torch.no_grad():
            return float((model(x) - candidate(x)).square().sum(1).mean())

    rounded = timed(ours, 3, 1) if on else timed(theirs, 1, 0)
    errors = [error(rounded, x) for x in (inputs, held_out)]
    benchmark.extra_info["says"] = "logit error {:.3f}, held out {:.3f}".format(*errors)
    assert errors[0] < error(quantize_model(model, bits), inputs)
    if not on:
        by_layer, _ = optimize_rounding(model, inputs, bits, seed=0, steps=STEPS, learning_rate=RATE)
        assert error(by_layer, inputs) <= errors[0]
