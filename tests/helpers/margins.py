"""Classifiers with known gradients, and the radius by its formula, which tests of margins and gradients share."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from bqcore.metrics.margins import local_change, radius
from tests.helpers.nets import SEEDS

SCALES = st.integers(-8, 8).map(lambda power: 10.0**power)


def linear(weight, bias) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))
    return layer


@st.composite
def linear_cases(draw, least=2):
    """Draw a linear classifier's weights and biases and a batch of inputs, of any scale."""
    k, d, n = draw(st.integers(2, 9)), draw(st.integers(least, 8)), draw(st.integers(1, 20))
    generator = np.random.default_rng(draw(SEEDS))
    scale = draw(SCALES)
    return generator.normal(size=(k, d)) * scale, generator.normal(size=k) * scale, generator.normal(size=(n, d))


class Wavy(nn.Module):
    """Smooth, not piecewise linear, on inputs of shape (1, 4, 4): every gradient differs from every other."""

    def __init__(self, classes: int):
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.body = nn.Conv2d(1, 4, 3).double()
        self.head = nn.Linear(16, classes).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)).flatten(1))


def radius_one_by_one(classifier, inputs) -> list[tuple[float, int]]:
    """DEFINITIONS' formula, read aloud: one input, one rival, one gradient at a time."""
    found = []
    for x in inputs:
        x = x[None].clone().requires_grad_(True)
        z = classifier(x)[0]
        c = int(z.argmax())
        best = (float("inf"), -1)
        for j in range(len(z)):
            if j != c:
                gap = z[c] - z[j]
                (gradient,) = torch.autograd.grad(gap, x, retain_graph=True)
                best = min(best, (gap.item() / gradient.norm().item(), j))
        found.append(best)
    return found


def measures(classifier, candidate, inputs, **kind) -> list[np.ndarray]:
    first, second = radius(classifier, inputs, **kind), local_change(classifier, candidate, inputs, **kind)
    return [*first, *second]
