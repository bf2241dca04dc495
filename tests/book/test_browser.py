"""
The built book in a real browser: every page from file:// and over a server, light and dark, on a phone and a desk.

The explorer and the lessons are driven as a reader would, and their numbers compared with Python's. These tests need
chromium, as `apt-get install chromium` gives it; those of links, captions and size do not.
"""

import base64
import copy
import functools
import gzip
import http.server
import importlib
import io
import json
import re
import shutil
import threading
import types
import urllib.parse
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from building import NOTEBOOKS

from bqcore._store import load_dataset
from bqcore.metrics import decisions, label_grids, margins, masks, planes
from bqcore.quantizers import uniform
from studies import explorer
from studies.figures import style

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
LEVELS = (32, 8, 7, 6, 5, 4, 3, 2)  # the slider's, float first
KEPT = [path.stem for path in sorted(ROOT.glob("data/explorer/*.nc"))]
KEPT_WEIGHTS, FRAMED = ([name for name in KEPT if (name in explorer.FRAMED) == framed] for framed in (False, True))
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="DID NOT RUN, there is no chromium on the PATH: `apt-get install chromium` and run the tests again",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that keeps its log to itself."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def served(book) -> str:
    """Give the address of the book on a server of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium():
    """Give a browser, closed after the last test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="DID NOT RUN, playwright is missing")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


class Watched:
    """A page of the browser with what it said and asked for."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.faults, self.requests = [], []
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", self.note_failure)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def note_failure(self, request):
        if request.failure != "net::ERR_ABORTED":  # an icon still on its way when the next page is opened
            self.faults.append(f"failed: {request.url}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def pages(book: Path) -> list[str]:
    """List the book's pages, as addresses below its folder."""
    return sorted(str(path.relative_to(book)) for path in book.rglob("*.html") if "_static" not in path.parts)


def is_redirection(page: Path) -> bool:
    """Tell whether a page only leads to the first chapter."""
    return 'http-equiv="refresh"' in page.read_text(encoding="utf-8").lower()


# ---- without a browser: links, captions, size -----------------------------------------------------------------------


class Links(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.anchors, self.figures, self.stack = [], set(), {}, []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]
        if tag == "figure":
            self.stack.append(given.get("id", ""))
        if tag in ("img", "canvas") and self.stack:
            self.figures[self.stack[-1]] = given.get("src", "")

    def handle_endtag(self, tag):
        if tag == "figure":
            self.stack.pop()


@pytest.fixture(scope="session")
def parsed(book) -> dict[str, Links]:
    found = {}
    for page in pages(book):
        found[page] = Links()
        found[page].feed((book / page).read_text(encoding="utf-8"))
    return found


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


NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def captions(notebook) -> dict[str, str]:
    """Give the names of a notebook's captioned figures and tables: of a figure nothing, of a table its rows in Markdown."""
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
        table = pd.read_csv(io.BytesIO(files["csv"]), dtype=str, keep_default_na=False)
        with xr.open_dataset(io.BytesIO(files["nc"]), engine="h5netcdf") as dataset:
            assert dataset.sizes["row"] == (len(table) if markdown else (table.kind != "cells").sum()) > 0, caption
            pictures = sum(str(key).startswith("picture_") for key in dataset.data_vars)
        if markdown:
            cells = " ".join(markdown.splitlines()[2:-1])  # without head, rule and fence
            wanted, found = (
                sorted(number.replace("−", "-") for number in NUMBER.findall(text))
                for text in (cells, " ".join(table.to_numpy().ravel()))
            )
            assert found == wanted, caption
        else:
            tree = ElementTree.fromstring(files["svg"])
            assert tree.tag.endswith("}svg") and len(list(tree.iter())) > 50, caption
            drawn = len(list(tree.iter("{http://www.w3.org/2000/svg}image")))
            assert bool(pictures) == bool(drawn), f"{caption}: {drawn} pictures drawn, {pictures} given"
    (copy,) = {link for link in links if link.endswith(f"/{name}.ipynb")}
    given = nbformat.read((page.parent / copy).resolve(), as_version=4)
    assert [cell.source for cell in given.cells] == [cell.source for cell in notebook.cells]
    assert not any(
        "vnd.bqcore" in str(output.get("data", {}).keys()) for c in given.cells for output in c.get("outputs", [])
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
    shown = set(manifest) - {"times.nc"}  # the table of times is on the page that has its command
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


def test_site_is_small(book):
    total = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert total < 25e6, f"the site has {total / 1e6:.1f} MB"


# ---- every page ------------------------------------------------------------------------------------------------------


# Each way with both schemes and both widths, and each scheme with both widths: every two meet in these four.
@needs_chromium
@pytest.mark.parametrize(
    ("way", "scheme", "width"),
    [("file", "light", 1400), ("file", "dark", 390), ("server", "dark", 1400), ("server", "light", 390)],
)
def test_every_page_loads_without_a_fault(chromium, book, request, way, scheme, width):
    base = book.as_uri() + "/" if way == "file" else request.getfixturevalue("served")
    faults = []
    with Watched(chromium, viewport={"width": width, "height": 900}, color_scheme=scheme) as watched:
        for name in pages(book):
            watched.page.goto(base + name, wait_until="load")
            if is_redirection(book / name):
                watched.page.wait_for_url(base + "book/index.html", wait_until="load")
            watched.page.wait_for_function("document.fonts.status === 'loaded'")
            theme, wide, blank = watched.page.evaluate(
                "() => [document.documentElement.dataset.theme, document.documentElement.scrollWidth - innerWidth,"
                " [...document.images].filter((i) => !i.naturalWidth && i.loading !== 'lazy').map((i) => i.src)]"
            )
            faults += [f"{name}: theme {theme}"] if theme != scheme else []
            faults += [f"{name}: {wide} px too wide"] if wide > 0 else []
            faults += [f"{name}: blank {src}" for src in blank]
            faults += [f"{name}: {fault}" for fault in watched.faults]
            faults += [f"{name}: asks for {url}" for url in watched.requests if not url.startswith((base, "data:"))]
            watched.faults.clear(), watched.requests.clear()
    assert not faults


@needs_chromium
@pytest.mark.parametrize("half", [0, 1])  # so that two workers share the longest test
@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_axe_finds_no_serious_fault(chromium, book, scheme, width, half):
    sync = pytest.importorskip("axe_playwright_python.sync_playwright", reason="DID NOT RUN, axe is missing")
    faults = []
    with Watched(chromium, viewport={"width": width, "height": 900}, color_scheme=scheme) as watched:
        for name in pages(book)[half::2]:
            if is_redirection(book / name):
                continue
            watched.page.goto((book / name).as_uri(), wait_until="load")
            # Only what is at fault is listed in full, which halves the time.
            found = sync.Axe().run(watched.page, options={"resultTypes": ["violations"]}).response["violations"]
            faults += [
                f"{name}: {fault['id']}: {node['target']} {node['html'][:100]} {node['failureSummary'][:200]}"
                for fault in found
                if fault["impact"] in ("serious", "critical")
                for node in fault["nodes"]
            ]
    assert not faults, "\n" + "\n".join(faults)


@needs_chromium
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


@needs_chromium
def test_tables_sort_by_the_heading_that_is_pressed(chromium, book):
    with Watched(chromium, viewport={"width": 1400, "height": 900}) as watched:
        page = watched.page
        page.goto((book / "book/ledger.html").as_uri(), wait_until="load")
        read = "(k) => [...document.querySelectorAll('.ledger tbody tr')].map((row) => row.cells[k].textContent.trim())"
        assert page.evaluate(read, 0)[:3] == ["D1", "D2", "D3"]
        page.click(".ledger th:nth-child(4) button")  # reported: numbers first, words after them
        numbers = [float(text) for text in page.evaluate(read, 3) if re.fullmatch(r"[\d.]+", text)]
        assert numbers == sorted(numbers) and len(numbers) > 20
        assert page.evaluate(read, 3)[: len(numbers)] == [f"{number:g}" for number in numbers]
        page.focus(".ledger th:nth-child(1) button")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.get_attribute(".ledger th:nth-child(1)", "aria-sort") == "descending"
        names = page.evaluate(read, 0)
        assert names == sorted(names, reverse=True)
        assert not watched.faults


@needs_chromium
def test_pages_print_without_what_surrounds_them(chromium, book):
    with Watched(chromium, viewport={"width": 720, "height": 1000}) as watched:  # A4 without its margins
        for name in pages(book):
            if is_redirection(book / name):
                continue
            watched.page.goto((book / name).as_uri(), wait_until="load")
            watched.page.emulate_media(media="print")
            wide = "[...document.querySelectorAll('.bd-article table, .bd-article figure')].map((e) => e.getBoundingClientRect().right)"
            assert max(watched.page.evaluate(wide), default=0) <= 721, name
            assert not watched.page.is_visible(".bd-sidebar-primary"), name
            assert not watched.page.is_visible(".prev-next-area"), name
        assert watched.page.pdf(format="A4").startswith(b"%PDF")


# ---- the explorer ----------------------------------------------------------------------------------------------------


class Explorer:
    """The explorer's page, driven as a reader would, and Python's side of the same network."""

    def __init__(self, page, name: str = "digits"):
        self.page, self.name = page, name
        path = ROOT / f"data/explorer/{name}.nc"
        self.dataset = load_dataset(path) if path.exists() else explorer.digits_network()
        self.model, self.plane = explorer.model_of(self.dataset), explorer.plane_of(self.dataset)
        self.inputs, self.targets = explorer.inputs_of(self.dataset), self.dataset.target.values.astype(int)
        self.levels = {32: self.model} | {bits: uniform.quantize_model(self.model, bits) for bits in LEVELS[1:]}

    def at(self, position: int) -> torch.nn.Module:
        """Give Python's network at a position of the slider, ten to a level."""
        place = min(position // 10, len(LEVELS) - 2)
        one, two = self.levels[LEVELS[place]], self.levels[LEVELS[place + 1]]
        return uniform.interpolate(one, two, (position - 10 * place) / 10)

    def show(self, position: int) -> None:
        """Put the slider to a position and wait for the picture."""
        self.page.evaluate("(p) => { bqExplorer.state.position = p; bqExplorer.show(); }", position)

    def labels(self, nodes: int) -> np.ndarray:
        """Give the page's labels at the current position."""
        text = self.page.evaluate("(n) => bqExplorer.current().labels[n].join('')", nodes)
        return np.frombuffer(text.encode(), np.uint8).reshape(nodes, nodes) - ord("0")

    def plane_shown(self) -> planes.Plane:
        """Give the page's slice; JSON carries every digit of a double."""
        found = self.page.evaluate(
            "(name) => { const { plane } = bqExplorer.networks[name].slice;"
            " return [[...plane.origin], plane.axes.map((axis) => [...axis]), plane.low, plane.high]; }",
            self.name,
        )
        return planes.Plane(*map(np.array, found), self.plane.explained, self.plane.shape)


def assert_same_labels(found: np.ndarray, model, plane: planes.Plane, what: str) -> None:
    """Hold the page's labels against Python's: equal on every node, but where the margin is a rounding error."""
    nodes = len(found)
    wanted = label_grids.label_grid(model, plane, nodes)
    for row, column in np.argwhere(wanted != found):
        a, b = (axis[i] for axis, i in zip(plane.nodes(nodes), (column, row)))
        logits = copy.deepcopy(model).double()(torch.from_numpy(plane.points(a, b))[None]).detach()
        # Both sum in float64, in another order: about 1e-13 apart. More is a fault.
        assert decisions.margin(logits)[0] < 1e-9, f"{what}: node ({row}, {column})"


@pytest.fixture
def open_explorer(chromium, book):
    """Give a function that opens the explorer in a window of its own; console faults fail the test."""
    opened = []

    def opener(name: str = "digits", *, frames: bool = False, **options) -> Explorer:
        watched = Watched(chromium, **{"viewport": {"width": 1400, "height": 1000}} | options)
        opened.append(watched)
        watched.page.goto((book / "book/explorer.html").as_uri(), wait_until="load")
        watched.page.wait_for_function("bqExplorer.current() !== null")
        if name != "digits":
            watched.page.check(f"input[name=bq-network][value={name}]")
            watched.page.wait_for_function("(name) => bqExplorer.state.name === name", arg=name)
        return watched if frames else Explorer(watched.page, name)

    yield opener
    faults = sum((watched.faults for watched in opened), [])
    for watched in opened:
        watched.context.close()
    assert not faults


@needs_chromium
def test_digits_labels_equal_python_s_on_every_node_at_every_position(open_explorer):
    ours = open_explorer()
    for position in range(10 * (len(LEVELS) - 1) + 1):
        ours.show(position)
        assert_same_labels(ours.labels(401), ours.at(position), ours.plane, f"position {position}")
    for nodes in (51, 101, 201):
        assert_same_labels(ours.labels(nodes), ours.at(70), ours.plane, f"{nodes} nodes")


@needs_chromium
def test_quantized_and_interpolated_weights_equal_torch_s_to_the_last_bit(open_explorer):
    page = open_explorer().page
    call = "([one, other, bits, t]) => { const g = bqGeometry; const q = (w) => g.quantize(Float32Array.from(w), bits);"
    call += " return [[...q(one)], [...g.mix(q(one), q(other), t)]]; }"
    rng = np.random.default_rng(0)
    for case in range(200):
        bits = int(rng.integers(2, 17))
        top = 2 ** (bits - 1) - 1
        # Half of the weights lie halfway between two levels, where rounding to even and up part; scales vary.
        ties = (rng.integers(-2 * top, 2 * top + 1, 20) / 2 / top).astype(np.float32)
        one = np.concatenate([ties, rng.uniform(-1, 1, 19).astype(np.float32), [np.float32(1)]])
        scale = np.float32(10.0 ** rng.integers(-3, 3) if case % 2 else 1)
        one, other = ((w * scale).astype(np.float32) for w in (one, rng.permutation(one)))
        t = float(rng.integers(0, 11) / 10)
        q_one, q_other = (uniform.quantize(torch.from_numpy(w), bits) for w in (one, other))
        mixed = (1 - t) * q_one + t * q_other  # as bqcore.quantizers.uniform.interpolate
        found = page.evaluate(call, [one.tolist(), other.tolist(), bits, t])
        for ours, wanted in zip(found, (q_one, mixed)):
            assert np.array_equal(np.array(ours, np.float32), wanted.numpy())


@needs_chromium
@pytest.mark.parametrize("name", KEPT_WEIGHTS)
def test_other_networks_labels_equal_python_s_on_every_node_at_every_level(open_explorer, name):
    ours = open_explorer(name)
    for position in [*range(0, 71, 10), 4, 43, 68]:
        ours.show(position)
        assert_same_labels(ours.labels(401), ours.at(position), ours.plane, f"{name}, position {position}")


@needs_chromium
@pytest.mark.parametrize("name", ["digits", *KEPT_WEIGHTS])
def test_readings_equal_python_s_at_every_level(open_explorer, name):
    ours = open_explorer(name)
    doubles = ours.inputs.double()
    with torch.no_grad():
        before = ours.at(0).double()(doubles)
    for position in [*range(0, 71, 10), 35]:
        ours.show(position)
        here = ours.page.evaluate(
            "() => { const { accuracy, flipCount, bandFlipCount, medianShift, grids, logits } = bqExplorer.current();"
            " return { accuracy, flipCount, bandFlipCount, medianShift, grids, logits: logits.map((z) => [...z]) }; }"
        )
        model = ours.at(position)
        labels = {
            n: (label_grids.label_grid(ours.model, ours.plane, n), label_grids.label_grid(model, ours.plane, n))
            for n in (51, 101, 201, 401)
        }
        model = model.double()
        with torch.no_grad():
            after = model(doubles)
        # Sums of up to 784 products in float64, in another order.
        np.testing.assert_allclose(here["logits"], after, rtol=0, atol=1e-9)
        count = len(doubles)
        assert here["accuracy"] == pytest.approx((after.argmax(1).numpy() == ours.targets).mean(), abs=1e-12)
        assert here["flipCount"] == round(decisions.flips(before, after).rate * count)
        band = len(decisions.boundary_band(before))
        assert here["bandFlipCount"] == round(decisions.band_flip_rate(before, after) * band)
        shift = margins.local_change(ours.at(0).double(), model, doubles).displacement
        assert here["medianShift"] == pytest.approx(np.median(np.abs(shift)), rel=1e-9, abs=1e-12)
        for grid in here["grids"]:
            one, two = labels[grid["nodes"]]
            distance = masks.boundary_jaccard(masks.boundary_mask(one), masks.boundary_mask(two)).distance
            assert grid["jaccard"] == pytest.approx(distance, abs=1e-12)
            wanted = masks.effective_displacement(distance, ours.plane.steps(grid["nodes"]))
            assert grid["effectiveDisplacement"] == pytest.approx(wanted, abs=1e-12)
            assert grid["gridChange"] == pytest.approx(label_grids.grid_change(one, two), abs=1e-12)
            assert grid["junctions"] == masks.junction_cells(two).sum()
            assert grid["boundaryCells"] == masks.boundary_mask(two).sum()
            assert grid["changedCells"] == masks.transition(np.stack([one, two])).changed
    measures = ours.page.inner_text("#bq-measures")
    assert f"{here['accuracy']:.4f}" in measures and f"({here['flipCount']} of {count})" in measures


@needs_chromium
def test_radius_and_displacement_of_an_image_equal_python_s(open_explorer):
    ours = open_explorer()
    ours.show(60)
    doubles = ours.inputs.double()
    reference, candidate = ours.at(0).double(), ours.at(60).double()
    r, change = margins.radius(reference, doubles), margins.local_change(reference, candidate, doubles)
    for i in range(0, 450, 30):
        ours.page.evaluate("(i) => bqExplorer.select(i)", i)
        found = ours.page.evaluate(
            "() => { const { radius, change } = bqExplorer.current().detail; return [radius, change]; }"
        )
        assert found[0]["radius"] == pytest.approx(r.radius[i], rel=1e-9)
        assert (found[0]["winner"], found[0]["rival"]) == (r.winner[i], r.rival[i])
        assert found[1]["displacement"] == pytest.approx(change.displacement[i], rel=1e-8, abs=1e-12)
        assert found[1]["normalVariation"] == pytest.approx(change.normal_variation[i], rel=1e-8, abs=1e-12)
        text = ours.page.inner_text("#bq-point-body")
        assert (
            f"{r.radius[i]:.3f}, to {r.rival[i]}" in text and f"{change.displacement[i]:.4f}".replace("-", "−") in text
        )


@needs_chromium
def test_slider_keys_and_grid_change_what_is_said(open_explorer):
    ours = open_explorer()
    page = ours.page
    page.focus("#bq-position")
    page.keyboard.press("Home")
    page.wait_for_function("bqExplorer.current().name === 'float'")
    assert page.evaluate("bqExplorer.current().grids.every((grid) => grid.jaccard === 0)")
    page.keyboard.press("PageUp")
    page.wait_for_function("bqExplorer.current().name === '8 bits'")
    assert page.get_attribute("#bq-position", "aria-valuetext") == "8 bits"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("bqExplorer.current().name === 'between 8 bits and 7 bits, t = 0.1'")
    page.click(".bq-ticks button[aria-label='4 bits']")
    page.wait_for_function("bqExplorer.current().name === '4 bits'")
    said = {}
    for nodes in (51, 401):
        page.check(f"input[name=bq-nodes][value='{nodes}']")
        page.wait_for_function(
            "(n) => document.getElementById('bq-summary').textContent.includes(`On ${n} nodes`)", arg=nodes
        )
        said[nodes] = float(re.search(r"Jaccard distance is ([\d.]+)", page.inner_text("#bq-summary"))[1])
    assert said[401] > said[51]  # the boundary is the same, the ruler is not
    assert "4 bits: accuracy" in page.get_attribute("#bq-canvas", "aria-label")


@needs_chromium
def test_what_the_page_says_to_try_is_so(open_explorer):
    ours = open_explorer()
    read = "() => { const { flipCount, bandFlipCount, grids } = bqExplorer.current(); return [flipCount, bandFlipCount, grids]; }"
    ours.show(10)
    flips, _, grids = ours.page.evaluate(read)
    j, d_eff = ([grid[key] for grid in grids] for key in ("jaccard", "effectiveDisplacement"))
    assert flips == 0 and j == sorted(j) and j[-1] > 3 * j[0] > 0
    assert d_eff != sorted(d_eff) and max(d_eff) < 2.5 * min(d_eff)
    for position in (40, 50, 60):
        ours.show(position)
        flips, band, _ = ours.page.evaluate(read)
        assert flips == band > 0


@needs_chromium
def test_dragging_the_slider_redraws_the_picture(open_explorer):
    ours = open_explorer()
    box = ours.page.locator("#bq-position").bounding_box()
    middle = box["y"] + box["height"] / 2
    pictures = set()
    ours.page.mouse.move(box["x"] + 8, middle)
    ours.page.mouse.down()
    for share in (0.1, 0.5, 0.9):
        ours.page.mouse.move(box["x"] + share * box["width"], middle)
        ours.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        pictures.add(ours.page.evaluate("document.getElementById('bq-canvas').toDataURL()"))
    ours.page.mouse.up()
    assert len(pictures) == 3


@needs_chromium
def test_regions_are_drawn_where_they_are_in_the_book_s_colours(open_explorer):
    ours = open_explorer()
    assert ours.page.evaluate("bqDrawing.CLASS_COLOURS") == list(style.CLASS_COLOURS)
    three = ours.page.evaluate("[bqDrawing.FLOAT_COLOUR, bqDrawing.QUANTIZED_COLOUR, bqDrawing.BOTH_COLOUR]")
    assert three == [style.FLOAT_COLOUR, style.QUANTIZED_COLOUR, style.BOTH_COLOUR]
    for name in ("masks", "junctions", "images"):
        ours.page.uncheck(f"input[name={name}]")
    ours.show(40)
    address = ours.page.evaluate("document.getElementById('bq-canvas').toDataURL('image/png')")
    picture = plt.imread(io.BytesIO(base64.b64decode(address.partition(",")[2])), format="png")
    pixels = (picture[..., :3] * 255).round().astype(np.uint8)
    labels = ours.labels(201)
    colours = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in style.CLASS_COLOURS], np.uint8)
    # The middle pixel of each node; row 0 of the picture is the largest b. Letters and the slice's aspect leave 95 %.
    rows = ((200 - np.arange(201)) / 200 * (len(pixels) - 1)).round().astype(int)
    columns = (np.arange(201) / 200 * (pixels.shape[1] - 1)).round().astype(int)
    assert (pixels[np.ix_(rows, columns)] == colours[labels]).all(-1).mean() > 0.95


@needs_chromium
def test_clicked_images_span_another_plane(open_explorer):
    ours = open_explorer()
    page = ours.page
    ours.show(50)
    places = page.evaluate("bqExplorer.networks.digits.slice.points")
    box = page.locator("#bq-canvas").bounding_box()
    low, high = ours.plane.low, ours.plane.high
    a, b = places[7]
    scale = box["width"] / (high[0] - low[0])
    page.mouse.click(
        box["x"] + (a - low[0]) * scale, box["y"] + box["height"] - (b - low[1]) * box["height"] / (high[1] - low[1])
    )
    first = page.evaluate("bqExplorer.state.picks[0]")
    assert np.hypot(*(np.array(places[first]) - places[7])) * scale < 5  # this one, or one that hides it
    picks = [first, 100, 200]
    for count, i in enumerate(picks[1:], 2):
        page.evaluate("(i) => bqExplorer.select(i)", i)
        page.click("#bq-pick")
        chosen = [ours.inputs[j].double().numpy() for j in picks[:count]]
        corners = np.array(chosen if count == 3 else [*chosen, ours.plane.origin])
        found = ours.plane_shown()
        # Orthonormal axes; the three points lie on the plane, inside its box with half of their range around them.
        np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(2), atol=1e-12)
        scores = found.project(corners)
        np.testing.assert_allclose(found.points(*scores.T), corners, atol=1e-12)
        reach = np.ptp(scores, axis=0)
        np.testing.assert_allclose([found.low, found.high], [scores.min(0) - reach / 2, scores.max(0) + reach / 2])
        assert_same_labels(ours.labels(401), ours.at(50), found, f"plane through {count} images")
    page.focus("#bq-canvas")
    page.keyboard.press("Escape")
    assert np.array_equal(ours.plane_shown().axes, ours.plane.axes)


@needs_chromium
def test_keyboard_alone_reaches_an_image_and_a_plane(open_explorer):
    page = open_explorer().page
    page.focus("#bq-canvas")
    page.keyboard.press("ArrowRight")
    one = page.evaluate("bqExplorer.state.selected")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    two = page.evaluate("bqExplorer.state.selected")
    page.keyboard.press("Enter")
    assert one >= 0 and two >= 0 and page.evaluate("bqExplorer.state.picks") == [one, two]
    page.wait_for_function(
        "document.getElementById('bq-summary').textContent.includes('plane through the picked images')"
    )
    assert f"Test image {two}, class" in page.inner_text("#bq-summary")


@needs_chromium
def test_touch_and_reduced_motion(open_explorer):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    page = open_explorer(**phone, reduced_motion="reduce").page
    page.locator("#bq-canvas").scroll_into_view_if_needed()
    box = page.locator("#bq-canvas").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.evaluate("bqExplorer.state.selected") >= 0
    page.evaluate("bqExplorer.move(0)")
    page.click("#bq-play")
    page.wait_for_function("bqExplorer.state.position > 0")
    assert page.evaluate("bqExplorer.state.position") == 10  # level by level, not a film
    page.click("#bq-play")


@needs_chromium
def test_redraws_often_enough(open_explorer):
    for name in ("digits", *KEPT_WEIGHTS):
        page = open_explorer(name).page
        spent = page.evaluate(
            "() => { const start = performance.now(); for (let p = 30; p < 60; p++) { bqExplorer.state.position = p;"
            " bqExplorer.show(); } return (performance.now() - start) / 30; }"
        )
        print(f"{name}: {1000 / spent:.0f} redraws a second, each on 401 × 401 nodes")
        assert spent < 1000  # 10 a second on a free machine; a loaded one is given ten times as long


@needs_chromium
@pytest.mark.parametrize("name", FRAMED)
def test_frames_show_what_python_made(open_explorer, name):
    page = open_explorer(name, frames=True).page
    wanted = load_dataset(ROOT / f"data/explorer/{name}.nc")
    before, nodes = wanted.logits.values[0], wanted.sizes["a"]
    band = decisions.boundary_band(before)
    plane = explorer.plane_of(wanted)
    read = (
        "() => { const { labels, grids, flipCount, bandFlipCount, accuracy, medianShift, logits } = bqExplorer.current();"
        " const finest = Math.max(...Object.keys(labels).map(Number)); return { finest, labels: labels[finest].join(''),"
        " grids, flipCount, bandFlipCount, accuracy, medianShift, logits: logits.map((z) => [...z]) }; }"
    )
    for level, bits in enumerate(LEVELS):
        page.click(f".bq-ticks button[data-position='{10 * level}']")
        page.wait_for_function("(level) => bqExplorer.current().frame === level", arg=level)
        here = page.evaluate(read)
        labels = np.frombuffer(here["labels"].encode(), np.uint8).reshape(nodes, nodes) - ord("0")
        assert here["finest"] == nodes and np.array_equal(labels, wanted.label.sel(bits=bits))
        after = wanted.logits.sel(bits=bits).values
        np.testing.assert_array_equal(np.array(here["logits"], np.float32), after)
        assert here["flipCount"] == round(decisions.flips(before, after).rate * len(after))
        assert here["bandFlipCount"] == (before[band].argmax(1) != after[band].argmax(1)).sum()
        assert here["accuracy"] == pytest.approx((after.argmax(1) == wanted.target.values).mean(), abs=1e-12)
        shift = np.median(np.abs(wanted.displacement.sel(bits=bits)))
        assert here["medianShift"] == pytest.approx(shift, rel=1e-12, abs=1e-15)
        for grid in here["grids"]:
            step = (nodes - 1) // (grid["nodes"] - 1)
            one, two = (wanted.label.sel(bits=b).values[::step, ::step] for b in (32, bits))
            distance = masks.boundary_jaccard(masks.boundary_mask(one), masks.boundary_mask(two)).distance
            assert grid["jaccard"] == pytest.approx(distance, abs=1e-12)
            d_eff = masks.effective_displacement(distance, plane.steps(grid["nodes"]))
            assert grid["effectiveDisplacement"] == pytest.approx(d_eff, abs=1e-12)
            assert grid["junctions"] == masks.junction_cells(two).sum()
    page.focus("#bq-position")
    page.keyboard.press("ArrowLeft")  # a whole level: there is nothing between
    page.wait_for_function("bqExplorer.current().name === '3 bits'")
    page.fill("#bq-image", "7")
    page.keyboard.press("Tab")
    said = page.inner_text("#bq-point-body")
    assert f"{float(wanted.radius[7]):.3f}, to {int(wanted.rival[7])}" in said
    assert f"{float(wanted.displacement.sel(bits=3)[7]):.4f}".replace("-", "−") in said
    assert page.locator("#bq-point-body canvas").count() == ("image" in wanted)
    assert not page.is_visible("#bq-pick") and page.evaluate("bqExplorer.state.picks.length") == 0


@needs_chromium
def test_missing_network_is_said(chromium, book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    (copy / "_static/explorer/digits.js").unlink()
    with Watched(chromium) as watched:
        watched.page.goto((copy / "book/explorer.html").as_uri(), wait_until="load")
        watched.page.wait_for_function(
            "document.getElementById('bq-summary').textContent.includes('could not be loaded')"
        )


# ---- the lessons -----------------------------------------------------------------------------------------------------

SQUARE = planes.Plane(np.zeros(2), np.eye(2), np.full(2, -1.0), np.full(2, 1.0), np.ones(2) / 2, (2,))


def classifier(*layers: tuple[list, list]) -> torch.nn.Sequential:
    """Build the classifier of a lesson from its weights and biases, as the lesson's own solutions do."""
    out = []
    for weight, bias in layers:
        linear = torch.nn.Linear(len(weight[0]), len(weight))
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        out += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*out[:-1])


TWO_UNITS = classifier(([[1.0, 0.6], [-0.7, 1.0]], [0.2, -0.1]), ([[1.0, -0.8], [-0.4, 0.9]], [-0.3, 0.0]))
THREE_CLASSES = classifier(([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.1]], [0.0, 0.05, 0.0]))
FOUR_CLASSES = classifier(([[0.55, 0.33], [-0.38, 0.55], [-0.62, 0.32], [0.06, -0.77]], [-0.22, 0.06, 0.41, 0.44]))


@pytest.fixture
def lesson(chromium, book, request):
    """Give a function that sets the sliders of a lesson's picture and gives what follows."""
    name = request.param
    with Watched(chromium, viewport={"width": 1400, "height": 1000}) as watched:
        watched.page.goto((book / f"book/course/{name}.html").as_uri(), wait_until="load")

        def given(labels: bool = False, **values) -> dict:
            found = watched.page.evaluate(
                "([name, values, most]) => { const plain = (v) => ArrayBuffer.isView(v) ? (v.length > most ? [] : [...v])"
                " : Array.isArray(v) ? v.map(plain) : v && typeof v === 'object'"
                " ? Object.fromEntries(Object.entries(v).map(([k, w]) => [k, plain(w)])) : v;"
                " return plain(bqLessons[name].set(values)); }",
                [name, values, 1e9 if labels else 100],  # grids take long to send
            )
            return found | {"said": watched.page.inner_text("table")}

        given.page = watched.page
        yield given
        assert not watched.faults


def at_level(model, level: int):
    return uniform.quantize_model(model, LEVELS[level]) if level else model


def grid(labels: list) -> np.ndarray:
    side = round(len(labels) ** 0.5)
    return np.array(labels).reshape(side, side)


@needs_chromium
@pytest.mark.parametrize("lesson", ["boundary"], indirect=True)
def test_lesson_boundary_equals_python_s(lesson):
    for level in range(len(LEVELS)):
        for x in ([0.5, 0.35], [-0.5, 0.5], [0.0, 0.35], [-1.0, -1.0]):
            found = lesson(level=level, x1=x[0], x2=x[1])
            for side, model in (("before", TWO_UNITS), ("after", at_level(TWO_UNITS, level))):
                logits = copy.deepcopy(model).double()(torch.tensor([x], dtype=torch.float64)).detach()[0]
                np.testing.assert_allclose(found[side]["logits"], logits, atol=1e-12)
                assert f"{logits[0] - logits[1]:.3f}".replace("-", "−") in found["said"]
        found = lesson(labels=True)
        for side, model in (("before", TWO_UNITS), ("after", at_level(TWO_UNITS, level))):
            assert_same_labels(grid(found[side]["labels"]), model, SQUARE, f"level {level}, {side}")


@needs_chromium
@pytest.mark.parametrize("lesson", ["displacement"], indirect=True)
def test_lesson_displacement_equals_python_s(lesson):
    for level in range(len(LEVELS)):
        f, q = (copy.deepcopy(m).double() for m in (THREE_CLASSES, at_level(THREE_CLASSES, level)))
        for x in ([0.5, 0.35], [-0.4, 0.1], [0.3, -0.8]):
            found = lesson(level=level, x1=x[0], x2=x[1])
            point = torch.tensor([x], dtype=torch.float64)
            r, change = margins.radius(f, point), margins.local_change(f, q, point)
            assert found["radius"] == pytest.approx(r.radius[0], rel=1e-9) and found["rival"] == r.rival[0]
            assert found["displacement"] == pytest.approx(change.displacement[0], rel=1e-9, abs=1e-12)
            assert found["normalVariation"] == pytest.approx(change.normal_variation[0], rel=1e-6, abs=1e-12)
            # Where the lesson says that the quantized boundary is, its margin is zero.
            place = point + (found["reach"] + found["exact"]) * torch.tensor([found["normal"]], dtype=torch.float64)
            z = q(place)[0]
            assert float((z[found["winner"]] - z[found["runnerUp"]]).detach()) == pytest.approx(0, abs=1e-9)
            assert f"{found['displacement']:.3f}".replace("-", "−") in found["said"]
        assert_same_labels(grid(lesson(labels=True)["after"]), q, SQUARE, f"level {level}")


@needs_chromium
@pytest.mark.parametrize("lesson", ["junctions"], indirect=True)
def test_lesson_junctions_equals_python_s(lesson):
    three, two = (uniform.quantize_model(FOUR_CLASSES, bits) for bits in (3, 2))
    models = [uniform.interpolate(three, two, step / 10) for step in range(11)]
    for choice, nodes in enumerate((21, 41, 81, 161)):
        wanted = masks.transition(np.stack([label_grids.label_grid(model, SQUARE, nodes) for model in models]))
        for step in range(11):
            found = lesson(step=step, grid=choice)
            assert found["here"] == wanted.junctions[step] and found["n"] == nodes
        found = lesson(labels=True)  # at the last step
        last = np.stack([grid(path) for path in found["path"][-2:]])
        assert found["now"] == masks.transition(last).changed == sum(found["moved"])
        for path, model in zip(found["path"], models):
            assert_same_labels(grid(path), model, SQUARE, f"{nodes} nodes")
        assert [found[key] for key in ("union", "changed", "rearranged")] == [
            wanted.union,
            wanted.changed,
            wanted.rearranged,
        ]
        shares = [found[key] for key in ("shareNear", "chanceBoundary", "shareRearrangedNear")]
        np.testing.assert_allclose(
            shares, [wanted.share_near, wanted.chance_boundary, wanted.share_rearranged_near], rtol=1e-12
        )
        assert f"{wanted.share_rearranged_near:.3f}" in found["said"]


@needs_chromium
@pytest.mark.parametrize("lesson", ["ruler"], indirect=True)
def test_lesson_ruler_equals_python_s(lesson):
    for choice, nodes in enumerate((11, 21, 41, 81, 161)):
        a, b = np.meshgrid(np.arange(nodes) / (nodes - 1), np.arange(nodes) / (nodes - 1))
        for shift in (0.0, 0.004, 0.02, 0.1):
            for angle in (0, 20, 45, 90):
                found = lesson(labels=True, shift=shift, angle=angle, grid=choice)
                distance = (a - 0.47) * np.cos(np.radians(angle)) + (b - 0.51) * np.sin(np.radians(angle))
                before, after = ((distance > offset).astype(int) for offset in (0.0, shift))
                assert np.array_equal(grid(found["before"]), before) and np.array_equal(grid(found["after"]), after)
                j = masks.boundary_jaccard(masks.boundary_mask(before), masks.boundary_mask(after)).distance
                assert found["jaccard"] == pytest.approx(j, abs=1e-12)
                h = 1 / (nodes - 1)
                assert found["effectiveDisplacement"] == pytest.approx(
                    masks.effective_displacement(j, (h, h)), abs=1e-12
                )
                assert f"{j:.3f}" in found["said"]


@needs_chromium
@pytest.mark.parametrize("lesson", ["displacement"], indirect=True)
def test_lesson_answers_to_keys_and_clicks(lesson):
    page = lesson.page
    page.focus("#bq-displacement-x1")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("bqLessons.displacement.values.x1") == 0.55
    box = page.locator(".bq-lesson canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    assert page.evaluate("bqLessons.displacement.values") == {"level": 7, "x1": -0.5, "x2": 0.5}
    page.wait_for_function("document.querySelector('.bq-lesson .bq-summary').textContent.startsWith('2 bits: radius')")
