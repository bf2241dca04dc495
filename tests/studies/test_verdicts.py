"""The rule that judges a claim: what lies inside, which neighbours do, what the seeds could have seen."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bqcore.metrics import statistics
from studies import stopping, verdicts
from tests.helpers.claims import (
    DIRECTION,
    NOISE,
    RAMP,
    RULE,
    by_bits,
    by_method,
    judge,
    judge_stopping,
    pair,
    published_rows,
    stopping_runs,
    value,
)


@pytest.mark.parametrize(
    ("reported", "four", "verdict"),
    [
        (0.7, 9.0, "reproduced"),
        (0.0, 9.0, "reproduced"),  # an end is inside
        (1, 9.0, "reproduced"),
        (np.nextafter(0, -1), 9.0, "not reproduced"),
        (np.nextafter(1, 2), 9.0, "not reproduced"),
        (0.7, np.nextafter(1, 2), "reproduced"),  # the neighbour is just outside
        (0.7, 1.0, "compatible"),
        (0.7, 0.0, "compatible"),
        (0.7, np.nextafter(0, -1), "reproduced"),
        (1.7, 0.5, "not reproduced"),  # outside is outside, whoever else is inside
        (1.7, 9.0, "not reproduced"),
    ],
)
def test_a_number_is_inside_and_tells_or_inside_or_outside(tmp_path, reported, four, verdict):
    row = judge(tmp_path, value(float(reported)), by_bits(RAMP, four))
    assert (row["estimate"], row["low"], row["high"], row["runs"]) == (0.5, 0, 1, 39)
    assert row["verdict"] == verdict
    inside, outside = ({"4 bits": four}, {}) if 0 <= four <= 1 else ({}, {"4 bits": four})
    assert (row["held"], row["excluded"]) == (inside, outside)


@given(
    st.floats(-2, 2), st.floats(-2, 2), st.floats(0, 2),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(-3, 3), max_size=6),
)  # fmt: skip
def test_every_neighbour_is_held_or_excluded_and_more_of_them_never_help(reported, middle, half, neighbours):
    one = verdicts.Number(reported, statistics.Interval(middle, middle - half, middle + half), neighbours)
    judged = verdicts.together([one])
    assert sorted(judged.held + judged.excluded) == sorted(neighbours)
    assert (judged.verdict == "not reproduced") == (not middle - half <= reported <= middle + half)
    rank = verdicts.NUMBERS.index
    for name in neighbours:
        fewer = one._replace(neighbours={other: at for other, at in neighbours.items() if other != name})
        assert rank(verdicts.together([fewer]).verdict) >= rank(judged.verdict)
    # Taken with itself a number is judged as alone; with another inside, it can only tell more.
    assert verdicts.together([one, one]) == judged
    sharp = verdicts.Number(0.0, statistics.Interval(0.0, 0.0, 0.0), dict.fromkeys(neighbours, 9.0))
    assert verdicts.together([one, sharp]).held == []


def test_the_neighbour_counts_by_its_mean_over_seeds(tmp_path):
    four = np.linspace(1.2, 2.2, 39)  # at its lowest nearly inside, in the mean far off
    assert judge(tmp_path, value(0.7), by_bits(RAMP, four - 0.5))["held"] == {}
    row = judge(tmp_path, value(0.7), by_bits(RAMP, four - 1.0))
    assert row["held"] == {"4 bits": pytest.approx(0.7)} and row["verdict"] == "compatible"


def test_a_mean_is_held_against_the_interval_of_means(tmp_path):
    single, mean = (judge(tmp_path, value(0.8, k), by_bits(RAMP, 0.95)) for k in (1, 16))
    assert (single["verdict"], mean["verdict"]) == ("compatible", "not reproduced")
    half = 2.024394 * RAMP.std(ddof=1) * np.sqrt(1 / 16 + 1 / 39)  # Student's t for 38 degrees of freedom
    assert [mean[key] for key in ("estimate", "low", "high")] == pytest.approx([0.5, 0.5 - half, 0.5 + half])
    assert judge(tmp_path, value(0.6, 16), by_bits(RAMP, 0.95))["verdict"] == "reproduced"


def test_what_is_lost_has_the_other_losses_for_neighbours(tmp_path):
    lost = np.array([-0.01, 0.0, 0.01, 0.02])
    accuracy = np.stack([0.9 + lost, np.full(4, 0.9), 0.9 + lost - 0.01, np.full(4, 0.1)], axis=1)
    many = xr.Dataset({"accuracy": (("seed", "bits"), accuracy)}, {"seed": range(4), "bits": [32, 8, 6, 4]})
    row = judge(tmp_path, value(0.0, select={"measure": "accuracy", "bits": 32, "less_bits": 8}), many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx(statistics.prediction_interval(lost))
    assert row["low"] < 0  # a loss can be below 0
    assert row["held"] == {"6 bits": pytest.approx(0.01)} and row["excluded"] == {"4 bits": pytest.approx(0.805)}


def test_other_roundings_are_the_neighbours_of_one(tmp_path):
    small = RAMP / 10
    jaccard = {"float": small * 0, "nearest": small + 0.9, "layers": small + 0.42, "logits": small, "gap 1": small + 0.4, "gap 10": small + 0.3}  # fmt: skip
    select = {"measure": "boundary_jaccard", "split": "held-out", "bits": 4, "nodes": 81, "method": "gap"}
    row = judge(tmp_path, value(0.45, select=select, span="method"), by_method(jaccard))
    # The gap term's weight is the one that calibration picks; other weights are no neighbours. Held out, all is 0.1 more.
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([0.45, 0.4, 0.5])
    assert row["verdict"] == "reproduced" and row["held"] == {}
    assert list(row["excluded"]) == ["rounding to nearest", "optimized by layer", "optimized on the logits"]
    row = judge(tmp_path, value(0.45, select=select, span="method"), by_method(jaccard | {"layers": small + 0.31}))
    assert row["verdict"] == "compatible" and list(row["held"]) == ["optimized by layer"]
    with pytest.raises(ValueError, match=r"cannot be judged from x\.nc: its select names no bits, along which its"):
        judge(tmp_path, value(0.5, select={"measure": "accuracy"}), xr.Dataset({"accuracy": ("seed", RAMP)}))


def test_a_number_of_any_place_is_judged_at_the_place_that_agrees_best(tmp_path):
    places = {"8→7": RAMP, "7→6": RAMP + 0.8, "6→5": 3 * RAMP + 4}
    many = xr.Dataset(
        {"m": (("seed", "transition"), np.stack(list(places.values()), axis=1))}, {"transition": list(places)}
    )
    claim = {"select": {"measure": "m"}, "span": "transition", "at_any": "transition"}

    def found(reported):
        row = judge(tmp_path, value(reported, **claim), many)
        return row["verdict"], row["estimate"], list(row["held"]), row["note"]

    assert found(0.2) == ("reproduced", 0.5, [], "at 8→7; inside at 8→7")  # no interval holds the mean of another
    assert found(0.95) == (
        "reproduced",
        pytest.approx(1.3),
        [],
        "at 7→6; inside at 8→7 and 7→6",
    )  # nearer to its middle
    assert found(3.9)[0] == "not reproduced" and found(3.9)[3] == "at 6→5; inside at none"
    many.m[:, 1] = RAMP + 0.4
    assert found(0.2) == ("compatible", 0.5, ["7→6"], "at 8→7; inside at 8→7")
    with pytest.raises(ValueError, match=r"claim X1 cannot be judged from x\.nc: its select names no transition"):
        judge(tmp_path, value(120, select={"measure": "m"}, span="transition"), many)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "reproduced"), (0.3, "no difference seen"), (-0.3, "no difference seen"), (-0.4, "opposite")],
)
def test_a_direction_is_judged_by_the_paired_difference(tmp_path, shift, verdict):
    seed_effect = np.random.default_rng(0).normal(0, 100, 40)
    row = judge(tmp_path, DIRECTION, pair(seed_effect + NOISE + shift, seed_effect))
    assert row["verdict"] == verdict
    half = 2.022691 * np.sqrt(40 / 39) / np.sqrt(40)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([shift, shift - half, shift + half])
    assert row["detectable"] == pytest.approx(statistics.detectable_difference(NOISE, np.zeros(40)))
    assert (row["runs"], row["held"], row["excluded"]) == (40, None, None)


def test_equal_sides_show_no_difference(tmp_path):
    row = judge(tmp_path, DIRECTION, pair(NOISE, NOISE))
    assert (row["verdict"], row["detectable"], row["equivalent"]) == ("no difference seen", 0, True)
    assert judge(tmp_path, DIRECTION, pair(NOISE + 1, NOISE))["verdict"] == "reproduced"


@given(st.floats(-2, 2), st.floats(0.01, 3), st.sampled_from([0.9, 0.95, 0.99]))
def test_equivalence_is_two_one_sided_t_tests(shift, bound, level):
    differences = np.random.default_rng(1).normal(0, 1, 12) + shift
    zeros, rule = np.zeros(12), {"level": level, "power": 0.8}
    by_test = [
        scipy_stats.ttest_1samp(differences, edge, alternative=side).pvalue < 1 - level
        for edge, side in ((-bound, "greater"), (bound, "less"))
    ]
    assert verdicts.direction(differences, zeros, rule, bound)["equivalent"] == all(by_test)


def test_a_direction_s_power_and_bound_come_from_the_file(tmp_path):
    many = pair(NOISE + 0.1, np.zeros(40))
    row = judge(tmp_path, DIRECTION | {"bound": 0.3}, many, power=0.5)
    assert row["detectable"] == pytest.approx(statistics.detectable_difference(NOISE, np.zeros(40), power=0.5))
    assert (row["bound"], row["equivalent"]) == (0.3, False)
    assert judge(tmp_path, DIRECTION | {"bound": 0.4}, many)["equivalent"] is True  # 0.1 + 1.685 · 0.160 = 0.37


def test_a_direction_may_be_held_against_a_number(tmp_path):
    claim = {key: value for key, value in DIRECTION.items() if key != "second"} | {"first_rule": None}
    many = pair(NOISE + 0.5, np.full(40, 99.0))
    for than, verdict in ((0.1, "reproduced"), (0.4, "no difference seen"), (0.9, "opposite")):
        row = judge(tmp_path, claim | {"than": than}, many)
        assert (row["verdict"], row["estimate"]) == (verdict, pytest.approx(0.5 - than))


def test_a_direction_averages_over_what_it_names(tmp_path):
    first = np.stack([NOISE + 5, NOISE - 4, np.full(40, np.nan)], axis=1)  # a transition without changes has no share
    many = xr.Dataset({"first": (("seed", "transition"), first), "second": (("seed", "transition"), 0 * first)})
    row = judge(tmp_path, DIRECTION | {"mean_over": "transition"}, many)
    assert (row["estimate"], row["verdict"]) == (0.5, "reproduced")
    with pytest.raises(ValueError, match=r"claim X1 cannot be judged from x\.nc: Runs have shape \(40, 3\)"):
        judge(tmp_path, DIRECTION, many)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "opposite"), (0.3, "no difference seen"), (0.2, "reproduced"), (-0.4, "reproduced")],
)
def test_no_gain_is_shown_by_a_gain_below_the_bound(tmp_path, shift, verdict):
    many = pair(NOISE + shift + 10, np.full(40, 10.0))  # the one-sided end is shift + 0.27
    for bound in ({"bound": 0.5}, {"bound": 0.5 / (10 + shift), "bound_of": "first"}):
        row = judge(tmp_path, DIRECTION | {"kind": "no gain", "first_rule": None} | bound, many)
        assert (row["verdict"], row["bound"]) == (verdict, pytest.approx(0.5))


def test_an_end_at_the_bound_shows_nothing(tmp_path):
    values = NOISE + 10.2
    end = statistics.paired_difference(values, np.full(40, 10.0), 2 * RULE["level"] - 1).high
    for bound, verdict in ((end, "no difference seen"), (np.nextafter(end, 1), "reproduced")):
        claim = DIRECTION | {"kind": "no gain", "first_rule": None, "bound": float(bound)}
        assert judge(tmp_path, claim, pair(values, np.full(40, 10.0)))["verdict"] == verdict


@pytest.mark.parametrize(
    ("shift", "reported", "verdict"),
    [(5, 5.2, "reproduced"), (1, 1.2, "compatible"), (0, 0.0, "compatible"), (1, 2.5, "not reproduced")],
)
def test_a_reduction_is_a_number_whose_neighbour_is_none(tmp_path, shift, reported, verdict):
    claim = DIRECTION | {"kind": "reduction", "reported": reported, "means_of": 3, "first_rule": None}
    row = judge(tmp_path, claim, pair(NOISE + shift, np.zeros(40)))
    expected = statistics.prediction_interval(NOISE + shift, 3)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx(expected)
    assert row["verdict"] == verdict
    assert (row["held"] if verdict != "reproduced" else row["excluded"]) == {"no reduction": 0}
    direction = judge(tmp_path, DIRECTION, pair(NOISE + shift, np.zeros(40)))
    assert row["note"].endswith(f": {direction['verdict']}") and row["detectable"] == direction["detectable"]


@pytest.mark.parametrize("of", ["lowest", "highest"])
def test_a_correlation_s_interval_allows_for_the_choice_of_one_of_many(tmp_path, of):
    generator = np.random.default_rng(0)
    many = by_method({name: generator.random(39) for name in ("float", "nearest", "layers", "logits", "gap 1")})
    for name, amount in {"nearest": 5, "layers": 0.05, "logits": 0.3, "gap 1": 0.3}.items():
        many.boundary_jaccard.loc[{"method": name, "split": "held-out"}] += amount * generator.normal(size=(39, 2))
    claim = {"kind": "correlation", "of": of, "from": ["x.nc"], "bits": [4, 3], "reported": 0.5}
    row = judge(tmp_path, claim, many)
    found = {}
    for name in ("layers", "logits", "gap 1"):  # nearest, the lowest by far, is PTQ-W, which stopping studies have
        first, second = (
            many.boundary_jaccard.sel({"method": name, "split": s, "nodes": 81}).values for s in many.split.values
        )
        found[name] = statistics.seed_correlation(first, second, level=1 - 0.05 / 3)
    which = min if of == "lowest" else max
    assert row["estimate"] == pytest.approx(which(one.estimate for one in found.values()))
    ends = [which(one.low for one in found.values()), which(one.high for one in found.values())]
    assert [row["low"], row["high"]] == pytest.approx(ends) and len(row["held"] | row["excluded"]) == 2
    less = judge(tmp_path, claim | {"bits": [4]}, many)
    first, second = (
        many.boundary_jaccard.sel({"method": "layers", "split": s, "nodes": 81, "bits": [4]}).values
        for s in many.split.values
    )
    if of == "highest":
        assert less["estimate"] == pytest.approx(statistics.correlation(first, second).estimate)
    assert "over 4 bits; " in less["note"]


def test_many_estimates_of_one_correlation_have_this_lowest():
    one = statistics.Interval(*np.tanh([1.0, 0.5, 1.5]))
    t = 2.262157  # of 10 seeds
    common, lowest = verdicts._extreme_of_one([one] * 20, np.full(20, 10), 0.95, 1)
    assert common == pytest.approx(np.tanh(1.0))
    drawn = np.random.default_rng(0).normal(1.0, 0.5 / t, (20_000, 20))
    assert np.arctanh(lowest) == pytest.approx(np.median(drawn.min(axis=1)), abs=0.005)
    assert np.arctanh(verdicts._extreme_of_one([one] * 20, np.full(20, 10), 0.95, -1)[1]) == pytest.approx(
        np.median(drawn.max(axis=1)), abs=0.005
    )
    assert verdicts._extreme_of_one([one], np.array([10]), 0.95, 1)[1] == pytest.approx(np.tanh(1.0))


def test_a_share_s_interval_is_cut_and_so_is_that_of_bits(tmp_path):
    wide = stopping_runs(4, count=3)  # so few that Student's interval is wide
    wide["flip_rate"] = wide.flip_rate * xr.DataArray([0.0, 1.0, 30.0], dims="seed")
    flips = judge_stopping(tmp_path, (0.0, 0.3), wide)[0]
    usual = stopping.usual_limit(stopping.choose(wide), "jaccard", 0.5)
    plain = statistics.prediction_interval(usual.flip_rate.sel(split="held-out").values)
    assert plain.low < 0 == flips["low"] and flips["high"] == pytest.approx(plain.high)
    bits = xr.DataArray([8.0, 8, 8, 7], dims="seed", name="chosen_bits")
    runs = xr.Dataset(coords={"bits": [32, 8, 4]})
    one = verdicts.of_values(bits, {"reported": 6, "means_of": 1}, runs, {"level": 0.95}, {"8 bits": 8, "9 bits": 9})
    assert (one.interval.low, one.interval.high) == (pytest.approx(statistics.prediction_interval(bits.values).low), 8)
    assert verdicts.together([one]).held == ["8 bits"]


def test_the_limit_is_the_one_that_calibration_picks(tmp_path):
    many = stopping_runs(1)
    choices = stopping.choose(many)
    for spare in (0.5, 0.9):
        usual = stopping.usual_limit(choices, "jaccard", spare)
        row = judge_stopping(tmp_path, (0.5, 0.5), many, spare=spare)[0]
        assert row["note"].startswith(
            f"at Jaccard ≤ {float(usual.limit):g}, which calibration data pick; inside at 0 of 39"
        )
        values = usual.flip_rate.sel(split="held-out").values
        assert row["estimate"] == pytest.approx(statistics.prediction_interval(values).estimate)
    held_out = many.copy(deep=True)
    held_out.flip_rate.loc[{"split": "held-out"}] *= 3  # the limit does not see it
    row, before = (judge_stopping(tmp_path, (0.5, 0.5), one)[0] for one in (held_out, many))
    assert row["note"] == before["note"] and row["estimate"] == pytest.approx(3 * before["estimate"])


def test_a_rule_s_neighbours_are_the_bit_widths_and_the_other_rule(tmp_path):
    many = stopping_runs(0)
    at_8 = float(many.boundary_jaccard.sel(split="held-out", bits=8).median())
    row = judge_stopping(tmp_path, (0.001, at_8), many)[1]  # the rule keeps 8 bits, by accuracy it would be 7
    flips = {**row["held"], **row["excluded"]}
    assert row["verdict"] == "reproduced" and set(flips) == {"7 bits", "6 bits", "5 bits", "4 bits", "3 bits", "2 bits", "by accuracy"}  # fmt: skip
    at_7 = float(many.boundary_jaccard.sel(split="held-out", bits=7, nodes=201).mean())
    assert flips["7 bits"] == flips["by accuracy"] == pytest.approx(at_7)


@pytest.mark.slow
def test_the_published_numbers_are_judged_by_their_parts():
    """Of what is published: each verdict follows from its row's own interval, neighbours and number."""
    for row in published_rows():
        if row["kind"] in ("value", "reduction", "correlation"):
            inside = row["low"] <= row["reported"] <= row["high"]
            assert all(row["low"] <= at <= row["high"] for at in row["held"].values())
            assert not any(row["low"] <= at <= row["high"] for at in row["excluded"].values())
            assert (
                row["verdict"] == ("not reproduced", "compatible", "reproduced")[inside + (inside and not row["held"])]
            )
        elif row["kind"] == "direction":
            words = {(True, False): "reproduced", (False, True): "opposite", (False, False): "no difference seen"}
            assert row["verdict"] == words[row["low"] > 0, row["high"] < 0]
