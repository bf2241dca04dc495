"""Runs and sweeps: the same bytes everywhere, resumed after any end, described, and measured right."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from joblib.externals.loky.process_executor import TerminatedWorkerError

from bqcore import _store
from studies import __main__, levels, measures, provenance, specs, sweeps, workers

ROOT = Path(__file__).resolve().parents[2]
STUDY = levels.STUDY
TINY = specs.Levels(epochs=2, nodes=(21, 11), width=8, bits=(8, 4))
TINY_COMMAND = ["run", "levels", "digits", "epochs=2", "nodes=[21,11]", "width=8", "bits=[8,4]"]
STOPPED = "studies run: stopped; finished runs are kept, and the same command goes on."


@pytest.fixture(scope="module")
def tiny() -> xr.Dataset:
    return STUDY.measured(TINY)


def start(folder: Path, code: str, *arguments: str, warnings: str = "error", **environment: str) -> subprocess.Popen:
    """Start Python code in *folder* as the leader of a new group of processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-W", warnings, "-c", code, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def sweep_process(folder: Path, *settings: str, limit: int | None = None, afresh: bool = False) -> subprocess.Popen:
    """
    Start the command line on the tiny spec with two workers, which are its forks or, as those of a script, start afresh;
    *limit* is the largest file it may write, in bytes.
    """
    code = "import resource, runpy, sys\n"
    if limit is not None:
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    script = "from studies import __main__; sys.exit(__main__.main(sys.argv[1:]))"
    code += script if afresh else "runpy.run_module('studies', run_name='__main__')"
    # Shown, not raised: what processes that clean up after workers would tell, they swallow as an error.
    return start(
        folder, code, *TINY_COMMAND, *settings, "--workers", "2", warnings="default", JOBLIB_TEMP_FOLDER=str(folder)
    )


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


@pytest.mark.slow
def test_the_same_spec_gives_the_same_bytes_in_any_process_and_on_any_number_of_threads(here):
    (here / "there").mkdir()
    code = f"from studies import catalogue, specs; catalogue.run(specs.Levels(**{asdict(TINY)}))"
    child = start(here / "there", code, PYTHONHASHSEED="4321", OMP_NUM_THREADS="2")
    found = {}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            _store.save_dataset(STUDY.measured(TINY), here / "threads.nc")
            found[f"{count} threads"] = (here / "threads.nc").read_bytes()
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    STUDY.measured(replace(TINY, seed=1, width=5, bits=(3, 2)))  # another run comes before
    STUDY.run(TINY)
    found["after another run"] = STUDY.file(TINY).read_bytes()
    assert (child.communicate(timeout=240), child.returncode) == (("", ""), 0)
    found["another process"] = (here / "there" / STUDY.file(TINY)).read_bytes()
    assert len(set(found.values())) == 1, [name for name in found if found[name] != found["1 threads"]]


def test_a_run_leaves_the_global_generators_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    STUDY.measured(TINY)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # noqa: NPY002


def test_a_network_alone_is_trained_with_a_bar_and_kept_for_its_runs(here, capsys):
    command = ["train", "levels", "digits", "epochs=2", "width=8", "seed=3"]
    assert __main__.main(command) == 0
    path = sweeps.checkpoint_file(replace(TINY, seed=3))
    told = capsys.readouterr()
    assert told.out == f"{path}\n" and "Training digits, seed 3: 100%" in told.err
    kept = path.stat().st_ino, path.stat().st_mtime_ns
    assert __main__.main(command) == 0
    STUDY.run(replace(TINY, seed=3))
    assert "Training" not in capsys.readouterr().err
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == kept


def test_networks_of_several_seeds_are_trained_at_once_and_a_stopped_block_goes_on(here, monkeypatch, capsys):
    jobs = sweeps.by_seed(TINY, 7)
    sweeps._train_together(jobs, workers=1, progress=True)
    assert "levels, digits, mlp: training: 100%" in capsys.readouterr().err
    files = [sweeps.checkpoint_file(job) for job in jobs]
    found = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert [sweeps.keep_classifier(job).read_bytes() for job in jobs] == found, "alone"
    for i in (1, 3, 4):  # as a block that was stopped leaves them
        files[i].unlink()
    stamps = [path.stat().st_mtime_ns for path in files if path.exists()]
    blocks = []
    monkeypatch.setattr(sweeps, "each", lambda call, work, **_: blocks.extend(work) or [call(*one) for one in work])
    sweeps._train_together([*jobs, Coin()], workers=1, progress=False)
    assert [[job for job, _ in files] for (files,) in blocks] == [[jobs[1], jobs[3], jobs[4]]]
    assert [path.read_bytes() for path in files] == found
    assert [files[i].stat().st_mtime_ns for i in (0, 2, 5, 6)] == stamps
    blocks.clear()
    sweeps._train_together([*jobs, replace(TINY, seed=7)], workers=1, progress=False)
    assert not blocks and not sweeps.checkpoint_file(replace(TINY, seed=7)).exists(), "one is trained by its own run"


def test_another_seed_gives_another_run(tiny):
    other = STUDY.measured(replace(TINY, seed=1))
    assert not np.array_equal(other.target, tiny.target)
    assert _store.largest_difference(tiny[["radius"]], other[["radius"]])[0] > 0


# Kept, resumed, replaced


@pytest.mark.slow
def test_a_killed_sweep_resumes_without_redoing_what_is_done(here):
    process = sweep_process(here, "seeds=100")
    wait_for(lambda: len(seed_files(here)) >= 3 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: group_is_gone(process))
    for semaphore in Path("/dev/shm").glob(f"sem.loky-{process.pid}-*"):
        semaphore.unlink()  # killed with the others was the process that would have
    done = seed_files(here)
    assert 3 <= len(done) < 100
    for path in done:
        assert _store.load_dataset(path).seed == int(path.stem[-3:])
    stamps = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in done]
    seeds = 1 + max(int(path.stem[-3:]) for path in done) + 2
    assert __main__.main([*TINY_COMMAND, f"seeds={seeds}", "--workers", "1"]) == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in done] == stamps
    joined = _store.load_dataset(STUDY.folder(TINY) / f"seeds-000-{seeds - 1:03d}.nc")
    assert joined.seed.values.tolist() == list(range(seeds))
    _store.save_dataset(STUDY.measured(replace(TINY, seed=1)), here / "alone.nc")
    assert (here / "alone.nc").read_bytes() == STUDY.file(replace(TINY, seed=1)).read_bytes()  # no matter which worker


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["workers start", "runs are made"])
def test_an_interrupted_sweep_ends_with_one_line(here, moment):
    process = sweep_process(here, "seeds=100", afresh=moment == "workers start")
    if moment == "workers start":
        process.stderr.readline()  # the first line of the progress bar
        time.sleep(1.5)
    else:
        wait_for(lambda: len(seed_files(here)) >= 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    out, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert out == ""
    assert [line for line in error.splitlines() if line and not line.startswith("levels, digits, mlp: ")] == [STOPPED]
    wait_for(lambda: group_is_gone(process), 120)
    assert len(seed_files(here)) < 100  # nothing goes on after it
    for path in seed_files(here):
        _store.load_dataset(path)


@pytest.mark.slow
def test_a_full_disk_ends_a_sweep_in_one_line_and_keeps_what_is_done(here):
    STUDY.run(TINY)
    kept = STUDY.file(TINY).read_bytes()
    process = sweep_process(here, "seeds=3", limit=len(kept) // 2)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert out == ""
    (line,) = [line for line in error.splitlines() if line and not line.startswith("levels, digits, mlp: ")]
    assert line.startswith("studies run: [Errno 27] ")
    assert line.endswith(".nc could not be written (File too large): nothing was lost; make room and run again.")
    assert seed_files(here) == [here / STUDY.file(TINY)]
    assert STUDY.file(TINY).read_bytes() == kept
    assert STUDY.sweep(TINY, 3, workers=1, progress=False).sizes["seed"] == 3  # there is room again


def test_a_worker_ended_from_outside_is_one_line(here, monkeypatch, capsys):
    def ended(*arguments, **keywords):
        raise TerminatedWorkerError("a worker was killed")

    monkeypatch.setattr(workers, "Parallel", lambda *arguments, **keywords: ended)
    assert __main__.main([*TINY_COMMAND, "seeds=2"]) == 2
    assert capsys.readouterr().err.endswith(
        "studies run: A worker was ended from outside (out of memory?): finished runs are kept, the same command goes on.\n"
    )


@pytest.mark.slow
def test_a_run_is_made_once_and_a_damaged_file_is_replaced(here, monkeypatch):
    first = STUDY.run(TINY)
    whole = STUDY.file(TINY).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(sweeps.Study, "measured", lambda *_, **options: pytest.fail("measured again"))
        xr.testing.assert_identical(STUDY.run(TINY), first)
    STUDY.run(replace(TINY, seed=1))
    other = STUDY.file(replace(TINY, seed=1)).read_bytes()
    for wrong in (b"", whole[:-1], whole[:1000], b"<html>", other):  # the last is whole, but of another spec
        STUDY.file(TINY).write_bytes(wrong)
        xr.testing.assert_identical(STUDY.run(TINY), first)
        assert STUDY.file(TINY).read_bytes() == whole


@pytest.mark.slow
def test_a_sweep_joins_its_runs_and_replaces_what_is_damaged_or_foreign(here, monkeypatch, capsys):
    spec = replace(TINY, seed=5)
    joined = STUDY.sweep(spec, 3, workers=1)
    assert "levels, digits, mlp: runs: 100%" in capsys.readouterr().err
    assert joined.seed.values.tolist() == [5, 6, 7]
    assert not levels.GRID_DIMS & set(joined.dims)
    assert json.loads(joined.attrs["spec"])["seed"] == 5
    assert (
        joined.attrs["command"]
        == "python -m studies run levels digits seed=5 'bits=[8,4]' width=8 epochs=2 'nodes=[21,11]' seeds=3"
    )
    for i in range(3):
        single = STUDY.run(replace(spec, seed=5 + i))
        for name, values in joined.data_vars.items():
            np.testing.assert_array_equal(values.isel(seed=i), single[name])
            assert values.attrs == single[name].attrs
    (file,) = STUDY.folder(spec).glob("seeds-*.nc")
    assert file.name == "seeds-005-007.nc"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    STUDY.file(replace(spec, seed=5)).write_bytes(STUDY.file(replace(spec, seed=7)).read_bytes())
    STUDY.file(replace(spec, seed=6)).write_bytes(b"damaged")
    xr.testing.assert_identical(STUDY.sweep(spec, 3, workers=1), joined)
    assert file.read_bytes() == whole
    monkeypatch.setattr(sweeps.Study, "measured", lambda *_, **options: pytest.fail("measured again"))
    assert STUDY.sweep(spec, 3, workers=1).identical(joined)
    assert STUDY.sweep(spec, 2, workers=1).identical(joined.isel(seed=[0, 1]).assign_attrs(
        seeds=2, title="Boundary-aware quantization: levels on digits, 2 runs", command=spec.command(2),
    ))  # fmt: skip
    assert "%" not in capsys.readouterr().err.split("100%")[-1]  # no bar where nothing is left to do


@dataclass(frozen=True)
class Coin(specs.Spec):
    """A study of nothing: the engine asks no more of a spec than this."""

    study: ClassVar[str] = "coins"
    dataset: ClassVar[str] = "none"
    seed: int = 0
    side: int = 1

    def attrs(self, seeds: int = 1, jobs: int | None = None) -> dict:
        return {"spec": self.text()}


def toss(coin: Coin) -> xr.Dataset:
    return xr.Dataset({"flip_rate": coin.side * coin.seed / 10}, {"seed": coin.seed})


@pytest.mark.parametrize("ending", [b"", None])
def test_any_study_runs_resumes_and_is_made_again_where_files_are_not_its_own(here, ending):
    made = []
    study = sweeps.Study(lambda coin: made.append(coin.seed) or toss(coin), notes=lambda found: ["heads"])
    found = study.sweep(Coin(), 3, workers=1, progress=False)
    assert found.flip_rate.values.tolist() == [0, 0.1, 0.2] and found.seed.values.tolist() == [0, 1, 2]
    assert found.flip_rate.attrs == {"long_name": "flip rate", "units": "fraction"}
    assert made == [0, 1, 2] and study.sweep(Coin(), 3).identical(found) and made == [0, 1, 2]
    study.joined_file(Coin(), 3).unlink()
    other = study.measured(Coin(seed=1, side=7))  # whole, and of another spec
    path = study.file(Coin(seed=1))
    path.write_bytes(ending) if ending is not None else _store.save_dataset(other, path)
    made.clear()
    assert study.sweep(Coin(), 3, workers=1, progress=False).identical(found) and made == [1]
    assert study.sweep(Coin(), 4, workers=1, progress=False).sizes["seed"] == 4 and made == [1, 3]
    assert study.folder(Coin(side=2)) != study.folder(Coin()) == study.folder(Coin(seed=5))
    later = replace(study, depends=lambda: {"versions": {"coin": "2"}})
    assert later.folder(Coin()) != study.folder(Coin())
    assert json.loads(later.measured(Coin()).attrs["versions"]) == {"coin": "2"}


def test_each_spec_has_a_folder_of_its_own_and_its_seeds_share_it(monkeypatch):
    others = [
        {"bits": (8, 3)}, {"bits": (4, 8)}, {"width": 9}, {"epochs": 3}, {"nodes": (11, 21)}, {"scheme": "full"},
        {"granularity": "channel"}, {"steps": 12}, {"share": 0.1},
    ]  # fmt: skip
    folders = {STUDY.folder(TINY), *(STUDY.folder(replace(TINY, **other)) for other in others)}
    assert len(folders) == 1 + len(others)
    assert STUDY.folder(replace(TINY, seed=7)) == STUDY.folder(TINY)
    assert STUDY.file(replace(TINY, seed=7)).name == "seed-007.nc"
    monkeypatch.setattr(provenance, "of", lambda *modules: {"code": "changed", "versions": {"torch": "2"}})
    assert STUDY.folder(TINY) not in folders


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: STUDY.sweep(TINY, 0), r"seeds is 0: give an integer of at least 1\."),
        (lambda: STUDY.sweep(TINY, 2, workers=0), r"workers is 0: give an integer of at least 1\."),
        (
            lambda: STUDY.sweep(replace(TINY, seed=2**32 - 1), 2, workers=1),
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
    assert specs.load(tiny.attrs["spec"]) == TINY
    assert tiny.attrs["command"] == TINY.command()
    assert set(json.loads(tiny.attrs["versions"])) == {"torch", "numpy", "scipy", "scikit-learn", "xarray"}
    assert tiny.seed == 0
    assert tiny.bits.values.tolist() == [32, 8, 4]
    assert tiny.nodes.values.tolist() == [21, 11]
    assert tiny.transition.values.tolist() == ["8→4"]
    assert dict(tiny.sizes) == {
        "bits": 3, "quantile": 2, "nodes": 2, "tau": 5, "axis": 2, "transition": 1, "t": 11, "cell_b": 20, "cell_a": 20, "b": 21,
        "a": 21, "sample": 450,
    }  # fmt: skip


def test_every_variable_has_a_long_name_and_units(tiny, here):
    for dataset in (tiny, STUDY.sweep(TINY, 2, workers=1, progress=False)):
        for name, variable in dataset.variables.items():
            assert set(variable.attrs) == {"long_name", "units"}, name
            assert all(variable.attrs.values()), name


def test_every_name_in_the_vocabulary_is_one_of_a_variable():
    """A name that no code writes is one that has been renamed."""
    words = set()
    for path in [*(ROOT / "bqcore").rglob("*.py"), *(ROOT / "studies").rglob("*.py")]:
        if path.name != "_vocabulary.py":
            words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8").partition("\n_OWN = {")[0]))
    written = words | {f"{kind}_{name}" for kind in ("plan", "decided", "nearest") for name in words}
    assert [name for name in measures.LONG_NAMES if name not in written] == []


def test_one_level_has_no_transition_but_all_else(here):
    single = STUDY.run(replace(TINY, bits=(4,)))
    assert "transition" not in single.dims
    assert {"accuracy", "boundary_jaccard", "labels"} <= set(single.data_vars)
