"""Write the scripts of the explorer and the lessons: the networks as data, and the programs that draw them."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

SHARED = ("geometry.js", "drawing.js")
COURSE = ("quantization", "boundary", "displacement", "junctions", "ruler")
LESSONS = [f"book/course/{name}" for name in COURSE]
SLIDES = "book/course/slides"  # has the pictures of all lessons
SCRIPTS = {"book/explorer": (*SHARED, "explorer.js")} | {page: (*SHARED, "lessons.js") for page in (*LESSONS, SLIDES)}
FOLDER = Path("_static", "explorer")


def write_networks(app: Sphinx, error: Exception | None) -> None:
    """Write one script a network: digits, trained here and now, and those that are kept in data/explorer."""
    if error is None and app.builder.format == "html":
        from bqcore._store import load_dataset, save_bytes
        from studies import explorer

        networks = [explorer.digits_network(), *map(load_dataset, sorted(Path(app.srcdir).glob("data/explorer/*.nc")))]
        for found in networks:
            save_bytes(explorer.script(found), Path(app.outdir, FOLDER, f"{found.attrs['name']}.js"))


def add_scripts(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Load the scripts on the pages that use them and on no other."""
    for name in SCRIPTS.get(page, ()):
        app.add_js_file(name, loading_method="defer")
    if page in SCRIPTS:
        app.add_css_file("explorer.css")
    if page == SLIDES:
        app.add_css_file("slides.css")


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bqcore, also where it is not installed
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_networks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
