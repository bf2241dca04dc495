"""The public face: names that are loaded when asked for, what tab completion and help show, and signatures as written down."""

import subprocess
import sys
from pathlib import Path

import pytest

import bqcore


def test_importing_the_package_imports_no_torch():
    code = "import sys, bqcore; assert 'torch' not in sys.modules; bqcore.audit; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert callable(bqcore.audit) and "audit" in dir(bqcore)
    with pytest.raises(AttributeError, match="module 'bqcore' has no attribute 'adit'"):
        bqcore.adit  # noqa: B018


def test_what_the_package_exports_has_no_module_s_name():
    """Python would put the module in its place once that is imported."""
    names = {path.stem for path in Path(bqcore.__file__).parent.glob("*.py")}
    assert not names & set(bqcore._HOME) and all(callable(getattr(bqcore, name)) for name in bqcore._HOME)
