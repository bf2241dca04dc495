"""The paper's kinds of models, seeded without touching the global generator."""

import torch
from torch import nn

from .checks import check_integer


def mlp(sizes: tuple[int, ...], seed: int) -> nn.Sequential:
    """
    Build a ReLU multilayer perceptron, for instance 64-64-10, with torch's usual initial weights.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, hidden units of each layer, classes.
    seed : int
        Of the initial weights.
    """
    if len(sizes) < 2:
        raise ValueError(f"Sizes are {sizes}: give at least the inputs and the classes.")
    sizes = [check_integer("A layer's size", size, 1) for size in sizes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_integer("Seed", seed, 0))
        layers = [layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
