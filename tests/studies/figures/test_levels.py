"""What the chapter on levels says of the two readings of the boundary shift: numbers by hand, and every sentence."""

import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import statistics
from studies.figures import levels, source_data

SEEDS = np.arange(1, 100)


def runs(scale: float = 1.0, shift: float = 0.0, seeds=SEEDS) -> xr.Dataset:
    """Return runs whose displacement at 4 bits is their seed / 1000, and whose signed distance change is made of it."""
    delta = seeds[:, None, None] / 1000 * np.array([0.1, 1.0])[:, None] * np.array([1.0, 3.0])
    dims, coords = ("seed", "bits", "quantile"), {"seed": seeds, "bits": [8, 4], "quantile": [0.5, 0.95]}
    found = {"displacement": delta, "signed_distance_change": scale * delta + shift}
    out = xr.Dataset({name: (dims, values, {"units": "input units"}) for name, values in found.items()}, coords)
    return xr.concat([0 * out.isel(bits=[0]).assign_coords(bits=[32]), out], "bits")


def read(given: xr.Dataset, reported: dict) -> str:
    """Return the chapter's last words on these runs, with what they need beside the two readings."""
    over = ("seed", "bits"), np.zeros((given.sizes["seed"], 3))
    names = ("flip_rate", "band_flip_rate", "few_classes", "boundary_jaccard", "effective_displacement")
    rest = xr.Dataset(dict.fromkeys(names, over), {"seed": given.seed, "bits": given.bits})
    rest = rest.expand_dims(nodes=[201]).assign(outside=("seed", over[1][:, 0]))
    rest = rest.assign({name: rest[name].isel(nodes=0) for name in names[:2]})
    return levels.summary(given.merge(rest), reported).data


def test_the_table_has_both_readings_with_their_intervals_and_the_paired_difference():
    text = levels.shifts_table(runs(2.0)).text
    assert text.index.tolist() == ["8 bits", "4 bits"]
    row = text.loc["4 bits"]
    assert row["displacement δ"] == "0.0500 [0.0025, 0.0975]"  # ranks 2.5 and 97.5 of 99
    assert row["signed distance change Δs"] == "0.1000 [0.0050, 0.1950]"
    found = statistics.paired_difference(2 * SEEDS / 1000, SEEDS / 1000)
    assert row["Δs − δ"] == "+{:.4f} [+{:.4f}, +{:.4f}]".format(*found)


@pytest.mark.parametrize(
    ("made", "value", "says"),
    [
        ((1.5,), 0.04, ("nearer to the displacement δ", "68% of the runs", "inside both intervals: it does not tell")),
        ((1.5,), 0.08, ("nearer to the signed distance change Δs", "64% of the runs", "inside both intervals")),
        (
            (1.0, 0.2),
            0.01,
            ("nearer to the displacement δ", "100% of the runs", "interval of the displacement δ alone."),
        ),
        ((1.0, 0.2), 0.25, ("to the signed distance change Δs", "100%", "of the signed distance change Δs alone.")),
        ((1.0,), 0.5, ("0% of the runs", "outside both intervals.")),
    ],
)
def test_the_summary_says_which_reading_is_nearer_and_whether_that_tells(made, value, says):
    given = runs(*made)
    text = read(given, {("displacement", 4): value, ("displacement", 5): 7.0, ("accuracy", 4): 1.0})
    assert all(one in text for one in says), text
    assert f"- At **4 bits** the paper has {value:.4f}, which is nearer" in text and "5 bits" not in text
    ratio = (given.signed_distance_change / given.displacement).sel(bits=[8, 4], quantile=0.5).median("seed")
    assert f"Δs is {ratio.min():.2f} to {ratio.max():.2f} times δ" in text


def test_of_one_run_there_is_no_interval_to_speak_of():
    one = runs(1.5, seeds=SEEDS[:1])
    assert "One run has no interval" in read(one, {("displacement", 4): 0.04})
    assert levels.shifts_table(one).text.loc["4 bits", "displacement δ"] == "0.0010"
    levels.shifts_figure(one, {})


def test_the_figure_carries_both_readings_their_ratio_and_the_paper_s_value():
    figure = levels.shifts_figure(runs(1.5), {("displacement", 4): 0.04})
    data = source_data.attached(figure)
    axes, ratios = figure.axes
    low, high = axes.containers[0].lines[2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((0.0025, 0.0975))
    np.testing.assert_allclose(data.ratio, 1.5)
    assert data.displacement_reported.values.tolist()[1] == 0.04 and ratios.get_ylabel().startswith("Δs / δ")


def test_a_dot_is_drawn_for_each_run_and_in_the_same_place_each_time():
    given = runs(np.linspace(0.5, 2, len(SEEDS))[:, None, None])
    figures = [levels.shifts_figure(given, {}) for _ in range(2)]
    first, second = (source_data.of_figure(figure)["svg"] for figure in figures)
    assert first == second
    dots = [line for line in figures[0].axes[1].lines if line.get_marker() == "o"]
    ratio = (given.signed_distance_change / given.displacement).sel(bits=[8, 4], quantile=0.5)
    np.testing.assert_array_equal([line.get_ydata() for line in dots], ratio.transpose("bits", "seed"))
    aside = np.array([line.get_xdata() - place for place, line in enumerate(dots)])
    assert abs(aside).max() <= 0.25 and len(np.unique(aside)) == aside.size


def test_the_paper_s_table_begins_with_the_paper_and_holds_medians_of_runs():
    made = runs()
    over = ("nodes", "seed", "bits"), np.broadcast_to(SEEDS[:, None] / 100, (1, len(SEEDS), 3))
    made = made.assign_coords(nodes=[201]).assign(boundary_jaccard=over, accuracy=over, flip_rate=over)
    made = made.assign({name: made[name].isel(nodes=0) for name in ("accuracy", "flip_rate")})
    table = levels.paper_table(made, {("boundary_jaccard", 4): 0.97, ("flip_rate", 8): 0, ("radius", 4): 7.0})
    assert table.name == "table-p1" and list(table.frame.columns) == ["accuracy", "flip rate", "J", "boundary shift"]
    assert table.frame.index.tolist() == ["the paper, 8 bits", "the paper, 4 bits", "float", "8 bits", "4 bits"]
    assert table.frame.loc["the paper, 4 bits"].tolist() == ["", "", "0.97", ""]
    assert table.frame.loc["the paper, 8 bits", "flip rate"] == "0"
    assert table.frame.loc["4 bits", "J"] == "0.500 [0.0250, 0.975]"
    assert table.frame.loc["4 bits", "boundary shift"] == "0.0500 [0.0025, 0.0975]"


@pytest.mark.parametrize(
    ("jaccard", "flips", "says"),
    [
        (0.42, 0.0, ("changes no decision", "of 0.300 from", "lie inside the range of our runs at 8 bits;")),
        (0.90, 0.04, ("changes 4.0% of its decisions", "lie outside the range of our runs at 8 bits;")),
    ],
)
def test_the_answer_is_two_sentences_and_says_where_the_paper_lies(jaccard, flips, says):
    spread = np.linspace(0.1, 0.5, 99)
    many = xr.Dataset(
        {
            "boundary_jaccard": (("seed", "bits", "nodes"), np.stack([0 * spread, spread], 1)[..., None]),
            "flip_rate": (("seed", "bits"), np.full((99, 2), flips)),
        },
        {"bits": [32, 8], "nodes": [201]},
    )
    text = levels.answer(many, {("boundary_jaccard", 8): jaccard, ("boundary_jaccard", 4): 0.1}).data
    assert all(one in text for one in says), text
    assert text.replace("**Answer.** ", "").count(". ") == 1
