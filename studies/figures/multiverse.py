"""Figures and tables of the multiverse: where each claim holds, what moves it, and where all numbers agree at once."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore._checks import check_choice

from .. import catalogue, published, specs
from ..formats import number, percent, span
from ..multiverse import judging
from . import style, tables
from .source_data import attach, joined
from .style import FAINT, FLOAT_COLOUR, GREEN, GREY, INK, QUANTIZED_COLOUR, SKY
from .tables import Cell

# What each axis is called, in the order of the figures.
AXES = {
    "width": "hidden units", "epochs": "epochs", "scale": "input scale", "split": "split",
    "scheme": "quantizer's step", "granularity": "step for each", "plane": "plane", "nodes": "nodes a side",
    "mask": "boundary mask", "place": "shift: where", "gradient": "shift: by which", "pair": "shift: pair",
    "grid": "transition: grid", "kind": "transition: what changes", "transition": "transition",
    "count": "junctions: what counts", "summary": "junctions: over the steps", "drop": "accuracy drop allowed",
    "path": "stopping: which level", "rule": "stopping rule", "trained": "network and epochs",
    "step": "one step for", "extent": "extent of the plane", "thickness": "mask thickened by",
    "nearness": "band: lowest in", "share": "band: fraction", "method": "rounding", "eta": "gap weight η",
    "optimization_steps": "steps of rounding", "examples": "inputs of rounding",
}  # fmt: skip
OUTCOMES = {"holds": GREEN, "inconclusive": SKY, "fails": QUANTIZED_COLOUR}
_RULERS = (
    "plane", "nodes", "mask", "extent", "thickness", "grid", "kind", "count", "summary", "transition", "place",
    "gradient", "pair", "nearness", "share",
)  # choices of how a quantity is measured  # fmt: skip
_NETWORKS = ("width", "epochs", "trained", "scale", "split")
_MOST_VALUES = 8  # an axis of more, that of the stopping rules, is left out of what shows single values
_BINS, _POINTS = 80, 2000  # of a curve

Judged = dict[str, xr.Dataset]  # by claim, of :func:`studies.multiverse.judging.judge`
Splits = dict[str, dict[str, float]]  # by claim, of :func:`variance_splits`


def readings_table(judged: Judged) -> tables.Frame:
    """Tabulate every axis: its values, the baseline's first, and the claims that are crossed with it."""
    lines = {}
    for axis, title in AXES.items():
        names = [name for name, found in judged.items() if axis in found.dims]
        if names:
            values = [str(value) for value in judged[names[0]][axis].values]
            text = "; ".join(values) if len(values) <= _MOST_VALUES else f"{len(values)}: {values[0]} … {values[-1]}"
            lines[title] = {"values": text, "claims": ", ".join(names)}
    return tables.frame(lines, "choice")


def claims_table(judged: Judged, claims: list[dict], splits: Splits) -> tables.Frame:
    """Tabulate for each claim: specifications, where it holds, where it is inconclusive, and what moves it most."""
    stated = {claim["id"]: claim["reported"] for claim in claims}
    lines = {}
    for name, found in judged.items():
        low, middle, high = np.nanquantile(found.estimate, [0.05, 0.5, 0.95])
        ours = {"": middle, "5 %": low, "95 %": high}
        reported, count = stated[name], _count(found)
        holds, inside = (float(judging.flags(found, kind).mean()) for kind in ("holds", "inside"))
        lines[name] = {
            "the paper": reported if isinstance(reported, str) else Cell(str(reported), {"": reported}),
            "specifications": Cell(f"{count:,}", {"": count}),
            "ours": Cell(f"{number(middle, '.3g')} ({span(low, high, '.3g')})", ours),
            "holds": tables.number(holds, ".0%"), "inconclusive": tables.number(inside - holds, ".0%"),
        }  # fmt: skip
        if name in splits:
            axis, share = largest(splits[name])
            lines[name]["moved most by"] = Cell(f"{AXES[axis]} ({percent(share)})", {"fraction of variance": share})
    return tables.frame(lines, "claim")


def _count(found: xr.Dataset) -> int:
    """Return the number of specifications of a claim, of those that were measured."""
    return int(found.there.sum()) if "there" in found else found.holds.size


def outcomes(sets: dict[str, tuple[Judged, Splits]]) -> pd.DataFrame:
    """Return a row for each claim of each data set: fractions of specifications, and the choice that moves it most."""
    out = []
    for title, (judged, splits) in sets.items():
        for name, found in judged.items():
            holds, inside = (float(judging.flags(found, kind).mean()) for kind in ("holds", "inside"))
            axis, share = largest(splits[name]) if name in splits else ("", np.nan)
            line = {"data_set": title, "claim": name, "specifications": _count(found), "holds": holds}
            line |= {"inconclusive": inside - holds, "fails": 1 - inside}
            out.append(line | {"moved_most_by": AXES.get(axis, ""), "fraction_of_variance": share})
    return pd.DataFrame(out)


@style.styled
def outcomes_figure(found: pd.DataFrame) -> Figure:
    """Draw in how many specifications each claim holds, is inconclusive and fails, with what moves it most in words."""
    titles = list(dict.fromkeys(found.data_set))
    halves = [found[found.data_set.isin(titles[:-1])], found[found.data_set == titles[-1]]]
    figure, panels = plt.subplots(1, 2, figsize=(9.4, 0.2 * max(map(len, halves)) + 0.9))
    for axes, half in zip(panels, halves):
        heights, left = np.arange(len(half)), np.zeros(len(half))
        for kind, colour in OUTCOMES.items():
            axes.barh(heights, half[kind], 0.75, left, color=colour, label=kind)
            left += half[kind].to_numpy()
        for height, words in zip(heights, half.moved_most_by):
            axes.text(1.02, height, words, va="center", fontsize=7)
        names = [f"{row.claim}, {row.data_set}" for row in half.itertuples()]
        axes.set_yticks(heights, names, fontsize=7)
        axes.set(xlim=(0, 1), ylim=(len(half) - 0.5, -0.5), xlabel="fraction of specifications")
        axes.text(1.02, -0.9, "moved most by", fontsize=7, style="italic")
    style.legend_below(figure, panels[0], 3)
    return attach(figure, found)


def answer(judged: Judged, found: pd.DataFrame) -> Markdown:
    """Say whether all numbers on digits come out at once, and which kind of choice moves claims most."""
    size, strict = (judging.region_size(judging.region(judged, kind)) for kind in ("inside", "holds"))
    moved = found[found.moved_most_by != ""]
    how, which = (moved.moved_most_by.isin([AXES[axis] for axis in axes]).sum() for axes in (_RULERS, _NETWORKS))
    strictly = strict["cells"] or "none"
    return Markdown(
        f"**Answer.** All numbers on digits agree with ours at once in {size['cells']} of {size['of']} combinations of "
        f"choices. In {strictly} of these does every interval tell one bit-width from the next. Of {len(moved)} claims "
        f"{how} depend most on how they are measured. The network matters most for {which}."
    )


def variance_splits(many: xr.Dataset) -> Splits:
    """Split the variance of each claim's measure; a measure that several claims share stands for each of them."""
    values = {name: found[0] for name, found in judging.measured(many).items()}
    vary = [name for name, one in values.items() if np.isfinite(one.values).all() and float(one.std()) > 0]
    return {name: judging.variance_split(values[name]) for name in judging.CLAIMS if name in vary}


def largest(split: dict[str, float]) -> tuple[str, float]:
    """Return the axis with the largest main effect, and its fraction of the variance."""
    mains = {axis: share for axis, share in split.items() if axis in AXES}
    axis = max(mains, key=mains.get)
    return axis, mains[axis]


def variance_figure(splits: Splits) -> Figure:
    """Draw the share of each claim's variance that each choice alone explains, that of interactions and of networks."""
    columns = {{"J2": "J2, J3, J4"}.get(name, name): splits[name] for name in splits if name not in ("J3", "J4")}
    titles = AXES | {"interactions": "interactions of choices", "networks": "networks (seeds)"}
    crossed = {axis for split in columns.values() for axis in split}
    rows = {row: title for row, title in titles.items() if row not in AXES or row in crossed}
    values = [[split.get(row, np.nan) for split in columns.values()] for row in rows]
    return _heat_map(np.array(values), list(rows.values()), list(columns), "share of variance")


def choices_figure(judged: Judged, kind: str = "inside") -> Figure:
    """Draw the share of specifications that agree with each claim, or in which it holds, choice by choice."""
    of_choice = {name: judging.by_choice(judging.flags(found, kind)) for name, found in judged.items()}
    rows = {}
    for axis, title in AXES.items():
        having = [shares[axis].to_series() if axis in shares else {} for shares in of_choice.values()]
        values = dict.fromkeys(value for shares in having for value in shares.keys())
        if len(values) <= _MOST_VALUES:
            rows |= {f"{title}: {value}": [shares.get(value, np.nan) for shares in having] for value in values}
    title = {"inside": "share that agrees", "holds": "share that holds"}[kind]
    return _heat_map(np.array(list(rows.values())), list(rows), list(judged), title)


@style.styled
def _heat_map(values: np.ndarray, rows: list[str], columns: list[str], title: str) -> Figure:
    figure, axes = plt.subplots(figsize=(1.9 + 0.55 * len(columns), 0.6 + 0.22 * len(rows)))
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else INK
            axes.text(j, i, number(100 * value, ".0f"), ha="center", va="center", fontsize=7.5, color=colour)
    axes.set(xticks=range(len(columns)), xticklabels=columns, title=f"{title}, %")
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    drawn = xr.DataArray(values, {"choice": rows, "claim": columns}, ("choice", "claim"), attrs={"long_name": title})
    return attach(figure, drawn.to_dataset(name="fraction"))


@style.styled
def curve_figure(judged: Judged, claims: list[dict], names: list[str]) -> Figure:
    """
    Draw the specification curve of each claim in *names*: all estimates in order, and which choices lie where.

    Below each curve a row for each value of a choice: the darker, the more of the specifications there have it; grey
    all along is a choice that does not move the claim.
    """
    stated = {claim["id"]: claim["reported"] for claim in claims}
    curves = {name: _curve(judged[name]) for name in names}
    height = max(curve.sizes["choice"] for curve in curves.values())
    figure, panels = plt.subplots(
        2, len(names), figsize=(4.6 * len(names), 2.6 + 0.16 * height), squeeze=False, sharex="col",
        gridspec_kw={"height_ratios": [2.6, 0.16 * height]},
    )  # fmt: skip
    for (upper, lower), (name, curve) in zip(panels.T, curves.items()):
        count, rows = _count(judged[name]), _values_of(judged[name])
        look = {"color": FAINT, "lw": 0, "label": "95 % interval (median)"}
        upper.fill_between(curve.middle, curve.low, curve.high, **look)
        upper.plot(curve.place, curve.estimate, color=FLOAT_COLOUR, label="ours")
        if isinstance(stated[name], str):
            upper.axhline(0, color=GREY, lw=1, ls=":", label="no difference")
        else:
            upper.axhline(stated[name], color=QUANTIZED_COLOUR, ls="--", label="the paper")
            curve["reported"] = float(stated[name])
        upper.set_title(f"{name}: {count:,} specifications")
        look = {"aspect": "auto", "interpolation": "nearest", "cmap": "Greys", "vmin": 0, "vmax": 1}
        lower.imshow(curve.fraction, extent=(0, count, len(rows) - 0.5, -0.5), **look)
        lower.set_yticks(range(len(rows)), [str(value) for _, value in rows], fontsize=7)
        for i in range(1, len(rows)):
            if rows[i][0] != rows[i - 1][0]:
                lower.axhline(i - 0.5, color="white", lw=1.5)
        lower.tick_params(length=0)
        lower.set_xlabel("specifications, by estimate")
    panels[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    return attach(figure, joined(curves, "claim"))


def _curve(found: xr.Dataset) -> xr.Dataset:
    """
    Return a claim's specification curve: ``estimate`` at the ``place`` of specifications in order.

    In each ``part`` of the order, whose ``middle`` is a place, are the medians of the interval's ends, ``low`` and
    ``high``, and the ``fraction`` of specifications that have each value of a ``choice``.
    """
    found, rows = found.transpose(*found.estimate.dims), _values_of(found)
    order = np.argsort(found.estimate.values.ravel(), kind="stable")[: _count(found)]
    parts, places = (np.array_split(one, min(_BINS, len(order))) for one in (order, np.arange(len(order))))
    ends = {end: ("part", [np.median(found[end].values.ravel()[part]) for part in parts]) for end in ("low", "high")}
    # Of a hundred thousand specifications, some in equal steps draw the same.
    some = np.unique(np.linspace(0, len(order) - 1, min(_POINTS, len(order))).round().astype(int))
    having = [(found[axis] == value).broadcast_like(found.estimate).values.ravel() for axis, value in rows]
    return xr.Dataset(
        {
            "estimate": ("point", found.estimate.values.ravel()[order[some]]), "place": ("point", some),
            "middle": ("part", [part.mean() for part in places]), **ends,
            "fraction": (("choice", "part"), [[has[part].mean() for part in parts] for has in having]),
        },
        {
            "point": np.arange(len(some)), "part": np.arange(len(parts)),
            "choice": [f"{AXES[axis]}: {value}" for axis, value in rows],
        },
    )  # fmt: skip


def _values_of(found: xr.Dataset) -> list[tuple[str, object]]:
    axes = [axis for axis in AXES if axis in found.estimate.dims and found.sizes[axis] <= _MOST_VALUES]
    return [(axis, value) for axis in axes for value in found[axis].values.tolist()]


def region_table(judged: Judged) -> tables.Frame:
    """Tabulate the agreeing region: of all numbers, and of all but one."""
    lines = {}
    for without in (None, *judging.NUMBERS):
        lines["all" if without is None else f"all but {without}"] = line = {}
        for kind, title in (("inside", "agree"), ("holds", "hold")):
            size = judging.region_size(judging.region(judged, kind, without))
            cells = {"": size["cells"], "of": size["of"]}
            line[f"cells that {title}"] = Cell(f"{size['cells']} of {size['of']}", cells)
            line[f"share of specifications that {title}"] = tables.number(size["share"], ".4%")
    return tables.frame(lines, "numbers")


def region_choices(region: xr.DataArray) -> tables.Frame:
    """Tabulate, for each choice that a cell is made of, how many agreeing cells have each of its values."""
    lines = {}
    for axis in region.dims:
        counts = (region > 0).sum([dim for dim in region.dims if dim != axis])
        text = ", ".join(f"{value}: {int(n)}" for value, n in zip(counts[axis].values.tolist(), counts.values))
        lines[AXES[axis]] = {"agreeing cells": text}
    return tables.frame(lines, "choice")


def summary(many: xr.Dataset, judged: Judged, splits: Splits, rule: dict) -> Markdown:
    """Say in words what the multiverse shows; every number comes from the runs."""
    inside = {name: float(found.inside.mean()) for name, found in judged.items()}
    most, least = max(inside, key=inside.get), min(inside, key=inside.get)
    total = sum(found.holds.size for found in judged.values())
    size, strict = (judging.region_size(judging.region(judged, kind)) for kind in ("inside", "holds"))
    numbers = judging.NUMBERS
    lines = [
        f"- On digits, {many.attrs['networks']} networks give {total:,} specifications. The paper's statement is "
        f"inside our interval most often for {most} ({percent(inside[most])}), least often for {least} "
        f"({percent(inside[least])}).",
        f"- **All numbers at once** agree in {size['cells']} of {size['of']} cells. Where no interval may be too wide, "
        f"they agree in {strict['cells']}. If the {len(numbers)} numbers came from one of our specifications and were "
        f"independent, all would be inside there with a probability of about "
        f"{number(rule['level'] ** len(numbers), '.2f')}.",
    ]
    alone = {name: judging.region_size(judging.region(judged, "inside", name)) for name in numbers}
    free = [name for name, without in alone.items() if without["cells"] > size["cells"]]
    if free:
        lines.append(f"- The region grows when one of these need not agree: {', '.join(free)}.")
    for name in ("D2", "S4"):
        if name in splits:
            axis, share = largest(splits[name])
            lines.append(
                f"- What moves **{name}** most is *{AXES[axis]}*, with {percent(share)} of the variance. Networks of "
                f"one specification make {percent(splits[name]['networks'])} of it."
            )
    return Markdown("\n".join(lines))


def load(results: str, seeds: int) -> xr.Dataset:
    """Return the multiverse on digits: the published one, or a fresh one of *seeds* seeds, made if it is missing."""
    check_choice("results", results, ("published", "fresh"))
    if results == "published":
        return published.load_published(published.MULTIVERSES["digits"])
    return catalogue.sweep(specs.Multiverse(), seeds)


def load_elsewhere() -> list[xr.Dataset]:
    """Return the published multiverses of the other data sets."""
    return [published.load_published(name) for dataset, name in published.MULTIVERSES.items() if dataset != "digits"]
