"""Programs that are killed, at random moments, and what they leave behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import ROOT

GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip
SNAKEMAKE = ["-m", "snakemake", "--cores", "1", "--quiet", "all", "--nolock", "--rerun-incomplete"]


def started(words: list[str], folder: Path, **more: str) -> subprocess.Popen:
    """Start Python in *folder*, as the leader of a new group of processes."""
    environment = os.environ | {"PYTHONPATH": str(folder if (folder / "studies").exists() else ROOT)} | GIT | more
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def done(words: list[str], folder: Path, **more: str) -> str:
    """Run Python in *folder* to its end, which is a good one; return what it said."""
    process = started(words, folder, **more)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return said


def killed_at_random(words: list[str], folder: Path, times: int, parts: tuple[float, float], **more: str) -> int:
    """
    Kill *times* starts of Python in *folder*, each at a part of a whole run's time; return how many still ran.

    If one ends before there are three, because the machine was busier before, all begins anew with the shorter time.
    """
    begin, fresh = time.monotonic(), shutil.copytree(folder, folder.parent / "fresh")
    done(words, folder.parent / "undisturbed", **more)
    whole, moments, kills = time.monotonic() - begin, random.Random(0), 0
    for _ in range(times):
        process, begin = started(words, folder, **more), time.monotonic()
        try:
            process.communicate(timeout=moments.uniform(*parts) * whole)
            if kills < 3:
                whole, kills = min(whole, time.monotonic() - begin), 0
                shutil.rmtree(folder)
                shutil.copytree(fresh, folder)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    for semaphore in Path("/dev/shm").glob("sem.loky-*"):
        if not Path(f"/proc/{semaphore.name.split('-')[1]}").exists():
            semaphore.unlink()  # killed with the others was the process that would have
    return kills


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below *folder* by name, but for drafts that a killed process leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
