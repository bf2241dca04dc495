"""Exact and grid measures together: closed forms of moved lines, the pure functions as oracles, what the chapter shows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bqcore.metrics import boundary_distances, exact_slices, finite_scale, label_grids
from bqcore.metrics.masks import boundary_jaccard, boundary_mask, effective_displacement, junction_cells
from bqcore.quantizers.uniform import quantize_model
from studies import exact, first_order, ledger
from studies.figures import exact as exact_figures
from studies.figures import finite_scale as finite_scale_figures
from tests.helpers.halfplanes import halves, unit_plane

NODES = (61, 21)


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


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: exact.compare(m, {}, unit_plane(), (5,)), "There are no levels to compare: give at least one network"),
    (lambda m: exact.compare(m, {8: m}, unit_plane(), (1,)), "Nodes a side is 1: give an integer of at least 2"),
    (lambda m: exact.compare(m, {8: m}, unit_plane(), (5,), places=0), "Places is 0: give an integer of at least 1"),
])  # fmt: skip
def test_comparisons_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(halves(0.0, 0.1))


# --- what the chapter shows ---


def test_figures_hold_what_was_measured(trained, levels, plane, measured):
    figure = exact_figures.boundaries_figure(trained.model, levels, plane, nodes=41)
    assert [axes.get_title() for axes in figure.axes] == ["8 bits", "4 bits", "8 bits, 41 nodes a side, enlarged"]
    one = exact_slices.exact_slice(trained.model, plane)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3 * len(one.segments)]
    places = np.stack(drawn[0].get_data(), axis=1).reshape(-1, 3, 2)  # a piece's ends, and the gap behind it
    assert np.array_equal(places[:, :2], one.segments) and np.isnan(places[:, 2]).all()
    dots = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(one.junctions)]
    np.testing.assert_array_equal(np.stack(dots[0].get_data(), axis=1), one.junctions)
    for figure, panels in (
        (finite_scale_figures.convergence_figure(measured, [8, 4]), 4), (finite_scale_figures.law_figure(measured), 2),
        (exact_figures.first_order_figure(measured, [8, 4]), 2),
    ):  # fmt: skip
        assert len(figure.axes) == panels and all(axes.has_data() for axes in figure.axes)
        figure.draw_without_rendering()
    assert not plt.get_fignums()


def test_tables_and_sentences_hold_the_measured_numbers(trained, levels, plane, measured):
    table = exact_figures.exact_table(measured).text
    assert list(table.index) == ["8 bits", "4 bits"]
    assert table.loc["4 bits", "Hausdorff"] == f"{float(measured.hausdorff.sel(bits=4)):.3f}"
    assert table.loc["8 bits", "beyond 0.02"] == f"{float(measured.tolerance_jaccard.sel(bits=8, tau=0.02)):.3f}"
    junctions = exact_figures.junctions_table(measured).text
    assert junctions.loc["4 bits", "junctions"] == str(int(measured.junctions.sel(bits=4)))
    table = exact_figures.interpolated_table(trained.model, levels, plane, measured, nodes=(41,), tau=0.05).text
    assert list(table.index) == ["8 bits", "4 bits"]
    for name in ("mean distance", "beyond 0.05"):
        assert table[name].astype(float).tolist() == pytest.approx(
            table[f"{name} (41 nodes)"].astype(float).tolist(), abs=0.03
        )
    agreement = first_order.compare(trained.model, levels, plane, {"at the inputs": trained.split.test_inputs[:20]})
    assert exact_figures.first_order_table(agreement).text.shape == (2, 6)
    paper = ledger.load_claims()[1]
    assert f"moves by {float(measured.mean_distance.sel(bits=8)):.4f} input" in exact_figures.answer(measured).data
    text = exact_figures.summary(measured, agreement, paper).data
    assert f"{float(measured.mean_distance.sel(bits=8)):.4f}" in text and "nan" not in text and "converge" in text
    # One resolution alone says nothing of convergence.
    assert "converge" not in exact_figures.summary(measured.isel(nodes=[0]), agreement, paper).data


def test_the_papers_values_read_backwards(measured):
    """0.048 and 0.184 imply a ratio of shifts of 4.12; the ratio of the steps is 127 / 31."""
    paper = ledger.load_claims()[1]
    ratio, steps = finite_scale_figures.implied_ratio(paper)
    assert ratio.low < 4.12 < ratio.high and ratio.high - ratio.low < 0.15 and steps == 127 / 31
    table = finite_scale_figures.implied_table(paper, measured).text
    assert list(table.index) == ["D2", "D4", "C6", "C3", "R1"]
    low, high = map(float, table.loc["C6", "shift / step"].split(" to "))
    assert [finite_scale.isotropic_jaccard(x, (1.0, 1.0)) for x in (low, high)] == pytest.approx(
        [0.0475, 0.0485], abs=2e-4
    )
    fewest, most = map(int, table.loc["D2", "nodes a side"].split(" to "))
    assert fewest <= most and table.loc["C6", "nodes a side"] == table.loc["C6", "step, input units"] == ""
    given_shift = finite_scale_figures.implied_table(paper, measured, shifts={"C6": (0.01, 0.02)})
    given_shift = given_shift.text.loc["C6", "step, input units"]
    assert given_shift == "{:.4f} to {:.4f}".format(*finite_scale.implied_step(0.048, (0.01, 0.02), rounding=0.0005))
