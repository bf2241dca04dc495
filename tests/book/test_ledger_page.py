"""The opening and the ledger's page: seven answers, a mark for every verdict, claims that unfold, strips with words."""

import pytest

from studies import answers
from tests.helpers.browser import Watched
from tests.helpers.claims import published_rows


@pytest.fixture
def look(chromium):
    with Watched(chromium, viewport={"width": 1400, "height": 900}) as watched:
        yield watched.page
        assert not watched.faults


def test_the_first_screen_shows_the_answer_and_the_figure(look, book):
    look.goto((book / "book/index.html").as_uri(), wait_until="load")
    boxes = [look.locator(place).first.bounding_box() for place in ("article h1 + p", "article figure img")]
    assert all(box["y"] > 0 and box["y"] + box["height"] < 900 for box in boxes)
    assert look.locator(".answers tbody tr").count() == len(answers.GROUPS) == 7
    titles = [text.split(".")[0] for text in look.locator(".answers td:first-child strong").all_inner_texts()]
    assert titles == [group.title for group in answers.GROUPS]


@pytest.mark.parametrize("page", ["index", "ledger"])
def test_every_verdict_has_a_mark_that_leads_to_its_claim(look, book, page):
    rows = published_rows()
    look.goto((book / f"book/{page}.html").as_uri(), wait_until="load")
    marks = look.locator(".tally a.verdict")
    says = [f"{row['id']}, {row['short']}: {row['verdict']}" for row in rows]
    assert sorted(mark.get_attribute("aria-label") for mark in marks.all()) == sorted(says)
    assert look.locator(".tally-legend").inner_text().startswith(f"{len(rows)} claims")
    for name in ("D3", "R6-flips", "C1+C2+C3"):
        look.goto((book / f"book/{page}.html").as_uri(), wait_until="load")
        marks.filter(has_text=f"{name} ").first.click()
        look.wait_for_url("**/book/ledger.html#claim-*")
        claim = look.locator(":target")
        assert claim.is_visible() and claim.inner_text().startswith(f"{name} ")  # its block has unfolded


def test_claims_in_full_have_all_that_is_known_of_them(look, book):
    look.goto((book / "book/ledger.html").as_uri(), wait_until="load")
    text = [one.replace("’", "'") for one in look.locator("details.claims").all_text_contents()]
    for row in published_rows():
        (here,) = [one for one in text if f"{row['id']} {answers.details(row)[0]}" in one]
        for detail in answers.details(row)[1:]:
            assert detail.replace("`", "") in here, row["id"]


def test_strips_say_in_words_what_they_show(look, book):
    look.goto((book / "book/ledger.html").as_uri(), wait_until="load")
    alts = " ".join(image.get_attribute("alt") for image in look.locator("article figure img").all())
    for row in published_rows():
        assert f"{row['id']}, {row['short']}: the paper: " in alts
    assert "D2, boundary Jaccard at 8 bits: the paper: 0.428, ours: 0.365 [0.178, 0.529]; reproduced" in alts
    widths = look.evaluate("[...document.querySelectorAll('article figure img')].map((i) => i.naturalWidth)")
    assert max(widths) <= 800  # wider ones scroll on a phone
