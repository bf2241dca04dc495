"""The page that an audit writes, in a real chromium: no fault, no request, no overflow, legible, and whole on paper."""

import numpy as np
import pytest
import torch

import bqcore
from studies import networks
from tests.helpers.browser import Watched


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write the page of an audit that has everything: slices, pictures, layers and bit-widths."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 1, 8, 8)).astype(np.float32)
    images = torch.nn.Sequential(torch.nn.Flatten(), networks.mlp((64, 32, 8), 0)).eval()
    with torch.no_grad():
        y = bqcore.decide(images(torch.from_numpy(x)))
    found = bqcore.audit(images, bqcore.quantize_model(images, 3), (x[:150], y[:150]), (x[150:], y[150:]), nodes=21)
    found = found.explain(
        layers=bqcore.blame_layers(images, (x, y), bits=3), sweep=bqcore.sweep(images, (x[:150], y[:150]), (x, y))
    )
    assert found.pictures and "labels" in found.dataset and found.dataset.sizes["pair"] > 3
    path = tmp_path_factory.mktemp("page") / "audit.html"
    path.write_text(found.to_html("<Audit>"), encoding="utf-8")
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 390), ("dark", 390)])
def test_it_is_legible_and_asks_for_nothing(chromium, written, scheme, width):
    sync = pytest.importorskip("axe_playwright_python.sync_playwright", reason="DID NOT RUN, axe is missing")
    with Watched(chromium, viewport={"width": width, "height": 900}, color_scheme=scheme) as watched:
        page = watched.page
        page.goto(written.as_uri(), wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Words of the charts lie within the page, where the page is narrow too.
        outside = "[...document.querySelectorAll('svg text')].filter((t) => { const b = t.getBoundingClientRect();"
        assert page.evaluate(f"{outside} return b.left < 0 || b.right > {width}; }}).map((t) => t.textContent)") == []
        faults = [f for f in sync.Axe().run(page).response["violations"] if f["impact"] in ("serious", "critical")]
        assert [(f["id"], [node["html"] for node in f["nodes"]]) for f in faults] == []
        assert watched.faults == [] and {url.split(":")[0] for url in watched.requests} <= {"file", "data"}
        assert [url for url in watched.requests if url.startswith("file")] == [written.as_uri()]


def test_on_paper_it_is_dark_on_white_and_folds_are_open(chromium, written):
    with Watched(chromium, viewport={"width": 720, "height": 1000}, color_scheme="dark") as watched:
        page = watched.page
        page.emulate_media(media="print")
        page.goto(written.as_uri(), wait_until="load")
        colours = page.evaluate(
            "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        folded = page.evaluate(
            "[...document.querySelectorAll('details')].map((one) => one.lastElementChild.getBoundingClientRect().height)"
        )
        assert len(folded) == 3 and min(folded) > 10
        assert page.evaluate("document.documentElement.scrollWidth") <= 720
