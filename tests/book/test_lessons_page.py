"""The lessons' pictures, driven as a reader would: their numbers compared with Python's."""

import collections
import copy
import re

import numpy as np
import pytest
import torch

from bqcore.metrics import label_grids, margins, masks, planes, statistics
from bqcore.quantizers import uniform
from studies.claims import load_claims
from studies.published import load_published
from tests.helpers.browser import LEVELS, Watched, assert_same_labels
from tests.helpers.claims import published_rows

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
    """Return a function that sets the sliders of a lesson's picture and gives what follows."""
    name = request.param
    with Watched(chromium, viewport={"width": 1400, "height": 1000}) as watched:
        watched.page.goto((book / f"book/course/{name}.html").as_uri(), wait_until="load")

        def given(labels: bool = False, **values) -> dict:
            # Grids take long to send, as arrays much longer than as text.
            return watched.page.evaluate(
                "([name, values, labels]) => { const plain = (v) => ArrayBuffer.isView(v)"
                " ? (v.length <= 100 ? [...v] : labels ? v.join('') : [])"
                " : Array.isArray(v) ? v.map(plain) : v && typeof v === 'object'"
                " ? Object.fromEntries(Object.entries(v).map(([k, w]) => [k, plain(w)])) : v;"
                " const found = plain(bqLessons[name].set(values));"
                " return { ...found, said: document.querySelector('table').innerText }; }",
                [name, values, labels],
            )

        given.page = watched.page
        yield given
        assert not watched.faults


def at_level(model, level: int):
    return uniform.quantize_model(model, LEVELS[level]) if level else model


def grid(labels: str) -> np.ndarray:
    side = round(len(labels) ** 0.5)
    return np.frombuffer(labels.encode(), np.uint8).reshape(side, side) - ord("0")


COURSE = ("quantization", "boundary", "displacement", "junctions", "ruler", "evidence")
LAYER = torch.tensor([[1.0, -0.62, 0.3, 0.11], [0.16, -0.12, 0.07, 0.04]])


@pytest.mark.parametrize("lesson", ["quantization"], indirect=True)
def test_lesson_quantization_equals_python_s(lesson):
    for bits in range(2, 9):
        for own, granularity in enumerate(("tensor", "channel")):
            for first, kept in ((1.0, 100), (0.35, 100), (1.0, 45), (0.7, 20)):
                found = lesson(bits=bits, own=own, kept=kept, first=first)
                layer = LAYER.clone()
                layer[0, 0] = first
                here = torch.tensor([channel["quantized"] for channel in found["channels"]])
                if kept == 100:
                    wanted = uniform.quantize(layer, bits, granularity=granularity)
                else:  # torch's own rounding, with a step of the reader's choice
                    top = 2 ** (bits - 1) - 1
                    reach = layer.abs().amax(1) if own else layer.abs().max().expand(2)
                    steps = torch.tensor(kept / 100) * reach / top
                    zeros = torch.zeros(2, dtype=torch.int32)
                    wanted = torch.fake_quantize_per_channel_affine(layer, steps, zeros, 0, -top, top)
                assert torch.equal(here, wanted), (bits, own, first, kept)
                error = (wanted.double() - layer.double()).abs()
                assert found["worst"] == pytest.approx(float(error.max()), abs=1e-12)
                assert found["meanSquare"] == pytest.approx(float((error**2).mean()), abs=1e-12)
                assert found["zeros"] == int((wanted == 0).sum())
                assert f"{float(wanted[0, 1]):.3f}".replace("-", "−") in found["said"]


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
            shift = change.signed_distance_change[0]
            assert found["signedDistanceChange"] == pytest.approx(shift, rel=1e-9, abs=1e-12)
            assert f"signed distance change Δs\t{shift:.3f}".replace("-", "−") in found["said"]
            assert found["normalVariation"] == pytest.approx(change.normal_variation[0], rel=1e-6, abs=1e-12)
            # Where the lesson says that the quantized boundary is, its margin is zero.
            place = point + (found["reach"] + found["exact"]) * torch.tensor([found["normal"]], dtype=torch.float64)
            z = q(place)[0]
            assert float((z[found["winner"]] - z[found["runnerUp"]]).detach()) == pytest.approx(0, abs=1e-9)
            assert f"{found['displacement']:.3f}".replace("-", "−") in found["said"]
        assert_same_labels(grid(lesson(labels=True)["after"]), q, SQUARE, f"level {level}")


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
        assert found["now"] == masks.transition(last).changed == grid(found["moved"]).sum()
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


@pytest.mark.parametrize("lesson", ["evidence"], indirect=True)
def test_lesson_evidence_judges_as_the_ledger_does(lesson):
    rows = {row["id"]: row for row in published_rows()}
    _, claims = load_claims()
    for place, claim in enumerate(claim for claim in claims if claim["id"] in ("D1", "D2", "D3", "D4", "D5")):
        found = lesson(claim=place, many=100, first=0, grid=1)
        row = rows[claim["id"]]
        assert found["verdict"] == row["verdict"] and found["low"] == pytest.approx(row["low"], abs=1e-12)
        assert found["high"] == pytest.approx(row["high"], abs=1e-12) and row["verdict"] in found["said"]
        assert [f"{bits} bits" for bits in found["held"]] == list(row["held"])
        runs = load_published(claim["from"])
        where = {key: value for key, value in claim["select"].items() if key not in ("measure", "nodes", "bits")}
        values = runs[claim["select"]["measure"]].sel(where)
        for many in (3, 4, 38, 39, 57):
            counts = collections.Counter()
            for nodes in (101, 201, 401) if "nodes" in values.dims else (0,):
                here = values.sel(nodes=nodes) if nodes else values
                by_bits = {b: here.sel(bits=b).values for b in here.bits.values}
                by_bits.pop(32, None)
                for first in range(100):
                    taken = {b: one[(first + np.arange(many)) % 100] for b, one in by_bits.items()}
                    found = statistics.prediction_interval(taken.pop(claim["select"]["bits"]), 1)
                    held = [b for b, one in taken.items() if found.low <= one.mean() <= found.high]
                    inside = found.low <= claim["reported"] <= found.high
                    counts["not reproduced" if not inside else "compatible" if held else "reproduced"] += 1
            told = lesson(many=many)["counts"]
            assert {name: count for name, count in told.items() if count} == dict(counts), (claim["id"], many)


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


def test_slides_fill_the_screen_one_at_a_time_and_print_one_a_sheet(chromium, book):
    with Watched(chromium, viewport={"width": 1400, "height": 900}) as watched:
        page = watched.page
        page.goto((book / "book/course/slides.html").as_uri(), wait_until="load")
        many = page.locator(".bd-article section > section").count()
        shown = "[...document.querySelectorAll('.bd-article h2')].filter((h) => h.checkVisibility()).length"
        where = "document.querySelector('.bq-bar [role=status]').textContent"
        assert page.evaluate(shown) == many and not page.is_visible(".bq-bar")
        page.click(".bq-start")
        for place in range(1, many + 1):
            assert page.evaluate(where) == f"Slide {place} of {many}" and page.evaluate(shown) == 1
            assert page.evaluate("document.activeElement.tagName") == "H2", "a screen reader begins with the heading"
            page.wait_for_timeout(100)  # a picture takes the size of the screen
            beyond = "((a) => [a.scrollHeight - a.clientHeight, a.scrollWidth - a.clientWidth])(document.querySelector('.bd-article'))"
            assert page.evaluate(beyond) == [0, 0], f"slide {place} does not fit"
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Home")
        page.click(".bq-bar [name=next]")
        assert page.evaluate(where) == f"Slide 2 of {many}"
        swipe = (
            "([from, to]) => [['touchstart', from], ['touchend', to]].forEach(([type, clientX]) => {"
            " const target = document.querySelector('.bq-now h2');"
            " const touches = [new Touch({identifier: 1, target, clientX, clientY: 200})];"
            " target.dispatchEvent(new TouchEvent(type, {bubbles: true, touches, changedTouches: touches})); })"
        )
        for ends, place in (([300, 200], 3), ([200, 300], 2), ([200, 230], 2)):
            page.evaluate(swipe, ends)
            assert page.evaluate(where) == f"Slide {place} of {many}"
        page.keyboard.press("End")
        slider = page.locator(".bq-now input").first
        slider.focus()
        page.keyboard.press("ArrowLeft")  # the slider's own
        assert page.evaluate(where) == f"Slide {many} of {many}"
        page.click(".bq-bar [name=close]")
        assert page.evaluate(shown) == many and not page.is_visible(".bq-bar")
        page.emulate_media(media="print")
        sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))
        assert many <= sheets <= many + 1 and not page.is_visible(".bq-start")
        assert not watched.faults


@pytest.mark.parametrize("name", COURSE)
def test_the_first_screen_has_the_puzzle_and_the_picture(window, name):
    page = window(f"book/course/{name}.html")
    puzzle, picture = (page.locator(at).first.bounding_box() for at in ("section > p", ".bq-lesson canvas"))
    assert puzzle["y"] < picture["y"] and picture["y"] + picture["height"] <= 900
