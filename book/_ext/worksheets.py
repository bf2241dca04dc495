"""
Give a lesson's exercises as notebooks: a worksheet with room for answers, and the same with solutions that run.

Below the heading "Exercises" of each lesson stand links to both.
"""

import re
from pathlib import Path

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


def sheet(lesson: str, solved: bool) -> nbformat.NotebookNode:
    """Return the exercises and questions of a *lesson*, its page as Markdown, with or without the solutions."""
    title = re.search(r"^# (.*)$", lesson, re.M)[1]
    says = "Solutions" if solved else "Worksheet"
    cells = [new_markdown_cell(f"# {title}\n\n{says}. The code needs `bqcore` and PyTorch, as `make lab` has them.")]
    for exercise in EXERCISE.finditer(lesson):
        cells.append(new_markdown_cell(plain(exercise["asks"])))
        if not solved:
            cells.append(new_code_cell(""))
            continue
        for i, part in enumerate(CODE.split(exercise["answer"])):  # text and code take turns
            if part.strip():
                cells.append(new_code_cell(part) if i % 2 else new_markdown_cell(plain(part.strip())))
    asked = QUESTIONS.search(lesson)
    cells.append(new_markdown_cell("## Questions\n\n" + plain(asked["asks"])))
    if solved:
        cells.append(new_markdown_cell("## Answers\n\n" + plain(asked["answer"])))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # the same bytes at each build
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def plain(text: str) -> str:
    """Return a page's Markdown without what only this book understands."""
    text = re.sub(r"\{claim\}`([^`]*)`", lambda found: results.claim(found[1], results.ledger()), text)
    text = re.sub(r"\{term\}`([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"(?<!!)\[\]\(([\w-]+)\)", r"*\1*", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!http)[^)]*\)", r"\1", text)


def add_sheets(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write a lesson's two notebooks, and put links to them below the heading of its exercises."""
    path = Path(app.env.doc2path(page))
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
    if app.builder.format != "html" or "data-lesson=" not in text or "## Exercises" not in text:
        return
    links = []
    for solved, ending, says in ((False, "", "worksheet"), (True, "-solutions", "solutions")):
        file = f"{FOLDER}/{path.stem}{ending}.ipynb"
        target = Path(app.outdir, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(sheet(text, solved), target)
        links.append((file, f"{path.stem}{ending}.ipynb", f"the exercises as a notebook, {says}"))
    (title,) = [title for title in doctree.findall(nodes.title) if title.astext() == "Exercises"]
    title.parent.insert(title.parent.index(title) + 1, line("As notebooks: ", links, page))


def setup(app: Sphinx) -> dict:
    """Register the above."""
    app.connect("doctree-resolved", add_sheets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
