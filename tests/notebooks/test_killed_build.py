"""A build of a book that is killed at random moments, and what the next one makes of what it left."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.killing import SNAKEMAKE, contents, done, killed_at_random

pytestmark = pytest.mark.slow
HOW = {"P": "seeds=1 epochs=1 width=8 nodes=[11,6] bits=[8,4]", "PROFILE": ""}
CONFIG = """
only_build_toc_files: true
execute: {execute_notebooks: "off"}
sphinx: {local_extensions: {offline: book/_ext, outdated: book/_ext, chapters: book/_ext}}
"""
NOTEBOOK = """
# %% [markdown]
# # Notebook {0}
# %%
from bqcore._store import load_dataset

float(load_dataset("data/runs/digits.nc").accuracy[0, 0]) + {0}
"""


def small_clone(folder: Path) -> Path:
    """Make a clone with two notebooks, which run in a second, and a book of three pages."""
    for name in ("bqcore", "studies", "book/_ext"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    own = shutil.ignore_patterns("[0-9]*", "__*", "executed", ".paired")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=own)
    for name in ("Snakefile", "CITATION.cff", "book/build.py"):
        shutil.copy(ROOT / name, folder / name)
    for number in (0, 1):
        (folder / f"notebooks/0{number}_one.py").write_text(NOTEBOOK.format(number), encoding="utf-8")
    (folder / "_config.yml").write_text(CONFIG, encoding="utf-8")
    chapters = "[{file: notebooks/executed/00_one}, {file: notebooks/executed/01_one}]"
    (folder / "_toc.yml").write_text(f"{{format: jb-book, root: book/index, chapters: {chapters}}}\n", encoding="utf-8")
    (folder / "book/index.md").write_text("# A book\n", encoding="utf-8")
    return folder


def test_a_book_whose_build_is_killed_at_random_is_that_of_an_undisturbed_one(tmp_path):
    undisturbed, disturbed = (small_clone(tmp_path / name) for name in ("undisturbed", "disturbed"))
    assert killed_at_random(SNAKEMAKE, disturbed, 8, (0.15, 0.5), **HOW) >= 3
    done(SNAKEMAKE, disturbed, **HOW)
    for made in ("notebooks/executed", "data/runs", "_build/html"):
        assert contents(disturbed / made) == contents(undisturbed / made) != {}
    said = done(SNAKEMAKE, disturbed, **HOW)
    assert "Notebook" not in said and "Book" not in said  # all is taken for whole
