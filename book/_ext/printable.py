"""Write the pages of the reproduction on one page, print.html beside the first: to print or search as a whole."""

import posixpath
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

REFERENCES = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "headers")  # attributes that name ids
LEFT_OUT = "#jb-print-docs-body, .prev-next-area, .headerlink"
HIDDEN = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article"  # the theme's scripts need them


def pages_of(toc: dict) -> list[str]:
    """Return the first page and those of the first part of a table of contents."""
    return [toc["root"], *(chapter["file"] for chapter in toc["parts"][0]["chapters"])]


def moved(address: str, page: str, pages: list[str], target: str) -> str:
    """Return what an *address* on *page* is on the page *target*, which has all of *pages*."""
    if urlsplit(address).scheme or address.startswith("//") or not address:
        return address
    path, anchor = urldefrag(address)
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else f"{page}.html"
    if whole.removesuffix(".html") in pages:
        return f"#{key(whole.removesuffix('.html'), anchor)}"
    return posixpath.relpath(whole, posixpath.dirname(target)) + (f"#{anchor}" if anchor else "")


def key(page: str, anchor: str) -> str:
    """Return the id that stands for *anchor* of *page*, or for the page as a whole."""
    stem = posixpath.basename(page)
    return f"in-{stem}-{anchor}" if anchor else f"in-{stem}"  # a selector begins with a letter


def move(article: Tag, page: str, pages: list[str], target: str) -> Tag:
    """Let ids, links and pictures of a page's *article* work on the page *target*."""
    for tag in article.find_all(True):
        if tag.get("id"):
            tag["id"] = key(page, tag["id"])
        for name in REFERENCES:
            if tag.get(name):
                tag[name] = " ".join(key(page, one) for one in tag.get_attribute_list(name) if one)
        for name in ("href", "src"):
            if tag.get(name):
                tag[name] = moved(tag[name], page, pages, target)
    article.name, article["id"] = "section", key(page, "")
    return article


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the page from those that were built, with all folds open and without the code that chapters fold."""
    if error is not None or app.builder.format != "html":
        return
    pages = pages_of(yaml.safe_load(Path(app.srcdir, "_toc.yml").read_text(encoding="utf-8")))
    soups = [
        BeautifulSoup(Path(app.outdir, f"{page}.html").read_text(encoding="utf-8"), "html.parser") for page in pages
    ]
    whole, target = soups[0], posixpath.join(posixpath.dirname(pages[0]), "print")
    formulas = {}  # the scripts for formulas, which the first page may not have
    for soup, page in zip(soups, pages):
        for tag in soup.find_all("script"):
            if "mathjax" in str(tag).lower():
                if tag.get("src"):
                    tag["src"] = moved(tag["src"], page, pages, target)
                formulas.setdefault(str(tag), tag)
    whole.head.extend(formulas.values())
    articles = [move(soup.select_one("article"), page, pages, target).extract() for soup, page in zip(soups, pages)]
    whole.title.string = app.config.project
    main = whole.select_one(".bd-article-container")
    for tag in whole.select(LEFT_OUT):
        tag.decompose()
    for tag in whole.select(HIDDEN):
        tag["style"] = "display: none"
    main.extend(articles)
    for tag in main.select("details.above-input"):
        if not tag.find(id=True):  # else a table is folded with it
            tag.decompose()
    for tag in main.select("details"):  # paper cannot be opened
        tag["open"] = ""
    Path(app.outdir, f"{target}.html").write_text(str(whole), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register the above, after what changes pages once they are written."""
    app.connect("build-finished", write, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
