"""A network's layers on calibration inputs: what goes in and out, the quadratic error, which can be quantized."""

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .weights import LAYERS, quoted

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PASS = 256  # inputs through the model at once, where nothing is learned
_PATCHES = 1 << 24  # values of a convolution's patches held at once


class Quadratic:
    """A layer's squared output error as a form of its weights: D G D' + 2 D C + c, D = rounded − float, by groups."""

    def __init__(self, layer: nn.Module):
        self.layer, self.groups = layer, getattr(layer, "groups", 1)
        self.weight = self._rows(layer.weight)
        groups, out, width = self.weight.shape
        options = {"dtype": torch.float64, "device": layer.weight.device}
        self.gram, self.cross = torch.zeros(groups, width, width, **options), torch.zeros(groups, out, width, **options)
        self.rest, self.count = 0.0, 0

    def _rows(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(self.groups, -1, weight[0].numel())

    def add(self, x: torch.Tensor, target: torch.Tensor) -> None:
        """Take in the quantized prefix's inputs *x* and the float outputs *target* of the layer."""
        each = 1 if isinstance(self.layer, nn.Linear) else self.layer.weight[0, 0].numel()
        size = max(1, _PATCHES * len(x) // (x.numel() * each))
        for part, y in zip(x.split(size), target.split(size)):
            error = _channels_last(self.layer, self.layer(part) - y)
            patches, error = _patches(self.layer, part), error.reshape(len(error), self.groups, -1)
            patches = patches.reshape(len(patches), self.groups, -1)
            self.gram += torch.einsum("mgi,mgj->gij", patches, patches)
            self.cross += torch.einsum("mgo,mgi->goi", error, patches)
            self.rest += float(error.double().square().sum())
            self.count += len(patches)

    def close(self) -> None:
        """Turn sums into means, in the weights' own type."""
        kind = self.weight.dtype
        self.gram, self.cross = (self.gram / self.count).to(kind), (self.cross / self.count).to(kind)
        self.rest /= self.count

    def __call__(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the error at *weight* and its gradient."""
        change = self._rows(weight.detach()) - self.weight
        half = change @ self.gram + self.cross
        return (change * (half + self.cross)).sum() + self.rest, (2 * half).reshape(weight.shape)


def _channels_last(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Return one row for each input or position, one column for each output channel."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    if output.ndim == len(layer.kernel_size) + 1:  # without a batch axis
        output = output[None]
    return output.movedim(1, -1).reshape(-1, output.shape[1])


def _patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what each output position of *layer* sees of *x*, one row a position, group by group."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    sides = len(layer.kernel_size)
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation), 2):
        x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + sides).reshape(-1, math.prod((x.shape[1], *layer.kernel_size)))


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of *model* at *inputs*, without gradients, a few inputs at a time."""
    with torch.no_grad():
        return torch.cat([model(part.clone()) for part in inputs.split(PASS)])  # it may work in place


class _Reached(Exception):
    """Ends a forward pass once the layer that is looked for has been seen."""


def caught(model: nn.Module, name: str, x: torch.Tensor, *, output: bool) -> torch.Tensor:
    """Return what goes into the layer *name* of *model* at *x*, or its output."""
    kept = []

    def keep(module, args, result=None):
        kept.append(result if output else args[0])
        raise _Reached

    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(keep) if output else layer.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            model(x.clone())  # it may work in place
    except _Reached:
        pass
    finally:
        handle.remove()
    return kept[0]


def layer_error(reference: nn.Module, rounded: nn.Module, name: str, inputs: torch.Tensor) -> Quadratic:
    """Return the error of a layer against its float output, on what the *rounded* layers before it make of *inputs*."""
    error = Quadratic(reference.get_submodule(name))
    for part in inputs.split(PASS):
        error.add(caught(rounded, name, part, output=False), caught(reference, name, part, output=True))
    error.close()
    return error


def unfit(layer: nn.Module, owners: dict[int, list[str]], calls: int, on: str) -> str:
    """Return why *layer* cannot be quantized, or nothing."""
    if not isinstance(layer, LAYERS):
        weights = any(p.ndim > 1 for p in layer.parameters(recurse=False)) and not isinstance(layer, _NORMS)
        return f"{type(layer).__name__} has weights but is no linear or convolution layer" if weights else ""
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other parameters"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"its weights are {weight.dtype}, and gates are learned in float32 or float64"
    if len(owners[id(weight)]) > 1:
        return f"its weight is tied, {quoted(owners[id(weight)])} hold it"
    if calls == 0 or (calls > 1 and on == "layers"):
        return f"it runs {calls} times in a forward pass, and once is needed"
    return ""


def calls_of(model: nn.Module, x: torch.Tensor) -> dict[str, list[int]]:
    """Return when each quantizable layer runs in a forward pass at *x*: places in the order of all such calls."""
    seen, handles = [], []
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            handles.append(layer.register_forward_pre_hook(lambda *_, name=name: seen.append(name)))
    try:
        logits_of(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: [place for place, other in enumerate(seen) if other == name] for name in seen}
