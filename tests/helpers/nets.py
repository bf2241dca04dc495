"""Small networks with their inputs, and comparisons of networks, which the tests of the quantizers share."""

import copy

import torch
from hypothesis import strategies as st
from torch import nn

from studies import networks

SEEDS = st.integers(0, 2**32 - 1)


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(kind: str, seed: int, count: int = 24) -> tuple[nn.Module, torch.Tensor]:
    """Return a small network with *count* calibration inputs."""
    if kind == "mlp":
        return networks.mlp((6, 8, 4), seed), normal(count, 6, seed=seed)
    return networks.build("cnn", (1, 8, 8), 4, width=3, seed=seed), normal(count, 1, 8, 8, seed=seed)


def shared(seed: int) -> nn.Sequential:
    """Return a network that runs one layer and one ReLU twice."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer, act = nn.Linear(6, 6), nn.ReLU()
        return nn.Sequential(layer, act, layer, act, nn.Linear(6, 4)).eval()


def apart(model: nn.Sequential) -> nn.Sequential:
    """Return a network that computes what *model* does, each of its layers a copy of its own."""
    return nn.Sequential(*(copy.deepcopy(layer) for layer in model)).eval()


def logit_error(model, candidate, inputs) -> float:
    with torch.no_grad():
        return float((model(inputs) - candidate(inputs)).double().square().sum(1).mean())


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def with_statistics(model: nn.Module, seed: int) -> nn.Module:
    """Set the statistics and weights of batch norms as in a trained network, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for name, low, high in (
                ("weight", -1, 2),
                ("bias", -1, 1),
                ("running_mean", -2, 2),
                ("running_var", 0.1, 3),
            ):
                tensor = getattr(norm, name)
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model.double()


FOLDED = {
    "resnet": lambda seed: (networks.build("resnet", (3, 8, 8), 5, width=4, seed=seed), (6, 3, 8, 8)),
    "bias": lambda seed: (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), (4, 2, 5, 5)),
    "grouped": lambda seed: (nn.Sequential(nn.Conv1d(4, 4, 3, groups=2, bias=False), nn.BatchNorm1d(4)), (4, 4, 9)),
    "affine": lambda seed: (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2, affine=False)), (2, 1, 3, 3, 3)),
    "linear": lambda seed: (nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2)), (5, 4)),
    "nothing": lambda seed: (networks.mlp((4, 3, 2), seed), (5, 4)),
}


class Bottleneck(nn.Module):
    """A residual block of three convolutions, as those of ResNet-50."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()

        def part(taken: int, given: int, kernel: int, stride: int = 1):
            layer = nn.Conv2d(taken, given, kernel, stride, kernel // 2, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(given))

        self.a, self.b, self.c = part(before, width, 1), part(width, width, 3, stride), part(width, 4 * width, 1)
        self.skip = nn.Identity() if before == 4 * width else part(before, 4 * width, 1, stride)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.c(self.act(self.b(self.act(self.a(x))))) + self.skip(x))


def resnet50(width: int, classes: int) -> nn.Sequential:
    """Return a ResNet-50 of another *width* than 64; of 40 it has 9.3 million parameters."""
    blocks, before = [], width
    for stage, count in enumerate((3, 4, 6, 3)):
        for i in range(count):
            blocks.append(Bottleneck(before, width << stage, 2 if stage and not i else 1))
            before = 4 * width << stage
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
        return nn.Sequential(*stem, *blocks, *head).eval()
