"""
Link what is behind each captioned figure and table (SVG, CSV, NetCDF), and each chapter as a notebook that ran.

The files come out of the executed notebooks, where studies.figures.source_data put them. A chapter's own copy, in
`_sources`, is given without them: it has the pictures and tables, and is as small as a notebook that was run elsewhere.
"""

import base64
import functools
import gzip
import json
import posixpath
import sys
from html import escape
from pathlib import Path

import launch
from docutils import nodes
from sphinx.application import Sphinx

FOLDER = "_downloads"
LONG = 100_000  # bytes: CSVs above it are given compressed, which what reads CSVs reads as well
FORMS = {"svg": ("svg", "SVG"), "csv": ("csv", "CSV"), "netcdf": ("nc", "NetCDF")}


@functools.cache
def behind(path: Path) -> dict[str, dict[str, str]]:
    """Return the files in a notebook's outputs, by the name of the figure or table."""
    from studies.figures.source_data import MIME

    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        caption = cell["metadata"].get("mystnb", {}).get("figure", {})
        for output in cell.get("outputs", []):
            files = dict(output.get("data", {}).get(MIME, {}))
            name = files.pop("name", None) or (caption.get("name") if files else None)
            if name:
                found[name] = files
    return found


def without_files(text: str, address: str = "") -> str:
    """Return a notebook's text without these files; with the repository's *address*, a first cell installs bqcore."""
    from studies.figures.source_data import MIME

    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for part in ("data", "metadata"):
                output.get(part, {}).pop(MIME, None)
    if address:
        notebook["cells"].insert(1, dict(launch.first_cell(address), id="first-run"))
    return json.dumps(notebook, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"


def notebook_of(app: Sphinx, page: str) -> Path | None:
    """Return the notebook that a page is made from, if it is."""
    path = Path(app.env.doc2path(page))
    return path if path.suffix == ".ipynb" else None


def hide_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Let the reader of notebooks, which warns of types that it does not know, see a chapter without these files."""
    if notebook_of(app, page):
        source[0] = without_files(source[0])


def line(words: str, links: list[tuple[str, str, str]], page: str) -> nodes.raw:
    """Return a small line of links, each a file below the book's folder or an address, its text, and that in full."""
    made = []
    for file, text, says in links:
        elsewhere = "://" in file
        address = escape(file if elsewhere else posixpath.relpath(file, posixpath.dirname(page)))
        made.append(f'<a href="{address}"{"" if elsewhere else " download"} aria-label="{escape(says)}">{text}</a>')
    return nodes.raw("", f'<p class="behind">{words}{" · ".join(made)}</p>', format="html")


def add_lines(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write a chapter's files; put a line of links below each captioned figure and table, and one below the title."""
    path = notebook_of(app, page)
    if app.builder.format != "html" or path is None:
        return
    named = dict(behind(path))
    for node in list(doctree.findall(lambda node: isinstance(node, nodes.figure | nodes.table))):
        for name in {*node["names"], *node["ids"]} & set(named):
            links = []
            for form, content in named.pop(name).items():
                ending, text = FORMS[form]
                data = base64.b64decode(content) if form == "netcdf" else content.encode()
                if form == "csv" and len(data) > LONG:
                    ending, data = "csv.gz", gzip.compress(data, mtime=0)
                file = f"{FOLDER}/{path.stem}/{name}.{ending}"
                target = Path(app.outdir, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                links.append((file, text, f"{name} as {text}"))
            kind = "Figure" if isinstance(node, nodes.figure) else "Table"
            node.parent.insert(node.parent.index(node) + 1, line(f"{kind} as ", sorted(links, key=order), page))
    title = next(doctree.findall(nodes.title), None)
    if title is not None:
        file = f"_sources/{page}.ipynb"
        says = f"this chapter as an executed notebook, {path.name}"
        links = [(file, path.name, says), *launch.places(_address(app), file, f"notebooks/{path.stem}.py")]
        title.parent.insert(title.parent.index(title) + 1, line("Executed notebook: ", links, page))


def _address(app: Sphinx) -> str:
    """Return the repository's address, if _config.yml names one."""
    return str(app.config.html_theme_options.get("repository_url", "")).strip()


def order(link: tuple[str, str, str]) -> int:
    """Sort SVG before CSV before NetCDF."""
    return [text for _, text in FORMS.values()].index(link[1])


def lighten_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Take the files out of the chapters' copies, which can then be run elsewhere."""
    if error is None and app.builder.format == "html":
        for page in app.env.found_docs:
            copy = Path(app.outdir, "_sources", f"{page}.ipynb")
            if notebook_of(app, page) and copy.exists():
                copy.write_text(without_files(copy.read_text(encoding="utf-8"), _address(app)), encoding="utf-8")


def show_buttons(app: Sphinx, config) -> None:
    """Show the buttons that lead to the repository if _config.yml names one; a chapter has no source to edit there."""
    options = config.html_theme_options
    there = bool(str(options.get("repository_url", "")).strip())
    options |= {"use_repository_button": there, "use_issues_button": there, "use_edit_page_button": False}


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bqcore, also where it is not installed
    app.connect("config-inited", show_buttons)
    app.connect("source-read", hide_files)
    app.connect("doctree-resolved", add_lines)
    app.connect("build-finished", lighten_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
