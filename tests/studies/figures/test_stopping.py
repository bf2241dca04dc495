"""Tables and figures of stopping: the numbers in them, and that every figure draws what it says."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from bqcore.metrics import statistics
from studies import catalogue, measures, specs, stopping
from studies.figures import stopping as stopping_figures
from studies.figures import stopping_paper
from studies.figures.source_data import attached
from studies.formats import signed

SMALL = specs.Stopping(epochs=4, nodes=(41, 21), width=12, sizes=(500, 300, 400))


@pytest.fixture(scope="module")
def many() -> xr.Dataset:
    return stopping.STUDY.joined({seed: catalogue.measure(replace(SMALL, seed=seed)) for seed in range(3)}, SMALL, 3)


@pytest.fixture(scope="module")
def chosen(many) -> xr.Dataset:
    return stopping_figures.usual_choices(many)


def test_the_usual_choices_are_one_of_each_rule_and_nncf_s_drop(chosen):
    names = [stopping_figures.rule_name(choice) for choice in stopping_figures.each(chosen)]
    assert names[:2] == ["chosen by accuracy", "accuracy drop ≤ 0.01"]
    assert [name.split(" ≤ ")[0] for name in names[2:5]] == ["flips", "band flips", "J"]
    assert names[5].count("≤") == 2 and " and band flips ≤ " in names[5] and names[6].startswith("tolerance J ≤ ")
    assert set(chosen.rule.values) == set(stopping_figures.RULES)


def test_the_table_holds_the_means_and_the_paired_difference(many, chosen):
    table = stopping_figures.stopping_table(many, chosen).text
    tau = measures.usual_tolerance(many.tolerance_jaccard)
    for i, (_, row) in enumerate(table.iterrows()):
        at = chosen.isel(choice=i)
        assert row["bits"] == f"{float(at.chosen_bits.mean()):.2f}"
        for title, values, form in (
            ("flips", at.flip_rate, ".4f"),
            ("J", at.boundary_jaccard.sel(nodes=41), ".3f"),
            (f"beyond {tau:g}", at.tolerance_jaccard.sel(tau=tau), ".3f"),
        ):
            means = [float(values.sel(split=split).mean()) for split in ("calibration", "held-out")]
            assert row[title].split() == [f"{means[0]:{form}}", "→", f"{means[1]:{form}}"]
        equal = stopping.at_equal_bits(many, at, "flip_rate")
        less = statistics.paired_difference(equal.values, at.flip_rate.sel(split="held-out").values)
        assert row["fewer than uniform"].split() == [
            signed(less.estimate), f"[{signed(less.low)},", f"{signed(less.high)}]"
        ]  # fmt: skip
    data = stopping_figures.stopping_table(many, chosen).data
    np.testing.assert_array_equal(data.limit, chosen.limit)
    np.testing.assert_allclose(data.flips_held_out, chosen.flip_rate.sel(split="held-out").mean("seed"), rtol=1e-12)
    assert data.J_calibration.attrs["nodes"] == 41 or data.nodes == 41
    one = stopping_figures.stopping_table(many.isel(seed=[0]), chosen.isel(seed=[0]), nodes=21).text
    assert not one["fewer than uniform"].str.contains(r"\[").any()  # one run has no interval


def test_the_table_of_limits_ticks_what_is_inside(many):
    choices = stopping.choose(many)
    at = choices.isel(choice=int(np.flatnonzero(choices.rule.values == "jaccard")[3]))
    reported = {
        "flip_rate": float(at.flip_rate.sel(split="held-out").mean()),
        "boundary_jaccard": float(at.boundary_jaccard.sel(split="held-out", nodes=41).mean()),
    }
    table = stopping_figures.limits_table(many, choices, 3, reported, 41, crossed=False).text
    crossed = stopping_figures.limits_table(many, choices, 3, reported, 41, crossed=True).text
    assert len(table) == 11 and len(crossed) == 28
    row = table.loc["J ≤ 0.4"]
    assert row["all agree"] == "yes" and row.str.contains("✓").sum() == 2
    values = at.flip_rate.sel(split="held-out").values
    for end in statistics.prediction_interval(values, 3)[1:3]:  # an end is inside
        ends = stopping_figures.limits_table(many, choices, 3, {"flip_rate": float(end)}, 41, crossed=False).text
        assert ends.loc["J ≤ 0.4", "all agree"] == "yes"
    far = stopping_figures.limits_table(many, choices, 3, {"flip_rate": 0.9, "chosen_bits": 99}, 41, crossed=True).text
    assert not (far["all agree"] == "yes").any() and not far["bits (paper 99)"].str.contains("✓").any()


def test_figures_draw_every_seed_and_rule(many, chosen):
    transfer = stopping_figures.transfer_figure({"mnist": many, "again": many})
    dots = sum(len(line.get_xdata()) for line in transfer.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_array_equal(attached(transfer).boundary_jaccard.sel(data_set="mnist").sortby("bits"),
                                  many.boundary_jaccard.isel(nodes=0).sel(bits=range(2, 9)).transpose("seed", "bits", "split"))  # fmt: skip
    assert dots == 3 * 7 and [axes.get_title() for axes in transfer.axes] == ["MNIST", "again"]
    front = stopping_figures.front_figure({"digits": many}, {"digits": chosen})
    (line, *marks) = front.axes[0].lines
    flips = many.flip_rate.sel(split="held-out", bits=[8, 7, 6, 5, 4, 3]).mean("seed")
    np.testing.assert_allclose(line.get_ydata(), flips)
    assert len(marks) == chosen.sizes["choice"]
    kept = attached(front).sel(data_set="digits")
    np.testing.assert_allclose(kept.flip_rate, flips)
    assert kept.rule.values.tolist() == chosen.rule.values.tolist()
    np.testing.assert_array_equal(kept.rule_model_bytes / 1000, [mark.get_xdata()[0] for mark in marks])
    assert len({(mark.get_color(), mark.get_marker()) for mark in marks}) == len(stopping_figures.RULES)
    places = {}
    for mark in marks:  # in the order in which they are drawn
        places.setdefault(tuple(mark.get_xydata()[0]), []).append(mark.get_markersize())
    assert any(len(sizes) > 1 for sizes in places.values())
    assert all(sizes == sorted(set(sizes), reverse=True) for sizes in places.values())  # none hides another
    ruler = stopping_figures.ruler_figure(many, {8: 0.1, 6: 0.4})
    assert [axes.get_title() for axes in ruler.axes] == ["one-cell mask", "thickened by a cell on every side"]
    medians = [line.get_ydata() for line in ruler.axes[0].lines if line.get_label() == "8 bits, median"]
    expected = many.boundary_jaccard.sel(bits=8, split="held-out").sortby("nodes").median("seed")
    np.testing.assert_allclose(medians[0], expected)
    assert plt.get_fignums() == []


def test_the_table_of_variants_begins_with_the_paper(many):
    variants = xr.concat([many, many], xr.Variable("variant", ["baseline", "width=12"]))
    table = stopping_figures.variants_table(variants, 0.5, stopping.LIMITS, {"flips by accuracy": 0.0094}).text
    assert list(table.index) == ["the paper", "baseline", "width=12"]
    assert table.loc["the paper", "flips by accuracy"] == "0.0094"
    assert table.loc["baseline"].equals(table.loc["width=12"])


def test_the_summary_in_words_holds_the_paired_differences(many, chosen):
    text = stopping_figures.summary({"digits": many}, {"digits": chosen}).data
    held_out = chosen.flip_rate.sel(split="held-out").transpose("choice", "seed")
    first, second = (list(chosen.rule.values).index(rule) for rule in ("accuracy", "jaccard"))
    fewer = statistics.paired_difference(held_out[first].values, held_out[second].values)
    assert f"{fewer.estimate:.4f} fewer [{fewer.low:.4f}, {fewer.high:.4f}]" in text
    assert f"has {float(chosen.chosen_bits[second].mean()):.2f} bits" in text
    equal = stopping.at_equal_bits(many, chosen, "flip_rate")
    gains = [
        statistics.paired_difference(equal.isel(choice=i).values, held_out[i].values)
        for i in range(chosen.sizes["choice"])
    ]
    assert text.count("uniform bit-width of the same size: none.") == (not any(gain.low > 0 for gain in gains))
    assert text.count("shown to change more: ") == any(gain.high < 0 for gain in gains)
    bits = many.sel(bits=[32, 8, 7]).copy(deep=True)
    for name in ("flip_rate", "band_flip_rate", "boundary_jaccard", "thick_boundary_jaccard", "tolerance_jaccard"):
        bits[name].loc[{"bits": 7}] = 1.0  # so that no rule goes below 8
    bits["accuracy"].loc[{"bits": 7}] = 0.0
    only = stopping_figures.summary({"x": bits}, {"x": stopping_figures.usual_choices(bits)}).data
    assert "Every rule gives all networks the same bits" in only and "Rules shown" not in only
    assert "fewer [" not in stopping_figures.summary({"one": many.isel(seed=[0])}, {"one": chosen.isel(seed=[0])}).data


def test_the_price_is_the_paired_difference_against_a_uniform_bit_width(many, chosen):
    figure = stopping_figures.price_figure({"digits": many}, {"digits": chosen})
    data = attached(figure).sel(data_set="digits")
    equal = stopping.at_equal_bits(many, chosen, "flip_rate").transpose("choice", "seed").values
    held_out = chosen.flip_rate.sel(split="held-out").transpose("choice", "seed").values
    for i, (same, ours) in enumerate(zip(equal, held_out)):
        found = statistics.paired_difference(same, ours)
        np.testing.assert_allclose([data.saved[i], data.low[i], data.high[i]], found, atol=1e-12)
    assert data.rule.values.tolist()[:2] == ["accuracy", "accuracy drop ≤ 0.01"]
    stopping_figures.price_figure({"one": many.isel(seed=[0])}, {"one": chosen.isel(seed=[0])})


def with_accuracy(*kept: tuple[bool, ...]) -> xr.Dataset:
    """Return runs at 4 to 2 bits that keep their calibration accuracy where they are told to."""
    accuracy = np.array([[0.9, *(0.9 if keeps else 0.8 for keeps in run)] for run in kept])
    both = np.stack([accuracy, 0 * accuracy])
    coords = {"split": ["calibration", "held-out"], "seed": range(len(kept)), "bits": [32, 4, 3, 2]}
    return xr.Dataset(
        {"accuracy": (tuple(coords), both), "bits_again": (tuple(coords), both * 0 + [32, 4, 3, 2])}, coords
    )


def test_the_fewest_bits_that_keep_accuracy_may_lie_below_a_drop():
    made = with_accuracy((True, True, False), (True, False, True), (False, False, False), (False, True, True))
    found = stopping_paper.fewest_that_keep(made)
    assert found.chosen_bits.values.tolist() == [3, 2, 4, 2]  # where none keeps it, the most bits
    assert found.bits_again.sel(split="held-out").values.tolist() == [3, 2, 4, 2]


def test_the_paper_s_table_and_points_stand_beside_ours(many, chosen):
    reported = {"S1": 0.0094, "S2": 0.0022, "S3": 0.825, "S4": 0.524}
    table = stopping_paper.paper_table({"digits": many, "mnist": many}, {"digits": chosen, "mnist": chosen}, reported)
    assert table.name == "table-p3" and len(table.frame) == 6 and len(table.frame.columns) == 6
    assert table.frame["flips, the paper"].tolist() == ["0.0094", "0.0094", "0.0022", "", "", ""]
    assert table.frame["J, the paper"].tolist() == ["0.825", "0.825", "0.524", "", "", ""]
    flips = stopping_figures.first_of(chosen, "jaccard").flip_rate.sel(split="held-out").values
    assert float(table.frame["flips, ours"].iloc[2].split()[0]) == pytest.approx(flips.mean(), abs=5e-4)
    figure = stopping_paper.limits_figure(many, stopping.choose(many), reported)
    stars = [line.get_xydata()[0].tolist() for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert stars == [[0.0094, 0.825], [0.0022, 0.524]]
    assert attached(figure).flip_rate.sizes["choice"] == sum(map(len, stopping.LIMITS.values()))


def test_the_answer_says_on_which_sets_stopping_saves_and_what_at_equal_bits(many, chosen):
    text = stopping_paper.answer({"digits": many, "mnist": many}, {"digits": chosen, "mnist": chosen}).data
    assert text.startswith("**Answer.**") and text.count(". ") == 1
    worse = chosen.copy(deep=True)
    worse["flip_rate"].loc[{"choice": chosen.rule.values == "accuracy"}] = 0.9 + 0.01 * worse.seed
    worse["flip_rate"].loc[{"choice": chosen.rule.values == "jaccard"}] = 0.0
    told = stopping_paper.answer({"digits": many, "mnist": many}, {"digits": worse, "mnist": worse}).data
    assert "accuracy on digits and MNIST. It keeps" in told
    assert "no interval" in stopping_paper.answer({"digits": many.isel(seed=[0])}, {"digits": chosen}).data
