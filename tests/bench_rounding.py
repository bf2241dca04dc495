"""
Optimized rounding beside brevitas's learned rounding, and beside what it cannot do without: `make bench` runs this too.

It is to end at a logit error no higher than brevitas's, in no more time. Layer by layer, a step's error is a quadratic
form of the layer's weights: of a residual network, two fifths of a step are the matrix products of these forms, which
run at the processor's peak; the rest passes over gates and weights one by one.
"""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bqcore._threads import one_thread
from bqcore.quantizers.adaround import optimize_rounding
from bqcore.quantizers.uniform import quantize, quantize_model
from bqcore.quantizers.weights import weights
from studies import networks, rounding, training
from tests.helpers import ROOT

with warnings.catch_warnings():  # of its own brevitas.fx, which it imports itself
    warnings.simplefilter("ignore", DeprecationWarning)
    import brevitas.nn as qnn
    from brevitas.inject.enum import LearnedRoundImplType
    from brevitas.quant import Int8WeightPerTensorFloat
    from brevitas_examples.common.learned_round import learned_round_method as learned_round

BREVITAS = "brevitas: its gates, losses and steps"
ON_LOGITS = "ours on the logits, in batches of 32"
STEPS, RATE, BATCH = 1000, 0.03, 32


@pytest.fixture(scope="module")
def small(trained):
    """Return a small CNN trained on the digits as images, with 448 calibration inputs and those held out."""
    split = trained.split
    images = split.train_inputs.reshape(-1, 1, 8, 8)
    model = training.fit(
        networks.build("cnn", (1, 8, 8), 10, width=8, seed=0), images, split.train_classes, epochs=20, seed=0
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

    rounded = timed(ours if on else theirs, 2, 0)
    errors = [error(rounded, x) for x in (inputs, held_out)]
    benchmark.extra_info["says"] = "logit error {:.3f}, held out {:.3f}".format(*errors)
    assert errors[0] < error(quantize_model(model, bits), inputs)
    if not on:
        by_layer, _ = optimize_rounding(model, inputs, bits, seed=0, steps=STEPS, learning_rate=RATE)
        assert error(by_layer, inputs) <= errors[0]


PRODUCTS = "the matrix products of its errors alone"


@pytest.mark.benchmark(group="Optimized rounding of the full-CIFAR-10 network to 4 bits, 100 steps a layer")
@pytest.mark.parametrize("way", ["ours", PRODUCTS])
def test_rounding_of_a_residual_network(timed, way):
    model = networks.build("strided-resnet", (3, 32, 32), 10, width=28, seed=0)
    model.load_state_dict(load_file(ROOT / "data/checkpoints/stopping-full-cifar-10-strided-resnet.safetensors"))
    reference = rounding.reference_of(model.eval())
    inputs = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shapes = [tuple(weight.parameter.flatten(1).shape) for weight in weights(reference).values()]
    pairs = [(torch.randn(out, width), torch.randn(width, width)) for out, width in shapes]

    def products():
        with one_thread():
            for change, gram in pairs:
                for _ in range(100):
                    change @ gram

    def ours():
        return optimize_rounding(reference, inputs, 4, seed=0, steps=100)[1]

    record = timed({"ours": ours, PRODUCTS: products}[way], 2, warmup=1)
    assert way == PRODUCTS or all(record.errors[name] <= record.nearest_errors[name] for name in record.errors)
