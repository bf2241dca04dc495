"""Figures of the chapter on definitions: each quantity at work on two classifiers small enough to check by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bqcore.metrics import decisions, label_grids, margins, masks
from bqcore.metrics.planes import Plane

from . import style
from .source_data import attach
from .style import BOTH_COLOUR, FAINT, FLOAT_COLOUR, GREY, INK, QUANTIZED_COLOUR

_FINE = 401  # nodes a side of the lines that are drawn


@style.styled
def overview_figure(f: torch.nn.Linear, q: torch.nn.Linear, x: torch.Tensor, plane: Plane, nodes: int) -> Figure:
    """Draw where quantities live: at one input x, (1, 2), in the cells of a slice, and in decisions on many inputs."""
    figure, (local, cells, many) = plt.subplots(1, 3, figsize=(9.6, 3.5))
    _draw_lines(local, f, q, plane)
    point, r, change = x[0].numpy(), margins.radius(f, x), margins.local_change(f, q, x)
    normal = (f.weight[r.rival[0]] - f.weight[r.winner[0]]).detach().numpy()
    foot = point + r.radius[0] * normal / np.linalg.norm(normal)
    end = foot + change.displacement[0] * normal / np.linalg.norm(normal)
    local.plot(*zip(point, foot), color=FLOAT_COLOUR, lw=2.5)
    local.annotate("", end, foot, arrowprops={"color": QUANTIZED_COLOUR, "width": 2, "headwidth": 8})
    local.plot(*point, "o", color=INK)
    local.text(*(point + 0.05), f"x:  r = {r.radius[0]:.2f}\nδ = {change.displacement[0]:.2f}", fontsize=9)
    local.set_title("at an input", loc="left")
    grids = [label_grids.label_grid(model, plane, nodes) for model in (f, q)]
    distance = _draw_masks(cells, *grids, plane)
    cells.set_title(f"on a slice: J = {distance:.2f}", loc="left")
    data = _draw_decisions(many, f, q)
    for axes in (local, cells):
        axes.set(aspect="equal", xticks=[], yticks=[])
    ends = {"input": point, "foot_of_radius": foot, "end_of_displacement": end}
    places = xr.Dataset({name: ("axis", place) for name, place in ends.items()})
    return attach(
        figure,
        places.assign(radius=r.radius[0], displacement=change.displacement[0], boundary_jaccard=distance).merge(data),
    )


def _draw_lines(axes: Axes, f: torch.nn.Linear, q: torch.nn.Linear, plane: Plane) -> None:
    """Draw the boundaries of both classifiers, float blue and quantized orange."""
    a, b = plane.nodes(_FINE)
    for model, colour in ((f, FLOAT_COLOUR), (q, QUANTIZED_COLOUR)):
        labels = label_grids.label_grid(model, plane, _FINE)
        for label in np.unique(labels):
            axes.contour(a, b, labels == label, levels=[0.5], colors=colour, linewidths=1.2)


def _draw_masks(axes: Axes, grid_f: np.ndarray, grid_q: np.ndarray, plane: Plane) -> float:
    """Fill the cells of either mask, circle the junction cells, and return the Jaccard distance."""
    a, b = plane.nodes(len(grid_f))
    one, two = masks.boundary_mask(grid_f), masks.boundary_mask(grid_q)
    for cells, colour in ((one & ~two, FLOAT_COLOUR), (two & ~one, QUANTIZED_COLOUR), (one & two, BOTH_COLOUR)):
        for row, column in np.argwhere(cells):
            axes.add_patch(plt.Rectangle((a[column], b[row]), a[1] - a[0], b[1] - b[0], color=colour, alpha=0.6, lw=0))
    for grid, colour in ((grid_f, FLOAT_COLOUR), (grid_q, QUANTIZED_COLOUR)):
        row, column = np.nonzero(masks.junction_cells(grid))
        axes.plot((a[column] + a[column + 1]) / 2, (b[row] + b[row + 1]) / 2, "o", ms=15, mfc="none", mec=colour, mew=2)
    axes.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]))
    return masks.boundary_jaccard(one, two).distance


def _draw_decisions(axes: Axes, f: torch.nn.Linear, q: torch.nn.Linear) -> xr.Dataset:
    """Draw, for inputs at random, the margin of the float top-2 pair in both classifiers, with the band and flips."""
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (120, 2)))
    with torch.no_grad():
        before, after = f(x).numpy(), q(x).numpy()
    winner, rival = decisions.top_pair(before)
    rows = np.arange(len(x))
    m_f, m_q = before[rows, winner] - before[rows, rival], after[rows, winner] - after[rows, rival]
    flipped = decisions.decide(before) != decisions.decide(after)
    band = np.isin(rows, decisions.boundary_band(before))
    axes.axvspan(0, m_f[band].max(), color=FAINT, lw=0)
    axes.plot(m_f[~flipped], m_q[~flipped], "o", ms=3.5, color=FLOAT_COLOUR, alpha=0.7, mew=0, label="kept")
    axes.plot(m_f[flipped], m_q[flipped], "X", ms=6, color=QUANTIZED_COLOUR, mew=0, label="flipped")
    axes.axhline(0, color=INK, lw=0.8, ls=":")
    axes.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.2)
    axes.set(xlabel="margin, float", ylabel="same pair's margin, quantized", xlim=(0, None))
    axes.set_title(f"in decisions: {flipped.mean():.0%} flip", loc="left")
    frame = {"margin_float": m_f, "margin_quantized": m_q, "in_band": band, "flipped": flipped}
    return xr.Dataset({name: ("row", values) for name, values in frame.items()})


@style.styled
def mask_figure(f: torch.nn.Linear, q: torch.nn.Linear, plane: Plane, nodes: int) -> Figure:
    """Draw the nodes of a slice by class, the cells of either boundary mask, and the junction cells."""
    a, b = plane.nodes(nodes)
    grids = [label_grids.label_grid(model, plane, nodes) for model in (f, q)]
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 4.1))
    for axes, labels, name in zip(panels, grids, ("float", "quantized")):
        axes.pcolormesh(a, b, masks.boundary_mask(labels), cmap="Greys", vmax=3, rasterized=True)
        colours = np.array(style.CLASS_COLOURS)[labels].ravel()
        axes.scatter(*np.meshgrid(a, b), c=colours, s=24, edgecolor=GREY, linewidth=0.4, zorder=2)
        row, column = np.nonzero(masks.junction_cells(labels))
        middles = (a[column] + a[column + 1]) / 2, (b[row] + b[row + 1]) / 2
        axes.plot(*middles, "o", ms=17, mfc="none", mec=QUANTIZED_COLOUR, mew=2)
        axes.set(title=name, aspect="equal", xticks=[], yticks=[])
    dims, cells = ("classifier", "b", "a"), ("classifier", "cell_b", "cell_a")
    data = xr.Dataset({
        "labels": (dims, grids), "boundary_cell": (cells, [masks.boundary_mask(grid) for grid in grids]),
        "junction_cell": (cells, [masks.junction_cells(grid) for grid in grids]),
    })  # fmt: skip
    where = {"a": a, "b": b, "cell_a": (a[1:] + a[:-1]) / 2, "cell_b": (b[1:] + b[:-1]) / 2}
    return attach(figure, data.assign_coords(**where, classifier=["float", "quantized"]))


@style.styled
def quantizers_figure(weights: torch.Tensor, quantized: dict[str, torch.Tensor], bits: int) -> Figure:
    """Draw weights against what each convention makes of them."""
    figure, panels = plt.subplots(1, len(quantized), figsize=(8, 2.8), sharey=True)
    for axes, (scheme, values) in zip(panels, quantized.items()):
        axes.plot(weights, weights, color=FLOAT_COLOUR, lw=1, label="float")
        axes.plot(weights, values, color=QUANTIZED_COLOUR, label=f"quantized, {bits} bits")
        axes.set(title=f"{scheme} range: {len(values.unique())} values", xlabel="weight")
    panels[0].legend(frameon=False)
    return attach(figure, pd.DataFrame({"weight": weights, **quantized}))


@style.styled
def ruler_figure(measured: pd.DataFrame) -> Figure:
    """Draw J and d_eff, measured for known shifts on several grids, beside the straight-line law of J."""
    figure, (jaccard, shift) = plt.subplots(1, 2, figsize=(9, 3.5))
    grids = dict(zip(sorted(measured.nodes.unique()), ("#7fcdbb", "#2c7fb8", "#253494")))
    for nodes, colour in grids.items():
        here, h = measured[measured.nodes == nodes], 1 / (nodes - 1)
        d = here["shift"].to_numpy()
        jaccard.plot(d, here.boundary_jaccard, ".", color=colour, label=f"{nodes} nodes a side")
        jaccard.plot(d[d <= h], 2 * d[d <= h] / (4 * h / np.pi + d[d <= h]), color=colour, lw=1)
        shift.plot(d, here.effective_displacement, ".", color=colour)
        shift.axvline(h, color=colour, lw=0.8, ls="--")
    shift.plot(d, d, color=INK, lw=0.8)
    jaccard.set(xlabel="shift d, sides of the square", ylabel="boundary-mask Jaccard distance")
    jaccard.legend(frameon=False)
    shift.set(xlabel="shift d, sides of the square", ylabel="d_eff, sides of the square", ylim=(0, 1.2 * d.max()))
    return attach(figure, measured)


def names() -> pd.DataFrame:
    """Return the paper's words for its quantities, with what they mean here, other readings, and bqcore's names."""
    rows = {
        "local logit-margin radius": ("least margin over its slope, all rivals", "two best classes", "radius"),
        "local boundary shift": ("change of margin over float slope", "slope of q; Δs", "displacement"),
        "normal variation": ("1 less the cosine between the normals", "angle in degrees", "normal_variation"),
        "boundary-mask Jaccard": ("of cells with unlike corners", "of nodes; thickened", "boundary_jaccard"),
        "grid prediction change": ("fraction of nodes with another label", "inside the data only", "label_grid"),
        "multiclass junction count": ("cells with three labels or more", "3 × 3 windows", "junction_cells"),
        "flip rate": ("fraction of inputs with another decision", "none", "flips"),
        "boundary-band flips": ("flips among the 20 % of least margin", "10 or 15 %; by radius", "band_flip_rate"),
        "pair-order flip": ("the two best classes change places", "ties count", "pair_order_flip_rate"),
    }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, "index", columns=["what it means here", "other readings", "name in bqcore"])
    return table.rename_axis("the paper's words")
