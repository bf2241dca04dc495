"""The commands sweep, blame and plan: the numbers of the functions, what they print and write, and one line for an error."""

import contextlib
import json
import os
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bqcore
from bqcore import __main__, _store
from bqcore.auditing import loading

FACTORIES = """
import torch

def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

def plain():
    return lambda x: x[:, :3]

def broken():
    raise KeyError("no such layer")
"""
MODEL = ["--model", "own_nets:net", "--weights", "net.safetensors"]
BOTH = ["--calibration", "cal.npz", "--heldout", "x.npy", "--heldout-classes", "y.npy"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with a module of factories, other weights for its network, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    Path("own_nets.py").write_text(FACTORIES, encoding="utf-8")
    model = loading.read_classifier("own_nets:net")
    save_file({name: 2 * tensor for name, tensor in model.state_dict().items()}, "net.safetensors")
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    with torch.no_grad():
        y = loading.read_classifier("own_nets:net", "net.safetensors")(torch.from_numpy(x)).numpy().argmax(1)
    np.savez("cal.npz", inputs=x[:150], classes=y[:150])
    np.save("x.npy", x[150:])
    np.save("y.npy", y[150:])


def given() -> tuple:
    return loading.read_classifier(*MODEL[1::2]), loading.read_split("cal.npz"), loading.read_split("x.npy", "y.npy")


def said(capsys, *words: str) -> str:
    """Run the command in this process, expect status 0, and return what it says."""
    assert __main__.main(list(words)) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out


def written(name: str, dataset) -> dict:
    """Return what stands in the JSON file, and check that the NetCDF file beside it holds *dataset*."""
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{name}.json", f"{name}.nc"]
    kept = _store.load_dataset(f"out/{name}.nc")
    assert kept.equals(dataset) and kept.command.startswith(f"python -m bqcore {name} --model own_nets:net")
    return json.loads(Path(f"out/{name}.json").read_text(encoding="utf-8"))


def test_a_sweep_prints_every_bit_width_and_the_recommendation(here, capsys):
    options = ["--bits", "8,3,2", "--rule", "flips", "--limit", "0.03", "--fraction", "0.3", "--granularity", "channel"]
    out = said(capsys, "sweep", *MODEL, *BOTH, *options, "--out", "out")
    found = bqcore.sweep(*given(), bits=(8, 3, 2), rule="flips", limit=0.03, fraction=0.3, granularity="channel")
    held = found.dataset.sel(split="heldout")
    table, conclusion = out.splitlines()[:-1], out.splitlines()[-1]
    assert conclusion == found.conclusion and table[0].split() == [
        "bytes",
        "flip",
        "rate",
        "band",
        "flip",
        "rate",
        "accuracy",
    ]
    assert [line.split() for line in table[2:]] == [
        [str(b), str(int(held.bytes.sel(bits=b))), *(f"{float(held[name].sel(bits=b)):.4g}" for name in ("flip_rate", "band_flip_rate", "accuracy"))]
        for b in (8, 3, 2)
    ]  # fmt: skip
    content = written("sweep", found.dataset)
    assert content == json.loads(found.to_json())
    for split, rates in (
        ("calibration", content["levels"][2]["calibration"]),
        ("heldout", content["levels"][2]["heldout"]),
    ):
        assert rates["flip_rate"] == float(found.dataset.flip_rate.sel(split=split, bits=2))
    assert content["levels"][2]["calibration"] != content["levels"][2]["heldout"]


def test_a_sweep_rounds_activations_too_if_asked(here, capsys):
    words = ["--bits", "8,4", "--activations", "static", "--activation-bits", "3", "--percentile", "99"]
    out = said(capsys, "sweep", *MODEL, *BOTH, *words)
    options = {"activations": "static", "activation_bits": 3, "percentile": 99.0}
    found = bqcore.sweep(*given(), bits=(8, 4), **options)
    assert out.endswith(f"{found}\n") and "Activations have 3 bits (static)" in out


def test_a_ranking_prints_the_layers_the_worst_first(here, capsys):
    split = ["--heldout", "x.npy", "--heldout-classes", "y.npy"]
    out = said(capsys, "blame", *MODEL, *split, "--bits", "3", "--gradient-samples", "40", "--out", "out")
    model, _, held = given()
    found = bqcore.blame_layers(model, held, bits=3, gradient_samples=40)
    assert [line.split()[0] for line in out.splitlines()[2:]] == found.layer.values.tolist()
    layers = written("blame", found)["layers"]
    assert [one["layer"] for one in layers] == found.layer.values.tolist()
    first = found.isel(layer=0)
    assert layers[0]["band_flip_rate"] == float(first.band_flip_rate) > 0 and layers[0]["bytes"] == int(first.bytes)
    assert layers[0]["displacement"] == first.displacement.values.tolist() and "flip_rate_low" not in layers[0]


def test_a_plan_prints_the_bits_of_each_layer_and_what_they_change(here, capsys):
    budget = bqcore.model_bytes(given()[0], 4)
    out = said(capsys, "plan", *MODEL, *BOTH, "--budget", str(budget), "--bits", "8,4,3,2", "--out", "out")
    plan = bqcore.plan_bits(*given(), budget=budget, bits=(8, 4, 3, 2))
    assert out.splitlines()[-1] == plan.conclusion
    assert {row[0]: int(row[1]) for row in map(str.split, out.splitlines()[2:-1])} == plan.bits
    content = written("plan", plan.dataset)
    assert (content["bits"], content["uniform"], content["conclusion"]) == (plan.bits, plan.uniform, plan.conclusion)
    assert [way["way"] for way in content["ways"]] == ["plan", "uniform"] and content["ways"][1]["bytes"] == budget
    rate = float(plan.dataset.flip_rate.sel(way="plan", split="heldout"))
    assert content["ways"][0]["heldout"]["flip_rate"] == rate


def test_skipped_layers_stay_in_float_and_this_is_said(here, capsys):
    says = "20.0 % of the weights are in none of these layers: 2."
    out = said(capsys, "blame", *MODEL, "--heldout", "x.npy", "--gradient-samples", "0", "--skip", "2")
    assert out.splitlines()[-1] == says and [line.split()[0] for line in out.splitlines()[2:-1]] == ["0"]
    out = said(capsys, "sweep", *MODEL, *BOTH, "--bits", "8,4", "--skip", "2")
    assert out.splitlines()[-1].endswith(" 20.0 % of the weights stay in float ('2').")


def test_without_a_folder_nothing_is_written_and_without_classes_there_is_no_accuracy(here, capsys):
    before = sorted(Path().iterdir())
    out = said(capsys, "sweep", *MODEL, "--calibration", "x.npy", "--heldout", "x.npy", "--bits", "8")
    assert "accuracy" not in out and sorted(Path().iterdir()) == before


AUDIT = ["audit", "--reference", MODEL[1], "--reference-weights", MODEL[3], "--bits", "3", *BOTH, "--nodes", "0"]


def test_an_audit_ends_in_a_verdict_and_names_layers_and_bits_if_asked_to(here, capsys):
    out = said(capsys, *AUDIT)
    assert "1. Layer: the same command with --explain says which one to keep in higher precision." in out
    out = said(capsys, *AUDIT, "--explain")
    model, calibration, held = given()
    found = bqcore.audit(model, bqcore.quantize_model(model, 3), calibration, held, nodes=0)
    found = found.explain(layers=bqcore.blame_layers(model, held, bits=3), sweep=bqcore.sweep(model, calibration, held))
    assert out == f"{found}\nThe page: {Path('audit', 'audit.html')}\n"
    kept = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))["verdict"]
    assert kept == json.loads(json.dumps(found.verdict.to_dict()))
    assert (
        said(capsys, *AUDIT[:7], "--nodes", "0", "--heldout", "x.npy").count(
            "--explain, with a torch module and --calibration, "
        )
        == 2
    )


def test_the_status_guards_a_release_by_what_was_found_or_if_asked_by_what_is_shown(here, capsys):
    """No limit that nobody stated stops a release; with --ship-only, one that is neither kept nor exceeded does."""
    rate = float(bqcore.audit(given()[0], bqcore.quantize_model(given()[0], 3), *given()[1:]).dataset.flip_rate[1])
    words = {
        (): ("do not ship", 0), ("--max-flips", f"{rate + 0.01}"): ("look", 0), ("--max-flips", f"{rate - 0.01}"): ("look", 1),
        ("--max-flips", f"{rate + 0.01}", "--ship-only"): ("look", 1), ("--ship-only", "--max-flips", "0.5"): ("ship", 0),
    }  # fmt: skip
    for more, (word, status) in words.items():
        assert __main__.main([*AUDIT, *more]) == status
        assert f"\n{word.capitalize()}: " in capsys.readouterr().out


REFUSED = [
    (["audit", *AUDIT[1:7], "--heldout", "x.npy", "--explain"], "--calibration is missing: see --help"),
    (["audit", "--reference", "own_nets:plain", *AUDIT[5:], "--explain"], "--explain quantizes torch modules, and own_nets:plain is none"),
    (["sweep", *BOTH], "--model is missing: see --help"),
    (["sweep", *MODEL, "--heldout", "x.npy"], "--calibration is missing: see --help"),
    (["sweep", *MODEL, *BOTH, "--bits", "8,1"], "Bit-width is 1: give an integer from 2 to 16"),
    (["sweep", *MODEL, *BOTH, "--rule", "jaccard"], "Rule is 'jaccard': choose one of 'accuracy', 'flips', 'band_flips'"),
    (["sweep", "--model", "own_nets:plain", *BOTH], "The model is function: PTQ-W needs a torch module"),
    (["sweep", "--model", "own_nets:broken", *BOTH], "a classifier or its factory failed with KeyError: 'no such layer'"),
    (["blame", *MODEL], "--heldout is missing: see --help"),
    (["blame", "--model", "net.pt", "--heldout", "x.npy"], "net.pt is read by unpickling, which can run any code"),
    (["blame", *MODEL, "--heldout", "x.npy", "--scheme", "wide"], "Scheme is 'wide': choose one of 'narrow', 'full'"),
    (["plan", *MODEL, *BOTH], "--budget is missing: see --help"),
    (["plan", *MODEL, *BOTH, "--budget", "10"], "The budget is 10 bytes, and 2 bits for all take "),
    (["plan", *MODEL, *BOTH, "--budget", "1000", "--size", "4"], "cal.npz holds arrays, which are taken as they are"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_is_wrong_is_named_in_one_line_with_status_2(here, capsys, words, message):
    assert __main__.main([*words, "--out", "out"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith(f"bqcore {words[0]}: ") and error.count("\n") == 1 and message in error
    assert not Path("out").exists()


def test_a_list_of_bits_that_is_no_numbers_is_refused_with_an_example(capsys):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["sweep", "--bits", "8,four"])
    assert "argument --bits: '8,four': give numbers with commas between, such as 8,6,4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_terminal_sees_within_two_seconds_that_a_sweep_runs_and_then_how_far_it_is(here):
    pty, ours = os.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    words = [sys.executable, "-m", "bqcore", "sweep", *MODEL, *BOTH, "--bits", "8,4", "--batch-size", "50"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(bqcore.__file__).parents[1]), "."])}
    start = time.monotonic()
    process = subprocess.Popen(words, stderr=ours, stdout=subprocess.PIPE, env=environment)
    os.close(ours)
    text = os.read(pty, 1000).decode()
    assert text.startswith("bqcore sweep: reading the classifier and the data") and time.monotonic() - start < 2
    with contextlib.suppress(OSError):  # with which a closed terminal ends
        while part := os.read(pty, 1000):
            text += part.decode(errors="replace")
    out, _ = process.communicate()
    os.close(pty)
    assert process.returncode == 0 and b"bits are the fewest" in out
    for title in ("Calibration split", "Held-out split"):  # 150 samples, by the reference and two candidates
        assert f"bqcore sweep, {title}: 100%" in text and "450/450" in text
