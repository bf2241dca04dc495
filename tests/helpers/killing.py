"""Programs that are killed, at random moments, and what they leave behind."""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import ROOT

GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip
FORKS = """
import json, os, runpy, sys
import studies.answers, studies.catalogue, studies.levels, studies.published
from studies import sweeps

studies.levels.STUDY.provenance(), sweeps.checkpoint_file(studies.specs.Levels())  # half a second, and then kept
print("ready", flush=True)
for line in sys.stdin:
    words, folder = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        os.chdir(folder)
        status, sys.argv = 1, words[1:]
        try:
            status = exec(words[1], {}) if words[0] == "-c" else runpy.run_module(words[1], run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        finally:
            os._exit(status or 0)
    os.setpgid(child, child)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SNAKEMAKE = ["-m", "snakemake", "--cores", "1", "--quiet", "all", "--nolock", "--rerun-incomplete"]


def started(words: list[str], folder: Path, **more: str) -> subprocess.Popen:
    """Start Python in *folder*, as the leader of a new group of processes."""
    environment = os.environ | {"PYTHONPATH": str(folder if (folder / "studies").exists() else ROOT)} | GIT | more
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


class Forked:
    """A fork of a process, the leader of a new group, with what is asked here of a process that was started."""

    def __init__(self, forks: subprocess.Popen, words: list[str], folder: Path):
        self.told, self.returncode = forks.stdout, None
        print(json.dumps([words, str(folder)]), file=forks.stdin, flush=True)
        self.pid = int(self.told.readline())

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end; what it says goes to where its parent's errors go."""
        if not select.select([self.told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout)
        self.returncode = int(self.told.readline())
        return "", None


@contextmanager
def forking() -> Iterator[Callable[..., Forked]]:
    """Return what starts Python with all that the studies import, so that it is killed at its work, not at imports."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | GIT
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", FORKS], env=environment, **pipes) as forks:
        assert forks.stdout is not None and forks.stdout.readline() == "ready\n"
        yield lambda words, folder: Forked(forks, words, folder)


def done(words: list[str], folder: Path, start: Callable = started, **more: str) -> str:
    """Run Python in *folder* to its end, which is a good one; return what it said."""
    process = start(words, folder, **more)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return said


def killed_at_random(
    words: list[str], folder: Path, times: int, parts: tuple[float, float], start: Callable = started, **more: str
) -> int:
    """
    Kill *times* starts of Python in *folder*, each at a part of a whole run's time; return how many still ran.

    If one ends before there are three, because the machine was busier before, all begins anew with the shorter time.
    """
    begin, fresh = time.monotonic(), shutil.copytree(folder, folder.parent / "fresh")
    done(words, folder.parent / "undisturbed", start, **more)
    whole, moments, kills = time.monotonic() - begin, random.Random(0), 0
    for _ in range(times):
        process, begin = start(words, folder, **more), time.monotonic()
        try:
            said, _ = process.communicate(timeout=moments.uniform(*parts) * whole)
            assert process.returncode == 0, said[-3000:]  # what was killed before it is no fault
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
