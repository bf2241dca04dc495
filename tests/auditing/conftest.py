"""Classifiers that several tests of the audit take."""

import pytest

from studies import networks, training
from studies.data import splits


@pytest.fixture(scope="session")
def deep():
    """Give a trained network of four layers with calibration and held-out splits."""
    split = splits.digits(1)
    model = networks.mlp((64, 48, 24, 16, 10), 1)
    x, y = split.train_inputs, split.train_classes
    training.fit(model, x[:900], y[:900], epochs=15, seed=1)
    return model, (x[900:], y[900:]), (split.test_inputs, split.test_classes)
