"""The book's figures, one visual language: classes by colour and digit, float blue, quantized orange."""

import functools
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from scipy import ndimage

from .. import formats

# Pale, so that masks and digits stand out; the digit in each region carries what colour cannot.
CLASS_COLOURS = (
    "#77aadd", "#eedd88", "#ffaabb", "#44bb99", "#dddddd", "#ee8866", "#bbcc33", "#99ddff", "#aaaa00", "#c9b3e6",
)  # fmt: skip
DATASETS = formats.DATASETS
# Okabe and Ito's colours, which people of every colour vision tell apart.
FLOAT_COLOUR, QUANTIZED_COLOUR, SKY, GREEN, PINK = "#0072b2", "#d55e00", "#56b4e9", "#009e73", "#cc79a7"
INK, GREY, FAINT = "#1a1a1a", "#767676", "#cccccc"  # text and zero lines; what is not compared; guides and grounds
PAPER_COLOUR, BOTH_COLOUR = QUANTIZED_COLOUR, INK  # the paper's values: a dashed line or a star; cells on both masks
# A verdict's colour, mark and face, those of its badge in the book; each has its own shape, for whoever sees no colour.
VERDICT_LOOKS = {
    "reproduced": ("#0b5394", "o", "#0b5394"), "compatible": ("#0b5394", "s", "#dcebf7"),
    "not reproduced": ("#a84300", "D", "#ffd9a8"), "opposite": ("#a84300", "X", "#ffd9a8"),
    "no difference seen": ("#555555", "s", "#f3f3f3"), "not attempted": ("#555555", ".", "#f3f3f3"),
}  # fmt: skip
_SHADES = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#c8b900")
LEVEL_COLOURS = dict(zip(range(8, 1, -1), _SHADES))
STYLE = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 96, "savefig.bbox": "tight",
    "font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.use": True, "svg.hashsalt": "bqcore",
}  # fmt: skip


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Have a function draw in the book's style, and close its figure: a notebook would show an open one again."""

    @functools.wraps(draw)
    def drawn(*args, **options) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **options)
        plt.close(figure)
        return figure

    return drawn


def panels(count: int, most: int, size: tuple[float, float], extra: tuple[float, float] = (0, 0)) -> tuple:
    """
    Return a figure with *count* panels, at most so many side by side, and a list of them; spare ones are empty.

    *size* and *extra* are width and height in inches: of a panel, and of what the figure has beside them.
    """
    columns, rows = min(count, most), -(-count // min(count, most))
    shape = (size[0] * columns + extra[0], size[1] * rows + extra[1])
    figure, axes = plt.subplots(rows, columns, figsize=shape, squeeze=False)
    for spare in axes.flat[count:]:
        spare.set_axis_off()
    return figure, list(axes.flat[:count])


def draw_range(axes: Axes, x: np.ndarray, values: xr.DataArray, over: str, **look) -> None:
    """Draw the median over one dimension along the other, with bars from the least to the largest."""
    middle = values.median(over).values
    ends = np.abs(np.stack([values.min(over).values, values.max(over).values]) - middle)
    axes.errorbar(x, middle, ends, lw=1, capsize=2, **look)


def draw_runs(axes: Axes, values: xr.DataArray, along: str = "bits") -> None:
    """Draw a dot for each run over the places of bit-widths, or others, moved aside at random, and the medians."""
    values = values.transpose("seed", along)
    places = np.arange(values.sizes[along])
    aside = np.random.default_rng(0).uniform(-0.25, 0.25, values.shape)  # the same in each build of the book
    # In an SVG hundreds of dots are a picture: one by one they would take more room than all else.
    dots = axes.plot(places + aside, values, "o", color=FLOAT_COLOUR, alpha=0.35, ms=2.5, mew=0, rasterized=True)
    dots[0].set_label("one network")
    axes.plot(places, values.median("seed"), "_", color=INK, ms=22, mew=1.6, label="median")
    axes.set_xticks(places, values[along].values)


def legend_below(figure: Figure, axes: Axes, columns: int) -> Legend:
    """Draw the legend of one panel below all."""
    names = axes.get_legend_handles_labels()
    return figure.legend(*names, frameon=False, fontsize=8, ncols=columns, loc="outside lower center")


def level_colour(bits: int) -> str:
    """Return the colour of a bit-width, from dark for 8 to light for 2, as in every figure; others are grey."""
    return LEVEL_COLOURS.get(int(bits), GREY)


def verdict_mark(verdict: str) -> dict:
    """Return how a verdict is marked, as arguments of ``plot``."""
    colour, mark, face = VERDICT_LOOKS[verdict]
    return {"ls": "", "marker": mark, "color": colour, "mfc": face, "ms": 7}


def draw_regions(axes: Axes, labels: xr.DataArray) -> None:
    """Fill the decision regions of one label grid (b, a) and write each large region's class into it."""
    count = len(CLASS_COLOURS)
    _show(axes, labels, labels, cmap=ListedColormap(CLASS_COLOURS), norm=BoundaryNorm(np.arange(-0.5, count), count))
    for label in np.unique(labels):
        region, last = ndimage.label(labels.values == label)
        parts = (region == i for i in range(1, last + 1))
        for inside in (part for part in parts if part.mean() >= 0.01):
            # The node deepest inside the region is inside it even where the centroid is not.
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            write_class(axes, labels.a[column], labels.b[row], label)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def write_class(axes: Axes, x: float, y: float, label: int) -> None:
    """Write a class into its region."""
    axes.text(x, y, str(label), ha="center", va="center", fontsize=9, color=INK)


def mark_cells(axes: Axes, cells: np.ndarray, run: xr.Dataset, colour: str, alpha: float = 1.0) -> None:
    """Fill some cells (b, a) of the slice of a run with one colour."""
    grid = xr.DataArray(cells, {"cell_b": run.cell_b, "cell_a": run.cell_a}, ("cell_b", "cell_a"))
    _show(axes, np.where(cells, 1.0, np.nan), grid, cmap=ListedColormap([colour]), alpha=alpha)


def flags(cells: np.ndarray, long_name: str) -> tuple:
    """Return flags of the cells of slices by bits as a variable of a figure's data."""
    return ("bits", "cell_b", "cell_a"), cells, {"long_name": long_name, "units": "flag"}


def _show(axes: Axes, picture: np.ndarray, grid: xr.DataArray, **look) -> None:
    """Show a picture whose coordinates, those of *grid*, are the middles of its cells."""
    y, x = (grid[dim].values for dim in grid.dims)
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    edges = x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y
    axes.imshow(picture, origin="lower", extent=edges, aspect="equal", interpolation="nearest", **look)
