"""Let the book work from file:// and without a network: nothing in it is loaded from elsewhere."""

import importlib.util
import shutil
from pathlib import Path

from sphinx.application import Sphinx

MATHJAX = "mathjax/tex-svg.js"  # one file with all that this book uses; other builds load fonts and parts as they go


def use_local_mathjax(app: Sphinx, config) -> None:
    """Point pages with formulas to the copy."""
    config.mathjax_path = MATHJAX


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy that file into the built book out of the package, whose own extension copies all of MathJax, 15 MB."""
    if error is None and app.builder.format == "html":
        source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / MATHJAX
        target = Path(app.outdir, "_static", MATHJAX)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def drop_thebe(app: Sphinx) -> None:
    """Undo what sphinx-thebe has registered, which jupyter-book always loads: live cells need a server elsewhere."""
    for listeners in app.events.listeners.values():
        listeners[:] = [item for item in listeners if getattr(item.handler, "__module__", "") != "sphinx_thebe"]
    app.registry.css_files[:] = [item for item in app.registry.css_files if "thebe" not in item[0]]


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    app.connect("config-inited", use_local_mathjax, priority=900)
    drop_thebe(app)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
