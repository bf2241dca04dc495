"""Read a page anew if its source is not what it was: by content, since a file may be put back with an earlier date."""

import hashlib
from pathlib import Path

import results
from sphinx.application import Sphinx


def find_changed(app: Sphinx, env, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """
    Return the pages with another source than when they were read, or that show a notebook's source which has changed.

    Whatever else a page may show, book/build.py looks after.
    """
    root = Path(app.srcdir)
    sources = {page: Path(env.doc2path(page)) for page in env.found_docs}
    now = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in {*sources.values(), *root.glob("notebooks/*.py")}
    }
    before, env.digests = getattr(env, "digests", {}), now
    other = {path for path in now if before.get(path) != now[path]}
    shown = {page: {sources[page], *map(root.joinpath, env.dependencies[page])} for page in sources.keys() - added}
    return [page for page, paths in shown.items() if not other.isdisjoint(paths)]


def let_all_cores_read(app: Sphinx, env, pages: list[str]) -> None:
    """Declare what two extensions do not, and load what most pages need before the processes part that read them."""
    # One numbers sections when all pages have been read, one works for LaTeX.
    for name in ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex"):
        app.extensions[name].parallel_read_safe = True
    if len(pages) > 5 and app.parallel > 1:  # then Sphinx reads in parallel
        results.ledger()


def setup(app: Sphinx) -> dict:
    """Register both."""
    app.connect("env-get-outdated", find_changed)
    app.connect("env-before-read-docs", let_all_cores_read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
