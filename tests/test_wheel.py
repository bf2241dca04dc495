"""The wheel in environments of its own, outside of the clone: with the oldest and the newest packages, without and with torch."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.audits import linear_onnx

pytestmark = [pytest.mark.network, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("onnx", "sklearn")
RANGES = PROJECT["dependencies"] + [r for extra in EXTRAS for r in PROJECT["optional-dependencies"][extra]]
SAID = "audits: functions, saved logits, scikit-learn, ONNX Runtime; torch: False"
OFFLINE = re.compile(
    "from versions: none|connection broken by|Max retries exceeded"
)  # what pip says without a registry
# Outside of an environment's packages nothing of the clone is to be found.
ENVIRON = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command) -> str:
    """Run a command outside of the clone and return what it says; without a registry the tests are skipped."""
    done = subprocess.run(
        list(map(str, command)), cwd=tempfile.gettempdir(), env=ENVIRON, capture_output=True, text=True, timeout=600
    )
    if done.returncode and OFFLINE.search(done.stdout + done.stderr):
        pytest.skip("no package registry could be reached: the wheel was NOT tested")
    assert done.returncode == 0, f"{command}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of what it is made of: building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "bqcore", folder / "bqcore", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder)
    (found,) = folder.glob("*.whl")
    return found


def environment(folder: Path, *packages) -> Path:
    """Make an environment with these packages and no other, and return its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    install(folder / "bin" / "python", *packages)
    return folder / "bin" / "python"


def install(python: Path, *packages) -> None:
    # Not compiled: of the thousands of modules that torch has few are imported here.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-compile",
        "--only-binary",
        ":all:",
    ]
    run(*pip, *packages)


def link_torch(python: Path) -> None:
    """Link the torch of this environment there: it is a gigabyte to unpack, and another may be one for GPUs."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    files = metadata.files("torch") or []
    for name in {file.parts[0] for file in files if len(file.parts) > 1} - {"..", "__pycache__"}:
        shutil.copytree(Path(torch.__file__).parents[1] / name, site / name, copy_function=linked)


def linked(source: str, target: str) -> None:
    """Make a file the same as another, or on another disk a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def use(python: Path, folder: Path) -> str:
    """Run the examples and the audits with an interpreter."""
    linear = nn.Linear(3, 4, bias=True)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.arange(12.0).reshape(3, 4).T % 5 - 2))
        linear.bias.zero_()
    (folder / "linear.onnx").write_bytes(linear_onnx(linear))
    return run(python, "-I", ROOT / "tests" / "helpers" / "installed.py", folder / "linear.onnx")


def test_the_oldest_versions_of_all_ranges_work_without_torch(wheel, tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip(
            "the oldest versions were NOT tested: they have wheels for Python 3.11, the oldest, and not for this one"
        )
    oldest = [re.sub(r">=([\w.]+).*", r"==\1", requirement) for requirement in RANGES]
    python = environment(tmp_path / "oldest", f"{wheel}[{','.join(EXTRAS)}]", *oldest)
    assert SAID in use(python, tmp_path)


def test_the_newest_versions_work_without_torch_and_with_it(wheel, tmp_path):
    python = environment(tmp_path / "newest", f"{wheel}[{','.join(EXTRAS)}]")
    assert SAID in use(python, tmp_path)
    command = python.parent / "bqcore"
    assert run(command, "audit", "--help") == run(python, "-m", "bqcore", "audit", "--help")
    link_torch(python)
    install(python, f"{wheel}[torch]", f"torch=={metadata.version('torch')}")
    assert SAID.replace("False", "True") in use(python, tmp_path)
