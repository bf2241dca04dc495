"""The built book without a browser: its links, captions, downloads and size."""

import gzip
import importlib
import io
import json
import re
import types
import urllib.parse
import xml.etree.ElementTree as ElementTree

import jupytext
import nbformat
import pandas as pd
import pytest
import xarray as xr
import yaml

from tests.helpers import ROOT
from tests.helpers.building import NOTEBOOKS


def test_every_internal_link_and_anchor_resolves(book, parsed):
    broken, outside = [], set()
    for page, content in parsed.items():
        for link in content.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                outside.add(f"{parts.scheme}://{parts.netloc}") if parts.scheme != "data" else None
                continue
            target = (book / page).parent / urllib.parse.unquote(parts.path) if parts.path else book / page
            target = target.resolve()
            name = str(target.relative_to(book.resolve())) if target.is_relative_to(book.resolve()) else ""
            if not name or not target.is_file():
                broken.append(f"{page}: {link}")
            elif parts.fragment and name in parsed and urllib.parse.unquote(parts.fragment) not in parsed[name].anchors:
                broken.append(f"{page}: {link}")
    assert not broken
    assert all(address.startswith("https://") for address in outside)


def test_every_captioned_cell_has_its_picture(book, parsed):
    captioned = 0
    for name in NOTEBOOKS:
        page = f"notebooks/executed/{name}.html"
        notebook = nbformat.read(book.parents[1] / page.replace(".html", ".ipynb"), as_version=4)
        for cell in notebook.cells:
            figure = cell.metadata.get("mystnb", {}).get("figure")
            if figure:
                captioned += 1
                picture = parsed[page].figures.get(figure["name"])
                assert picture, f"{page}: no picture in {figure['name']}"
                assert (book / page).parent.joinpath(picture).stat().st_size > 5000, f"{page}: {figure['name']}"
    assert captioned >= 7


# As tables print them: thousands are set off by commas, and a list of numbers is not one of them.
NUMBER = re.compile(r"(?<![\w.,])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?<=,)\d+")


def is_rounded(text: str, values: list[float]) -> bool:
    """Return whether a printed number is one of *values*, or its percentage, at the digits that are printed."""
    digits, _, exponent = text.replace("−", "-").replace(",", "").partition("e")
    last = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    shown = float(digits) * 10.0 ** int(exponent or 0)
    return any(abs(shown - value * factor) <= 0.500001 * last for value in values for factor in (1, 100))


def captions(notebook) -> dict[str, str]:
    """Return the names of a notebook's captioned figures and tables: of a figure nothing, of a table its rows in Markdown."""
    found = {}
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            found[figure["name"]] = ""
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("```{table}"):
                found[re.search(r"^:name: (.*)$", text, re.MULTILINE)[1]] = text.split("\n\n", 1)[1]
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_captioned_figure_and_table_has_its_files_with_its_numbers(book, parsed, name):
    page = book / f"notebooks/executed/{name}.html"
    notebook = nbformat.read(book.parents[1] / f"notebooks/executed/{name}.ipynb", as_version=4)
    links = parsed[f"notebooks/executed/{name}.html"].links
    for caption, markdown in captions(notebook).items():
        files = {}
        for ending in ("csv", "nc") if markdown else ("svg", "csv", "nc"):
            (link,) = [link for link in links if re.search(rf"/{caption}\.{ending}(\.gz)?$", link)]
            content = (page.parent / link).read_bytes()
            files[ending] = gzip.decompress(content) if link.endswith(".gz") else content
        table = pd.read_csv(io.BytesIO(files["csv"]), keep_default_na=False, na_values=[""])
        with xr.open_dataset(io.BytesIO(files["nc"])) as dataset:
            assert len(table) and set(dataset.data_vars), caption
            assert all(name.partition(" [")[0] in dataset.variables for name in table), caption
            titles = [variable.attrs.get("long_name", "") for variable in dataset.variables.values()]
        if markdown:
            lines = markdown.splitlines()[2:-1]  # without head, rule and fence
            assert len(lines) == len(table), caption
            for line, row in zip(lines, table.itertuples(index=False)):
                words = " ".join(
                    map(str, [*titles, *row])
                )  # what is counted is in a column's title: "networks at 2 bits"
                known = [float(number.replace("−", "-").replace(",", "")) for number in NUMBER.findall(words)]
                assert [number for number in NUMBER.findall(line) if not is_rounded(number, known)] == [], caption
        else:
            tree = ElementTree.fromstring(files["svg"])
            assert tree.tag.endswith("}svg") and len(list(tree.iter())) > 50, caption
    (copy,) = {link for link in links if link.endswith(f"/{name}.ipynb")}
    given = nbformat.read((page.parent / copy).resolve(), as_version=4)
    assert [cell.source for cell in given.cells] == [cell.source for cell in notebook.cells]
    assert not any(
        "source_data" in str(output.get("data", {}).keys()) for c in given.cells for output in c.get("outputs", [])
    )


def test_every_chapter_says_of_what_its_figures_and_tables_are_made(book):
    pages = {
        name: " ".join(re.sub(r"<[^>]+>", "", (book / f"notebooks/executed/{name}.html").read_text("utf-8")).split())
        for name in NOTEBOOKS
    }
    for name, text in pages.items():
        assert re.search(
            r"Published: data/results/\w|Fresh, by python -m|computed (here|from it|by this notebook)", text
        ), name
    manifest = json.loads((ROOT / "data/results/manifest.json").read_text(encoding="utf-8"))
    shown = set(manifest) - {"times.nc", "growth.nc"}  # their tables are on pages that have their commands
    assert shown == {result for result in shown if any(f"data/results/{result}" in text for text in pages.values())}


def test_rerun_page_has_every_parameter_of_every_notebook(book):
    text = re.sub(r"<[^>]+>", "", (book / "book/rerun.html").read_text(encoding="utf-8"))
    for name in NOTEBOOKS:
        source = jupytext.read(ROOT / f"notebooks/{name}.py", fmt="py:percent")
        cells = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
        assert name in text
        for parameter in re.findall(r"^(\w+) = ", "\n".join(cells), re.MULTILINE):
            assert parameter in text, f"{name}: {parameter}"


def test_first_uses_of_terms_lead_to_the_glossary(book, parsed):
    glossary = parsed["book/glossary.html"].anchors
    terms = {anchor[5:].replace("-", " "): anchor for anchor in glossary if anchor.startswith("term-")}
    seen = 0
    for page in parsed:
        if page in ("book/glossary.html", "book/references.html", "genindex.html", "search.html", "index.html"):
            continue
        text = (book / page).read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        text = re.sub(r"<(table|code|strong|figcaption|pre)\b.*?</\1>", "", text, flags=re.DOTALL)
        text = " ".join(re.findall(r"<p>(.*?)</p>", text, flags=re.DOTALL))
        text = re.sub(
            r"\s+", " ", re.sub(r"<a\b.*?</a>|<span class=\"math.*?</span>", "", text, flags=re.DOTALL)
        ).lower()
        links = " ".join(parsed[page].links)
        for term, anchor in terms.items():
            if re.search(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", text):  # said without a link: then linked before
                seen += 1
                assert f"glossary.html#{anchor}" in links, f"{page}: {term}"
    assert seen > 20


def test_buttons_lead_to_the_repository_if_it_is_named(book, parsed, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    downloads = importlib.import_module("downloads")
    for url, there in (("", False), (" ", False), ("https://example.org/us/it", True)):
        config = types.SimpleNamespace(html_theme_options={"repository_url": url})
        downloads.show_buttons(None, config)
        assert (
            config.html_theme_options["use_repository_button"]
            is config.html_theme_options["use_issues_button"]
            is there
        )
    named = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    shown = [link for content in parsed.values() for link in content.links if named and link.startswith(named)]
    assert bool(shown) == bool(named)
    text = (book / "book/index.html").read_text(encoding="utf-8")
    assert ("btn-source-repository-button" in text or "btn-source-issues-button" in text) == bool(named)


def test_chapters_and_worksheets_lead_to_where_they_run_if_the_repository_is_on_github(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    launch, downloads = importlib.import_module("launch"), importlib.import_module("downloads")
    for address in ("https://github.com/us/it", "https://github.com/us/it/", "https://github.com/us/it.git"):
        assert [link for link, *_ in launch.places(address, "_sources/a/01.ipynb", "notebooks/01.py")] == [
            "https://mybinder.org/v2/gh/us/it/HEAD?labpath=notebooks/01.py",
            "https://colab.research.google.com/github/us/it/blob/gh-pages/_sources/a/01.ipynb",
        ]
    for address in ("", "https://example.org/us/it", "https://github.com/"):
        assert launch.places(address, "a.ipynb", "b.py") == []
    one = json.dumps({"cells": [{"cell_type": "markdown", "source": "# Title", "metadata": {}}], "nbformat": 4})
    ours = json.loads(downloads.without_files(one, "https://github.com/us/it"))["cells"]
    assert len(json.loads(downloads.without_files(one))["cells"]) == 1
    assert [cell["cell_type"] for cell in ours] == ["markdown", "code"]
    source = "".join(ours[1]["source"])
    assert "git clone --quiet --depth 1 https://github.com/us/it book" in source and "%cd book" in source
    made = downloads.line("Run: ", launch.places("https://github.com/us/it", "x.ipynb", "y.py"), "a/b").astext()
    assert 'href="https://colab.' in made and "download" not in made


def test_site_is_small(book):
    total = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert total < 25e6, f"the site has {total / 1e6:.1f} MB"
