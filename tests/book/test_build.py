"""A build reads only what has changed, by content, and gives the same pages as one from nothing; a fault stays one."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from tests.helpers import ROOT

pytestmark = pytest.mark.slow
CONFIG = """
only_build_toc_files: true
execute: {execute_notebooks: "off"}
parse: {myst_enable_extensions: [dollarmath]}
sphinx:
  local_extensions: {offline: book/_ext, outdated: book/_ext, results: book/_ext, chapters: book/_ext}
  config: {numfig: true}
"""
TOC = """
format: jb-book
root: book/index
parts:
  - caption: One
    numbered: true
    chapters: [{file: book/first}, {file: book/second}, {file: notebooks/executed/00_third}]
"""
FIGURE = "\n```{figure} dot.svg\n:name: %s\nA dot.\n```\n"
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def notebook(folder: Path, text: str) -> None:
    cells = [new_markdown_cell(text, id="cell-0")]
    made = folder / "notebooks/executed/00_third.ipynb"
    made.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), made)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Return the folder of a book of four pages, with our program, once built."""
    folder = tmp_path_factory.mktemp("small book")
    shutil.copytree(ROOT / "book/_ext", folder / "book/_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "book/build.py", folder / "book")
    for name in ("bqcore", "studies"):
        (folder / name).symlink_to(ROOT / name)
    write(folder / "_config.yml", CONFIG)
    write(folder / "_toc.yml", TOC)
    write(folder / "CITATION.cff", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    write(folder / "book/dot.svg", DOT)
    write(folder / "book/index.md", "# A book\n\n[](the-second) shows {numref}`figure-b`.\n")
    write(folder / "book/first.md", "# Alpha\n\nNothing.\n")
    write(folder / "book/second.md", "(the-second)=\n# Beta\n" + FIGURE % "figure-b" + "\n```{notebooks}\n```\n")
    write(folder / "notebooks/00_third.py", (ROOT / "notebooks/10_objectives.py").read_text(encoding="utf-8"))
    shutil.copy2(ROOT / "notebooks/execute.py", folder / "notebooks")
    notebook(folder, "# Gamma\n\nAs executed.\n")
    built(folder)
    return folder


def built(folder: Path, fault: str = "") -> tuple[int, int]:
    """Build the book of a folder, which has a *fault* or none; return how many pages were read as new and as changed."""
    environ = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "book/build.py"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    assert fault in said and done.returncode == int(bool(fault)), said
    added, changed = re.search(r"(\d+) added, (\d+) changed, 0 removed", said).groups()
    return int(added), int(changed)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files of a built book."""
    made = folder / "_build/html"
    return {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}


def assert_as_from_nothing(folder: Path) -> None:
    """Check the built book against one that is built from nothing, file by file."""
    found = files(folder)
    shutil.rmtree(folder / "_build")
    built(folder)
    anew = files(folder)
    assert found.keys() == anew.keys()
    assert not [name for name in anew if found[name] != anew[name]]


def page(folder: Path, name: str) -> str:
    return (folder / f"_build/html/{name}.html").read_text(encoding="utf-8")


def test_only_edited_pages_are_read_and_what_others_show_of_them_is_new(small):
    assert "Fig. 1" in page(small, "book/index") and "2. Beta" in page(small, "book/first")
    assert built(small) == (0, 0)
    write(small / "book/first.md", "# Changed title\n" + FIGURE % "figure-a")
    assert built(small) == (0, 1)
    assert "Fig. 2" in page(small, "book/index") and "1. Changed title" in page(small, "book/second")
    notebook(small, "# Executed again\n")
    assert built(small) == (0, 1)
    assert "Executed again" in page(small, "book/first")
    assert_as_from_nothing(small)


def test_a_page_put_back_with_its_old_date_is_read(small):
    path = small / "book/first.md"
    before, dates = path.read_text(encoding="utf-8"), (path.stat().st_atime, path.stat().st_mtime - 10)
    write(path, "# Meanwhile\n")
    built(small)
    write(path, before)
    os.utime(path, dates)
    assert built(small) == (0, 1)
    assert "Meanwhile" not in page(small, "book/first") + page(small, "book/second")


def test_a_notebook_s_new_parameter_is_in_the_table_of_another_page(small):
    path = small / "notebooks/00_third.py"
    text = path.read_text(encoding="utf-8")
    write(
        path,
        text.replace('"own-parameters", "hide-input"]\n', '"own-parameters", "hide-input"]\nfresh_one = 3  # new\n'),
    )
    assert path.read_text(encoding="utf-8") != text
    assert built(small) == (0, 1)
    assert "fresh_one" in page(small, "book/second")
    write(path, text)


def test_a_removed_page_is_gone_everywhere(small):
    write(small / "_toc.yml", TOC.replace("{file: book/first}, ", ""))
    assert built(small) == (3, 0)  # from nothing, since another file than a page has changed
    assert not (small / "_build/html/book/first.html").exists()
    assert "book/first" not in (small / "_build/html/searchindex.js").read_text(encoding="utf-8")
    assert "1. Beta" in page(small, "book/index")
    write(small / "_toc.yml", TOC)
    built(small)


def test_a_fault_is_found_again_until_it_is_mended(small):
    path = small / "book/first.md"
    before = path.read_text(encoding="utf-8")
    write(path, before + "\n{nonsense}`x`\n")
    built(small, "Unknown interpreted text role")
    built(small, "Unknown interpreted text role")
    write(path, before)
    built(small)
    assert_as_from_nothing(small)


def test_the_ledger_s_file_is_there_when_its_page_was_not_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    ledger_pages = importlib.import_module("ledger_pages")
    app = SimpleNamespace(srcdir=tmp_path, outdir=tmp_path / "html", builder=SimpleNamespace(format="html"))
    ledger_pages.copy_table(app, None)  # a book without that page
    assert not app.outdir.exists()
    ledger_pages.kept(app, "ledger.csv").write_text("id\nD1\n", encoding="utf-8")
    ledger_pages.copy_table(app, None)
    assert (app.outdir / "_downloads/ledger.csv").read_text(encoding="utf-8") == "id\nD1\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return book/build.py for a folder of ours, with a file of each kind that pages show."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book/build.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.setattr(made, "ROOT", tmp_path)
    for name in BEHIND:
        write(tmp_path / name, "one")
    return made


BEHIND = (
    "_toc.yml", "_config.yml", "CITATION.cff", "book/references.bib", "book/_ext/terms.py", "book/_static/book.css",
    "bqcore/metrics/masks.py", "studies/figures/setup.py", "data/claims.yml", "data/predictions.yml", "data/paper/T1.csv",
    "data/results/digits_levels.nc",
)  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
def test_all_pages_are_read_after_a_change_to_what_any_may_show(program, tmp_path, name):
    before = program.state()
    assert program.state() == before
    write(tmp_path / name, "two")
    assert program.state() != before
    write(tmp_path / name, "one")
    assert program.state() == before
    (tmp_path / name).unlink()
    assert program.state() != before


def test_a_page_is_no_such_thing_and_a_package_is(program, tmp_path, monkeypatch):
    before = program.state()
    write(tmp_path / "book/course/boundary.md", "# New")
    write(tmp_path / "notebooks/executed/01_levels.ipynb", "{}")
    assert program.state() == before
    monkeypatch.setenv("ONLINE", "1")
    assert program.state() != before
    monkeypatch.delenv("ONLINE")
    installed = program.installed()
    assert any(name.startswith("Sphinx ") or name.startswith("sphinx ") for name in installed)
    monkeypatch.setattr(program, "installed", lambda: installed | {"other 1.0"})
    assert program.state() != before
    monkeypatch.undo()
    monkeypatch.setattr(program, "ROOT", tmp_path)
    write(tmp_path / "notebooks/12_more.py", "")
    assert program.state() != before
