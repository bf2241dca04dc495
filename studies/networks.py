"""The paper's kinds of models, seeded without touching the global generator."""

import copy
from contextlib import contextmanager
from math import prod

import torch
from torch import nn

from bqcore._checks import check_choice, check_integer

MODELS = ("mlp", "cnn", "resnet", "strided-resnet")


def build(name: str, shape: tuple[int, ...], classes: int, *, width: int, seed: int) -> nn.Module:
    """
    Build one of :data:`MODELS` by name, for inputs of *shape*, with torch's usual initial weights.

    *width* is the MLP's hidden units, or the channels of the first convolution of a small convolutional network, of a
    reduced residual one, or of one whose first convolution halves the image, which leaves time for more channels.

    >>> build("mlp", (1, 28, 28), 10, width=128, seed=0)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    check_choice("Model", name, MODELS)
    width, classes = check_integer("Width", width, 1), check_integer("Classes", classes, 2)
    if name != "mlp" and len(shape) != 3:
        raise ValueError(f"Inputs have shape {tuple(shape)}: a {name} takes (channels, rows, columns).")
    with _seeded(seed):
        if name == "mlp":
            layers = mlp((prod(shape), width, classes), seed)
            return nn.Sequential(nn.Flatten(), *layers) if len(shape) > 1 else layers
        if name == "cnn":
            return _cnn(shape, classes, width)
        return _resnet(shape, classes, width, (3, 1, 1) if name == "resnet" else (4, 2, 1))


def mlp(sizes: tuple[int, ...], seed: int) -> nn.Sequential:
    """Build a ReLU multilayer perceptron, for instance of sizes (64, 64, 10), with torch's usual initial weights."""
    if len(sizes) < 2:
        raise ValueError(f"Sizes are {sizes}: give at least the inputs and the classes.")
    sizes = [check_integer("A layer's size", size, 1) for size in sizes]
    with _seeded(seed):
        layers = [layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _cnn(shape: tuple[int, ...], classes: int, width: int) -> nn.Sequential:
    """Build two convolutions, each halved by pooling, and two linear layers."""
    channels, rows, columns = shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * width * (rows // 4) * (columns // 4), 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def _resnet(shape: tuple[int, ...], classes: int, width: int, first: tuple[int, int, int]) -> nn.Sequential:
    """
    Build three residual blocks (He et al. 2016, reduced), 78,042 parameters at w = 16; *first*: size, stride, padding.
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], width, *first, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        _Block(width, width, 1), _Block(width, 2 * width, 2), _Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the body makes of *x* to its shortcut."""
        return torch.relu(self.body(x) + self.shortcut(x))


@contextmanager
def _seeded(seed: int):
    """Seed torch's global generator, which initial weights are drawn from, inside the block only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_integer("Seed", seed, 0))
        yield


def doubled(model: nn.Module) -> nn.Module:
    """Return a copy of a network in float64."""
    return copy.deepcopy(model).double()
