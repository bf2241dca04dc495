"""What the figures of the ledger show: positions by hand, neighbours, and directions in units of their bounds."""

import numpy as np
import pytest

from studies.figures import source_data, verdicts
from tests.helpers.claims import published_rows


def row(name, reported, estimate, low, high):
    return {"id": name, "dataset": "x", "reported": reported, "estimate": estimate, "low": low, "high": high, "runs": 9,
            "verdict": "reproduced", "held": {}, "excluded": {}}  # fmt: skip


def test_positions_by_hand():
    rows = [
        row("a", 3.0, 2.0, 0.0, 4.0), row("b", 1.5, 2.0, 0.0, 4.0), row("c", 0, 0, 0, 0.1), row("d", 9.0, 8.0, 8.0, 8.0),
        row("e", "direction", 1.0, 0.0, 2.0), row("f", 1.0, None, None, None), row("g", 7.0, 8.0, 8.0, 9.0),
    ]  # fmt: skip
    table = verdicts.positions(rows)
    assert table.position.to_dict() == {"a": 0.5, "b": -0.25, "c": 0.0, "d": np.inf, "g": -np.inf}
    rows[1] |= {"held": {"7 bits": 1.0}, "excluded": {"6 bits": 6.0, "5 bits": 99.0}}
    rows[4] |= {"held": {"no place": None}}
    others = verdicts.neighbours(rows)
    assert others.values.tolist() == [
        ["b", "7 bits", 1.0, -0.5],
        ["b", "6 bits", 6.0, 2.0],
        ["b", "5 bits", 99.0, 48.5],
    ]
    figure = verdicts.positions_figure(rows)
    lines = [line for line in figure.axes[0].lines if line.get_xdata() is not None]
    drawn = [line.get_xdata()[0] for line in lines if len(line.get_xdata()) == 1]
    assert drawn == [-3, 3, 0, -0.25, 0.5]  # from the bottom; what is beyond the axis stands at its edge
    assert [list(line.get_xdata()) for line in lines if len(line.get_xdata()) == 2][1:] == [
        [-0.5, 2.0]
    ]  # the first is at 0


def test_directions_are_drawn_in_units_of_their_bounds():
    common = {"dataset": "x", "kind": "direction", "detectable": 0.3, "bound": 0.2, "verdict": "no difference seen"}
    rows = [common | {"id": "a", "estimate": 0.1, "low": -0.1, "high": 0.3},
            common | {"id": "b", "estimate": -4.0, "low": -5.0, "high": -3.0, "verdict": "opposite"},
            common | {"id": "c", "detectable": None}, common | {"id": "d", "kind": "reduction"}]  # fmt: skip
    figure = verdicts.directions_figure(rows)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a, x", "b, x"]
    drawn = [np.round(line.get_xdata(), 9).tolist() for line in axes.lines if len(line.get_xdata())][1:]
    assert drawn == [[-3, -3], [-3], [-1.5, 1.5], [-0.5, 1.5], [0.5], [-1.5, 1.5]]
    assert source_data.attached(figure).estimate.values.tolist() == [0.1, -4.0]


@pytest.mark.slow
def test_every_verdict_of_the_ledger_can_be_drawn():
    rows = published_rows()
    for draw, count in ((verdicts.positions_figure, 29), (verdicts.directions_figure, 9)):
        figure = draw(rows)
        assert len(figure.axes[0].get_yticklabels()) == count
        figure.draw_without_rendering()
