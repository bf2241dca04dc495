"""Runs and sweeps: the same bytes everywhere, resumed after any end, described, and measured right."""

import ast
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib.externals.loky.process_executor import TerminatedWorkerError

from bqcore import __main__ as command_line
from bqcore import boundary, data, models, results, runs, slices, train

ROOT = Path(__file__).resolve().parents[1]
TINY = runs.Spec(epochs=2, nodes=(21, 11), width=8, bits=(8, 4))
TINY_COMMAND = ["run", "digits", "epochs=2", "nodes=[21,11]", "width=8", "bits=[8,4]"]
LIVELY = runs.Spec(seed=3, epochs=8, nodes=(31, 16), width=12, bits=(8, 3, 2))  # decisions flip in all three ways
STOPPED = "bqcore run: stopped; finished runs are kept, and the same command goes on."


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder of its own, so that fresh runs are written there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tiny() -> xr.Dataset:
    return runs.measure(TINY)


@pytest.fixture(scope="module")
def lively() -> xr.Dataset:
    return runs.measure(LIVELY)


def start(folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start Python code in *folder* as the leader of a new group of processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def sweep_process(folder: Path, *settings: str, limit: int | None = None) -> subprocess.Popen:
    """Start the command line on the tiny spec with two workers; *limit* is the largest file it may write, in bytes."""
    code = "import resource, sys; from bqcore.__main__ import main\n"
    if limit is not None:
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    code += "sys.exit(main(sys.argv[1:]))"
    return start(folder, code, *TINY_COMMAND, *settings, "--workers", "2", JOBLIB_TEMP_FOLDER=str(folder))


def wait_for(condition, seconds: float = 240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def seed_files(folder: Path) -> list[Path]:
    return sorted((folder / "data" / "runs").glob("*/seed-*.nc"))


def group_is_gone(process: subprocess.Popen) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


# The same bytes


def test_the_same_spec_gives_the_same_bytes_in_any_process_and_on_any_number_of_threads(here):
    (here / "there").mkdir()
    code = f"from bqcore import runs; runs.run(runs.Spec(**{asdict(TINY)}))"
    child = start(here / "there", code, PYTHONHASHSEED="4321", OMP_NUM_THREADS="2")
    found = {}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.save_dataset(runs.measure(TINY), here / "threads.nc")
            found[f"{count} threads"] = (here / "threads.nc").read_bytes()
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    runs.measure(replace(TINY, seed=1, width=5, bits=(3, 2)))  # another run comes before
    runs.run(TINY)
    found["after another run"] = TINY.file().read_bytes()
    assert (child.communicate(timeout=240), child.returncode) == (("", ""), 0)
    found["another process"] = (here / "there" / TINY.file()).read_bytes()
    assert len(set(found.values())) == 1, [name for name in found if found[name] != found["1 threads"]]


def test_a_run_leaves_the_global_generators_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    runs.measure(TINY)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # noqa: NPY002


def test_other_batch_sizes_give_the_same_labels(lively, monkeypatch):
    for function, size in ((slices.slice_labels, 7), (boundary.radius, 200), (boundary.local_change, 11)):
        monkeypatch.setitem(function.__kwdefaults__, "batch_size", size)
    other = runs.measure(LIVELY)
    assert (other.labels == lively.labels).all()
    # Only the lengths are sums over a batch's own layout, so that they may differ in their last digits.
    lengths = ["radius", "displacement", "normal_variation"]
    xr.testing.assert_allclose(other[lengths], lively[lengths], rtol=1e-11, atol=1e-14)
    xr.testing.assert_identical(other.drop_vars(lengths), lively.drop_vars(lengths))


def test_another_seed_gives_another_run(tiny):
    other = runs.measure(replace(TINY, seed=1))
    assert not np.array_equal(other.target, tiny.target)
    assert results.largest_difference(tiny[["radius"]], other[["radius"]])[0] > 0


# Kept, resumed, replaced


def test_a_killed_sweep_resumes_without_redoing_what_is_done(here):
    process = sweep_process(here, "seeds=500")
    wait_for(lambda: len(seed_files(here)) >= 3 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: group_is_gone(process))
    for semaphore in Path("/dev/shm").glob(f"sem.loky-{process.pid}-*"):
        semaphore.unlink()  # killed with the others was the process that would have
    done = seed_files(here)
    assert 3 <= len(done) < 500
    for path in done:
        assert results.load_dataset(path).seed == int(path.stem[-3:])
    stamps = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in done]
    seeds = 1 + max(int(path.stem[-3:]) for path in done) + 2
    assert command_line.main([*TINY_COMMAND, f"seeds={seeds}", "--workers", "1"]) == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in done] == stamps
    joined = results.load_dataset(TINY.folder() / f"seeds-000-{seeds - 1:03d}.nc")
    assert joined.seed.values.tolist() == list(range(seeds))
    results.save_dataset(runs.measure(replace(TINY, seed=1)), here / "alone.nc")
    assert (here / "alone.nc").read_bytes() == replace(TINY, seed=1).file().read_bytes()  # no matter which worker


@pytest.mark.parametrize("moment", ["workers start", "runs are made"])
def test_an_interrupted_sweep_ends_with_one_line(here, moment):
    process = sweep_process(here, "seeds=500")
    if moment == "workers start":
        process.stderr.readline()  # the first line of the progress bar
        time.sleep(1.5)
    else:
        wait_for(lambda: len(seed_files(here)) >= 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    out, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert out == ""
    assert [line for line in error.splitlines() if line and not line.startswith("digits: runs:")] == [STOPPED]
    wait_for(lambda: group_is_gone(process), 120)
    for path in seed_files(here):
        results.load_dataset(path)


def test_a_full_disk_ends_a_sweep_in_one_line_and_keeps_what_is_done(here):
    runs.run(TINY)
    kept = TINY.file().read_bytes()
    process = sweep_process(here, "seeds=3", limit=len(kept) // 2)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert out == ""
    (line,) = [line for line in error.splitlines() if line and not line.startswith("digits: runs:")]
    assert line.startswith("bqcore run: [Errno 27] ")
    assert line.endswith(".nc could not be written (File too large): nothing was lost; make room and run again.")
    assert seed_files(here) == [here / TINY.file()]
    assert TINY.file().read_bytes() == kept
    assert runs.sweep(TINY, 3, workers=1, progress=False).sizes["seed"] == 3  # there is room again


def test_a_worker_ended_from_outside_is_one_line(here, monkeypatch, capsys):
    def ended(*arguments, **keywords):
        raise TerminatedWorkerError("a worker was killed")

    monkeypatch.setattr(runs, "Parallel", lambda *arguments, **keywords: ended)
    assert command_line.main([*TINY_COMMAND, "seeds=2"]) == 2
    assert capsys.readouterr().err.endswith(
        "bqcore run: A worker was ended from outside (out of memory?): finished runs are kept, the same command goes on.\n"
    )


def test_a_run_is_made_once_and_a_damaged_file_is_replaced(here, monkeypatch):
    first = runs.run(TINY)
    whole = TINY.file().read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "measure", lambda spec: pytest.fail("measured again"))
        xr.testing.assert_identical(runs.run(TINY), first)
    runs.run(replace(TINY, seed=1))
    other = replace(TINY, seed=1).file().read_bytes()
    for wrong in (b"", whole[:-1], whole[:1000], b"<html>", other):  # the last is whole, but of another spec
        TINY.file().write_bytes(wrong)
        xr.testing.assert_identical(runs.run(TINY), first)
        assert TINY.file().read_bytes() == whole


def test_a_sweep_joins_its_runs_and_replaces_what_is_damaged(here, monkeypatch, capsys):
    spec = replace(TINY, seed=5)
    joined = runs.sweep(spec, 3, workers=1)
    assert "digits: runs: 100%" in capsys.readouterr().err
    assert joined.seed.values.tolist() == [5, 6, 7]
    assert not runs.GRID_DIMS & set(joined.dims)
    assert json.loads(joined.attrs["spec"])["seed"] == 5
    assert (
        joined.attrs["command"]
        == "python -m bqcore run digits seed=5 'bits=[8,4]' width=8 epochs=2 'nodes=[21,11]' seeds=3"
    )
    for i in range(3):
        single = runs.run(replace(spec, seed=5 + i))
        for name, values in joined.data_vars.items():
            np.testing.assert_array_equal(values.isel(seed=i), single[name])
            assert values.attrs == single[name].attrs
    (file,) = spec.folder().glob("seeds-*.nc")
    assert file.name == "seeds-005-007.nc"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    replace(spec, seed=6).file().write_bytes(b"damaged")
    xr.testing.assert_identical(runs.sweep(spec, 3, workers=1), joined)
    assert file.read_bytes() == whole
    monkeypatch.setattr(runs, "measure", lambda spec: pytest.fail("measured again"))
    assert runs.sweep(spec, 3, workers=1).identical(joined)
    assert runs.sweep(spec, 2, workers=1).identical(joined.isel(seed=[0, 1]).assign_attrs(
        seeds=2, title="Boundary-aware quantization: digits, 2 runs", command=spec.command(2),
    ))  # fmt: skip
    assert "%" not in capsys.readouterr().err.split("100%")[-1]  # no bar where nothing is left to do


def test_each_spec_has_a_folder_of_its_own_and_its_seeds_share_it(monkeypatch):
    others = [
        {"bits": (8, 3)}, {"bits": (4, 8)}, {"width": 9}, {"epochs": 3}, {"nodes": (11, 21)}, {"scheme": "full"},
        {"granularity": "channel"}, {"steps": 12}, {"share": 0.1},
    ]  # fmt: skip
    folders = {TINY.folder(), *(replace(TINY, **other).folder() for other in others)}
    assert len(folders) == 1 + len(others)
    assert replace(TINY, seed=7).folder() == TINY.folder()
    assert replace(TINY, seed=7).file().name == "seed-007.nc"
    monkeypatch.setattr(runs, "provenance", lambda: {"code": "changed"})
    assert TINY.folder() not in folders


def test_provenance_covers_all_code_that_a_run_goes_through(tmp_path, monkeypatch):
    def imported(name: str) -> set[str]:
        tree = ast.parse((ROOT / "bqcore" / f"{name}.py").read_text(encoding="utf-8"))
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        return {module for node in froms for module in ([node.module] if node.module else [a.name for a in node.names])}

    closure, new = {"runs"}, {"runs"}
    while new:
        new = set().union(*(imported(name) for name in new)) - closure
        closure |= new
    assert sorted(runs._MODULES) == sorted(closure)
    # Any of these modules, changed, gives another digest, and so another folder of runs.
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    digests = []
    for changed in (None, *runs._MODULES):
        for name in runs._MODULES:
            (tmp_path / f"{name}.py").write_text("1\n" if name == changed else "0\n")
        digests.append(runs.provenance.__wrapped__()["code"])
    assert len(set(digests)) == 1 + len(runs._MODULES)


# Specs and settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "mnist"}, r"dataset is 'mnist': choose one of 'digits'\."),
        ({"seed": -1}, r"seed is -1: give an integer from 0 to 4294967295\."),
        ({"seed": 1.0}, r"seed is 1\.0: give an integer\."),
        ({"width": 0}, r"width is 0: give an integer of at least 1\."),
        ({"epochs": True}, r"epochs is True: give an integer\."),
        ({"steps": 1}, r"steps is 1: give an integer of at least 2\."),
        ({"bits": ()}, r"bits is \(\): give a list of integers, such as \[8, 4\]\."),
        ({"bits": 8}, r"bits is 8: give a list of integers"),
        ({"bits": (8, 1)}, r"bits is 1: give an integer from 2 to 16\."),
        ({"bits": (17,)}, r"bits is 17: give an integer from 2 to 16\."),
        ({"bits": (8, 4.0)}, r"bits is 4\.0: give an integer\."),
        ({"bits": (8, 4, 8)}, r"bits is \[8, 4, 8\]: give each value once\."),
        ({"nodes": (1,)}, r"nodes is 1: give an integer of at least 2\."),
        ({"nodes": (21, 21)}, r"nodes is \[21, 21\]: give each value once\."),
        ({"scheme": "wide"}, r"scheme is 'wide': choose one of 'narrow', 'full'\."),
        ({"granularity": "row"}, r"granularity is 'row': choose one of 'tensor', 'channel'\."),
        ({"share": 0}, r"share is 0: the boundary band would be empty\."),
        ({"share": 1.5}, r"share is 1\.5: give a number from 0 to 1\."),
        ({"share": float("nan")}, r"share is nan: give a number from 0 to 1\."),
    ],
)
def test_a_wrong_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        runs.Spec(**wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sed=3"], r"There is no parameter 'sed': did you mean 'seed'\?"),
        (["Bits=[8]"], r"There is no parameter 'Bits': did you mean 'bits'\?"),
        (["dataset=digits"], r"There is no parameter 'dataset': (choose from seed, bits, .*, seeds|did you mean)"),
        (["q=1"], r"There is no parameter 'q': choose from seed, bits, width, .*, seeds\."),
        (["seed"], r"'seed' is no setting: write name=value, such as seed=3\."),
        (["seed=1", "seed=1"], r"seed is given twice: give it once\."),
        (["seed=one"], r"seed is 'one': give a value of type int, such as 0\."),
        (["seed="], r"seed is '': give a value of type int"),
        (["seed=1.0"], r"seed is '1\.0': give a value of type int"),
        (["seed=true"], r"seed is 'true': give a value of type int"),
        (["bits=8"], r"bits is '8': give a value of type list, such as \[8,7,6,5,4,3,2\]\."),
        (["bits=[8,"], r"bits is '\[8,': give a value of type list"),
        (['bits=[8,"5"]'], r"bits is '5': give an integer\."),
        (["bits=[8,8]"], r"bits is \[8, 8\]: give each value once\."),
        (["bits=[]"], r"bits is \[\]: give a list of integers"),
        (["share=much"], r"share is 'much': give a value of type float, such as 0\.2\."),
        (["share=NaN"], r"share is nan: give a number from 0 to 1\."),
        (["scheme=1"], r"scheme is '1': give a value of type str, such as narrow\."),
        (["scheme=wide"], r"scheme is 'wide': choose one of"),
        (["seeds=0"], r"seeds is 0: give an integer of at least 1\."),
    ],
)
def test_wrong_settings_are_refused_by_name_before_anything_runs(here, capsys, given, message):
    with pytest.raises(ValueError, match=message):
        runs.parse(given)
    assert command_line.main(["run", "digits", *given]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("bqcore run: ") and printed.err.count("\n") == 1 and printed.out == ""
    assert list(here.iterdir()) == []


def test_settings_are_json_or_bare_words():
    given = ["seed=3", "bits=[8, 5]", "share=1", "scheme=full", 'granularity="channel"', "seeds=2"]
    assert runs.parse(given) == {
        "seed": 3, "bits": [8, 5], "share": 1, "scheme": "full", "granularity": "channel", "seeds": 2,
    }  # fmt: skip
    assert runs.parse([]) == {}


def test_every_parameter_is_explained_and_can_be_given(capsys):
    listed = runs.parameters()
    assert sorted(name for name, *_ in listed) == sorted([*asdict(runs.Spec()), "seeds"][1:])
    spec = runs.parse([f"{name}={default}" for name, _, default, _ in listed])
    assert spec.pop("seeds") == runs.SEEDS
    assert runs.Spec(**spec) == runs.Spec()
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["run", "--help"])
    shown = capsys.readouterr().out
    assert all(f"{name}={default}" in shown and says in shown for name, _, default, says in listed)


SPECS = st.builds(
    runs.Spec,
    seed=st.integers(0, 2**32 - 1),
    bits=st.lists(st.integers(2, 16), min_size=1, max_size=5, unique=True).map(tuple),
    width=st.integers(1, 500),
    epochs=st.integers(1, 500),
    nodes=st.lists(st.integers(2, 900), min_size=1, max_size=3, unique=True),
    scheme=st.sampled_from(["narrow", "full"]),
    granularity=st.sampled_from(["tensor", "channel"]),
    steps=st.integers(2, 50),
    share=st.floats(1e-3, 1) | st.just(1),
)


@settings(max_examples=60)
@given(SPECS, st.integers(1, 200))
def test_the_command_of_a_spec_gives_that_spec_again(spec, seeds):
    python, _, module, run, dataset, *given = shlex.split(spec.command(seeds))
    assert (python, module, run, dataset) == ("python", "bqcore", "run", "digits")
    parsed = runs.parse(given)
    assert parsed.pop("seeds", runs.SEEDS) == seeds
    assert runs.Spec(**parsed) == spec


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: runs.sweep(TINY, 0), r"seeds is 0: give an integer of at least 1\."),
        (lambda: runs.sweep(TINY, 2, workers=0), r"workers is 0: give an integer of at least 1\."),
        (
            lambda: runs.sweep(replace(TINY, seed=2**32 - 1), 2, workers=1),
            r"seed is 4294967296: give an integer from 0",
        ),
    ],
)
def test_wrong_sweeps_are_refused(here, call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert list(here.iterdir()) == []


# What is written


def test_a_run_says_what_it_is(tiny):
    assert set(tiny.attrs) == {"title", "spec", "command", "code", "versions"}  # and so no time stamp
    spec = json.loads(tiny.attrs["spec"])
    assert runs.Spec(**spec) == TINY
    assert tiny.attrs["command"] == TINY.command()
    assert set(json.loads(tiny.attrs["versions"])) == {"torch", "numpy", "scipy", "scikit-learn", "xarray"}
    assert tiny.seed == 0
    assert tiny.bits.values.tolist() == [32, 8, 4]
    assert tiny.nodes.values.tolist() == [21, 11]
    assert tiny.transition.values.tolist() == ["8→4"]
    assert dict(tiny.sizes) == {
        "bits": 3, "quantile": 2, "nodes": 2, "axis": 2, "transition": 1, "t": 11, "cell_b": 20, "cell_a": 20, "b": 21,
        "a": 21, "sample": 450,
    }  # fmt: skip


def test_every_variable_has_a_long_name_and_units(tiny, here):
    for dataset in (tiny, runs.sweep(TINY, 2, workers=1, progress=False)):
        for name, variable in dataset.variables.items():
            assert set(variable.attrs) == {"long_name", "units"}, name
            assert all(variable.attrs.values()), name
    assert set(runs._LONG_NAMES) == set(tiny.variables)


def test_one_level_has_no_transition_but_all_else(here):
    single = runs.run(replace(TINY, bits=(4,)))
    assert "transition" not in single.dims
    assert {"accuracy", "boundary_jaccard", "labels"} <= set(single.data_vars)


# The numbers


def test_the_float_classifier_does_not_differ_from_itself(lively):
    floating = lively.sel(bits=runs.FLOAT)
    for name in (
        "flip_rate", "right_to_wrong", "wrong_to_right", "wrong_to_other", "band_flip_rate", "pair_order_flip_rate",
        "band_pair_order_flip_rate", "displacement", "normal_variation", "boundary_jaccard", "effective_displacement",
        "grid_change", "third_class",
    ):  # fmt: skip
        assert (floating[name] == 0).all(), name


def test_all_values_are_in_their_range(lively):
    for name, values in lively.variables.items():
        kind = values.attrs["units"].split(" ")[0]
        if kind in ("share", "flag") or name == "boundary_jaccard":
            assert ((values >= 0) & (values <= 1) | values.isnull()).all(), name
        if kind == "count":
            assert values.dtype == np.int64 and (values >= 0).all(), name
    assert (lively.radius > 0).all() and (lively.displacement >= 0).all()
    assert ((lively.normal_variation >= 0) & (lively.normal_variation <= 2)).all()
    for name in ("radius", "displacement", "normal_variation"):
        assert (lively[name].sel(quantile=0.5) <= lively[name].sel(quantile=0.95)).all()
    assert (lively.four_class_cells <= lively.junctions).all()
    assert (lively.junction_union_changed <= lively.junction_union).all()
    np.testing.assert_allclose(lively.right_to_wrong + lively.wrong_to_right + lively.wrong_to_other, lively.flip_rate)
    assert (lively.right_to_wrong * lively.wrong_to_right * lively.wrong_to_other).max() > 0  # the spec is lively
    assert set(np.unique(lively.labels)) <= set(range(10)) and set(np.unique(lively.target)) == set(range(10))


def test_decisions_agree_with_plain_numpy(lively):
    split, w1, b1, w2, b2 = plain_model()
    x, y = split.test_inputs.numpy().astype(float), split.test_classes.numpy()
    z = {bits: np.maximum(x @ q(w1, bits).T + b1, 0) @ q(w2, bits).T + b2 for bits in (32, 8, 3, 2)}
    top = np.sort(z[32], axis=1)
    band = np.argsort(top[:, -1] - top[:, -2], kind="stable")[:90]
    first, second = np.argsort(-z[32], axis=1, kind="stable")[:, :2].T
    rows = np.arange(450)
    for bits in z:
        ours, a, b = lively.sel(bits=bits), z[32].argmax(1), z[bits].argmax(1)
        reversed_ = z[bits][rows, first] < z[bits][rows, second]
        expected = {
            "accuracy": np.mean(b == y), "flip_rate": np.mean(a != b), "right_to_wrong": np.mean((a == y) & (b != y)),
            "wrong_to_right": np.mean((a != y) & (b == y)), "band_flip_rate": np.mean(a[band] != b[band]),
            "wrong_to_other": np.mean((a != b) & (a != y) & (b != y)), "pair_order_flip_rate": np.mean(reversed_),
            "band_pair_order_flip_rate": np.mean(reversed_[band]),
            "third_class": np.mean((b != first) & (b != second)),
        }  # fmt: skip
        for name, value in expected.items():
            assert float(ours[name]) == pytest.approx(value, abs=1e-12), (bits, name)


def test_geometry_agrees_with_plain_numpy(lively):
    split, w1, b1, w2, b2 = plain_model()
    x, rows = split.test_inputs.numpy().astype(float), np.arange(450)
    levels = {}
    for bits in (32, 8, 3, 2):
        u, v = q(w1, bits), q(w2, bits)
        hidden = x @ u.T + b1
        levels[bits] = np.maximum(hidden, 0) @ v.T + b2, np.einsum("kh,nh,hd->nkd", v, hidden > 0, u)  # and gradients
    z, g = levels[32]
    first, second = np.argsort(-z, axis=1)[:, :2].T
    normal = g[rows, first] - g[rows, second]
    for bits, (z_q, g_q) in levels.items():  # rounding the weights to float32 leaves 1e-7 of the logits
        c = z_q.argmax(1)
        gap = z_q[rows, c][:, None] - z_q
        gap[rows, c] = np.inf
        radius = (gap / np.maximum(np.linalg.norm(g_q[rows, c][:, None] - g_q, axis=2), 1e-300)).min(1)
        shift = (z_q - z)[rows, first] - (z_q - z)[rows, second]
        normal_q = g_q[rows, first] - g_q[rows, second]
        lengths = [np.where(n.any(1), np.linalg.norm(n, axis=1), np.nan) for n in (normal, normal_q)]
        variation = 1 - (normal * normal_q).sum(1) / (lengths[0] * lengths[1])
        for name, values in {
            "radius": radius,
            "displacement": abs(shift / lengths[0]),
            "normal_variation": variation,
        }.items():
            np.testing.assert_allclose(
                lively[name].sel(bits=bits), np.nanquantile(values, [0.5, 0.95]), rtol=1e-5, atol=1e-9
            )


def test_slices_agree_with_plain_loops_over_the_labels(lively):
    def classes(bits: int) -> list[set]:
        grid = lively.labels.sel(bits=bits).values
        return [set(grid[i : i + 2, j : j + 2].ravel()) for i in range(30) for j in range(30)]

    step_a, step_b = (float(np.diff(lively[axis])[0]) for axis in "ab")
    floating = {k for k, found in enumerate(classes(32)) if len(found) > 1}
    for bits in (32, 8, 3, 2):
        cells, ours = classes(bits), lively.sel(bits=bits, nodes=31)
        mask = {k for k, found in enumerate(cells) if len(found) > 1}
        distance = 1 - len(mask & floating) / len(mask | floating)
        assert float(ours.boundary_jaccard) == pytest.approx(distance)
        assert int(ours.junctions) == sum(len(found) >= 3 for found in cells)
        assert int(ours.four_class_cells) == sum(len(found) == 4 for found in cells)
        assert float(ours.grid_change) == pytest.approx(
            float((lively.labels.sel(bits=bits) != lively.labels.sel(bits=32)).mean())
        )
        width = 2 * (step_a + step_b) / np.pi
        assert float(ours.effective_displacement) == pytest.approx(width * distance / (2 - distance))
    assert float(lively.boundary_jaccard.sel(bits=2, nodes=31)) > 0.1
    np.testing.assert_allclose([lively.step_a.sel(nodes=31), lively.step_b.sel(nodes=31)], [step_a, step_b])
    np.testing.assert_allclose(lively.step_a.sel(nodes=16), 2 * step_a)


def test_transitions_agree_with_their_maps(lively):
    np.testing.assert_array_equal(lively.junction_steps, lively.junction_map.sum(["cell_a", "cell_b"]))
    np.testing.assert_array_equal(lively.junction_union, lively.junction_map.any("t").sum(["cell_a", "cell_b"]))
    ends = lively.junctions.sel(nodes=31)
    for i, (first, second) in enumerate([(8, 3), (3, 2)]):
        steps = lively.junction_steps.isel(transition=i)
        assert (steps[0], steps[-1]) == (ends.sel(bits=first), ends.sel(bits=second))
    np.testing.assert_allclose(lively.t, np.linspace(0, 1, 11))


def test_the_plane_is_that_of_the_training_split_over_its_scores(lively):
    split = data.digits(LIVELY.seed)
    x = split.train_inputs.numpy().astype(float)
    _, values, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(lively.explained, (values**2 / (values**2).sum())[:2])
    scores = (x - x.mean(0)) @ axes[:2].T
    signs = np.sign((scores.max(0) + scores.min(0)) * [float(lively.a.mean()), float(lively.b.mean())])
    for axis, sign, ours in zip(range(2), signs, (lively.a, lively.b)):
        ends = np.sort(sign * np.array([scores[:, axis].min(), scores[:, axis].max()]))
        np.testing.assert_allclose([ours[0], ours[-1]], ends)
    expected = (split.test_inputs.numpy().astype(float) - x.mean(0)) @ axes[:2].T * signs
    np.testing.assert_allclose(lively.score, expected, atol=1e-12)
    assert lively.target.values.tolist() == split.test_classes.tolist()


def plain_model() -> tuple:
    """Train the lively run's network and give its split with weights and biases in float64."""
    split = data.digits(LIVELY.seed)
    model = models.mlp((64, LIVELY.width, 10), LIVELY.seed)
    train.fit(model, split.train_inputs, split.train_classes, epochs=LIVELY.epochs, seed=LIVELY.seed)
    return split, *(parameter.detach().numpy().astype(float) for parameter in model.parameters())


def q(weight: np.ndarray, bits: int) -> np.ndarray:
    """Quantize in the plainest way: narrow range, per tensor; the values are kept in float32, as the model's are."""
    step = abs(weight).max() / (2 ** (bits - 1) - 1)
    return weight if bits == 32 else (np.round(weight / step) * step).astype(np.float32).astype(float)
