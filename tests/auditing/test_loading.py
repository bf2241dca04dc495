"""Files that the audit reads, and its command line: what it gives, its status, and that no file can run code."""

import dataclasses
import importlib
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import bqcore
from bqcore import __main__, _store
from bqcore.auditing import comparison, limits, loading
from bqcore.quantizers import uniform

ROOT = Path(__file__).resolve().parents[2]
FACTORIES = """
import torch
from sklearn.linear_model import LogisticRegression

def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

def tied():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model

def broken():
    raise KeyError("no such layer")

def three():
    return 3

def plain():
    weight = net()[1].weight.detach().numpy()[:3]
    return lambda x: x.reshape(len(x), -1) @ weight.T
"""


class Hostile:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder with a module of factories, weights of its network, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_factories.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "own_factories", raising=False)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3, 2, 2)).astype(np.float32)
    model = loading.read_classifier("own_factories:net")
    with torch.no_grad():
        z, q = (m(torch.from_numpy(x)).numpy() for m in (model, uniform.quantize_model(model, 3)))
    y = np.where(generator.random(300) < 0.9, z.argmax(1), 0)
    np.savez("held.npz", inputs=x, classes=y)
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("z.npy", z)
    np.save("q.npy", q)
    save_file(uniform.quantize_model(model, 3).state_dict(), "q.safetensors")
    save_file(model.state_dict(), "z.safetensors")
    return tmp_path


def audit(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-m", "bqcore", "audit", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def error_of(*words: str, capsys) -> str:
    """Run the command in this process, expect status 2, and give its one line."""
    assert __main__.main(["audit", *map(str, words)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("bqcore audit: ") and error.count("\n") == 1
    return error


# What comes out


@pytest.mark.slow
def test_a_network_with_weights_and_data_makes_a_page_and_numbers(here):
    done = audit(
        here, "--reference", "own_factories:net", "--reference-weights", "z.safetensors", "--candidate",
        "own_factories:net", "--candidate-weights", "q.safetensors", "--calibration", "x.npy", "--heldout", "held.npz",
        "--nodes", "21", "--max-flips", "1", "--max-accuracy-loss", "0.9", "--out", "here",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    model = loading.read_classifier("own_factories:net")
    held = loading.read_split("held.npz")
    stated = {"flip_rate": 1.0, "accuracy_loss": 0.9}
    expected = bqcore.audit(model, uniform.quantize_model(model, 3), np.load("x.npy"), held, nodes=21, limits=stated)
    expected = dataclasses.replace(
        expected, commands=dict.fromkeys(expected.commands, "the same command with --explain")
    )
    assert done.stdout == f"{expected}\nThe page: {Path('here', 'audit.html')}\n"
    assert f"\n{expected.verdict.headline}\n" in done.stdout and expected.verdict.word == "ship"
    kept = _store.load_dataset("here/audit.nc")
    assert kept.equals(expected.dataset) and kept.command.startswith(
        "python -m bqcore audit --reference own_factories:net"
    )
    content = json.loads(Path("here/audit.json").read_text(encoding="utf-8"))
    assert content["conclusion"] == expected.conclusion and content["splits"]["calibration"]["samples"] == 300
    page = Path("here/audit.html").read_text(encoding="utf-8")
    assert "Within the stated limits" in page and expected.conclusion in page
    assert sorted(path.name for path in Path("here").iterdir()) == ["audit.html", "audit.json", "audit.nc"]


@pytest.mark.slow
def test_logits_alone_are_enough_and_an_exceeded_limit_is_status_1(here):
    words = ["--reference-logits", "z.npy", "--candidate-logits", "q.npy"]
    done = audit(here, *words, "--heldout-classes", "y.npy", "--max-band-flips", "0.001")
    rate = float(_store.load_dataset("audit/audit.nc").band_flip_rate.sel(split="heldout"))
    assert rate > 0.001 and (done.returncode, done.stderr) == (1, "")
    assert f"\nLimit exceeded: low-margin boundary-band flips: {rate:.4f} exceeds the limit 0.001\n" in done.stdout
    assert "A stated limit is exceeded" in Path("audit/audit.html").read_text(encoding="utf-8")
    pair = {"z": np.load("z.npy"), "q": np.load("q.npy")}
    expected = bqcore.audit(lambda b: b["z"], lambda b: b["q"], None, pair, nodes=0, gradient_samples=0)
    assert expected.dataset.band_flip_rate.sel(split="heldout") == rate


def test_bits_stand_for_ptq_w_of_the_reference(here, capsys):
    words = ["--reference", "own_factories:net", "--heldout", "x.npy", "--heldout-classes", "y.npy", "--nodes", "0"]
    assert __main__.main(["audit", *words, "--bits", "3", "--out", "bits"]) == 0
    assert (
        __main__.main(["audit", *words, "--candidate", "own_factories:net", "--candidate-weights", "q.safetensors"])
        == 0
    )
    assert _store.load_dataset("bits/audit.nc").equals(_store.load_dataset("audit/audit.nc"))
    said = shlex.join(["python", "-m", "bqcore", "audit", *words, "--bits", "3", "--out", "bits"])
    assert _store.load_dataset("bits/audit.nc").command == said and said in Path("bits/audit.html").read_text()
    capsys.readouterr()


def test_a_pair_of_onnx_files(here, capsys):
    for name, bits in (("float", None), ("three", 3)):
        model = loading.read_classifier("own_factories:net")
        model = model if bits is None else uniform.quantize_model(model, bits)
        nodes = [
            onnx.helper.make_node("Flatten", ["x"], ["flat"]), onnx.helper.make_node("Gemm", ["flat", "w1", "b1"], ["h"], transB=1),
            onnx.helper.make_node("Relu", ["h"], ["r"]), onnx.helper.make_node("Gemm", ["r", "w2", "b2"], ["z"], transB=1),
        ]  # fmt: skip
        values = {"w1": model[1].weight, "b1": model[1].bias, "w2": model[3].weight, "b2": model[3].bias}
        graph = onnx.helper.make_graph(
            nodes, "net", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 2, 2])],
            [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 3])],
            [onnx.numpy_helper.from_array(tensor.detach().numpy(), key) for key, tensor in values.items()],
        )  # fmt: skip
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
            f"{name}.onnx",
        )
    words = ["--reference", "float.onnx", "--candidate", "three.onnx", "--heldout", "held.npz", "--nodes", "0"]
    assert __main__.main(["audit", *words]) == 0
    rate = float(_store.load_dataset("audit/audit.nc").flip_rate.sel(split="heldout"))
    assert rate == (np.load("z.npy").argmax(1) != np.load("q.npy").argmax(1)).mean()
    capsys.readouterr()
    assert "own_factories:net" not in error_of(*words, "--reference-weights", "z.safetensors", capsys=capsys)


def test_a_folder_of_images_by_class(here, capsys):
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (40, 2, 2, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        folder = Path("images", "cat" if i < 20 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    Path("images/dog/notes.txt").write_text("no image")
    split = loading.read_split("images", mean=[0.5], std=[0.5, 0.25, 0.5])
    ((x, y),) = split()
    expected = (pixels.transpose(0, 3, 1, 2) / np.float32(255) - np.float32(0.5)) / np.array(
        [0.5, 0.25, 0.5], np.float32
    )[:, None, None]
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    assert x.dtype == np.float32 and y.tolist() == [0] * 20 + [1] * 20
    ((larger, _),) = loading.read_split("images", size=(4, 5))()
    expected = [np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR)) for image in pixels]
    assert np.array_equal(larger, np.moveaxis(expected, -1, 1) / np.float32(255))
    words = [*NET, "--bits", "4", "--heldout", "images", "--nodes", "9", "--no-order-check"]
    assert __main__.main(["audit", *words]) == 0
    assert int(_store.load_dataset("audit/audit.nc").samples.sel(split="heldout")) == 40
    capsys.readouterr()
    Image.new("L", (3, 2)).save("images/dog/99.png")
    message = error_of(*words, capsys=capsys)
    assert "99.png is 2 × 3 and 00.png 2 × 2: give a size that all are brought to (--size)." in message
    Path("images/dog/99.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    assert "99.png is no image that can be read: " in error_of(*words, capsys=capsys)
    with pytest.raises(ValueError, match="Mean has 2 numbers and the images 3 channels: give one a channel"):
        loading.read_split("images", mean=[0.1, 0.2])
    Path("none").mkdir()
    with pytest.raises(ValueError, match="none holds no images"):
        loading.read_split("none")


def test_gray_images_have_one_channel_and_no_classes_without_folders(here):
    Path("flat").mkdir()
    Image.new("L", (3, 2), 51).save("flat/a.png")
    (x,) = loading.read_split("flat")()
    assert x.shape == (1, 1, 2, 3) and np.array_equal(x, np.full(x.shape, 51 / np.float32(255)))


def test_images_are_gray_only_if_all_of_them_are(here):
    Path("mixed").mkdir()
    Image.new("L", (3, 2), 51).save("mixed/a.png")
    Image.new("1", (3, 2), 1).save("mixed/b.png")
    (x,) = loading.read_split("mixed", mean=[0.0])()
    assert x.shape == (2, 1, 2, 3)
    Image.new("RGB", (3, 2), (0, 102, 255)).save("mixed/c.png")
    with pytest.raises(ValueError, match="Mean has 2 numbers and the images 3 channels"):
        loading.read_split("mixed", mean=[0.1, 0.2])
    (x,) = loading.read_split("mixed")()
    assert x.shape == (3, 3, 2, 3)
    np.testing.assert_array_equal(x[..., 0, 0], np.float32([[51] * 3, [255] * 3, [0, 102, 255]]) / 255)


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [("a.png", np.uint16, "I;16"), ("a.tif", np.uint16, "I;16"), ("a.tif", np.int32, "I"), ("a.tif", np.float32, "F")],
)
def test_images_of_more_than_8_bits_are_refused_and_not_clipped(here, name, kind, mode):
    for folder in ("alone", "behind"):
        Path(folder).mkdir()
        Image.fromarray(np.full((2, 3), 300, kind)).save(f"{folder}/{name}")
    Image.new("RGB", (3, 2)).save("behind/0.png")
    message = rf"{name} is no image that can be read: its values have over 8 bits \(mode {mode}\): save 8-bit images or"
    for folder in ("alone", "behind"):
        with pytest.raises(ValueError, match=message):
            list(loading.read_split(folder)())


def test_tied_weights_may_stand_in_a_file_once_or_under_each_of_their_names(here):
    model = loading.read_classifier("own_factories:tied")
    with torch.no_grad():
        model[0].weight += 1
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, "once.safetensors")
    save_file(state, "each.safetensors")
    assert len(load_file("once.safetensors")) == 3 and len(load_file("each.safetensors")) == 4
    for name in ("once.safetensors", "each.safetensors"):
        found = loading.read_classifier("own_factories:tied", name)
        assert found[0].weight is found[2].weight
        assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in state.items())
    for changed, message in (
        ({"0.weight": None, "2.weight": None}, "1 tensors are missing and 0 unknown, first [02].weight"),
        ({"0.weight": None, "2.bias": None}, "1 tensors are missing and 0 unknown, first 2.bias"),
        ({"0.bias": torch.ones(2)}, "size mismatch for 0.bias: copying a param with shape torch.Size\\(\\[2\\]\\)"),
    ):
        given = {name: tensor for name, tensor in (state | changed).items() if tensor is not None}
        save_file(given, "wrong.safetensors")
        with pytest.raises(ValueError, match=f"^wrong.safetensors does not fit the model: {message}"):
            loading.read_classifier("own_factories:tied", "wrong.safetensors")


def test_a_split_that_is_left_out_has_no_classes(here):
    assert loading.read_split(None) is None and loading.read_split(None, mean=[0.5]) is None
    message = r"^y\.npy holds classes of no inputs: give these too \(--calibration\), or leave it out\.$"
    with pytest.raises(ValueError, match=message):
        loading.read_split(None, "y.npy")


@pytest.mark.parametrize(
    ("arrays", "inputs", "labelled"),
    [
        ({"inputs": 1, "classes": 1}, "array", True), ({"x": 1, "y": 1}, "array", True), ({"images": 1, "labels": 1}, "array", True),
        ({"image": 1, "row": 1, "y": 1}, "dict", True), ({"pixels": 1}, "dict", False), ({"data": 1}, "array", False),
    ],
)  # fmt: skip
def test_arrays_of_an_npz_file_by_their_names(here, arrays, inputs, labelled):
    np.savez("data.npz", **{name: np.arange(6) for name in arrays})
    split = loading.read_split("data.npz")
    assert isinstance(split, tuple) == labelled
    assert isinstance(split[0] if labelled else split, dict) == (inputs == "dict")


# No file runs code


def hostile_files(folder: Path) -> dict[str, list[str]]:
    """Write files that leave a mark if they are unpickled, each with the words of a command that names it."""
    bad = Hostile(folder / "mark")
    np.save("bad.npy", np.array([bad], dtype=object), allow_pickle=True)
    Path("raw.npy").write_bytes(pickle.dumps(bad))
    np.savez("bad.npz", inputs=np.array([bad], dtype=object))
    Path("raw.npz").write_bytes(pickle.dumps(bad))
    for suffix in ("pt", "pth", "bin", "pkl", "joblib", "safetensors", "onnx"):
        torch.save(bad, f"bad.{suffix}")
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)), "bad.pt2")
    net = ["--reference", "own_factories:net"]
    data = ["--heldout", "held.npz", "--bits", "4"]
    words = {name: [*net, "--bits", "4", "--heldout", name] for name in ("bad.npy", "raw.npy", "bad.npz", "raw.npz")}
    words |= {
        f"bad.{suffix}": ["--reference", f"bad.{suffix}", *data]
        for suffix in ("pt", "pth", "bin", "pkl", "joblib", "pt2", "onnx")
    }
    words["bad.npy "] = ["--reference-logits", "bad.npy", "--candidate-logits", "q.npy"]
    words |= {f"bad.{s} ": [*net, "--reference-weights", f"bad.{s}", *data] for s in ("safetensors", "pt")}
    return words


def test_a_hostile_file_is_refused_by_name_and_runs_nothing(here, capsys):
    cases = hostile_files(here)
    for name, words in cases.items():
        assert name.strip() in error_of(*words, capsys=capsys), name
        assert not Path("mark").exists(), name
    assert "unpickling, which can run any code" in error_of(*cases["bad.pt2"], capsys=capsys)
    with pytest.raises(FileExistsError):  # the payload works: here it is unpickled on purpose
        for _ in range(2):
            np.load("bad.npy", allow_pickle=True)


def test_an_image_that_would_be_run_by_another_program_is_refused(here, monkeypatch, capsys):
    Path("bin").mkdir()
    Path("bin/gs").write_text(f"#!/bin/sh\ntouch {here / 'mark'}\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    Path("images/cat").mkdir(parents=True)
    picture = Path("images/cat/0.png")
    picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\n(x) print\n%%EOF\n")
    words = ["--reference", "own_factories:net", "--bits", "4", "--heldout", "images"]
    assert "0.png is no image that can be read: " in error_of(*words, capsys=capsys)
    assert not Path("mark").exists()
    with pytest.raises(OSError), Image.open(picture) as image:  # the payload works: here it is run on purpose
        image.load()
    assert Path("mark").exists()


@pytest.mark.parametrize("option", ["--mean", "--std", "--size"])
def test_a_list_that_is_no_numbers_is_refused_with_an_example(capsys, option):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["audit", option, "0.5,half"])
    assert f"argument {option}: '0.5,half': give numbers with commas between, such as" in " ".join(
        capsys.readouterr().err.split()
    )


# Refusals

NET = ["--reference", "own_factories:net"]
REFUSED = [
    ([], "--reference is missing: give classifiers and data, or logits of both"),
    (NET, "--heldout is missing"),
    ([*NET, "--heldout", "held.npz"], "Give either --candidate or --bits"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--candidate", "a:b"], "Give either --candidate or --bits"),
    ([*NET, "--heldout", "held.npz", "--bits", "1"], "Bit-width is 1: give an integer from 2 to 16"),
    (["--reference", "own_factories:plain", "--heldout", "held.npz", "--bits", "4"], "--bits quantizes torch modules, and own_factories:plain is function"),
    (["--reference", "no_such_module:net", "--heldout", "held.npz", "--bits", "4"], "no_such_module:net: the module cannot be imported from here"),
    (["--reference", "own_factories:nett", "--heldout", "held.npz", "--bits", "4"], "the module own_factories has no nett"),
    (["--reference", "own_factories.py", "--heldout", "held.npz", "--bits", "4"], "'own_factories.py' is no classifier: give module:factory"),
    (["--reference", "own_factories:broken", "--heldout", "held.npz", "--bits", "4"], "a classifier or its factory failed with KeyError: 'no such layer'"),
    ([*NET, "--heldout", "held.npz", "--candidate", "own_factories:three"], "The candidate is int: give a torch module"),
    ([*NET, "--heldout", "held.npz", "--candidate", "none.onnx"], "There is no file none.onnx"),
    ([*NET, "--heldout", "none.npz", "--bits", "4"], "There is no file none.npz"),
    ([*NET, "--heldout", "none.csv", "--bits", "4"], "none.csv is no data: give an .npz or .npy file, or a folder of images"),
    ([*NET, "--heldout", "held.npz", "--heldout-classes", "y.npy", "--bits", "4"], "held.npz holds classes already: leave y.npy out"),
    ([*NET, "--heldout", "x.npy", "--heldout-classes", "short.npy", "--bits", "4"], "Held-out split has 300 inputs and 299 classes: give one class"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--reference-weights", "none.safetensors"], "There is no file none.safetensors"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--reference-weights", "other.safetensors"], "does not fit the model: 4 tensors are missing and 1 unknown, first 1.bias"),
    (["--reference-logits", "z.npy"], "The logits of one classifier are missing: give --reference-logits and --candidate-logits"),
    (["--reference-logits", "z.npy", "--candidate-logits", "q.npy", "--bits", "4"], "Logits are given, which need no --bits: leave it out"),
    (["--reference-logits", "z.npy", "--candidate-logits", "cut.npy"], "inputs hold arrays of different lengths (reference: 300, candidate: 299)"),
    (["--reference-logits", "z.npy", "--candidate-logits", "shuffled.npy"], "one of them is in another order"),
    (["--reference-logits", "z.npy", "--candidate-logits", "q.npy", "--max-right-to-wrong", "0.1"], "A limit is stated for right_to_wrong, which is not measured without classes"),
    (["--reference-logits", "z.npy", "--candidate-logits", "q.npy", "--max-flips", "2"], "Limit of flip_rate is 2.0: give a number from -1 to 1"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--nodes", "1"], "Nodes a side is 1: give at least 2, or 0 to leave slices out"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--size", "0,2"], "--size is [0.0, 2.0]: give height and width, such as 32,32"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--mean", "0.5", "--std", "0.5"], "held.npz holds arrays, which are taken as they are: prepare them and leave --mean, --std out"),
    ([*NET, "--heldout", "x.npy", "--bits", "4", "--size", "4,4"], "x.npy holds arrays, which are taken as they are: prepare them and leave --size out"),
    ([*NET, "--heldout", "held.npz", "--bits", "4", "--calibration-classes", "y.npy"], "y.npy holds classes of no inputs: give these too (--calibration), or leave it out"),
    (["--reference-logits", "z.npy", "--candidate-logits", "z.npy", "--mean", "0.5"], "Logits are given, which need no --mean: leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_is_wrong_is_named_in_one_line_with_status_2(here, words, message, capsys):
    np.save("short.npy", np.load("y.npy")[1:])
    np.save("cut.npy", np.load("q.npy")[1:])
    np.save("shuffled.npy", np.load("q.npy")[np.random.default_rng(0).permutation(300)])
    save_file({"weight": torch.ones(2)}, "other.safetensors")
    assert message in error_of(*words, capsys=capsys)
    assert not Path("audit").exists()


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (["--max-flips", "10"], "Limit of flip_rate is 10.0: give a number from -1 to 1"),
        (["--max-right-to-wrong", "0.1"], "A limit is stated for right_to_wrong, which is not measured without classes"),
        (["--max-accuracy-loss", "0.1"], "A limit is stated for accuracy_loss, which is not measured without classes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "words",
    [
        ["--reference-logits", "z.npy", "--candidate-logits", "q.npy"], [*NET, "--bits", "4", "--heldout", "x.npy"],
        [*NET, "--bits", "4", "--heldout", "images"],
    ],
    ids=["logits", "array", "images"],
)  # fmt: skip
def test_a_limit_that_cannot_be_judged_is_refused_before_anything_is_measured(
    here, monkeypatch, capsys, words, limit, message
):
    Path("images").mkdir()
    Image.new("RGB", (2, 2)).save("images/a.png")
    monkeypatch.setattr(comparison, "audit", lambda *given, **options: pytest.fail("measured"))
    assert message in error_of(*words, *limit, capsys=capsys)


def test_what_was_measured_is_kept_before_it_is_judged(here, monkeypatch, capsys):
    def exceeded(*given):
        raise ValueError("no judge")

    monkeypatch.setattr(limits, "exceeded", exceeded)
    assert "no judge" in error_of("--reference-logits", "z.npy", "--candidate-logits", "q.npy", capsys=capsys)
    content = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
    assert content["conclusion"] == _store.load_dataset("audit/audit.nc").conclusion


def test_a_missing_package_is_named_with_what_to_do(here, monkeypatch, capsys):
    Path("a.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ValueError,
        match=r"An .onnx file needs the package onnxruntime, which is not installed: pip install 'bqcore\[onnx\]'\.",
    ):
        loading.read_classifier("a.onnx")


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_report(here, monkeypatch, capsys):
    words = ["audit", "--reference-logits", "z.npy", "--candidate-logits", "q.npy"]
    assert __main__.main(words) == 0
    before = Path("audit/audit.html").read_bytes()
    code = (
        "import resource, sys; from bqcore.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nsys.exit(main(sys.argv[1:]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "could not be written" in done.stderr
    assert Path("audit/audit.html").read_bytes() == before and not list(Path("audit").glob(".*"))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("bqcore", ["audit"], "the same command begins anew"),
        ("bqcore", ["plan"], "the same command begins anew"),
        ("studies", ["explorer", "mnist"], "the same command begins anew"),
        ("studies", ["data"], "what came is kept, and the same command goes on"),
        ("studies", ["run", "vendors"], "finished runs are kept, and the same command goes on"),
    ],
)
def test_ctrl_c_is_answered_by_what_is_kept(monkeypatch, capsys, program, words, says):
    def stopped(options):
        raise KeyboardInterrupt

    module = importlib.import_module(f"{program}.__main__")
    monkeypatch.setattr(module, f"_{words[0]}", stopped)
    assert module.main(words) == 130
    assert capsys.readouterr() == ("", f"\n{program} {words[0]}: stopped; {says}.\n")


def test_every_limit_of_the_command_line_is_a_measure():
    names = {name for name, _ in __main__._LIMITS.values()}
    assert names <= set(limits.LIMITS)
