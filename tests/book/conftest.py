"""What the tests of the built book share: the book on a server, a browser, every page with its links."""

import functools
import http.server
import threading

import pytest

from tests.helpers.browser import CHROMIUM, OPTIONS, Links, Quiet, Watched, pages


@pytest.fixture(scope="session")
def served(book) -> str:
    """Return the address of the book on a server of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium():
    """Return a browser, closed after the last test; without chromium the tests say that they did not run."""
    if CHROMIUM is None:
        pytest.skip("DID NOT RUN, there is no chromium on the PATH: `apt-get install chromium` and run the tests again")
    sync_api = pytest.importorskip("playwright.sync_api", reason="DID NOT RUN, playwright is missing")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def window(chromium, book):
    """Return a function that opens a page in the window of a width; a new window for each takes twice as long."""
    windows = {}

    def opened(page: str, width: int = 1400):
        if width not in windows:
            windows[width] = Watched(chromium, viewport={"width": width, "height": 900})
        windows[width].page.goto((book / page).as_uri(), wait_until="load")
        return windows[width].page

    yield opened
    for watched in windows.values():
        watched.context.close()


@pytest.fixture(scope="module")
def kept_window(chromium):
    """Return a window, with what it says to its console, for the tests of one page."""
    with Watched(chromium, viewport={"width": 1400, "height": 1000}) as watched:
        yield watched


@pytest.fixture(scope="session")
def parsed(book) -> dict[str, Links]:
    """Return the links and anchors of every page."""
    found = {}
    for page in pages(book):
        found[page] = Links()
        found[page].feed((book / page).read_text(encoding="utf-8"))
    return found
