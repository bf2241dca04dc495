"""What the tests of the studies share: the folder that they work in."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture
def clone(monkeypatch):
    """Work in the folder of the clone itself, only to read."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_claims(here) -> Path:
    """Work in a folder that has the true claims alone."""
    (here / "data").mkdir()
    shutil.copy(ROOT / "data" / "claims.yml", here / "data")
    return here
