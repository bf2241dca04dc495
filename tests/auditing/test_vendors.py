"""Quantizers of other packages: the weights that they are known to give, their bytes, and a clean log."""

import logging
import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bqcore
from bqcore.auditing import vendors
from bqcore.metrics import decisions
from bqcore.quantizers import mixed_precision, uniform
from studies import networks


@pytest.fixture(scope="module")
def network():
    """Return a network and inputs."""
    return networks.mlp((64, 32, 10), 0).eval(), torch.rand(200, 64, generator=torch.Generator().manual_seed(0))


def logits(model, x) -> np.ndarray:
    with torch.no_grad():
        return model(x).numpy() if isinstance(model, nn.Module) else model.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_torchao_rounds_to_the_full_range_with_a_step_per_channel(network, bits):
    model, x = network
    found = vendors.torchao_weights(model, bits)
    ours = uniform.quantize_model(model, bits, scheme="full", granularity="channel")
    # Sums in another order; a weight one step off would move a logit by hundredths.
    np.testing.assert_allclose(logits(found.model, x), logits(ours, x), atol=1e-5)
    assert found.bytes == bqcore.model_bytes(model, bits, granularity="channel")
    grouped = vendors.torchao_weights(model, bits, group=16)
    assert grouped.bytes == (64 * 32 + 32 * 10) * bits // 8 + 4 * (4 * 32 + 2 * 10) + 4 * 42
    assert found.stored > 64 * 32 + 32 * 10  # a byte a weight, 4 bits or not
    assert "not quantized" not in str(bqcore.audit(model, found.model, None, x, nodes=0, gradient_samples=0))


def test_torchao_leaves_convolutions_in_float_and_they_are_counted():
    model = networks.build("cnn", (1, 8, 8), 10, width=4, seed=0).eval()
    linear = [name for name, layer in mixed_precision.layers(model).items() if isinstance(layer, nn.Linear)]
    expected = bqcore.model_bytes(model, dict.fromkeys(linear, 8), granularity="channel")
    assert vendors.torchao_weights(model, 8).bytes == expected > bqcore.model_bytes(model, 8, granularity="channel")


def test_float_onnx_gives_the_logits_of_torch_and_8_bits_nearly(network):
    model, x = network
    z = logits(model, x)
    exported = vendors._on_disk(model, x, shutil.copy)
    np.testing.assert_allclose(logits(exported.model, x), z, atol=1e-5)  # sums in another order
    assert exported.bytes == uniform.model_bytes(model, 32) < exported.stored
    for candidate in (
        vendors.onnx_dynamic(model, x), vendors.onnx_static(model, x), vendors.torch_dynamic(model),
        vendors.torch_static(model, x), vendors.onnx_static(model, x, per_channel=True),
    ):  # fmt: skip
        gap = np.abs(logits(candidate.model, x) - z).max()
        # Processors without VNNI saturate 16-bit sums of 8-bit products (ONNX Runtime's documentation): 6 % was seen.
        assert 0 < gap < 0.1 * np.ptp(z)
        # One byte a weight, four a bias, and steps and zero points: eight bytes and eight for each channel at most.
        assert 0 < candidate.bytes - (64 * 32 + 32 * 10) - 4 * 42 <= 16 + 4 * 16 + 12 * 42
        assert candidate.stored > candidate.bytes


def test_every_candidate_on_the_shelf_can_be_audited(network):
    model, x = network
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shelf = vendors.shelf(model, x[:100], logits(model, x[:100]).argmax(axis=1))
    assert list(shelf) == list(vendors.QUANTIZERS)
    absent = {name for name, found in shelf.items() if isinstance(found, str)}
    for name in absent:
        package = {"brevitas": "brevitas", "NNCF": "nncf"}[name.split()[0].rstrip(",")]
        assert shelf[name].endswith(f"needs the package {package}, which is not installed: pip install {package}.")
    for name in set(shelf) - absent:
        candidate, size, stored = shelf[name]
        d = bqcore.audit(model, candidate, None, x, nodes=0, check_order=False).dataset.sel(split="heldout")
        assert float(d.flip_rate) == decisions.flips(logits(model, x), logits(candidate, x)).rate, name
        assert np.isfinite(d.displacement).all() and 0 < size < stored, name
        by_weights = name.startswith(("PTQ-W", "torchao", "brevitas"))
        assert np.isfinite(d.normal_variation).all() == by_weights, name
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_a_dropout_between_quantized_layers_stays_off():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)).eval()
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    for name, found in vendors.shelf(model, x, torch.arange(50) % 3).items():
        if not isinstance(found, str):
            assert bqcore.audit(model, found.model, None, x, nodes=0, check_order=False).conclusion, name


def test_the_shelf_takes_arrays_and_does_without_classes(network, monkeypatch):
    model, x = network
    names = ("torch static, int8", "NNCF static, int8, accuracy control")
    monkeypatch.setattr(vendors, "QUANTIZERS", {name: vendors.QUANTIZERS[name] for name in names})
    shelf = vendors.shelf(model, x.double().numpy())
    assert shelf[names[0]].bytes > 0 and shelf[names[1]] == "It needs the classes of the calibration inputs."


def test_a_quantizer_that_cannot_take_a_model_is_left_out_with_the_reason(network, monkeypatch):
    def fails(model, x, y):
        raise TypeError("no such kind\nof layer")

    def refuses(model, x, y):
        return vendors.torchao_weights(model, 4, group=48)

    monkeypatch.setattr(vendors, "QUANTIZERS", {"a": (4, fails), "b": (4, refuses)})
    assert vendors.shelf(network[0], network[1], None) == {
        "a": "It failed with TypeError: no such kind",
        "b": "Layer '0' has 64 inputs, which groups of 48 do not divide.",
    }


@pytest.mark.parametrize("bits", [8, 4])
def test_brevitas_rounds_to_the_narrow_range_with_a_step_per_channel(bits):
    pytest.importorskip("brevitas", reason="brevitas' weights were NOT compared: it is in the bench group alone")
    model = networks.build("cnn", (1, 8, 8), 10, width=4, seed=0).eval()
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = vendors.brevitas_weights(model, bits)
    expected = uniform.quantize_model(model, bits, granularity="channel")
    np.testing.assert_allclose(logits(found.model, x), logits(expected, x), atol=1e-6)  # x/s and x · (1/s)
    assert found.bytes == uniform.model_bytes(model, bits, granularity="channel")


def test_the_log_and_the_warnings_are_as_before():
    before = logging.root.manager.disable
    with pytest.raises(KeyError), vendors.quiet():
        warnings.warn("inside", stacklevel=1)
        assert not logging.getLogger("torch").isEnabledFor(logging.ERROR)
        raise KeyError
    assert logging.root.manager.disable == before
    with pytest.raises(UserWarning, match="outside"):
        warnings.warn("outside", stacklevel=1)


def test_what_is_wrong_is_named(network):
    with pytest.raises(ValueError, match="Bit-width is 6: choose one of 8, 4"):
        vendors.torchao_weights(network[0], 6)
    with pytest.raises(ValueError, match=r"The model \(ReLU\) has no linear or convolution layer: nothing to quantize"):
        vendors.torchao_weights(nn.ReLU().eval(), 8)
