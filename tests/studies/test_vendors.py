"""The study of quantizers: candidates and plans measured as they are alone, bytes, what is missing, what is kept."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import bqcore
from bqcore import _store
from bqcore.auditing import vendors
from bqcore.metrics import decisions
from bqcore.quantizers import mixed_precision, uniform
from studies import __main__, networks, provenance, specs, training
from studies import vendors as vendor_study
from studies.data import splits

FEW = ("PTQ-W, 8 bits, a step per channel", "PTQ-W, 4 bits, a step per tensor", "ONNX Runtime static, int8")


@pytest.fixture(scope="module")
def network():
    """Return a trained network with three layers, and its two splits."""
    split = splits.digits(0)
    x, y = split.train_inputs, split.train_classes
    model = training.fit(networks.mlp((64, 24, 16, 10), 0), x[:900], y[:900], epochs=10, seed=0)
    return model, (x[900:], y[900:]), (split.test_inputs, split.test_classes)


@pytest.fixture(scope="module")
def measured(network):
    with pytest.MonkeyPatch.context() as patch:
        few = {name: vendors.QUANTIZERS[name] for name in FEW}
        patch.setattr(vendors, "QUANTIZERS", few | {"none": (8, lambda m, x, y: vendors.torchao_weights(m, 6))})
        return vendor_study.compare(*network)


def joined(*parts):
    """Return datasets joined as networks named a, b and so on."""
    found = {name: part.expand_dims(network=[name]) for name, part in zip("ab", parts)}
    return vendor_study.join(found, specs.Vendors())


def test_candidates_and_plans_are_measured_as_they_are_alone(network, measured):
    model, _, (x, y) = network
    with torch.no_grad():
        z = model(x)
        alone = {
            ("quantizer", FEW[0]): uniform.quantize_model(model, 8, granularity="channel")(x),
            ("quantizer", FEW[1]): uniform.quantize_model(model, 4)(x),
        }
        for budget in vendor_study.BUDGETS:
            for ranking in vendor_study.RANKINGS:
                text = str(measured.plan_bits.sel(budget=budget, ranking=ranking).item())
                bits = {name: int(b) for name, b in (part.split(": ") for part in text.split(", "))}
                alone["plan", budget, ranking] = mixed_precision.mixed(model, bits)(x)
                size = int(measured.plan_bytes.sel(budget=budget, ranking=ranking))
                assert size == bqcore.model_bytes(model, bits) <= uniform.model_bytes(model, budget)
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
    assert measured.bytes.sel(quantizer=FEW[0]) == uniform.model_bytes(model, 8, granularity="channel")
    assert int(measured.float_bytes) == uniform.model_bytes(model, 32)


def test_all_code_that_makes_plans_is_in_the_digest(network):
    model, (x, y), _ = network
    seen = set()
    sys.setprofile(lambda frame, *_: seen.add(frame.f_code.co_filename))
    try:
        vendor_study.make_plans(model, (x[:100], y[:100]), 0.2)
    finally:
        sys.setprofile(None)
    ours = {Path(name) for name in seen if Path(name).is_relative_to(provenance.ROOT / "bqcore")}
    assert {"bit_plan.py", "sensitivity.py", "decisions.py"} <= {
        path.name for path in ours
    }  # what is seen is what runs
    assert ours <= {*provenance.sources("studies.vendors"), provenance.ROOT / "bqcore" / "__init__.py"}


def test_what_is_missing_has_its_reason_and_no_numbers(measured):
    here = measured.sel(quantizer="none")
    assert here.missing == "Bit-width is 6: choose one of 8, 4."
    assert np.isnan(here.flip_rate) and np.isnan(here.accuracy) and here.bytes == 0 and (here.flipped == -1).all()
    both = joined(measured, measured)
    assert vendor_study.left_out(both) == ["Left out everywhere: none. Bit-width is 6: choose one of 8, 4."]
    both.missing[0, 3] = ""
    assert vendor_study.left_out(both) == ["Left out on b: none. Bit-width is 6: choose one of 8, 4."]


def test_a_shorter_split_is_filled_up_and_said_to_be(measured):
    part = measured.isel(sample=slice(0, 100))
    both = joined(measured, part)
    assert both.flipped.dtype == np.int8 and both.sizes["sample"] == 450
    np.testing.assert_array_equal(both.flipped.sel(network="b", sample=slice(0, 100)), part.flipped)
    assert (both.flipped.sel(network="b").isel(sample=slice(100, None)) == -1).all()
    np.testing.assert_array_equal(both.bytes.sel(network="b"), measured.bytes)


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
    assert vendor_study._order(model, x) == ["first", "last"]
    weights = vendor_study.onnx_weight_costs(model, (8, 3))
    for (name, bits), cost in weights.items():
        w = model.get_submodule(name).weight.detach().double()
        gap = uniform.quantize(model.get_submodule(name).weight, bits).double() - w
        assert cost == pytest.approx(float(gap.square().sum() / w.square().sum()), rel=1e-4)  # float32 norms
    outputs = vendor_study.onnx_activation_costs(model, x, (8, 3))
    assert set(outputs) == set(weights)
    with torch.no_grad():
        for bits in (8, 3):
            q = uniform.quantize_model(model, bits)
            for name, one, other in (
                ("first", model.norm(model.first(x)), q.norm(q.first(x))), ("last", model(x), q(x)),
            ):  # fmt: skip
                expected = float((one - other).square().sum() / one.square().sum())
                assert outputs[name, bits] == pytest.approx(expected, rel=1e-2)  # sums in another order


def test_the_command_keeps_networks_and_names_what_it_does_not_know(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["run", "vendors", "all", 'networks=["mnist tree"]']) == 2
    assert "Network is 'mnist tree': choose one of 'digits mlp', 'mnist mlp'" in capsys.readouterr().err
    assert __main__.main(["run", "vendors", "digits"]) == 2
    assert capsys.readouterr().err == "studies run: dataset is 'digits': choose one of 'all'.\n"
    made = []

    def measure(spec):
        made.extend(spec.networks)
        return small.expand_dims(network=list(spec.networks))

    small = xr.Dataset(
        {
            "missing": ("quantizer", ["a package"]), "plan_missing": ("ranking", [""]),
            "flipped": (("quantizer", "sample"), np.zeros((1, 5), np.int8)),
        },
        {"quantizer": ["x"], "ranking": ["uniform"]},
    )  # fmt: skip
    study = replace(vendor_study.STUDY, measure=measure)
    monkeypatch.setattr(vendor_study, "STUDY", study)
    one, every = specs.Vendors(networks=["digits mlp"]), specs.Vendors()
    for _ in range(2):
        command = ["run", "vendors", "all", 'networks=["digits mlp"]', "--workers", "1", "--out", "out.nc"]
        assert __main__.main(command) == 0
    assert made == ["digits mlp"] and study.file(one).name == "digits_mlp.nc" and study.file(one).exists()
    assert not study.joined_file(every, 1).exists()
    says = "Left out everywhere: x. a package\nvendors, all: 1 networks in out.nc"
    assert says in capsys.readouterr().out
    kept = _store.load_dataset("out.nc")
    assert kept.network.values.tolist() == ["digits mlp"]
    assert kept.attrs["command"] == """python -m studies run vendors all 'networks=["digits mlp"]'"""
    assert set(json.loads(kept.attrs["versions"])) == set(vendor_study._PACKAGES)
    assert set(json.loads(kept.attrs["checkpoints"])) == set(every.networks)
    assert __main__.main(["run", "vendors", "--workers", "1"]) == 0
    assert study.joined_file(every, 1).exists() and made == list(every.networks)  # the first one was kept
