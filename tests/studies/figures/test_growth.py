"""How functions grow, drawn: a panel for each, the fitted line through its points, the same numbers in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies import growth
from studies.figures import growth as drawing


@settings(max_examples=5)
@given(st.lists(st.floats(0.2, 3), min_size=1, max_size=5))
def test_each_panel_has_its_points_the_line_of_its_exponent_and_words(powers):
    now = [0.0]

    def case(power):
        return growth.Case(
            "parts", (10, 20, 40, 80), lambda size: (size, lambda: now.__setitem__(0, now[0] + size**power))
        )

    found = growth.measure({f"f{i}": case(p) for i, p in enumerate(powers)}, rounds=1, clock=lambda: now[0])
    figure = drawing.growth(found)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == found.function.values.tolist()
    for axes, power in zip(panels, powers):
        line, points = (curve.get_xydata() for curve in axes.lines)
        assert np.array_equal(points[:, 0], [10, 20, 40, 80])
        np.testing.assert_allclose(line, points, rtol=1e-6)  # a power alone lies on its line
        assert axes.texts[0].get_text() == f"{power:.1f}" and axes.get_xlabel() == "parts"
    words = drawing.in_words(found).split("; ")
    assert words == [f"f{i} grows with parts to the power of {power:.1f}" for i, power in enumerate(powers)]


def test_the_line_is_the_fitted_one_where_points_are_on_none():
    seconds = iter([1.0, 2.0, 8.0, 16.0])
    now = [0.0]
    case = growth.Case("parts", (1, 2, 4, 8), lambda size: (size, lambda: now.__setitem__(0, now[0] + next(seconds))))
    found = growth.measure({"f": case}, rounds=0, clock=lambda: now[0])
    (axes,) = (axes for axes in drawing.growth(found).axes if axes.axison)
    assert found.exponent.item() == pytest.approx(1.4)  # of 0, 1, 3, 4 at 0, 1, 2, 3, in powers of two
    np.testing.assert_allclose(np.log2(axes.lines[0].get_ydata()), [-0.1, 1.3, 2.7, 4.1])
