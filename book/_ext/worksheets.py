"""
Make a lesson's exercises into notebooks: a worksheet with gaps and checks, and the same with solutions that run.

A code block in what an exercise asks is a gap to fill. Where book/course/checks.py has a check of the function in it,
the worksheet calls it below. Below the heading "Exercises" of each lesson are links to both notebooks.
"""

import functools
import re
import sys
from pathlib import Path

import launch
import nbformat
import results
from docutils import nodes
from downloads import line
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import Sphinx

FOLDER = "_downloads/worksheets"
EXERCISE = re.compile(r"^(?P<asks>\*\*\d\.\*\*.*?)\n+:::\{dropdown\} Solution\n(?P<answer>.*?)\n:::$", re.M | re.S)
QUESTIONS = re.compile(r"^## Questions\n+(?P<asks>.*?)\n+:::\{dropdown\} Answers\n(?P<answer>.*?)\n:::$", re.M | re.S)
CODE = re.compile(r"^```python\n(.*?)\n```$", re.M | re.S)
TO_DO = (
    "Worksheet. Fill the gaps `...` and run each cell; a check says what is wrong. An exercise without a gap has an "
    "empty cell, for your answer or your code. The picture is on the lesson's page in the book."
)
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form", "tags": ["hide-input"]}


def sheet(lesson: str, solved: bool, address: str = "") -> nbformat.NotebookNode:
    """Return the exercises and questions of a *lesson*, its page as Markdown, with or without the solutions."""
    title = re.search(r"^# (.*)$", lesson, re.M)[1]
    says = "Solutions." if solved else TO_DO
    cells = [new_markdown_cell(f"# {title}\n\n{says}"), launch.first_cell(address)]
    exercises = list(EXERCISE.finditer(lesson))
    checks = checks_of("\n".join(exercise["asks"] for exercise in exercises))
    if checks:
        cells.append(new_code_cell("#@title Then this one: the checks\n" + source(*checks), metadata=HIDDEN))
    for exercise in exercises:
        asks = exercise["asks"]
        cells += parts(CODE.sub(lambda found: "" if "..." in found[0] else found[0], asks) if solved else asks)
        cells += parts(exercise["answer"]) if solved else [] if "..." in asks else [new_code_cell("")]
        cells += [new_code_cell(f"{check}({check.removeprefix('check_')})") for check in checks_of(asks)]
    asked = QUESTIONS.search(lesson)
    cells.append(new_markdown_cell("## Questions\n\n" + plain(asked["asks"])))
    if solved:
        cells.append(new_markdown_cell("## Answers\n\n" + plain(asked["answer"])))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # the same bytes at each build
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def parts(text: str) -> list[nbformat.NotebookNode]:
    """Return cells of a page's Markdown, in which text and code take turns."""
    split = [(i % 2, part) for i, part in enumerate(CODE.split(text)) if part.strip()]
    return [new_code_cell(part) if code else new_markdown_cell(plain(part.strip())) for code, part in split]


@functools.cache
def functions() -> dict[str, str]:
    """Return the source of each function of book/course/checks.py; the imports are under the name ''."""
    text = Path(__file__).parents[1].joinpath("course", "checks.py").read_text(encoding="utf-8")
    head, *found = re.split(r"\n\n\n(?=def )", text.rstrip())
    return {"": re.search(r"^import .*", head, re.M | re.S)[0]} | {re.match(r"def (\w+)", one)[1]: one for one in found}


def checks_of(text: str) -> list[str]:
    """Return the names of the checks of the functions that the code in *text* leaves to write."""
    names = [f"check_{name}" for code in CODE.findall(text) for name in re.findall(r"^def (\w+)", code, re.M)]
    return [name for name in names if name in functions()]


def source(*checks: str) -> str:
    """Return the source of *checks* with what all checks need."""
    shared = [name for name in functions() if not name.startswith("check_")]
    return "\n\n\n".join(functions()[name] for name in (*shared, *checks))


def plain(text: str) -> str:
    """Return a page's Markdown without what only this book understands."""
    text = re.sub(r"\{claim\}`([^`]*)`", lambda found: results.claim(found[1], results.ledger()), text)
    text = re.sub(r"\{term\}`([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"(?<!!)\[\]\(([\w-]+)\)", r"*\1*", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!http)[^)]*\)", r"\1", text)


def write_sheets(page: Path, folder: Path, address: str) -> dict[str, str]:
    """Write a lesson's two notebooks into a folder; return what each is, by its name."""
    text, written = page.read_text(encoding="utf-8"), {}
    folder.mkdir(parents=True, exist_ok=True)
    for solved, ending, says in ((False, "", "worksheet"), (True, "-solutions", "solutions")):
        nbformat.write(sheet(text, solved, address), folder / f"{page.stem}{ending}.ipynb")
        written[f"{page.stem}{ending}.ipynb"] = says
    return written


def is_lesson(page: Path) -> bool:
    """Return whether a page is a lesson: Markdown with a picture and exercises."""
    text = page.read_text(encoding="utf-8") if page.suffix == ".md" else ""
    return "data-lesson=" in text and "## Exercises" in text


def add_sheets(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write a lesson's two notebooks, and put links to them below the heading of its exercises."""
    path = Path(app.env.doc2path(page))
    if app.builder.format != "html" or not is_lesson(path):
        return
    address = str(app.config.html_theme_options.get("repository_url", "")).strip()
    written = write_sheets(path, Path(app.outdir, FOLDER), address)
    links = []
    for name, says in written.items():
        links.append((f"{FOLDER}/{name}", name, f"the exercises as a notebook, {says}"))
        links += launch.places(address, f"{FOLDER}/{name}", f"worksheets/{name}")
    (title,) = [title for title in doctree.findall(nodes.title) if title.astext() == "Exercises"]
    title.parent.insert(title.parent.index(title) + 1, line("As notebooks: ", links, page))


def setup(app: Sphinx) -> dict:
    """Register the above."""
    app.connect("doctree-resolved", add_sheets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":  # for postBuild, which makes them where Binder opens them
    for lesson in filter(is_lesson, sorted(Path("book", "course").glob("*.md"))):
        write_sheets(lesson, Path(sys.argv[1]), "")
