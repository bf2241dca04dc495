"""The page of an audit: self-contained, well formed, true to the numbers, and safe with hostile names."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import bqcore
from bqcore.auditing import report
from bqcore.metrics import masks
from bqcore.quantizers import uniform

VOID = {"meta", "rect", "line", "path"}


class Tags(HTMLParser):
    """Collects elements and text, and refuses what is closed in another order than it was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def found(trained):
    split = trained.split
    return bqcore.audit(
        trained.model, uniform.quantize_model(trained.model, 3), (split.train_inputs, split.train_classes),
        (split.test_inputs, split.test_classes), nodes=41,
    )  # fmt: skip


def test_the_page_holds_the_numbers_and_leaves_for_nothing(found):
    page = found.to_html("Digits at 3 bits")
    tags = parsed(page)
    text = "".join(tags.text)
    held = found.dataset.sel(split="heldout")
    assert found.conclusion in text and "Digits at 3 bits" in text
    for name in ("flip_rate", "band_flip_rate", "accuracy"):
        assert f"{float(held[name]):.4f} [{float(held[f'{name}_low']):.4f}, " in text
    assert f"{float(held.effective_displacement.sel(nodes=41)):.4g}" in text
    beyond = float(held.tolerance_jaccard.sel(tau=0.01))
    assert (
        0 < beyond < 1
        and f"{beyond:.4f}" in text
        and f"{float(held.outside):.0%} of the held-out plane lies where some value is outside the range" in text
        and f"beyond 0.01 of the side ({held.side / 100:.3g} held out)" in text
    )
    assert str(int(held.flipped_sample[0])) in text
    assert not re.search(r"(src|href|action|srcset)\s*=|url\(|@import|<script|<link|<img|https?:", page)
    names = {tag for tag, *_ in tags.seen}
    assert {"h1", "h2", "table", "svg", "main", "title"} <= names
    assert ("html", {"lang": "en"}, ()) in tags.seen
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs, _ in tags.seen if tag == "svg")
    assert '<th scope="col"></th>' not in page
    for _, _, above in (seen for seen in tags.seen if seen[0] == "table"):
        assert above[-1] == "div"  # which scrolls
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_a_page_of_logits_alone_has_no_empty_parts(found):
    z = np.random.default_rng(0).normal(size=(50, 4))
    pair = {"a": z, "b": z}
    same = bqcore.audit(lambda x: x["a"], lambda x: x["b"], None, pair, nodes=0, gradient_samples=0)
    text = "".join(parsed(same.to_html()).text)
    assert "Slices" not in text and "Local geometry" not in text and "Samples that flipped" not in text
    assert "groups of equal size" not in text and "groups of equal size" in found.to_html()
    assert "accuracy" not in text and "calibration" not in text and "nan" not in text.lower().replace("candidate", "")


def test_names_cannot_break_out_of_the_page(found):
    bad = "</title><script>alert(1)</script>\"'&"
    page = report.page(found, bad, limits={bad: 0.1}, exceeded=(bad,), command=bad)
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)") == 4
    parsed(page)


def test_limits_are_said_to_be_kept_or_exceeded(found):
    assert "Within the stated limits" in report.page(found, "x", limits={"flip_rate": 0.5})
    exceeded = report.page(found, "x", limits={"flip_rate": 0.0}, exceeded=("flip rate: 1 exceeds the limit 0",))
    assert "A stated limit is exceeded" in exceeded and "Within" not in exceeded
    assert "limits" not in report.page(found, "x")


def test_the_drawn_cells_are_those_of_the_masks(found):
    mask = masks.boundary_mask(found.dataset.labels.sel(model="reference").values)
    drawn = np.zeros_like(mask)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", report._cells(mask)):
        drawn[len(mask) - 1 - int(y), int(x) : int(x) + int(width)] = True
    assert np.array_equal(drawn, mask) and mask.any()
