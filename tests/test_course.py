"""The course: every Python block of its pages runs, in order, and prints what its comments say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "book" / "course"
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


@pytest.mark.parametrize("name", ["boundary", "displacement", "junctions", "ruler"])
def test_each_lesson_has_aims_time_a_picture_exercises_and_questions(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert f'data-lesson="{name}"' in text and "**Time:**" in text and "{admonition} Aims" in text
    exercises = re.findall(r"^\*\*(\d)\.\*\*", text, flags=re.MULTILINE)
    assert exercises == ["1", "2", "3", "4"] and text.count("{dropdown} Solution\n") == 4 == len(PAGES[name])
    assert "## Questions" in text and "{dropdown} Answers" in text
