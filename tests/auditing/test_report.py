"""The page of an audit: self-contained, well formed, true to the numbers, and safe with hostile names."""

import copy
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import bqcore
from bqcore.auditing import report
from bqcore.auditing.verdict import surest
from bqcore.metrics import masks
from bqcore.quantizers import uniform

VOID = {"meta", "rect", "line", "path", "circle", "img", "br"}


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


def of_logits(z, q, y=None, *, calibration=None, **options):
    """Audit logits that are there already."""
    held = {"a": z, "b": q}
    return bqcore.audit(
        lambda x: x["a"], lambda x: x["b"], calibration, held if y is None else (held, y), nodes=0, gradient_samples=0,
        check_order=False, **options,
    )  # fmt: skip


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
    assert text.index(found.verdict.headline.partition(": ")[2][1:]) < text.index(found.conclusion)  # the verdict first
    assert all(step in text for step in found.verdict.next_steps)
    assert all(f"limit {100 * one.limit:.3g} %" in text and one.outcome in text for one in found.verdict.judged)
    for _, _, above in (seen for seen in tags.seen if seen[0] == "table"):
        assert above[-1] == "div"  # which scrolls
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_classes_have_their_names_and_the_samples_to_look_at_are_shown():
    x = np.random.default_rng(0).normal(size=(3000, 5))
    y = np.array(["ant", "bee", "cat"])[x[:, :3].argmax(1)]
    model = make_pipeline(MinMaxScaler(), LogisticRegression()).fit(x, y)
    rounded = copy.deepcopy(model)
    rounded[-1].intercept_ = rounded[-1].intercept_ + [0.5, 0, -0.5]
    found = bqcore.audit(model, rounded, (x, y), (x, y), nodes=0)
    page = found.to_html()
    text = " ".join("".join(parsed(page).text).split())
    assert f"{report.ROWS + 5} of {found.dataset.sizes['flip']}: the lowest, and those" in text
    named = found.dataset.flipped_sample.values[surest(found.dataset)]
    rows = re.findall(r'<th scope="row">(\d+)</th>', page)
    assert set(map(str, named)) <= set(rows) and len([one for one in rows if int(one) > 2]) >= report.ROWS
    assert re.search("(ant|bee|cat) → (ant|bee|cat)", text) and not re.search(r"\b[012] → [012]\b", text)


def test_a_page_of_logits_alone_has_no_empty_parts(found):
    z = np.random.default_rng(0).normal(size=(50, 4))
    same = of_logits(z, z)
    text = "".join(parsed(same.to_html()).text).replace(same.verdict.next_steps[1], "")
    assert "Slices" not in text and "Local geometry" not in text and "Samples that flipped" not in text
    assert "groups of equal size" not in text and "groups of equal size" in found.to_html()
    assert "accuracy" not in text and "calibration" not in text and "nan" not in text.lower().replace("candidate", "")


def test_names_cannot_break_out_of_the_page(found):
    bad = "</title><script>alert(1)</script>\"'&"
    page = report.page(found, bad, limits={bad: 0.1}, exceeded=(bad,), command=bad)
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)") == 4
    parsed(page)


@settings(max_examples=20)
@given(st.lists(st.text("<>&\"'`/ {}%#=ab"), min_size=6, max_size=6))
def test_any_words_are_shown_as_they_are_and_are_no_elements(found, drawn):
    title, command, conclusion, note, name, line = (f"a{words}b" for words in drawn)
    said = dataclasses.replace(found, conclusion=conclusion, notes=(note,))
    for exceeded, shown in (((), f"{name} ≤ 0.1."), ((line,), line)):
        tags = parsed(report.page(said, title, limits={name: 0.1}, exceeded=exceeded, command=command))
        plain = parsed(
            report.page(dataclasses.replace(found, notes=("a",)), "a", limits={"a": 0.1}, exceeded=exceeded and ("a",))
        )
        text = "".join(tags.text)
        assert text.count(title) >= 2 and all(part in text for part in (command, conclusion, f"Note: {note}", shown))
        assert [tag for tag, *_ in tags.seen] == [tag for tag, *_ in plain.seen]


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of each row of the tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_a_case_worked_by_hand():
    z = np.array([[3.0, 2, 0], [3, 2, 0], [3, 2, 0], [3, 2, 0], [0, 1, 0.5]])
    q = np.array([[3.0, 2, 0], [2, 3, 0], [2, 1, 4], [1, 2, 4], [0, 1, 1]])
    y = np.array([0, 0, 2, 1, 1])
    page = of_logits(z, q, y, calibration={"a": z, "b": z[[1, 2, 3, 0, 0]]}, fraction=0.4).to_html()
    rows = rows_of(page)
    assert rows[:4] == [[r"from \ to", "0", "1", "2"], ["0", "", "1", "2"], ["1", "", "", ""], ["2", "", "", ""]]
    assert re.findall(r"--heat: ([\d.]+)", page) == ["0.0", "28.0", "55.0", *["0.0"] * 6]
    assert rows[4:8] == [
        ["sample", "float margin", "same pair, candidate", "reference", "candidate", "true class", "in the band"],
        ["1", "1", "-1", "0", "1", "0", "no"], ["2", "1", "1", "0", "2", "2", "no"], ["3", "1", "-1", "0", "2", "1", "no"],
    ]  # fmt: skip
    assert rows[8] == ["measure", "held-out", "calibration"]
    assert rows[9] == ["flip rate: decisions changed", "0.6000 [0.1466, 0.9473] (3)", "0.2000 [0.0051, 0.7164] (1)"]
    # What only one of the splits has classes for is left out.
    assert [row[0] for row in rows[10:14]] == [
        "band flips", "pair-order flips", "band pair-order flips", "samples (in the band)",
    ]  # fmt: skip
    assert rows[13][1:] == ["5 (2)", "5 (2)"]
    assert rows[14:] == [
        ["reference → candidate", "flips"], ["0 → 2", "2"], ["0 → 1", "1"],
        ["class", "reference", "candidate", "both"], ["0", "4", "1", "1"], ["2", "0", "2", "0"], ["1", "1", "2", "1"],
    ]  # fmt: skip


def test_layers_and_bit_widths_are_drawn_where_they_are_known(trained, found):
    assert "Layers and bit-widths" not in found.to_html()
    split = trained.split
    calibration, heldout = (split.train_inputs, split.train_classes), (split.test_inputs, split.test_classes)
    layers = bqcore.blame_layers(trained.model, heldout, bits=3, gradient_samples=0)
    sweep = bqcore.sweep(trained.model, calibration, heldout, bits=(8, 4, 2))
    page = found.explain(layers=layers, sweep=sweep).to_html()
    drawn = [attrs.get("aria-label", "") for tag, attrs, _ in parsed(page).seen if tag == "svg"]
    first = f"{layers.layer.values[0]}: {100 * float(layers.band_flip_rate[0]):.3g} %"
    assert first in drawn and any(label.startswith("Held-out flips of each bit-width") for label in drawn)
    assert re.findall(r">(\d)<title>(\d+) bytes", page) == [
        (str(b), str(int(sweep.dataset.bytes.sel(bits=b)))) for b in (2, 4, 8)
    ]


def test_what_is_not_finite_is_a_dash(trained):
    inputs, model = trained.split.test_inputs, uniform.quantize_model(trained.model, 3)
    without_gradient = lambda x: model(x).detach()  # noqa: E731
    page = bqcore.audit(trained.model, without_gradient, None, inputs, nodes=0, gradient_samples=20).to_html()
    rows = {row[0]: row[1:] for row in rows_of(page)}
    assert rows["local logit-margin radius, candidate"] == ["–", "–"] != rows["local logit-margin radius, reference"]


def test_limits_are_said_to_be_kept_or_exceeded(found):
    assert "Within the stated limits" in report.page(found, "x", limits={"flip_rate": 0.5})
    exceeded = report.page(found, "x", limits={"flip_rate": 0.0}, exceeded=("flip rate: 1 exceeds the limit 0",))
    assert "A stated limit is exceeded" in exceeded and "Within" not in exceeded
    assert "stated limit" not in report.page(found, "x")


def test_the_drawn_cells_are_those_of_the_masks(found):
    mask = masks.boundary_mask(found.dataset.labels.sel(model="reference").values)
    drawn = np.zeros_like(mask)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", report._cells(mask)):
        drawn[len(mask) - 1 - int(y), int(x) : int(x) + int(width)] = True
    assert np.array_equal(drawn, mask) and mask.any()
