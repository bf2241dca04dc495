"""
Uniform symmetric weight quantizers (PTQ-W) and interpolation between two quantization levels.

PTQ-W is post-training quantization of weights: the weights of linear and convolution layers go onto a uniform
symmetric grid, biases and normalization layers stay in float, and no calibration data is used. Two conventions for
the step rule practice; both are here, per tensor and per channel.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from .._checks import check_choice, check_finite, check_integer, check_share
from .weights import Weight, weights

SCHEMES = ("narrow", "full")
GRANULARITIES = ("tensor", "channel")
_CHUNK = 1 << 16  # values worked on at a time: they stay in a core's cache through the five passes


def level_range(bits: int, scheme: str = "narrow") -> tuple[int, int]:
    """
    Return the lowest and highest integer level of a grid.

    Parameters
    ----------
    bits : int, bit-width, 2 to 16
    scheme : {"narrow", "full"}
        ``narrow``: ±(2^(b−1) − 1), as brevitas, quanto and TensorRT. ``full``: −2^(b−1) … 2^(b−1) − 1, as torch.ao
        and torchao.

    Returns
    -------
    lowest, highest : int, in steps

    Raises
    ------
    ValueError
        If *bits* or *scheme* is another.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.level_range(8), bq.level_range(8, "full")
    ((-127, 127), (-128, 127))
    """
    bits = check_integer("Bit-width", bits, 2, 16)
    check_choice("Scheme", scheme, SCHEMES)
    top = 2 ** (bits - 1) - 1
    return (-top, top) if scheme == "narrow" else (-top - 1, top)


def step_size(weight: torch.Tensor, bits: int, *, scheme: str = "narrow", granularity: str = "tensor") -> torch.Tensor:
    """
    Return the step size, the distance between adjacent grid points, from the largest weight magnitude.

    Parameters
    ----------
    weight : float tensor, any shape; the first axis holds the output channels.
    bits : int, 2 to 16
    scheme : {"narrow", "full"}; absmax / (2^(b−1) − 1) or absmax / (2^(b−1) − 0.5)
    granularity : {"tensor", "channel"}; one step for all, or one for each index of the first axis

    Returns
    -------
    step : tensor, shape () or (channels, 1, ...)
        Of the weight's type, but float32 for 16-bit floats, whose range holds no such step. 1 where all weights are
        zero; never below the smallest normal number (as torchao), so that 1/step is finite.

    Raises
    ------
    ValueError
        If a weight is not finite, there is none, *bits* is out of range, or the lowest level overflows.

    Examples
    --------
    >>> import bqcore as bq
    >>> weight = torch.tensor([[-1.0, 0.5], [0.25, 0.0]])
    >>> bq.step_size(weight, 2), bq.step_size(weight, 2, granularity="channel").tolist()
    (tensor(1.), [[1.0], [0.25]])
    """
    level_range(bits, scheme)
    return _step(*_extremes(weight, granularity), bits, scheme, weight.dtype)


def quantize(weight: torch.Tensor, bits: int, *, scheme: str = "narrow", granularity: str = "tensor") -> torch.Tensor:
    """
    Round each weight to the nearest point of a uniform symmetric grid (ties to the even level).

    Computes x · (1/step), as ``torch.fake_quantize_per_tensor_affine`` does, and agrees with it to the last bit. Two
    weights or more that are all equal stay as they are: one level holds them exactly.

    Parameters
    ----------
    weight, bits, scheme, granularity : as in :func:`step_size`

    Returns
    -------
    quantized : tensor of the weight's shape and type, every value step · level.

    Raises
    ------
    ValueError
        As :func:`step_size`.

    Examples
    --------
    >>> import bqcore as bq
    >>> bq.quantize(torch.tensor([-1.0, -0.4, 0.1, 0.75]), 2)
    tensor([-1., 0., 0., 1.])
    """
    low, high = level_range(bits, scheme)
    smallest, largest = _extremes(weight, granularity)
    if weight.numel() > 1 and smallest.amin() == largest.amax():
        return weight.detach().clone()
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


def quantize_model(
    model: nn.Module, bits: int, *, scheme: str = "narrow", granularity: str = "tensor", skip: str | Iterable[str] = ()
) -> nn.Module:
    """
    Copy *model* with the weights of its layers quantized (PTQ-W).

    Quantized are linear, convolution, transposed convolution and embedding layers, Hugging Face's ``Conv1D``, the
    packed projections of attention, and recurrent layers; a weight that several layers share once. Biases and every
    other parameter stay as they are, and *model* itself is not changed.

    Parameters
    ----------
    model : torch module
    bits, scheme, granularity : as in :func:`step_size`; the channels are those of a layer's output
    skip : str or strings, names of layers, or of modules with all that they hold, that stay in float

    Returns
    -------
    torch module of the type of *model*

    Raises
    ------
    ValueError
        If the model has no such layer, *skip* names none, or a layer's weights are refused; the layer is named.

    Examples
    --------
    >>> import bqcore as bq
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.4, 1.3, 3.0]])})
    >>> bq.quantize_model(layer, 3).weight.tolist(), layer.weight[0, 2].item()
    ([[1.0, 1.0, 3.0]], 3.0)
    """
    out = copy.deepcopy(model)
    for name, weight in weights(out, skip).items():
        with torch.no_grad():
            weight.parameter.copy_(quantize_weight(name, weight, bits, scheme=scheme, granularity=granularity))
    return out


def quantize_weight(name: str, weight: Weight, bits: int, **options) -> torch.Tensor:
    """Return :func:`quantize` of the weight of a layer called *name*, its steps along its output channels."""
    try:
        return quantize(weight.by_channel(), bits, **options).movedim(0, weight.axis).contiguous()
    except ValueError as error:
        raise ValueError(f"Layer {name or 'model'!r}: {error}") from None


def levels_of(model: nn.Module, bits: Sequence[int], **options) -> dict[int, nn.Module]:
    """Return :func:`quantize_model` of *model* at each of *bits*, with its *options*."""
    return {b: quantize_model(model, b, **options) for b in bits}


def weight_bytes(weight: torch.Tensor, bits: int, *, granularity: str = "tensor") -> int:
    """
    Return the bytes of one weight tensor: packed without gaps, with a float32 step for each tensor or channel.

    At 32 bits it is float32, which has no step.

    >>> weight_bytes(torch.ones(2, 8), 4), weight_bytes(torch.ones(2, 8), 4, granularity="channel")
    (12, 16)
    """
    check_choice("Granularity", granularity, GRANULARITIES)
    if bits == 32:
        return 4 * weight.numel()
    steps = 1 if granularity == "tensor" else len(weight)
    return -(-weight.numel() * check_integer("Bits", bits, 2, 16) // 8) + 4 * steps


def model_bytes(model: nn.Module, bits: int | Mapping[str, int], *, granularity: str = "tensor") -> int:
    """
    Return the bytes of a model whose weights are quantized as by :func:`quantize_model`, each by :func:`weight_bytes`.

    Every other parameter and buffer is float32. Tied weights are stored once.

    Parameters
    ----------
    model : torch module
    bits : int, or dict of int by layer name
        2 to 16, or 32 for float32; layers that a dictionary does not name are float32.
    granularity : {"tensor", "channel"}

    Returns
    -------
    bytes : int, weights packed, with their steps, and the rest

    Raises
    ------
    ValueError
        If bits are out of range, nothing can be quantized, or bits by name are of other layers than :func:`layers`.

    Examples
    --------
    >>> import bqcore as bq
    >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> bq.model_bytes(network, 4), bq.model_bytes(network, {"0": 8, "2": 4}), bq.model_bytes(network, 32)
    (52, 68, 184)
    """
    named = isinstance(bits, Mapping)
    found = {} if bits == 32 else weights(model, asked=bits if named else None)
    each = bits if named else dict.fromkeys(found, bits)
    check_names(each, found)
    quantized = {name: found[name].by_channel() for name in each}
    everything = sum(t.numel() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    rest = everything - sum(weight.numel() for weight in quantized.values())
    packed = (weight_bytes(weight, each[name], granularity=granularity) for name, weight in quantized.items())
    return 4 * rest + sum(packed)


def check_names(bits: Mapping[str, int], found: Mapping) -> None:
    """Refuse bits for a layer that is not among those *found*."""
    for name in bits:
        if name not in found:
            raise ValueError(f"There is no layer {name!r} to quantize: choose from {', '.join(map(repr, found))}.")


def interpolate(model_a: nn.Module, model_b: nn.Module, t: float) -> nn.Module:
    """
    Copy *model_a* with every floating-point parameter W(t) = (1 − t) W_a + t W_b.

    Between the models of two adjacent bit-widths this is the paper's interpolation between quantization levels.
    Exact at both ends.

    Parameters
    ----------
    model_a, model_b : torch modules with equally named and shaped parameters
    t : float, 0 to 1

    Returns
    -------
    torch module of the type of *model_a*

    Raises
    ------
    ValueError
        If *t* is outside [0, 1] or the parameters differ in name or shape.

    Examples
    --------
    >>> import bqcore as bq
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.4, 1.3, 3.0]])})
    >>> bq.interpolate(bq.quantize_model(layer, 3), bq.quantize_model(layer, 2), 0.5).weight.tolist()
    [[0.5, 0.5, 3.0]]
    """
    return next(interpolations(model_a, model_b, [t]))


def interpolations(model_a: nn.Module, model_b: nn.Module, steps: Iterable[float]) -> Iterator[nn.Module]:
    """Yield :func:`interpolate` at each of *steps*, in one copy that changes: copying takes half of a grid's time."""
    out = copy.deepcopy(model_a)
    a, b, ours = (dict(model.named_parameters()) for model in (model_a, model_b, out))
    if {n: p.shape for n, p in a.items()} != {n: p.shape for n, p in b.items()}:
        raise ValueError(
            "The two models differ in the names or shapes of their parameters: interpolate two levels of one."
        )
    for step in steps:
        t = check_share("Interpolation parameter", step)
        with torch.no_grad():
            for name, parameter in ours.items():
                if parameter.is_floating_point():
                    parameter.copy_((1 - t) * a[name] + t * b[name])
        yield out


def _extremes(weight: torch.Tensor, granularity: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest weight of all or of each channel, shape () or (channels, 1, ...)."""
    check_choice("Granularity", granularity, GRANULARITIES)
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        kind = f"{type(weight).__name__} of {getattr(weight, 'dtype', 'no type')}"
        raise ValueError(f"Weights are {kind}: give a float tensor.")
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


def _step(smallest, largest, bits: int, scheme: str, kind: torch.dtype) -> torch.Tensor:
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
