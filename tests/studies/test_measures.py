"""Boundaries compared by lengths in every study: linear classifiers in closed form, exact and interpolated ones."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from bqcore.metrics import boundary_distances, exact_slices, planes
from bqcore.quantizers import uniform
from studies import catalogue, measures, networks, specs, sweeps
from studies.figures import tolerance

UNIT = planes.Plane(np.zeros(2), np.eye(2), np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2) / 2, (2,))


def line(offset: float) -> nn.Sequential:
    """Return a classifier whose boundary is the vertical line at *offset*."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, -offset]))
    return nn.Sequential(layer).eval()


def test_for_parallel_lines_a_tolerance_is_passed_or_not_and_the_grid_does_not_matter():
    found = measures.of_boundaries({32: line(0.03), 8: line(0.03), 4: line(0.33)}, UNIT)
    assert bool(found.exact_boundaries) and found.tau.values.tolist() == list(measures.TOLERANCES)
    for way in (found.tolerance_jaccard, found.coarse_tolerance_jaccard):
        assert way.sel(bits=[32, 8]).values.tolist() == [[0] * 5] * 2
        np.testing.assert_allclose(way.sel(bits=4), [1, 1, 0, 0, 0], atol=1e-6)  # float32 puts the line off by 1e-8


def test_networks_with_convolutions_are_interpolated():
    inputs = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plane = planes.pca_plane(inputs)
    one = networks.build("cnn", (1, 8, 8), 3, width=8, seed=3).eval()
    with torch.no_grad():
        one[-1].bias -= one(inputs).mean(0)  # untrained, it may decide for one class everywhere
    other = uniform.quantize_model(one, 3)
    found = measures.of_boundaries({32: one, 3: other}, plane)
    assert not found.exact_boundaries
    for n, way in ((41, found.tolerance_jaccard), (21, found.coarse_tolerance_jaccard)):
        segments = [exact_slices.interpolated_slice(model, plane, n).segments for model in (one, other)]  # in float64
        alone = boundary_distances.tolerance_jaccard(*segments, measures.TOLERANCES)
        assert 1 > alone[0] > alone[1] > alone[2] > 0  # there is something to agree on
        # Logits in float32 put the boundary off by some 1e-6.
        np.testing.assert_allclose(way.sel(bits=3), alone, atol=1e-5)
    assert all(parameter.is_contiguous() for parameter in one.parameters())  # the copies were laid out otherwise


def test_where_one_level_has_no_exact_boundary_all_are_interpolated(monkeypatch):
    levels, exact = {32: line(0.03), 4: line(0.33)}, exact_slices.exact_segments

    def some(model, plane):
        if model is levels[4]:
            raise ValueError("The slice has more than 1000000 cells.")
        return exact(model, plane)

    monkeypatch.setattr(exact_slices, "exact_segments", some)
    found = measures.of_boundaries(levels, UNIT)
    assert not found.exact_boundaries
    np.testing.assert_allclose(found.tolerance_jaccard.sel(bits=4), [1, 1, 0, 0, 0], atol=1e-6)


def test_runs_hold_the_distance_of_exact_boundaries_and_one_tolerance_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a network that another processor trained may be kept in the clone
    spec = specs.Stopping(epochs=4, width=8, bits=(8, 3), nodes=(21, 11), sizes=(500, 300, 400))
    found = catalogue.measure(spec)
    split, model = sweeps.split_of(spec), sweeps.classifier(spec)
    plane = planes.pca_plane(split.held_out_inputs)
    exact = [exact_slices.exact_slice(m, plane).segments for m in (model, uniform.quantize_model(model, 3))]
    here = found.tolerance_jaccard.sel(bits=3, split="held-out")
    assert here.values.tolist() == [boundary_distances.tolerance_jaccard(*exact, tau) for tau in found.tau.values]
    assert found.exact_boundaries.all() and 0 < float(here[0]) and float(here[-1]) == 0
    many = catalogue.study_of(spec).joined({spec: found}, spec, 1)
    table = tolerance.tolerance_table(many).text
    tau = measures.usual_tolerance(many.tolerance_jaccard)
    assert list(table.index) == ["8 bits", "3 bits"] and list(table.columns)[4:] == [f"beyond {tau:g}"]
    assert table.loc["3 bits", f"beyond {tau:g}"] == f"{float(here.sel(tau=tau)):.3f}"
    off = abs(found.tolerance_jaccard - found.coarse_tolerance_jaccard).sel(bits=[8, 3])  # float differs in nothing
    said = tolerance.tolerance_summary(many)
    assert "From exact boundaries to 21 nodes a side, the tolerance Jaccard distance changes by" in said
    assert f"by at most {float(off.quantile(0.95)):.3f} in 95 of" in said
    assert f"and by {float(off.max()):.3f} in the worst" in said


@pytest.mark.parametrize(
    "dims", [("bits", "tau"), ("seed", "split", "bits", "tau"), ("method", "split", "bits", "tau")]
)
def test_the_tolerance_shown_is_that_of_about_a_half_at_four_bits_on_calibration_data(dims):
    coords = {"bits": [8, 5, 3], "tau": [0.1, 0.5, 2.0], "split": ["calibration", "held-out"], "seed": [0, 1],
              "method": ["float", "nearest", "layers"]}  # fmt: skip
    distances = xr.DataArray(np.ones([len(coords[dim]) for dim in dims]), {dim: coords[dim] for dim in dims}, dims)
    at = (
        {"bits": 5}
        | ({"split": "calibration"} if "split" in dims else {})
        | ({"method": "nearest"} if "method" in dims else {})
    )
    distances.loc[at] = [0.9, 0.6, 0.2]  # bits of 5 are the first as near to 4 as any
    assert measures.usual_tolerance(distances) == 0.5


def test_a_slice_that_shows_fewer_than_three_classes_is_flagged():
    two, three = np.array([[0, 1], [1, 1]]), np.array([[0, 1], [1, 2]])
    found = measures.of_slices({2: {32: three, 8: two, 4: two * 0}}, UNIT, torch.eye(2))
    assert found.few_classes.values.tolist() == [[False, True, True]]
    assert found.junctions.values.tolist() == [[1, 0, 0]]


def test_a_slice_of_three_classes_that_nowhere_meet_has_no_junction_and_is_not_called_one_of_few():
    inputs = torch.from_numpy(np.random.default_rng(0).random((20, 3)))
    plane = planes.pca_plane(inputs)
    stripes, halves = (np.tile(np.repeat(np.arange(n), 12 // n), (12, 1)) for n in (3, 2))
    corner = np.where(np.add.outer(np.arange(12), np.arange(12)) < 8, 2, halves)
    found = measures.of_slices({12: {32: stripes, 8: halves, 4: corner}}, plane, inputs).sel(nodes=12)
    assert found.few_classes.values.tolist() == [False, True, False]
    assert found.junctions.values.tolist() == [0, 0, 1]
