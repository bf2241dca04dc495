"""notebooks/warm.py: Python that starts as a fork does what it would have done, and ends as it would have."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there the build starts notebooks warm")
ASKS = """
import os, sys

if sys.argv[1:] == ["torch"]:
    print("torch" in sys.modules)
print(__name__, sys.argv, os.getcwd(), os.environ["BQ_TEST"], sys.stdin.read(), sys.path[0])
print("and so on", file=sys.stderr)
sys.exit({"seven": 7, "words": "said in the end"}.get(sys.argv[-1]))
"""
WAITS = """
import pathlib, os, time

pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(60)
pathlib.Path("done").touch()
"""


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait(until, *about) -> None:
    """Wait until something holds, and fail if it does not."""
    end = time.monotonic() + 60
    while not until(*about):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder like a clone's, whose path is longer than a socket's name may be, with scripts to start."""
    folder = tmp_path_factory.mktemp("warm") / ("a long name with spaces " * 4).strip()
    (folder / "notebooks").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name in ("warm.py", "execute.py"):
        shutil.copy(ROOT / "notebooks" / name, folder / "notebooks")
    (folder / "asks.py").write_text(ASKS)
    (folder / "waits.py").write_text(WAITS)
    return folder


@pytest.fixture
def elsewhere(folder, tmp_path):
    """Return a copy of that folder, in which none serves."""
    return shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.sock", "executed"))


@pytest.fixture(scope="module")
def served(folder):
    """Serve warm starts in that folder; return the process that does."""
    command = [sys.executable, "notebooks/warm.py", "--serve"]
    server = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, process_group=0)
    wait((folder / ".cache/warm.sock").exists)
    yield server
    server.stdin.close()
    assert server.wait(timeout=60) == 0 and not (folder / ".cache/warm.sock").exists()


def start(folder, *words, warm=True, **options) -> subprocess.Popen:
    """Start Python, warm or as usual."""
    command = [sys.executable, *(["-S", "notebooks/warm.py"] if warm else []), *words]
    environment = os.environ | {"BQ_TEST": "blanks and ä\n", "LARGE": "x" * 100_000}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def outcome(process: subprocess.Popen) -> tuple:
    """Return what a process says when it is given a word, and its status."""
    said = process.communicate("given", timeout=60)
    return *said, process.returncode


@pytest.mark.parametrize("words", [["asks.py"], ["asks.py", "two words"], ["asks.py", "seven"], ["asks.py", "words"]])
def test_a_warm_start_says_and_ends_as_any_other(folder, served, words):
    assert outcome(start(folder, *words)) == outcome(start(folder, *words, warm=False))


def test_a_module_is_started_by_its_name(folder, served):
    said, wrong, status = outcome(start(folder, "-m", "asks"))
    usual = outcome(start(folder, "-m", "asks", warm=False))
    assert (wrong, status) == usual[1:] and said.split()[0] == "__main__"


def test_an_error_is_shown_and_gives_one(folder, served):
    said, wrong, status = outcome(start(folder, "missing.py"))
    assert (said, status) == ("", 1) and "missing.py" in wrong.splitlines()[-1]


def test_a_start_is_as_usual_where_the_one_that_serves_ends_before(elsewhere):
    script = elsewhere / "notebooks/warm.py"
    script.write_text(script.read_text().replace('"torch"', '"no_such_package"'))
    command = [sys.executable, "notebooks/warm.py", "--serve"]
    with subprocess.Popen(command, cwd=elsewhere, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        wait((elsewhere / ".cache/warm.sock").exists)
        assert outcome(start(elsewhere, "asks.py")) == outcome(start(elsewhere, "asks.py", warm=False))
        assert "no_such_package" in server.communicate()[1]


def test_it_is_warm_only_where_one_serves(folder, served, elsewhere):
    assert outcome(start(folder, "asks.py", "torch"))[0].startswith("True\n")
    assert outcome(start(elsewhere, "asks.py", "torch"))[0].startswith("False\n")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_who_asked_is_killed_and_so_is_what_was_asked_for(folder, served, how):
    asking = start(folder, "waits.py")
    wait(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    pid = int((folder / "pid").read_text())
    assert not gone(pid)
    asking.send_signal(how)
    asking.communicate()
    wait(gone, pid)
    (folder / "pid").unlink()
    assert not (folder / "done").exists()


@pytest.mark.parametrize("warm", [True, False])
def test_ctrl_c_reaches_what_was_asked_for_and_not_the_one_that_serves(folder, served, elsewhere, warm):
    here = folder if warm else elsewhere
    asking = start(here, "waits.py", process_group=served.pid)
    wait(lambda: (here / "pid").exists() and (here / "pid").read_text())
    os.killpg(served.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in asking.communicate(timeout=60)[1] and asking.returncode
    assert served.poll() is None
    (here / "pid").unlink()


def test_a_notebook_is_the_same_however_it_starts(folder, served):
    cells = "# %% [markdown]\n# One\n\n# %%\nimport matplotlib.pyplot as plt\n\nplt.plot([1, 2]);\n\n# %%\nprint(1)\n"
    (folder / "notebooks/01_one.py").write_text(cells)
    made = folder / "notebooks/executed/01_one.ipynb"
    whole = []
    for warm in (True, False):
        process = start(folder, "notebooks/execute.py", "01_one", warm=warm)
        assert outcome(process)[2] == 0
        whole.append(made.read_bytes())
        if warm:  # the kernel of the second one is not to start warm either
            (folder / ".cache/warm.sock").rename(folder / ".cache/away")
    (folder / ".cache/away").rename(folder / ".cache/warm.sock")
    assert whole[0] == whole[1] and b"image/png" in whole[0]
