"""The figures' common look: panels, ranges, and figures that are closed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb

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


# From linear RGB to what eyes without one kind of cone see (Machado, Oliveira and Fernandes 2009, severity 1).
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "nobody": np.eye(3).tolist(),
}


def lab(colour: str, eyes: str) -> np.ndarray:
    """Return a colour in CIELAB as *eyes* see it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(BLIND[eyes] @ linear, 0, 1)
    white = [0.95047, 1.0, 1.08883]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    f = np.cbrt((to_xyz @ seen) / white)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", BLIND)
def test_colours_that_are_compared_differ_for_every_kind_of_colour_vision(eyes):
    together = [
        [style.FLOAT_COLOUR, style.PAPER_COLOUR, style.BOTH_COLOUR], [style.FLOAT_COLOUR, style.PAPER_COLOUR, style.GREY],
        sorted({colour for colour, _, _ in style.VERDICT_LOOKS.values()}), list(style.LEVEL_COLOURS.values()),
    ]  # fmt: skip
    for colours in together:
        seen = [lab(colour, eyes) for colour in colours]
        least = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
        assert least > 3 * 2.3, (eyes, colours, least)  # 2.3 is the smallest difference that people see


def test_verdicts_that_share_a_colour_have_marks_of_their_own():
    looks = list(style.VERDICT_LOOKS.values())
    assert len(set(looks)) == len(looks) and style.verdict_mark("compatible")["marker"] == "s"
