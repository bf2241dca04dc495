"""The stopping study: both splits measured right, and rules that see the calibration split alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from bqcore import _store
from bqcore.metrics import decisions, label_grids, planes, statistics
from bqcore.metrics.masks import boundary_jaccard, boundary_mask, thickened
from bqcore.quantizers import uniform
from studies import measures, specs, stopping, sweeps, training
from studies.data import splits

SMALL = specs.Stopping(epochs=4, nodes=(41, 21), width=12, bits=(8, 5, 3, 2), sizes=(500, 300, 400))


@pytest.fixture(scope="module")
def many() -> xr.Dataset:
    return sweeps.combine([sweeps.measure(replace(SMALL, seed=seed)) for seed in range(4)], SMALL, 4)


def trained(spec: specs.Stopping):
    split = sweeps.split_of(spec)
    model = sweeps._untrained(spec)
    training.fit(
        model, split.train_inputs, split.train_classes, epochs=spec.epochs, seed=spec.seed, batch_size=spec.batch_size
    )
    return split, model


def test_both_splits_are_measured_each_on_its_own_slice(many):
    spec = replace(SMALL, seed=2)
    split, model = trained(spec)
    assert many.split.values.tolist() == ["calibration", "held-out"]
    for name, inputs, classes in (
        ("calibration", split.calibration_inputs, split.calibration_classes),
        ("held-out", split.held_out_inputs, split.held_out_classes),
    ):
        plane = planes.pca_plane(inputs)
        with torch.no_grad():
            z = model(inputs)
            for bits in (8, 5, 3, 2):
                quantized = uniform.quantize_model(model, bits)
                found = many.sel(seed=2, split=name, bits=bits)
                q = quantized(inputs)
                assert float(found.flip_rate) == decisions.flips(z, q, classes).rate
                assert float(found.accuracy) == pytest.approx(
                    float((q.argmax(1) == classes).double().mean()), abs=1e-12
                )
                for n in (41, 21):
                    grids = [label_grids.label_grid(m, plane, n) for m in (model, quantized)]
                    masks = [boundary_mask(grid) for grid in grids]
                    assert float(found.boundary_jaccard.sel(nodes=n)) == boundary_jaccard(*masks).distance
                    thick = [thickened(mask) for mask in masks]
                    assert float(found.thick_boundary_jaccard.sel(nodes=n)) == boundary_jaccard(*thick).distance
                    assert float(found.step_a.sel(nodes=n)) == plane.steps(n)[0]
                    assert bool(found.few_classes.sel(nodes=n)) == (len(np.unique(grids[1])) < 3)
                    assert float(found.outside) == planes.fraction_outside(plane, inputs)
    assert (many.boundary_jaccard.sel(split="calibration") != many.boundary_jaccard.sel(split="held-out")).any()
    assert float(many.flip_rate.sel(bits=2).min()) > 0  # something was measured


def test_nothing_of_the_held_out_split_reaches_a_choice(many):
    generator = np.random.default_rng(0)
    scrambled = many.copy(deep=True)
    for values in scrambled.data_vars.values():
        if "split" in values.dims:
            held_out = values.loc[{"split": "held-out"}]
            values.loc[{"split": "held-out"}] = generator.permutation(held_out.values.ravel()).reshape(held_out.shape)
    assert not scrambled.sel(split="held-out").equals(many.sel(split="held-out"))
    ours, theirs = stopping.choose(many), stopping.choose(scrambled)
    for name in ("chosen_bits", "fallback"):
        xr.testing.assert_identical(ours[name], theirs[name])
    without = many.copy(deep=True)
    for values in without.data_vars.values():
        if "split" in values.dims and values.dtype.kind == "f":
            values.loc[{"split": "held-out"}] = np.nan
    xr.testing.assert_identical(stopping.choose(without).chosen_bits, ours.chosen_bits)
    for rule in stopping.BOUNDARY_AWARE:
        assert float(stopping.usual_limit(ours, rule).limit) == float(stopping.usual_limit(theirs, rule).limit)


def test_every_rule_goes_down_by_its_own_measure(many):
    choices = stopping.choose(many)
    counts = {rule: int((choices.rule == rule).sum()) for rule in dict.fromkeys(choices.rule.values)}
    assert counts == {
        "accuracy": 4,
        "flips": 4,
        "band flips": 4,
        "jaccard": 7,
        "beyond τ": 7,
        "jaccard and band flips": 28,
    }
    tau = measures.usual_tolerance(many.tolerance_jaccard)
    seen = many.sel(split="calibration")
    of = {
        "flips": lambda run: run.flip_rate, "band flips": lambda run: run.band_flip_rate,
        "jaccard": lambda run: run.boundary_jaccard.sel(nodes=41),
        "beyond τ": lambda run: run.tolerance_jaccard.sel(tau=tau),
    }  # fmt: skip
    for i in range(choices.sizes["choice"]):
        at = choices.isel(choice=i)
        for seed in range(4):
            run, bits = seen.sel(seed=seed), None
            for level in (8, 5, 3, 2):
                here = run.sel(bits=level)
                limits = [float(at.limit)] + [float(at.second_limit)] * ("and" in str(at.rule.values))
                if str(at.rule.values) == "accuracy":
                    fits = float(run.accuracy.sel(bits=32) - here.accuracy) <= limits[0] + 1e-12
                else:
                    parts = str(at.rule.values).split(" and ")
                    fits = all(float(of[part](here)) <= limit for part, limit in zip(parts, limits))
                if not fits:
                    break
                bits = level
            chosen = at.sel(seed=seed)
            assert (int(chosen.chosen_bits), bool(chosen.fallback)) == (bits or 8, bits is None)
            expected = many.sel(seed=seed, bits=bits or 8)
            assert float(chosen.flip_rate.sel(split="held-out")) == float(expected.flip_rate.sel(split="held-out"))
            assert int(chosen.model_bytes) == int(expected.model_bytes)


def test_the_usual_limit_is_the_loosest_that_halves_calibration_flips(many):
    choices = stopping.choose(many)
    flips = choices.flip_rate.sel(split="calibration").mean("seed")
    target = float(flips[(choices.rule == "accuracy").values & (choices.limit == 0).values].item()) / 2
    of_rule = [i for i in range(choices.sizes["choice"]) if choices.rule[i] == "jaccard"]
    fits = [i for i in of_rule if float(flips[i]) <= target + 1e-12] or of_rule[:1]
    assert float(stopping.usual_limit(choices, "jaccard").limit) == max(float(choices.limit[i]) for i in fits)
    loose = stopping.usual_limit(choices, "jaccard", share=1e9)
    assert float(loose.limit) == 0.7


def test_equal_bits_mix_the_two_levels_around_the_average(many):
    choices = stopping.choose(many)
    mixed = stopping.at_equal_bits(many, choices, "flip_rate")
    held_out = many.flip_rate.sel(split="held-out")
    for i in range(choices.sizes["choice"]):
        average = float(choices.chosen_bits.isel(choice=i).mean())
        low, high = max(b for b in (2, 3, 5, 8) if b <= average), min(b for b in (2, 3, 5, 8) if b >= average)
        share = (average - low) / (high - low) if high > low else 0.0
        expected = (1 - share) * held_out.sel(bits=low) + share * held_out.sel(bits=high)
        np.testing.assert_allclose(mixed.isel(choice=i), expected, atol=1e-12)
    interval = statistics.paired_difference(
        mixed.isel(choice=0).values, choices.flip_rate.sel(split="held-out")[0].values
    )
    assert interval.low <= interval.estimate <= interval.high


def test_the_same_stopping_spec_gives_the_same_bytes_with_and_without_a_kept_checkpoint(tmp_path):
    paths = []
    for i in range(3):
        checkpoint = None if i == 0 else tmp_path / "kept.safetensors"
        _store.save_dataset(sweeps.measure(SMALL, checkpoint=checkpoint), tmp_path / f"{i}.nc")
        paths.append((tmp_path / f"{i}.nc").read_bytes())
    assert len(set(paths)) == 1 and (tmp_path / "kept.safetensors").exists()
    assert splits.SHAPES["digits"] == tuple(sweeps.split_of(SMALL).train_inputs.shape[1:])
