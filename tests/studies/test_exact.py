"""Exact and grid measures together: closed forms of moved lines, the pure functions as oracles, what the chapter shows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bqcore.metrics import boundary_distances, exact_slices, finite_scale, label_grids, margins, planes
from bqcore.metrics.masks import boundary_jaccard, boundary_mask, effective_displacement, junction_cells
from bqcore.quantizers.uniform import quantize_model
from studies import exact, ledger
from studies.figures import exact as exact_figures
from studies.networks import mlp

NODES = (61, 21)


def unit_plane() -> planes.Plane:
    return planes.Plane(np.zeros(2), np.eye(2), -np.ones(2), np.ones(2), np.ones(2) / 2, (2,))


def halves(angle, offset, scale=1.0) -> nn.Sequential:
    """Give a classifier that decides for class 1 where x cos + y sin > offset."""
    model = nn.Sequential(nn.Linear(2, 2).double())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0, 0], [np.cos(angle), np.sin(angle)]], dtype=torch.float64) * scale)
        model[0].bias.copy_(torch.tensor([0, -offset], dtype=torch.float64) * scale)
    return model


@pytest.fixture(scope="module")
def levels(trained) -> dict:
    return {bits: quantize_model(trained.model, bits) for bits in (8, 4)}


@pytest.fixture(scope="module")
def measured(trained, levels, plane):
    return exact.compare(trained.model, levels, plane, NODES, places=2)


# --- compare ---


def test_a_line_moved_by_a_known_shift():
    """The line x = 0.1 moved to 0.15 in a box of 2 × 2: everything is known."""
    data = exact.compare(
        halves(0.0, 0.1), {8: halves(0.0, 0.15)}, unit_plane(), (21, 6), tolerances=(0.04, 0.06), places=3
    )
    one = data.sel(bits=8)
    assert float(one.changed_area) == pytest.approx(0.05 * 2 / 4, rel=1e-12)
    assert float(one.length) == pytest.approx(2) and float(data.length_float) == pytest.approx(2)
    for name in ("nearest", "mean_distance", "hausdorff"):
        assert float(one[name]) == pytest.approx(0.05, rel=1e-9), name
    assert one.tolerance_jaccard.values.tolist() == [1, 0]
    for name in ("piece_displacement", "piece_first_order", "piece_distance"):
        np.testing.assert_allclose(one[name], 0.05, rtol=1e-9)
    for nodes, h in ((21, 0.1), (6, 0.4)):
        assert float(one.law_jaccard.sel(nodes=nodes)) == pytest.approx(1 - (h - 0.05) / (h + 0.05), rel=1e-9)
    np.testing.assert_allclose(np.interp(0.1, data.law_step[::-1], one.law_curve[::-1]), 1 - 0.05 / 0.15, rtol=0.01)
    assert int(one.junctions) == int(data.junctions_float) == 0


def test_measures_are_those_of_the_pure_functions(trained, levels, plane, measured):
    one, two = (exact_slices.exact_slice(model, plane) for model in (trained.model, levels[4]))
    here = measured.sel(bits=4)
    assert float(here.length) == boundary_distances.lengths(two.segments).sum()
    assert (
        float(here.hausdorff) == boundary_distances.boundary_distances(one.segments, two.segments, step=0.002).hausdorff
    )
    for tau in measured.tau.values:
        assert float(here.tolerance_jaccard.sel(tau=tau)) == boundary_distances.tolerance_jaccard(
            one.segments, two.segments, tau
        )
    shared = exact_slices.shared_areas(trained.model, levels[4], plane)
    assert float(here.changed_area) == exact_slices.changed_area(shared)
    assert int(here.junctions_matched + here.junctions_appeared) == int(here.junctions) == len(two.junctions)
    assert int(here.junctions_matched + here.junctions_vanished) == int(measured.junctions_float) == len(one.junctions)
    for nodes in NODES:
        grids = [label_grids.label_grid(model, plane, nodes) for model in (trained.model, levels[4])]
        masks = [boundary_mask(grid) for grid in grids]
        own = here.sel(nodes=nodes, place=0)
        assert float(own.boundary_jaccard) == boundary_jaccard(*masks).distance
        assert float(own.grid_change) == label_grids.grid_change(*grids)
        assert int(own.junction_cells) == junction_cells(grids[1]).sum()
        assert int(own.mask_cells_float) == masks[0].sum()
        shift = effective_displacement(float(own.boundary_jaccard), plane.steps(nodes))
        assert float(here.effective_displacement.sel(nodes=nodes)) == pytest.approx(shift)
    pooled = 1 - here.shared_cells.sum("place") / here.covered_cells.sum("place")
    np.testing.assert_allclose(here.pooled_jaccard, pooled)
    assert (here.boundary_jaccard.min("place") <= pooled).all() and (pooled <= here.boundary_jaccard.max("place")).all()


def test_every_measure_has_a_name_and_a_unit_and_both_runs_agree(trained, levels, plane, measured):
    assert all(values.attrs.get("long_name") and values.attrs.get("units") for values in measured.variables.values())
    assert measured.identical(exact.compare(trained.model, levels, plane, NODES, places=2))


def test_slices_without_a_boundary_are_no_error(trained):
    always = halves(0.0, 9.0)
    data = exact.compare(always, {8: always, 4: halves(0.0, 0.1)}, unit_plane(), (11,), places=2)
    assert data.piece_length.size == 0 and data.mean_distance.values.tolist() == [0, np.inf]
    assert data.tolerance_jaccard.values.tolist() == [[0] * 4, [1] * 4]
    assert data.pooled_jaccard.values.ravel().tolist() == [0, 1] and data.law_jaccard.values.ravel().tolist() == [0, 1]


# --- first order ---


@pytest.mark.slow
@given(
    st.floats(0, 2 * np.pi), st.floats(-0.3, 0.3), st.floats(-0.2, 0.2), st.floats(0.1, 10), st.integers(0, 2**32 - 1)
)
def test_for_linear_classifiers_first_order_is_the_truth(angle, offset, shift, scale, seed):
    one, two = halves(angle, offset), halves(angle, offset + shift)
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (20, 2)))
    true = exact.true_displacement(one, two, x, reach=3.0)
    side = np.where(x.numpy() @ [np.cos(angle), np.sin(angle)] > offset, -1, 1)
    np.testing.assert_allclose(true, side * shift, atol=1e-12)
    np.testing.assert_allclose(true, margins.local_change(one, two, x).displacement, atol=1e-12)
    # Another scale of the logits changes the truth in nothing.
    np.testing.assert_allclose(
        exact.true_displacement(one, halves(angle, offset + shift, scale), x, reach=3.0), true, atol=1e-12
    )
    found = exact_slices.exact_slice(one, unit_plane())
    linear = exact.first_order_on_plane(one, two, unit_plane(), found, step=0.1)
    np.testing.assert_allclose(linear, shift, atol=1e-9)


def test_true_displacement_lies_on_both_boundaries(trained, levels):
    """Walked from x along the float normal, each margin of the float top-2 pair changes its sign where it is said to."""
    x = trained.split.test_inputs[:40].double()
    one, two = (model.double() for model in (mlp((64, 16, 10), 1), mlp((64, 16, 10), 1)))
    with torch.no_grad():
        two[0].weight.add_(0.02)
    change = margins.local_change(one, two, x)
    true = exact.true_displacement(one, two, x, reach=1.0)
    met = np.isfinite(true)
    assert met.sum() > 20 and np.isnan(exact.true_displacement(one, two, x, reach=1e-9)).all()
    a, b = torch.from_numpy(change.winner), torch.from_numpy(change.runner_up)
    row = torch.arange(len(x))
    leaf = x.clone().requires_grad_(True)
    z = one(leaf)
    (g,) = torch.autograd.grad((z[row, a] - z[row, b]).sum(), leaf)
    n = g / g.norm(dim=1, keepdim=True)
    ways = [
        exact._crossing(model, x, -n, np.stack([change.winner, change.runner_up]), 1.0, 201) for model in (one, two)
    ]
    for model, way in zip((one, two), ways):
        with torch.no_grad():
            z = model(x - torch.from_numpy(np.nan_to_num(way))[:, None] * n)
        assert (z[row, a] - z[row, b])[np.isfinite(way)].abs().max() < 1e-12
    np.testing.assert_array_equal(true, ways[1] - ways[0])


def test_agreement_by_level(trained, levels, plane):
    found = exact.first_order(trained.model, levels, plane, trained.split.test_inputs[:50])
    assert dict(found.sizes) == {"bits": 2, "where": 3}
    assert (found.met > 0.8).all() and (found.same_sign > 0.8).all()
    at_boundary = found.isel(where=[0, 1])
    assert (abs(at_boundary.ratio - 1) < 0.05).all() and (at_boundary.within > 0.9).all()


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: exact.compare(m, {}, unit_plane(), (5,)), "There are no levels to compare: give at least one network"),
    (lambda m: exact.compare(m, {8: m}, unit_plane(), (1,)), "Nodes a side is 1: give an integer of at least 2"),
    (lambda m: exact.compare(m, {8: m}, unit_plane(), (5,), places=0), "Places is 0: give an integer of at least 1"),
    (lambda m: exact.true_displacement(m, m, torch.zeros(1, 2), reach=0.0), "Reach is 0.0: give a length in input units"),
    (lambda m: exact.true_displacement(m, m, torch.zeros(1, 2), reach=1.0, samples=2), "Samples is 2: give an integer of at least 3"),
])  # fmt: skip
def test_comparisons_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(halves(0.0, 0.1))


# --- what the chapter shows ---


def test_figures_hold_what_was_measured(trained, levels, plane, measured):
    figure = exact_figures.boundaries_figure(trained.model, levels, plane, nodes=41)
    assert [axes.get_title() for axes in figure.axes] == ["8 bits", "4 bits", "8 bits, 41 nodes a side, enlarged"]
    one = exact_slices.exact_slice(trained.model, plane)
    drawn = [c for c in figure.axes[0].collections if len(c.get_paths()) == len(one.segments)]
    assert np.allclose(drawn[0].get_paths()[0].vertices, one.segments[0])
    dots = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(one.junctions)]
    np.testing.assert_array_equal(np.stack(dots[0].get_data(), axis=1), one.junctions)
    for figure, panels in (
        (exact_figures.convergence_figure(measured, [8, 4]), 4), (exact_figures.law_figure(measured), 2),
        (exact_figures.first_order_figure(measured, [8, 4]), 2),
    ):  # fmt: skip
        assert len(figure.axes) == panels and all(axes.has_data() for axes in figure.axes)
        figure.draw_without_rendering()
    assert not plt.get_fignums()


def test_tables_and_sentences_hold_the_measured_numbers(trained, levels, plane, measured):
    table = exact_figures.exact_table(measured)
    assert list(table.index) == ["8 bits", "4 bits"]
    assert table.loc["4 bits", "Hausdorff"] == f"{float(measured.hausdorff.sel(bits=4)):.3f}"
    assert table.loc["8 bits", "beyond 0.02"] == f"{float(measured.tolerance_jaccard.sel(bits=8, tau=0.02)):.3f}"
    junctions = exact_figures.junctions_table(measured)
    assert junctions.loc["4 bits", "junctions"] == str(int(measured.junctions.sel(bits=4)))
    table = exact_figures.interpolated_table(trained.model, levels, plane, measured, nodes=(41,), tau=0.05)
    assert list(table.index) == ["8 bits", "4 bits"]
    for name in ("mean distance", "beyond 0.05"):
        assert table[name].astype(float).tolist() == pytest.approx(
            table[f"{name} (41 nodes)"].astype(float).tolist(), abs=0.03
        )
    agreement = exact.first_order(trained.model, levels, plane, trained.split.test_inputs[:20])
    assert exact_figures.first_order_table(agreement).shape == (2, 9)
    paper = ledger.load_claims()[1]
    text = exact_figures.summary(measured, agreement, paper).data
    assert f"{float(measured.mean_distance.sel(bits=8)):.4f}" in text and "nan" not in text and "converge" in text
    # One resolution alone says nothing of convergence.
    assert "converge" not in exact_figures.summary(measured.isel(nodes=[0]), agreement, paper).data


def test_the_papers_values_read_backwards(measured):
    """0.048 and 0.184 imply a ratio of shifts of 4.12; the ratio of the steps is 127 / 31."""
    paper = ledger.load_claims()[1]
    ratio, steps = exact_figures.implied_ratio(paper)
    assert ratio.low < 4.12 < ratio.high and ratio.high - ratio.low < 0.15 and steps == 127 / 31
    table = exact_figures.implied_table(paper, measured)
    assert list(table.index) == ["D2", "D4", "C6", "C3", "R1"]
    low, high = map(float, table.loc["C6", "shift / step"].split(" to "))
    assert [finite_scale.isotropic_jaccard(x, (1.0, 1.0)) for x in (low, high)] == pytest.approx(
        [0.0475, 0.0485], abs=2e-4
    )
    fewest, most = map(int, table.loc["D2", "nodes a side"].split(" to "))
    assert fewest <= most and table.loc["C6", "nodes a side"] == table.loc["C6", "step, input units"] == ""
    given_shift = exact_figures.implied_table(paper, measured, shifts={"C6": (0.01, 0.02)}).loc[
        "C6", "step, input units"
    ]
    assert given_shift == "{:.4f} to {:.4f}".format(*finite_scale.implied_step(0.048, (0.01, 0.02), rounding=0.0005))
