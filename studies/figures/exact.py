"""Figures, tables and sentences of the chapter on exact boundaries and finite scale."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from bqcore.metrics import boundary_distances, finite_scale, label_grids, masks, planes
from bqcore.metrics.exact_slices import ExactSlice, exact_slice, interpolated_slice
from bqcore.quantizers.uniform import level_range

from .style import BOTH_COLOUR, CLASS_COLOURS, FLOAT_COLOUR, QUANTIZED_COLOUR, STYLE, level_colour

_LETTER = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "black", "pad": 0.2}


def draw_exact(axes: Axes, exact: ExactSlice, colour: str, *, regions: bool = False) -> None:
    """Draw an exact boundary with its junctions; with *regions*, fill them and write each class where it is widest."""
    if regions:
        faces = [CLASS_COLOURS[c % len(CLASS_COLOURS)] for c in exact.classes]
        axes.add_collection(PolyCollection(exact.polygons, facecolors=faces, edgecolors=faces, linewidths=0.3))
        x, y = (exact.polygons[..., i] - exact.polygons[:, :1, i] for i in (0, 1))
        size = (x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(axis=1) / 2
        for label in np.flatnonzero(exact.areas > 0.01 * exact.areas.sum()):
            largest = np.where(exact.classes == label, size, -1).argmax()
            axes.text(*np.unique(exact.polygons[largest], axis=0).mean(axis=0), str(label), ha="center", va="center",
                      fontsize=9, color="#333333")  # fmt: skip
    axes.add_collection(LineCollection(exact.segments, colors=colour, linewidths=1.0))
    axes.plot(*exact.junctions.T, "o", ms=4, mfc="white", mec=colour, mew=1.0)


def boundaries_figure(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, *, nodes: int, cells: int = 12
) -> Figure:
    """
    Draw the exact boundary of the float network and of its levels, then a part of one grid's masks under both.

    Parameters
    ----------
    reference, levels, plane
        As in :func:`studies.exact.compare`; one panel a level.
    nodes : int
        Nodes a side of the grid that the last panel enlarges, around a float junction at the middle of the slice.
    cells : int
        Cells a side of the enlarged part.
    """
    exact = exact_slice(reference, plane)
    others = {bits: exact_slice(model, plane) for bits, model in levels.items()}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(levels) + 1, figsize=(4.1 * (len(levels) + 1), 4.2))
        for axes, (bits, other) in zip(panels, others.items()):
            draw_exact(axes, exact, FLOAT_COLOUR, regions=True)
            draw_exact(axes, other, QUANTIZED_COLOUR)
            axes.set(xlim=(plane.low[0], plane.high[0]), ylim=(plane.low[1], plane.high[1]), title=f"{bits} bits")
        axes, bits = panels[-1], next(iter(levels))
        steps, middle = np.array(plane.steps(nodes)), (plane.low + plane.high) / 2
        points = exact.junctions if len(exact.junctions) else exact.segments.mean(axis=1)
        centre = points[np.abs(points - middle).sum(axis=1).argmin()] if len(points) else middle
        _draw_masks(axes, reference, levels[bits], plane, nodes)
        draw_exact(axes, exact, FLOAT_COLOUR)
        draw_exact(axes, others[bits], QUANTIZED_COLOUR)
        low, high = centre - cells / 2 * steps, centre + cells / 2 * steps
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=f"{bits} bits, {nodes} nodes a side, enlarged")
        for axes in panels:
            axes.set(aspect="equal", xticks=[], yticks=[])
        panels[0].legend(
            handles=[
                Line2D([], [], color=FLOAT_COLOUR, label="float"),
                Line2D([], [], color=QUANTIZED_COLOUR, label="quantized"),
            ],
            loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False, ncols=2,
        )  # fmt: skip
    plt.close(figure)
    return figure


def outside_figure(network: nn.Sequential, plane: planes.Plane, inputs: torch.Tensor) -> Figure:
    """
    Draw which part of a slice lies in the data's range, with the data, and points of the slice as images.

    Parameters
    ----------
    network : nn.Sequential
    plane : Plane
    inputs : tensor (N, D), D a square
        Those that the slice is fitted on.
    """
    corners, middle = planes.data_region(plane, inputs), (plane.low + plane.high) / 2
    points = {"A": np.zeros(2), "B": (plane.low[0], middle[1]), "C": plane.high}
    side = math.isqrt(len(plane.origin))
    black, white = float(inputs.min()), float(inputs.max())
    slack = 1e-9 * (white - black)  # rounding is not darker than black
    shades = plt.get_cmap("gray").with_extremes(under=FLOAT_COLOUR, over=QUANTIZED_COLOUR)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 4, figsize=(9.5, 3.6), width_ratios=(1.9, 1, 1, 1), layout="constrained")
        axes = panels[0]
        draw_exact(axes, exact_slice(network, plane), FLOAT_COLOUR, regions=True)
        axes.plot(*plane.project(inputs).T, ".", color="black", ms=1.5, label="training inputs")
        axes.plot(
            *np.append(corners, corners[:1], axis=0).T, color=QUANTIZED_COLOUR, lw=1.8, label="every pixel in its range"
        )
        axes.set(
            xlim=(plane.low[0], plane.high[0]), ylim=(plane.low[1], plane.high[1]), aspect="equal", xticks=[],
            yticks=[], title=f"{planes.fraction_outside(plane, inputs):.0%} of the slice lies outside",
        )  # fmt: skip
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False, ncols=2, fontsize=8)
        for axes, (name, point) in zip(panels[1:], points.items()):
            panels[0].text(*point, name, weight="bold", ha="center", va="center", clip_on=False, bbox=_LETTER)
            image = plane.points(*np.array(point)).reshape(side, side)
            drawn = axes.imshow(image, cmap=shades, vmin=black - slack, vmax=white + slack)
            axes.set(xticks=[], yticks=[], title=name)
        bar = figure.colorbar(drawn, ax=panels[1:], orientation="horizontal", extend="both", shrink=0.6)
        bar.set_ticks([black, white], labels=["black", "white"])
    plt.close(figure)
    return figure


def _draw_masks(axes: Axes, reference: nn.Module, model: nn.Module, plane: planes.Plane, nodes: int) -> None:
    one, two = (masks.boundary_mask(label_grids.label_grid(m, plane, nodes)) for m in (reference, model))
    a, b = plane.nodes(nodes)
    for mask, colour in ((one & ~two, FLOAT_COLOUR), (two & ~one, QUANTIZED_COLOUR), (one & two, BOTH_COLOUR)):
        row, column = np.nonzero(mask)
        corners = [(a[column], b[row]), (a[column + 1], b[row]), (a[column + 1], b[row + 1]), (a[column], b[row + 1])]
        cells = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
        axes.add_collection(PolyCollection(cells, facecolors=colour, edgecolors="white", alpha=0.3, linewidths=0.5))


def convergence_figure(data: xr.Dataset, bits: list[int]) -> Figure:
    """
    Draw what grid measures do as the grid is refined, beside what they stand for: two converge, two do not.

    Parameters
    ----------
    data : xarray.Dataset
        Of :func:`studies.exact.compare`.
    bits : list of int
        Levels to draw.
    """
    h = np.maximum(data.step_a, data.step_b).values
    area, width = data.step_a * data.step_b, 2 * (data.step_a + data.step_b) / np.pi
    true_width = [
        np.average(finite_scale.mask_width(data.piece_angle, steps), weights=data.piece_length)
        for steps in zip(data.step_a.values, data.step_b.values)
    ]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True)
        for level in bits:
            here, colour = data.sel(bits=level), level_colour(level)
            _range(panels[0, 0], h, here.grid_change / here.changed_area, colour, f"{level} bits")
            _range(panels[1, 0], h, here.boundary_jaccard, colour)
            panels[1, 0].plot(data.law_step, here.law_curve, color=colour, lw=1)
            d_eff = width * here.boundary_jaccard / (2 - here.boundary_jaccard)
            _range(panels[1, 1], h, d_eff / here.mean_distance, colour)
        length = data.mask_cells_float * area / data.length_float
        _range(panels[0, 1], h, length / xr.DataArray(true_width, dims="nodes"), FLOAT_COLOUR, "by w of each direction")
        _range(panels[0, 1], h, length / width, BOTH_COLOUR, "by w of all directions")
        for axes, name in (
            (panels[0, 0], "grid prediction change / changed area"),
            (panels[0, 1], "length by mask cells / true length"),
            (panels[1, 0], "boundary-mask Jaccard distance"), (panels[1, 1], "d_eff / mean distance"),
        ):  # fmt: skip
            axes.set(xscale="log", ylabel=name)
            if "/" in name:
                axes.axhline(1, color="black", lw=0.8, ls=":")
        panels[1, 0].set(xlabel="grid step h, input units", xlim=(0.8 * h.min(), 1.25 * h.max()), ylim=(0, 1.02))
        panels[1, 1].set(xlabel="grid step h, input units", ylim=(0, None))
        panels[0, 0].legend(frameon=False)
        panels[0, 1].legend(frameon=False)
    plt.close(figure)
    return figure


def _range(axes: Axes, h: np.ndarray, values: xr.DataArray, colour, label: str | None = None) -> None:
    """Draw the median over the places of the grid, with a bar from the least to the largest."""
    middle = values.median("place").values
    ends = np.abs(np.stack([values.min("place").values, values.max("place").values]) - middle)
    axes.errorbar(h, middle, ends, fmt="o", ms=3, lw=1, capsize=2, color=colour, label=label)


def law_figure(data: xr.Dataset) -> Figure:
    """
    Draw the finite-scale law against measured J at all levels and resolutions, and J against shift over step.

    Parameters
    ----------
    data : xarray.Dataset
        Of :func:`studies.exact.compare`.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 4.2))
        marks = dict(zip(data.nodes.values, "os^Dv<>ph*"))
        colours = [level_colour(bits) for bits in data.bits.values]
        for nodes, mark in marks.items():
            here = data.sel(nodes=nodes)
            h = float(here.step_a + here.step_b) / 2
            panels[0].scatter(here.law_jaccard, here.pooled_jaccard, c=colours, marker=mark, s=22)
            panels[1].scatter(here.mean_distance / h, here.pooled_jaccard, c=colours, marker=mark, s=22)
        panels[0].plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        panels[0].set(xlabel="J by the law, from exact distances", ylabel="J measured", aspect="equal")
        ratio = np.geomspace(1e-2, 1e2, 200)
        panels[1].plot(ratio, finite_scale.isotropic_jaccard(ratio, (1.0, 1.0)), color="black", lw=1, ls=":")
        panels[1].set(xscale="log", xlabel="mean distance between the boundaries / grid step", ylabel="J measured")
        names = [
            Line2D([], [], ls="", marker="o", color=c, label=f"{b} bits") for b, c in zip(data.bits.values, colours)
        ]
        names += [Line2D([], [], ls="", marker=m, color="#777777", label=f"{n} nodes") for n, m in marks.items()]
        panels[1].legend(handles=names, frameon=False, fontsize=7, ncols=2)
    plt.close(figure)
    return figure


def first_order_figure(data: xr.Dataset, bits: list[int]) -> Figure:
    """
    Draw first-order against true displacement in the plane, a dot for each piece of the float boundary.

    Parameters
    ----------
    data : xarray.Dataset
        Of :func:`studies.exact.compare`.
    bits : list of int
        Levels to draw, a panel each.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(bits), figsize=(3 * len(bits), 3.2), squeeze=False)
        for axes, level in zip(panels[0], bits):
            here = data.sel(bits=level)
            axes.plot(here.piece_displacement, here.piece_first_order, ".", ms=3, color=FLOAT_COLOUR, alpha=0.5)
            reach = 1.1 * float(np.nanmax(np.abs(here.piece_displacement), initial=1e-9))
            axes.plot([-reach, reach], [-reach, reach], color="black", lw=0.8, ls=":")
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"{level} bits")
            axes.set(xlabel="true displacement, input units")
        panels[0, 0].set_ylabel("first order, input units")
    plt.close(figure)
    return figure


def exact_table(data: xr.Dataset) -> pd.DataFrame:
    """Tabulate by level the measures that need no grid, beside J and d_eff on the finest grid."""
    fine = data.isel(nodes=int(data.nodes.values.argmax()))
    own = fine.isel(place=0)
    step = float(max(fine.step_a, fine.step_b))
    columns = {
        f"J (h = {step:.4f})": (own.boundary_jaccard, ".3f"), "d_eff": (fine.effective_displacement, ".4f"),
        "mean distance": (data.mean_distance, ".4f"), "Hausdorff": (data.hausdorff, ".3f"),
        **{f"beyond {t:g}": (data.tolerance_jaccard.sel(tau=t), ".3f") for t in data.tau.values},
        "changed area": (data.changed_area, ".4f"), "grid change": (own.grid_change, ".4f"),
        "length": (data.length, ".2f"),
    }  # fmt: skip
    return _table({name: [format(x, form) for x in values.values] for name, (values, form) in columns.items()}, data)


def junctions_table(data: xr.Dataset) -> pd.DataFrame:
    """Tabulate the junctions by level: true ones, what became of the float network's, and what grids count."""
    columns = {
        "junctions": data.junctions, "matched": data.junctions_matched, "vanished": data.junctions_vanished,
        "appeared": data.junctions_appeared,
        **{f"cells ({n} nodes)": data.junction_cells.isel(place=0).sel(nodes=n) for n in sorted(data.nodes.values)},
    }  # fmt: skip
    return _table({name: [f"{x:.0f}" for x in values.values] for name, values in columns.items()}, data)


def interpolated_table(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, data: xr.Dataset, *,
    nodes: tuple[int, ...], tau: float, step: float = 0.005,
) -> pd.DataFrame:  # fmt: skip
    """
    Tabulate distances between boundaries from interpolated logits beside the exact ones: what other classifiers get.

    Parameters
    ----------
    reference, levels, plane, data
        As in :func:`studies.exact.compare`, and what it gave.
    nodes : tuple of int
        Nodes a side of the grids of logits.
    tau : float
        One of its tolerances.
    step : float
        Longest piece for the mean distance, in input units.
    """
    exact = data.sel(bits=list(levels))
    columns = {
        "mean distance": [f"{x:.4f}" for x in exact.mean_distance.values],
        f"beyond {tau:g}": [f"{x:.3f}" for x in exact.tolerance_jaccard.sel(tau=tau).values],
    }
    for n in nodes:
        one = interpolated_slice(reference, plane, n).segments
        others = [interpolated_slice(model, plane, n).segments for model in levels.values()]
        means = [boundary_distances.boundary_distances(one, other, step=step).mean for other in others]
        columns[f"mean distance ({n} nodes)"] = [f"{x:.4f}" for x in means]
        columns[f"beyond {tau:g} ({n} nodes)"] = [
            f"{boundary_distances.tolerance_jaccard(one, x, tau):.3f}" for x in others
        ]
    return _table(columns, exact)


def first_order_table(agreement: xr.Dataset) -> pd.DataFrame:
    """Tabulate by level how far the first-order displacement can be trusted, from :func:`studies.exact.first_order`."""
    columns = {}
    for where in agreement["where"].values:
        here = agreement.sel(where=where)
        columns[f"{where}: median"] = [f"{x:.4f}" for x in here.true.values]
        columns[f"{where}: ratio"] = [f"{x:.2f}" for x in here.ratio.values]
        columns[f"{where}: within 10 %"] = [f"{x:.0%}" for x in here.within.values]
    return _table(columns, agreement)


def _table(columns: dict[str, list], data: xr.Dataset) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index([f"{b} bits" for b in data.bits.values], name="level"))


def implied_table(
    claims: list[dict], data: xr.Dataset, *, shifts: dict[str, tuple[float, float]] | None = None
) -> pd.DataFrame:
    """
    Read the paper's Jaccard distances backwards: shift over grid step, and for digits the grid that it asks for.

    A reported value stands for an interval half a unit of its last digit either way. For digits the law of this
    network's own boundaries at those bits is inverted; elsewhere the ratio is for a boundary in all directions.

    Parameters
    ----------
    claims : list of dict
        Of :func:`studies.ledger.load_claims`; those named below are read.
    data : xarray.Dataset
        Of :func:`studies.exact.compare`, on digits.
    shifts : dict, optional
        For claims on other data, by their id, the interval of the shift in input units, from runs of one's own.
    """
    known = {claim["id"]: claim for claim in claims}
    rows = {}
    for name, bits in (("D2", 8), ("D4", 4), ("C6", 8), ("C3", 6), ("R1", 4)):
        if name not in known or not isinstance(known[name]["reported"], float):
            continue
        reported = known[name]["reported"]
        low, high = reported - 0.0005, reported + 0.0005
        ratio = [finite_scale.implied_displacement(j, (1.0, 1.0)) for j in (low, high)]
        grid = step = ""
        if name in (shifts or {}):
            step = "{:.4f} to {:.4f}".format(*finite_scale.implied_step(reported, shifts[name], rounding=0.0005))
        if known[name]["dataset"] == "digits" and bits in data.bits:
            law = data.law_curve.sel(bits=bits).values
            steps = np.interp([low, high], law, data.law_step.values)
            reach = float((data.nodes[0] - 1) * max(data.step_a[0], data.step_b[0]))
            step = f"{steps[1]:.4f} to {steps[0]:.4f}"
            grid = f"{reach / steps[0] + 1:.0f} to {reach / steps[1] + 1:.0f}"
        rows[name] = [
            known[name]["dataset"], str(bits), f"{reported:.3f}", f"{ratio[0]:.4f} to {ratio[1]:.4f}",
            f"{1 / ratio[1]:.1f} to {1 / ratio[0]:.1f}", step, grid,
        ]  # fmt: skip
    columns = ["data set", "bits", "J", "shift / step", "step in shifts", "step, input units", "nodes a side"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("claim")


def implied_ratio(claims: list[dict]) -> tuple[finite_scale.Range, float]:
    """
    Give the ratio of shifts at 6 and 8 bits that the paper's CIFAR-10 subset values imply, and that of weight steps.

    Parameters
    ----------
    claims : list of dict
        Of :func:`studies.ledger.load_claims`.
    """
    value = {claim["id"]: claim["reported"] for claim in claims}
    low, high = (
        [finite_scale.implied_displacement(value[name] + sign * 0.0005, (1.0, 1.0)) for name in ("C6", "C3")]
        for sign in (-1, 1)
    )
    return finite_scale.Range(low[1] / high[0], high[1] / low[0]), level_range(8)[1] / level_range(6)[1]


def summary(data: xr.Dataset, agreement: xr.Dataset, claims: list[dict]) -> Markdown:
    """Say in words what the chapter shows; every number comes from its arguments."""
    coarse, fine = int(data.nodes.min()), int(data.nodes.max())
    miss = np.abs(data.law_jaccard - data.pooled_jaccard)
    own = data.boundary_jaccard.isel(place=0)
    bits = [int(b) for b in data.bits.values]
    first, last = bits[0], bits[len(bits) // 2]
    change = np.abs(data.grid_change / data.changed_area - 1).max("place")
    lines = [
        f"- **The law holds.** Over {len(bits)} levels and {data.sizes['nodes']} grids from {coarse} to {fine} nodes, "
        f"J predicted from exact distances differs from J measured by {float(miss.mean()):.3f} on average and "
        f"{float(miss.max()):.3f} at most, cells pooled over {data.sizes['place']} places of the grid. One grid alone "
        f"differs by up to {float(np.abs(data.law_jaccard - own).max()):.3f}: where on the slice it starts is luck.",
        f"- **The first-order displacement** is the true one in the plane to a median ratio of "
        f"{float(agreement.ratio.isel(where=0).sel(bits=first)):.3f} at {first} bits and "
        f"{float(agreement.ratio.isel(where=0).sel(bits=last)):.3f} at {last}; for test inputs, off the boundary, it "
        f"is within 10 % for {float(agreement.within.isel(where=2).sel(bits=first)):.0%} and "
        f"{float(agreement.within.isel(where=2).sel(bits=last)):.0%} of them.",
    ]
    if coarse < fine:
        d_eff, mean = data.effective_displacement.sel(nodes=fine), data.mean_distance
        lines[1:1] = [
            f"- **J does not converge.** At {first} bits it goes from {float(own.sel(bits=first, nodes=coarse)):.2f} "
            f"to {float(own.sel(bits=first, nodes=fine)):.2f} while the boundaries stay a mean distance of "
            f"{float(mean.sel(bits=first)):.4f} input units apart. d_eff gives {float(d_eff.sel(bits=first)):.4f} on "
            f"the finest grid there, but at {last} bits {float(d_eff.sel(bits=last)):.4f} for a mean distance of "
            f"{float(mean.sel(bits=last)):.4f}: beyond a grid step it is a lower bound.",
            f"- **Grid prediction change converges**: within {float(change.sel(nodes=fine).max()):.1%} of the changed "
            f"area on {fine} nodes, {float(change.sel(nodes=coarse).max()):.0%} on {coarse}.",
        ]
    ratio, steps = implied_ratio(claims)
    lines.append(
        f"- **The paper's CIFAR-10 subset values** are what the law gives if the shift grows with the weights' steps: "
        f"from 8 to 6 bits they imply a factor of {ratio.low:.2f} to {ratio.high:.2f}; the steps grow by {steps:.2f}."
    )
    return Markdown("\n".join(lines))
