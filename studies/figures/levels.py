"""Figures, tables and words of the chapter on levels: what each bit-width moves, in one run and over the seeds."""

import io
from functools import partial

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

from ..formats import level, listed, number, percent, short, span
from ..specs import FLOAT
from . import style, tables
from .source_data import attach
from .style import BOTH_COLOUR, FLOAT_COLOUR, INK, QUANTIZED_COLOUR

_MEDIAN, _HIGH = {"quantile": 0.5}, {"quantile": 0.95}
# By title: the measure, and where it is taken. The paper's Table 1, and the tables of the supplement.
_PAPER = {
    "accuracy": ("accuracy", {}), "flip rate": ("flip_rate", {}), "J": ("boundary_jaccard", {}),
    "boundary shift": ("displacement", _MEDIAN),
}  # fmt: skip
_DECISIONS = {
    "accuracy": ("accuracy", {}), "flips": ("flip_rate", {}), "flips in the band": ("band_flip_rate", {}),
    "pair-order flips": ("pair_order_flip_rate", {}), "these in the band": ("band_pair_order_flip_rate", {}),
}  # fmt: skip
_GEOMETRY = {
    "displacement": ("displacement", _MEDIAN), "displacement, 95 %": ("displacement", _HIGH),
    "radius": ("radius", _MEDIAN),
}  # fmt: skip
_SLICE = {
    "J": ("boundary_jaccard", {}), "d_eff, input units": ("effective_displacement", {}),
    "nodes changed": ("grid_change", {}), "junctions": ("junctions", {}),
}  # fmt: skip
_OF_ALL_INPUTS = ("flip_rate", "pair_order_flip_rate")
# The paper's local boundary shift, as two formulas read it: name, symbol and colour.
_SHIFTS = {
    "displacement": ("displacement δ", FLOAT_COLOUR),
    "signed_distance_change": ("signed distance change Δs", BOTH_COLOUR),  # the paper's values are orange
}


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
        axes.plot(run.cell_a[a], run.cell_b[b], "o", ms=6, mfc="none", mec=INK, mew=1.1)
    last.set_axis_off()
    colours = {"float only": FLOAT_COLOUR, "quantized only": QUANTIZED_COLOUR, "both": BOTH_COLOUR}
    handles = [Patch(color=colour, label=f"boundary mask, {where}") for where, colour in colours.items()]
    handles.append(Line2D([], [], ls="", marker="o", ms=6, mfc="none", mec=INK, label="triple-junction cell"))
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
    """Draw what each level does to accuracy, decisions, mask and boundary over the seeds, a dot a run."""
    order = [int(bits) for bits in runs.bits if bits != FLOAT]
    titles = {
        "accuracy": "accuracy", "flip_rate": "flip rate",
        "boundary_jaccard": f"boundary-mask Jaccard distance, {int(runs.nodes[0])} nodes a side",
        "displacement": "boundary shift, median over inputs, input units",
    }  # fmt: skip
    data = runs[list(titles)].sel(bits=order, quantile=0.5).isel(nodes=0)
    figure, panels = plt.subplots(2, 2, figsize=(9, 4.9))
    for axes, (name, title) in zip(panels.flat, titles.items()):
        style.draw_runs(axes, data[name])
        theirs = _draw_reported(axes, reported, name, order)
        axes.set_title(title, loc="left")
        if name == "displacement":
            axes.set_yscale("log")
        if name == "flip_rate":
            axes.set_yscale("symlog", linthresh=0.005)  # linear to 0.005, so that 0 has a place
            axes.set_ylim(-0.001, 1)
        data = data.assign(theirs)
    for axes in panels[1]:
        axes.set_xlabel("bits")
    style.legend_below(figure, panels[1, 0], 3)
    return attach(figure, data)


def _draw_reported(axes, reported: dict[tuple[str, int], float], name: str, order: list[int]) -> dict[str, tuple]:
    """Draw the paper's values of a measure over the places of bit-widths, and return them as a variable."""
    values = [reported.get((name, bits), np.nan) for bits in order]
    if not np.isfinite(values).any():
        return {}
    axes.plot(range(len(order)), values, "D", color=QUANTIZED_COLOUR, mec="white", ms=7, label="the paper")
    return {f"{name}_reported": ("bits", values, {"long_name": f"{name}, as the paper reports it"})}


def paper_table(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> tables.Table:
    """Tabulate the paper's Table 1, its own values first, then the runs' by bit-width on the first grid."""
    nodes, names = int(runs.nodes[0]), {name: title for title, (name, _) in _PAPER.items()}
    lines: dict = {}
    for (name, bits), value in sorted(reported.items(), key=lambda one: -one[0][1]):
        if name in names:
            cell = tables.number(value, ".4g")
            lines.setdefault(f"the paper, {level(bits)}", dict.fromkeys(_PAPER, ""))[names[name]] = cell
    ours = runs.sel(nodes=nodes)
    for bits in runs.bits.values.tolist():
        lines[level(bits)] = {
            title: _short(ours[name].sel(at | {"bits": bits})) for title, (name, at) in _PAPER.items()
        }
    caption = (
        f"The paper's Table 1 as we read it: its own values first, then the median of {runs.sizes['seed']} runs with "
        f"the interval that holds 95 % of single runs. J is the Jaccard distance of the boundary masks on {nodes} "
        "nodes a side; the boundary shift is the median over the test inputs, in input units. Read each of the paper's "
        "rows against ours of the same bits."
    )
    return tables.Table(tables.frame(lines, "bit-width"), caption, "table-p1")


_short = partial(tables.next_run, write=short)


def _by_level(runs: xr.Dataset, columns: dict[str, tuple]) -> dict[str, tuple]:
    return {title: (runs[name].sel(at), "") for title, (name, at) in columns.items()}


def decisions_table(runs: xr.Dataset) -> tables.Frame:
    """
    Tabulate decisions by level; over several seeds, medians with 95 % prediction intervals.

    Of one run, fractions of the test inputs have their 95 % Clopper–Pearson interval.
    """
    inputs = runs.sizes.get("sample")

    def cell(values: xr.DataArray, form: str) -> tables.Cell:
        if inputs and (values.name == "accuracy" or values.name in _OF_ALL_INPUTS and values.bits != FLOAT):
            return tables.fraction(values, inputs, write=short)
        return _short(values, form)

    return tables.along("bits", _by_level(runs, _DECISIONS), cell)


def supplement(one: xr.Dataset, runs: xr.Dataset) -> None:
    """Show the tables of the supplement: decisions, local geometry, both readings of the shift, and the slice."""
    says, here = "median over the runs with the interval that holds 95 % of single ones", runs.isel(nodes=0)
    turned = 1000 * runs.normal_variation.sel(_MEDIAN)
    geometry = _by_level(runs, _GEOMETRY) | {"normal variation × 1000": (turned, "")}
    beyond, tau = tables.beyond_column(runs.tolerance_jaccard)
    slices = _by_level(here, _SLICE) | {f"{beyond}, fraction of the length": (runs.tolerance_jaccard.sel(tau=tau), "")}
    tables.show_tables([
        (decisions_table(one),
         f"Decisions on the test inputs in the one run. In brackets what {one.sizes['sample']} inputs leave open: 95 % "
         "Clopper–Pearson intervals of accuracy, flips and pair-order flips.", "supplement-levels-one"),
        (decisions_table(runs),
         f"Decisions on the test inputs, {says}. The band holds the inputs of least float margin; a pair-order flip "
         "turns round the float network's two best classes.", "supplement-levels-decisions"),
        (tables.along("bits", geometry, _short),
         f"Local geometry at the test inputs, {says}. Of each measure the median over the inputs, and what 95 % of "
         "them do not exceed; displacement and radius are in input units.", "supplement-levels-geometry"),
        (shifts_table(runs),
         f"Both formulas of the boundary shift, in input units, {says}. The last column is the mean difference, paired "
         "by seed, with its 95 % interval.", "supplement-levels-shifts"),
        (tables.along("bits", slices, _short),
         f"The slice on {int(here.nodes)} nodes a side, {says}. Junctions are cells where three classes meet; the last "
         f"column is the tolerance Jaccard distance, which has no grid: how much of both boundaries' length lies "
         f"farther than {tau:g} input units from the other.", "supplement-levels-slice"),
    ])  # fmt: skip


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
    style.draw_runs(ratios, ratio)
    ratios.axhline(1, color=INK, lw=0.8, ls=":")
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
    return tables.frame(lines, "bit-width")


def _shifts_read(runs: xr.Dataset, reported: dict[tuple[str, int], float]) -> list[str]:
    """Say which formula of the boundary shift the paper's values are nearer to, and whether they tell the two apart."""
    if runs.seed.size < 2:
        return ["- **The boundary shift.** One run has no interval, which the paper's value could lie in or not."]
    ratio = (runs.signed_distance_change / runs.displacement).sel(bits=runs.bits != FLOAT, quantile=0.5).median("seed")
    lines = [f"- **The boundary shift.** In the median run Δs is {span(ratio.min(), ratio.max(), '.2f')} times δ."]
    for bits in [bits for name, bits in reported if name == "displacement" and bits in runs.bits]:
        value, here = reported["displacement", bits], runs[list(_SHIFTS)].sel(bits=bits, quantile=0.5)
        off = abs(here - value)
        found = {name: _next_run(values) for name, values in here.items()}
        nearer, other = sorted(found, key=lambda name: abs(found[name].estimate - value))
        inside = [_SHIFTS[name][0] for name, one in found.items() if one.low <= value <= one.high]
        where = ("outside both intervals.", f"inside the interval of the {''.join(inside)} alone.",
                 "inside both intervals: it does not tell which of the two was measured.")  # fmt: skip
        lines.append(
            f"- At **{bits} bits** the paper has {number(value)}, which is nearer to the {_SHIFTS[nearer][0]} in "
            f"{percent((off[nearer] < off[other]).mean())} of the runs. It lies {where[len(inside)]}"
        )
    return lines


def answer(many: xr.Dataset, reported: dict[tuple[str, int], float]) -> Markdown:
    """Say in two sentences what the chapter finds: what moves at the most bits, and whether the paper's J is met."""
    here = many.isel(nodes=0)
    most = max(int(bits) for bits in many.bits if bits != FLOAT)
    middle = here[["flip_rate", "boundary_jaccard"]].sel(bits=most).median("seed")
    found = {bits: _next_run(here.boundary_jaccard.sel(bits=bits))
             for name, bits in reported if name == "boundary_jaccard" and bits in many.bits}  # fmt: skip
    theirs = {bits: reported["boundary_jaccard", bits] for bits in found}
    inside = [level(bits) for bits, one in found.items() if one.low <= theirs[bits] <= one.high]
    outside = [level(bits) for bits in found if level(bits) not in inside]
    where = [f"{'inside' if of is inside else 'outside'} the range of our runs at {listed(of)}"
             for of in (inside, outside) if of]  # fmt: skip
    met = f"The paper's distances lie {' and '.join(where)}" if where else "The paper has no distance at these bits"
    flipped = f"{percent(middle.flip_rate, 1)} of its decisions" if middle.flip_rate else "no decision"
    return Markdown(
        f"**Answer.** At {level(most)} the median network changes {flipped}, and yet its boundary on the slice is at a "
        f"Jaccard distance of {short(middle.boundary_jaccard)} from the float one. {met}; but how large they are "
        "depends on the grid, which the paper does not state."
    )


def summary(many: xr.Dataset, reported: dict[tuple[str, int], float]) -> Markdown:
    """Say in words what the levels of a sweep show; every number comes from *many* or from the paper."""
    nodes = sorted(int(n) for n in many.nodes.values)
    levels = [int(b) for b in many.bits.values if b != FLOAT]
    most, middle, fewest = levels[0], levels[len(levels) // 2], levels[-1]
    kept = {bits: percent((many.flip_rate.sel(bits=bits) == 0).mean()) for bits in levels}
    at = many.sel(bits=middle)[["flip_rate", "band_flip_rate"]].median("seed")
    lines = [
        f"- **Decisions.** Of {many.sizes['seed']} networks, {kept[most]} keep every test decision at {level(most)} "
        f"and {kept[fewest]} at {level(fewest)}.",
        f"- **The band.** At {level(middle)} the median network changes {percent(at.flip_rate, 1)} of all decisions "
        f"and {percent(at.band_flip_rate, 1)} of those in the boundary band.",
    ]
    if len(nodes) > 1:
        here = many[["boundary_jaccard", "effective_displacement"]].sel(bits=most).median("seed")
        jaccard, d_eff = (values.sel(nodes=[nodes[0], nodes[-1]]).values for values in here.values())
        lines.append(
            f"- **The grid.** From {nodes[0]} to {nodes[-1]} nodes a side, the same boundaries at {level(most)} go "
            f"from J = {span(*jaccard, '.2f')}. The shift d_eff goes from {span(*d_eff)} input units."
        )
    lines += _shifts_read(many, reported)
    few = many.few_classes.isel(nodes=0).sel(bits=levels)
    lines.append(
        f"- **The slice.** In the median run {percent(many.outside.median())} of it lies [outside the "
        "data](outside-the-data): some pixel there is out of the range that it has in training."
    )
    if few.any():
        lines.append(f"- **Few classes.** {int(few.sum())} of {few.size} slices show fewer than three classes.")
    return Markdown("\n".join(lines))


def _next_run(values: xr.DataArray) -> statistics.Interval:
    """Return the median over seeds with the 95 % prediction interval of a single run, which one alone has not."""
    middle = float(values.median())
    ends = statistics.prediction_interval(values.values)[1:] if values.size > 1 else (middle, middle)
    return statistics.Interval(middle, *ends)
