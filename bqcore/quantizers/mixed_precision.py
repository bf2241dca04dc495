"""Torch modules with some weights quantized, each layer to its own bits, and the bytes that this takes."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from .uniform import check_names, model_bytes, quantize_weight
from .weights import replaced, weights


class Mixed(nn.Module):
    """A torch module with some of its weights replaced; the module itself is shared and stays as it is."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]):
        super().__init__()
        self.model, self.names = model, list(tensors)
        for i, tensor in enumerate(tensors.values()):
            self.register_buffer(f"weight_{i}", tensor)
        self.training = False

    def changed(self) -> bool:
        """Return whether any weight differs from the module's own."""
        pairs = [(self.model.get_parameter(name), getattr(self, f"weight_{i}")) for i, name in enumerate(self.names)]
        return not all(torch.equal(own, other) for own, other in pairs)

    def on(self, model: nn.Module) -> "Mixed":
        """Return these weights, in float64, in a copy of the module that is."""
        return Mixed(model, {name: getattr(self, f"weight_{i}").double() for i, name in enumerate(self.names)})

    def forward(self, *inputs, **named):
        """Return what the module gives with these weights."""
        with replaced(self.model, {name: getattr(self, f"weight_{i}") for i, name in enumerate(self.names)}):
            return self.model(*inputs, **named)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """
    Return the layers that hold the weights of :func:`bqcore.quantizers.weights.weights`, by the same names.

    >>> layers(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)))
    {'0': Linear(in_features=8, out_features=4, bias=True), '2': Linear(in_features=4, out_features=2, bias=True)}
    """
    return {name: weight.module for name, weight in weights(model).items()}


def mixed(model: nn.Module, bits: Mapping[str, int], *, scheme: str = "narrow", granularity: str = "tensor") -> Mixed:
    """Return *model* with the weights of the named layers quantized, each to its own bits; the others stay in float."""
    found, options = weights(model, asked=bits), {"scheme": scheme, "granularity": granularity}
    check_names(bits, found)
    return Mixed(
        model, {found[name].path: quantize_weight(name, found[name], b, **options) for name, b in bits.items()}
    )


def uniform_bits(model: nn.Module, levels, budget: int, names: Iterable[str], *, granularity: str = "tensor") -> int:
    """Return the most bits of *levels* for the layers *names* that a budget of bytes holds, or refuse it if none do."""
    sizes = {b: model_bytes(model, dict.fromkeys(names, b), granularity=granularity) for b in levels}
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
    Choose the bits of each layer within a budget of bytes, so that what they cost adds up to little.

    *cost* is that of each layer alone, by (layer name, bits). From the most bits down the step that adds least cost per
    byte saved is taken, any number of levels at once, until the budget holds; what is left of it is spent where it
    takes most cost away. The sum is no more than that of the most uniform bits that the budget holds, which must be
    some.
    """
    levels, whole = sorted({b for _, b in cost}, reverse=True), model_bytes(model, 32)
    saved = {(name, b): whole - model_bytes(model, {name: b}, granularity=granularity) for name, b in cost}
    names = dict.fromkeys(name for name, _ in cost)
    every = {b: dict.fromkeys(names, b) for b in levels}

    def size(chosen: dict) -> int:
        return whole - sum(saved[item] for item in chosen.items())

    same = every[uniform_bits(model, levels, budget, names, granularity=granularity)]
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
        up = [(name, b) for name, now in chosen.items() for b in levels if b > now and fits(chosen | {name: b})]
        steps = [(cost[name, b] - cost[name, chosen[name]], name, b) for name, b in up]
        if not steps or min(steps)[0] >= 0:
            return chosen
        _, name, b = min(steps)
        chosen = chosen | {name: b}
