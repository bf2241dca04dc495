"""The explorer's data: what is kept of a network, the same bytes each time, and what is refused."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore import archives, explorer, models, runs, slices, specs
from bqcore.__main__ import main
from bqcore.results import load_dataset

ROOT = Path(__file__).resolve().parents[1]
KEPT = sorted(ROOT.glob("data/explorer/*.nc"))


def read(script: bytes) -> tuple[str, dict]:
    """Read a script as a browser does: the network's name and its content."""
    found = re.fullmatch(rb'\(window\.bqNetworks = window\.bqNetworks \|\| \{\}\)\[("[^"]+")\] = (\{.*\});\n', script)
    return json.loads(found[1]), json.loads(found[2])


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def small(seed: int = 0, *, size: int = 3, hidden: int = 4, classes: int = 3, samples: int = 6) -> xr.Dataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 17, (samples, size, size), generator=generator)
    plane = slices.pca_plane(images.flatten(1).double() / 16)
    targets = torch.randint(0, classes, (samples,), generator=generator)
    return explorer.network(
        models.mlp((size * size, hidden, classes), seed), plane, images, targets, name="digits", scale=16
    )


def test_digits_network_is_the_baseline_s_first_run(trained):
    found = explorer.digits_network()
    ours, theirs = explorer.model_of(found).state_dict(), trained.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(explorer.inputs_of(found), trained.split.test_inputs)
    assert np.array_equal(found.target, trained.split.test_classes)
    plane, wanted = explorer.plane_of(found), slices.pca_plane(trained.split.train_inputs)
    for field in dataclasses.fields(wanted):
        assert np.array_equal(getattr(plane, field.name), getattr(wanted, field.name))
    assert explorer.script(found) == explorer.script(explorer.digits_network())


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(2, 4), st.integers(1, 5), st.integers(2, 4), st.integers(3, 8))
def test_script_holds_every_value(seed, size, hidden, classes, samples):
    dataset = small(seed, size=size, hidden=hidden, classes=classes, samples=samples)
    name, content = read(explorer.script(dataset))
    assert name == content["name"] == "digits"
    assert [content[key] for key in ("input", "hidden", "class", "sample", "height", "width", "scale")] == [
        size * size, hidden, classes, samples, size, size, 16,
    ]  # fmt: skip
    for key in dataset.data_vars:
        values = array(content[key], dataset[key].dtype.newbyteorder("<").str)
        assert np.array_equal(values, dataset[key].values.ravel()), key


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_network_is_small_whole_and_accurate(path):
    found = load_dataset(path)
    assert found.attrs["name"] == path.stem and path.stat().st_size < 1_000_000
    assert found.sizes["sample"] == explorer.SHOWN and found.sizes["input"] == 784
    with torch.no_grad():
        decisions = explorer.model_of(found)(explorer.inputs_of(found)).argmax(1).numpy()
    # The networks reach 0.98 and 0.88 on the 10,000 official test images; 300 of them have a standard error of 0.02.
    assert (decisions == found.target.values).mean() > {"mnist": 0.95, "fashion-mnist": 0.82}[path.stem]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_network_is_the_first_of_the_stopping_chapter(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found, model = load_dataset(path), runs.classifier(specs.baseline("stopping", path.stem))
    for name, layer in (("first", model[1]), ("second", model[3])):
        np.testing.assert_array_equal(found[name], layer.weight.detach().numpy())
        np.testing.assert_array_equal(found[f"{name}_bias"], layer.bias.detach().numpy())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_network_is_collected_again_from_the_archives(path, tmp_path, monkeypatch, capsys):
    (status,) = archives.status((path.stem,))
    if not status.verified:
        pytest.skip(f"the explorer's {path.stem} was NOT collected again: {status.says}")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(explorer, "KEPT", tmp_path)
    assert main(["explorer", path.stem]) == 0
    assert capsys.readouterr().out == f"{tmp_path / path.name}\n"
    again, kept = load_dataset(tmp_path / path.name), load_dataset(path)
    for name in ("image", "target", "first", "second"):
        np.testing.assert_array_equal(again[name], kept[name])
    for name in ("origin", "low", "high"):  # sums over 10,000 images, whose last digits depend on the processor
        np.testing.assert_allclose(again[name], kept[name], atol=1e-9)


def test_a_network_without_archives_is_an_error_of_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BQ_DATA", str(tmp_path / "nowhere"))
    assert main(["explorer", "mnist"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bqcore explorer: ") and error.count("\n") == 1 and "nowhere" in error


def test_other_networks_and_sizes_that_differ_are_refused():
    good = small()
    model, plane, images, classes = explorer.model_of(good), explorer.plane_of(good), good.image, good.target
    images, classes = images.values, classes.values

    def refused(message, **other):
        given = {"model": model, "plane": plane, "images": images, "classes": classes, "name": "digits", "scale": 16}
        with pytest.raises(ValueError, match=message):
            explorer.network(**given | other)

    refused("layers are Linear, ReLU, Linear, ReLU, Linear: the explorer draws", model=models.mlp((9, 2, 2, 3), 0))
    refused("Network is 'cifar': choose one of 'digits', 'mnist', 'fashion-mnist'", name="cifar")
    refused(r"Images have shape \(6, 9\) of uint8: give \(N, height, width\) integers", images=images.reshape(6, 9))
    refused(r"Images have shape \(6, 3, 3\) of float64: give", images=images / 16)
    refused("There are 6 images of 9 pixels, 5 classes, a plane in 9 values and a model of 9", classes=classes[:5])
    refused("a plane in 9 values and a model of 4: give one class an image", model=models.mlp((4, 2, 3), 0))
