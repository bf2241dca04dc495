"""Figures, tables and words of the chapter on levels: what each bit-width moves, in one run and over the seeds."""

import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bqcore.metrics import statistics
from bqcore.metrics.masks import boundary_mask, junction_cells

from ..formats import interval, level, number, percent, span
from ..specs import FLOAT
from . import style, tables
from .source_data import attach
from .style import BOTH_COLOUR, FLOAT_COLOUR, QUANTIZED_COLOUR

# By title: the measure, where it is taken, and the form of its numbers.
_MEDIAN, _HIGH = {"quantile": 0.5}, {"quantile": 0.95}
_LEVEL_COLUMNS = {
    "accuracy": ("accuracy", {}, ".4f"), "flips": ("flip_rate", {}, ".4f"), "band flips": ("band_flip_rate", {}, ".3f"),
    "pair-order flips": ("pair_order_flip_rate", {}, ".4f"),
    "band pair-order": ("band_pair_order_flip_rate", {}, ".3f"),
    "displacement, median": ("displacement", _MEDIAN, ".4f"), "95 %": ("displacement", _HIGH, ".4f"),
    "radius, median": ("radius", _MEDIAN, ".3f"), "radius, 95 %": ("radius", _HIGH, ".3f"),
    "normal variation, median": ("normal_variation", _MEDIAN, ".1e"),
    "normal variation, 95 %": ("normal_variation", _HIGH, ".1e"),
}  # fmt: skip
# The paper's local boundary shift, as two formulas read it: name, symbol and colour.
_SHIFTS = {
    "displacement": ("displacement δ", FLOAT_COLOUR),
    "signed_distance_change": ("signed distance change Δs", BOTH_COLOUR),  # the paper's values are orange
}
_OF_ALL_INPUTS = ("flip_rate", "pair_order_flip_rate")
_SLICE_COLUMNS = {
    "J": ("boundary_jaccard", ".3f"), "d_eff": ("effective_displacement", ".4f"),
    "grid change": ("grid_change", ".4f"), "junctions": ("junctions", ".0f"),
}  # fmt: skip


@style.styled
def levels_figure(run: xr.Dataset) -> Figure:
    """Draw Figure 1: decision regions, boundary masks and junctions of one run, float and each level side by side."""
    levels = [int(bits) for bits in run.bits]
    count = len(levels) + 1
    figure, (*panels, last) = style.panels(count, 3 if len(levels) > 3 else count, (3.1, 2.9))
    masks = np.stack([boundary_mask(run.labels.sel(bits=bits).values) for bits in levels])
    junctions = np.stack([junction_cells(run.labels.sel(bits=bits).values) for bits in levels])
    reference = masks[levels.index(FLOAT)]
    for axes, bits, mask, cells in zip(panels, levels, masks, junctions):
        style.draw_regions(axes, run.labels.sel(bits=bits))
        if bits == FLOAT:
            style.mark_cells(axes, mask, run, FLOAT_COLOUR)
            axes.set_title("float")
        else:
            style.mark_cells(axes, reference & ~mask, run, FLOAT_COLOUR)
            style.mark_cells(axes, mask & ~reference, run, QUANTIZED_COLOUR)
            style.mark_cells(axes, mask & reference, run, BOTH_COLOUR)
            jaccard = number(run.boundary_jaccard.sel(bits=bits, nodes=len(run.a)), ".2f")
            axes.set_title(f"{level(bits)}: J = {jaccard}, flips {percent(run.flip_rate.sel(bits=bits), 2)}")
        b, a = np.nonzero(cells)
        axes.plot(run.cell_a[a], run.cell_b[b], "o", ms=6, mfc="none", mec="black", mew=1.1)
    last.set_axis_off()
    colours = {"float only": FLOAT_COLOUR, "quantized only": QUANTIZED_COLOUR, "both": BOTH_COLOUR}
    handles = [Patch(color=colour, label=f"boundary mask, {where}") for where, colour in colours.items()]
    handles.append(Line2D([], [], ls="", marker="o", ms=6, mfc="none", mec="black", label="triple-junction cell"))
    last.legend(handles=handles, loc="center left", frameon=False)
    data = run[["labels", "boundary_jaccard", "flip_rate"]].sel(nodes=len(run.a))
    data["boundary_cell"] = style.flags(masks, "boundary mask")
    data["junction_cell"] = style.flags(junctions, "triple-junction cells")
    return attach(figure, data.assign_coords(cell_b=run.cell_b, cell_a=run.cell_a))


def headline(run: xr.Dataset) -> bytes:
    """Draw the picture that README opens with, as PNG, of the published single run."""
    picture = io.BytesIO()
    levels_figure(run.sel(bits=[FLOAT, 8, 4])).savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


@style.styled
def resolution_figure(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Figure:
    """Draw boundary Jaccard and d_eff by bits over the seeds, at each grid resolution, beside the paper's values."""
    shown = runs[["boundary_jaccard", "effective_displacement"]].sel(bits=runs.bits != FLOAT).sortby("nodes")
    order = shown.bits.values.tolist()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
    for axes, (name, values) in zip(panels, shown.items()):
        sns.boxplot(
            values.to_dataframe().reset_index(), x="bits", y=name, hue="nodes", order=order, palette="crest",
            fliersize=1.5, linewidth=0.8, ax=axes, legend=axes is panels[0],
        )  # fmt: skip
        axes.set(xlabel="bits", ylabel=values.attrs["long_name"])
    theirs = _draw_reported(panels[0], reported, "boundary_jaccard", order)
    panels[0].legend(title="nodes a side", frameon=False)
    panels[1].set_ylabel("d_eff, input units")
    return attach(figure, shown.assign(theirs))


@style.styled
def spread_figure(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Figure:
    """Draw what each level does to accuracy, decisions and displacement over the seeds, a dot a run."""
    order = [int(bits) for bits in runs.bits if bits != FLOAT]
    data = runs[["accuracy", "flip_rate", "band_flip_rate", "displacement"]].sel(bits=order, quantile=0.5)
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.4))
    for axes, (name, values) in zip(panels.flat, list(data.items())):
        _draw_runs(axes, values)
        theirs = _draw_reported(axes, reported, name, order)
        axes.set(xlabel="bits", ylabel=values.attrs["long_name"])
        axes.yaxis.label.set_size(9)
        if name == "displacement":
            axes.set(ylabel="median first-order boundary displacement", yscale="log")
        elif name != "accuracy":
            axes.set_yscale("symlog", linthresh=0.005)  # linear to 0.005, so that 0 has a place
            axes.set_ylim(-0.001, 1)
        if theirs:
            axes.legend(frameon=False)
        data = data.assign(theirs)
    return attach(figure, data)


def _draw_runs(axes, values: xr.DataArray) -> None:
    """Draw a dot for each run over the places of bit-widths, moved aside at random, and the medians."""
    values = values.transpose("seed", "bits")
    places = np.arange(values.sizes["bits"])
    aside = np.random.default_rng(0).uniform(-0.25, 0.25, values.shape)  # the same in each build of the book
    axes.plot(places + aside, values, "o", color=FLOAT_COLOUR, alpha=0.35, ms=2.5, mew=0)
    axes.plot(places, values.median("seed"), "_", color="black", ms=22, mew=1.6, label="median")
    axes.set_xticks(places, values.bits.values)


def _draw_reported(axes, reported: dict[tuple[str, int], float], name: str, order: list[int]) -> dict[str, tuple]:
    """Draw the paper's values of a measure over the places of bit-widths, and return them as a variable."""
    values = [reported.get((name, bits), np.nan) for bits in order]
    if not np.isfinite(values).any():
        return {}
    axes.plot(range(len(order)), values, "D", color=QUANTIZED_COLOUR, mec="white", ms=7, label="the paper")
    return {f"{name}_reported": ("bits", values, {"long_name": f"{name}, as the paper reports it"})}


def levels_table(runs: xr.Dataset) -> tables.Frame:
    """
    Tabulate decisions and local geometry by level; over several seeds, medians with 95 % prediction intervals.

    Of one run, fractions of the test inputs have their 95 % Clopper–Pearson interval.
    """
    inputs = runs.sizes.get("sample")

    def cell(values: xr.DataArray, form: str) -> tables.Cell:
        if inputs and (values.name == "accuracy" or values.name in _OF_ALL_INPUTS and values.bits != FLOAT):
            return tables.fraction(values, inputs, form)
        return tables.next_run(values, form)

    columns = {title: (runs[name].sel(select), form) for title, (name, select, form) in _LEVEL_COLUMNS.items()}
    return tables.along("bits", columns, cell)


@style.styled
def shifts_figure(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Figure:
    """Draw displacement and signed distance change by bits, with the interval of a run, and their ratio run by run."""
    order = [int(bits) for bits in runs.bits if bits != FLOAT]
    data = runs[list(_SHIFTS)].sel(bits=order, quantile=0.5)
    figure, (axes, ratios) = plt.subplots(1, 2, figsize=(9, 3.8))
    places = np.arange(len(order))
    for (name, (label, colour)), aside in zip(_SHIFTS.items(), (-0.12, 0.12)):
        found = np.array([_next_run(data[name].sel(bits=bits)) for bits in order]).T
        axes.errorbar(
            places + aside, found[0], abs(found[1:] - found[0]), fmt="o", ms=4, capsize=3, color=colour, label=label
        )
    theirs = _draw_reported(axes, reported, "displacement", order)
    axes.set(
        xlabel="bits", ylabel="median over the inputs, input units", yscale="log", xticks=places, xticklabels=order
    )
    axes.legend(frameon=False)
    ratio = (data.signed_distance_change / data.displacement).rename("ratio")
    _draw_runs(ratios, ratio)
    ratios.axhline(1, color="black", lw=0.8, ls=":")
    ratios.set(xlabel="bits", ylabel="Δs / δ, of the medians of a run")
    return attach(figure, data.assign(theirs | {"ratio": ratio.assign_attrs(long_name="Δs / δ", units="1")}))


def shifts_table(runs: xr.Dataset) -> tables.Frame:
    """Tabulate both readings of the boundary shift by level, and their difference, paired by seed."""
    at = runs[list(_SHIFTS)].sel(bits=runs.bits != FLOAT, quantile=0.5)
    lines = {}
    for bits in at.bits.values.tolist():
        here = at.sel(bits=bits)
        lines[level(bits)] = {label: tables.next_run(here[name]) for name, (label, _) in _SHIFTS.items()} | {
            "Δs − δ": tables.difference(here.signed_distance_change, here.displacement)
        }
    return tables.frame(lines, "level")


def shifts_summary(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> Markdown:
    """Say which reading of the boundary shift the paper's values are nearer to, and whether they tell the two apart."""
    if runs.seed.size < 2:
        return Markdown("One run has no interval, which the paper's value could lie in or not.")
    ratio = (runs.signed_distance_change / runs.displacement).sel(bits=runs.bits != FLOAT, quantile=0.5).median("seed")
    lines = [f"- In the median run Δs is {span(ratio.min(), ratio.max(), '.2f')} times δ, depending on the bits."]
    for bits in [bits for name, bits in reported if name == "displacement" and bits in runs.bits]:
        value, here = reported["displacement", bits], runs[list(_SHIFTS)].sel(bits=bits, quantile=0.5)
        off = abs(here - value)
        found = {name: _next_run(values) for name, values in here.items()}
        nearer, other = sorted(found, key=lambda name: abs(found[name].estimate - value))
        inside = [_SHIFTS[name][0] for name, one in found.items() if one.low <= value <= one.high]
        both = " and ".join(f"{interval(one)} for the {_SHIFTS[name][0]}" for name, one in found.items())
        where = ("outside both intervals.", f"inside the interval of the {''.join(inside)} alone.",
                 "inside both intervals: it does not tell which of the two was measured.")  # fmt: skip
        lines.append(
            f"- At **{bits} bits** the paper has {number(value)}. Ours is {both}: the median run, with the 95 % "
            f"prediction interval of a single one. The paper's value is nearer to the {_SHIFTS[nearer][0]}, and so it "
            f"is in {percent((off[nearer] < off[other]).mean())} of the runs. It lies {where[len(inside)]}"
        )
    return Markdown("\n".join(lines))


def slices_table(runs: xr.Dataset) -> tables.Frame:
    """Tabulate the slice measures by level at every resolution, each with its larger grid step h, and one without."""
    columns, (beyond, tau) = {}, tables.beyond_column(runs.tolerance_jaccard)
    for nodes in sorted(runs.nodes.values):
        here = runs.sel(nodes=nodes)
        step = number(np.maximum(here.step_a, here.step_b).median())
        for title, (name, form) in _SLICE_COLUMNS.items():
            columns[f"{title} ({nodes} nodes, h = {step})" if title == "J" else f"{title} ({nodes})"] = here[name], form
    columns[beyond] = runs.tolerance_jaccard.sel(tau=tau), ".3f"
    return tables.along("bits", columns, tables.next_run)


def summary(many: xr.Dataset) -> Markdown:
    """Say in words what the levels of a sweep show; every number comes from *many*."""
    nodes, lines = [int(n) for n in many.nodes.values], []
    levels = [int(b) for b in many.bits.values if b != FLOAT]
    for bits in (levels[0], levels[len(levels) // 2], levels[-1]):
        here = many.sel(bits=bits)
        middle = here[["flip_rate", "band_flip_rate"]].median("seed")
        loss = (many.accuracy.sel(bits=FLOAT) - here.accuracy).median()
        lines.append(
            f"- At **{bits} bits** {percent((here.flip_rate == 0).mean())} of the {many.sizes['seed']} runs keep every "
            f"test decision; the median run loses {number(loss)} of accuracy, changes {number(middle.flip_rate)} of "
            f"the decisions ({number(middle.band_flip_rate, '.3f')} in the boundary band), and its boundary-mask "
            f"Jaccard distance is {_median(here.boundary_jaccard.sel(nodes=nodes[0]))} on {nodes[0]} nodes a side."
        )
    coarse, fine = min(nodes), max(nodes)
    compared = (levels[0], levels[len(levels) // 2]) if coarse < fine else ()
    for bits in dict.fromkeys(compared):
        here = many[["boundary_jaccard", "effective_displacement"]].sel(bits=bits).median("seed")
        jaccard, d_eff = (values.sel(nodes=[coarse, fine]).values for values in here.values())
        lines.append(
            f"- From {coarse} to {fine} nodes the same {bits}-bit boundaries go from J = {span(*jaccard, '.2f')}, "
            f"while d_eff goes from {span(*d_eff)} input units."
        )
    few = many.few_classes.isel(nodes=0).sel(bits=levels)
    lines.append(
        f"- In the median run {percent(many.outside.median())} of the slice lies [outside the data](outside-the-data): "
        "some pixel there is out of the range that it has in training. Slices that show fewer than three classes, "
        f"where no junction can be: {int(few.sum())} of {many.sizes['seed'] * len(levels)}."
    )
    return Markdown("\n".join(lines))


def _median(values: xr.DataArray) -> str:
    """Write a median over seeds with the 95 % prediction interval of a single run, if there are several."""
    return number(values.median(), ".2f") if values.size < 2 else interval(_next_run(values), ".2f")


def _next_run(values: xr.DataArray) -> statistics.Interval:
    """Return the median over seeds with the 95 % prediction interval of a single run, which one alone has not."""
    middle = float(values.median())
    ends = statistics.prediction_interval(values.values)[1:] if values.size > 1 else (middle, middle)
    return statistics.Interval(middle, *ends)
