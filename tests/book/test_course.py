"""Every Python block of the pages runs, in order; those of the course print what their comments say."""

import contextlib
import io
import re

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


LESSONS = ("quantization", "boundary", "displacement", "junctions", "ruler", "evidence")


@pytest.mark.parametrize("name", LESSONS)
def test_each_lesson_has_a_puzzle_a_picture_aims_time_and_marks(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    order = [
        text.index(part) for part in ("**A puzzle.**", f'data-lesson="{name}"', "{admonition} Aims", "## Exercises")
    ]
    assert order == sorted(order) and "**Time:**" in text
    exercises = re.findall(r"^\*\*(\d)\.\*\* \*(Easy|Medium|Hard), (\d+) marks\.\*", text, flags=re.MULTILINE)
    assert [number for number, *_ in exercises] == [str(i + 1) for i in range(len(exercises))]
    answers = re.findall(r"{dropdown} Solution\n(.*?)\n:::$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(answers) == len(exercises) == len(re.findall(r"^\*\*\d", text, flags=re.MULTILINE))
    for answer, (number, _, marks) in zip(answers, exercises):
        (given,) = re.findall(r"\*(\d+ marks?\b[^*]*)\.\*", answer)
        each = [int(one) for one in re.findall(r"(?:^|, )(\d+)\b", given.replace("\n", " "))]
        assert sum(each) == int(marks) or " each " in given or " half" in given, (number, given)
    assert re.search(r"## Questions\n\n\*\d+ marks[:,]", text) and "{dropdown} Answers" in text
