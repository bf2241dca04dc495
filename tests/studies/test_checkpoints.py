"""Published checkpoints: one result a data set is measured again from its checkpoint, and agrees."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import bqcore
from bqcore import _store
from bqcore._threads import one_thread
from bqcore.quantizers import uniform
from studies import levels, measures, published, specs, stopping, sweeps, training, vendors
from studies.data import archives

ROOT = Path(__file__).resolve().parents[2]
STOPPING = [spec for spec in specs.BASELINES if (spec.study, spec.granularity) == ("stopping", "tensor")]


DECISIONS = (
    "accuracy", "flip_rate", "right_to_wrong", "wrong_to_right", "wrong_to_other", "band_flip_rate",
    "pair_order_flip_rate", "band_pair_order_flip_rate",
)  # fmt: skip


def checkpoint(spec: specs.Spec) -> Path:
    return ROOT / sweeps.published_checkpoint(spec)


def needs(dataset: str) -> None:
    """Skip, and say so, where a data set is not there to test with."""
    if dataset != "digits":
        dataset = dataset.removeprefix("full-")  # of the same archive
        (status,) = archives.status((dataset,))
        if not status.verified:
            pytest.skip(
                f"the published result on {dataset} was NOT measured again: {status.says}; "
                f"`python -m studies data fetch {dataset}` gets the data, or set BQ_DATA"
            )


@pytest.mark.slow
@pytest.mark.parametrize("spec", STOPPING, ids=lambda spec: f"{spec.dataset}-{spec.model}")
def test_a_published_run_and_an_audit_of_its_network_are_measured_again_from_the_checkpoint(spec, monkeypatch):
    needs(spec.dataset)
    if spec.model != "mlp":  # what is not compared below takes convolutions a third of the time
        for name in ("of_shifts", "of_boundaries"):
            monkeypatch.setattr(measures, name, lambda *_: xr.Dataset())
    bits, nodes = 3, min(spec.nodes)  # at 3 bits every network flips
    coarse = replace(spec, nodes=(nodes,), bits=(spec.bits[0], bits))
    model = training.load_checkpoint(sweeps._untrained(spec), checkpoint(spec), spec.training())
    model = model.to(memory_format=training.memory_layout(model))  # twice as fast for convolutions
    split = sweeps.split_of(spec)
    candidate = uniform.quantize_model(model, bits, scheme=spec.scheme, granularity=spec.granularity)
    with one_thread():
        fresh = stopping.measure(coarse, split, model)
        found = bqcore.audit(
            model, candidate, split[2:4], split[4:6], nodes=nodes, gradient_samples=0, fraction=spec.share,
            batch_size=measures._BATCH,  # sums may depend on it
        ).dataset  # fmt: skip
    theirs = published.load_published(published.name_of(spec), ROOT / published.PUBLISHED)
    theirs = theirs.sel(seed=0, nodes=list(coarse.nodes), bits=fresh.bits)
    np.testing.assert_array_equal(fresh.model_bytes, theirs.model_bytes)
    assert float(theirs.flip_rate.sel(bits=bits, split="held-out")) > 0  # there is something to agree on
    for ours, chapter in (("calibration", "calibration"), ("heldout", "held-out")):
        part, measured = found.sel(split=ours), fresh.sel(split=chapter)
        # The weights are the same to the bit, so what is left is the last digits of sums: a tie or two on another
        # processor.
        for name in DECISIONS:
            size = int(part.band_samples if "band" in name else part.samples)
            gap = abs(measured[name] - theirs[name].sel(split=chapter)).max()
            assert float(gap) <= 2 / size + 1e-9, (name, chapter)
        gap = abs(measured.boundary_jaccard - theirs.boundary_jaccard.sel(split=chapter)).max()
        assert float(gap) <= 0.02, chapter
        # An audit gives the same to the last digit.
        measured = measured.sel(bits=bits)
        for name in DECISIONS:
            assert float(part[name]) == float(measured[name]), (name, chapter)
        if int(part.samples) <= 2000:  # an audit spans its slice by as many samples, the chapters by all
            for name in ("boundary_jaccard", "effective_displacement", "grid_change", "step_a", "step_b"):
                assert float(part[name].sel(nodes=nodes)) == float(measured[name].sel(nodes=nodes)), (name, chapter)
            candidates = part.junctions.sel(nodes=nodes, model="candidate")
            assert int(candidates) == int(measured.junctions.sel(nodes=nodes))


@pytest.mark.slow
def test_an_audit_of_the_published_digits_network_gives_the_first_chapter_to_the_last_digit():
    spec = replace(specs.Levels(), bits=(4,), nodes=(21,), steps=2)
    model = training.load_checkpoint(sweeps._untrained(spec), checkpoint(spec), spec.training())
    split = sweeps.split_of(spec)
    with one_thread():
        fresh = levels.measure(spec, split, model).sel(bits=4)
        found = bqcore.audit(
            model, uniform.quantize_model(model, 4), None, split[2:4], nodes=0, batch_size=measures._BATCH
        )
    ours = found.dataset.sel(split="heldout")
    theirs = published.load_published("digits_levels.nc", ROOT / published.PUBLISHED).sel(seed=0, bits=4)
    for name in (*DECISIONS, "displacement", "normal_variation", "third_class"):
        np.testing.assert_array_equal(ours[name], fresh[name], err_msg=name)
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=2 / 90 if "rate" in name else 0.005)
    np.testing.assert_array_equal(ours.radius.sel(model="candidate"), fresh.radius)


def test_the_published_quantizers_were_measured_on_the_published_networks():
    kept = published.load_published(published.QUANTIZERS, ROOT / published.PUBLISHED)
    assert kept.network.values.tolist() == list(specs.Vendors().networks)
    for network, stated in json.loads(kept.checkpoints).items():
        assert _store.digest(checkpoint(vendors.network_spec(network))).startswith(stated), network
    # PTQ-W in it is that of the chapters, where they hold out the same inputs.
    for network in kept.network.values:
        spec = vendors.network_spec(network)
        theirs = published.load_published(published.name_of(spec), ROOT / published.PUBLISHED)
        theirs = theirs.sel(seed=0, split="held-out")
        if spec.dataset == "cifar-10":
            continue  # of which the study of quantizers takes more
        for bits in (8, 4):
            ours = kept.flip_rate.sel(network=network, quantizer=f"PTQ-W, {bits} bits, a step per tensor")
            size = vendors.HELD_OUT[spec.dataset]
            assert abs(float(ours - theirs.flip_rate.sel(bits=bits))) <= 2 / size + 1e-9, (network, bits)  # ties


def test_checkpoints_say_what_they_were_trained_by_and_are_as_small_as_their_weights():
    for spec in specs.BASELINES:
        model = sweeps._untrained(spec)
        size = checkpoint(spec).stat().st_size
        assert size < 4 * sum(tensor.numel() for tensor in model.state_dict().values()) + 5000
        with pytest.raises(
            ValueError, match=r"\.safetensors was trained by \{.*\}, not by \{.*delete it and run again"
        ):
            training.load_checkpoint(model, checkpoint(spec), replace(spec, seed=1).training())


@pytest.mark.slow
def test_a_classifier_comes_from_its_checkpoint_and_else_is_trained_with_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = specs.Stopping(width=8, epochs=2)
    trained = sweeps.classifier(spec)
    assert "Training: 100%" in capsys.readouterr().err
    again = sweeps.classifier(spec)
    assert "Training" not in capsys.readouterr().err
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), again.parameters()))
    kept = sweeps.checkpoint_file(spec)
    published = sweeps.CHECKPOINTS / "stopping-digits-mlp.safetensors"
    _store.save_bytes(kept.read_bytes(), published)
    kept.unlink()
    from_published = sweeps.classifier(spec)
    assert "Training" not in capsys.readouterr().err and not kept.exists()
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), from_published.parameters()))


def test_a_checkpoint_that_fits_in_part_leaves_nothing_to_train_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = specs.Stopping(width=8, epochs=2)
    trained = sweeps.classifier(spec)
    other = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    training.save_checkpoint(other, sweeps.checkpoint_file(spec), spec.training())
    again = sweeps.classifier(spec)
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), again.parameters()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not a whole safetensors file \(.*\): delete it and run again\."),
        (b"<html>", r"is not a whole safetensors file"),
        (b"half", r"is not a whole safetensors file"),
        (b"pickle", r"is not a whole safetensors file"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, content, message):
    model, path = torch.nn.Linear(3, 2), tmp_path / "x.safetensors"
    training.save_checkpoint(model, path, {"seed": 0})
    if content == b"half":
        content = path.read_bytes()[:-4]
    if content == b"pickle":
        torch.save(model.state_dict(), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        training.load_checkpoint(model, path)


def test_a_checkpoint_of_another_shape_or_none_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"There is no checkpoint .*x\.safetensors: run the study that trains it"
    ):
        training.load_checkpoint(torch.nn.Linear(3, 2), path)
    training.save_checkpoint(torch.nn.Linear(3, 2), path, {"seed": 0})
    with pytest.raises(ValueError, match=r"x\.safetensors does not fit the model: .*size mismatch"):
        training.load_checkpoint(torch.nn.Linear(4, 2), path)
    assert training.load_checkpoint(torch.nn.Linear(3, 2), path, {"seed": 0}).training is False
    first = path.read_bytes()
    training.save_checkpoint(training.load_checkpoint(torch.nn.Linear(3, 2), path), path, {"seed": 0})
    assert path.read_bytes() == first
