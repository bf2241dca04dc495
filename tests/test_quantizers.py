"""The study of quantizers: candidates and plans measured as they are alone, bytes, what is missing, what is kept."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bqcore
from bqcore import __main__ as command_line
from bqcore import backends, data, decisions, models, perlayer, quantize, quantizers, results, train

FEW = ("PTQ-W, 8 bits, a step per channel", "PTQ-W, 4 bits, a step per tensor", "ONNX Runtime static, int8")


@pytest.fixture(scope="module")
def network():
    """Give a trained network with three layers, and its two splits."""
    split = data.digits(0)
    x, y = split.train_inputs, split.train_classes
    model = train.fit(models.mlp((64, 24, 16, 10), 0), x[:900], y[:900], epochs=10, seed=0)
    return model, (x[900:], y[900:]), (split.test_inputs, split.test_classes)


@pytest.fixture(scope="module")
def measured(network):
    with pytest.MonkeyPatch.context() as patch:
        few = {name: backends.QUANTIZERS[name] for name in FEW}
        patch.setattr(backends, "QUANTIZERS", few | {"none": (8, lambda m, x, y: backends.torchao_weights(m, 6))})
        return quantizers.measure(*network)


def test_candidates_and_plans_are_measured_as_they_are_alone(network, measured):
    model, _, (x, y) = network
    with torch.no_grad():
        z = model(x)
        alone = {
            ("quantizer", FEW[0]): quantize.quantize_model(model, 8, granularity="channel")(x),
            ("quantizer", FEW[1]): quantize.quantize_model(model, 4)(x),
        }
        for budget in quantizers.BUDGETS:
            for ranking in quantizers.RANKINGS:
                text = str(measured.plan_bits.sel(budget=budget, ranking=ranking).item())
                bits = {name: int(b) for name, b in (part.split(": ") for part in text.split(", "))}
                alone["plan", budget, ranking] = perlayer.mixed(model, bits)(x)
                size = int(measured.plan_bytes.sel(budget=budget, ranking=ranking))
                assert size == bqcore.model_bytes(model, bits) <= quantize.model_bytes(model, budget)
                assert ranking != "uniform" or set(bits.values()) == {budget}
    for (kind, *at), q in alone.items():
        plan = kind == "plan"
        here = measured.sel(budget=at[0], ranking=at[1]) if plan else measured.sel(quantizer=at[0])
        prefix = "plan_" if plan else ""
        flips = decisions.flips(z, q, y)
        assert float(here[f"{prefix}flip_rate"]) == flips.rate
        assert float(here[f"{prefix}right_to_wrong"]) == flips.right_to_wrong
        assert float(here[f"{prefix}band_flip_rate"]) == decisions.band_flip_rate(z, q)
        np.testing.assert_array_equal(here[f"{prefix}flipped"], decisions.decide(z) != decisions.decide(q))
    assert measured.bytes.sel(quantizer=FEW[0]) == quantize.model_bytes(model, 8, granularity="channel")
    assert int(measured.float_bytes) == quantize.model_bytes(model, 32)


def test_other_code_that_makes_plans_gives_another_folder(network):
    model, (x, y), _ = network
    seen = set()
    sys.setprofile(lambda frame, *_: seen.add(frame.f_code.co_filename))
    try:
        quantizers.make_plans(model, (x[:100], y[:100]))
    finally:
        sys.setprofile(None)
    ours = {path.stem for path in map(Path, seen) if path.parent == Path(quantizers.__file__).parent}
    assert {"blame", "stats"} <= ours  # what is seen is all that runs
    assert ours - {"checks", "files"} <= set(quantizers._CODE)  # but for refusals and imports


def test_what_is_missing_has_its_reason_and_no_numbers(measured):
    here = measured.sel(quantizer="none")
    assert here.missing == "Bit-width is 6: choose one of 8, 4."
    assert np.isnan(here.flip_rate) and np.isnan(here.accuracy) and here.bytes == 0 and (here.flipped == -1).all()
    joined = quantizers.join([measured.expand_dims(network=["a"]), measured.expand_dims(network=["b"])])
    assert quantizers.left_out(joined) == ["Left out everywhere: none. Bit-width is 6: choose one of 8, 4."]
    joined.missing[0, 3] = ""
    assert quantizers.left_out(joined) == ["Left out on b: none. Bit-width is 6: choose one of 8, 4."]


def test_a_shorter_split_is_filled_up_and_said_to_be(measured):
    part = measured.isel(sample=slice(0, 100))
    joined = quantizers.join([measured.expand_dims(network=["a"]), part.expand_dims(network=["b"])])
    assert joined.flipped.dtype == np.int8 and joined.sizes["sample"] == 450
    np.testing.assert_array_equal(joined.flipped.sel(network="b", sample=slice(0, 100)), part.flipped)
    assert (joined.flipped.sel(network="b").isel(sample=slice(100, None)) == -1).all()
    np.testing.assert_array_equal(joined.bytes.sel(network="b"), measured.bytes)


class Branch(nn.Module):
    """Layers that are called in another order than they are named, with a normalization that the export folds."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.first = nn.Conv2d(1, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        """Convolve, normalize, decide."""
        return self.last(torch.relu(self.norm(self.first(x))).flatten(1))


def test_onnx_runtime_debugging_ranks_the_layers_that_are_meant():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Branch().eval()
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert quantizers._order(model, x) == ["first", "last"]
    weights = quantizers.onnx_weight_costs(model, (8, 3))
    for (name, bits), cost in weights.items():
        w = model.get_submodule(name).weight.detach().double()
        gap = quantize.quantize(model.get_submodule(name).weight, bits).double() - w
        assert cost == pytest.approx(float(gap.square().sum() / w.square().sum()), rel=1e-4)  # float32 norms
    outputs = quantizers.onnx_activation_costs(model, x, (8, 3))
    assert set(outputs) == set(weights)
    with torch.no_grad():
        for bits in (8, 3):
            q = quantize.quantize_model(model, bits)
            for name, one, other in (
                ("first", model.norm(model.first(x)), q.norm(q.first(x))), ("last", model(x), q(x)),
            ):  # fmt: skip
                expected = float((one - other).square().sum() / one.square().sum())
                assert outputs[name, bits] == pytest.approx(expected, rel=1e-2)  # sums in another order


def test_the_command_keeps_networks_and_names_what_it_does_not_know(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["quantizers", "mnist tree"]) == 2
    assert "Network is 'mnist tree': choose one of 'digits mlp', 'mnist mlp'" in capsys.readouterr().err
    kept = quantizers.folder() / "digits_mlp.nc"
    made = []

    def make(name, path):
        made.append(name)
        results.save_dataset(small.expand_dims(network=[name]), path)

    small = quantizers.xr.Dataset(
        {
            "missing": ("quantizer", ["a package"]), "plan_missing": ("ranking", [""]),
            "flipped": (("quantizer", "sample"), np.zeros((1, 5), np.int8)),
        },
        {"quantizer": ["x"], "ranking": ["uniform"]},
    )  # fmt: skip
    monkeypatch.setattr(quantizers, "_make", make)
    for _ in range(2):
        assert command_line.main(["quantizers", "digits mlp", "--workers", "1", "--out", "out.nc"]) == 0
    assert made == ["digits mlp"] and kept.exists() and not quantizers.joined_file().exists()
    assert "Left out everywhere: x. a package\nquantizers on 1 networks in out.nc" in capsys.readouterr().out
    assert results.load_dataset("out.nc").network.values.tolist() == ["digits mlp"]
    assert command_line.main(["quantizers", "--workers", "1"]) == 0
    assert quantizers.joined_file().exists() and len(made) == len(quantizers.NETWORKS)
