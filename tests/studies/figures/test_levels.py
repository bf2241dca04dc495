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
    text = levels.shifts_summary(
        given, {("displacement", 4): value, ("displacement", 5): 7.0, ("accuracy", 4): 1.0}
    ).data
    assert all(one in text for one in says), text
    assert (
        f"- At **4 bits** the paper has {value:.4f}. Ours is 0.0500 [0.0025, 0.0975]" in text and "5 bits" not in text
    )
    ratio = (given.signed_distance_change / given.displacement).sel(bits=[8, 4], quantile=0.5).median("seed")
    assert f"Δs is {ratio.min():.2f} to {ratio.max():.2f} times δ" in text


def test_of_one_run_there_is_no_interval_to_speak_of():
    one = runs(1.5, seeds=SEEDS[:1])
    assert levels.shifts_summary(one, {("displacement", 4): 0.04}).data.startswith("One run has no interval")
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
