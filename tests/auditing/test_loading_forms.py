"""Files as people have them: arrays of other names, weights of wrapped models, ASCII."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bqcore import __main__, _store
from bqcore.auditing import loading
from tests.helpers.audits import images

ROOT = Path(__file__).resolve().parents[2]
FACTORIES = """
import torch

def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))

def wrapped():
    return torch.nn.DataParallel(net())

def tied():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder with a module of factories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_forms", raising=False)
    Path("own_forms.py").write_text(FACTORIES, encoding="utf-8")
    return tmp_path


# Arrays by other names


KEYS = [
    ("X", "Y"), ("x_test", "y_test"), ("X_test", "label"), ("images", "target"), ("test_images", "test_labels"),
    ("features", "Target"), ("data", "label"), ("INPUT", "class"), ("x-val", "y-val"), ("samples", "Classes"),
    ("x.train", "labels_train"),
]  # fmt: skip


@pytest.mark.parametrize("keys", KEYS)
def test_arrays_of_other_names_are_known(here, keys):
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    np.savez("data.npz", **dict(zip(keys, (x, y))))
    inputs, classes = loading.read_split("data.npz")
    assert np.array_equal(inputs, x) and np.array_equal(classes, y)


def test_arrays_without_names_are_known_by_what_they_are(here):
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    np.savez("data.npz", x, y)
    inputs, classes = loading.read_split("data.npz")
    assert np.array_equal(inputs, x) and np.array_equal(classes, y)
    np.savez("data.npz", x)
    assert np.array_equal(loading.read_split("data.npz"), x)
    np.savez("data.npz", image=x, row=x, label=y)  # inputs by name stay
    inputs, classes = loading.read_split("data.npz")
    assert set(inputs) == {"image", "row"} and np.array_equal(classes, y)
    np.savez("data.npz", x=x, y=np.array(["cat", "dog"] * 3))  # for an estimator that knows them
    assert loading.read_split("data.npz")[1].tolist() == ["cat", "dog"] * 3


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["x_train", "y_train", "x_test", "y_test"], "data.npz holds the classes y_test, y_train: keep one of them, and its"),
        (["inputs", "labels", "targets"], "data.npz holds the classes labels, targets: keep one of them, and its inputs"),
        (["x_train", "x_test"], "data.npz holds the inputs x_test, x_train: keep one of them"),
        (["y"], "data.npz holds the classes y and no inputs: known are inputs, input, x, "),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_named_with_what_is_known(here, keys, says):
    np.savez("data.npz", **{key: np.arange(6) for key in keys})
    with pytest.raises(ValueError, match=f"^{says}"):
        loading.read_split("data.npz")


def test_an_array_that_a_model_does_not_take_is_named_with_the_names_of_classes(here, capsys):
    np.savez("data.npz", pixels=np.ones((9, 12), "f4"), digit=np.zeros(9, int))
    words = ["audit", "--reference", "own_forms:net", "--bits", "4", "--heldout", "data.npz"]
    assert __main__.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pixels of shape (9, 12) and type float32, digit of shape (9,)" in error
    assert (
        "each goes to it by its name; classes would be called classes, class, labels, label, targets or target" in error
    )


# Weights of wrapped models


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["module", "_orig_mod", "model", "net"]), min_size=1, max_size=3))
def test_weights_of_wrapped_models_are_those_of_the_model(tmp_path_factory, wrappers):
    folder = tmp_path_factory.mktemp("wrapped")
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    prefix = ".".join(wrappers)
    save_file({f"{prefix}.{key}": value for key, value in plain.state_dict().items()}, folder / "w.safetensors")
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    loading._load(other, str(folder / "w.safetensors"))
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in other.state_dict().items())


def test_a_wrapped_model_takes_plain_weights_and_tied_ones_any(here):
    plain = loading.read_classifier("own_forms:net")
    state = {key: value + 1 for key, value in plain.state_dict().items()}
    save_file(state, "plain.safetensors")
    found = loading.read_classifier("own_forms:wrapped", "plain.safetensors")
    assert all(torch.equal(found.state_dict()[f"module.{key}"], value) for key, value in state.items())
    tied = loading.read_classifier("own_forms:tied")
    once = {f"module.{key}": value + 1 for key, value in tied.state_dict().items() if key != "1.weight"}
    save_file(once, "tied.safetensors")
    found = loading.read_classifier("own_forms:tied", "tied.safetensors")
    assert found[0].weight is found[1].weight and torch.equal(found[1].weight, once["module.0.weight"])
    save_file({"module.0.weight": torch.ones(3, 3), "other.bias": torch.ones(2)}, "wrong.safetensors")
    with pytest.raises(ValueError, match="does not fit the model: 3 tensors are missing and 2 unknown, first 0.bias"):
        loading.read_classifier("own_forms:tied", "wrong.safetensors")


# A terminal that knows ASCII alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_the_command_writes_its_files_under_an_ascii_terminal(here, settings):
    images(Path("bilder-größe"), {"ä": 5, "é→": 5, "c": 5, "@eaDir": 1})
    words = ["--reference", "own_forms:net", "--bits", "3", "--heldout", "bilder-größe", "--out", "ergebnis-ü"]
    command = [sys.executable, "-m", "bqcore", "audit", *words, "--no-order-check", "--nodes", "5"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{here}", "PYTHONDONTWRITEBYTECODE": "1"} | settings
    done = subprocess.run(command, env=environment, capture_output=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in Path("ergebnis-ü").iterdir()) == ["audit.html", "audit.json", "audit.nc"]
    kept = _store.load_dataset("ergebnis-ü/audit.nc")
    assert "bilder-größe" in kept.command
    assert "bilder-größe" in Path("ergebnis-ü/audit.html").read_text(encoding="utf-8")
    assert "3 classes: c, ä, é→." in kept.notes
