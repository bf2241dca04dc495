"""What the tests of the built book share: a browser that is watched, the book's pages, labels held against Python's."""

import copy
import http.server
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch

from bqcore.metrics import decisions, label_grids, planes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
LEVELS = (32, 8, 7, 6, 5, 4, 3, 2)  # the slider's, float first


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that keeps its log to itself."""

    def log_message(self, *_):
        pass


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
    """Return whether a page only leads to the first chapter."""
    return 'http-equiv="refresh"' in page.read_text(encoding="utf-8").lower()


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


def assert_same_labels(found: np.ndarray, model, plane: planes.Plane, what: str) -> None:
    """Hold the page's labels against Python's: equal on every node, but where the margin is a rounding error."""
    nodes = len(found)
    wanted = label_grids.label_grid(model, plane, nodes)
    for row, column in np.argwhere(wanted != found):
        a, b = (axis[i] for axis, i in zip(plane.nodes(nodes), (column, row)))
        logits = copy.deepcopy(model).double()(torch.from_numpy(plane.points(a, b))[None]).detach()
        # Both sum in float64, in another order: about 1e-13 apart. More is a fault.
        assert decisions.margin(logits)[0] < 1e-9, f"{what}: node ({row}, {column})"
