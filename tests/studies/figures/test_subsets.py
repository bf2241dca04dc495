"""Figures and table of the CIFAR-10 subset: the paper's values, what rules choose, and what readers are told."""

import numpy as np
import pytest
import xarray as xr

from studies import stopping
from studies.figures import stopping as stopping_figures
from studies.figures import subsets

PAPER = {"C1": 6, "C2": 0.0367, "C3": 0.184, "C4": 8, "C5": 0.0083, "C6": 0.048}


def runs(seed: int, seeds: int = 3) -> xr.Dataset:
    """Return made-up joined runs of the stopping study."""
    draw = np.random.default_rng(seed)
    coords = {"seed": range(seeds), "split": ["calibration", "held-out"], "bits": [32, 8, 7, 6], "nodes": [81, 21],
              "tau": [0.1, 2.0]}  # fmt: skip
    dims = ("seed", "split", "bits")
    names = {"accuracy": dims, "flip_rate": dims, "band_flip_rate": dims, "model_bytes": ("bits",)}
    names |= {
        name: (*dims, "nodes") for name in ("boundary_jaccard", "thick_boundary_jaccard", "effective_displacement")
    }
    names["tolerance_jaccard"] = (*dims, "tau")
    return xr.Dataset({name: (d, draw.random([len(coords[one]) for one in d])) for name, d in names.items()}, coords)


@pytest.mark.parametrize("seed", range(5))
def test_the_fewest_bits_that_keep_accuracy_may_lie_below_a_drop(seed):
    many = runs(seed)
    calibration = many.accuracy.sel(split="calibration").round(1)
    many.accuracy.loc[{"split": "calibration"}] = calibration
    chosen = subsets.fewest_bits(many)
    for at in range(many.sizes["seed"]):
        kept = [b for b in (8, 7, 6) if calibration.sel(bits=b)[at] >= calibration.sel(bits=32)[at]]
        assert int(chosen.chosen_bits[at]) == min(kept, default=8)
        expected = many.flip_rate.isel(seed=at).sel(bits=min(kept, default=8), split="held-out")
        assert float(chosen.flip_rate.isel(seed=at).sel(split="held-out")) == float(expected)


def test_the_table_begins_with_the_paper_and_has_both_rulers():
    many = runs(1)
    chosen = stopping_figures.usual_choices(many)
    table = subsets.choices_table(many, chosen, PAPER).text
    assert table.iloc[0].tolist() == ["6", "", "0.0367", "", "0.184", "0.184"] and len(table.columns) == 6
    names = ["chosen by accuracy (first drop)", "fewest bits that keep accuracy"]
    assert table.index[2:4].tolist() == names and len(table) == 3 + chosen.sizes["choice"]
    first = stopping_figures.first_of(chosen, "accuracy").sel(split="held-out")
    thick = first.thick_boundary_jaccard.sel(nodes=21)
    assert table.iloc[2, -1] == f"{float(thick.mean()):.2f} ± {float(thick.std(ddof=1)):.2f}"


def test_figures_draw_every_network_and_the_paper():
    many = runs(2)
    figure = subsets.levels_figure(many, {8: 0.01, 6: 0.04}, {8: 0.05, 6: 0.2})
    stated = [line for axes in figure.axes for line in axes.lines if line.get_label() == "the paper"]
    assert [list(line.get_ydata()) for line in stated] == [[0.01, 0.04], [0.05, 0.2]]
    assert all(list(line.get_xdata()) == [0, 2] for line in stated)
    variants = xr.concat([many, runs(3)], xr.Variable("variant", ["baseline", "width=8"]))
    found = subsets.variants_data(variants, 0.5, stopping.LIMITS)
    figure = subsets.variants_figure(found, {"flip_rate": {"by accuracy": 0.5}})
    means = [line for line in figure.axes[1].lines if line.get_label() == "by accuracy"]
    assert np.allclose(means[0].get_xdata(), found.flip_rate.sel(choice="by accuracy").mean("seed"))
    assert [line.get_label() for line in figure.axes[1].lines if line.get_linestyle() == "--"] == [
        "the paper, by accuracy"
    ]


def test_the_answer_follows_the_verdicts():
    many = runs(4)
    chosen = stopping_figures.usual_choices(many)
    claims = {name: {"verdict": "compatible"} for name in ("C1", "C2", "C4", "C5")}
    assert "bits and flips are among ours." in subsets.answer(many, chosen, claims).data
    claims["C5"]["verdict"] = "not reproduced"
    assert "are not all among ours." in subsets.answer(many, chosen, claims).data
    assert subsets.summary(
        many, xr.Dataset({"flip_rate": (("choice", "seed"), np.ones((1, 2)))}, {"choice": ["by accuracy"]})
    )
