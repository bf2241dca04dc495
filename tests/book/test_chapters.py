"""The chapters as a reader sees them: the answer on the first screen, few tables and figures, no number cut or broken."""

import re

import pytest
import yaml

from tests.helpers import ROOT
from tests.notebooks.test_chapters import OPENED, REWRITTEN

# What is folded away, a supplement, is counted apart and looked at unfolded.
OPEN = "() => document.querySelectorAll('.bd-article details').forEach((one) => (one.open = true))"
COUNT = """() => ['table[id]', 'figure'].map((kind) =>
    [...document.querySelectorAll(`.bd-article ${kind}`)].filter((one) => one.id && !one.closest('details')).length)"""
# Of each table: its name, its columns, whether a part of it is out of sight, and numbers that go over two lines.
TABLES = r"""() => [...document.querySelectorAll('.bd-article table')].map((table) => {
    const broken = [];
    for (const cell of table.querySelectorAll('td, th')) {
        const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        for (let text = walk.nextNode(); text; text = walk.nextNode())
            for (const found of text.data.matchAll(/[-+−]?\d[\d.,%]*/g)) {
                const range = document.createRange();
                range.setStart(text, found.index);
                range.setEnd(text, found.index + found[0].length);
                const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
                if (tops.size > 1) broken.push(found[0]);
            }
    }
    const frame = table.closest('.pst-scrollable-table-container, .output') || table.parentElement;
    const scrolls = ['auto', 'scroll'].includes(getComputedStyle(frame).overflowX);
    return [table.id, table.rows[0].cells.length, frame.scrollWidth - frame.clientWidth, scrolls, broken];
})"""


@pytest.mark.parametrize("name", [*REWRITTEN, *OPENED])
def test_the_first_screen_has_the_answer_and_a_figure(window, name):
    page = window(f"notebooks/executed/{name}.html")
    # The parameters that the tests' book has and a reader's has not are a cell of their own.
    page.evaluate("document.querySelectorAll('.tag_injected-parameters').forEach((cell) => cell.remove())")
    answer, figure = page.evaluate(
        "() => ['.bd-article p:has(> strong)', '.bd-article figure img'].map((which) =>"
        " document.querySelector(which).getBoundingClientRect().bottom)"
    )
    assert page.inner_text(".bd-article p:has(> strong)").startswith("Answer.")
    assert answer < figure <= 900


@pytest.mark.parametrize("name", [*REWRITTEN, *OPENED])
@pytest.mark.parametrize("width", [1400, 390])
def test_tables_are_few_and_narrow_and_no_number_is_broken(window, name, width):
    page = window(f"notebooks/executed/{name}.html", width)
    tables, figures = page.evaluate(COUNT)
    page.evaluate(OPEN)
    found = page.evaluate(TABLES)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tables <= 3 and figures <= 5 and found
    for table, columns, hidden, scrolls, broken in found:
        assert columns <= 7, table
        assert broken == [], table
        assert hidden <= 1 or (scrolls and width == 390), table  # on a phone a wide table scrolls in itself


def test_figures_and_tables_are_numbered_by_what_they_are(book):
    """The paper's are P1, P2, …; those of supplements S1, S2, … and all others 1, 2, … count on through the book."""
    counts: dict[str, list[int]] = {}
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for page in [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]:
        text = (book / f"{page}.html").read_text(encoding="utf-8")
        captions = (
            r'<(?:figure|table)[^>]*\bid="([\w-]+)"(?:(?!</(?:figure|table)>).)*?caption-number">(Fig\.|Table) (\w+)'
        )
        for name, kind, number in re.findall(captions, text, re.DOTALL):
            paper = re.fullmatch(r"(?:table|figure)-p(\d)", name)
            letter, digits = re.fullmatch(r"([PS]?)(\d+)", number).groups()
            assert letter == ("P" if paper else "S" if name.startswith("supplement-") else ""), name
            if paper:
                assert digits == paper[1], name
            else:
                counts.setdefault(kind + letter, []).append(int(digits))
    assert {"Fig.", "Table", "TableS"} <= counts.keys()
    assert all(found == list(range(1, len(found) + 1)) for found in counts.values()), counts


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_chapter_says_how_to_cite_it_and_sets_intervals_apart(book, name):
    text = (book / f"notebooks/executed/{name}.html").read_text(encoding="utf-8")
    title = re.search(r"<h1>(.*?)<", text)[1]
    cited = re.search(r'<p class="cite">(.*?)</p>', text)[1]
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert title in cited and about["title"] in cited and about["version"] in cited and "2026" in cited
    loose = re.findall(r"<td[^>]*><p>[^<]*\d \[[^\]<]*\]", text)
    assert not loose  # an interval behind its estimate has a span of its own
