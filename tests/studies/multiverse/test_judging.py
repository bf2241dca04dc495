"""Verdicts over specifications: intervals, shares of variance, directions, what holds for most and where all agree."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bqcore.metrics import statistics
from studies import specs, stopping
from studies.multiverse import choices, judging


def test_stopping_rules_choose_as_the_ledger_s_do(published_sets):
    many = published_sets["digits"]
    baseline = many.sel(width=64, epochs=60, scale="pixels / 16", scheme="narrow", granularity="tensor", share=0.2)
    parts = {"accuracy": -baseline.stopping_loss, "flip_rate": baseline.stopping_flip_rate,
             "band_flip_rate": baseline.stopping_band_flip_rate,
             "boundary_jaccard": baseline.stopping_jaccard.sel(mask="cells", stopping_nodes=[201])}  # fmt: skip
    usual = xr.Dataset({name: values.reset_coords(drop=True) for name, values in parts.items()})
    usual = usual.rename(part="split", stopping_nodes="nodes").reindex(bits=[32, *choices.BITS], fill_value=0.0)
    limits = {rule: given for rule, given in stopping.LIMITS.items() if rule != "beyond τ"}
    chosen = stopping.choose(usual, limits).sel(split="held-out").isel(nodes=0)
    found = judging.measured(many)
    here = {"width": 64, "epochs": 60, "scale": "pixels / 16", "scheme": "narrow", "granularity": "tensor",
            "path": "going down"}  # fmt: skip
    grid = {"nodes": 201, "mask": "cells"}
    compared = 0
    for i in range(chosen.sizes["choice"]):
        at = chosen.isel(choice=i)
        rule, limit, second = str(at.rule.values), float(at.limit), float(at.second_limit)
        if rule == "accuracy":
            flips, jaccard = ("S1", here | {"drop": limit}), ("S3", here | grid | {"drop": limit})
        else:
            name = {
                "jaccard": f"jaccard ≤ {limit:g}", "band flips": f"flips ≤ {limit:g} in a band of 20%",
                "jaccard and band flips": f"jaccard ≤ {limit:g}, flips ≤ {second:g} in a band of 20%",
            }.get(rule)  # fmt: skip
            if name is None:
                continue
            flips, jaccard = (("S2", here | grid | {"rule": name}), ("S4", here | grid | {"rule": name}))
        compared += 1
        np.testing.assert_allclose(found[flips[0]].values.sel(flips[1]), at.flip_rate, atol=1e-12)
        np.testing.assert_allclose(found[jaccard[0]].values.sel(jaccard[1]), at.boundary_jaccard, atol=4e-5)
    assert compared == 4 + 7 + 4 + 28


def test_a_direction_holds_where_its_interval_lies_above_0(stated):
    """Levels whose calibration losses and distances are set, so that each rule's choice is known."""
    rule, rows = stated
    bits, seeds = [8, 4], [0, 1, 2]
    base = xr.DataArray(0.0, dims=()).expand_dims(
        part=list(choices.PARTS),
        width=[6],
        epochs=[3],
        scheme=["narrow"],
        granularity=["tensor"],
        seed=seeds,
        bits=bits,
    )
    at_4 = xr.DataArray([0.0, 1.0], {"bits": bits})
    flips = xr.DataArray([0.1, 0.2, 0.3], {"seed": seeds})
    jaccard = (base + 0.35 * at_4).expand_dims(stopping_nodes=[21], mask=["cells"])
    many = xr.Dataset(
        {"stopping_loss": base, "stopping_flip_rate": base + at_4 * flips, "stopping_jaccard": jaccard,
         "stopping_band_flip_rate": base.expand_dims(share=list(choices.SHARES))},
        attrs={"spec": specs.baseline("multiverse", "fashion-mnist").text()},
    )  # fmt: skip
    found = judging.judge(many, rows, rule)["S6"].squeeze(drop=True).isel({"drop": 0, "path": 0})
    strict, loose = found.sel(rule="jaccard ≤ 0.3"), found.sel(rule="jaccard ≤ 0.4")
    assert float(strict.estimate) == pytest.approx(0.2) and float(strict.low) < 0  # three so different ones
    assert (bool(strict.holds), bool(strict.inside)) == (False, True)
    assert (float(loose.estimate), bool(loose.holds), bool(loose.inside)) == (0, False, False)  # both choose 4 bits
    many["stopping_flip_rate"] = base + at_4 * (0.2 + (flips - 0.2) / 100)
    found = judging.judge(many, rows, rule)["S6"].squeeze(drop=True).isel({"drop": 0, "path": 0})
    assert bool(found.holds.sel(rule="jaccard ≤ 0.3"))
    many["stopping_flip_rate"] = base - at_4 * (0.2 + (flips - 0.2) / 100)  # as if more bits flipped more
    found = judging.judge(many, rows, rule)["S6"].squeeze(drop=True).isel({"drop": 0, "path": 0})
    assert not bool(found.inside.sel(rule="jaccard ≤ 0.3"))


@given(arrays(np.float64, (3, 6), elements=st.floats(0, 1)), st.integers(1, 4))
def test_intervals_are_those_of_the_ledger(values, means_of):
    found = judging.interval(xr.DataArray(values, dims=("axis", "seed")), means_of, 0.95)
    for i, row in enumerate(values):
        expected = statistics.prediction_interval(row, means_of)
        one = found.isel(axis=i)
        np.testing.assert_allclose([one.estimate, one.low, one.high], expected, atol=1e-12)


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(-5, 5)))
def test_the_shares_of_variance_sum_to_one(values):
    array = xr.DataArray(values, dims=("width", "mask", "seed"))
    if values.std() < 1e-6:
        return
    split = judging.variance_split(array)
    assert sum(split.values()) == pytest.approx(1, abs=1e-9) and min(split.values()) >= 0


def test_variance_goes_where_it_comes_from():
    a, b, s = (xr.DataArray(v, dims=d) for v, d in (([0.0, 2], "width"), ([0.0, 0, 3], "mask"), ([-1.0, 1], "seed")))
    for values, expected in (
        (a + 0 * b + 0 * s, {"width": 1}), (a + b + 0 * s, {"width": 1 / 3, "mask": 2 / 3}),
        ((a - 1) * (b - 1) + 0 * s, {"interactions": 1}), (s + 0 * a + 0 * b, {"networks": 1}),
        (a + s + 0 * b, {"width": 0.5, "networks": 0.5}),
    ):  # fmt: skip
        split = judging.variance_split(values.transpose("width", "mask", "seed"))
        assert split == pytest.approx(dict.fromkeys(("width", "mask", "interactions", "networks"), 0) | expected)
    with pytest.raises(ValueError, match=r"^The 12 values are all equal: there is no variance to split\.$"):
        judging.variance_split(0 * (a + b + s))


def test_a_claim_holds_where_its_number_lies_in_a_narrow_interval(tiny, stated):
    rule, rows = stated
    many = tiny.copy(deep=True)
    noise = xr.DataArray([-0.001, 0.001], dims="seed")
    at = xr.DataArray([0.428, 0.97], {"slice_bits": [8, 4]})
    many["boundary_jaccard"] = (at + noise + 0 * many.boundary_jaccard).transpose(*tiny.boundary_jaccard.dims)
    many.boundary_jaccard.loc[{"mask": "thick cells"}] *= 0.5
    found = judging.judge(many, rows, rule)
    for name in ("D2", "D4"):
        assert judging.by_choice(found[name].holds)["mask"].values.tolist() == [1, 1, 1, 0, 1]
        assert judging.shares(found)[name] == pytest.approx(0.8)
    many["boundary_jaccard"] = (at + 100 * noise + 0 * many.boundary_jaccard).transpose(*tiny.boundary_jaccard.dims)
    wide = judging.judge(many, rows, rule)["D2"]
    assert bool(wide.inside.all()) and not bool(wide.holds.any())  # it holds the number, but would hold any
    assert float(wide.low.min()) == 0 and float(wide.high.max()) == 1
    with pytest.raises(ValueError, match=r"^The multiverse has 1 seed: an interval needs two networks of each kind"):
        judging.judge(tiny.isel(seed=[0]), rows, rule)
    many["accuracy"] = many.accuracy.where(many.bits != 4)
    with pytest.raises(ValueError, match="The measures of D3 hold .* non-finite values"):
        judging.judge(many, rows, rule)


def test_j1_must_hold_for_most(tiny, stated):
    rule, rows = stated
    many = tiny.copy(deep=True)
    for near, holds, inside in ((0.8, True, True), (0.3, False, False), (np.nan, False, False)):
        many["share_near"] = xr.zeros_like(many.share_near) + near + xr.DataArray([-0.001, 0.001], dims="seed")
        many["chance_boundary"] = xr.zeros_like(many.chance_boundary) + 0.1
        found = judging.judge(many, rows, rule)["J1"]
        assert (bool(found.holds.all()), bool(found.inside.all())) == (holds, inside)


def test_any_level_may_lie_below_one_that_does_not_qualify():
    lost = np.array([[0.0, 0.3, 0.1, 0.4], [0.3, 0.3, 0.3, 0.3]])
    assert judging.chosen([lost], [0.1], "going down").tolist() == [0, 0]
    assert judging.chosen([lost], [0.1], "any level").tolist() == [2, 0]
    both = [lost, lost[:, ::-1]]
    assert judging.chosen(both, [0.4, 0.1], "any level").tolist() == [3, 0]


@pytest.mark.parametrize("path", judging.PATHS)
def test_a_rate_kept_in_float32_may_equal_its_limit(path):
    for flips, level in ((6, 1), (7, 0)):  # of 120, at a limit of 0.05, which float32 has as less and 6 / 120 as more
        rates = np.array([[0, flips, 60]]) / 120
        assert judging.chosen([rates.astype(np.float32)], [0.05], path).tolist() == [level]
        assert judging.chosen([rates], [0.05], path).tolist() == [level]


def test_a_region_is_where_all_agree(tiny, stated):
    rule, rows = stated
    judged = judging.judge(tiny, rows, rule)
    for found in judged.values():
        found["inside"] = xr.ones_like(found.inside)
    whole = judging.region(judged)
    assert whole.dims == judging.SHARED
    cells = 1 * 1 * 2 * 2 * 2 * 2 * 2 * 5
    assert judging.region_size(whole) == {"cells": cells, "of": cells, "share": pytest.approx(1)}
    judged["D3"]["inside"] = judged["D3"].inside & (judged["D3"].scale == "standardized")
    judged["S4"]["inside"] = judged["S4"].inside & (judged["S4"].mask == "cells")
    some = judging.region(judged)
    assert judging.region_size(some)["cells"] == cells // 10
    assert float(some.sel(scale="standardized", mask="cells").min()) == pytest.approx(1)
    assert judging.region_size(judging.region(judged, without="S4"))["cells"] == cells // 2
    assert judging.region_size(judging.region(judged, "holds"))["cells"] <= cells
    for name, at in (("J2", "8→7"), ("J3", "7→6"), ("J4", "6→5")):  # one of the twenty triples in order
        judged[name]["inside"] = judged[name].inside & (judged[name].transition == at)
    assert float(judging.region(judged).max()) == pytest.approx(1 / 20)
    judged["J4"]["inside"] = judged["J4"].inside & False
    assert judging.region_size(judging.region(judged))["cells"] == 0
    del judged["D1"]
    with pytest.raises(ValueError, match=r"^D1 are not judged: the region is where all numbers on digits agree\.$"):
        judging.region(judged)
