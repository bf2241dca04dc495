"""The reference has an entry for each public name and no other, pages lead there, and to other packages' pages if asked."""

import functools
import html
import http.server
import os
import re
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
import yaml

import bqcore
from tests.helpers import ROOT
from tests.helpers.browser import Quiet

ENTRY = re.compile(r"^\.\. auto(?:function|class):: (\w+)$", re.M)
LISTED = re.compile(r"^   (\w+)$", re.M)
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("book/api/*.md"))}
USED = re.compile(r"\b(?:bq|bqcore)\.(\w+)(?![\w.]*\w)")


def test_every_public_name_has_one_entry_and_is_in_the_list_by_the_same_topics():
    entries = {page: ENTRY.findall(text) for page, text in PAGES.items()}
    assert sorted(name for names in entries.values() for name in names) == sorted(bqcore.__all__)
    _, *topics = re.split(r"^## \[.*\]\(api/(\w+)\)$", (ROOT / "book/api.md").read_text(encoding="utf-8"), flags=re.M)
    assert {page: LISTED.findall(text) for page, text in zip(topics[::2], topics[1::2])} == entries
    shown = [re.findall(r"\w+", line) for line in re.findall(r"^    (.*)$", bqcore.__doc__, re.M)]  # by help(bqcore)
    assert sorted(map(sorted, shown)) == sorted(map(sorted, entries.values()))
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert re.findall(r"- file: book/api/(\w+)", toc) == topics[::2]


def test_pages_name_only_what_is_public():
    rooms = {path.stem for path in (ROOT / "bqcore").glob("*")}
    for path in [ROOT / "README.md", *ROOT.glob("book/**/*.md"), *ROOT.glob("notebooks/[0-9]*.py")]:
        text = path.read_text(encoding="utf-8")
        assert set(USED.findall(text)) - rooms <= set(bqcore.__all__), path.name


def built(folder: Path, text: str, **environ: str) -> str:
    """Build a book of one page, beside those of the reference, with the settings of this one; return it as HTML."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    config = {name: value for name, value in settings["config"].items() if not name.startswith(("html_", "nb_"))}
    config["extensions"] = [
        "myst_parser",
        "sphinx.ext.intersphinx",
        *settings["extra_extensions"],
        "api",
        "uses",
        "online",
    ]
    config["exclude_patterns"] = ["out"]
    setup = "\n".join(f"{name} = {value!r}" for name, value in config.items())
    environ = os.environ | {"ONLINE": "", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "book/_ext")])} | environ
    (folder / "conf.py").write_text(environ.pop("CONF", "") + setup, encoding="utf-8")
    (folder / "index.md").write_text(text + "\n```{toctree}\n:glob:\nnames/*\n```\n", encoding="utf-8")
    (folder / "names").mkdir(exist_ok=True)
    for page, content in PAGES.items():
        (folder / "names" / f"{page}.md").write_text(re.sub(r"\[\]\([\w-]+\)", "", content), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "--keep-going", str(folder), str(folder / "out")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


PAGE = """# `bq.margin`

First `bq.quantize(w, 4)`, then `bq.quantize` and `quantize`, `model.radius`, [`bq.flips`](https://example.org), `bqcore.flips(a, b)`.

```python
import bqcore as bq
from bqcore.quantizers import uniform

bq.quantize(bq.quantize(w, 4), 3)
uniform.quantize_model(net, 4).radius
other.quantize_model(net, 4), bq.nothing
```
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Return the folder of such a book; nothing may be asked for while it is built."""
    folder = tmp_path_factory.mktemp("page")
    offline = "import socket\n\ndef refuse(*_):\n    raise RuntimeError('asks')\n\nsocket.getaddrinfo = refuse\n"
    (folder / "index.html").write_text(built(folder, PAGE, CONF=offline), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_first_use_in_a_sentence_and_in_a_block_leads_to_the_entry(page):
    body = (page / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="first-use reference internal" href="(names/\w+\.html#bqcore\.\w+)">(.*?)</a>', body)
    plain = [(link, re.sub("<.*?>", "", text)) for link, text in links]
    assert plain == [
        ("names/quantizers.html#bqcore.quantize", "bq.quantize(w, 4)"),
        ("names/decisions.html#bqcore.flips", "bqcore.flips(a, b)"),
        ("names/quantizers.html#bqcore.quantize", "quantize"),
        ("names/quantizers.html#bqcore.quantize_model", "quantize_model"),
    ]
    for link, _ in plain:
        target, anchor = link.split("#")
        assert f'id="{anchor}"' in (page / "out" / target).read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_entry_has_signature_result_and_files_and_leads_nowhere_else(page):
    for path in (page / "out" / "names").glob("*.html"):
        body = (
            path.read_text(encoding="utf-8")
            .partition('<div class="body"')[2]
            .partition('<div class="sphinxsidebar"')[0]
        )
        assert body and 'href="http' not in body
    slices = html.unescape(re.sub(r"<.*?>", "", (page / "out/names/slices.html").read_text(encoding="utf-8")))
    assert "|A ∩ B|" in slices  # no substitution of rST
    assert slices.count("low: (2,) smallest a and b") == 1  # a field of Plane, and not again where pca_plane returns it
    text = html.unescape(re.sub(r"<.*?>", "", (page / "out/names/decisions.html").read_text(encoding="utf-8")))
    flips = " ".join(text.partition("flips(")[2].partition("boundary_band(")[0].split())
    assert flips.startswith("reference, candidate, targets=None, ) → Flips")
    assert "right_to_wrong" in flips.rpartition("Flips ")[2]  # a field, in the list of what is returned
    assert "bqcore/metrics/decisions.py, tested by tests/metrics/test_decisions.py" in flips


@pytest.mark.slow
def test_a_name_that_is_nowhere_in_bqcore_fails_the_book(page, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'book/_ext'}")
    code = "import api, sys; print([api.is_ours(name) for name in sys.argv[1:]])"
    names = [
        "flips",
        "Flips",
        "bqcore.metrics.decisions",
        "bqcore.metrics.masks.flips",
        "flops",
        "bqcore.flops",
        "ndarray",
    ]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([True] * 4 + [False] * 3)


@pytest.mark.slow
def test_types_lead_to_the_pages_of_packages_that_answer(tmp_path):
    names = b"numpy.ndarray py:class 1 made/ndarray.html -\n"
    head = b"# Sphinx inventory version 2\n# Project: n\n# Version: 1\n# The remainder of this file is compressed using zlib.\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "objects.inv").write_bytes(head + zlib.compress(names))
    (tmp_path / "book").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_address[1]}/"
        sites = {"numpy": here, "torch": f"{here}nothing/", "xarray": "http://127.0.0.1:9/"}
        conf = f"import sys\nsys.path.insert(0, {str(ROOT / 'book/_ext')!r})\nimport online\nonline.PAGES = {sites}\n"
        built(tmp_path / "book", PAGE, ONLINE="1", CONF=conf, NO_PROXY="*")
        server.shutdown()
    text = (tmp_path / "book/out/names/slices.html").read_text(encoding="utf-8")
    assert f'href="{here}made/ndarray.html"' in text


def test_chapters_and_lessons_lead_to_the_entries_of_what_they_use(book):
    addresses = {name: f"api/{page}.html#bqcore.{name}" for page, text in PAGES.items() for name in ENTRY.findall(text)}
    seen = 0
    for path in sorted([*book.glob("book/**/*.html"), *book.glob("notebooks/executed/*.html")]):
        if path.parent.name != "api" and path.name != "api.html":
            text = path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
            links = set(re.findall(r'href="(?:\.\./)*(?:book/)?(api/\w+\.html#bqcore\.\w+)"', text))
            code = re.sub(r"<h\d.*?</h\d>", "", text, flags=re.S)
            code = re.sub(r"<.*?>", "", " ".join(re.findall(r"<(?:code|pre)\b.*?</(?:code|pre)>", code, flags=re.S)))
            used = set(USED.findall(code)) & set(addresses)
            assert {addresses[name] for name in used} <= links, path.name
            seen += len(used)
    assert seen > 20
