"""The worksheets: solutions run and are right, gaps and plausible mistakes are told in a sentence, each in its own."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tests.helpers import ROOT

FOLDER = ROOT / "book" / "course"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LESSONS = ("quantization", "boundary", "displacement", "junctions", "ruler", "evidence")


@pytest.fixture
def worksheets(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent / "_ext")
    return importlib.import_module("worksheets")


def page(lesson: str) -> str:
    return (FOLDER / f"{lesson}.md").read_text(encoding="utf-8")


def run(code: str, space: dict) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), np.errstate(all="ignore"):
        exec(code, space)
    return said.getvalue().strip()


def checked(worksheets, name: str, code: str) -> str:
    """Return what the check of a function called *name* says of a student's *code*."""
    space = {}
    run(worksheets.source(f"check_{name}"), space)
    run("import numpy as np\nsame = fault = tell = shown = copy = None\n" + code, space)
    return run(f"check_{name}({name})", space)


def solution(lesson: str, name: str) -> str:
    """Return the solution of a function, which is the last one of this name in the lesson."""
    found = re.findall(rf"^def {name}\(.*?(?=^\S|\Z)", "\n".join(CODE.findall(page(lesson))), re.MULTILINE | re.DOTALL)
    assert len(found) == 2, "one to fill, one filled"
    return found[1]


@pytest.mark.parametrize("lesson", LESSONS)
def test_worksheets_ask_what_the_lesson_asks_and_solutions_hold_its_code(worksheets, lesson):
    many = len(re.findall(r"^\*\*\d\.\*\*", page(lesson), flags=re.MULTILINE))
    empty, solved = (worksheets.sheet(page(lesson), solved) for solved in (False, True))
    for sheet in (empty, solved):
        nbformat.validate(sheet)
        said = "\n".join(cell.source for cell in sheet.cells if cell.cell_type == "markdown")
        assert [said.count(f"**{number}.**") for number in range(1, many + 2)] == [1] * many + [0]
        assert said.count("## Questions") == 1
        assert not re.search(r"\{\w+\}`|:::|```|\]\((?!http)", re.sub(r"```\n[\d\s]+```", "", said)), (
            "what only the book has"
        )
    code = [cell.source for cell in solved.cells if cell.cell_type == "code"]
    assert "..." not in "".join(code[2:]), "a gap in the solutions"
    blocks = [block.rstrip() for block in CODE.findall(page(lesson)) if "..." not in block]
    assert [one for one in code[2:] if not one.startswith("check_")] == blocks
    by_hand = sum("..." not in found["asks"] for found in worksheets.EXERCISE.finditer(page(lesson)))
    assert [cell.source for cell in empty.cells].count("") == by_hand, "room for an answer"
    assert "## Answers" in solved.cells[-1].source and "Answers" not in str(empty) and "Solution" not in str(empty)
    assert worksheets.sheet(page(lesson), True) == solved


@pytest.mark.parametrize("lesson", LESSONS)
def test_solutions_are_right_and_open_gaps_are_named(worksheets, lesson):
    for solved, wanted in ((True, "Right. "), (False, "A gap is still open. ")):
        space, checks = {}, []
        for cell in worksheets.sheet(page(lesson), solved).cells:
            if cell.cell_type == "code":
                said = run(cell.source, space)
                checks += [said] if cell.source.startswith("check_") else []
        assert checks and all(said.startswith(wanted) for said in checks), checks


MISTAKES = [
    ("quantization", "quantize", "return level * step", "return level", "Multiply each by the step"),
    ("quantization", "quantize", "2 ** (bits - 1) - 1", "2 ** (bits - 1)", "the top level is 2^(b−1) − 1"),
    ("quantization", "quantize", "2 ** (bits - 1) - 1", "2**bits", "One bit is the sign"),
    ("quantization", "quantize", "np.round", "np.floor", "You rounded down"),
    ("quantization", "quantize", "np.round", "np.trunc", "You cut the fraction off"),
    ("quantization", "quantize", "np.abs(weight).max()", "weight.max()", "Take the largest magnitude"),
    ("quantization", "quantize", "largest / top or 1.0", "np.ptp(weight) / (2**bits - 1)", "divides the whole range"),
    ("quantization", "quantize", "-top, top", "0, top", "below zero are gone"),
    ("quantization", "quantize", "-top, top", "-99, 99", "No weight is clipped"),
    ("quantization", "quantize", "if largest is None", "if True", "`largest` is not used"),
    ("quantization", "quantize", " or 1.0", "", "All weights are zero"),
    ("quantization", "quantize", "return level * step", "level * step", "needs a `return`"),
    ("quantization", "quantize", "np.abs(weight).max()", "np.abs(wait).max()", "stops: NameError"),
    ("quantization", "quantize", "top = 2", "weight /= 2\n    top = 2", "changes what it is given"),
    ("quantization", "quantize", "-top, top", "-top - 1, top + 1", "It should return [-1, 1, 0.333, -0.333]"),
    ("quantization", "quantize_channels", "axis=1, keepdims=True", "", "one step for all rows"),
    ("quantization", "quantize_channels", "axis=1", "axis=0", "one step for each column"),
    ("boundary", "flip_rate", "before != ", "before == ", "decisions that stay"),
    ("boundary", "flip_rate", "np.mean", "np.sum", "a number of inputs"),
    ("boundary", "flip_rate", "axis=1", "axis=0", "You compared the columns"),
    ("boundary", "flip_rate", "decisions_before != decisions_after", "before != after", "You compared logits"),
    ("boundary", "flip_rate", "np.argmax(before,", "2 - np.argmax(before[:, ::-1],", "At a tie"),
    ("displacement", "radius", " / slope", "", "Divide it by its slope"),
    ("displacement", "radius", "/ slope", "/ slope**2", "square of the slope"),
    ("displacement", "radius", "weight[c] - weight[j]", "weight[c]", "length of W_c alone"),
    (
        "displacement",
        "radius",
        "np.linalg.norm(weight[c] - weight[j])",
        "abs(weight[c] - weight[j]).sum()",
        "Euclidean",
    ),
    ("displacement", "radius", "min(distances)", "max(distances)", "You took the runner-up"),
    ("displacement", "radius", "min(distances)", "distances", "Return the smallest"),
    ("displacement", "radius", "z[c] - z[j]", "z[j] - z[c]", "The sign is wrong"),
    ("displacement", "radius", "j != c", "True", "You compared the winner with itself"),
    ("displacement", "radius", "np.argmax(z)", "0", "You took class 0"),
    ("junctions", "boundary_mask", " | (corner != below) | (corner != diagonal)", "", "right only"),
    ("junctions", "boundary_mask", " | (corner != diagonal)", "", "diagonal corner is missing"),
    ("junctions", "boundary_mask", "|", "&", "One that differs is enough"),
    ("junctions", "boundary_mask", "(corner != right) | (corner != below) |", "", "along the diagonal only"),
    ("junctions", "boundary_mask", "return (", "return ~((", "the cells inside the regions"),
    ("junctions", "boundary_mask", "[:-1, :-1]", "[:, :]", "stops: ValueError"),
    ("ruler", "jaccard_distance", "1 - common", "common", "This is the similarity"),
    ("ruler", "jaccard_distance", "np.sum(one | two)", "np.sum(one) + np.sum(two)", "Count the union once"),
    ("ruler", "jaccard_distance", "np.sum(one | two)", "(np.sum(one) + np.sum(two)) / 2", "Dice"),
    ("ruler", "jaccard_distance", "np.sum(one | two)", "one.size", "all cells of the grid"),
    ("ruler", "jaccard_distance", "np.sum(one | two)", "np.sum(one)", "the first mask alone"),
    ("ruler", "jaccard_distance", " if either else 0.0", "", "which gives 0/0"),
    ("ruler", "jaccard_distance", "else 0.0", "else 1.0", "so that their distance is 0"),
    ("evidence", "prediction_interval", "1 + 1 / n", "1 / n", "This is the interval of the mean"),
    ("evidence", "prediction_interval", " * np.sqrt(1 + 1 / n)", "", "scatter of the mean is missing"),
    ("evidence", "prediction_interval", ", ddof=1", "", "`ddof=1`"),
    ("evidence", "prediction_interval", "t * s", "s", "`t` is missing"),
    ("evidence", "prediction_interval", "np.std", "np.var", "You took the variance"),
    ("evidence", "prediction_interval", "np.sqrt(1 + 1 / n)", "(1 + 1 / n)", "square root is missing"),
    ("evidence", "prediction_interval", "np.mean(values) - half, np.mean(values) +", "", "Return both ends"),
    ("evidence", "prediction_interval", "half = t", "half = -t", "The ends are swapped"),
    ("evidence", "verdict", "if neighbours_inside else", "if False else", "does not tell"),
    ("evidence", "verdict", "if neighbours_inside else", "if True else", "No neighbour is inside"),
    ("evidence", "verdict", "not inside", "inside", "at least compatible"),
    ("evidence", "verdict", "not inside", "neighbours_inside", "makes it compatible, no less"),
    ("evidence", "verdict", "not inside", "False", "not reproduced, whatever the neighbours are"),
    ("evidence", "verdict", "low <= reported", "reported", "Ask whether it is inside"),
]


@pytest.mark.parametrize(("lesson", "name", "right", "wrong", "sentence"), MISTAKES)
def test_plausible_mistakes_are_told_in_their_sentence(worksheets, lesson, name, right, wrong, sentence):
    code = solution(lesson, name)
    assert checked(worksheets, name, code).startswith("Right. ") and right in code
    changed = code.replace(right, wrong)
    changed += ")" if wrong == "return ~((" else ""
    assert sentence in checked(worksheets, name, changed)


def test_each_mistake_has_an_answer_of_its_own(worksheets):
    space = {}
    exec("\n\n\n".join(worksheets.functions().values()), space)
    cases = []
    space["_tell"] = lambda function, given, praise: cases.extend(given)
    for name in [name for name in space if name.startswith("check_")]:
        space[name](None)
    assert len(cases) > 8
    for _, right, mistakes in cases:
        answers = [right, *mistakes.values()]
        for i, answer in enumerate(answers):
            told = [space["_same"](answer, other) for other in answers]
            assert told == [k == i for k in range(len(answers))], list(mistakes)[i - 1]


def test_a_worksheet_fetches_the_book_where_its_address_is_known(worksheets):
    text = page("boundary")
    assert "git clone --quiet --depth 1 https://host/a/b book" in str(worksheets.sheet(text, False, "https://host/a/b"))
    assert "git clone" not in str(worksheets.sheet(text, False))


@pytest.mark.slow
def test_binder_makes_the_worksheets_where_its_link_leads(worksheets, tmp_path):
    for name in ("book", "bqcore", "studies", "data", "postBuild"):
        (tmp_path / name).symlink_to(ROOT / name)
    called = ["bash", "postBuild"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(called, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    found = sorted(path.name for path in (tmp_path / "worksheets").glob("*.ipynb"))
    assert found == sorted(f"{lesson}{ending}.ipynb" for lesson in LESSONS for ending in ("", "-solutions"))
    made = nbformat.read(tmp_path / "worksheets" / "ruler.ipynb", 4)
    assert made == worksheets.sheet(page("ruler"), False)
    looks = made.cells[1].source + "\nimport bqcore; print(bqcore.__file__)"
    command = [sys.executable, "-I", "-S", "-c", looks]  # without what is installed
    says = subprocess.run(command, cwd=tmp_path / "worksheets", check=True, capture_output=True, text=True).stdout
    assert says.strip() == str(tmp_path / "bqcore" / "__init__.py")
