"""The samples that flipped have names: rows of the data, what the user calls them, or files, with their pictures."""

import base64
import io
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import bqcore
from bqcore import __main__, _store
from bqcore.auditing import loading, samples
from tests.helpers.audits import GOOD, X

PLAIN = {"nodes": 0, "gradient_samples": 0, "check_order": False}
ROUGH = lambda x: GOOD(x).round()  # noqa: E731
FLIPPED = bqcore.audit(GOOD, ROUGH, None, X, **PLAIN).dataset.flipped_sample.values

# Names


@settings(max_examples=30)
@given(st.permutations(range(200)), st.sampled_from([list, np.array, pd.Index, lambda x: [f"nr {i}" for i in x]]))
def test_samples_are_listed_by_the_names_that_are_given(order, kind):
    found = bqcore.audit(GOOD, ROUGH, None, X, ids=kind(order), **PLAIN)
    named = [str(x) for x in kind(order)]
    assert found.dataset.flipped_id.values.tolist() == [named[i] for i in FLIPPED] and len(FLIPPED) > 3
    assert found.dataset.flipped_sample.values.tolist() == FLIPPED.tolist()
    assert [row["id"] for row in found.to_dict()["flipped"]] == [named[i] for i in FLIPPED]
    assert f'<th scope="row">{named[FLIPPED[0]]}</th>' in found.to_html()


def test_a_data_frame_names_its_rows_by_its_index():
    frame = pd.DataFrame(X, columns=list("abcdef"), index=[f"row {i}" for i in range(200)])
    by_array = lambda model: lambda x: model(x.to_numpy())  # noqa: E731
    named = [f"row {i}" for i in FLIPPED]
    for held in (frame, (frame, np.zeros(200, int)), {"x": frame}):
        models = [
            by_array(m) if not isinstance(held, dict) else lambda b, m=m: m(b["x"].to_numpy()) for m in (GOOD, ROUGH)
        ]
        assert bqcore.audit(*models, None, held, **PLAIN).dataset.flipped_id.values.tolist() == named
    plain = bqcore.audit(*map(by_array, (GOOD, ROUGH)), None, frame.reset_index(drop=True), **PLAIN)
    assert "flipped_id" not in plain.dataset
    of_text = frame.set_index(pd.MultiIndex.from_product([["a", "b"], range(100)]))
    found = bqcore.audit(*map(by_array, (GOOD, ROUGH)), None, of_text, ids=np.arange(200) * 2, **PLAIN)
    assert found.dataset.flipped_id.values.tolist() == [str(2 * i) for i in FLIPPED]


def test_names_go_through_files_and_cannot_break_out_of_the_page(tmp_path):
    ids = [f"<script>{i}&\n\u1e9e" for i in range(200)]
    found = bqcore.audit(GOOD, ROUGH, None, X, ids=ids, **PLAIN)
    _store.save_dataset(found.dataset, tmp_path / "a.nc")
    assert _store.load_dataset(tmp_path / "a.nc").flipped_id.values.tolist() == [ids[i] for i in FLIPPED]
    assert "<script" not in found.to_html() and json.loads(found.to_json())["flipped"][0]["id"] == ids[FLIPPED[0]]
    same = bqcore.audit(GOOD, GOOD, None, X, ids=ids, **PLAIN)  # of none
    _store.save_dataset(same.dataset, tmp_path / "b.nc")
    assert same.dataset.flipped_id.shape == (0,) and same.dataset.flipped_id.attrs["long_name"]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, 2, 3], "There are 3 ids for 200 held-out samples: give one for each, in their order"),
        ("abc", "ids are str: give a list of names, one for each held-out sample"),
        (7, "ids are int: give a list of names"), (np.zeros((200, 2)), "There are ids of shape \\(200, 2\\)"),
    ],
)  # fmt: skip
def test_names_that_fit_no_samples_are_refused(ids, says):
    measured = lambda x: pytest.fail("measured")  # noqa: E731
    with pytest.raises(ValueError, match=says):
        bqcore.audit(measured, ROUGH, None, X, ids=ids, **PLAIN)


def test_names_of_too_few_samples_leave_the_decisions_of_a_generator():
    found = bqcore.audit(GOOD, ROUGH, None, iter([X[:90], X[90:]]), ids=[1, 2, 3], **PLAIN)
    assert "flipped_id" not in found.dataset and found.dataset.flipped_sample.values.tolist() == FLIPPED.tolist()
    says = "Samples are listed by number. There are 3 ids for 200 held-out samples: give one for each, in their order."
    assert says in found.notes


# Pictures


def pictures(page: str) -> list[Image.Image]:
    """Return the pictures of a page."""
    assert set(re.findall(r'(?:src|href)\s*=\s*"(.{22})', page)) <= {"data:image/png;base64,"}
    return [
        Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def brightest(x):
    """Decide by the channel, or by the half, that is brightest."""
    x = np.asarray(x, float)
    return x.mean((2, 3)) if x.shape[1] == 3 else np.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["float", "bytes", "normalized", "tensor", "batches"])
def test_flipped_images_are_shown(channels, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (80, channels, 8, 8)).astype(np.uint8)
    given = {
        "float": pixels / np.float32(255), "bytes": pixels, "normalized": pixels / 100 - 1.2,
        "tensor": torch.from_numpy(pixels), "batches": [pixels[:30], pixels[30:]],
    }[kind]  # fmt: skip
    found = bqcore.audit(brightest, lambda x: brightest(x)[:, ::-1], None, given, **PLAIN)
    assert found.dataset.sizes["flip"] >= 50
    shown = pictures(found.to_html())
    assert len(shown) == 50 == len(found.pictures)
    first = np.moveaxis(np.asarray(shown[0]).reshape(8, 8, channels), -1, 0)
    expected = pixels[found.dataset.flipped_sample.values[0]].astype(float)
    if kind == "normalized":
        expected = 255 * (expected - expected.min()) / np.ptp(expected)
    np.testing.assert_allclose(first, expected, atol=1.01)


def test_what_is_no_image_has_no_picture_and_missing_pillow_none():
    assert pictures(bqcore.audit(GOOD, ROUGH, None, X, **PLAIN).to_html()) == []
    volumes = np.random.default_rng(0).normal(size=(40, 5, 8, 8))
    model = lambda x: x.mean((2, 3))  # noqa: E731
    assert bqcore.audit(model, lambda x: -model(x), None, volumes, **PLAIN).pictures == {}
    assert samples.picture(np.zeros((3, 8, 8))) is not None and samples.picture(np.full((3, 4, 4), np.nan)) is not None


def test_pictures_need_pillow_and_are_left_out_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    pixels = np.random.default_rng(0).random((20, 3, 8, 8))
    found = bqcore.audit(brightest, lambda x: brightest(x)[:, ::-1], None, pixels, **PLAIN)
    assert found.pictures == {} and found.dataset.sizes["flip"] > 0


def test_a_folder_of_images_names_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "images" / ("cat" if i < 20 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    found = bqcore.audit(brightest, lambda x: brightest(x).round(1), None, loading.read_split("images"), **PLAIN)
    names = [f"{'cat' if i < 20 else 'dog'}/{i:02d}.png" for i in found.dataset.flipped_sample.values]
    assert found.dataset.flipped_id.values.tolist() == names and len(names) > 1
    page = found.to_html()
    assert names[0] in page and len(pictures(page)) == len(names)
    (tmp_path / "own_brightest.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
        "class Rough(Net):\n    def forward(self, x):\n        return super().forward(x).round(decimals=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["audit", "--reference", "own_brightest:Net", "--candidate", "own_brightest:Rough", "--heldout", "images"]
    assert __main__.main([*words, "--nodes", "0", "--no-order-check"]) == 0
    capsys.readouterr()
    content = json.loads((tmp_path / "audit/audit.json").read_text(encoding="utf-8"))
    assert content["flipped"][0]["id"].endswith(".png")
    assert content["flipped"][0]["id"] in (tmp_path / "audit/audit.html").read_text(encoding="utf-8")
