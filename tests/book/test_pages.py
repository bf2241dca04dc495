"""Every page of the built book in a real browser: from file:// and over a server, light and dark, on a phone and a desk."""

import re

import pytest

from tests.helpers.browser import Watched, is_redirection, pages

LOOKS = (
    "() => [document.documentElement.dataset.theme, document.documentElement.scrollWidth - innerWidth,"
    " [...document.images].filter((i) => !i.naturalWidth && i.loading !== 'lazy').map((i) => i.src)]"
)
PRINTED = "[...document.querySelectorAll('.bd-article table, .bd-article figure')].map((e) => e.getBoundingClientRect().right)"

# The contrast of a text follows from its own look and that of all around it, and is what axe takes longest for. Of the
# texts of one look it is judged once a page: the last, since what a page has scrolled out of sight is what comes before.
TWINS = r"""() => {
  const looks = new Map([[null, ""]]), seen = new Set();
  const styles = ["color", "backgroundColor", "backgroundImage", "opacity", "filter", "mixBlendMode", "position",
    "overflow", "fontSize", "fontWeight", "textShadow", "visibility", "display"];
  const look = (e) => {
    if (!looks.has(e)) {
      const style = getComputedStyle(e), off = [e.disabled, e.ariaDisabled, e.control?.disabled];
      const own = [e.tagName, e.getAttribute("class"), ...off, ...styles.map((name) => style[name])];
      looks.set(e, look(e.parentElement) + own.join());
    }
    return looks.get(e);
  };
  for (const e of [...document.querySelectorAll("body *")].reverse()) {
    const text = [...e.childNodes].map((c) => (c.nodeType === Node.TEXT_NODE ? c.data : "")).join("").trim();
    if (!text) continue;
    // A text may be in a closed part of the page, or beyond the frame of a wide table.
    const seenAs = [e.checkVisibility(), e.getBoundingClientRect().left < innerWidth - 20];
    const key = [look(e), ...seenAs, /[\p{L}\p{N}]/u.test(text) ? text.length > 1 : text].join();
    e.toggleAttribute("data-twin", seen.has(key));
    seen.add(key);
  }
}"""
ONE_OF_TWINS = ";axe.configure({ rules: [{ id: 'color-contrast', selector: ':not([data-twin])' }] })"


def axe_faults(page) -> list[str]:
    """Return what axe finds that is serious."""
    sync = pytest.importorskip("axe_playwright_python.sync_playwright", reason="DID NOT RUN, axe is missing")
    page.evaluate(TWINS)
    axe = sync.Axe(sync.Axe().axe_script + ONE_OF_TWINS)
    # Only what is at fault is listed in full, which halves the time.
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']}: {node['target']} {node['html'][:100]} {node['failureSummary'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def print_faults(page) -> list[str]:
    """Return what does not fit on an A4 page without its margins, and what should not be printed but is."""
    page.set_viewport_size({"width": 720, "height": 1000})
    page.emulate_media(media="print")
    wide = [f"prints {right:.0f} px wide" for right in page.evaluate(PRINTED) if right > 721]
    return wide + [f"prints {part}" for part in (".bd-sidebar-primary", ".prev-next-area") if page.is_visible(part)]


# Each way with both schemes and both widths, and each scheme with both widths: every two meet in these four. Of the two
# on the server axe judges the pages too, which asks it for the styles; of one that is read as files, how they print. The
# page with all chapters, which takes axe as long as half of the others together, is for paper, and judged in light alone.
@pytest.mark.parametrize("half", [0, 1])  # so that two workers share the longest tests
@pytest.mark.parametrize(
    ("way", "scheme", "width"),  # the longest first
    [("server", "dark", 1400), ("server", "light", 390), ("file", "light", 1400), ("file", "dark", 390)],
)
def test_every_page_is_without_a_fault(chromium, book, request, way, scheme, width, half):
    base = book.as_uri() + "/" if way == "file" else request.getfixturevalue("served")
    faults, size = [], {"width": width, "height": 900}
    with Watched(chromium, viewport=size, color_scheme=scheme) as watched:
        for name in sorted(pages(book), key=lambda name: (book / name).stat().st_size)[half::2]:
            watched.page.goto(base + name, wait_until="load")
            if is_redirection(book / name):
                watched.page.wait_for_url(base + "book/index.html", wait_until="load")
            watched.page.wait_for_function("document.fonts.status === 'loaded'")
            theme, wide, blank = watched.page.evaluate(LOOKS)
            found = [f"theme {theme}"] if theme != scheme else []
            found += [f"{wide} px too wide"] if wide > 0 else []
            found += [f"blank {src}" for src in blank] + watched.faults
            found += [f"asks for {url}" for url in watched.requests if not url.startswith((base, "data:"))]
            on_paper = name == "book/print.html"
            if way == "server" and not is_redirection(book / name) and not (on_paper and scheme == "dark"):
                found += axe_faults(watched.page)
            if (way, width) == ("file", 1400) and not is_redirection(book / name):
                found += print_faults(watched.page)
                watched.page.emulate_media(media="screen")
                watched.page.set_viewport_size(size)
            faults += [f"{name}: {fault}" for fault in found]
            watched.faults.clear(), watched.requests.clear()
    assert not faults, "\n".join(faults)


def test_a_page_prints_as_a_file(chromium, book):
    with Watched(chromium) as watched:
        watched.page.goto((book / "book/index.html").as_uri(), wait_until="load")
        assert watched.page.pdf(format="A4").startswith(b"%PDF")


def test_first_page_is_light_and_drawn_at_once(chromium, book, served):
    with Watched(chromium, viewport={"width": 1400, "height": 900}) as watched:
        sizes = []
        watched.page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        watched.page.goto(served + "index.html")
        watched.page.wait_for_url(served + "book/index.html", wait_until="networkidle")
        drawn = watched.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"first page: {sum(sizes) / 1e6:.2f} MB, drawn after {drawn / 1000:.2f} s")
    assert sum(sizes) < 1.5e6
    assert drawn < 2000 * 5  # a loaded machine is given five times as long


def test_tables_sort_by_the_heading_that_is_pressed(chromium, book):
    with Watched(chromium, viewport={"width": 1400, "height": 900}) as watched:
        page = watched.page
        page.goto((book / "book/ledger.html").as_uri(), wait_until="load")
        read = "(k) => [...document.querySelectorAll('.ledger tbody tr')].map((row) => row.cells[k].textContent.trim())"
        assert [text.split()[0] for text in page.evaluate(read, 0)[:3]] == ["D1", "D2", "D3"]
        page.click(
            ".ledger th:nth-child(2) button"
        )  # the paper's: numbers first, of several the first, words after them
        found = [re.match(r"[\d.]+", text) for text in page.evaluate(read, 1)]
        numbers = [float(one[0]) for one in found if one]
        assert numbers == sorted(numbers) and len(numbers) > 20
        assert all(found[: len(numbers)]) and not any(found[len(numbers) :])
        page.focus(".ledger th:nth-child(1) button")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.get_attribute(".ledger th:nth-child(1)", "aria-sort") == "descending"
        names = [text.split()[0] for text in page.evaluate(read, 0)]
        plain = [name for name in names if name.isalnum()]  # where signs go depends on the language
        assert plain == sorted(plain, reverse=True) and len(plain) > 30
        assert not watched.faults
