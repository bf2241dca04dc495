"""From calibration to held-out inputs: which gap weight is picked, and correlations of what they say they are of."""

import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import statistics
from studies import correlations
from studies.correlations import PREDICTORS
from studies.figures import correlations as drawn
from studies.figures import rounding, subsets


def rounding_runs(seed: int = 0, seeds: int = 4) -> xr.Dataset:
    """Return made-up joined runs of the rounding study."""
    generator = np.random.default_rng(seed)
    methods = ["float", "nearest", "layers", "logits", "gap 0.1", "gap 10"]
    coords = {"seed": range(seeds), "bits": [4, 3], "split": ["calibration", "held-out"], "nodes": [21, 11],
              "method": methods, "quantile": [0.5, 0.95], "tau": [0.1, 2.0]}  # fmt: skip
    shape = {name: len(values) for name, values in coords.items()}
    flat = {name: size for name, size in shape.items() if name not in ("nodes", "quantile", "tau")}

    def drawn(sizes):
        return tuple(sizes), generator.random(tuple(sizes.values()))

    names = ("flip_rate", "band_flip_rate", "band_pair_order_flip_rate", "accuracy", "logit_error")
    grid = {name: size for name, size in shape.items() if name not in ("quantile", "tau")}
    variables = {name: drawn(flat) for name in names}
    variables |= {name: drawn(grid) for name in ("boundary_jaccard", "effective_displacement")}
    variables["displacement"] = drawn(flat | {"quantile": 2})
    variables["tolerance_jaccard"] = drawn(flat | {"tau": 2})
    variables["tolerance_jaccard"][1][..., 0] = 1.0  # the other one is nearer to a half
    return xr.Dataset(variables, coords)


def stopping_runs(seed: int = 0) -> xr.Dataset:
    return (
        rounding_runs(seed)
        .isel(method=0, drop=True)
        .reindex(bits=[4, 3, 32], fill_value=0.5)
        .assign_coords(bits=[4, 3, 32])
    )


def test_the_gap_weight_is_that_of_the_lowest_calibration_jaccard():
    many = rounding_runs()
    many.boundary_jaccard.loc[{"nodes": 21, "split": "calibration"}] = 0.5
    assert correlations.chosen_gap(many, 4) == "gap 0.1"  # on ties the smaller one
    many.boundary_jaccard.loc[{"nodes": 21, "split": "calibration", "method": "gap 10", "bits": 4, "seed": 2}] = 0.4
    assert correlations.chosen_gap(many, 4) == "gap 10" and correlations.chosen_gap(many, 3) == "gap 0.1"
    many.boundary_jaccard.loc[{"split": "held-out"}] = 0.0  # of no weight
    many.boundary_jaccard.loc[{"method": ["logits", "layers"]}] = 0.0
    assert correlations.chosen_gap(many, 4) == "gap 10"
    at = correlations.at_method(many, "gap")
    assert at.flip_rate.sel(bits=4).equals(many.flip_rate.sel({"bits": 4, "method": "gap 10"}).drop_vars("method"))
    assert at.flip_rate.sel(bits=3).equals(many.flip_rate.sel({"bits": 3, "method": "gap 0.1"}).drop_vars("method"))
    with pytest.raises(ValueError, match=r"^These runs have no boundary-gap term: give gaps above 0\.$"):
        correlations.chosen_gap(many.sel({"method": ["float", "logits"]}), 4)


def test_correlations_are_of_calibration_with_held_out_values_of_each_variant():
    many = rounding_runs(1)
    found = correlations.correlations(many, "band_flip_rate", "flip_rate")
    assert list(found) == ["nearest", "layers", "logits", "gap"]
    first = many.band_flip_rate.sel({"method": "layers", "split": "calibration"}).transpose("seed", "bits").values
    second = many.flip_rate.sel({"method": "layers", "split": "held-out"}).transpose("seed", "bits").values
    assert found["layers"][0].estimate == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    assert found["layers"][1] == statistics.seed_correlation(first, second)
    centred = [values - values.mean(0) for values in (first, second)]
    assert found["layers"][2].estimate == pytest.approx(np.corrcoef(*[c.ravel() for c in centred])[0, 1])
    levels = stopping_runs(1)
    jaccard = levels.boundary_jaccard.sel(nodes=21, bits=[4, 3]).transpose("split", "seed", "bits").values
    expected = np.corrcoef(jaccard[0].ravel(), jaccard[1].ravel())[0, 1]
    assert correlations.correlations(levels)["PTQ-W"][0].estimate == pytest.approx(expected)  # without the float level


def test_predictors_are_ranked_by_their_correlation():
    levels = stopping_runs(2)
    levels.band_flip_rate.loc[{"split": "calibration"}] = 2 * levels.flip_rate.sel(split="held-out").values + 1
    ranked = correlations.rank_predictors(levels)
    assert next(iter(ranked)) == "band_flip_rate" and set(ranked) == set(correlations.PREDICTORS)
    estimates = [three[1].estimate for three in ranked.values()]
    assert estimates[0] == pytest.approx(1) and estimates == sorted(estimates, reverse=True)
    first, jaccard = (
        levels[name].sel(split="calibration", bits=[4, 3]).transpose("seed", "bits", ...).values
        for name in ("flip_rate", "boundary_jaccard")
    )
    second = levels.flip_rate.sel(split="held-out", bits=[4, 3]).transpose("seed", "bits").values
    for i, within in ((3, False), (4, True)):
        expected = statistics.correlation_gain(first, jaccard[..., 0], second, within=within)
        assert ranked["flip_rate"][i] == pytest.approx(expected)
        assert ranked["boundary_jaccard"][i] == (0, 0, 0)
        assert ranked["band_flip_rate"][i].low > 0  # no seed takes a correlation of 1 away
    table = drawn.predictors_table({"a": levels}).text.set_index("measure")
    assert table.loc["J", "z less J's"] == "" and table.loc["flips", "z less J's"][0] in "+-"


PAPER = {"F1": 0.0029, "F2": 0.053, "F3": 0.245, "R1": 0.457, "R2": 0.435, "R3": 0.36, "R4": 0.3558}


def folded_runs() -> xr.Dataset:
    """Return made-up readings of a network with folded batch norms."""
    many = rounding_runs(6).isel(method=0, drop=True).sel(split="held-out").reindex(bits=[6, 4], fill_value=0.5)
    return many.assign(accuracy_lost=1 - many.accuracy)


def test_the_tables_hold_the_means_and_begin_with_the_paper():
    many = rounding_runs(3)
    many.boundary_jaccard.loc[{"method": "gap 10", "split": "calibration"}] -= 1  # picked
    table = rounding.rounding_table(many, PAPER).text
    assert table.index.tolist()[:2] == ["the paper, 4 bits: optimized", "the paper, 4 bits: optimized + gap"]
    assert table.iloc[1]["J"] == "0.435" and len(table) == 2 + 2 * 4 and len(table.columns) == 5
    flips = many.flip_rate.sel(split="held-out", bits=3)
    logits = flips.sel({"method": "logits"})
    expected = f"{float(logits.mean()):.3f} ± {float(logits.std(ddof=1)):.3f}"
    assert table.loc["3 bits: optimized on the logits", "flips"] == expected
    assert table.index[-1] == "3 bits: with the gap term, η = 10"
    change = statistics.paired_difference(flips.sel({"method": "gap 10"}).values, logits.values)
    power = rounding.detectable_table(many).text
    assert power.loc["flips", "3 bits: change"].split()[0] == f"{change.estimate:+.3f}" and len(power) == 5
    said = rounding.gap_summary(many).data
    assert said.count("\n") == 1 and ("changes no measure" in said or "raises" in said or "lowers" in said)


def test_the_table_of_levels_has_the_loss_of_accuracy_and_the_folded_networks():
    full = rounding.full_table({"tensor": stopping_runs(4)}, folded_runs(), PAPER)
    lost = stopping_runs(4).accuracy.sel(split="held-out")
    expected = f"{float((lost.sel(bits=32) - lost.sel(bits=4)).mean()):.4f}"
    assert full.text.index.tolist() == ["the paper, 6 bits", "4 bits, a tensor", "3 bits, a tensor"]
    assert full.text.loc["4 bits, a tensor", "accuracy lost"].startswith(expected) and "J" in full.text
    assert full.text.loc["the paper, 6 bits", "flips"] == "0.053"
    six = rounding.full_table({"tensor": stopping_runs(4).reindex(bits=[32, 6], fill_value=0.1)}, folded_runs(), PAPER)
    assert six.text.index[-1] == "6 bits, a tensor, folded"


def test_correlations_are_tabulated_and_drawn_with_the_range_of_the_paper():
    sets = {"a": rounding_runs(3), "b": stopping_runs(4)}
    found = drawn.correlations_data(sets)
    assert found.variant.values.tolist()[-1] == "PTQ-W" and found.sizes["row"] == 5
    one = correlations.correlations(sets["b"])["PTQ-W"]
    assert float(found.r[-1]) == one[1].estimate and float(found.within_low[-1]) == one[2].low
    assert drawn.correlations_table(found).text.index.tolist() == [*"aaaa", "b"]
    (axes,) = drawn.correlations_figure(found, 0.947, 0.994).axes
    (band,) = (patch for patch in axes.patches if patch.get_label() == "the paper")
    assert [band.get_x(), band.get_x() + band.get_width()] == pytest.approx([0.947, 0.994])
    assert len(drawn.predictors_table({"b": stopping_runs(4)}).text) == len(PREDICTORS)


def test_figures_of_full_cifar_draw_every_seed_and_the_paper():
    many = stopping_runs(4).reindex(bits=[32, 6, 4], fill_value=0.1)
    of = rounding.levels_figure({"a tensor": many}, folded_runs(), PAPER)
    stated = [line for axes in of.axes for line in axes.lines if line.get_label() == subsets.PAPER["label"]]
    assert [float(line.get_ydata()[0]) for line in stated] == [PAPER[name] for name in ("F1", "F2", "F3")]
    drawn_runs = rounding.rounding_figure(rounding_runs(3), stopping_runs(4), PAPER)
    stated = [line for axes in drawn_runs.axes for line in axes.lines if line.get_label() == "the paper"]
    assert [list(line.get_xdata()) for line in stated] == [[0.36, 0.3558], [0.457, 0.435]]


def test_the_sweep_is_drawn_against_none():
    many = rounding_runs(5)
    panels = rounding.sweep_figure(many).axes
    assert [axes.get_title() for axes in panels] == [
        "boundary Jaccard",
        "band flips",
        "band pair-order flips",
        "accuracy",
    ]
    flips = many.band_flip_rate.sel(split="held-out", bits=4)
    expected = (flips.sel({"method": ["gap 0.1", "gap 10"]}) - flips.sel({"method": "logits"})).mean("seed").values
    thick = [line for line in panels[1].lines if line.get_label() == "4 bits, held-out"]
    assert (
        len(thick) == 1 and np.allclose(thick[0].get_ydata(), expected) and thick[0].get_xdata().tolist() == [0.1, 10]
    )
