"""Figures and tables of the chapters on levels and on transitions between them."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bqcore.metrics import statistics
from bqcore.metrics.masks import boundary_mask, junction_cells

from ..specs import FLOAT
from .style import BOTH_COLOUR, FLOAT_COLOUR, QUANTIZED_COLOUR, STYLE, draw_regions, level_name, mark_cells
from .tables import beyond_column


def levels_figure(run: xr.Dataset) -> Figure:
    """
    Draw Figure 1: decision regions, boundary masks and junctions of one run, float and each level side by side.

    Parameters
    ----------
    run : xarray.Dataset
        Of :func:`studies.catalogue.run`.
    """
    levels = [int(bits) for bits in run.bits]
    columns = 3 if len(levels) > 3 else len(levels) + 1
    rows = -(-(len(levels) + 1) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.9 * rows), squeeze=False)
        reference = boundary_mask(run.labels.sel(bits=FLOAT).values)
        for axes, bits in zip(panels.flat, levels):
            labels = run.labels.sel(bits=bits)
            mask = boundary_mask(labels.values)
            draw_regions(axes, labels)
            if bits == FLOAT:
                mark_cells(axes, mask, run, FLOAT_COLOUR)
                axes.set_title("float")
            else:
                mark_cells(axes, reference & ~mask, run, FLOAT_COLOUR)
                mark_cells(axes, mask & ~reference, run, QUANTIZED_COLOUR)
                mark_cells(axes, mask & reference, run, BOTH_COLOUR)
                jaccard = float(run.boundary_jaccard.sel(bits=bits, nodes=len(run.a)))
                axes.set_title(f"{bits} bits: J = {jaccard:.2f}, flips {float(run.flip_rate.sel(bits=bits)):.2%}")
            b, a = np.nonzero(junction_cells(labels.values))
            axes.plot(run.cell_a[a], run.cell_b[b], "o", ms=6, mfc="none", mec="black", mew=1.1)
        spare = panels.flat[len(levels)]
        spare.legend(
            handles=[
                Patch(color=FLOAT_COLOUR, label="boundary mask, float only"),
                Patch(color=QUANTIZED_COLOUR, label="boundary mask, quantized only"),
                Patch(color=BOTH_COLOUR, label="boundary mask, both"),
                Line2D([], [], ls="", marker="o", ms=6, mfc="none", mec="black", label="triple-junction cell"),
            ],
            loc="center left", frameon=False,
        )  # fmt: skip
        for axes in panels.flat[len(levels) :]:
            axes.set_axis_off()
    plt.close(figure)
    return figure


def transitions_figure(run: xr.Dataset) -> Figure:
    """
    Draw Figure 2: the junction cells along the interpolation between adjacent levels of one run.

    Parameters
    ----------
    run : xarray.Dataset
        Of :func:`studies.catalogue.run`, with at least one transition.
    """
    names = [str(name) for name in run.transition.values]
    levels = [int(bits) for bits in run.bits if bits != FLOAT]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=(3.1 * columns + 0.7, 2.9 * rows), squeeze=False)
        for axes, name, first, second in zip(panels.flat, names, levels, levels[1:]):
            before, after = (run.labels.sel(bits=bits) for bits in (first, second))
            draw_regions(axes, before)
            mark_cells(axes, boundary_mask(before.values), run, BOTH_COLOUR, 0.35)
            mark_cells(axes, boundary_mask(after.values), run, QUANTIZED_COLOUR, 0.55)
            step, b, a = np.nonzero(run.junction_map.sel(transition=name).values)
            dots = axes.scatter(
                run.cell_a[a],
                run.cell_b[b],
                c=run.t.values[step],
                cmap="viridis",
                vmin=0,
                vmax=1,
                s=16,
                lw=0.4,
                ec="white",
            )
            axes.set_title(f"{name} bits: {int(run.junction_union.sel(transition=name))} junction cells")
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        bar = figure.colorbar(dots, ax=panels, shrink=0.6, label="interpolation t")
        bar.set_ticks([0, 0.5, 1])
    plt.close(figure)
    return figure


def headline(run: xr.Dataset) -> bytes:
    """Draw the picture that README opens with, as PNG, of the published single run."""
    picture = io.BytesIO()
    levels_figure(run.sel(bits=[FLOAT, 8, 4])).savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def resolution_figure(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Figure:
    """
    Draw boundary Jaccard and d_eff by bits over the seeds, at each grid resolution.

    Parameters
    ----------
    runs : xarray.Dataset
        Of :func:`studies.catalogue.sweep`.
    reported : dict
        The paper's values by measure and bits.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
        for axes, name in zip(panels, ("boundary_jaccard", "effective_displacement")):
            frame = runs[name].sel(bits=runs.bits != FLOAT).sortby("nodes").to_dataframe().reset_index()
            order = [int(bits) for bits in runs.bits if bits != FLOAT]
            sns.boxplot(
                frame, x="bits", y=name, hue="nodes", order=order, palette="crest", fliersize=1.5, linewidth=0.8,
                ax=axes, legend=axes is panels[0],
            )  # fmt: skip
            axes.set(xlabel="bits", ylabel=runs[name].attrs["long_name"])
        here = [
            (order.index(b), value)
            for (name, b), value in reported.items()
            if name == "boundary_jaccard" and b in order
        ]
        if here:
            panels[0].plot(*zip(*here), "D", color=QUANTIZED_COLOUR, mec="white", ms=7, label="the paper")
        panels[0].legend(title="nodes a side", frameon=False)
        panels[1].set_ylabel("d_eff, input units")
    plt.close(figure)
    return figure


def spread_figure(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Figure:
    """
    Draw what each level does to accuracy, decisions and displacement over the seeds, a dot a run.

    Parameters
    ----------
    runs : xarray.Dataset
        Of :func:`studies.catalogue.sweep`.
    reported : dict
        The paper's values by measure and bits.
    """
    shown = [
        (runs.accuracy, "accuracy"), (runs.flip_rate, "flip_rate"), (runs.band_flip_rate, "band_flip_rate"),
        (runs.displacement.sel(quantile=0.5), "displacement"),
    ]  # fmt: skip
    order = [int(bits) for bits in runs.bits if bits != FLOAT]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(9, 6.4))
        for axes, (values, name) in zip(panels.flat, shown):
            frame = values.sel(bits=order).to_dataframe().reset_index()
            sns.stripplot(
                frame,
                x="bits",
                y=values.name,
                order=order,
                color=FLOAT_COLOUR,
                alpha=0.35,
                size=2.5,
                ax=axes,
                jitter=0.25,
            )
            middle = values.sel(bits=order).median("seed")
            axes.plot(range(len(order)), middle, "_", color="black", ms=22, mew=1.6, label="median")
            here = [
                (order.index(b), value) for (measure, b), value in reported.items() if measure == name and b in order
            ]
            if here:
                axes.plot(*zip(*here), "D", color=QUANTIZED_COLOUR, mec="white", ms=7, label="the paper")
            title = values.attrs["long_name"].replace(", magnitude", "")
            axes.set(xlabel="bits", ylabel=f"{'median ' if name == 'displacement' else ''}{title}")
            axes.yaxis.label.set_size(9)
            if name == "displacement":
                axes.set_yscale("log")
            elif name != "accuracy":
                axes.set_yscale("symlog", linthresh=0.005)  # linear to 0.005, so that 0 has a place
                axes.set_ylim(-0.001, 1)
            if here:
                axes.legend(frameon=False)
    plt.close(figure)
    return figure


def junction_test_figure(runs: xr.Dataset) -> Figure:
    """
    Draw claim J1 as a test: the share of cells near a junction, changed and rearranged, against chance.

    Parameters
    ----------
    runs : xarray.Dataset
        Of :func:`studies.catalogue.sweep`, with at least one transition.
    """
    names = {
        "chance_slice": "all cells of the slice", "chance_boundary": "all boundary cells",
        "share_near": "changed cells", "share_rearranged_near": "rearranged cells",
    }  # fmt: skip
    frame = pd.concat(
        runs[name].to_dataframe(name="share").reset_index().assign(of=label) for name, label in names.items()
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 4))
        sns.boxplot(
            frame, x="transition", y="share", hue="of", hue_order=list(names.values()), fliersize=1.5, linewidth=0.8,
            palette=["#dddddd", "#999999", "#56b4e9", "#cc79a7"], ax=axes,
        )  # fmt: skip
        axes.axhline(0.5, color="black", lw=0.8, ls=":")
        axes.set(xlabel="transition, bits", ylabel="share within one cell of a junction", ylim=(-0.02, 1.02))
        axes.legend(title=None, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    plt.close(figure)
    return figure


_LEVEL_COLUMNS = {
    "accuracy": ("accuracy", {}, "{:.4f}"),
    "flips": ("flip_rate", {}, "{:.4f}"),
    "band flips": ("band_flip_rate", {}, "{:.3f}"),
    "pair-order flips": ("pair_order_flip_rate", {}, "{:.4f}"),
    "band pair-order": ("band_pair_order_flip_rate", {}, "{:.3f}"),
    "displacement, median": ("displacement", {"quantile": 0.5}, "{:.4f}"),
    "95 %": ("displacement", {"quantile": 0.95}, "{:.4f}"),
    "radius, median": ("radius", {"quantile": 0.5}, "{:.3f}"),
    "radius, 95 %": ("radius", {"quantile": 0.95}, "{:.3f}"),
    "normal variation, median": ("normal_variation", {"quantile": 0.5}, "{:.1e}"),
    "normal variation, 95 %": ("normal_variation", {"quantile": 0.95}, "{:.1e}"),
}
_OF_ALL_INPUTS = ("accuracy", "flips", "pair-order flips")
_SLICE_COLUMNS = {
    "J": ("boundary_jaccard", "{:.3f}"),
    "d_eff": ("effective_displacement", "{:.4f}"),
    "grid change": ("grid_change", "{:.4f}"),
    "junctions": ("junctions", "{:.0f}"),
}
_TRANSITION_COLUMNS = {
    "junctions, union": ("junction_union", "{:.0f}"),
    "inside the changed region": ("junction_union_changed", "{:.0f}"),
    "changed cells": ("changed_cells", "{:.0f}"),
    "near a junction": ("share_near", "{:.3f}"),
    "chance along the boundary": ("chance_boundary", "{:.3f}"),
    "chance on the slice": ("chance_slice", "{:.4f}"),
    "rearranged cells": ("rearranged_cells", "{:.0f}"),
    "of these near a junction": ("share_rearranged_near", "{:.3f}"),
}


def levels_table(runs: xr.Dataset) -> pd.DataFrame:
    """
    Tabulate decisions and local geometry by level; over several seeds, medians with 95 % prediction intervals.

    Of one run, shares of the test inputs have their 95 % Clopper–Pearson interval.
    """
    columns = {
        title: [
            _share(float(runs[name].sel(bits=bits)), runs.sizes["sample"], form)
            if title in _OF_ALL_INPUTS and "sample" in runs.sizes and (bits != FLOAT or title == "accuracy")
            else _cell(runs[name].sel(select | {"bits": bits}), form)
            for bits in runs.bits.values
        ]
        for title, (name, select, form) in _LEVEL_COLUMNS.items()
    }
    return _frame(columns, [level_name(int(bits)) for bits in runs.bits], "level")


def slices_table(runs: xr.Dataset) -> pd.DataFrame:
    """Tabulate the slice measures by level at every resolution, each with its larger grid step h, and one without."""
    columns = {}
    for nodes in sorted(runs.nodes.values):
        here = runs.sel(nodes=nodes)
        step = float(np.maximum(here.step_a, here.step_b).median())
        for title, (name, form) in _SLICE_COLUMNS.items():
            values = [_cell(here[name].sel(bits=bits), form) for bits in runs.bits.values]
            columns[f"{title} ({nodes} nodes, h = {step:.4f})" if title == "J" else f"{title} ({nodes})"] = values
    title, tau = beyond_column(runs.tolerance_jaccard)
    columns[title] = [_cell(runs.tolerance_jaccard.sel(bits=bits, tau=tau), "{:.3f}") for bits in runs.bits.values]
    return _frame(columns, [level_name(int(bits)) for bits in runs.bits], "level")


def transitions_table(runs: xr.Dataset) -> pd.DataFrame:
    """Tabulate the transitions between adjacent levels; over several seeds, medians with 95 % prediction intervals."""
    columns = {
        title: [_cell(runs[name].sel(transition=t), form) for t in runs.transition.values]
        for title, (name, form) in _TRANSITION_COLUMNS.items()
    }
    return _frame(columns, list(runs.transition.values), "transition")


def steps_table(runs: xr.Dataset) -> pd.DataFrame:
    """Tabulate the junction cells at each interpolation step of each transition."""
    columns = {
        f"t = {t:.3g}": [
            _cell(runs.junction_steps.sel(transition=name, t=t), "{:.0f}") for name in runs.transition.values
        ]
        for t in runs.t.values
    }
    return _frame(columns, list(runs.transition.values), "transition")


def _share(share: float, inputs: int, form: str) -> str:
    found = statistics.clopper_pearson(round(share * inputs), inputs)
    return f"{form.format(share)} [{form.format(found.low)}, {form.format(found.high)}]"


def _cell(values: xr.DataArray, form: str) -> str:
    if values.dims not in ((), ("seed",)):  # an interval over anything but seeds would be one over nodes or cells
        raise ValueError(f"{values.name} runs over {values.dims}: an interval is one over seeds.")
    if values.ndim == 0:
        return form.format(float(values))
    found = values.values[np.isfinite(values.values)]
    if len(found) < 2:
        return form.format(found[0]) if len(found) else "none"
    interval = statistics.prediction_interval(found)
    if interval.low == interval.high:
        return form.format(interval.estimate)
    return f"{form.format(interval.estimate)} [{form.format(interval.low)}, {form.format(interval.high)}]"


def _frame(columns: dict, index: list, name: str) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(index, name=name))
