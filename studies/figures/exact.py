"""Figures, tables and sentences of the chapter on exact boundaries; those on finite scale are in finite_scale."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from bqcore.metrics import boundary_distances, label_grids, masks, planes
from bqcore.metrics.exact_slices import ExactSlice, exact_slice, interpolated_slice

from ..formats import level, number, percent, span
from ..specs import FLOAT
from . import finite_scale, style, tables
from .source_data import attach
from .style import BOTH_COLOUR, CLASS_COLOURS, FLOAT_COLOUR, INK, QUANTIZED_COLOUR

_LETTER = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "black", "pad": 0.2}
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "frameon": False, "ncols": 2}
_UNITS = {"units": "input units"}


def draw_exact(axes: Axes, exact: ExactSlice, colour: str, *, regions: bool = False) -> None:
    """Draw an exact boundary with its junctions; with *regions*, fill them and write each class where it is widest."""
    if regions:
        faces = [CLASS_COLOURS[c % len(CLASS_COLOURS)] for c in exact.classes]
        look = {"facecolors": faces, "edgecolors": faces, "linewidths": 0.3}
        axes.add_collection(PolyCollection(exact.polygons, rasterized=True, **look))  # thousands of polygons
        x, y = (exact.polygons[..., i] - exact.polygons[:, :1, i] for i in (0, 1))
        size = (x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(axis=1) / 2
        for label in np.flatnonzero(exact.areas > 0.01 * exact.areas.sum()):
            largest = np.where(exact.classes == label, size, -1).argmax()
            style.write_class(axes, *np.unique(exact.polygons[largest], axis=0).mean(axis=0), label)
    # One line with gaps: thousands of lines would make a drawing that is three times as large.
    gaps = np.full((len(exact.segments), 1, 2), np.nan)
    axes.plot(*np.concatenate([exact.segments, gaps], axis=1).reshape(-1, 2).T, color=colour, lw=1.0)
    axes.plot(*exact.junctions.T, "o", ms=4, mfc="white", mec=colour, mew=1.0)


def _frame(axes: Axes, low: np.ndarray, high: np.ndarray, title: str) -> None:
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[], title=title)


def _pieces(slices: dict[int, ExactSlice]) -> xr.Dataset:
    """Return the pieces and junctions of exact boundaries, each with the bits of its network, as data."""
    out = xr.Dataset()
    for dim in ("segment", "junction"):
        found = {bits: getattr(one, f"{dim}s") for bits, one in slices.items()}
        ends = ("_start", "_end") if dim == "segment" else ("",)
        names = [f"{dim}_{axis}{end}" for end in ends for axis in "ab"]
        values = np.concatenate(list(found.values())).reshape(-1, len(names))
        out = out.assign({name: (dim, column, _UNITS) for name, column in zip(names, values.T)})
        out[f"{dim}_bits"] = dim, np.repeat(list(found), list(map(len, found.values()))), {"units": "bit"}
    return out


@style.styled
def boundaries_figure(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, *, nodes: int, cells: int = 12
) -> Figure:
    """
    Draw the exact boundary of the float network and of its levels, a panel each, then one grid's masks under both.

    The last panel enlarges *cells* cells of the grid, around the float junction nearest to the middle of the slice.
    """
    exact = exact_slice(reference, plane)
    others = {bits: exact_slice(model, plane) for bits, model in levels.items()}
    figure, panels = plt.subplots(1, len(levels) + 1, figsize=(4.1 * (len(levels) + 1), 4.2))
    for axes, (bits, other) in zip(panels, others.items()):
        draw_exact(axes, exact, FLOAT_COLOUR, regions=True)
        draw_exact(axes, other, QUANTIZED_COLOUR)
        _frame(axes, plane.low, plane.high, level(bits))
    axes, bits = panels[-1], next(iter(levels))
    grids = {FLOAT: reference, bits: levels[bits]}
    labels = np.stack([label_grids.label_grid(model, plane, nodes) for model in grids.values()])
    _draw_masks(axes, *map(masks.boundary_mask, labels), *plane.nodes(nodes))
    draw_exact(axes, exact, FLOAT_COLOUR)
    draw_exact(axes, others[bits], QUANTIZED_COLOUR)
    reach = cells / 2 * np.array(plane.steps(nodes))
    middle = _middle_point(exact, plane)
    _frame(axes, middle - reach, middle + reach, f"{level(bits)}, {nodes} nodes a side, enlarged")
    colours = {"float": FLOAT_COLOUR, "quantized": QUANTIZED_COLOUR}
    panels[0].legend(handles=[Line2D([], [], color=colour, label=name) for name, colour in colours.items()], **_BELOW)
    a, b = plane.nodes(nodes)
    data = _pieces({FLOAT: exact, **others}).assign_coords(a=a, b=b, bits=list(grids))
    about = {"long_name": "predicted class at each node of the grid that is enlarged", "units": "class"}
    return attach(figure, data.assign(labels=(("bits", "b", "a"), labels, about)))


def _middle_point(exact: ExactSlice, plane: planes.Plane) -> np.ndarray:
    """Return the junction, or the piece of the boundary if there is none, that is nearest to the middle of a slice."""
    middle = (plane.low + plane.high) / 2
    points = exact.junctions if len(exact.junctions) else exact.segments.mean(axis=1)
    return points[np.abs(points - middle).sum(axis=1).argmin()] if len(points) else middle


def _draw_masks(axes: Axes, one: np.ndarray, two: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    for mask, colour in ((one & ~two, FLOAT_COLOUR), (two & ~one, QUANTIZED_COLOUR), (one & two, BOTH_COLOUR)):
        row, column = np.nonzero(mask)
        corners = [(a[column + i], b[row + j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        cells = np.moveaxis(corners, 2, 0)
        look = {"facecolors": colour, "edgecolors": "white", "alpha": 0.3, "linewidths": 0.5}
        axes.add_collection(PolyCollection(cells, rasterized=True, **look))


@style.styled
def outside_figure(network: nn.Sequential, plane: planes.Plane, inputs: torch.Tensor) -> Figure:
    """Draw which part of a slice, fitted on the inputs, lies in their range, and points of it as square images."""
    corners, middle, scores = planes.data_region(plane, inputs), (plane.low + plane.high) / 2, plane.project(inputs)
    points = {"A": np.zeros(2), "B": (plane.low[0], middle[1]), "C": plane.high}
    side = math.isqrt(len(plane.origin))
    images = np.stack([plane.points(*np.array(point)).reshape(side, side) for point in points.values()])
    exact, outside = exact_slice(network, plane), planes.fraction_outside(plane, inputs)
    black, white = float(inputs.min()), float(inputs.max())
    slack = 1e-9 * (white - black)  # rounding is not darker than black
    shades = plt.get_cmap("gray").with_extremes(under=FLOAT_COLOUR, over=QUANTIZED_COLOUR)
    figure, panels = plt.subplots(1, 4, figsize=(9.5, 3.6), width_ratios=(1.9, 1, 1, 1), layout="constrained")
    axes = panels[0]
    draw_exact(axes, exact, FLOAT_COLOUR, regions=True)
    axes.plot(*scores.T, ".", color=INK, ms=1.5, label="training inputs", rasterized=True)  # a thousand dots
    look = {"color": QUANTIZED_COLOUR, "lw": 1.8, "label": "every pixel in its range"}
    axes.plot(*np.append(corners, corners[:1], axis=0).T, **look)
    _frame(axes, plane.low, plane.high, f"{percent(outside)} of the slice lies outside")
    axes.legend(**_BELOW, fontsize=8)
    for axes, (name, point), image in zip(panels[1:], points.items(), images):
        panels[0].text(*point, name, weight="bold", ha="center", va="center", clip_on=False, bbox=_LETTER)
        drawn = axes.imshow(image, cmap=shades, vmin=black - slack, vmax=white + slack)
        axes.set(xticks=[], yticks=[], title=name)
    bar = figure.colorbar(drawn, ax=panels[1:], orientation="horizontal", extend="both", shrink=0.6)
    bar.set_ticks([black, white], labels=["black", "white"])
    data = _pieces({FLOAT: exact}).assign(image=(("point", "row", "column"), images, _UNITS), outside=float(outside))
    for name, found in (("input", scores), ("corner", corners), ("point", np.stack([*points.values()]))):
        columns = zip("ab", np.asarray(found).T)
        data = data.assign({f"{name}_{axis}": (name, column, _UNITS) for axis, column in columns})
    return attach(figure, data.assign_coords(point=list(points)))


@style.styled
def first_order_figure(data: xr.Dataset, bits: list[int]) -> Figure:
    """Draw first-order against true displacement in the plane by level, a dot for each piece of the float boundary."""
    shown = data[["piece_displacement", "piece_first_order"]].sel(bits=bits)
    figure, panels = style.panels(len(bits), len(bits), (3, 3.2))
    for axes, one in zip(panels, bits):
        here = shown.sel(bits=one)
        axes.plot(
            here.piece_displacement, here.piece_first_order, ".", ms=3, color=FLOAT_COLOUR, alpha=0.5, rasterized=True
        )
        reach = 1.1 * float(np.nanmax(np.abs(here.piece_displacement), initial=1e-9))
        axes.plot([-reach, reach], [-reach, reach], color=INK, lw=0.8, ls=":")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=level(one))
        axes.set_xlabel("true displacement, input units")
    panels[0].set_ylabel("first order, input units")
    return attach(figure, shown)


def exact_table(data: xr.Dataset) -> tables.Frame:
    """Tabulate by level the measures that need no grid, beside J on the finest grid."""
    fine = data.isel(nodes=int(data.nodes.values.argmax()))
    columns = {
        f"J (h = {number(max(fine.step_a, fine.step_b), '.3f')})": (fine.isel(place=0).boundary_jaccard, ".3f"),
        "mean distance": (data.mean_distance, ".4f"), "Hausdorff": (data.hausdorff, ".3f"),
        **{f"beyond {t:g}": (data.tolerance_jaccard.sel(tau=t), ".3f") for t in data.tau.values[:2]},
        "changed area": (data.changed_area, ".4f"),
    }  # fmt: skip
    return tables.along("bits", columns)


def junctions_table(data: xr.Dataset) -> tables.Frame:
    """Tabulate the junctions by level: true ones, what became of the float network's, and what grids count."""
    columns = {"junctions": data.junctions}
    columns |= {title: data[f"junctions_{title}"] for title in ("matched", "vanished", "appeared")}
    cells = data.junction_cells.isel(place=0)
    columns |= {
        f"cells ({n} nodes)": cells.sel(nodes=n) for n in sorted({data.nodes.values.min(), data.nodes.values.max()})
    }
    return tables.along("bits", {title: (values, ".0f") for title, values in columns.items()})


def interpolated_table(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, data: xr.Dataset, *,
    nodes: tuple[int, ...], tau: float, step: float = 0.005,
) -> tables.Frame:  # fmt: skip
    """
    Tabulate distances between boundaries from interpolated logits beside the exact ones: what other classifiers get.

    *nodes* are those of the grids of logits; *tau* is a tolerance of *data*; *step* is the longest piece for the mean
    distance, in input units.
    """
    exact = data.sel(bits=list(levels))
    beyond = exact.tolerance_jaccard.sel(tau=tau)
    columns = {"mean distance": (exact.mean_distance, ".4f"), f"beyond {tau:g}": (beyond, ".3f")}
    for n in nodes:
        one = interpolated_slice(reference, plane, n).segments
        others = [interpolated_slice(model, plane, n).segments for model in levels.values()]
        means = [boundary_distances.boundary_distances(one, other, step=step).mean for other in others]
        shares = [boundary_distances.tolerance_jaccard(one, other, tau) for other in others]
        for title, values in (("mean distance", means), (f"beyond {tau:g}", shares)):
            like, form = columns[title]
            columns[f"{title} ({n} nodes)"] = like.copy(data=values).assign_coords(nodes=n), form
    return tables.along("bits", columns)


def first_order_table(agreement: xr.Dataset) -> tables.Frame:
    """Tabulate by level how far the first-order displacement can be trusted, from `first_order.compare`."""
    shown = (("ratio", "ratio", ".2f"), ("within 10 %", "within", ".0%"))
    places = ((where, *column) for where in agreement["where"].values for column in shown)
    columns = {f"{where}: {title}": (agreement[name].sel(where=where), form) for where, title, name, form in places}
    return tables.along("bits", columns)


def answer(data: xr.Dataset) -> Markdown:
    """Say what the grid makes of a small shift, and what measures it without one."""
    bits, coarse, fine = int(data.bits.values[0]), int(data.nodes.min()), int(data.nodes.max())
    own = data.boundary_jaccard.isel(place=0).sel(bits=bits, nodes=[coarse, fine])
    return Markdown(
        f"**Answer.** At {bits} bits the boundary moves by {number(data.mean_distance.sel(bits=bits))} input units in "
        f"the mean. The Jaccard distance of the masks for the same move goes from {span(*own.values, '.2f')} as the "
        f"grid is refined. Distances of the exact boundaries need no grid."
    )


def summary(data: xr.Dataset, agreement: xr.Dataset, claims: list[dict]) -> Markdown:
    """Say in words what the chapter shows; every number comes from its arguments."""
    coarse, fine, bits = int(data.nodes.min()), int(data.nodes.max()), data.bits.values.tolist()
    miss = np.abs(data.law_jaccard - data.pooled_jaccard)
    alone = np.abs(data.law_jaccard - data.boundary_jaccard.isel(place=0))
    first, last = bits[0], bits[len(bits) // 2]
    both = agreement.sel(bits=[first, last])
    ratio = [number(value, ".3f") for value in both.ratio.isel(where=0)]
    within = [percent(value) for value in both.within.isel(where=2)]
    lines = [
        f"- **The law holds.** Over {len(bits)} bit-widths and {data.sizes['nodes']} grids from {coarse} to {fine} "
        f"nodes, J predicted from exact distances differs from J measured by {number(miss.mean(), '.3f')} on average "
        f"and {number(miss.max(), '.3f')} at most, cells pooled over {data.sizes['place']} places of the grid. One "
        f"grid alone differs by up to {number(alone.max(), '.3f')}: where on the slice it starts is luck.",
        f"- **The first-order displacement** is the true one in the plane to a median ratio of {ratio[0]} at {first} "
        f"bits and {ratio[1]} at {last}; for test inputs, off the boundary, it is within 10 % for {within[0]} and "
        f"{within[1]} of them.",
    ]
    if coarse < fine:
        lines[1:1] = _convergence_lines(data, first, last, coarse, fine)
    return Markdown("\n".join([*lines, finite_scale.implied_line(claims)]))


def _convergence_lines(data: xr.Dataset, first: int, last: int, coarse: int, fine: int) -> list[str]:
    d_eff, mean = data.effective_displacement.sel(nodes=fine), data.mean_distance
    own = data.boundary_jaccard.isel(place=0).sel(bits=first, nodes=[coarse, fine])
    change = np.abs(data.grid_change / data.changed_area - 1).max("place")
    return [
        f"- **J does not converge.** At {first} bits it goes from {span(*own.values, '.2f')} while the boundaries stay "
        f"a mean distance of {number(mean.sel(bits=first))} input units apart. d_eff gives "
        f"{number(d_eff.sel(bits=first))} on the finest grid there, but at {last} bits {number(d_eff.sel(bits=last))} "
        f"for a mean distance of {number(mean.sel(bits=last))}: beyond a grid step it is a lower bound.",
        f"- **Grid prediction change converges**: within {percent(change.sel(nodes=fine).max(), 1)} of the changed "
        f"area on {fine} nodes, {percent(change.sel(nodes=coarse).max())} on {coarse}.",
    ]
