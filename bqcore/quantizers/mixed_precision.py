"""Torch modules with some weights quantized, each layer to its own bits, and the bytes that this takes."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from . import uniform


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
        If the model is no torch module, has no linear or convolution layer, or a weight of theirs is tied or computed.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"The model is {type(model).__name__}: PTQ-W needs a torch module; audit other pairs instead.")
    found, owners = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, uniform.LAYERS):
            found[name], says = layer, f"Layer {name or 'model'!r}: its weight is"
            if not isinstance(layer.weight, nn.Parameter):
                raise ValueError(f"{says} computed from other parameters: remove that parametrization first.")
            owner = owners.setdefault(id(layer.weight), name)
            if owner != name:  # it would be quantized and counted twice, to bits that may differ
                raise ValueError(f"{says} tied to that of {owner!r}: give it a copy of its own first.")
    if not found:
        raise ValueError(f"The model ({type(model).__name__}) has no linear or convolution layer: nothing to quantize.")
    return found


def model_bytes(model: nn.Module, bits, *, granularity: str = "tensor") -> int:
    """
    Give the bytes of a model whose layers have bits of their own, counted as
    :func:`bqcore.quantizers.uniform.model_bytes` does.

    Parameters
    ----------
    model : torch module
    bits : int, or dict of int by layer name
        2 to 16, or 32 for float; layers that a dictionary does not name are float.
    granularity : {"tensor", "channel"}

    Examples
    --------
    >>> model_bytes(nn.Linear(10, 3), 4), uniform.model_bytes(nn.Linear(10, 3), 4)
    (31, 31)
    """
    found = layers(model)
    if not isinstance(bits, Mapping):
        bits = dict.fromkeys(found, bits)
    _check_names(bits, found)
    each = {
        name: uniform.model_bytes(layer, bits.get(name, 32), granularity=granularity) for name, layer in found.items()
    }
    rest = uniform.model_bytes(model, 32) - sum(uniform.model_bytes(layer, 32) for layer in found.values())
    return rest + sum(each.values())


def mixed(model: nn.Module, bits: Mapping[str, int], *, scheme: str = "narrow", granularity: str = "tensor") -> Mixed:
    """Give *model* with the weights of the named layers quantized, each to its own bits; the others stay in float."""
    found = layers(model)
    _check_names(bits, found)
    weights = {}
    for name, b in bits.items():
        weight = found[name].weight.detach()
        weights[f"{name}.weight".lstrip(".")] = uniform.quantize(weight, b, scheme=scheme, granularity=granularity)
    return Mixed(model, weights)


def uniform_bits(model: nn.Module, levels, budget: int, *, granularity: str = "tensor") -> int:
    """Give the most bits of *levels* for all layers that a budget of bytes holds, or refuse it if there are none."""
    sizes = {b: model_bytes(model, b, granularity=granularity) for b in levels}
    fitting = [b for b, size in sizes.items() if size <= budget]
    if not fitting:
        least = min(sizes)
        raise ValueError(
            f"The budget is {budget} bytes, and {least} bits for all take {sizes[least]}: give more bytes or fewer "
            "bits."
        )
    return max(fitting)


def spend(model: nn.Module, cost: Mapping, budget: int, *, granularity: str = "tensor") -> dict[str, int]:
    """
    Give each layer bits within a budget so that what they cost adds up to little.

    From the most bits down the step that adds least cost per byte saved is taken, any number of levels at once, until
    the budget holds; what is left of it is spent where it takes most cost away.

    Parameters
    ----------
    model : torch module
    cost : dict of float by (layer name, bits)
        Of each layer alone at each level.
    budget : int
        Bytes of the whole model, as :func:`model_bytes` counts them; at least those of the fewest bits for all.
    granularity : {"tensor", "channel"}

    Returns
    -------
    dict of bits by layer name; the sum of its costs is no more than that of the most uniform bits the budget holds.

    Raises
    ------
    ValueError
        If the budget does not hold the fewest bits for all.
    """
    levels, whole = sorted({b for _, b in cost}, reverse=True), uniform.model_bytes(model, 32)
    saved = {(name, b): whole - model_bytes(model, {name: b}, granularity=granularity) for name, b in cost}
    every = {b: dict.fromkeys(layers(model), b) for b in levels}

    def size(chosen: dict) -> int:
        return whole - sum(saved[item] for item in chosen.items())

    same = every[uniform_bits(model, levels, budget, granularity=granularity)]
    chosen = every[levels[0]]
    while size(chosen) > budget:
        steps = []
        for name, now in chosen.items():
            for b in (level for level in levels if level < now):
                gain = saved[name, b] - saved[name, now]
                steps.append(((cost[name, b] - cost[name, now]) / max(gain, 1), -gain, name, b))
        *_, name, b = min(steps)
        chosen = chosen | {name: b}
    ways = (chosen, same)  # a greedy way can end behind the plainest one
    refilled = [_refilled(way, levels, cost, lambda chosen: size(chosen) <= budget) for way in ways]
    return min(refilled, key=lambda way: sum(cost[item] for item in way.items()))


def _refilled(chosen: dict, levels: list[int], cost: Mapping, fits: Callable) -> dict[str, int]:
    while True:
        steps = [
            (cost[name, b] - cost[name, now], name, b)
            for name, now in chosen.items()
            for b in levels
            if b > now and fits(chosen | {name: b})
        ]
        if not steps or min(steps)[0] >= 0:
            return chosen
        _, name, b = min(steps)
        chosen = chosen | {name: b}


def _check_names(bits: Mapping[str, int], found: Mapping) -> None:
    for name in bits:
        if name not in found:
            raise ValueError(f"There is no layer {name!r} to quantize: choose from {', '.join(map(repr, found))}.")
