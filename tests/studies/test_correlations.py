"""From calibration to held-out inputs: which gap weight is picked, and correlations of what they say they are of."""

import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import statistics
from studies import correlations
from studies.correlations import PREDICTORS
from studies.figures import rounding


def rounding_runs(seed: int = 0, seeds: int = 4) -> xr.Dataset:
    """Give made-up joined runs of the rounding study."""
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
    table = rounding.predictors_table({"a": levels}).text
    assert table.loc["a: J", "z less J's"] == "" and table.loc["a: flips", "z less J's"][0] in "+-"


def test_the_tables_hold_the_means_and_the_paired_change():
    many = rounding_runs(3)
    many.boundary_jaccard.loc[{"method": "gap 10", "split": "calibration"}] -= 1  # picked
    table = rounding.rounding_table(many, 3).text
    assert table.index.tolist()[:3] == list(rounding.NAMES.values())
    flips = many.flip_rate.sel(split="held-out", bits=3)
    row = table.loc["optimized, on the logits", "flips"]
    assert row.startswith(
        f"{float(flips.sel({'method': 'logits'}).mean()):.4f} ({float(flips.sel({'method': 'logits'}).min()):.4f}"
    )
    change = statistics.paired_difference(
        flips.sel({"method": "gap 10"}).values, flips.sel({"method": "logits"}).values
    )
    last = table.iloc[-1]
    assert "η = 10" in last.name and last["flips"].split()[0] == f"{change.estimate:+.4f}"
    beyond = many.tolerance_jaccard.sel(split="held-out", bits=3, tau=2.0).sel({"method": "layers"})
    assert table.loc["optimized, layer by layer", "beyond 2"].split()[0] == f"{float(beyond.mean()):.3f}"
    full = rounding.full_table({"tensor": stopping_runs(4)}).text
    lost = stopping_runs(4).accuracy.sel(split="held-out")
    expected = f"{float((lost.sel(bits=32) - lost.sel(bits=4)).mean()):.4f}"
    assert full.index.tolist() == ["4 bits, per tensor", "3 bits, per tensor"]
    assert full.iloc[0]["accuracy lost"].startswith(expected) and "beyond 2" in full
    correlations = rounding.correlations_table({"a": many, "b": stopping_runs(4)}).text
    assert len(correlations) == 5 and correlations.index[-1] == "b: PTQ-W"
    assert len(rounding.predictors_table({"b": stopping_runs(4)}).text) == len(PREDICTORS)
    assert len(rounding.seen_changes(many, 4)) == 5


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
