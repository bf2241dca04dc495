"""Tables and figures of calibration-to-test stopping: what each rule chooses, and what that costs and saves."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import stopping
from ..specs import FLOAT
from .style import DATASETS, STYLE, level_colour
from .tables import beyond_column

# One colour and one mark for each rule, everywhere; told apart without colour too.
RULES = {
    "accuracy": ("#1a1a1a", "s"), "flips": ("#56b4e9", "v"), "band flips": ("#009e73", "^"),
    "jaccard": ("#d55e00", "o"), "jaccard and band flips": ("#cc79a7", "D"), "beyond τ": ("#0072b2", "P"),
}  # fmt: skip


def rule_name(rule: str, limit: float, second: float = np.nan) -> str:
    """Write a rule with its limits; an accuracy drop of 0 is "chosen by accuracy"."""
    if rule == "accuracy":
        return "chosen by accuracy" if limit == 0 else f"accuracy drop ≤ {limit:g}"
    first, *rest = rule.split(" and ")
    return f"{first} ≤ {limit:g}" + (f" and {rest[0]} ≤ {second:g}" if rest else "")


def usual_choices(many: xr.Dataset, spare: float = 0.5, limits: dict = stopping.LIMITS) -> xr.Dataset:
    """
    Give the choices that the tables show: by accuracy, within NNCF's drop of 0.01, and by each other rule at one limit.

    That limit is the loosest of the grid at which calibration flips are at most *spare* times those chosen by accuracy.
    """
    choices = stopping.choose(many, limits)
    by_accuracy = choices.isel(choice=(choices.rule == "accuracy").values)
    kept = [by_accuracy.isel(choice=(by_accuracy.limit == limit).values) for limit in (0.0, 0.01)]
    others = [rule for rule in RULES if rule != "accuracy"]
    picked = [stopping.usual_limit(choices, rule, spare).expand_dims("choice") for rule in others]
    return xr.concat([*kept, *picked], "choice", data_vars="all", coords="minimal", compat="override")


def stopping_table(many: xr.Dataset, choices: xr.Dataset, nodes: int | None = None) -> pd.DataFrame:
    """
    Tabulate what each choice gives: bits, flips, band flips, Jaccard, d_eff and accuracy on both splits, and bytes.

    Means over the seeds, calibration → held-out; "beyond τ" is the tolerance Jaccard distance; "saved at equal bits"
    compares held-out flips with networks that all have the same bits, on average as many, paired by seed, with the
    95 % interval of the mean difference.

    Parameters
    ----------
    many, choices : xarray.Dataset
        Joined runs, and of these :func:`usual_choices` or :func:`studies.stopping.choose`.
    nodes : int, optional
        Whose Jaccard is shown; the first by default.
    """
    nodes = int(many.nodes[0]) if nodes is None else nodes
    beyond, tau = beyond_column(many.tolerance_jaccard)
    equal = stopping.at_equal_bits(many, choices, "flip_rate")
    rows = []
    for i in range(choices.sizes["choice"]):
        at = choices.isel(choice=i)
        row = {"rule": rule_name(str(at.rule.values), float(at.limit), float(at.second_limit))}
        row["bits"] = f"{float(at.chosen_bits.mean()):.2f}"
        row["kB"] = f"{float(at.model_bytes.mean()) / 1000:.1f}"
        for name, title, form in (
            ("flip_rate", "flips", ".4f"), ("band_flip_rate", "band flips", ".3f"), ("boundary_jaccard", "J", ".3f"),
            ("effective_displacement", "d_eff", ".4f"), ("tolerance_jaccard", beyond, ".3f"),
            ("accuracy", "accuracy", ".3f"),
        ):  # fmt: skip
            values = at[name].sel(nodes=nodes) if "nodes" in at[name].dims else at[name]
            values = values.sel(tau=tau) if "tau" in values.dims else values
            means = [f"{float(values.sel(split=split).mean()):{form}}" for split in stopping.SPLITS]
            row[title] = "\u00a0→\u00a0".join(means)  # kept on one line
            if name == "flip_rate":
                row["saved at equal bits"] = _less(equal.isel(choice=i), at.flip_rate.sel(split="held-out"))
        rows.append(row)
    return pd.DataFrame(rows).set_index("rule")


def _less(equal: xr.DataArray, ours: xr.DataArray) -> str:
    if ours.size < 2:
        return _signed(float((equal - ours).mean()))
    found = statistics.paired_difference(equal.values, ours.values)
    return f"{_signed(found.estimate)} [{_signed(found.low)},\u00a0{_signed(found.high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # + 0.0: no "-0.0000"


def limits_table(
    many: xr.Dataset, choices: xr.Dataset, means_of: int, reported: dict[str, float], nodes: int, *, crossed: bool
) -> pd.DataFrame:
    """
    Tabulate every limit of the boundary-aware rules, with prediction intervals where the paper has a number.

    Mean d_eff and tolerance Jaccard distance stand beside the Jaccard distance: the paper has none to compare with.

    Parameters
    ----------
    many, choices : xarray.Dataset
        Joined runs, and of these :func:`studies.stopping.choose`.
    means_of : int
        Runs that the paper's numbers are a mean of.
    reported : dict
        The paper's held-out values by measure: chosen_bits, flip_rate, boundary_jaccard.
    nodes : int
        Whose Jaccard is compared.
    crossed : bool
        Show the limits on two measures at once, or those on one.
    """
    beyond, tau = beyond_column(many.tolerance_jaccard)
    rows = []
    for i, rule in enumerate(choices.rule.values):
        if rule not in stopping.BOUNDARY_AWARE or (" and " in rule) != crossed:
            continue
        at = choices.isel(choice=i)
        row = {"limit": rule_name(str(rule), float(at.limit), float(at.second_limit))}
        row["fell back to the most bits"] = f"{float(at.fallback.mean()):.0%}"
        agree = True
        for name, value in reported.items():
            values = at[name] if name == "chosen_bits" else at[name].sel(split="held-out")
            values = values.sel(nodes=nodes) if "nodes" in values.dims else values
            found = statistics.prediction_interval(values.values, means_of)
            inside = found.low <= value <= found.high
            agree &= inside
            form = ".1f" if name == "chosen_bits" else ".4f" if name == "flip_rate" else ".3f"
            title = {"chosen_bits": "bits", "flip_rate": "flips", "boundary_jaccard": "J"}[name]
            text = f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]"
            row[f"{title} (paper {value:g})"] = text + (" ✓" if inside else "")
            if name == "boundary_jaccard":
                row["d_eff"] = f"{float(at.effective_displacement.sel(split='held-out', nodes=nodes).mean()):.4f}"
                row[beyond] = f"{float(at.tolerance_jaccard.sel(split='held-out', tau=tau).mean()):.3f}"
        row["all agree"] = "yes" if agree else ""
        rows.append(row)
    return pd.DataFrame(rows).set_index("limit")


def transfer_figure(sets: dict[str, xr.Dataset]) -> Figure:
    """
    Draw calibration against held-out boundary Jaccard, a dot for every seed and level, a panel for each data set.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Joined runs by title.
    """
    columns = min(len(sets), 3)
    rows = -(-len(sets) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.4 * rows), squeeze=False)
        for axes, (title, many) in zip(panels.flat, sets.items()):
            levels = [int(bits) for bits in many.bits if bits != FLOAT]
            jaccard = many.boundary_jaccard.isel(nodes=0).transpose("seed", "bits", "split")
            axes.plot([0, 1], [0, 1], color="#999999", lw=0.8)
            for bits in levels:
                colour = level_colour(bits)
                here = jaccard.sel(bits=bits)
                axes.plot(here[:, 0], here[:, 1], "o", ms=3.5, alpha=0.6, mec="none", color=colour, label=f"{bits}")
            both = jaccard.sel(bits=levels).values.reshape(-1, 2)
            within = [np.corrcoef(jaccard.sel(bits=bits).values.T)[0, 1] for bits in levels if many.sizes["seed"] > 2]
            text = f"r = {np.corrcoef(both.T)[0, 1]:.3f}"
            if within:
                text += f"\nwithin a level {np.median(within):.2f} (median)"
            axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5)
            axes.set(
                title=DATASETS.get(title, title), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
                xlabel="J, calibration slice", ylabel="J, held-out slice",
            )  # fmt: skip
        panels.flat[0].legend(
            title="bits", frameon=False, fontsize=7.5, title_fontsize=8, loc="lower right", labelspacing=0.2
        )
        for axes in panels.flat[len(sets) :]:
            axes.set_axis_off()
    plt.close(figure)
    return figure


def front_figure(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Figure:
    """
    Draw held-out flips against model bytes: the same bits for all networks as a line, each rule as a mark.

    Parameters
    ----------
    sets, chosen : dict of xarray.Dataset
        Joined runs, and their choices, by title.
    """
    columns = min(len(sets), 3)
    rows = -(-len(sets) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=(3.3 * columns, 3.4 * rows), squeeze=False)
        for axes, (title, many) in zip(panels.flat, sets.items()):
            levels = [int(bits) for bits in many.bits if bits not in (FLOAT, 2)]
            kilobytes = many.model_bytes.sel(bits=levels)
            kilobytes = (kilobytes.mean("seed") if "seed" in kilobytes.dims else kilobytes) / 1000
            flips = many.flip_rate.sel(bits=levels, split="held-out").mean("seed")
            axes.plot(kilobytes, flips, ".-", color="#999999", lw=1, label="same bits for all")
            for x, y, bits in zip(kilobytes.values, flips.values, levels):
                axes.annotate(
                    str(bits), (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7.5, color="#666666"
                )
            rules = [chosen[title].isel(choice=i) for i in range(chosen[title].sizes["choice"])]
            places = [
                (float(at.model_bytes.mean()) / 1000, float(at.flip_rate.sel(split="held-out").mean())) for at in rules
            ]
            for i, (at, place) in enumerate(zip(rules, places)):
                colour, mark = RULES[str(at.rule.values)]
                full = str(at.rule.values) != "accuracy" or float(at.limit) == 0
                size = 7 + 4 * places[i + 1 :].count(place)  # so that it shows below the later ones at its place
                axes.plot(
                    *place, mark, color=colour, mfc=colour if full else "white", ms=size, mew=1.2, alpha=0.9,
                    zorder=3 - size / 100,  # the larger ones below those of other places, too
                    label=str(at.rule.values) if full else "accuracy drop ≤ 0.01",
                )  # fmt: skip
            axes.set_yscale("symlog", linthresh=0.002)
            axes.set_ylim(bottom=-0.0002)
            axes.set(title=DATASETS.get(title, title), xlabel="model size, kB", ylabel="held-out flip rate")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
        plt.setp(legend.legend_handles[1:], markersize=7)
        for axes in panels.flat[len(sets) :]:
            axes.set_axis_off()
    plt.close(figure)
    return figure


def ruler_figure(many: xr.Dataset, reported: dict[int, float]) -> Figure:
    """
    Draw held-out boundary Jaccard against the grid, thin masks and thick ones, beside the paper's values.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs.
    reported : dict
        The paper's Jaccard by bits.
    """
    nodes = sorted(int(n) for n in many.nodes)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True)
        names = {"boundary_jaccard": "one-cell mask", "thick_boundary_jaccard": "thickened by a cell on every side"}
        for axes, (name, title) in zip(panels, names.items()):
            for bits, value in reported.items():
                colour = level_colour(bits)
                here = many[name].sel(bits=bits, split="held-out", nodes=nodes).transpose("seed", "nodes")
                axes.plot(nodes, here.values.T, "-", color=colour, alpha=0.25, lw=0.8)
                axes.plot(nodes, here.median("seed"), "o-", color=colour, label=f"{bits} bits, median")
                axes.axhline(value, color=colour, ls=":", lw=1.4, label=f"{bits} bits, the paper")
            axes.set(title=title, xlabel="nodes a side", xscale="log", xticks=nodes, ylim=(0, 1))
            axes.set_xticks(nodes, [str(n) for n in nodes])
            axes.minorticks_off()
        panels[0].set_ylabel("boundary-mask Jaccard distance")
        panels[0].legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def variants_table(variants: xr.Dataset, spare: float, limits: dict, reported: dict[str, float]) -> pd.DataFrame:
    """
    Tabulate the held-out measures of the choices by accuracy and by Jaccard in each variant of the baseline.

    Parameters
    ----------
    variants : xarray.Dataset
        Of :func:`studies.stopping.sweep_variants`.
    spare, limits
        As of :func:`usual_choices`.
    reported : dict
        The paper's numbers by column; they make the first row.
    """
    rows = [{"variant": "the paper"} | {name: f"{value:g}" for name, value in reported.items()}]
    beyond, tau = beyond_column(variants.tolerance_jaccard)
    for name in variants.variant.values:
        many = variants.sel(variant=name)
        choices = usual_choices(many, spare, limits)
        row = {
            "variant": str(name),
            "float accuracy": f"{float(many.accuracy.sel(bits=FLOAT, split='held-out').mean()):.3f}",
        }
        for rule, said in (("accuracy", "by accuracy"), ("jaccard", "after stopping")):
            at = choices.isel(choice=int(np.flatnonzero(choices.rule.values == rule)[0])).sel(split="held-out")
            row[f"bits {said}"] = f"{float(at.chosen_bits.mean()):.1f}"
            row[f"flips {said}"] = f"{float(at.flip_rate.mean()):.4f}"
            row[f"J {said}"] = f"{float(at.boundary_jaccard.isel(nodes=0).mean()):.3f}"
            row[f"d_eff {said}"] = f"{float(at.effective_displacement.isel(nodes=0).mean()):.4f}"
            row[f"{beyond} {said}"] = f"{float(at.tolerance_jaccard.sel(tau=tau).mean()):.3f}"
            if rule == "jaccard":
                row["limit on J"] = f"{float(at.limit):g}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("variant").fillna("")


def tolerance_table(
    many: xr.Dataset, *, split: str = "held-out", method_name: Callable[[str], str] = str
) -> pd.DataFrame:
    """
    Tabulate J and d_eff on two grids beside the tolerance Jaccard distance, which has none: means over seeds.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs: a row for each level, or for each rounding at the one bit-width that is left. Tolerances that no
        piece of the boundaries moves beyond are left out.
    split : str
        Whose slice.
    method_name : function
        How roundings are named for readers.
    """
    here = _quantized(many.sel(split=split).mean("seed"))
    if "method" in here.dims:
        index = pd.Index([method_name(name) for name in here["method"].values], name="rounding")
    else:
        index = pd.Index([f"{bits} bits" for bits in here.bits.values], name="level")
    two = sorted({int(here.nodes.min()), int(here.nodes.max())}, reverse=True)
    columns = {f"J, {n} nodes": (here.boundary_jaccard.sel(nodes=n), ".3f") for n in two}
    columns |= {f"d_eff, {n} nodes": (here.effective_displacement.sel(nodes=n), ".4f") for n in two}
    beyond = here.tolerance_jaccard
    columns |= {f"beyond {t:g}": (beyond.sel(tau=t), ".3f") for t in beyond.tau.values if beyond.sel(tau=t).max() > 0}
    cells = {name: [format(x, form) for x in values.values] for name, (values, form) in columns.items()}
    return pd.DataFrame(cells, index=index)


def _quantized(many: xr.Dataset) -> xr.Dataset:
    """Leave out the float classifier, which differs from itself in nothing."""
    dim, floating = ("method", "float") if "method" in many.dims else ("bits", FLOAT)
    return many.sel({dim: many[dim] != floating})


def tolerance_summary(many: xr.Dataset) -> str:
    """Say in Markdown how far each distance depends on the grid, over all seeds, levels, tolerances and both splits."""
    many = _quantized(many)
    coarse, fine = int(many.nodes.min()), int(many.nodes.max())
    two = many.sel(nodes=[coarse, fine])

    def farthest(values: xr.DataArray) -> float:
        return float(abs(values.diff("nodes")).max())

    off = abs(many.tolerance_jaccard - many.coarse_tolerance_jaccard)
    source = "exact boundaries" if many.exact_boundaries.all() else "logits interpolated between 41 nodes a side"
    return (
        f"From {coarse} to {fine} nodes a side, J changes by up to {farthest(two.boundary_jaccard):.2f} and d_eff by "
        f"up to {farthest(two.effective_displacement / two.effective_displacement.max('nodes')):.0%} of the larger; "
        f"the tolerance Jaccard distance, here from {source}, by at most {float(off.quantile(0.95)):.3f} in 95 of 100 "
        f"comparisons if 21 nodes a side must do, and by {float(off.max()):.3f} in the worst."
    )
