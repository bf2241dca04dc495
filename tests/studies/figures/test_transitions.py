"""What the chapter on transitions shows: counts in three ways, the paper's beside ours, and what the answer says."""

import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import statistics
from studies.figures import transitions
from studies.figures.source_data import attached

SEEDS = np.arange(1, 100)


@pytest.fixture
def many() -> xr.Dataset:
    """Return runs of two transitions whose measures are made of their seeds."""
    over = SEEDS[:, None] * np.array([1.0, 2.0])
    names = ("junction_union", "junction_union_changed", "changed_cells", "rearranged_cells")
    found = dict.fromkeys(names, (("seed", "transition"), over))
    found["junction_steps"] = ("seed", "transition", "t"), np.stack([over, 3 * over], axis=-1)
    shares = {"share_near": 0.3, "chance_boundary": 0.1, "share_rearranged_near": 0.8, "chance_slice": 0.01,
              "share_changed": 0.5}  # fmt: skip
    found |= {name: (("seed", "transition"), value + over / 1e6) for name, value in shares.items()}
    return xr.Dataset(found, {"transition": ["8→7", "7→6"], "t": [0.0, 1.0], "seed": SEEDS, "nodes": [31]})


def test_the_paper_s_table_begins_with_its_counts(many):
    table = transitions.paper_table(many, [12.0, 34.0, 17.0])
    assert table.name == "table-p2" and len(table.frame.columns) == 6 and "31 nodes" in table.caption
    assert table.frame.index.tolist() == ["the paper, three of these", "8→7", "7→6"]
    assert table.frame["junction cells"].tolist() == ["12, 34 and 17", "50 [2.50, 97.5]", "100 [5, 195]"]


def test_the_figure_counts_in_three_ways_beside_the_paper(many):
    figure = transitions.counts_figure(many, [12.0, 34.0])
    assert [axes.get_title("left") for axes in figure.axes][0] == "at a step, on average"
    data = attached(figure)
    np.testing.assert_allclose(data.junction_steps, 2 * many.junction_union)
    for axes in figure.axes:
        broken = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert broken == [12.0, 34.0]
    assert data.reported.values.tolist() == [12.0, 34.0]


def test_steps_are_rows_and_transitions_columns(many):
    one = many.isel(seed=0)
    table = transitions.steps_table(one)
    assert table.frame.index.tolist() == ["t = 0", "t = 1"] and table.frame.columns.tolist() == ["8→7", "7→6"]
    assert table.frame.loc["t = 1"].tolist() == ["3", "6"]


def test_the_words_hold_the_means_and_the_paired_excess(many):
    text = transitions.answer(many).data
    assert "30.0% of the cells" in text and "10.0% of all boundary" in text and "80% are near" in text
    assert text.replace("**Answer.** ", "").count(". ") == 1
    near, chance = (many[name].mean("transition").values for name in ("share_near", "chance_boundary"))
    found = statistics.paired_difference(near, chance)
    text = transitions.summary(many).data
    assert f"exceeds chance by {found.estimate:.4f} [{found.low:.4f}, {found.high:.4f}]" in text
    assert "50% to 50% of the boundary cells" in text and "80% to 80%" in text
    bare = transitions.summary(many.isel(seed=[0]).assign(share_rearranged_near=np.nan * many.share_near)).data
    assert "chance" not in bare and "rearranged" not in bare
