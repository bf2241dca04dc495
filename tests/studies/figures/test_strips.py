"""Strips: what they draw of rows made up by hand, names that do not overlap, and every claim of the ledger."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.figures import source_data, strips, style
from tests.helpers.claims import published_rows


def row(name, reported=0.4, kind="value", **other):
    return {
        "id": name, "short": "a measure", "kind": kind, "reported": reported, "estimate": 0.5, "low": 0.2, "high": 0.7,
        "values": [0.3, 0.5, 0.6], "verdict": "compatible", "held": {"7 bits": 0.6}, "excluded": {"2 bits": 9.0},
        "together": None,
    } | other  # fmt: skip


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_strip_has_runs_interval_paper_and_the_neighbours_that_its_axis_holds():
    figure = strips.strips(["X1"], [row("X0"), row("X1")])
    (axes,) = figure.axes
    drawn = [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines]
    assert drawn == [[0.6, 0.6], [0.4, 0.4], [0.3, 0.5, 0.6], [0.2, 0.7], [0.5]]
    assert axes.lines[1].get_color() == style.PAPER_COLOUR
    assert words(figure) == ["a measure", "the paper: 0.4", "ours: 0.5 [0.2, 0.7]", "7 bits"]
    assert (axes.get_title("left"), axes.get_title("right")) == ("X1", "compatible")
    data = source_data.attached(figure)
    assert data.paper.values.tolist() == [0.4] and data.run.values.tolist() == [0.3, 0.5, 0.6]
    assert dict(zip(data.neighbour.values.tolist(), data["mean"].values.tolist())) == {"7 bits": 0.6, "2 bits": 9.0}


@pytest.mark.parametrize(("kind", "says", "side"), [("direction", "above 0", 1), ("no gain", "no gain", 0)])
def test_a_claim_without_a_number_has_its_side_of_0_shaded(kind, says, side):
    found = {"held": {}, "excluded": {}, "estimate": -0.1, "low": -0.3, "high": 0.1, "values": [-0.2, 0.0]}
    figure = strips.strips(["X1"], [row("X1", "direction", kind, **found)])
    (axes,) = figure.axes
    (shade,) = axes.patches
    assert sorted([shade.get_x(), shade.get_x() + shade.get_width()]) == pytest.approx(
        sorted([0, axes.get_xlim()[side]])
    )
    assert words(figure)[1:] == [f"the paper: {says}", "ours: −0.1 [−0.3, +0.1]"]


def test_claims_judged_together_are_a_line_of_words():
    both = row("A+B", "joint", "joint", estimate=None, low=None, high=None, values=None, together={"A": 1.5, "B": 0.25},
               held={"7 bits": None})  # fmt: skip
    figure = strips.strips(["A", "A+B", "B"], [row("A"), row("B", 2), both])
    assert [axes.axison for axes in figure.axes] == [True, False, True]
    assert words(figure)[4:7] == ["a measure", "the paper: 0.4, 2", "ours: 1.5, 0.25"]
    worst = both | {"id": "R", "together": {"A": None}}
    assert words(strips.strips(["R"], [worst])) == ["a measure", "the paper: no gain", "ours: the worst of its parts"]
    later = both | {
        "id": "L",
        "kind": "value",
        "reported": 3,
        "verdict": "not attempted",
        "held": None,
        "together": None,
    }
    assert words(strips.strips(["L"], [later])) == ["a measure", "the paper: 3", "ours: none"]


NAMES = ["8 bits", "7 bits", "6 bits", "by accuracy", "stopping", "nearest", "gap term", "8→7"]


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1)))
def test_names_of_neighbours_do_not_overlap_and_none_is_lost(places):
    groups = sorted(([[name], place] for name, place in places.items()), key=lambda group: group[1])
    found = strips.labels(groups)
    halves = [len(text) * strips.LETTER / 2 for text, _ in found]
    assert all(
        place + half <= other - other_half
        for (_, place), half, (_, other), other_half in zip(found, halves, found[1:], halves[1:])
    )
    assert all(half <= place <= 1 - half for (_, place), half in zip(found, halves) if half < 0.49)
    assert all(any(name.removesuffix(" bits") in text for text, _ in found) for name in places)


def test_every_claim_of_the_ledger_has_a_strip_whose_words_do_not_touch():
    claims = published_rows()
    for claim in claims:
        figure = strips.strips([claim["id"]], claims)
        assert figure.get_size_inches()[0] == strips.WIDTH
        figure.draw_without_rendering()
        (axes,) = figure.axes
        titles = [axes._left_title, axes._right_title]
        boxes = [text.get_window_extent() for text in [*titles, *axes.texts]]
        pairs = [
            (i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].padded(-1).overlaps(boxes[j].padded(-1))
        ]
        assert not pairs, (claim["id"], words(figure))
        assert max(box.x1 for box in boxes) <= figure.bbox.x1 + 1, claim["id"]


def test_a_claim_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="There is no claim Q9; the claims are D1, D2, "):
        strips.strips(["D1", "Q9"])
    with pytest.raises(ValueError, match=r"There is no claim Q9; the claims are D1\."):
        strips.strips(["Q9"], [row("D1")])
