"""The unit square around the origin, and classifiers that part it by a line: every displacement is known."""

import numpy as np
import torch
from torch import nn

from bqcore.metrics import planes


def unit_plane() -> planes.Plane:
    return planes.Plane(np.zeros(2), np.eye(2), -np.ones(2), np.ones(2), np.ones(2) / 2, (2,))


def halves(angle, offset, scale=1.0) -> nn.Sequential:
    """Return a classifier that decides for class 1 where x cos + y sin > offset."""
    model = nn.Sequential(nn.Linear(2, 2).double())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0, 0], [np.cos(angle), np.sin(angle)]], dtype=torch.float64) * scale)
        model[0].bias.copy_(torch.tensor([0, -offset], dtype=torch.float64) * scale)
    return model
