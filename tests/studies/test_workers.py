"""Workers and the process that they work for."""

import subprocess
import sys

import psutil
import pytest

from tests.helpers import ROOT

PARENT = """
import time
from studies import workers
for _ in workers.each(time.sleep, [(0,), (600,), (600,)], total=3, desc="", unit="", workers=2, progress=False):
    print("begun", flush=True)
"""


@pytest.mark.slow
def test_workers_end_soon_after_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "begun\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 4  # two workers, and two that clean up after them
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert not alive
