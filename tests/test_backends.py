"""Quantizers of other packages: the weights that they are known to give, their bytes, and a clean log."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bqcore
from bqcore import backends, decisions, models, quantize


@pytest.fixture(scope="module")
def network():
    """Give a network and inputs."""
    return models.mlp((64, 32, 10), 0).eval(), torch.rand(200, 64, generator=torch.Generator().manual_seed(0))


def logits(model, x) -> np.ndarray:
    with torch.no_grad():
        return model(x).numpy() if isinstance(model, nn.Module) else model.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_torchao_rounds_to_the_full_range_with_a_step_per_channel(network, bits):
    model, x = network
    found = backends.torchao_weights(model, bits)
    ours = quantize.quantize_model(model, bits, scheme="full", granularity="channel")
    # Sums in another order; a weight one step off would move a logit by hundredths.
    np.testing.assert_allclose(logits(found.model, x), logits(ours, x), atol=1e-5)
    assert found.bytes == bqcore.model_bytes(model, bits, granularity="channel")
    grouped = backends.torchao_weights(model, bits, group=16)
    assert grouped.bytes == (64 * 32 + 32 * 10) * bits // 8 + 4 * (4 * 32 + 2 * 10)


def test_float_onnx_gives_the_logits_of_torch_and_8_bits_nearly(network):
    model, x = network
    z = logits(model, x)
    exported = backends.onnx_session(model, x)
    np.testing.assert_allclose(logits(exported.model, x), z, atol=1e-5)  # sums in another order
    assert exported.bytes == (64 * 32 + 32 * 10) * 4
    for candidate in (backends.onnx_dynamic(model, x), backends.onnx_static(model, x), backends.torch_dynamic(model)):
        gap = np.abs(logits(candidate.model, x) - z).max()
        assert 0 < gap < 0.05 * np.ptp(z)
        # One byte a weight, and for each matrix a step and perhaps a zero point.
        assert 0 < candidate.bytes - (64 * 32 + 32 * 10) <= 16


def test_every_candidate_on_the_shelf_can_be_audited(network):
    model, x = network
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shelf = backends.shelf(model, x[:100])
    assert len(shelf) == 10
    for name, (candidate, size) in shelf.items():
        d = bqcore.audit(model, candidate, None, x, nodes=0, check_order=False).dataset.sel(split="heldout")
        assert float(d.flip_rate) == decisions.flips(logits(model, x), logits(candidate, x)).rate, name
        assert np.isfinite(d.displacement).all() and size > 0
        assert np.isfinite(d.normal_variation).all() == name.startswith(("PTQ-W", "torchao")), name
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_the_log_and_the_warnings_are_as_before():
    before = logging.root.manager.disable
    with pytest.raises(KeyError), backends.quiet():
        warnings.warn("inside", stacklevel=1)
        assert not logging.getLogger("torch").isEnabledFor(logging.ERROR)
        raise KeyError
    assert logging.root.manager.disable == before
    with pytest.raises(UserWarning, match="outside"):
        warnings.warn("outside", stacklevel=1)


def test_what_is_wrong_is_named(network):
    with pytest.raises(ValueError, match="Bit-width is 6: choose one of 8, 4"):
        backends.torchao_weights(network[0], 6)
    with pytest.raises(ValueError, match=r"The model \(ReLU\) has no linear layer: nothing to quantize"):
        backends.torchao_weights(nn.ReLU().eval(), 8)
