"""The tolerance study: linear classifiers in closed form, second opinions, what is kept and resumed, what is published."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bqcore import __main__ as command_line
from bqcore import (
    arrangement,
    curves,
    models,
    plots_rounding,
    plots_stopping,
    publishing,
    quantize,
    results,
    runs,
    slices,
    specs,
    tolerance,
    train,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
SMALL = specs.Stopping(epochs=3, width=8, bits=(8, 3), nodes=(21,))
UNIT = slices.Plane(np.zeros(2), np.eye(2), np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2) / 2, (2,))


def line(offset: float) -> nn.Sequential:
    """Give a classifier whose boundary is the vertical line at *offset*."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, -offset]))
    return nn.Sequential(layer).eval()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tolerance, "NETWORKS", {"digits mlp": SMALL})
    return tmp_path


def test_for_parallel_lines_a_tolerance_is_passed_or_not_and_the_grid_does_not_matter():
    found = tolerance.measure(line(0.03), {8: line(0.03), 4: line(0.33)}, UNIT, tolerances=(0.1, 0.299, 0.301, 1.0))
    for way in (found.exact_tolerance_jaccard, *found.tolerance_jaccard):
        assert way.sel(bits=8).values.tolist() == [0, 0, 0, 0]
        np.testing.assert_allclose(way.sel(bits=4), [1, 1, 0, 0], atol=1e-6)  # float32 puts the line off by 1e-8
    assert found.boundary_jaccard.sel(bits=8).values.tolist() == [0, 0]
    assert found.boundary_jaccard.sel(bits=4).values.tolist() == [1, 1]  # six cells, or three, apart


def test_numbers_are_those_of_the_measures_alone_and_convolutions_are_interpolated():
    inputs = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plane = slices.pca_plane(inputs)
    one = models.build("cnn", (1, 8, 8), 3, width=8, seed=3).eval()
    with torch.no_grad():
        one[-1].bias -= one(inputs).mean(0)  # untrained, it may decide for one class everywhere
    other = quantize.quantize_model(one, 3)
    found = tolerance.measure(one, {3: other}, plane, nodes=(15, 8))
    assert np.isnan(found.exact_tolerance_jaccard).all()
    for n in (15, 8):
        segments = [arrangement.interpolated_slice(model, plane, n).segments for model in (one, other)]  # in float64
        alone = [curves.tolerance_jaccard(*segments, tau) for tau in tolerance.TOLERANCES]
        assert 1 > alone[0] > alone[1] > alone[2] > 0  # there is something to agree on
        # Logits in float32 put the boundary off by some 1e-6.
        np.testing.assert_allclose(found.tolerance_jaccard.sel(nodes=n, bits=3), alone, atol=1e-5)
        masks = [slices.boundary_mask(slices.slice_labels(model, plane, n)) for model in (one, other)]
        assert found.boundary_jaccard.sel(nodes=n, bits=3) == slices.boundary_jaccard(*masks).distance
    np.testing.assert_array_equal(tolerance.best(found), found.tolerance_jaccard.sel(nodes=15))
    assert all(parameter.is_contiguous() for parameter in one.parameters())  # the copies were laid out otherwise


def test_a_stopped_study_goes_on_and_is_joined(here, monkeypatch, capsys):
    monkeypatch.setattr(tolerance, "each", lambda call, jobs, **_: [call(*job) for job in jobs[:1]])
    with pytest.raises(FileNotFoundError):
        tolerance.sweep(("digits mlp",), 2)
    first = tolerance.file(SMALL)
    stamp = first.stat().st_mtime_ns
    monkeypatch.setattr(tolerance, "each", lambda call, jobs, **_: [call(*job) for job in jobs])
    assert command_line.main(["tolerance", "digits mlp", "--seeds", "2", "--out", "out.nc"]) == 0
    assert "tolerance: 2 networks of 1 kind in out.nc" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == stamp
    found = results.load_dataset("out.nc")
    assert dict(found.sizes) == {"network": 1, "seed": 2, "split": 2, "bits": 2, "nodes": 2, "tau": 5}
    assert found.command == "python -m bqcore tolerance --seeds 2"
    one = found.sel(network="digits mlp", seed=1, split="held-out")
    with train.one_thread():
        spec = specs.Stopping(epochs=3, width=8, bits=(8, 3), nodes=(21,), seed=1)
        model, split = runs.classifier(spec), runs.split_of(spec)
        exact = arrangement.exact_slice(model, slices.pca_plane(split.held_out_inputs)).segments
    assert len(exact) and float(one.exact_tolerance_jaccard.sel(bits=3, tau=0.02)) > 0
    assert all(variable.attrs["long_name"] for variable in found.data_vars.values())


def test_ways_of_rounding_are_measured_at_each_bit_width(here, monkeypatch):
    spec = specs.Rounding(epochs=3, width=8, bits=(4, 3), nodes=(21,), gaps=(0.0, 1.0), steps=3)
    monkeypatch.setattr(tolerance, "ROUNDED", {"digits mlp": spec})
    assert command_line.main(["tolerance", "--rounding", "--seeds", "1", "--workers", "1"]) == 0
    found = tolerance.sweep(None, 1, rounded=True)
    assert found.command == "python -m bqcore tolerance --rounding --seeds 1"
    assert found["method"].values.tolist() == ["nearest", "layers", "logits", "gap 1"]
    assert found.bits.values.tolist() == [4, 3]
    with train.one_thread():
        model, split = runs.classifier(spec), runs.split_of(spec)
        plane = slices.pca_plane(split.held_out_inputs)
        alone = tolerance.measure(model, {3: quantize.quantize_model(model, 3)}, plane)
    part = found.sel(bits=3, split="held-out", seed=0, network="digits mlp", drop=True)
    for name in ("boundary_jaccard", "exact_tolerance_jaccard", "tolerance_jaccard"):
        np.testing.assert_array_equal(part[name].sel({"method": "nearest"}), alone[name].sel(bits=3))
    table = plots_stopping.tolerance_table(found.sel(bits=3), "digits mlp", method_name=plots_rounding.method_name)
    assert list(table.index)[2:] == ["optimized, on the logits", "optimized + gap, η = 1"]


def test_an_unknown_network_is_refused_by_name(capsys):
    assert command_line.main(["tolerance", "mnist rnn"]) == 2
    assert "bqcore tolerance: network is 'mnist rnn'" in capsys.readouterr().err
    assert command_line.main(["tolerance", "--seeds", "0"]) == 2
    assert "bqcore tolerance: seeds is 0" in capsys.readouterr().err


def test_what_is_published_has_every_network_and_is_what_the_chapters_measured():
    found = publishing.load_published(publishing.TOLERANCE, ROOT / publishing.PUBLISHED)
    assert found.network.values.tolist() == list(tolerance.NETWORKS)
    assert found.sizes["seed"] == tolerance.SEEDS and found.command == tolerance.COMMAND
    assert json.loads(found.spec)["seeds"] == tolerance.SEEDS
    rounded = publishing.load_published(publishing.ROUNDED_TOLERANCE, ROOT / publishing.PUBLISHED)
    for name, spec in tolerance.ROUNDED.items():
        theirs = publishing.load_published(publishing.name_of(spec), ROOT / publishing.PUBLISHED)
        assert ["float", *rounded["method"].values] == theirs["method"].values.tolist()
        near = {"method": "nearest", "nodes": max(tolerance.NODES), "seed": 0}
        gap = rounded.boundary_jaccard.sel(near | {"network": name}) - theirs.boundary_jaccard.sel(near)
        assert float(abs(gap).max()) <= 0.02  # a tie or two on another processor
    shared = 0
    for name, spec in tolerance.NETWORKS.items():
        theirs = publishing.load_published(publishing.name_of(spec), ROOT / publishing.PUBLISHED)
        for n in set(theirs.nodes.values) & set(tolerance.NODES):
            # Of the published checkpoint; the others were trained where sums may round otherwise.
            ours = found.boundary_jaccard.sel(network=name, nodes=n, bits=list(spec.bits), seed=[0])
            theirs_here = theirs.boundary_jaccard.sel(nodes=n, seed=ours.seed, bits=ours.bits)
            assert float(abs(ours - theirs_here).max()) <= 0.02, name  # a tie or two on another processor
            shared += 1
        table = plots_stopping.tolerance_table(found, name)
        assert list(table.index) == [f"{bits} bits" for bits in spec.bits]
        assert "nan" not in table.to_string()
    assert shared  # some grid is in both
    # Without a ruler: the grid moves J, and hardly the tolerance Jaccard distance.
    assert float(abs(found.boundary_jaccard.diff("nodes")).max()) > 0.2
    exact = found.exact_tolerance_jaccard
    assert np.isfinite(exact.sel(network=["digits mlp", "mnist mlp"])).all() and np.isnan(exact).any()
