"""Let a page load no more than it uses, and say to a screen reader what it is: repairs of what the theme writes."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

# The theme loads its icons twice: as a font, which is used, and as a script of 1.5 MB, which would draw the same again.
ICONS = Path("_static", "scripts", "fontawesome.js")


def drop_mathjax(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Load MathJax, 2.3 MB, on pages with a formula and on no other."""
    if 'class="math' not in context.get("body", ""):
        scripts = context.get("script_files", [])
        context["script_files"] = [file for file in scripts if "mathjax" not in str(getattr(file, "filename", file))]


def mend_roles(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Drop the role of a list from references, whose children are no list items."""
    if "body" in context:
        context["body"] = re.sub(
            r'<div role="list" class="citation-list">', '<div class="citation-list">', context["body"]
        )


def mend_signatures(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Make the parameters of a signature lines, where Sphinx writes a list of definitions without what they define."""
    instead = {"<dl>": '<span class="sig-lines">', "</dl>": "</span>", "<dd>": "<span>", "</dd>": "</span>"}
    if "body" in context:
        context["body"] = re.sub(
            r'<dt class="sig .*?</dt>',
            lambda found: re.sub(r"</?d[ld]>", lambda tag: instead[tag[0]], found[0]),
            context["body"],
            flags=re.DOTALL,
        )


def drop_icon_script(app: Sphinx, error: Exception | None) -> None:
    """
    Empty that script; drop what nobody asks for: maps from scripts to their sources, for debuggers only, the icons'
    fonts a second time, for browsers older than 2016, the translations, and the icons of brands, where no button
    leads to a repository.
    """
    if error is None and app.builder.format == "html":
        brands = [] if app.config.html_theme_options.get("repository_url") else ["fa-brands-*"]
        Path(app.outdir, ICONS).write_text("/* Icons come from the theme's font. */\n", encoding="utf-8")
        for unused in ("*.map", "webfonts/*.ttf", *brands):
            for path in Path(app.outdir, "_static").rglob(unused):
                path.unlink()
        shutil.rmtree(Path(app.outdir, "_static", "locales"), ignore_errors=True)


def write_entrance(app: Sphinx, error: Exception | None) -> None:
    """Write the page that leads to the first one, with a language, a title and a link; else there is a bare jump."""
    if error is None and app.builder.format == "html":
        first = f"{app.config.root_doc}.html"
        text = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={first}">
<link rel="icon" href="_static/icon.svg"><title>{app.config.html_title or app.config.project}</title></head>
<body><p><a href="{first}">To the book</a></p></body>
</html>
"""
        Path(app.outdir, "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    app.connect("html-page-context", drop_mathjax, priority=900)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", mend_signatures)
    app.connect("build-finished", drop_icon_script)
    app.connect("build-finished", write_entrance, priority=400)  # before the one that writes the bare jump
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
