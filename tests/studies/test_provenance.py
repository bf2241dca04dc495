"""Digests of code: they cover all that a study imports, change with the code, and not with what is said about it."""

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


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_digest_covers_every_file_that_python_loads(module):
    code = (
        f"import sys, {module}\n"
        "ours = (m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('bqcore', 'studies') and m.__file__)\n"
        "print(*ours, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=provenance.ROOT, check=True)
    loaded = {name for name in done.stdout.splitlines() if not name.endswith("__init__.py")}
    assert len(loaded) > 10
    assert loaded <= {str(path) for path in provenance.sources(module)}


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
