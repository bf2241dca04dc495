"""What the chapter on rounding objectives says: the rule of beating by hand, and that words and figure follow the runs."""

import numpy as np
import pytest
import xarray as xr

from studies import objectives
from studies.figures import objectives as objectives_figures
from studies.figures.objectives import (
    MEASURES,
    answer,
    beats_plain,
    differences_table,
    front_figure,
    means_table,
    winners_table,
)

SEEDS = 10
WOBBLE = np.resize([-1.0, 1.0], SEEDS)  # of mean 0


def made(**changes) -> xr.Dataset:
    """Make runs in which all families are equal but for *changes*: of a family, measure -> (mean change, spread)."""
    families = objectives.families()
    names = [name for name, *_ in MEASURES]
    values = {name: np.tile(np.linspace(0.4, 0.5, SEEDS), (2, len(families), 1)) for name in names}
    for family, of in changes.items():
        for name, (mean, spread) in of.items():
            values[name][1, families.index(family)] += mean + spread * WOBBLE
    data = {name: (("split", "family", "seed"), array) for name, array in values.items()}
    data |= {
        "strength": (("family", "seed"), np.where(np.arange(len(families))[:, None] > 4, 0.3, np.nan) + WOBBLE * 0)
    }
    data["tolerance_jaccard"] = (
        ("split", "family", "seed", "tau"),
        values["tolerance_jaccard"][..., None] * [1.0, 2.5],
    )
    data["undecided_gates"] = (("family", "seed"), np.full((len(families), SEEDS), 0.0123))
    return xr.Dataset(
        data, {"split": ["calibration", "held-out"], "family": families, "seed": range(SEEDS), "tau": [0.5, 0.1]}
    )


BETTER = {"band_flip_rate": (-0.1, 0.01), "boundary_jaccard": (-0.1, 0.01)}


@pytest.mark.parametrize(
    ("change", "beats"),
    [
        (BETTER, True),
        (BETTER | {"accuracy": (-0.001, 0.01)}, True),  # not sure to be lower
        (BETTER | {"accuracy": (-0.01, 0.001)}, False),
        (BETTER | {"boundary_jaccard": (0.0, 0.01)}, False),
        # Sure alone (|t| = 2.7 of 9 degrees of freedom), but not as one of twelve.
        (BETTER | {"band_flip_rate": (-0.009, 0.01)}, False),
    ],
)
def test_an_objective_beats_plain_by_all_three(change, beats):
    picked = made(kl=change)
    assert beats_plain(picked, "kl")["beats"] == beats
    assert not beats_plain(picked, "gap")["beats"]
    assert objectives_figures.compared(picked, "kl", "band_flip_rate").difference.high < 0
    table = winners_table({"some": picked, "others": made()}).text
    assert table["beats plain"].tolist() == ["KL" if beats else "none", "none"]
    assert table.loc["some", "fewest band flips"] == "KL" and table.loc["some", "networks"] == "10"
    assert table.loc["others", "band flips, the paper's term"] == "0.0000 [0.0000, 0.0000]"
    both, alone = (answer(sets).data for sets in ({"some": picked, "others": made()}, {"some": picked}))
    assert f"On {int(beats)} of 2 data sets" in both and "no objective does on all" in both
    assert ("KL does on all of them" in alone) == beats and alone.endswith("gap term does on none.")


def test_tables_and_figure_hold_every_family_by_its_name():
    picked = made(kl=BETTER)
    names = list(objectives_figures.NAMES.values())
    assert sorted(objectives_figures.NAMES) == sorted(objectives_figures.MARKS) == sorted(objectives.families())
    means, data, _ = means_table(picked)
    assert sorted(means.index) == sorted(names)
    assert means.loc["KL", "band flips"] == "0.3500" and means.loc["KL", "accuracy"] == "0.4500"
    assert means.loc["KL", "strengths"] == "0.3 (10)" and means.loc["GPTQ", "strengths"] == ""
    assert means.loc["KL", "undecided"] == "1.23%" and means.loc["GPTQ", "undecided"] == ""
    assert means.loc["KL", "beyond 0.5"] == "0.450"  # of two tolerances, that of about a half
    table, changes, _ = differences_table(picked)
    assert sorted([*table.index, objectives_figures.NAMES[objectives.PLAIN]]) == sorted(names)
    # Student: 2.262 of 9 degrees of freedom · 0.010541 / √10 = 0.0075; seen four times in five: 0.0105.
    assert table.loc["KL", "band flips"] == "-0.1000 [-0.1075, -0.0925] (0.0105)"
    kl = means.index.get_loc("KL")
    assert data.undecided[kl] == pytest.approx(0.0123) and data.beyond_0_5[kl] == pytest.approx(0.45)
    assert changes.band_flips_detectable[table.index.get_loc("KL")] == pytest.approx(0.0105, abs=5e-5)
    figure = front_figure({"some": picked, "others": made()})
    assert [axes.get_title() for axes in figure.axes] == ["some", "others"]
    far = {"rounding to nearest", "nearest on learned steps"}
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(names) - far
