"""The study of Table 6: every rounding measured right, on grids of the float weights, learned from calibration alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from bqcore._threads import one_thread
from bqcore.metrics import decisions, label_grids, planes
from bqcore.metrics.masks import boundary_jaccard, boundary_mask
from bqcore.quantizers import batchnorm, uniform
from studies import networks, rounding, specs, sweeps
from studies.data import splits

SMALL = specs.Rounding(epochs=4, nodes=(21, 11), width=12, gaps=(0, 1), steps=40, sizes=(500, 300, 400), examples=128)
METHODS = ["float", "nearest", "layers", "logits", "gap 1"]


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    return sweeps.measure(SMALL)


@pytest.fixture(scope="module")
def parts():
    split = sweeps.split_of(SMALL)
    reference = batchnorm.fold_batchnorm(sweeps.trained(SMALL, split, None))
    return split, reference, rounding.rounded_models(SMALL, reference, split, 3)


def test_every_rounding_is_measured_on_both_splits(measured, parts):
    split, reference, made = parts
    assert measured.method.values.tolist() == METHODS and measured.bits.values.tolist() == [4, 3]
    for name, inputs, classes in (
        ("calibration", split.calibration_inputs, split.calibration_classes),
        ("held-out", split.held_out_inputs, split.held_out_classes),
    ):
        plane, batches = planes.pca_plane(inputs), inputs.split(125)
        # In the study's batches and on its one thread: the sums of a product depend on both.
        with torch.no_grad(), one_thread():
            z = torch.cat([reference(x) for x in batches])
            for method, (model, _) in made.items():
                found = measured.sel({"split": name, "method": method, "bits": 3})
                q = torch.cat([model(x) for x in batches])
                assert float(found.flip_rate) == decisions.flips(z, q, classes).rate
                error = float((q - z).double().square().sum(1).mean())
                assert float(found.logit_error) == pytest.approx(error, rel=1e-12)
                masks = [boundary_mask(label_grids.label_grid(m, plane, 21)) for m in (reference, model)]
                assert float(found.boundary_jaccard.sel(nodes=21)) == boundary_jaccard(*masks).distance
    assert (measured.flip_rate.sel({"method": "float"}) == 0).all()
    assert (measured.flip_rate.sel({"method": METHODS[1:], "bits": 3}) > 0).all()


def test_the_study_rounds_on_the_grids_of_the_float_weights(parts):
    _, reference, made = parts
    for model, record in made.values():
        for ours, theirs in zip(reference.parameters(), model.parameters()):
            if ours.ndim > 1:
                step = uniform.step_size(ours, 3)
                codes = theirs / step
                assert torch.allclose(codes, codes.round(), rtol=0, atol=1e-5)  # a few roundings of float32
                assert (theirs - ours).abs().max() <= step * (0.500001 if record is None else 1.000001)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made["nearest"][0].parameters(), uniform.quantize_model(reference, 3).parameters())
    )


def test_the_shares_of_changed_weights_are_those_of_the_record(measured, parts):
    for method, (_, record) in parts[2].items():
        if record is not None:
            free = sum(record.free.values())
            assert (
                float(measured.changed_weights.sel({"method": method, "bits": 3}))
                == sum(record.changed.values()) / free
            )
            assert (
                float(measured.undecided_gates.sel({"method": method, "bits": 3}))
                == sum(record.undecided.values()) / free
            )


def test_nothing_but_the_first_calibration_inputs_is_learned_from(parts):
    split, reference, made = parts
    changed = split._replace(
        held_out_inputs=torch.zeros_like(split.held_out_inputs), calibration_classes=split.calibration_classes * 0,
        calibration_inputs=torch.cat([split.calibration_inputs[:128], torch.zeros_like(split.calibration_inputs[128:])]),
    )  # fmt: skip
    again = rounding.rounded_models(SMALL, reference, changed, 3)
    fewer = rounding.rounded_models(replace(SMALL, examples=64), reference, split, 3)
    for name in ("layers", "logits", "gap 1"):
        weights = [[p for p in models[name][0].parameters()] for models in (made, again, fewer)]
        assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1]))
        assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2]))


def test_the_same_spec_gives_the_same_run_and_its_classifier_is_that_of_the_stopping_study(measured):
    assert sweeps.measure(SMALL).identical(measured)
    stopping = specs.Stopping(epochs=4, width=12, sizes=(500, 300, 400))
    assert SMALL.training() == stopping.training() and sweeps.checkpoint_file(SMALL) == sweeps.checkpoint_file(stopping)


@pytest.mark.slow
def test_batch_norms_are_folded_first(monkeypatch):
    spec = specs.Rounding(dataset="cifar-10", model="resnet", width=8, epochs=1, nodes=(5,), bits=(4,), gaps=(0,), steps=3,
                          sizes=(40, 40, 40), examples=32)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    inputs, classes = torch.rand(40, 3, 32, 32, generator=generator), torch.arange(40) % 10
    split = splits.StoppingSplit(*(inputs, classes) * 3)
    model = networks.build("resnet", (3, 32, 32), 10, width=8, seed=0)
    with torch.no_grad():
        for _ in range(20):
            model(inputs)
    taken, made, whole = [], [], rounding.rounded_models

    def watched(spec, reference, *rest):
        taken.append(reference)
        made.append(whole(spec, reference, *rest))
        return made[-1]

    monkeypatch.setattr(rounding, "rounded_models", watched)
    found = rounding.measure(spec, split, model.eval())
    assert found.sizes["method"] == 4 and np.isfinite(found.logit_error).all()
    (reference,), (ways,) = taken, made
    for one in (reference, *(rounded for rounded, _ in ways.values())):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules())
    with torch.no_grad():
        z, folded = model(inputs), reference(inputs)
    assert (folded - z).abs().max() < 1e-5 * (z.max() - z.min())  # a hundred roundings of float32; 2e-7 was seen
