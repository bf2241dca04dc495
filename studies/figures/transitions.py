"""Figures, tables and words of the chapter on transitions between levels."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics
from bqcore.metrics.masks import boundary_mask

from ..formats import ends, listed, number, percent, short
from ..specs import FLOAT
from . import style, tables
from .source_data import attach
from .style import FAINT, GREY, INK, PINK, SKY

_COLUMNS = {
    "junction cells": "junction_union", "inside what changes": "junction_union_changed",
    "changed cells": "changed_cells", "near a junction": "share_near", "by chance": "chance_boundary",
    "rearranged, near one": "share_rearranged_near",
}  # fmt: skip
# How junction cells of a transition can be counted, by title: the paper does not say how it does.
_COUNTS = {
    "at a step, on average": "junction_steps", "at any step": "junction_union",
    "at any step, where labels change": "junction_union_changed",
}  # fmt: skip
# Claim J1: what is compared, and with which chance.
_COMPARED = {
    "chance_slice": "all cells of the slice", "chance_boundary": "all boundary cells",
    "share_near": "changed cells", "share_rearranged_near": "rearranged cells",
}  # fmt: skip


@style.styled
def transitions_figure(run: xr.Dataset) -> Figure:
    """Draw the paper's Figure 2: the junction cells along the interpolation between adjacent levels of one run."""
    levels = [int(bits) for bits in run.bits if bits != FLOAT]
    figure, panels = style.panels(run.sizes["transition"], 3, (3.1, 2.9), (0.7, 0))
    masks = np.stack([boundary_mask(run.labels.sel(bits=bits).values) for bits in levels])
    for axes, name, bits, before, after in zip(panels, run.transition.values, levels, masks, masks[1:]):
        style.draw_regions(axes, run.labels.sel(bits=bits))
        style.mark_cells(axes, before, run, style.BOTH_COLOUR, 0.35)
        style.mark_cells(axes, after, run, style.QUANTIZED_COLOUR, 0.55)
        step, b, a = np.nonzero(run.junction_map.sel(transition=name).values)
        look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "s": 16, "lw": 0.4, "ec": "white"}
        dots = axes.scatter(run.cell_a[a], run.cell_b[b], c=run.t.values[step], **look)
        axes.set_title(f"{name} bits: {int(run.junction_union.sel(transition=name))} junction cells")
    bar = figure.colorbar(dots, ax=figure.axes, shrink=0.6, label="interpolation t")
    bar.set_ticks([0, 0.5, 1])
    data = run[["labels", "junction_map", "junction_union"]].sel(bits=levels)
    return attach(figure, data.assign(boundary_cell=style.flags(masks, "boundary mask")))


@style.styled
def junction_test_figure(runs: xr.Dataset) -> Figure:
    """Draw claim J1 as a test: the fraction of cells near a junction, changed and rearranged, against chance."""
    compared = {label: runs[name].to_dataframe(name="share").reset_index() for name, label in _COMPARED.items()}
    frame = pd.concat(one.assign(of=label) for label, one in compared.items())
    figure, axes = plt.subplots(figsize=(9, 3.9))
    sns.boxplot(
        frame, x="transition", y="share", hue="of", hue_order=list(_COMPARED.values()), fliersize=1.5, linewidth=0.8,
        palette=[FAINT, GREY, SKY, PINK], ax=axes,
    )  # fmt: skip
    axes.axhline(0.5, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="transition, bits", ylabel="share within one cell of a junction", ylim=(-0.02, 1.02))
    axes.legend(title=None, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return attach(figure, runs[list(_COMPARED)])


@style.styled
def counts_figure(runs: xr.Dataset, reported: list[float]) -> Figure:
    """Draw the junction cells of each transition over the seeds, counted in three ways, beside the paper's counts."""
    counted = runs[list(_COUNTS.values())].assign(junction_steps=runs.junction_steps.mean("t", keep_attrs=True))
    figure, panels = plt.subplots(1, len(_COUNTS), figsize=(9, 3.4), sharey=True)
    for axes, (title, name) in zip(panels, _COUNTS.items()):
        style.draw_runs(axes, counted[name], "transition")
        for value in reported:
            axes.axhline(
                value, color=style.PAPER_COLOUR, ls="--", lw=1.4, label="the paper" if axes is panels[0] else None
            )
        axes.set_title(title, loc="left")
        axes.set(xlabel="transition, bits", yscale="log")
    panels[0].set(ylabel="junction cells", yticks=[5, 10, 20, 50, 100, 200], yticklabels=[5, 10, 20, 50, 100, 200])
    handles, names = panels[0].get_legend_handles_labels()
    kept = dict(zip(names, handles))
    figure.legend(kept.values(), kept, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    theirs = ("claim", reported, {"long_name": "junction cells that the paper reports"})
    return attach(figure, counted.assign(reported=theirs))


def paper_table(runs: xr.Dataset, reported: list[float]) -> tables.Table:
    """Tabulate the paper's Table 2: its own counts first, then the runs', as medians with 95 % prediction intervals."""
    ours = {name: {title: tables.next_run(runs[of].sel(transition=name), write=short) for title, of in _COLUMNS.items()}
            for name in runs.transition.values.tolist()}  # fmt: skip
    theirs = {"the paper, three of these": {"junction cells": listed([f"{value:g}" for value in reported])}}
    caption = (
        f"The paper's Table 2 as we read it: its three counts first, for transitions that it does not name, then the "
        f"median of {runs.sizes['seed']} runs with the interval that holds 95 % of single runs. Cells are those of "
        f"{int(runs.nodes[0])} nodes a side; junctions are counted over all steps. Compare the fraction of changed "
        "cells near a junction with chance, and with the fraction of rearranged cells."
    )
    return tables.Table(tables.frame(theirs | ours, "transition"), caption, "table-p2")


def steps_table(run: xr.Dataset) -> tables.Table:
    """Tabulate the junction cells at each interpolation step, a column for each transition."""
    columns = {str(name): (run.junction_steps.sel(transition=name), ".0f") for name in run.transition.values}
    cells = tables.along("t", columns, index="step", name=lambda t: f"t = {t:.3g}")
    caption = f"Junction cells at each interpolation step t, one run, on {int(run.nodes[0])} nodes a side."
    return tables.Table(cells, caption, "supplement-transitions-steps")


def answer(many: xr.Dataset) -> Markdown:
    """Say in two sentences what the chapter finds: where changed cells are, and where rearranged ones are."""
    near, chance = percent(many.share_near.mean(), 1), percent(many.chance_boundary.mean(), 1)
    rearranged = percent(many.share_rearranged_near.mean())
    return Markdown(
        f"**Answer.** Between two bit-widths the boundary mostly shifts along its whole length: {near} of the cells "
        f"that change are near a junction of three classes, where {chance} of all boundary cells are. Of the few cells "
        f"in which the set of classes changes, {rearranged} are near one."
    )


def summary(many: xr.Dataset) -> Markdown:
    """Say in words what the transitions of a sweep show; every number comes from *many*."""
    near, chance = many.share_near.mean("transition"), many.chance_boundary.mean("transition")
    lines = []
    if many.sizes["seed"] > 1:
        excess = statistics.paired_difference(near.values, chance.values)
        lines.append(
            f"- **Against chance.** The fraction of changed cells that are near a junction exceeds chance by "
            f"{number(excess.estimate)} {ends(excess)}, paired by seed."
        )
    changed = many.share_changed.median("seed")
    lines.append(
        f"- **What changes.** In a step, {percent(changed.min())} to {percent(changed.max())} of the boundary cells "
        "change in the median run, depending on the transition."
    )
    share = many.share_rearranged_near.median("seed")  # missing where nothing was rearranged
    if np.isfinite(share).any():
        lines.append(
            f"- **What is rearranged.** Of the cells whose set of classes changes, {percent(share.min())} to "
            f"{percent(share.max())} lie near a junction in the median run."
        )
    return Markdown("\n".join(lines))
