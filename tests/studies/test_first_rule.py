"""The rule that the ledger began with: its verdicts on runs with known intervals, and those that it gave."""

import numpy as np
import pytest
import xarray as xr
import yaml

from bqcore import _store
from bqcore.metrics import statistics
from studies import first_rule, ledger, specs, stopping
from studies.claims import Results
from tests.helpers.claims import (
    DIRECTION,
    NOISE,
    RAMP,
    REPORTED,
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
    assert row["first_verdict"] == verdict
    assert (row["estimate"], row["low"], row["high"], row["runs"]) == (0.5, 0, 1, 39)


def test_a_value_s_rule_comes_from_the_file(tmp_path):
    assert judge(tmp_path, value(0.7), by_bits(RAMP, 2.49), too_wide=0.6)["first_verdict"] == "reproduced"
    row = judge(tmp_path, value(0.01), by_bits(RAMP, 9), level=0.9)
    assert (row["low"], row["high"], row["first_verdict"]) == (
        pytest.approx(1 / 38),
        pytest.approx(37 / 38),
        "not reproduced",
    )


def test_equal_runs_reproduce_their_own_value_only(tmp_path):
    row = judge(tmp_path, value(0), by_bits(np.zeros(100), 0.3))
    keys = ("estimate", "low", "high", "runs", "first_verdict")
    assert [row[key] for key in keys] == [0, 0, 0, 100, "reproduced"]
    row = judge(tmp_path, value(0.001), by_bits(np.zeros(100), 0.3))
    assert row["first_verdict"] == "not reproduced"


def test_a_mean_is_judged_by_the_interval_of_means(tmp_path):
    single, mean = (judge(tmp_path, value(0.8, k), by_bits(RAMP, 9)) for k in (1, 16))
    assert (single["first_verdict"], mean["first_verdict"]) == ("reproduced", "not reproduced")
    half = 2.024394 * RAMP.std(ddof=1) * np.sqrt(1 / 16 + 1 / 39)  # Student's t for 38 degrees of freedom
    assert [mean[key] for key in ("estimate", "low", "high")] == pytest.approx([0.5, 0.5 - half, 0.5 + half])


def test_values_of_any_place_are_judged_as_one_pool(tmp_path):
    many = xr.Dataset(
        {"m": (("seed", "transition"), np.c_[np.arange(40), np.arange(40) + 100])}, {"transition": ["8→7", "7→6"]}
    )
    claim = {"select": {"measure": "m"}, "span": "transition", "at_any": "transition"}
    for reported, verdict in (
        (120, "inconclusive"),
        (138, "not reproduced"),
        (1.1, "inconclusive"),
        (1, "not reproduced"),
    ):
        row = judge(tmp_path, value(reported, **claim), many)  # of all 80 the ranks 81 · 0.025: 1.025 to 137.975
        assert (row["runs"], row["first_verdict"]) == (40, verdict)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "reproduced"), (0.3, "inconclusive"), (-0.3, "inconclusive"), (-0.4, "not reproduced")],
)
def test_a_direction_is_judged_by_the_paired_difference(tmp_path, shift, verdict):
    seed_effect = np.random.default_rng(0).normal(0, 100, 40)
    row = judge(tmp_path, DIRECTION, pair(seed_effect + NOISE + shift, seed_effect))
    assert row["first_verdict"] == verdict
    half = 2.022691 * np.sqrt(40 / 39) / np.sqrt(40)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([shift, shift - half, shift + half])
    assert row["runs"] == 40


def test_a_direction_without_any_difference_is_not_reproduced(tmp_path):
    assert judge(tmp_path, DIRECTION, pair(NOISE, NOISE))["first_verdict"] == "not reproduced"
    assert judge(tmp_path, DIRECTION, pair(NOISE + 1, NOISE))["first_verdict"] == "reproduced"


def test_a_direction_averages_over_what_it_names(tmp_path):
    first = np.stack([NOISE + 5, NOISE - 4, np.full(40, np.nan)], axis=1)  # a transition without changes has no share
    many = xr.Dataset({"first": (("seed", "transition"), first), "second": (("seed", "transition"), 0 * first)})
    row = judge(tmp_path, DIRECTION | {"mean_over": "transition"}, many)
    assert (row["estimate"], row["first_verdict"]) == (0.5, "reproduced")
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
    claim = DIRECTION | {"first_rule": {"kind": "qualitative", "most": 0.5}}
    assert judge(tmp_path, claim, pair(share, share - excess))["first_verdict"] == verdict


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.4, "not reproduced"), (0.3, "inconclusive"), (0.1, "reproduced"), (-0.4, "reproduced")],
)
def test_a_gain_that_vanishes_is_one_that_lies_below_what_is_stated_and_not_above_zero(tmp_path, shift, verdict):
    claim = DIRECTION | {"first_rule": {"kind": "no gain", "less_than": 0.5}}
    assert judge(tmp_path, claim, pair(NOISE + shift, np.zeros(40)))["first_verdict"] == verdict


def test_what_is_lost_at_so_many_bits_is_judged(tmp_path):
    many = by_bits(RAMP, 0)  # the float level has a million
    claim = value(1e6 - 0.5, select={"measure": "m", "bits": 32, "less_bits": 8})
    row = judge(tmp_path, claim, many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([1e6 - 0.5, 1e6 - 1, 1e6])


def test_the_gap_is_the_one_that_calibration_picks(tmp_path):
    small = RAMP / 10
    many = by_method({"float": small * 0, "logits": small, "gap 1": small + 0.4, "gap 10": small + 0.3})
    select = {"measure": "boundary_jaccard", "split": "held-out", "bits": 4, "nodes": 81}
    row = judge(tmp_path, value(0.45, select=select | {"method": "gap"}, span="method"), many)
    assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx([0.45, 0.4, 0.5])
    rows = [judge(tmp_path, DIRECTION | {
        "first": select | {"method": first}, "second": select | {"method": second}}, many) for first, second in (("gap", "logits"), ("logits", "gap"))]  # fmt: skip
    assert [row["first_verdict"] for row in rows] == ["reproduced", "not reproduced"]


@pytest.mark.parametrize(("of", "expected"), [("lowest", "logits"), ("highest", "layers")])
def test_a_correlation_is_the_lowest_or_highest_of_all_variants(tmp_path, of, expected):
    generator = np.random.default_rng(0)
    jaccard = {name: generator.random(39) for name in ("float", "nearest", "layers", "logits", "gap 1")}
    many = by_method(jaccard)
    blurred = {"nearest": 0.3, "layers": 0.01, "logits": 1.0, "gap 1": 0.3}
    for name, amount in blurred.items():
        many.boundary_jaccard.loc[{"method": name, "split": "held-out"}] += amount * generator.normal(size=(39, 2))
    claim = {"kind": "correlation", "of": of, "from": ["x.nc"], "bits": [4, 3]}
    row = judge(tmp_path, claim | {"reported": 0.5}, many)
    first, second = (
        many.boundary_jaccard.sel({"method": expected, "split": split}).values.reshape(39, 2)
        for split in many.split.values
    )
    assert row["estimate"] == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    assert row["note"].startswith(f"{expected} (digits), of 3 variants over 4 and 3 bits; ") and row["runs"] == 39
    inside = judge(tmp_path, claim | {"reported": (row["low"] + row["high"]) / 2}, many, too_wide=10)
    wide = judge(tmp_path, claim | {"reported": (row["low"] + row["high"]) / 2}, many, too_wide=1e-9)
    assert [row["first_verdict"], inside["first_verdict"], wide["first_verdict"]] == [
        "not reproduced",
        "reproduced",
        "inconclusive",
    ]


def test_claims_about_stopping_are_judged_at_one_limit_together(tmp_path):
    many = stopping_runs(0)
    # At Jaccard up to 0.4 (and 0.02 noise) the rule keeps 6 bits: flips near 0.004, Jaccard near 0.35.
    six = many.sel(bits=6, split="held-out")
    flips, jaccard = float(six.flip_rate.median()), float(six.boundary_jaccard.median())
    first, second, _ = judge_stopping(tmp_path, (flips, jaccard), many)
    assert first["first_verdict"] == second["first_verdict"] == "reproduced"
    # Each number is right at some limit, but never both at the same one.
    five = many.sel(bits=5, split="held-out")
    rows = judge_stopping(tmp_path, (flips, float(five.boundary_jaccard.median())), many)
    assert [row["first_verdict"] for row in rows] == ["not reproduced", "not reproduced", None]
    rows = judge_stopping(tmp_path, (flips, jaccard), many, too_wide=1e-6)
    assert [row["first_verdict"] for row in rows] == ["inconclusive", "inconclusive", None]


def test_the_whole_width_of_an_interval_of_bits_counts(tmp_path):
    bits = np.array([8.0, 8, 8, 7])  # the fewest bits that still agree differ; Student's interval goes beyond 8
    many = xr.Dataset({"chosen_bits": ("seed", bits)}, {"seed": range(4), "bits": [32, 8, 4]})
    plain = statistics.prediction_interval(bits)
    assert plain.high > 8
    claim = value(7.0, select={"measure": "chosen_bits"}) | {"from": "x.nc"}
    _store.save_dataset(many.assign_attrs(spec=specs.Levels().text()), tmp_path / "x.nc")
    # Half of the span of 4 lies between the width up to 8 and the whole one.
    wide, narrow = (plain.high - plain.low + 8 - plain.low) / 2 / 4, (plain.high - plain.low) / 4 + 1e-9
    for share, verdict in ((wide, "inconclusive"), (narrow, "reproduced")):
        assert first_rule.verdict(claim, [claim], Results(tmp_path), RULE | {"too_wide": share}) == verdict


def test_the_same_rule_is_the_limit_of_another_set(tmp_path):
    stated = {
        "id": "X1", "dataset": "digits", "says": "fewer flips", "reported": "direction", "kind": "direction", "where": "here",
        "from": "x.nc", "first": {"measure": "flip_rate", "split": "held-out", "rule": "accuracy", "limit": 0.0},
        "second": {"measure": "flip_rate", "split": "held-out", "rule": "jaccard", "limit": "usual"},
        "bound": 0.001, "because": "a test", "first_rule": {"limit_from": "y.nc"},
    }  # fmt: skip
    content = {"rule": RULE, "claims": [stated]}
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(content))
    usual = specs.baseline("stopping", "digits")
    many, other = stopping_runs(2), stopping_runs(3)
    other["boundary_jaccard"] = other.boundary_jaccard * 1.6  # its limit is another
    for dataset, name in ((many, "x.nc"), (other, "y.nc")):
        _store.save_dataset(dataset.assign_attrs(spec=usual.text(), command=usual.command()), tmp_path / name)
    (row,) = ledger.ledger(tmp_path / "claims.yml", tmp_path)
    limits = [float(stopping.usual_limit(stopping.choose(one), "jaccard", 0.5).limit) for one in (many, other)]
    assert limits[0] != limits[1]
    choices = stopping.choose(many)
    at_other = choices.isel(choice=int(np.flatnonzero((choices.rule == "jaccard") & (choices.limit == limits[1]))[0]))
    by_accuracy, own = choices.isel(choice=0), stopping.usual_limit(choices, "jaccard", 0.5)
    assert [np.unique(one.chosen_bits).tolist() for one in (by_accuracy, at_other, own)] == [[7], [6], [8]]
    saved = (by_accuracy.flip_rate - own.flip_rate).sel(split="held-out").values
    assert row["estimate"] == pytest.approx(saved.mean())  # by today's rule, at the own limit: 8 bits flip less than 7
    assert (row["verdict"], row["first_verdict"]) == ("reproduced", "not reproduced")  # and 6 bits more
    many.flip_rate.loc[{"split": "held-out", "bits": 6}] = 0.0
    _store.save_dataset(many.assign_attrs(spec=usual.text(), command=usual.command()), tmp_path / "x.nc")
    (row,) = ledger.ledger(tmp_path / "claims.yml", tmp_path)
    assert row["estimate"] == pytest.approx(saved.mean()) and row["first_verdict"] == "reproduced"


# As the ledger gave them when this rule was the only one.
GIVEN = {
    "reproduced": "D1 D3 D4 D5 S1 S2 S4 C2 F1 K2",
    "inconclusive": "D2 J2 J3 J4 S3 S5 S6 C1 C3 R5 R6",
    "not reproduced": "J1 C4 C5 C6 F2 F3 R1 R2 R3 R4 K1",
}


@pytest.mark.slow
def test_the_verdicts_are_those_that_it_gave():
    found = {row["id"]: row["first_verdict"] for row in published_rows() if row["first_verdict"] is not None}
    assert found == {name: verdict for verdict, names in GIVEN.items() for name in names.split()}
    assert set(found) == set(REPORTED)
