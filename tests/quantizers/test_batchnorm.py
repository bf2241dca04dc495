"""Batch norms folded into the layers before them: the same outputs, and a name for each that cannot be folded."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bqcore.quantizers.batchnorm import fold_batchnorm
from tests.helpers.nets import FOLDED, normal, same_bits, with_statistics

# --- batch norms ---


@pytest.mark.parametrize("kind", FOLDED)
@given(seed=st.integers(0, 999))
@settings(max_examples=5)
def test_a_folded_model_equals_the_one_in_eval_mode(kind, seed):
    model, shape = FOLDED[kind](seed)
    model = with_statistics(model, seed)
    before, x = copy.deepcopy(model), normal(*shape, seed=seed).double()
    folded = fold_batchnorm(model)
    assert same_bits(model, before) and model.training and not folded.training
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    norms = kind != "nothing"
    assert all(layer.bias is not None for layer in folded.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(x)
        # float64 of three blocks and no more: 1e-10 is 500,000 roundings
        torch.testing.assert_close(folded(x), expected, rtol=1e-10, atol=1e-10)
        assert not norms or not torch.equal(model(x), expected)  # a training batch has its own statistics


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    return nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3), norm)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), "'0'"),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.BatchNorm1d(2)), "'2'"),
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)), "'1'"),
        (shared_norm(), "'1'"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.BatchNorm1d(2)), "'1'"),
        (nn.ModuleList([nn.BatchNorm1d(2) for _ in range(5)]), "'0', '1', '2' and 2 more"),
    ],
)
def test_batch_norms_that_cannot_be_folded_are_named(model, names):
    with pytest.raises(ValueError, match=rf"Batch norm {names} cannot be folded: it needs running statistics and"):
        fold_batchnorm(model)
