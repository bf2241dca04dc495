"""What the referee's chapter shows: positions by hand, steps that give the reported distance back, every figure drawn."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from bqcore.metrics import finite_scale, planes, statistics
from studies import first_order, published, stopping
from studies.figures import exact, referee, style, verdicts
from studies.figures import stopping as stopping_figures
from tests.helpers.claims import published_rows

LEVELS = [8, 7, 6, 5, 4, 3, 2]


@pytest.fixture(scope="module")
def sets() -> dict:
    return {name: published.load_published(f"{name}_stopping.nc") for name in ("digits", "cifar-10")}


@pytest.fixture(scope="module")
def study():
    return published.load_published(published.FIRST_ORDER)


@pytest.fixture(scope="module")
def steps(sets):
    return referee.implied_steps(sets["cifar-10"], {8: 0.048, 6: 0.184})


def test_implied_steps_give_the_reported_distance_back(sets, steps):
    many = sets["cifar-10"]
    for bits, reported in ((8, 0.048), (6, 0.184)):
        found = steps.loc[f"{bits} bits"]
        for shift, step in ((found.shift_low, found.step_low), (found.shift_high, found.step_high)):
            assert finite_scale.isotropic_jaccard(shift, (step, step)) == pytest.approx(reported, abs=0.0006)
        here = many.sel(split="held-out", bits=bits, nodes=21)
        j = here.boundary_jaccard.values
        given = [finite_scale.isotropic_jaccard(s, (1.0, 1.0)) for s in (found.shift_low / 9, found.shift_high * 9)]
        assert found.ours == np.median(j) and given[0] < reported < given[1]
        assert 0 < found.shift_low < found["shift"] < found.shift_high and 1 < found.fewest < found.most
    words = referee.implied_table(steps).text
    assert words.loc["6 bits", "J, the paper"] == "0.184" and "(21 nodes)" in words.iloc[0, 1]
    figure = referee.steps_figure(many, steps)
    bars = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 3]
    assert [tuple(bar.get_xdata()) for bar in bars] == list(zip(steps.step_low, steps.step_high))
    still = many.assign(boundary_jaccard=0 * many.boundary_jaccard)
    with pytest.raises(ValueError, match=r"10 of 10 runs do not move at 8 bits: no step\."):
        referee.implied_steps(still, {8: 0.048})


def test_power_and_correlations_are_those_of_the_statistics(sets):
    chosen = {name: stopping_figures.usual_choices(many) for name, many in sets.items()}
    table = referee.power_table(sets, chosen, rng=0).text
    assert table.index.tolist() == ["digits", "CIFAR-10 subset"] and table.seeds.tolist() == ["100", "10"]
    rules = chosen["digits"].rule.values.tolist()
    flips = chosen["digits"].flip_rate.sel(split="held-out").transpose("choice", "seed").values
    first, second = flips[rules.index("accuracy")], flips[rules.index("jaccard")]
    saved = statistics.paired_difference(first, second)
    assert table.loc["digits", "flips saved"].startswith(f"{saved.estimate:+.4f} [{saved.low:+.4f},")
    assert table.loc["digits", "seen with 3"] == f"{statistics.detectable_difference(first, second, seeds=3):.4f}"
    assert (table["seen with 3"].astype(float) > table["seen with these seeds"].astype(float)).all()
    many = sets["digits"].isel(nodes=0)
    j = [many.boundary_jaccard.sel(split=s, bits=LEVELS).transpose("seed", "bits").values for s in stopping.SPLITS]
    words = referee.correlation_table(sets, quantized=LEVELS).text.loc["digits"]
    for name, call in (
        ("all points independent", statistics.correlation), ("seeds as clusters", statistics.seed_correlation),
        ("within a bit-width", statistics.within_level_correlation),
    ):  # fmt: skip
        assert words[name] == "{:.3f} [{:.3f}, {:.3f}]".format(*call(*j))


def test_networks_that_all_have_the_same_bits_are_not_compared_at_equal_bits(sets):
    most = {name: many.sel(bits=[32, 8, 7]).copy(deep=True) for name, many in sets.items()}
    for many in most.values():
        for name in ("flip_rate", "band_flip_rate", "boundary_jaccard", "thick_boundary_jaccard", "tolerance_jaccard"):
            many[name].loc[{"bits": 7}] = 1.0  # so that no rule goes below 8
        many["accuracy"].loc[{"bits": 7}] = 0.0
    chosen = {name: stopping_figures.usual_choices(many) for name, many in most.items()}
    table = referee.power_table(most, chosen, rng=0).text
    assert table["at equal bits"].tolist() == ["nothing to compare: all at 8 bits"] * 2


def test_the_study_s_tables_and_figure_hold_its_medians(study):
    table = referee.spread_table(study).text
    here = study.sel(bits=4)
    assert table.loc["4 bits", "J"].startswith(f"{float(here.boundary_jaccard.median()):.3f} [")
    assert (
        table.loc["4 bits", "beyond 0.02"].split()[0] == f"{float(here.tolerance_jaccard.sel(tau=0.02).median()):.3f}"
    )
    assert list(table.columns)[:2] == ["J", "d_eff"]
    one = referee.first_order_table(study, "in the band").text
    within = study.within.sel(where="in the band", bits=8).values
    assert one.loc["8 bits", "within a tenth"] == f"{np.median(within):.2f} [{within.min():.2f}, {within.max():.2f}]"
    figure = referee.first_order_figure(study)
    assert len(figure.axes) == 2 and all(len(axes.containers) == len(first_order.WHERE) for axes in figure.axes)
    figure.draw_without_rendering()


@pytest.mark.slow
def test_the_summary_has_no_hole(study, steps):
    text = referee.summary(published_rows(), steps, study).data
    assert "nan" not in text and "inf" not in text and text.count("\n- ") == 4
    assert f"{float(study.mean_distance.sel(bits=8).median()):.4f}" in text
    table = verdicts.positions(published_rows())
    counts = table.verdict.value_counts()
    assert f"Of {len(table)} reported numbers that can be compared with our runs, {counts['reproduced']} are" in text
    assert f" {counts['compatible']} are compatible:" in text


def test_what_a_slice_shows_by_hand(sets):
    splits, bits = ["calibration", "held-out"], [32, 2]
    few = np.zeros((3, 2, 2, 1), bool)
    few[0, 1, 1], few[2, :, 1] = True, True  # two of three networks at 2 bits
    many = xr.Dataset(
        {
            "explained": (("split", "axis"), [[0.2, 0.1], [0.25, 0.15]]),
            "outside": (("seed", "split"), [[0.5, 0.7], [0.6, 0.8], [0.4, 0.9]]),
            "few_classes": (("seed", "split", "bits", "nodes"), few),
        },
        {"split": splits, "bits": bits, "nodes": [81]},
    )
    table = referee.outside_table({"mnist": many, "digits": sets["digits"]}).text
    assert table.loc["MNIST"].tolist() == ["3", "35% [30%, 40%]", "50% [40%, 60%]", "80% [70%, 90%]", "2 bits (2)"]
    of_digits = sets["digits"].outside.sel(split="calibration")
    assert table.loc["digits", "outside, calibration"].startswith(f"{float(of_digits.median()):.0%}")


def test_the_picture_of_what_lies_outside_is_drawn(trained):
    plane = planes.pca_plane(trained.split.train_inputs)
    figure = exact.outside_figure(trained.model, plane, trained.split.train_inputs)
    axes, *images = figure.axes
    share = planes.fraction_outside(plane, trained.split.train_inputs)
    assert axes.get_title() == f"{share:.0%} of the slice lies outside"
    corners = axes.lines[-1].get_xydata()
    np.testing.assert_array_equal(corners[:-1], planes.data_region(plane, trained.split.train_inputs))
    shades = images[0].images[0]
    assert shades.cmap(shades.norm(shades.get_array())).shape == (8, 8, 4)
    assert [to_hex(shades.cmap(x)) for x in (-0.1, 1.1)] == [style.FLOAT_COLOUR, style.QUANTIZED_COLOUR]
    outside = [
        ((i.images[0].norm(a := i.images[0].get_array()) < 0) | (i.images[0].norm(a) > 1)).sum() for i in images[:3]
    ]
    assert outside[0] == 0 < min(outside[1:])  # the mean is an image in range, the box's edge and corner are not


def test_every_single_claim_is_counted_by_its_verdict():
    claims = published_rows()
    counts = referee.verdict_counts(claims)
    single = [row for row in claims if row["kind"] != "joint"]
    assert counts.to_numpy().sum() == len(single)
    assert counts.loc["full CIFAR-10"].sum() == sum(row["id"][0] == "F" for row in single)
    (axes,) = referee.verdicts_figure(claims).axes
    assert sum(patch.get_width() for patch in axes.patches) == len(single)
    assert f"Of {len(single)} claims {counts['reproduced'].sum()} are reproduced." in referee.answer(claims).data
