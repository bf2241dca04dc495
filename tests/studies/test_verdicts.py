"""The rule that judges a claim, on runs with known intervals."""

import numpy as np
import pytest
import xarray as xr
import yaml

from bqcore import _store
from bqcore.metrics import statistics
from studies import ledger, specs, stopping
from tests.helpers.claims import (
    DIRECTION,
    KEYS,
    NOISE,
    RAMP,
    by_bits,
    by_method,
    judge,
    judge_stopping,
    pair,
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
        (0.7, 2.5, "reproduced"),  # as wide as half of the span, 2.5 - 0.5: not yet too wide
        (0.7, 2.49, "inconclusive"),
        (0.7, -1.5, "reproduced"),
        (0.7, -1.49, "inconclusive"),
        (0.7, 0.5, "inconclusive"),  # no span at all
        (1.7, 0.5, "not reproduced"),  # outside is outside, however wide
    ],
)
def test_a_value_is_judged_by_the_interval_of_the_next_run(tmp_path, reported, four, verdict):
    row = judge(tmp_path, value(float(reported)), by_bits(RAMP, four))
    assert row["verdict"] == verdict
    assert (row["estimate"], row["low"], row["high"], row["runs"]) == (0.5, 0, 1, 39)


def test_a_value_s_rule_comes_from_the_file(tmp_path):
    assert judge(tmp_path, value(0.7), by_bits(RAMP, 2.49), too_wide=0.6)["verdict"] == "reproduced"
    row = judge(tmp_path, value(0.01), by_bits(RAMP, 9), level=0.9)
    assert (row["low"], row["high"], row["verdict"]) == (
        pytest.approx(1 / 38),
        pytest.approx(37 / 38),
        "not reproduced",
    )


def test_equal_runs_reproduce_their_own_value_only(tmp_path):
    row = judge(tmp_path, value(0), by_bits(np.zeros(100), 0.3))
    assert [row[key] for key in KEYS[4:10]] == [0, 0, 0, 100, 50, "reproduced"]
    row = judge(tmp_path, value(0.001), by_bits(np.zeros(100), 0.3))
    assert (row["percentile"], row["verdict"]) == (100, "not reproduced")


def test_a_mean_is_judged_by_the_interval_of_means(tmp_path):
    single, mean = (judge(tmp_path, value(0.8, k), by_bits(RAMP, 9)) for k in (1, 16))
    assert (single["verdict"], mean["verdict"]) == ("reproduced", "not reproduced")
    half = 2.024394 * RAMP.std(ddof=1) * np.sqrt(1 / 16 + 1 / 39)  # Student's t for 38 degrees of freedom
    assert [mean[key] for key in ("estimate", "low", "high")] == pytest.approx([0.5, 0.5 - half, 0.5 + half])


def test_pooled_values_are_judged_together(tmp_path):
    many = xr.Dataset({"m": (("seed", "transition"), np.c_[np.arange(40), np.arange(40) + 100])})
    claim = {"select": {"measure": "m"}, "span": "transition"}
    row = judge(tmp_path, value(120, **claim, pool="transition"), many)
    assert (row["runs"], row["verdict"], row["estimate"]) == (40, "inconclusive", 69.5)
    assert (row["low"], row["high"]) == pytest.approx((1.025, 137.975))  # ranks 81 · 0.025 of all 80 and from above
    assert row["percentile"] == pytest.approx(100 * 60.5 / 80)
    with pytest.raises(ValueError, match=r"claim X1 cannot be judged from x\.nc: its select leaves transition open"):
        judge(tmp_path, value(120, **claim), many)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "reproduced"), (0.3, "inconclusive"), (-0.3, "inconclusive"), (-0.4, "not reproduced")],
)
def test_a_direction_is_judged_by_the_paired_difference(tmp_path, shift, verdict):
    seed_effect = np.random.default_rng(0).normal(0, 100, 40)
    row = judge(tmp_path, DIRECTION, pair(seed_effect + NOISE + shift, seed_effect))
    assert row["verdict"] == verdict
    half = 2.022691 * np.sqrt(40 / 39) / np.sqrt(40)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([shift, shift - half, shift + half])
    assert (row["runs"], row["percentile"]) == (40, 50)


def test_a_direction_without_any_difference_is_not_reproduced(tmp_path):
    assert judge(tmp_path, DIRECTION, pair(NOISE, NOISE))["verdict"] == "not reproduced"
    assert judge(tmp_path, DIRECTION, pair(NOISE + 1, NOISE))["verdict"] == "reproduced"


def test_a_direction_averages_over_what_it_names(tmp_path):
    first = np.stack([NOISE + 5, NOISE - 4, np.full(40, np.nan)], axis=1)  # a transition without changes has no share
    many = xr.Dataset({"first": (("seed", "transition"), first), "second": (("seed", "transition"), 0 * first)})
    row = judge(tmp_path, DIRECTION | {"mean_over": "transition"}, many)
    assert (row["estimate"], row["verdict"]) == (0.5, "reproduced")
    with pytest.raises(ValueError, match=r"claim X1 cannot be judged from x\.nc: Runs have shape \(40, 3\)"):
        judge(tmp_path, DIRECTION, many)


@pytest.mark.parametrize(
    ("share", "excess", "verdict"),
    [
        (0.51 + 0.4 * RAMP, 0.1, "reproduced"),
        (0.5 + 0.4 * RAMP, 0.1, "inconclusive"),  # the share must exceed one half
        (0.1 + 0.8 * RAMP, 0.1, "inconclusive"),
        (0.1 + 0.4 * RAMP, 0.1, "inconclusive"),  # up to one half
        (0.1 + 0.39 * RAMP, 0.1, "not reproduced"),
        (0.51 + 0.4 * RAMP, -0.1, "not reproduced"),  # most, but fewer than chance
        (0.1 + 0.8 * RAMP, -0.1, "not reproduced"),
        (0.51 + 0.4 * RAMP, RAMP - 0.5, "inconclusive"),  # most, but perhaps no more than chance
        (0.1 + 0.39 * RAMP, RAMP - 0.5, "not reproduced"),
    ],
)
def test_a_qualitative_claim_needs_the_direction_and_the_share(tmp_path, share, excess, verdict):
    claim = DIRECTION | {"kind": "qualitative", "reported": "qualitative", "most": 0.5}
    assert judge(tmp_path, claim, pair(share, share - excess))["verdict"] == verdict


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "not reproduced"), (0.3, "inconclusive"), (0.1, "reproduced"), (-0.4, "reproduced")],
)
def test_a_gain_that_vanishes_is_one_that_lies_below_what_is_stated_and_not_above_zero(tmp_path, shift, verdict):
    claim = DIRECTION | {"kind": "no gain", "reported": "qualitative", "less_than": 0.5}
    assert judge(tmp_path, claim, pair(NOISE + shift, np.zeros(40)))["verdict"] == verdict


def test_what_is_lost_at_so_many_bits_is_judged(tmp_path):
    many = by_bits(RAMP, 0)  # the float level has a million
    claim = value(1e6 - 0.5, select={"measure": "m", "bits": 32, "less_bits": 8})
    row = judge(tmp_path, claim, many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([1e6 - 0.5, 1e6 - 1, 1e6])
    assert row["percentile"] == pytest.approx(50)


def test_the_gap_is_the_one_that_calibration_picks(tmp_path):
    small = RAMP / 10
    many = by_method({"float": small * 0, "logits": small, "gap 1": small + 0.4, "gap 10": small + 0.3})
    select = {"measure": "boundary_jaccard", "split": "held-out", "bits": 4, "nodes": 81}
    row = judge(tmp_path, value(0.45, select=select | {"method": "gap"}, span="method"), many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([0.45, 0.4, 0.5])
    rows = [judge(tmp_path, DIRECTION | {
        "first": select | {"method": first}, "second": select | {"method": second}}, many) for first, second in (("gap", "logits"), ("logits", "gap"))]  # fmt: skip
    assert [row["verdict"] for row in rows] == ["reproduced", "not reproduced"]


@pytest.mark.parametrize(("of", "expected"), [("lowest", "logits"), ("highest", "layers")])
def test_a_correlation_is_the_lowest_or_highest_of_all_variants(tmp_path, of, expected):
    generator = np.random.default_rng(0)
    jaccard = {name: generator.random(39) for name in ("float", "nearest", "layers", "logits", "gap 1")}
    many = by_method(jaccard)
    blurred = {"nearest": 0.3, "layers": 0.01, "logits": 1.0, "gap 1": 0.3}
    for name, amount in blurred.items():
        many.boundary_jaccard.loc[{"method": name, "split": "held-out"}] += amount * generator.normal(size=(39, 2))
    row = judge(tmp_path, {"kind": "correlation", "reported": 0.5, "of": of, "from": ["x.nc"]}, many)
    first, second = (
        many.boundary_jaccard.sel({"method": expected, "split": split}).values.reshape(39, 2)
        for split in many.split.values
    )
    assert row["estimate"] == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    assert f"(ours of 4 variants: {expected}, x)" in row["says"] and row["runs"] == 39
    claim = {"kind": "correlation", "of": of, "from": ["x.nc"]}
    inside = judge(tmp_path, claim | {"reported": (row["low"] + row["high"]) / 2}, many, too_wide=10)
    wide = judge(tmp_path, claim | {"reported": (row["low"] + row["high"]) / 2}, many, too_wide=1e-9)
    assert [row["verdict"], inside["verdict"], wide["verdict"]] == ["not reproduced", "reproduced", "inconclusive"]


def test_claims_about_stopping_are_judged_at_one_limit_together(tmp_path):
    many = stopping_runs(0)
    # At Jaccard up to 0.4 (and 0.02 noise) the rule keeps 6 bits: flips near 0.004, Jaccard near 0.35.
    six = many.sel(bits=6, split="held-out")
    flips, jaccard = float(six.flip_rate.median()), float(six.boundary_jaccard.median())
    first, second = judge_stopping(tmp_path, (flips, jaccard), many)
    assert first["verdict"] == second["verdict"] == "reproduced"
    # Each number is right at some limit, but never both at the same one.
    five = many.sel(bits=5, split="held-out")
    rows = judge_stopping(tmp_path, (flips, float(five.boundary_jaccard.median())), many)
    assert [row["verdict"] for row in rows] == ["not reproduced"] * 2
    assert " 0 of 39 limits agree with X1 and X2 at once)" in rows[0]["says"]
    rows = judge_stopping(tmp_path, (flips, jaccard), many, too_wide=1e-6)
    assert [row["verdict"] for row in rows] == ["inconclusive"] * 2


def test_an_interval_stays_within_what_a_share_can_be(tmp_path):
    many = stopping_runs(4, count=3)  # so few that Student's interval is wide
    wide = many.copy(deep=True)
    wide["flip_rate"] = many.flip_rate * xr.DataArray([0.0, 1.0, 30.0], dims="seed")
    (flips, jaccard) = judge_stopping(tmp_path, (0.0, 0.3), wide)
    usual = stopping.usual_limit(stopping.choose(wide), "jaccard", 0.5)
    plain = statistics.prediction_interval(usual.flip_rate.sel(split="held-out").values)
    assert plain.low < 0 == flips["low"] and flips["high"] == pytest.approx(plain.high)


def test_an_interval_of_bits_is_shown_within_those_of_the_runs_and_its_whole_width_counts(tmp_path):
    bits = np.array([8.0, 8, 8, 7])  # the least bits that still agree differ; Student's interval goes beyond 8
    many = xr.Dataset(
        {"chosen_bits": ("seed", bits), "m": (("seed", "bits"), np.zeros((4, 3)))},
        {"seed": range(4), "bits": [32, 8, 4]},
    )
    plain = statistics.prediction_interval(bits)
    assert plain.high > 8
    claim = value(7.0, select={"measure": "chosen_bits"})
    # Half of the span of 4 lies between the width shown and the whole one.
    share = (plain.high - plain.low + 8 - plain.low) / 2 / 4
    row = judge(tmp_path, claim, many, too_wide=share)
    assert (row["low"], row["high"]) == pytest.approx((plain.low, 8)) and row["verdict"] == "inconclusive"
    assert judge(tmp_path, claim, many, too_wide=(plain.high - plain.low) / 4 + 1e-9)["verdict"] == "reproduced"


def test_a_loss_of_accuracy_can_be_below_zero(tmp_path):
    lost = np.array([-0.01, 0.0, 0.01, 0.02])
    accuracy = np.stack([0.9 + lost, np.full(4, 0.9), np.full(4, 0.1)], axis=1)
    many = xr.Dataset({"accuracy": (("seed", "bits"), accuracy)}, {"seed": range(4), "bits": [32, 8, 4]})
    row = judge(tmp_path, value(0.0, select={"measure": "accuracy", "bits": 32, "less_bits": 8}), many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx(statistics.prediction_interval(lost))
    assert row["low"] < 0


def test_the_limit_shown_is_the_one_that_calibration_picks(tmp_path):
    many = stopping_runs(1)
    choices = stopping.choose(many)
    for spare in (0.5, 0.9):
        usual = stopping.usual_limit(choices, "jaccard", spare)
        (row, _) = judge_stopping(tmp_path, (0.5, 0.5), many, spare=spare)
        assert f"(ours at jaccard ≤ {float(usual.limit):g}, as calibration data pick it;" in row["says"]
        values = usual.flip_rate.sel(split="held-out").values
        assert row["estimate"] == pytest.approx(statistics.prediction_interval(values).estimate)
    held_out = many.copy(deep=True)
    held_out.flip_rate.loc[{"split": "held-out"}] *= 3  # the limit does not see it
    (row, _) = judge_stopping(tmp_path, (0.5, 0.5), held_out)
    (before, _) = judge_stopping(tmp_path, (0.5, 0.5), many)
    assert row["says"] == before["says"] and row["estimate"] == pytest.approx(3 * before["estimate"])


def test_the_same_rule_is_the_limit_of_another_set(tmp_path):
    stated = {
        "id": "X1", "dataset": "digits", "says": "fewer flips", "reported": "direction", "kind": "direction", "where": "here",
        "from": "x.nc", "first": {"measure": "flip_rate", "split": "held-out", "rule": "accuracy", "limit": 0.0},
        "second": {"measure": "flip_rate", "split": "held-out", "rule": "jaccard", "limit": "usual"}, "limit_from": "y.nc",
    }  # fmt: skip
    content = {"rule": {"level": 0.95, "too_wide": 0.5, "spare": 0.5}, "claims": [stated]}
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(content))
    usual = specs.baseline("stopping", "digits")
    many, other = stopping_runs(2), stopping_runs(3)
    other["boundary_jaccard"] = other.boundary_jaccard * 0.5  # its limit is another
    for dataset, name in ((many, "x.nc"), (other, "y.nc")):
        _store.save_dataset(dataset.assign_attrs(spec=usual.text(), command=usual.command()), tmp_path / name)
    (row,) = ledger.ledger(tmp_path / "claims.yml", tmp_path)
    limit = float(stopping.usual_limit(stopping.choose(other), "jaccard", 0.5).limit)
    assert limit != float(stopping.usual_limit(stopping.choose(many), "jaccard", 0.5).limit)
    choices = stopping.choose(many)
    at = [
        choices.isel(choice=int(np.flatnonzero((choices.rule == r) & (choices.limit == x))[0]))
        for r, x in (("accuracy", 0), ("jaccard", limit))
    ]
    difference = at[0].flip_rate.sel(split="held-out") - at[1].flip_rate.sel(split="held-out")
    assert row["estimate"] == pytest.approx(float(difference.mean()))
    assert row["says"] == f"fewer flips (at jaccard ≤ {limit:g})"
    assert row["verdict"] == "reproduced" and row["low"] > 0
