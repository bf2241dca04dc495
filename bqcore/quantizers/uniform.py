"""
Uniform symmetric weight quantizers (PTQ-W) and interpolation between two quantization levels.

PTQ-W is post-training quantization of weights: the weights of linear and convolution layers go onto a uniform
symmetric grid, biases and normalization layers stay in float, and no calibration data is used. Two conventions for
the step rule practice; both are here, per tensor and per channel.
"""

import copy

import torch
from torch import nn

from .._checks import check_choice, check_finite, check_integer, check_share

SCHEMES = ("narrow", "full")
GRANULARITIES = ("tensor", "channel")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHUNK = 1 << 16  # values worked on at a time: they stay in a core's cache through the five passes


def level_range(bits: int, scheme: str = "narrow") -> tuple[int, int]:
    """
    Give the lowest and highest integer level of a grid.

    Parameters
    ----------
    bits : int
        Bit-width, 2 to 16.
    scheme : {"narrow", "full"}
        ``narrow``: ±(2^(b−1) − 1), as brevitas, quanto and TensorRT. ``full``: −2^(b−1) … 2^(b−1) − 1, as torch.ao
        and torchao.

    Examples
    --------
    >>> level_range(8), level_range(8, "full")
    ((-127, 127), (-128, 127))
    """
    bits = check_integer("Bit-width", bits, 2, 16)
    check_choice("Scheme", scheme, SCHEMES)
    top = 2 ** (bits - 1) - 1
    return (-top, top) if scheme == "narrow" else (-top - 1, top)


def step_size(weight: torch.Tensor, bits: int, *, scheme: str = "narrow", granularity: str = "tensor") -> torch.Tensor:
    """
    Give the distance between adjacent grid points, from the largest weight magnitude.

    Parameters
    ----------
    weight : float tensor, any shape; the first axis holds the output channels.
    bits : int
        2 to 16.
    scheme : {"narrow", "full"}
        absmax / (2^(b−1) − 1) or absmax / (2^(b−1) − 0.5).
    granularity : {"tensor", "channel"}
        One step for all, or one for each index of the first axis.

    Returns
    -------
    step : tensor, shape () or (channels, 1, ...)
        Of the weight's type, but float32 for 16-bit floats, whose range holds no such step. 1 where all weights are
        zero; never below the smallest normal number (as torchao), so that 1/step is finite.

    Raises
    ------
    ValueError
        If a weight is not finite, there is none, *bits* is out of range, or the lowest level overflows.
    """
    level_range(bits, scheme)
    return _step(*_extremes(weight, granularity), bits, scheme, weight.dtype)


def quantize(weight: torch.Tensor, bits: int, *, scheme: str = "narrow", granularity: str = "tensor") -> torch.Tensor:
    """
    Round each weight to the nearest point of a uniform symmetric grid (ties to the even level).

    Computes x · (1/step), as ``torch.fake_quantize_per_tensor_affine`` does, and agrees with it to the last bit.

    Parameters
    ----------
    weight, bits, scheme, granularity
        As in :func:`step_size`.

    Returns
    -------
    quantized : tensor of the weight's shape and type, every value step · level.

    Raises
    ------
    ValueError
        As :func:`step_size`; also if two weights or more are all equal, since then there is nothing to resolve.

    Examples
    --------
    >>> quantize(torch.tensor([-1.0, -0.4, 0.1, 0.75]), 2)
    tensor([-1., 0., 0., 1.])
    """
    low, high = level_range(bits, scheme)
    smallest, largest = _extremes(weight, granularity)
    if weight.numel() > 1 and smallest.amin() == largest.amax():
        raise ValueError(
            f"Weights are all equal ({weight.numel()} values of {weight.flatten()[0].item():g}): "
            "the layer is untrained or masked; leave it in float."
        )
    step = _step(smallest, largest, bits, scheme, weight.dtype)
    inverse = 1.0 / step
    source = _at_least_float32(weight.detach()).contiguous()
    rows = source.view(-1) if granularity == "tensor" else source
    out = torch.empty_like(rows)
    length = max(1, _CHUNK * len(rows) // rows.numel())
    for start in range(0, len(rows), length):
        part = slice(start, start + length)
        scale, unscale = (step, inverse) if granularity == "tensor" else (step[part], inverse[part])
        # Adding 0 turns the -0 of a small negative weight into the 0 that torch and torchao give.
        torch.mul(rows[part], unscale, out=out[part]).round_().clamp_(low, high).add_(0.0).mul_(scale)
    return out.view(weight.shape).to(weight.dtype)


def quantize_model(model: nn.Module, bits: int, *, scheme: str = "narrow", granularity: str = "tensor") -> nn.Module:
    """
    Copy *model* with the weights of its linear and convolution layers quantized (PTQ-W).

    Biases and every other parameter stay as they are, and *model* itself is not changed.

    Parameters
    ----------
    model : torch module
    bits, scheme, granularity
        As in :func:`step_size`.

    Raises
    ------
    ValueError
        If the model has no linear or convolution layer, or a layer's weights are refused; the layer is named.
    """
    out = copy.deepcopy(model)
    found = False
    for name, layer in out.named_modules():
        if isinstance(layer, LAYERS):
            found = True
            try:
                if not isinstance(layer.weight, nn.Parameter):
                    raise ValueError("its weight is computed from other parameters: remove that parametrization first.")
                with torch.no_grad():
                    layer.weight.copy_(quantize(layer.weight, bits, scheme=scheme, granularity=granularity))
            except ValueError as error:
                raise ValueError(f"Layer {name or 'model'!r}: {error}") from None
    if not found:
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer: nothing to quantize.")
    return out


def levels_of(
    model: nn.Module, bits: tuple[int, ...], *, scheme: str = "narrow", granularity: str = "tensor"
) -> dict[int, nn.Module]:
    """Give :func:`quantize_model` of *model* at each of *bits*."""
    return {b: quantize_model(model, b, scheme=scheme, granularity=granularity) for b in bits}


def model_bytes(model: nn.Module, bits: int, *, granularity: str = "tensor") -> int:
    """
    Give the bytes that a model takes when the weights of its linear and convolution layers have *bits* each.

    Weights are packed without gaps, with a float32 step for each tensor or output channel; every other parameter and
    buffer is float32. Of 32 bits, the weights are float32 too and have no step.

    Parameters
    ----------
    model : torch module
    bits : int
        2 to 16, or 32.
    granularity : "tensor" or "channel"

    Examples
    --------
    >>> model_bytes(nn.Linear(8, 2), 4), model_bytes(nn.Linear(8, 2), 32)
    (20, 72)
    """
    check_choice("Granularity", granularity, GRANULARITIES)
    # Tied weights are stored once.
    layers = list({id(layer.weight): layer.weight for layer in model.modules() if isinstance(layer, LAYERS)}.values())
    everything = sum(t.numel() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    weights = sum(weight.numel() for weight in layers)
    if bits == 32:
        return 4 * everything
    bits = check_integer("Bits", bits, 2, 16)
    steps = len(layers) if granularity == "tensor" else sum(len(weight) for weight in layers)
    packed = sum(-(-weight.numel() * bits // 8) for weight in layers)
    return packed + 4 * (steps + everything - weights)


def interpolate(model_a: nn.Module, model_b: nn.Module, t: float) -> nn.Module:
    """
    Copy *model_a* with every floating-point parameter W(t) = (1 − t) W_a + t W_b.

    Between the models of two adjacent bit-widths this is the paper's interpolation between quantization levels.
    Exact at both ends.

    Parameters
    ----------
    model_a, model_b : torch modules with equally named and shaped parameters
    t : float
        0 to 1.

    Raises
    ------
    ValueError
        If *t* is outside [0, 1] or the parameters differ in name or shape.
    """
    t = check_share("Interpolation parameter", t)
    out = copy.deepcopy(model_a)
    theirs = dict(model_b.named_parameters())
    ours = dict(out.named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise ValueError(
            "The two models differ in the names or shapes of their parameters: interpolate two levels of one."
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            if parameter.is_floating_point():
                parameter.copy_((1 - t) * parameter + t * theirs[name])
    return out


def _extremes(weight: torch.Tensor, granularity: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the smallest and the largest weight of all or of each channel, shape () or (channels, 1, ...)."""
    check_choice("Granularity", granularity, GRANULARITIES)
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise ValueError(
            f"Weights are {type(weight).__name__} of {getattr(weight, 'dtype', 'no type')}: give a float tensor."
        )
    if weight.numel() == 0:
        raise ValueError(f"Weights are empty (shape {tuple(weight.shape)}): there is nothing to quantize.")
    weight = _at_least_float32(weight.detach())
    if granularity == "tensor":
        smallest, largest = torch.aminmax(weight)
    else:
        if weight.ndim < 2:
            raise ValueError(f"Weights have shape {tuple(weight.shape)}: a step per channel needs two axes or more.")
        axes = tuple(range(1, weight.ndim))
        smallest, largest = weight.amin(axes, keepdim=True), weight.amax(axes, keepdim=True)
    if not torch.isfinite(largest - smallest).all():  # NaN and infinity reach the extremes: no mask of all weights
        check_finite("Weights", weight.double().cpu().numpy(), "the model diverged or its file is damaged")
    return smallest, largest


def _step(
    smallest: torch.Tensor, largest: torch.Tensor, bits: int, scheme: str, kind: torch.dtype
) -> torch.Tensor:  # fmt: skip
    reach = torch.maximum(largest, -smallest)
    divisor = 2 ** (bits - 1) - (1 if scheme == "narrow" else 0.5)
    step = (reach / divisor).clamp(min=torch.finfo(reach.dtype).smallest_normal)
    step = torch.where(reach > 0, step, torch.ones_like(step))
    if not torch.isfinite((step * level_range(bits, scheme)[0]).to(kind)).all():
        raise ValueError(
            f"Weights reach {reach.max().item():g}, so that the lowest level overflows {kind}: scale them down."
        )
    return step


def _at_least_float32(weight: torch.Tensor) -> torch.Tensor:
    return weight.float() if weight.element_size() < 4 else weight
