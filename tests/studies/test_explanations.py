"""Explanations: what their rules freeze, and when a prediction held, is open or failed."""

import numpy as np
import pytest
import xarray as xr

from studies import explanations, specs
from studies.multiverse import cifar, roundings

LEVEL = 0.95
ROWS = {"C3": {"reported": 0.184, "estimate": 0.58}, "C6": {"reported": 0.048, "estimate": 0.49},
        "R3": {"reported": 0.36, "estimate": 0.2}, "R8": {"reported": 0.0042, "estimate": 0.001}}  # fmt: skip
RULER = {"plane": "three images", "extent": "inner 60 %", "nodes": 21, "thickness": 1}


def readings(seeds: int = 4) -> xr.Dataset:
    """Readings of one network in which nothing is measured but the ruler and what a choice by accuracy needs."""
    coordinates = {
        "seed": range(seeds), "trained": ["cnn 16 15"], "step": list(cifar.STEPS), "scheme": ["narrow", "full"],
        "bits": list(cifar.BITS), "plane": list(cifar.PLANES), "extent": list(cifar.EXTENTS), "nodes": [41, 21, 11],
        "thickness": list(cifar.THICKNESS), "split": list(cifar.SPLITS),
    }  # fmt: skip
    coordinates = {name: list(values) for name, values in coordinates.items()}

    def array(*dims: str) -> xr.DataArray:
        here = {dim: coordinates[dim] for dim in dims}
        return xr.DataArray(np.full([len(values) for values in here.values()], 0.9), here, dims)

    own = ("seed", "trained", "step", "scheme", "bits")
    jaccard = array(*own, "plane", "extent", "nodes", "thickness")
    jaccard.loc[RULER | {"bits": 6}] = 0.2
    jaccard.loc[RULER | {"bits": 8}] = 0.05
    jaccard.loc[RULER | {"bits": 8, "step": "a channel"}] = (
        0.048  # of another quantizer, which the rule does not look at
    )
    lost = array(*own, "split")
    lost[:] = 0.0
    lost.loc[{"bits": 7}], lost.loc[{"bits": [4, 3]}] = 0.01, 0.2
    lost.loc[{"seed": 1, "bits": [6, 5]}] = 0.002
    return xr.Dataset({"boundary_jaccard": jaccard, "accuracy_lost": lost})


def test_the_ruler_is_frozen_on_its_two_numbers_alone():
    entry = explanations.load_predictions()
    entry = next(one for one in entry if one["id"] == "ruler")
    found = explanations.frozen_ruler(lambda name: {"cifar-10": readings()}[name], entry, ROWS)
    assert found == RULER
    nearer = readings()
    nearer.boundary_jaccard.loc[RULER | {"thickness": 2, "bits": 6}] = 0.185
    nearer.boundary_jaccard.loc[RULER | {"thickness": 2, "bits": 8}] = 0.047
    found = explanations.frozen_ruler(lambda name: nearer, entry, ROWS)
    assert found == RULER | {"thickness": 2}


def test_bits_are_the_last_before_the_first_drop_or_the_fewest_of_all():
    many = readings().isel(trained=0)
    setting = {"step": "a tensor", "scheme": "narrow", "drop": 0.0}
    assert explanations.bits_by_accuracy(many, setting | {"path": "going down"}).values.tolist() == [8, 8, 8, 8]
    assert explanations.bits_by_accuracy(many, setting | {"path": "any level"}).values.tolist() == [5, 8, 5, 5]


def rounded() -> xr.Dataset:
    """Roundings of three networks whose flips grow the less they are optimized, and which the gap term betters."""
    spec = specs.Roundings()
    axes = {
        "seed": [0, 1, 2], "bits": [4], "method": roundings.methods(spec), "optimization_steps": [30, 100],
        "examples": [256, 1024], "split": list(cifar.SPLITS), "nearness": ["margin"], "share": [0.2],
    }  # fmt: skip
    order = xr.DataArray(np.full([len(values) for values in axes.values()], 0.2), axes, list(axes))
    order.loc[{"optimization_steps": 30, "examples": 256}] = 0.35
    order.loc[{"optimization_steps": 100, "examples": 1024, "split": "calibration"}] = 0.36
    noise = xr.DataArray([0.0, 0.01, -0.01], {"seed": [0, 1, 2]}, "seed")
    order = order + noise
    order.loc[{"method": "gap 10"}] -= 0.02
    ruler = {"plane": list(cifar.PLANES), "extent": ["range"], "nodes": [21], "thickness": [0]}
    jaccard = xr.ones_like(order.isel(split=0, nearness=0, share=0, drop=True)).expand_dims(ruler).copy()
    jaccard.loc[{"method": "gap 10", "plane": "calibration PCA"}] = 0.5  # what calibration data pick
    jaccard.loc[{"method": "gap 1", "plane": "held-out PCA"}] = 0.4
    return xr.Dataset({"band_pair_order_flip_rate": order, "boundary_jaccard": jaccard}).expand_dims(
        trained=["strided-resnet 28 30"]
    )


def test_the_weak_rounding_is_frozen_by_its_held_out_flips_on_the_logits():
    entry = next(one for one in explanations.load_predictions() if one["id"] == "weak rounding")
    found = explanations.frozen_rounding(lambda _: rounded(), entry, ROWS)
    assert found == {"optimization_steps": 30, "examples": 256}


def test_the_gap_weight_is_the_one_that_calibration_data_pick():
    test = {
        "against": "R8", "data": "roundings", "trained": "strided-resnet 28 30", "bits": 4,
        "measure": "band_pair_order_flip_rate", "direction": "logits less gap",
    }  # fmt: skip
    weak = {"optimization_steps": 30, "examples": 256}
    values = explanations.measured(lambda _: rounded(), {"setting": "frozen"}, test, {}, weak)
    assert np.allclose(values, 0.02)
    assert explanations.outcome_of(values + [0, 0.001, -0.001], test, ROWS["R8"], 3, LEVEL)["outcome"] == "held"
    assert explanations.outcome_of(-values, test, ROWS["R8"], 3, LEVEL)["outcome"] == "failed"
    assert explanations.outcome_of(values * [3, -1, 1], test, ROWS["R8"], 3, LEVEL)["outcome"] == "open"


@pytest.mark.parametrize(
    ("values", "baseline", "outcome"),
    [
        ([0.35, 0.36, 0.38], 0.2, "held"),  # inside, and nearer than the baseline
        ([0.35, 0.36, 0.38], 0.361, "open"),  # inside, and the baseline is nearer
        ([0.35, 0.36, 0.38], None, "held"),  # there is no baseline to be nearer than
        ([0.20, 0.21, 0.22], 0.1, "failed"),  # nearer, but outside
    ],
)  # fmt: skip
def test_a_prediction_holds_inside_and_nearer(values, baseline, outcome):
    values = xr.DataArray(values, dims="seed")
    row = {"reported": 0.36, "estimate": baseline}
    assert explanations.outcome_of(values, {"measure": "flip_rate"}, row, 1, LEVEL)["outcome"] == outcome


def test_a_claim_is_explained_by_what_survives_alone():
    found = [
        {"id": "a", "suggested_by": ["F2"], "survives": True,
         "tests": [{"against": "F1", "outcome": "held"}, {"against": "C2", "outcome": "open"}]},
        {"id": "b", "suggested_by": ["C3"], "survives": False, "tests": [{"against": "R1", "outcome": "held"}]},
    ]  # fmt: skip
    assert explanations.of_claims(found) == {"F2": "a", "F1": "a"}
