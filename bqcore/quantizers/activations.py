"""
Fake quantization of activations: what goes into each layer with weights is rounded to a grid, as integer kernels do.

Grids are affine: 2^b levels from the lowest to the highest value, with 0 among them exactly. The range is *static*,
found once on calibration inputs, or *dynamic*, that of each sample when it comes, so that no sample depends on another.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from .._checks import check_choice, check_integer, check_share
from .weights import weights

KINDS = ("static", "dynamic")
Range = tuple[float, float]


def fake_quantize(x: torch.Tensor, low, high, bits: int = 8) -> torch.Tensor:
    """
    Round *x* to the 2^bits levels of the affine grid from *low* to *high*, widened to hold 0; beyond it x is clipped.

    The range is two numbers, or two tensors that broadcast with *x*. NaN stays NaN.

    >>> fake_quantize(torch.tensor([-1.0, 0.4, 0.6, 9.0]), -1.0, 2.0, bits=2)
    tensor([-1.,  0.,  1.,  2.])
    """
    top = 2 ** check_integer("Bits of activations", bits, 2, 16) - 1
    values = x if x.element_size() >= 4 else x.float()
    low, high = (torch.as_tensor(end, dtype=values.dtype, device=x.device) for end in (low, high))
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / top
    step = torch.where(step > 0, step, torch.ones_like(step))
    zero = torch.round(-low / step)
    levels = (torch.round(values / step) + zero).clamp(0, top)
    return ((levels - zero) * step).to(x.dtype)


def calibrate(
    model: nn.Module, batches: Iterable, *, percentile: float = 100.0, skip: str | Iterable[str] = ()
) -> dict[str, list[Range]]:
    """
    Return the ranges of what goes into each layer with weights on *batches*, by layer, one for each of its inputs.

    A *percentile* below 100 cuts off the rarest values: the range is from the (100 − percentile)-th percentile to this
    one of each batch, averaged over batches. At 100 it holds all values of all batches. Layers that do not run by
    themselves, as where a function takes their weights, have no range.
    """
    cut = check_share("Percentile", percentile, 50.0, 100.0) / 100
    found: dict[str, list[list[Range]]] = {}

    def note(name: str, index: int, x: torch.Tensor) -> torch.Tensor:
        values = x.detach().float()
        ends = torch.aminmax(values) if cut == 1 else np.quantile(values.cpu().numpy(), [1 - cut, cut])
        each = found.setdefault(name, [])
        each.extend([] for _ in range(index + 1 - len(each)))
        each[index].append((float(ends[0]), float(ends[1])))
        return x

    for batch in batches:
        with torch.no_grad(), inputs_through(model, note, skip):
            model(**batch) if isinstance(batch, Mapping) else model(batch)
    low, high = (min, max) if cut == 1 else (np.mean, np.mean)

    def joined(ranges: list[Range]) -> Range:
        lows, highs = zip(*ranges)
        return float(low(lows)), float(high(highs))

    return {name: [joined(ranges) for ranges in each if ranges] for name, each in found.items()}


class Activated(nn.Module):
    """A torch module whose layers get rounded inputs; the module itself is shared and stays as it is."""

    def __init__(
        self, model: nn.Module, ranges: Mapping[str, list[Range]] | None, *, bits: int = 8, of: nn.Module | None = None,
        skip: str | Iterable[str] = (),
    ):  # fmt: skip
        super().__init__()
        self.model, self.ranges, self.bits, self.training = model, ranges, bits, False
        self.layers = {"of": model if of is None else of}  # in a dictionary, so that it is no second submodule
        self.skip = skip

    def forward(self, *inputs, **named):
        """Return what the module gives with rounded inputs of its layers."""
        with inputs_through(self.layers["of"], self._rounded, self.skip):
            return self.model(*inputs, **named)

    def _rounded(self, name: str, index: int, x: torch.Tensor) -> torch.Tensor:
        if self.ranges is None:
            axes = tuple(range(1, x.ndim)) or (0,)
            low, high = (end(x, dim=axes, keepdim=True) for end in (torch.amin, torch.amax))
            return fake_quantize(x, low, high, self.bits)
        known = self.ranges.get(name, [])
        return fake_quantize(x, *known[index], self.bits) if index < len(known) else x


def activated(
    model: nn.Module, batches: Iterable = (), *, bits: int = 8, kind: str = "static", percentile: float = 100.0,
    skip: str | Iterable[str] = (),
) -> Activated:  # fmt: skip
    """
    Return *model* with what goes into each layer with weights rounded to *bits*, by ranges of *batches* if static.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.0, 1.0]])})
    >>> activated(layer, [torch.tensor([[0.0, 3.0]])], bits=2)(torch.tensor([[0.6, 2.4]])).tolist()
    [[3.0]]
    """
    static = check_choice("Kind of activations", kind, KINDS) == "static"
    ranges = calibrate(model, batches, percentile=percentile, skip=skip) if static else None
    return Activated(model, ranges, bits=bits, skip=skip)


@contextmanager
def inputs_through(
    model: nn.Module, change: Callable[[str, int, torch.Tensor], torch.Tensor], skip: str | Iterable[str] = ()
) -> Iterator[None]:
    """
    Put what goes into each layer with weights through *change* for a while: of the layer's name, the number, the value.

    Numbers count the floating-point inputs of a layer: attention has three, the states of a recurrent layer are some.
    """
    layers = {id(weight.module): (name, weight.module) for name, weight in reversed(weights(model, skip).items())}
    handles = []

    def hook(name: str):
        def before(module, given, named):
            count = -1

            def each(value):
                nonlocal count
                if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
                    return value
                count += 1
                return change(name, count, value)

            return tuple(each(value) for value in given), {key: each(value) for key, value in named.items()}

        return before

    try:
        for name, module in layers.values():
            handles.append(module.register_forward_pre_hook(hook(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
