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
    minutes = sum({"Easy": 5, "Medium": 10, "Hard": 20}[hard] for _, hard, _ in exercises)
    assert re.search(rf"minutes\s+with\s+the\s+picture,\s+{minutes}\s+with\s+the\s+exercises", text), minutes
    assert re.search(r"## Questions\n\n\*\d+ marks[:,]", text) and "{dropdown} Answers" in text


def test_plans_hold_what_fits_into_90_minutes():
    text = (FOLDER / "teachers.md").read_text(encoding="utf-8")
    parts = [tuple(map(int, part)) for part in re.findall(r"^\| (\d+) to (\d+) \|", text, flags=re.MULTILINE)]
    assert [start for start, _ in parts] == [0, *(end for _, end in parts[:-1])] and parts[-1][1] == 90
    classes = re.findall(
        r"^\| \d \| \[Lesson \d\]\(lesson-(\w+)\): puzzle, exercises (.*?) \| (.*?) \|$", text, flags=re.M
    )
    assert [name for name, *_ in classes] == list(LESSONS)

    def numbers(said: str) -> set[str]:
        said = re.sub(r"(\d) to (\d)", lambda m: " ".join(str(i) for i in range(int(m[1]), int(m[2]) + 1)), said)
        return set(re.findall(r"\d", said))

    for name, taken, left in classes:
        lesson = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        cost = {
            k: {"Easy": 5, "Medium": 10, "Hard": 20}[hard]
            for k, hard in re.findall(r"^\*\*(\d)\.\*\* \*(\w+),", lesson, re.M)
        }
        picture = int(re.search(r"(\d+) minutes\s+with\s+the\s+picture", lesson)[1])
        assert picture + sum(cost[k] for k in numbers(taken)) <= 90 - 10, "ten minutes for what a class needs"
        assert numbers(taken) | numbers(left) == set(cost) and not numbers(taken) & numbers(left), name


def test_marks_of_the_examination_and_of_the_project_add_up():
    words = {"Thirty": 30, "Forty": 40}
    text = (FOLDER / "teachers.md").read_text(encoding="utf-8")
    each = [int(marks) for marks in re.findall(r"^   \*(\d+) marks:", text, re.M)]
    assert sum(each) == words[re.search(r"(\w+) marks; the solutions", text)[1]]
    text = (FOLDER / "project.md").read_text(encoding="utf-8")
    each = [int(marks) for marks in re.findall(r"^\* - [\w ]+, (\d+)$", text, re.M)]
    assert sum(each) == words[re.search(r"(\w+) marks\. Each line", text)[1]]
