"""The book of the tests: built once a test run, from the sources as they are, while other tests run."""

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers import ROOT

NOTEBOOKS = sorted(path.stem for path in ROOT.glob("notebooks/[0-9][0-9]_*.py"))
# Chapters that cost most with the settings that a reader sees, which `make book` takes; the pages are the same.
FEW = {
    "05_exact": ["05_exact", "nodes=[201, 101, 51]", "bits=[8, 4, 3]"],
    "07_audit": ["07_audit", "seeds=3"],
}


def build(folder: Path, running: list[subprocess.Popen]) -> None:
    """
    Build the book from the current sources in *folder*, with notebooks executed before if they are as new.

    Whoever ends the tests early ends what is *running*, and adds None, so that nothing more is started.
    """
    for name in ("_config.yml", "_toc.yml", "CITATION.cff", "bqcore", "studies", "book", "data", "notebooks"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "runs", ".paired")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy2(source, folder)
    environ = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    stale = [name for name in NOTEBOOKS if not is_executed(folder / "notebooks", name)]

    def started(command: list[str], **more) -> subprocess.Popen:
        assert None not in running, "the tests have ended"
        running.append(subprocess.Popen([sys.executable, *command], cwd=folder, env=environ, **more))
        return running[-1]

    def run(command: list[str]) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = started(command, **pipes)
        try:
            said = "".join(process.communicate(timeout=1200))
        finally:
            process.kill()
        assert process.returncode == 0, f"{command}: {said[-3000:]}"

    if stale:
        (folder / ".cache").mkdir(exist_ok=True)
        # As the Snakefile does; it ends once it has nothing to read any more.
        warm = started(["notebooks/warm.py", "--serve"], stdin=subprocess.PIPE) if sys.platform == "linux" else None
        try:
            run(["-m", "studies", "run", "levels", "digits", "seeds=2"])  # first: its bar is no output of a cell
            words = [FEW.get(name, ["--if-declared", name, "seeds=2"]) for name in stale]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(run, [["-S", "notebooks/warm.py", "notebooks/execute.py", *given] for given in words]))
        finally:
            if warm:
                warm.communicate()
    run(["book/build.py"])


def is_executed(folder: Path, name: str) -> bool:
    """Return whether there is an executed copy of a notebook, no older than its source."""
    made = folder / "executed" / f"{name}.ipynb"
    return made.exists() and made.stat().st_mtime >= (folder / f"{name}.py").stat().st_mtime


def build_once(base: Path, running: list[subprocess.Popen]) -> Path:
    """Build the book below *base* if no other worker of this test run has, and give its folder; wait for one that does."""
    folder = base / "book"
    with (base / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            try:
                build(folder, running)
                (folder / "whole").touch()
            except Exception as error:  # in a thread: for the tests that ask for the book
                (folder / "failure").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    return folder
