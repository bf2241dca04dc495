"""Classifiers that several tests of the audit take."""

import pytest
import torch
from torch import nn

from studies import networks, training
from studies.data import splits
from tests.helpers.audits import SPEC


@pytest.fixture(scope="module")
def lively():
    """Return the split of SPEC and its trained model."""
    split = splits.digits(SPEC.seed)
    model = networks.mlp((64, SPEC.width, 10), SPEC.seed)
    return split, training.fit(model, split.train_inputs, split.train_classes, epochs=SPEC.epochs, seed=SPEC.seed)


@pytest.fixture(scope="module")
def linear():
    """Return a linear classifier and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(12, 4).eval(), torch.randn(300, 12)


@pytest.fixture(scope="session")
def deep():
    """Return a trained network of four layers with calibration and held-out splits."""
    split = splits.digits(1)
    model = networks.mlp((64, 48, 24, 16, 10), 1)
    x, y = split.train_inputs, split.train_classes
    training.fit(model, x[:900], y[:900], epochs=15, seed=1)
    return model, (x[900:], y[900:]), (split.test_inputs, split.test_classes)
