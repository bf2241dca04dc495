"""The reproduction on one page, to print."""

import importlib
import re

import pytest

from tests.helpers import ROOT


@pytest.fixture()
def printable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    return importlib.import_module("printable")


@pytest.mark.parametrize(
    "address, expected",
    [
        ("#figure-a", "#in-01-figure-a"),  # on the page itself
        ("#", "#in-01"),
        ("02.html#table-b", "#in-02-table-b"),  # on another page that is there too
        ("../../book/index.html", "#in-index"),
        ("../../book/explorer.html#top", "explorer.html#top"),  # on one that is not
        ("../../_images/a.svg", "../_images/a.svg"),
        ("https://example.org/a.html#b", "https://example.org/a.html#b"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
    ],
)
def test_addresses_lead_to_the_same_place(printable, address, expected):
    pages = ["book/index", "notebooks/executed/01", "notebooks/executed/02"]
    assert printable.moved(address, pages[1], pages, "book/print") == expected


def test_all_chapters_of_the_reproduction_are_on_the_page_with_their_pictures(book, parsed):
    text = (book / "book/print.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 100
    for name in ("01_levels", "03_stopping", "11_gaps"):
        chapter = (book / f"notebooks/executed/{name}.html").read_text(encoding="utf-8").partition("<article")[2]
        part = text.partition(f'<section class="bd-article" id="in-{name}"')[2]
        inside = part.partition('<section class="bd-article"')[0]
        assert chapter.partition("</article>")[0].count("<img") == inside.count("<img") > 0
    assert {link[1:] for link in parsed["book/print.html"].links if re.match("#.", link)} <= set(ids)
