"""Workers and the process that they work for, started afresh or as copies of it."""

import subprocess
import sys

import psutil
import pytest

from tests.helpers import ROOT

START = """
import os, time
if {forks}:
    os.environ |= {{"STUDIES_FORK": str(os.getpid()), "OMP_NUM_THREADS": "1"}}
from studies import workers
assert workers._may_fork() == {forks}
jobs = dict(total=3, desc="", unit="", workers=2, progress=False)
"""
WAITS = "for _ in workers.each(time.sleep, [(0,), (600,), (600,)], **jobs): print('begun', flush=True)"
GIVES = "print(sorted(workers.each(divmod, [(7, 2), (9, 4), (1, 1)], **jobs)))"
ENDS = "list(workers.each(os._exit, [(1,), (1,), (1,)], **jobs))"
either = pytest.mark.parametrize("forks", [False, True] if sys.platform == "linux" else [False])


def parent(forks: bool, does: str) -> subprocess.Popen:
    """Start a process that has workers."""
    command = [sys.executable, "-c", START.format(forks=forks) + does]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="DID NOT RUN, a command forks on Linux alone")
def test_a_process_with_threads_of_a_library_is_not_copied():
    does = "import torch; torch.set_num_threads(2); torch.ones(9, 9, 9999).cos(); print(workers._may_fork())"
    said, wrong = parent(True, does).communicate(timeout=60)
    assert (said, wrong) == ("False\n", "")


@pytest.mark.slow
@either
def test_what_workers_return_comes_back(forks):
    said, wrong = parent(forks, GIVES).communicate(timeout=60)
    assert (said, wrong) == ("[(1, 0), (2, 1), (3, 1)]\n", "")


@pytest.mark.slow
@either
def test_a_worker_that_ends_by_itself_is_one_line(forks):
    _, wrong = parent(forks, ENDS).communicate(timeout=60)
    assert wrong.splitlines()[-1].startswith("RuntimeError: A worker was ended from outside (out of memory?): ")


@pytest.mark.slow
@either
def test_workers_end_soon_after_a_parent_that_is_killed(forks):
    process = parent(forks, WAITS)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 4  # two workers, and two that clean up after them
    process.kill()
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=30)
    for one in alive:
        one.kill()
    assert not alive
