"""Every Python block of the pages runs, in order; those of the course print what their comments say."""

import contextlib
import importlib
import io
import re

import nbformat
import pytest

from tests.helpers import ROOT

FOLDER = ROOT / "book" / "course"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {path.stem: BLOCK.findall(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.md"))}


@pytest.mark.parametrize("name", [name for name, blocks in PAGES.items() if blocks])
def test_solutions_run_and_print_what_they_say(name):
    space = {}
    for block in PAGES[name]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block, f"{name}.md", "exec"), space)
        assert said.getvalue().splitlines() == re.findall(r"# → (.*)", block), block


# tests/notebooks/test_audit_chapter.py runs audit.md, with its commands.
OTHERS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted({*FOLDER.parent.rglob("*.md")} - {*FOLDER.glob("*.md")}),
]
OTHERS = [path for path in OTHERS if path.name != "audit.md" and "```python" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_blocks_of_other_pages_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, blocks = {}, BLOCK.findall(path.read_text(encoding="utf-8"))
    for block in blocks:
        exec(compile(block, path.name, "exec"), space)
    assert blocks, "a block that is not closed or not at the margin"


EXERCISES = {"boundary": 4, "displacement": 5, "junctions": 6, "ruler": 4}


@pytest.mark.parametrize(("name", "many"), EXERCISES.items())
def test_each_lesson_has_aims_time_a_picture_exercises_and_questions(name, many):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert f'data-lesson="{name}"' in text and "**Time:**" in text and "{admonition} Aims" in text
    exercises = re.findall(r"^\*\*(\d)\.\*\*", text, flags=re.MULTILINE)
    assert exercises == [str(i + 1) for i in range(many)]
    assert text.count("{dropdown} Solution\n") == many == len(PAGES[name])
    assert "## Questions" in text and "{dropdown} Answers" in text


@pytest.mark.parametrize(("name", "many"), EXERCISES.items())
def test_worksheets_ask_what_the_lesson_asks_and_solutions_hold_its_code(name, many, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent / "_ext")
    worksheets = importlib.import_module("worksheets")
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    empty, solved = (worksheets.sheet(text, solved) for solved in (False, True))
    for sheet in (empty, solved):
        nbformat.validate(sheet)
        said = "\n".join(cell.source for cell in sheet.cells if cell.cell_type == "markdown")
        assert [said.count(f"**{number}.**") for number in range(1, many + 2)] == [1] * many + [0]
        assert said.count("## Questions") == 1
        assert not re.search(r"\{\w+\}`|:::|\]\((?!http)", said), "what only the book understands"
    assert [cell.source for cell in empty.cells if cell.cell_type == "code"] == [""] * many
    assert [cell.source + "\n" for cell in solved.cells if cell.cell_type == "code"] == PAGES[name]
    assert "## Answers" in solved.cells[-1].source and "Answers" not in str(empty)
    assert worksheets.sheet(text, True) == solved
