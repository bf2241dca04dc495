"""Digests of code: they cover all that a study imports, change with the code, and not with what is said about it."""

import json
import subprocess
import sys

import pytest

from studies import provenance

MODULES = ("studies.levels", "studies.objectives", "studies.first_order", "studies.vendors", "studies.multiverse.sweep")
PACKAGE = {
    "studies/one.py": "from bqcore.metrics import two\n",
    "bqcore/metrics/two.py": "from .._checks import check\n\n\ndef f():\n    from . import three\n",
    "bqcore/metrics/three.py": "import numpy\n",
    "bqcore/_checks.py": '"""Checks."""\n\n\ndef check(x):\n    """Check it."""\n    return x\n',
    "bqcore/metrics/other.py": "1\n",
}


# Each in a fork of what has the packages that take long, and nothing of ours yet.
LOADED = """
import importlib, json, os, sys
import scipy.optimize, sklearn.linear_model, torch, xarray

for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        importlib.import_module(module)
        names = [name for name in sys.modules if name.partition(".")[0] in ("bqcore", "studies")]
        print(json.dumps([module, [file for name in names if (file := sys.modules[name].__file__)]]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_a_digest_covers_every_file_that_python_loads():
    command = [sys.executable, "-c", LOADED, *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=provenance.ROOT, check=True)
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert list(found) == list(MODULES)
    for module, files in found.items():
        loaded = {name for name in files if not name.endswith("__init__.py")}
        assert len(loaded) > 10
        assert loaded <= {str(path) for path in provenance.sources(module)}, module


def digest(folder, monkeypatch, **changed: str) -> str:
    """Return the digest of studies.one in a small project of its own."""
    for name, text in (PACKAGE | {name.replace("_of_", "/") + ".py": text for name, text in changed.items()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(provenance, "ROOT", folder)
    for cached in (provenance.sources, provenance._parsed):
        cached.cache_clear()
    try:
        return provenance.code_digest("studies.one")
    finally:
        provenance.sources.cache_clear()


def test_a_digest_changes_with_the_code_and_not_with_its_comments(tmp_path, monkeypatch):
    usual = digest(tmp_path, monkeypatch)
    assert [path.name for path in provenance.sources("studies.one")] == ["_checks.py", "three.py", "two.py", "one.py"]
    provenance.sources.cache_clear()
    for name, text in PACKAGE.items():
        key = name.removesuffix(".py").replace("/", "_of_")
        other = digest(tmp_path, monkeypatch, **{key: text + "x = 2\n"})
        assert (other == usual) == (name == "bqcore/metrics/other.py")
    said = PACKAGE["bqcore/_checks.py"].replace("Check it", "Check it well") + "# A reason.\n"
    assert digest(tmp_path, monkeypatch, bqcore_of__checks=said) == usual
