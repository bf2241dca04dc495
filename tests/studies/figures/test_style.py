"""The figures' common look: panels, ranges, and figures that are closed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from studies.figures import style


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 3))])
def test_panels_are_as_many_as_asked_for_and_the_others_are_empty(count, shape):
    figure, panels = style.panels(count, 3, (2, 1), (0.5, 0))
    assert len(panels) == count and all(axes.axison for axes in panels)
    assert [axes.axison for axes in figure.axes] == [True] * count + [False] * (shape[0] * shape[1] - count)
    assert figure.get_size_inches().tolist() == [2 * shape[1] + 0.5, shape[0]]
    plt.close(figure)


def test_a_styled_function_draws_in_the_style_and_leaves_no_figure_open():
    @style.styled
    def drawn(size: int):
        """Draw."""
        assert plt.rcParams["svg.hashsalt"] == "bqcore"
        return plt.subplots(figsize=(size, size))[0]

    assert drawn(3).get_size_inches().tolist() == [3, 3] and drawn.__doc__ == "Draw."
    assert plt.get_fignums() == [] and plt.rcParams["svg.hashsalt"] != "bqcore"


def test_a_range_is_the_median_with_bars_to_the_least_and_the_largest():
    values = xr.DataArray([[1.0, 2.0, 6.0], [0.0, 1.0, 1.0]], dims=("bits", "seed"))
    figure, axes = plt.subplots()
    style.draw_range(axes, np.array([8, 4]), values, "seed", fmt="o")
    (line, _, (bars,)) = axes.containers[0]
    assert line.get_xydata().tolist() == [[8, 2], [4, 1]]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[1, 6], [0, 1]]
    plt.close(figure)
