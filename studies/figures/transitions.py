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

from ..formats import ends, number, percent
from ..specs import FLOAT
from . import style, tables
from .source_data import attach

_COLUMNS = {
    "junctions, union": ("junction_union", ".0f"), "inside the changed region": ("junction_union_changed", ".0f"),
    "changed cells": ("changed_cells", ".0f"), "near a junction": ("share_near", ".3f"),
    "chance along the boundary": ("chance_boundary", ".3f"), "chance on the slice": ("chance_slice", ".4f"),
    "rearranged cells": ("rearranged_cells", ".0f"), "of these near a junction": ("share_rearranged_near", ".3f"),
}  # fmt: skip
# Claim J1: what is compared, and with which chance.
_COMPARED = {
    "chance_slice": "all cells of the slice", "chance_boundary": "all boundary cells",
    "share_near": "changed cells", "share_rearranged_near": "rearranged cells",
}  # fmt: skip


@style.styled
def transitions_figure(run: xr.Dataset) -> Figure:
    """Draw Figure 2: the junction cells along the interpolation between adjacent levels of one run."""
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
    figure, axes = plt.subplots(figsize=(9, 4))
    sns.boxplot(
        frame, x="transition", y="share", hue="of", hue_order=list(_COMPARED.values()), fliersize=1.5, linewidth=0.8,
        palette=["#dddddd", "#999999", "#56b4e9", "#cc79a7"], ax=axes,
    )  # fmt: skip
    axes.axhline(0.5, color="black", lw=0.8, ls=":")
    axes.set(xlabel="transition, bits", ylabel="share within one cell of a junction", ylim=(-0.02, 1.02))
    axes.legend(title=None, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return attach(figure, runs[list(_COMPARED)])


def transitions_table(runs: xr.Dataset) -> tables.Frame:
    """Tabulate the transitions between adjacent levels; over several seeds, medians with 95 % prediction intervals."""
    return _by_transition({title: (runs[name], form) for title, (name, form) in _COLUMNS.items()})


def steps_table(runs: xr.Dataset) -> tables.Frame:
    """Tabulate the junction cells at each interpolation step of each transition."""
    return _by_transition({f"t = {t:.3g}": (runs.junction_steps.sel(t=t), ".0f") for t in runs.t.values})


def _by_transition(columns: dict[str, tuple[xr.DataArray, str]]) -> tables.Frame:
    return tables.along("transition", columns, tables.next_run, index="transition", name=str)


def summary(many: xr.Dataset) -> Markdown:
    """Say in words what the transitions of a sweep show; every number comes from *many*."""
    near, chance = many.share_near.mean("transition"), many.chance_boundary.mean("transition")
    lines = []
    if many.sizes["seed"] > 1:
        excess = statistics.paired_difference(near.values, chance.values)
        lines.append(
            f"- Over {many.sizes['seed']} runs, {number(near.mean(), '.3f')} of the changed cells lie within one cell "
            f"of a junction, {number(chance.mean(), '.3f')} of all boundary cells do: an excess of "
            f"{number(excess.estimate)} {ends(excess)}, paired by seed. Most changes are a boundary that shifts along "
            "its whole length."
        )
    for name in many.transition.values:
        here = many.sel(transition=name)
        share = here.share_rearranged_near.median()  # missing where nothing was rearranged
        if np.isfinite(share):
            lines.append(
                f"- {name} bits: the set of classes changes in {number(here.rearranged_cells.median(), '.0f')} cells "
                f"of the median run, and {percent(share)} of these lie at a junction; "
                f"{percent(here.share_changed.median())} of the boundary cells change in a step."
            )
    return Markdown("\n".join(lines))
