"""Folders of images: what holds no class does not count and is said; several folders number classes alike."""

import sys
from pathlib import Path

import pytest

from bqcore import __main__
from bqcore.auditing import loading
from tests.helpers.audits import images

FACTORIES = """
import torch

def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder with a module of factories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_folders", raising=False)
    Path("own_folders.py").write_text(FACTORIES, encoding="utf-8")
    return tmp_path


NO_CLASS = ["__pycache__", "@eaDir", ".git", ".ipynb_checkpoints", "__MACOSX", "lost+found", "#recycle", "empty"]


@pytest.mark.parametrize("name", NO_CLASS)
def test_folders_that_hold_no_class_do_not_count(here, name):
    images("data", {"cat": 2, "dog": 1, "~owl": 3, name: 0 if name == "empty" else 2})
    Path("data", name, "notes.txt").write_text("no image")
    images("data", {f"cat/{name}": 0 if name == "empty" else 2})  # thumbnails lie beside the images, too
    Path("data/cat/._0.png").write_bytes(b"what a file system keeps beside a file")
    split = loading.read_split("data")
    ((x, y),) = split()
    assert y.tolist() == [0, 0, 1, 2, 2, 2] and len(x) == 6
    assert split.note == f"data has folders that hold no class and are left out: {name}. 3 classes: cat, dog, ~owl."
    assert split.ids == ["cat/0.png", "cat/1.png", "dog/0.png", "~owl/0.png", "~owl/1.png", "~owl/2.png"]


def test_an_audit_and_the_other_commands_say_which_folders_are_left_out(here, capsys):
    images("data", {"a": 4, "b": 4, "c": 4, "@eaDir": 1})
    words = ["--heldout", "data", "--batch-size", "4"]
    audit = ["audit", "--reference", "own_folders:net", "--bits", "3", "--nodes", "0", "--no-order-check", *words]
    assert __main__.main(audit) == 0
    says = "data has folders that hold no class and are left out: @eaDir. 3 classes: a, b, c."
    assert f"Note: {says}\n" in capsys.readouterr().out and says in Path("audit/audit.html").read_text(encoding="utf-8")
    assert __main__.main(["blame", "--model", "own_folders:net", *words]) == 0
    assert capsys.readouterr().err == f"bqcore blame: {says}\n"


def test_images_beside_the_classes_are_said_and_a_plain_folder_needs_no_word(here):
    images("data", {"a": 1, "b": 1, "": 2})
    split = loading.read_split("data")
    assert split.note == "data has 2 images beside the folders of its 2 classes (a, b), which are left out."
    images("plain", {"": 3, "__pycache__": 1})
    (x,) = loading.read_split("plain")()
    assert len(x) == 3 and not hasattr(loading.read_split("plain"), "note")


def test_two_folders_number_classes_alike(here, capsys):
    images("cal", {"a": 3, "b": 3, "c": 3})
    images("held", {"a": 4, "c": 4, "b": 0})
    images("more", {"a": 4, "d": 4})
    words = ["audit", "--reference", "own_folders:net", "--bits", "8", "--nodes", "0", "--no-order-check"]
    assert __main__.main([*words, "--calibration", "cal", "--heldout", "held"]) == 0
    capsys.readouterr()
    calibration, held = loading.read_splits(["cal", "held"], [None, None])
    assert [part[1].tolist() for part in (*calibration(), *held())] == [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0] * 4 + [2] * 4]
    both = loading.read_splits(["cal", "more"], [None, None])
    assert next(both[1]())[1].tolist() == [0] * 4 + [3] * 4
