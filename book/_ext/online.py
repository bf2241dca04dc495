"""
Lead from types and errors in the reference to the pages of their packages, where the book is made with a network.

`make book ONLINE=1` fetches these packages' lists of names, 5 s each at most. What does not answer is said and left
out. Without ONLINE nothing is asked for, and such names stand without a link.
"""

import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

PAGES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
}
SECONDS = 5
logger = logging.getLogger(__name__)


def fetch(address: str, target: Path) -> bool:
    """Write a package's list of names to a file; tell whether that went well."""
    import requests

    try:
        answer = requests.get(f"{address}objects.inv", timeout=SECONDS)
        answer.raise_for_status()
        if not answer.content.startswith(b"# Sphinx inventory"):
            raise ValueError("what came is no list of names")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(answer.content)
    except (requests.RequestException, ValueError, OSError) as error:
        logger.info("No links to %s: %s", address, error)
        return False
    return True


def find_pages(app: Sphinx, config) -> None:
    """Name the packages whose lists came to intersphinx."""
    if os.environ.get("ONLINE"):
        folder = Path(app.doctreedir, "names")
        came = {
            name: folder / f"{name}.inv" for name, address in PAGES.items() if fetch(address, folder / f"{name}.inv")
        }
        config.intersphinx_mapping = {name: (PAGES[name], str(path)) for name, path in came.items()}


def setup(app: Sphinx) -> dict:
    """Register the above."""
    app.connect("config-inited", find_pages, priority=400)  # before intersphinx reads them
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
