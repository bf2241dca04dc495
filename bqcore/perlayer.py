"""Torch modules with some weights quantized, each layer to its own bits, and the bytes that this takes."""

from collections.abc import Mapping

import torch
from torch import nn

from . import quantize
from .checks import check_integer


class Mixed(nn.Module):
    """A torch module with some of its weights replaced; the module itself is shared and stays as it is."""

    def __init__(self, model: nn.Module, weights: Mapping[str, torch.Tensor]):
        super().__init__()
        self.model, self.names = model, list(weights)
        for i, weight in enumerate(weights.values()):
            self.register_buffer(f"weight_{i}", weight)
        self.training = False

    def forward(self, *inputs, **named):
        """Give what the module gives with these weights."""
        weights = {name: getattr(self, f"weight_{i}") for i, name in enumerate(self.names)}
        return torch.func.functional_call(self.model, weights, inputs, named)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """
    Give the layers that PTQ-W quantizes, by name.

    Raises
    ------
    ValueError
        If the model is no torch module or has no linear or convolution layer.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"The model is {type(model).__name__}: PTQ-W needs a torch module; audit other pairs instead.")
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, quantize.LAYERS)}
    if not found:
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer: nothing to quantize.")
    return found


def weight_bytes(model: nn.Module, bits, *, granularity: str = "tensor") -> int:
    """
    Give the bytes of a model's quantized weights, packed, with their steps in float32.

    Biases and what else stays in float are not counted: they are the same for every choice.

    Parameters
    ----------
    model : torch module
    bits : int, or dict of int by layer name
    granularity : {"tensor", "channel"}

    Examples
    --------
    >>> weight_bytes(nn.Linear(10, 3), 4)
    19
    """
    total = 0
    for name, layer in layers(model).items():
        b = check_integer("Bit-width", bits[name] if isinstance(bits, Mapping) else bits, 2, 16)
        steps = 1 if granularity == "tensor" else layer.weight.shape[0]
        total += -(-layer.weight.numel() * b // 8) + 4 * steps
    return total


def mixed(model: nn.Module, bits: Mapping[str, int], *, scheme: str = "narrow", granularity: str = "tensor") -> Mixed:
    """Give *model* with the weights of the named layers quantized, each to its own bits; the others stay in float."""
    found = layers(model)
    weights = {}
    for name, b in bits.items():
        if name not in found:
            raise ValueError(f"There is no layer {name!r} to quantize: choose from {', '.join(map(repr, found))}.")
        weight = found[name].weight.detach()
        weights[f"{name}.weight".lstrip(".")] = quantize.quantize(weight, b, scheme=scheme, granularity=granularity)
    return Mixed(model, weights)
