"""Figures and tables of the multiverse: where each claim holds, what moves it, and where all numbers agree at once."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore._checks import check_choice

from .. import catalogue, published, specs
from ..multiverse import judging
from .style import FLOAT_COLOUR, QUANTIZED_COLOUR, STYLE

# What each axis is called, in the order of the figures.
AXES = {
    "width": "hidden units", "epochs": "epochs", "scale": "input scale", "split": "split",
    "scheme": "quantizer's step", "granularity": "step for each", "plane": "plane", "nodes": "nodes a side",
    "mask": "boundary mask", "place": "shift: where", "gradient": "shift: by which", "pair": "shift: pair",
    "grid": "transition: grid", "kind": "transition: what changes", "transition": "transition",
    "count": "junctions: what counts", "summary": "junctions: over the steps", "drop": "accuracy drop allowed",
    "path": "stopping: which level", "rule": "stopping rule",
}  # fmt: skip
_MOST_VALUES = 8  # an axis of more, that of the stopping rules, is left out of what shows single values
_BINS = 80
_POINTS = 2000  # of a curve


def readings_table(judged: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Tabulate every axis: its values, the baseline's first, and the claims that are crossed with it."""
    rows = []
    for axis, title in AXES.items():
        names = [name for name, found in judged.items() if axis in found.dims]
        if not names:
            continue
        values = [str(value) for value in judged[names[0]][axis].values]
        text = "; ".join(values) if len(values) <= _MOST_VALUES else f"{len(values)}: {values[0]} … {values[-1]}"
        rows.append({"choice": title, "values": text, "claims": ", ".join(names)})
    return pd.DataFrame(rows).set_index("choice")


def claims_table(
    judged: dict[str, xr.Dataset], claims: list[dict], splits: dict[str, dict[str, float]]
) -> pd.DataFrame:
    """
    Tabulate for each claim: specifications, shares where it holds, is inconclusive and fails, and what moves it most.

    Parameters
    ----------
    judged : dict
        Of :func:`studies.multiverse.judging.judge`.
    claims : list of dict
    splits : dict
        Of :func:`variance_splits`.
    """
    stated = {claim["id"]: claim for claim in claims}
    rows = []
    for name, found in judged.items():
        low, middle, high = np.nanquantile(found.estimate, [0.05, 0.5, 0.95])
        holds, inside = float(found.holds.mean()), float(found.inside.mean())
        row = {
            "claim": name, "reported": stated[name]["reported"], "specifications": f"{found.holds.size:,}",
            "ours": f"{middle:.3g} ({low:.3g} to {high:.3g})", "holds": f"{holds:.1%}",
            "inconclusive": f"{inside - holds:.1%}", "fails": f"{1 - inside:.1%}", "moved most by": "",
        }  # fmt: skip
        if name in splits:
            axis, share = largest(splits[name])
            row["moved most by"] = f"{AXES[axis]} ({share:.0%})"
        rows.append(row)
    return pd.DataFrame(rows).set_index("claim")


def variance_splits(many: xr.Dataset) -> dict[str, dict[str, float]]:
    """Split the variance of each claim's measure; a measure that several claims share stands for each of them."""
    out = {}
    for name, (values, _) in judging.measured(many).items():
        if np.isfinite(values.values).all() and float(values.std()) > 0:
            out[name] = judging.variance_split(values)
    return {name: out[name] for name in judging.CLAIMS if name in out}


def largest(split: dict[str, float]) -> tuple[str, float]:
    """Give the axis with the largest main effect, and its share of the variance."""
    mains = {axis: share for axis, share in split.items() if axis in AXES}
    axis = max(mains, key=mains.get)
    return axis, mains[axis]


def variance_figure(splits: dict[str, dict[str, float]]) -> Figure:
    """Draw the share of each claim's variance that each choice alone explains, that of interactions and of networks."""
    columns = {
        "J2, J3, J4" if name == "J2" else name: split for name, split in splits.items() if name not in ("J3", "J4")
    }
    rows = [axis for axis in AXES if any(axis in split for split in columns.values())] + ["interactions", "networks"]
    values = np.array([[split.get(row, np.nan) for split in columns.values()] for row in rows])
    titles = [AXES.get(row, row) for row in rows]
    titles[-2:] = ["interactions of choices", "networks (seeds)"]
    return _heat_map(values, titles, list(columns), "share of variance")


def choices_figure(judged: dict[str, xr.Dataset], kind: str = "inside") -> Figure:
    """Draw the share of specifications that agree with each claim, or in which it holds, choice by choice."""
    of_choice = {name: judging.by_choice(found[kind]) for name, found in judged.items()}
    titles, rows = [], []
    for axis, title in AXES.items():
        having = [found for found in judged.values() if axis in found.dims]
        values = list(dict.fromkeys(value for found in having for value in found[axis].values.tolist()))
        if not having or len(values) > _MOST_VALUES:
            continue
        for value in values:
            titles.append(f"{title}: {value}")
            rows.append([
                float(shares[axis].sel({axis: value})) if axis in shares and value in shares[axis][axis] else np.nan
                for shares in of_choice.values()
            ])  # fmt: skip
    title = {"inside": "share that agrees", "holds": "share that holds"}[kind]
    return _heat_map(np.array(rows), titles, list(judged), title)


def _heat_map(values: np.ndarray, rows: list[str], columns: list[str], title: str) -> Figure:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(1.9 + 0.55 * len(columns), 0.6 + 0.22 * len(rows)))
        axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else "#1a1a1a"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.tick_params(length=0)
        axes.set_title(f"{title}, %")
        axes.xaxis.tick_top()
        for spine in axes.spines.values():
            spine.set_visible(False)
    plt.close(figure)
    return figure


def curve_figure(judged: dict[str, xr.Dataset], claims: list[dict], names: list[str]) -> Figure:
    """
    Draw the specification curve of each claim in *names*: all estimates in order, and which choices lie where.

    Below each curve a row for each value of a choice: the darker, the more of the specifications there have it; grey
    all along is a choice that does not move the claim.
    """
    stated = {claim["id"]: claim for claim in claims}
    with plt.rc_context(STYLE):
        rows = {name: _values_of(judged[name]) for name in names}
        height = max(len(values) for values in rows.values())
        figure, panels = plt.subplots(
            2, len(names), figsize=(4.6 * len(names), 2.6 + 0.16 * height), squeeze=False, sharex="col",
            gridspec_kw={"height_ratios": [2.6, 0.16 * height]},
        )  # fmt: skip
        for (upper, lower), name in zip(panels.T, names):
            found = judged[name].transpose(*judged[name].estimate.dims)
            order = np.argsort(found.estimate.values.ravel(), kind="stable")
            parts = _parts(order)
            ends = [[np.median(found[end].values.ravel()[part]) for part in parts] for end in ("low", "high")]
            middles = [part.mean() for part in _parts(np.arange(len(order)))]
            upper.fill_between(middles, *ends, color="#cccccc", lw=0, label="95 % interval (median)")
            # The file behind a figure has each point of it: of a hundred thousand, some in equal steps draw the same.
            some = np.unique(np.linspace(0, len(order) - 1, min(_POINTS, len(order))).round().astype(int))
            upper.plot(some, found.estimate.values.ravel()[order[some]], color=FLOAT_COLOUR, label="ours")
            if not isinstance(stated[name]["reported"], str):
                upper.axhline(stated[name]["reported"], color=QUANTIZED_COLOUR, ls="--", label="the paper")
            else:
                upper.axhline(0, color="#767676", lw=1, ls=":", label="no difference")
            upper.set_title(f"{name}: {len(order):,} specifications")
            lower.imshow(
                _densities(found.estimate, order, rows[name]), aspect="auto", cmap="Greys", vmin=0, vmax=1,
                extent=(0, len(order), len(rows[name]) - 0.5, -0.5), interpolation="nearest",
            )  # fmt: skip
            lower.set_yticks(range(len(rows[name])), [str(value) for _, value in rows[name]], fontsize=7)
            for i in range(1, len(rows[name])):
                if rows[name][i][0] != rows[name][i - 1][0]:
                    lower.axhline(i - 0.5, color="white", lw=1.5)
            lower.tick_params(length=0)
            lower.set_xlabel("specifications, by estimate")
        panels[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    plt.close(figure)
    return figure


def _values_of(found: xr.Dataset) -> list[tuple[str, object]]:
    axes = [axis for axis in AXES if axis in found.estimate.dims and found.sizes[axis] <= _MOST_VALUES]
    return [(axis, value) for axis in axes for value in found[axis].values.tolist()]


def _parts(order: np.ndarray) -> list[np.ndarray]:
    return np.array_split(order, min(_BINS, len(order)))


def _densities(estimate: xr.DataArray, order: np.ndarray, rows: list[tuple[str, object]]) -> np.ndarray:
    """Give, for each value and each of many parts of the order, the share of specifications that have it."""
    bins, out = _parts(order), []
    for axis, value in rows:
        has = (estimate[axis] == value).broadcast_like(estimate).transpose(*estimate.dims).values.ravel()
        out.append([has[part].mean() for part in bins])
    return np.array(out)


def region_table(judged: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Tabulate the agreeing region: of all numbers, and of all but one."""
    rows = []
    for without in (None, *judging.NUMBERS):
        row = {"numbers": "all" if without is None else f"all but {without}"}
        for kind, title in (("inside", "agree"), ("holds", "hold")):
            size = judging.region_size(judging.region(judged, kind, without))
            row[f"cells that {title}"] = f"{size['cells']} of {size['of']}"
            row[f"share of specifications that {title}"] = f"{size['share']:.2g}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("numbers")


def region_choices(region: xr.DataArray) -> pd.DataFrame:
    """Tabulate, for each choice that a cell is made of, how many agreeing cells have each of its values."""
    rows = []
    for axis in region.dims:
        counts = (region > 0).sum([dim for dim in region.dims if dim != axis])
        text = ", ".join(f"{value}: {int(n)}" for value, n in zip(counts[axis].values.tolist(), counts.values))
        rows.append({"choice": AXES[axis], "agreeing cells": text})
    return pd.DataFrame(rows).set_index("choice")


def largest_cells(region: xr.DataArray, count: int = 5) -> pd.DataFrame:
    """Tabulate the cells in which the largest shares of the remaining choices agree."""
    flat = region.stack(cell=region.dims)
    order = np.argsort(-flat.values, kind="stable")[:count]
    rows = []
    for i in order:
        if flat.values[i] > 0:
            cell = flat.isel(cell=int(i))
            row = {AXES[axis]: str(cell[axis].item()) for axis in region.dims}
            rows.append(row | {"share of the rest": f"{float(cell):.2g}"})
    frame = pd.DataFrame(rows, columns=[*(AXES[axis] for axis in region.dims), "share of the rest"])
    return frame.set_index(AXES[region.dims[0]])


def _claim_lines(judged: dict[str, xr.Dataset], splits: dict[str, dict[str, float]], kind: str = "inside") -> list[str]:
    """Say in a line of each claim in how many specifications it holds and which choice moves it most."""
    which = {"inside": "agree", "holds": "hold"}[kind]
    holds, lines = judging.shares(judged), []
    for name, found in judged.items():
        if name not in splits:
            continue
        axis, share = largest(splits[name])
        values = judging.by_choice(found[kind])[axis]
        low, high = int(np.argmin(values.values)), int(np.argmax(values.values))
        lines.append(
            f"- **{name}** holds in {holds[name]:.1%} of its specifications and agrees in "
            f"{float(found.inside.mean()):.1%}. What moves it most is *{AXES[axis]}*, with {share:.0%} of the "
            f"variance: from {float(values[low]):.0%} that {which} ({values[axis].values[low]}) to "
            f"{float(values[high]):.0%} ({values[axis].values[high]}). Networks of one specification make "
            f"{splits[name]['networks']:.0%} of it."
        )
    return lines


def summary(
    many: xr.Dataset, judged: dict[str, xr.Dataset], splits: dict[str, dict[str, float]], rule: dict
) -> Markdown:
    """Say in words what the multiverse shows; every number comes from the runs."""
    inside = {name: float(found.inside.mean()) for name, found in judged.items()}
    most, least = max(inside, key=inside.get), min(inside, key=inside.get)
    total = sum(found.holds.size for found in judged.values())
    lines = [
        f"- {many.attrs['networks']} networks, {many.sizes['seed']} of each kind, give {total:,} specifications. Over "
        f"them the paper's statement is inside our interval most often for {most} ({inside[most]:.0%}), least often "
        f"for {least} ({inside[least]:.0%}).",
    ]
    lines += _claim_lines({name: judged[name] for name in ("D2", "D4", "D5", "J2", "S3", "S4")}, splits)
    size = judging.region_size(judging.region(judged))
    strict = judging.region_size(judging.region(judged, "holds"))
    numbers = judging.NUMBERS
    chance = rule["level"] ** len(numbers)
    lines.append(
        f"- **All {len(numbers)} numbers at once** agree in {size['cells']} of {size['of']} cells, {size['share']:.2g} "
        f"of all full specifications; where no interval may be too wide, in {strict['cells']} cells. Numbers that came "
        f"from one of our specifications would all lie in their intervals there with a probability of about "
        f"{chance:.2f}, if they were independent."
    )
    alone = {name: judging.region_size(judging.region(judged, "inside", name)) for name in numbers}
    free = [name for name, without in alone.items() if without["cells"] > size["cells"]]
    if free:
        lines.append(f"- The region grows when one of these need not agree: {', '.join(free)}.")
    return Markdown("\n".join(lines))


def load(results: str, seeds: int) -> xr.Dataset:
    """
    Give the multiverse on digits: the published one, or a fresh one of *seeds* seeds, which is made if it is missing.

    Parameters
    ----------
    results : "published" or "fresh"
    seeds : int
    """
    check_choice("results", results, ("published", "fresh"))
    if results == "published":
        return published.load_published(published.MULTIVERSES["digits"])
    return catalogue.sweep(specs.Multiverse(), seeds)


def load_elsewhere() -> list[xr.Dataset]:
    """Give the published multiverses of the other data sets."""
    return [published.load_published(name) for dataset, name in published.MULTIVERSES.items() if dataset != "digits"]


def elsewhere_summary(judged: dict[str, xr.Dataset], splits: dict[str, dict[str, float]]) -> Markdown:
    """Say in words what the multiverses of the other data sets show."""
    return Markdown("\n".join(_claim_lines(judged, splits, "holds")))
