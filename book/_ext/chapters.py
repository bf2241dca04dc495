"""
Number the figures and tables of chapters by what they are, set intervals lighter, and say how to cite a chapter.

The paper's own, named ``table-p1`` or ``figure-p2``, are Table P1 and Figure P2. What is in a supplement, with a name
that begins with ``supplement-``, is Table S1, S2, … through the book. All others count 1, 2, … through the book.
"""

import re
from collections import Counter
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx

PLACEHOLDER = "10.5281/zenodo.0000000"  # of the DOI in CITATION.cff, until a release is archived
INTERVAL = re.compile(r"(?<=[\d%])\s(\[[^\[\]]+\])")  # behind its estimate


def number_of(name: str, counts: Counter) -> str:
    """
    Return the number of the figure or table of this name, counting on in *counts* where it is not the paper's.

    >>> counts = Counter()
    >>> [number_of(name, counts) for name in ("table-p3", "figure-mask", "supplement-a", "supplement-b", "table-x")]
    ['P3', '1', 'S1', 'S2', '2']
    """
    paper = re.fullmatch(r"(?:table|figure)-p(\d)", name)
    if paper:
        return f"P{paper[1]}"
    letter = "S" if name.startswith("supplement-") else ""
    counts[letter] += 1
    return f"{letter}{counts[letter]}"


def number_all(app: Sphinx, env) -> list[str]:
    """Number all captions anew, after Sphinx has, and in its order."""
    found = [
        (number, kind, page, name)
        for page, kinds in env.toc_fignumbers.items()
        for kind, numbers in kinds.items()
        for name, number in numbers.items()
    ]
    counts: dict[str, Counter] = {}
    for _, kind, page, name in sorted(found):
        env.toc_fignumbers[page][kind][name] = (number_of(name, counts.setdefault(kind, Counter())),)
    return []


def lighten_intervals(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Set the intervals in cells of chapters' tables apart from their estimates, to be shown lighter."""
    if app.builder.format != "html" or not is_chapter(app, page):
        return
    for entry in list(doctree.findall(nodes.entry)):
        for text in list(entry.findall(nodes.Text)):
            parts = INTERVAL.split(text.astext())
            if len(parts) > 1:
                made = [nodes.inline("", part, classes=["interval"]) if i % 2 else nodes.Text(f"{part} ")
                        for i, part in enumerate(parts) if part]  # fmt: skip
                text.parent.replace(text, made)


def add_citation(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write at the end of a chapter how to cite it, from CITATION.cff."""
    title = next(doctree.findall(nodes.title), None)
    if title is None or not is_chapter(app, page):
        return
    about = yaml.safe_load(Path(app.srcdir, "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(one.get("name") or f"{one['given-names']} {one['family-names']}" for one in about["authors"])
    line = nodes.paragraph("", "Cite this chapter as: ", classes=["cite"])
    line += [
        nodes.Text(f"{authors} ({app.config.copyright}). “{title.astext()}”. In: "),
        nodes.emphasis("", about["title"]),
    ]
    doi = about.get("doi", PLACEHOLDER)
    line += nodes.Text(f", version {about['version']}." + (f" doi:{doi}" if doi != PLACEHOLDER else ""))
    title.parent += line


def is_chapter(app: Sphinx, page: str) -> bool:
    """Check whether a page is made from a notebook."""
    return Path(app.env.doc2path(page)).suffix == ".ipynb"


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    app.connect("env-get-updated", number_all, priority=900)
    app.connect("doctree-resolved", lighten_intervals)
    app.connect("doctree-resolved", add_citation)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
