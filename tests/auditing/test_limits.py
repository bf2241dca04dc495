"""Limits of an audit: exceeded by more than the limit, and refused if they cannot be judged."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from bqcore.auditing import limits
from tests.helpers.audits import of_logits


def test_limits_are_exceeded_by_more_than_the_limit():
    z = np.tile([[2.0, 0.0]], (10, 1))
    q = z.copy()
    q[:2] = [[0.0, 2.0]]
    dataset = of_logits(z, q, np.zeros(10, int)).dataset
    assert limits.exceeded(dataset, {"flip_rate": 0.2, "accuracy_loss": 0.25}) == []
    assert limits.exceeded(dataset, {"flip_rate": 0.19, "accuracy_loss": 0.1}) == [
        "flip rate: 0.2000 exceeds the limit 0.19", "loss of accuracy: 0.2000 exceeds the limit 0.1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="for accuracy_loss, which is not measured without classes: give them with"):
        limits.exceeded(of_logits(z, q).dataset, {"accuracy_loss": 0.1})
    with pytest.raises(ValueError, match="A limit is 'flips': choose one of 'flip_rate', "):
        limits.exceeded(dataset, {"flips": 0.1})
    with pytest.raises(ValueError, match="Limit of flip_rate is 10: give a number from -1 to 1"):
        limits.exceeded(dataset, {"flip_rate": 10})


@given(st.integers(1, 300), st.data())
def test_a_loss_of_exactly_its_limit_is_kept(n, drawn):
    """As the difference of two shares, in floating point, it is as often above the limit: 0.9 - 0.89 > 0.01."""
    lost = drawn.draw(st.integers(0, n))
    before = drawn.draw(st.integers(lost, n))
    right = (np.arange(n) < before, np.arange(n) < before - lost)
    rates = {"accuracy_reference": right[0].mean(), "accuracy": right[1].mean()}
    dataset = xr.Dataset({name: ("split", [rate]) for name, rate in rates.items()}, {"split": ["heldout"]})
    assert limits.exceeded(dataset, {"accuracy_loss": lost / n}) == []
    assert len(limits.exceeded(dataset, {"accuracy_loss": lost / n - 1e-6})) == 1
