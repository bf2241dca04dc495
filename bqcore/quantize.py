"""
Uniform symmetric weight quantizers (PTQ-W) and interpolation between two quantization levels.

PTQ-W is post-training quantization of weights: the weights of linear and convolution layers go onto a uniform
symmetric grid, biases and normalization layers stay in float, and no calibration data is used. Two conventions for
the step rule practice; both are here, per tensor and per channel.
"""

import copy

import torch
from torch import nn

from .checks import check_choice, check_finite, check_integer, check_share

SCHEMES = ("narrow", "full")
GRANULARITIES = ("tensor", "channel")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHUNK = 1 << 16  # values worked on at a time: they stay in a core's cache through the four passes


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
    step : tensor of the weight's type, shape () or (channels, 1, ...); 1 where all weights are zero.

    Raises
    ------
    ValueError
        If a weight is not finite, there is none, or *bits* is out of range.
    """
    level_range(bits, scheme)
    check_choice("Granularity", granularity, GRANULARITIES)
    _check_weight(weight)
    if granularity == "tensor":
        largest = torch.maximum(weight.amax(), -weight.amin())
    else:
        if weight.ndim < 2:
            raise ValueError(f"Weights have shape {tuple(weight.shape)}: a step per channel needs two axes or more.")
        axes = tuple(range(1, weight.ndim))
        largest = torch.maximum(weight.amax(axes, keepdim=True), -weight.amin(axes, keepdim=True))
    divisor = 2 ** (bits - 1) - (1 if scheme == "narrow" else 0.5)
    return torch.where(largest > 0, largest / divisor, torch.ones_like(largest))


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
    step = step_size(weight, bits, scheme=scheme, granularity=granularity)
    if weight.numel() > 1 and weight.amax() == weight.amin():
        raise ValueError(
            f"Weights are all equal ({weight.numel()} values of {weight.flatten()[0].item():g}): the layer is untrained "
            "or masked; leave it in float."
        )
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    source = weight.detach().contiguous()
    if granularity == "tensor":
        pieces = [(source.view(-1), out.view(-1), step, 1.0 / step)]
    else:
        rows, steps = source.flatten(1), step.flatten(1)
        pieces = [(rows, out.flatten(1), steps, 1.0 / steps)]
    for x, y, s, inverse in pieces:
        length = _CHUNK if x.ndim == 1 else max(1, _CHUNK // x.shape[1])
        for start in range(0, len(x), length):
            part = slice(start, start + length)
            scale, unscale = (s, inverse) if x.ndim == 1 else (s[part], inverse[part])
            torch.mul(x[part], unscale, out=y[part])
            y[part].round_().clamp_(low, high).mul_(scale)
    return out


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
                with torch.no_grad():
                    layer.weight.copy_(quantize(layer.weight, bits, scheme=scheme, granularity=granularity))
            except ValueError as error:
                raise ValueError(f"Layer {name or 'model'!r}: {error}") from None
    if not found:
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer: nothing to quantize.")
    return out


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


def _check_weight(weight: torch.Tensor) -> None:
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise ValueError(
            f"Weights are {type(weight).__name__} of {getattr(weight, 'dtype', 'no type')}: give a float tensor."
        )
    if weight.numel() == 0:
        raise ValueError(f"Weights are empty (shape {tuple(weight.shape)}): there is nothing to quantize.")
    # One sum sees any NaN or infinity at a fraction of the cost of a mask; only then is the place looked for.
    if not torch.isfinite(weight.detach().sum()) and not torch.isfinite(weight).all():
        check_finite("Weights", weight.detach().double().cpu().numpy(), "the model diverged or its file is damaged")
