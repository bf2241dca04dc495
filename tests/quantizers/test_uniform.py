"""Quantizers bit by bit against torch and torchao, what holds on any weights, and every refusal."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from bqcore.quantizers.uniform import (
    GRANULARITIES,
    SCHEMES,
    interpolate,
    level_range,
    model_bytes,
    quantize,
    quantize_model,
    step_size,
)
from studies.networks import mlp
from tests.helpers.nets import SEEDS

BITS = st.integers(2, 16)


@st.composite
def weights(draw, exponents=(-44, 37), dtype=np.float32):
    """Draw weights of any scale, normal or on and between the points of a grid; at least two, not all equal."""
    shape = draw(st.sampled_from([(2,), (7,), (1, 9), (4, 6), (3, 2, 5), (2, 3, 3, 3), (300, 300)]))
    generator = np.random.default_rng(draw(SEEDS))
    if draw(st.booleans()):
        values = generator.normal(size=shape) * 10.0 ** draw(st.integers(*exponents))
    else:  # half levels of some bit-width, the highest one among them: ties
        top = 2 ** (draw(BITS) - 1) - 1
        values = generator.integers(-2 * top, 2 * top + 1, size=shape) / 2
        values.flat[generator.integers(values.size)] = top
        values *= 2.0 ** draw(st.integers(-100, 100)) * draw(st.sampled_from([1.0, generator.uniform(1, 2)]))
    weight = torch.from_numpy(values.astype(dtype))
    assume(weight.amax() > weight.amin())
    return weight


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare bit by bit: -0 is not 0."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(kind), b.view(kind))


def levels(quantized: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (quantized.double() / step.double()).round()


@pytest.mark.parametrize(
    ("scheme", "granularity", "expected"),
    [
        # steps 6/3 = 2, then 3/3 = 1: 1 is a tie between the levels 0 and 1 and goes to the even one
        ("narrow", "tensor", [[-6.0, 0.0, 4.0], [0.0, 2.0, 4.0]]),
        ("narrow", "channel", [[-6.0, 0.0, 4.0], [1.0, 2.0, 3.0]]),
        # steps 6/3.5 and 3/3.5: the lowest level is -4, the highest 3
        ("full", "tensor", [[-4 * 6 / 3.5, 6 / 3.5, 2 * 6 / 3.5], [6 / 3.5, 6 / 3.5, 2 * 6 / 3.5]]),
        ("full", "channel", [[-4 * 6 / 3.5, 6 / 3.5, 2 * 6 / 3.5], [3 / 3.5, 2 * 3 / 3.5, 3 * 3 / 3.5]]),
    ],
)
def test_three_bits_by_hand(scheme, granularity, expected):
    weight = torch.tensor([[-6.0, 1.0, 4.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    assert quantize(weight, 3, scheme=scheme, granularity=granularity).tolist() == [
        pytest.approx(row, rel=1e-15) for row in expected
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(weights(), BITS)
def test_narrow_range_has_the_bits_of_torch(dtype, weight, bits):
    weight = weight.to(dtype)
    assume(torch.isfinite(weight).all() and weight.amax() > weight.amin())
    low, high = level_range(bits)
    step = step_size(weight, bits)
    assert same_bits(quantize(weight, bits), torch.fake_quantize_per_tensor_affine(weight, step.item(), 0, low, high))


@given(weights(), BITS)
def test_narrow_range_per_channel_has_the_bits_of_torch(weight, bits):
    assume(weight.ndim > 1)
    low, high = level_range(bits)
    step = step_size(weight, bits, granularity="channel")
    assert step.shape == (len(weight), *[1] * (weight.ndim - 1))
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, step.flatten(), zeros, 0, low, high)
    assert same_bits(quantize(weight, bits, granularity="channel"), expected)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@given(weights(), BITS)
def test_full_range_has_the_bits_of_torchao_step_included(granularity, weight, bits):
    # Here, since it takes as long to import as torch itself.
    from torchao.quantization import MappingType
    from torchao.quantization.quant_primitives import choose_qparams_affine, dequantize_affine, quantize_affine

    assume(granularity == "tensor" or weight.ndim > 1)
    low, high = level_range(bits, "full")
    block = tuple(weight.shape) if granularity == "tensor" else (1, *weight.shape[1:])
    # int32 whatever the bits: it only bounds quant_min and quant_max
    kind = {"quant_min": low, "quant_max": high}
    step, zero = choose_qparams_affine(weight, MappingType.SYMMETRIC, block, torch.int32, **kind)
    integers = quantize_affine(weight, block, step, zero, torch.int32, **kind)
    expected = dequantize_affine(integers, block, step, zero, torch.int32, **kind)
    ours = step_size(weight, bits, scheme="full", granularity=granularity).flatten()
    used = weight.abs().flatten(0 if granularity == "tensor" else 1).amax(-1).flatten() > 0
    assert same_bits(ours[used], step.flatten()[used])  # for zeros alone torchao's step is the least number, ours 1
    assert same_bits(quantize(weight, bits, scheme="full", granularity=granularity), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights((-300, 300), np.float64), BITS)
def test_float64_weights_keep_their_precision(scheme, weight, bits):
    """Against NumPy: torch's own fake_quantize rounds the step to float32."""
    low, high = level_range(bits, scheme)
    w = weight.numpy()
    step = np.abs(w).max() / (2 ** (bits - 1) - (1 if scheme == "narrow" else 0.5))
    assert quantize(weight, bits, scheme=scheme).tolist() == (np.rint(w * (1 / step)).clip(low, high) * step).tolist()


@given(weights(), BITS)
def test_step_is_the_largest_magnitude_over_the_highest_level(weight, bits):
    reach = weight.abs().max().numpy()
    expected = max(reach / np.float32(2 ** (bits - 1) - 1), np.finfo(np.float32).smallest_normal)
    assert step_size(weight, bits).item() == expected


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights(), BITS)
def test_quantized_weights_lie_on_the_grid_within_half_a_step(scheme, granularity, weight, bits):
    assume(granularity == "tensor" or weight.ndim > 1)
    kind = {"scheme": scheme, "granularity": granularity}
    before = weight.clone()
    quantized, step = quantize(weight, bits, **kind), step_size(weight, bits, **kind)
    level, (low, high) = levels(quantized, step), level_range(bits, scheme)
    assert torch.equal(weight, before)
    assert torch.equal(quantized, level.float() * step)
    assert low <= level.min() and level.max() <= high
    # float32 rounds x · (1/step) by up to 2^-23 of a level number, which is 2^(bits - 1) at most
    slack = 2.0 ** (bits - 23)
    assert ((quantized.double() - weight.double()).abs() <= (0.5 + slack) * step.double()).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights(), BITS)
def test_order_and_zeros_are_kept(scheme, weight, bits):
    weight.view(-1)[0] = 0.0
    assume(weight.amax() > weight.amin())
    quantized = quantize(weight, bits, scheme=scheme).flatten()
    assert (quantized[weight.flatten().argsort()].diff() >= 0).all()
    assert quantized[0] == 0


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights((-10, 10)), BITS, st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_result(scheme, granularity, weight, bits, power):
    assume(granularity == "tensor" or weight.ndim > 1)
    assume(1e-25 < weight.abs().max() < 1e25)  # else a step may fall below the smallest normal number
    kind = {"scheme": scheme, "granularity": granularity}
    assert same_bits(quantize(weight * 2.0**power, bits, **kind), quantize(weight, bits, **kind) * 2.0**power)


@given(weights((-30, 30)), BITS)
def test_quantizing_twice_changes_no_level(weight, bits):
    """
    Narrow range only: the full range stretches what it rounds to its lowest level, and again each time.

    The second step comes from highest level · first step, rounded: the values may move by the last bit.
    """
    once = quantize(weight, bits)
    assume(once.amax() > once.amin())
    twice = quantize(once, bits)
    assert torch.equal(levels(twice, step_size(once, bits)), levels(once, step_size(weight, bits)))
    torch.testing.assert_close(twice, once, rtol=2.0**-22, atol=0)


@given(weights(), BITS)
def test_narrow_range_is_symmetric(weight, bits):
    assert torch.equal(quantize(-weight, bits), -quantize(weight, bits))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_memory_layout_and_gradients_do_not_matter(granularity):
    weight = torch.randn(40, 30, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = quantize(weight, 5, granularity=granularity)
    for other in (
        weight.to(memory_format=torch.channels_last),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        nn.Parameter(weight),
    ):
        out = quantize(other, 5, granularity=granularity)
        assert torch.equal(out, expected) and not out.requires_grad


def test_one_weight_and_zeros_are_no_error():
    assert quantize(torch.tensor(0.3), 4) == pytest.approx(0.3, rel=1e-6)
    assert quantize(torch.ones(1), 2, scheme="full") == pytest.approx(2 / 3)  # the step, for the highest level is 1
    assert quantize(torch.zeros(1), 4) == 0 and step_size(torch.zeros(3), 4) == 1
    with_empty_channel = quantize(torch.tensor([[0.0, 0.0], [1.0, -0.2]]), 4, granularity="channel")
    assert with_empty_channel[0].tolist() == [0, 0]


def small_net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    return net.eval()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scheme", SCHEMES)
@given(st.integers(0, 99), BITS)
def test_only_weights_of_linear_and_convolution_layers_change(scheme, granularity, seed, bits):
    net = small_net(seed)
    before = copy.deepcopy(net.state_dict())
    quantized = quantize_model(net, bits, scheme=scheme, granularity=granularity)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for name, value in quantized.state_dict().items():
        weights_of_layer = name in ("0.weight", "4.weight")
        expected = (
            quantize(before[name], bits, scheme=scheme, granularity=granularity) if weights_of_layer else before[name]
        )
        assert torch.equal(value, expected), name
    assert [p.requires_grad for p in quantized.parameters()] == [p.requires_grad for p in net.parameters()]


@given(st.integers(0, 99), st.floats(0, 1))
def test_interpolation_is_linear_and_exact_at_both_ends(seed, t):
    a, b = mlp((5, 4, 3), seed), mlp((5, 4, 3), seed + 1)
    before = [p.clone() for model in (a, b) for p in model.parameters()]
    for at, expected in ((0, a), (1, b), (0.0, a), (1.0, b)):
        ends = interpolate(a, b, at)
        assert all(torch.equal(p, q) for p, q in zip(ends.parameters(), expected.parameters()))
    for p, q, r in zip(interpolate(a, b, t).parameters(), a.parameters(), b.parameters()):
        torch.testing.assert_close(p.double(), (1 - t) * q.double() + t * r.double(), rtol=1e-6, atol=1e-7)
    assert all(torch.equal(p, q) for p, q in zip([p for m in (a, b) for p in m.parameters()], before))


GOOD = torch.tensor([[1.0, -2.0], [0.5, 0.25]])


@pytest.mark.parametrize("call", [quantize, step_size, quantize_model])
@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (1, "Bit-width is 1: give an integer from 2 to 16"),
        (17, "Bit-width is 17: give an integer from 2 to 16"),
        (-8, "Bit-width is -8: give an integer from 2 to 16"),
        (8.0, r"Bit-width is 8\.0: give an integer\."),
        (True, r"Bit-width is True: give an integer\."),
        ("8", r"Bit-width is '8': give an integer\."),
        (None, r"Bit-width is None: give an integer\."),
        (np.float32(8), "give an integer"),
    ],
)
def test_bits_are_refused(call, bits, message):
    with pytest.raises(ValueError, match=message):
        call(nn.Linear(2, 2) if call is quantize_model else GOOD, bits)


def test_numpy_integers_are_bits():
    assert torch.equal(quantize(GOOD, np.int64(3)), quantize(GOOD, 3))


def with_value(*places_and_values) -> torch.Tensor:
    weight = torch.ones(3, 4)
    for place, value in places_and_values:
        weight[place] = value
    return weight


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (with_value(((1, 2), torch.nan)), r"Weights hold 1 non-finite values of 12, first at index \(1, 2\): the"),
        (with_value(((2, 0), -torch.inf), ((2, 3), torch.nan)), r"2 non-finite values of 12, first at index \(2, 0\)"),
        (with_value(((0, 0), torch.inf), ((1, 0), -torch.inf)), r"2 non-finite values of 12, first at index \(0, 0\)"),
        (torch.empty(0, 4), r"Weights are empty \(shape \(0, 4\)\): there is nothing to quantize"),
        (torch.ones(3, 4, dtype=torch.int32), r"Weights are Tensor of torch\.int32: give a float tensor"),
        (np.ones((3, 4)), "Weights are ndarray of float64: give a float tensor"),
        (torch.tensor([[3e38, -3.4e38]]), r"Weights reach 3\.4e\+38, so that the lowest level overflows torch\.f"),
        (torch.tensor([[6e4, 0.0]]).half(), "Weights reach 60000, so that the lowest level overflows torch.float16"),
    ],
)  # fmt: skip
def test_weights_are_refused(granularity, weight, message):
    with pytest.raises(ValueError, match=message):
        quantize(weight, 2, scheme="full", granularity=granularity)


def test_options_are_refused():
    with pytest.raises(ValueError, match="Scheme is 'ful': choose one of 'narrow', 'full'"):
        quantize(GOOD, 8, scheme="ful")
    with pytest.raises(ValueError, match="Granularity is 'row': choose one of 'tensor', 'channel'"):
        quantize(GOOD, 8, granularity="row")
    with pytest.raises(ValueError, match=r"Weights have shape \(4,\): a step per channel needs two axes or more"):
        quantize(GOOD.flatten(), 8, granularity="channel")


def test_models_are_refused_and_the_layer_named():
    with pytest.raises(ValueError, match="Layer 'model': Weights hold 1 non-finite"):
        bare = nn.Linear(2, 2)
        with torch.no_grad():
            bare.weight[0, 0] = torch.nan
        quantize_model(bare, 4)
    with pytest.raises(ValueError, match=r"The model \(ReLU\) has no linear or convolution layer: nothing to quantize"):
        quantize_model(nn.ReLU(), 4)
    with pytest.raises(ValueError, match="Layer 'model': its weight is computed .* remove that parametrization first"):
        quantize_model(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), 4)


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan"), "0.5", True, None])
def test_interpolation_parameters_are_refused(t):
    with pytest.raises(ValueError, match=rf"Interpolation parameter is {t!r}: give a number from 0 to 1"):
        interpolate(mlp((3, 2), 0), mlp((3, 2), 1), t)


@pytest.mark.parametrize("other", [mlp((3, 4), 0), mlp((3, 3, 2), 0), nn.Linear(3, 2)])
def test_interpolation_of_other_models_is_refused(other):
    with pytest.raises(ValueError, match="The two models differ in the names or shapes of their parameters"):
        interpolate(mlp((3, 2), 0), other, 0.5)


def test_tied_weights_are_stored_once():
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    assert model_bytes(tied, 4) == 64 * 4 // 8 + 4 + 2 * 8 * 4  # weights, their step, two biases
