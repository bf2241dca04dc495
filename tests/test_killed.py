"""Work that is killed, done twice at once, or cannot be written: it goes on, and ends with the same bytes."""

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from studies import __main__
from tests.helpers import ROOT
from tests.helpers.killing import GIT, SNAKEMAKE, contents, done, forking, killed_at_random, started

pytestmark = pytest.mark.slow
RUN, SMALL = ["-m", "studies"], ["run", "levels", "digits", "epochs=2", "nodes=[21,11]", "width=8", "bits=[8,4]"]
MANY, ALONE = [*RUN, *SMALL, "seeds=20"], ["--workers", "1"]
FEW = [*SMALL, "seeds=4", *ALONE]
TWICE = """
import os, sys
from studies import __main__

other = os.fork()
status = __main__.main(sys.argv[1:])
sys.exit(status or (other and os.waitpid(other, 0)[1]))
"""
PUBLISH = """
from studies import answers, catalogue, published, specs
small = specs.Levels(epochs=2, nodes=(21, 11), width=8, bits=(8, 4))
specs.BASELINES, specs.BEYOND, specs.VARIANT_SEEDS = {small: 4}, {}, {}
published.publish(lambda run: run.attrs["spec"].encode() * 100_000)
"""


@pytest.fixture(scope="module")
def start():
    with forking() as started_quickly:
        yield started_quickly


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Return two equal empty folders: one for undisturbed work."""
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    return tmp_path / "undisturbed", tmp_path / "disturbed"


def test_a_study_that_is_killed_with_its_workers_ends_as_an_undisturbed_one(two, start):
    undisturbed, disturbed = two
    assert killed_at_random(MANY, disturbed, 8, (0.1, 0.4), start) >= 3
    done(MANY, disturbed, start)
    assert contents(disturbed / "data") == contents(undisturbed / "data") != {}


def test_a_study_that_is_killed_at_random_ends_as_an_undisturbed_one(two, start):
    undisturbed, disturbed = two
    assert killed_at_random([*MANY, *ALONE], disturbed, 10, (0.1, 0.4), start) >= 4
    done([*MANY, *ALONE], disturbed, start)
    assert contents(disturbed / "data") == contents(undisturbed / "data") != {}


def test_a_publication_that_is_killed_at_random_ends_as_an_undisturbed_one(two, start):
    undisturbed, disturbed = two
    done([*RUN, *FEW], undisturbed, start)
    (undisturbed / ".gitignore").write_text("data/runs\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=undisturbed, env=os.environ | GIT, check=True)
    shutil.copytree(undisturbed, disturbed, dirs_exist_ok=True)
    assert killed_at_random(["-c", PUBLISH], disturbed, 10, (0.1, 1.0), start) >= 3
    done(["-c", PUBLISH], disturbed, start)
    found = contents(disturbed / "data" / "results")
    assert found == contents(undisturbed / "data" / "results") and len(found) == 3
    assert contents(disturbed / "book") == contents(undisturbed / "book") != {}


def test_two_that_do_the_same_at_once_end_with_the_same(two, start):
    undisturbed, folder = two
    done(["-c", TWICE, *FEW], folder, start)
    done([*RUN, *FEW], undisturbed, start)
    assert contents(folder / "data") == contents(undisturbed / "data") != {}


@pytest.fixture
def small_clone(tmp_path) -> Path:
    """Return a folder with what the workflow reads of a clone."""
    for name in ("bqcore", "studies", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__", "executed", ".paired")
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=ignore)
    shutil.copy(ROOT / "Snakefile", tmp_path / "clone")
    return tmp_path / "clone"


def test_a_second_make_waits_for_the_first(small_clone):
    (small_clone / ".cache").mkdir()
    with (small_clone / ".cache" / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = started([*SNAKEMAKE, "--dry-run", "runs"], small_clone)
        assert second.stdout is not None
        said = second.stdout.readline()
        assert said == "Another make works on the book in this folder; this one waits for it.\n"
        assert second.poll() is None
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said


def test_a_clock_that_is_set_back_makes_no_work(small_clone):
    how = {"P": "seeds=1 epochs=1 width=8 nodes=[11,6] bits=[8,4]", "PROFILE": ""}
    done([*SNAKEMAKE, "runs"], small_clone, **how)
    made = small_clone / "data" / "runs" / "digits.nc"
    before = made.read_bytes(), made.stat().st_ino
    # All sources are newer than what is made of them, and than now.
    for path in [*small_clone.rglob("*.py"), small_clone / "Snakefile"]:
        os.utime(path, (time.time() + 86_400,) * 2)
    done([*SNAKEMAKE, "runs"], small_clone, **how)
    assert (made.read_bytes(), made.stat().st_ino) == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    def refused(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "mkstemp", refused)  # root, as whom tests may run, may write where modes forbid it
    assert __main__.main(["train", "levels", "digits", "epochs=1", "width=8"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("studies train: [Errno 30] data/runs/checkpoints/digits-mlp-")
    assert said.endswith(
        "could not be written (Read-only file system): nothing was lost; make it writable and run again."
    )
