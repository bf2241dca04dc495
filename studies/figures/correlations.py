"""Figure, tables and words of what calibration inputs tell of held-out ones."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from .. import correlations
from ..formats import Ends, listed, signed
from . import style, tables
from .source_data import attach, rows
from .style import FLOAT_COLOUR, GREEN, PAPER_COLOUR

_NAMES = {
    "nearest": "nearest", "layers": "optimized by layer", "logits": "optimized on the logits",
    "gap": "with the gap term",
}  # fmt: skip


def correlations_data(sets: dict[str, xr.Dataset]) -> xr.Dataset:
    """
    Return the correlation of calibration and held-out Jaccard of every variant on every data set, along ``row``.

    ``r`` with its interval over seeds, ``low`` to ``high``, and ``within`` bit-widths with its own.
    """
    lines = []
    for title, many in sets.items():
        for variant, (_, by_seed, within) in correlations.correlations(many).items():
            ends = {"low": by_seed.low, "high": by_seed.high, "within_low": within.low, "within_high": within.high}
            named = {"variant": _NAMES.get(variant, variant), "data_set": title, "seeds": many.sizes["seed"]}
            lines.append(named | {"r": by_seed.estimate, "within": within.estimate} | ends)
    return rows(pd.DataFrame(lines))


@style.styled
def correlations_figure(found: xr.Dataset, lowest: float, highest: float) -> Figure:
    """Draw the correlations of :func:`correlations_data`, with the range that the paper reports as a band."""
    figure, axes = plt.subplots(figsize=(8.4, 0.24 * found.sizes["row"] + 1.2))
    heights = np.arange(found.sizes["row"])
    axes.axvspan(lowest, highest, color=PAPER_COLOUR, alpha=0.25, lw=0, label="the paper")
    for name, ends, shift, colour, full in (
        ("within", "within_", 0.2, GREEN, False),
        ("r", "", -0.1, FLOAT_COLOUR, True),
    ):
        low, high = (found[f"{ends}{end}"].values for end in ("low", "high"))
        axes.hlines(heights + shift, low, high, color=colour, lw=1, alpha=0.6)
        label = "over all bit-widths" if full else "within bit-widths"
        axes.plot(found[name], heights + shift, "o", color=colour, mfc=colour if full else "white", ms=4.5, label=label)
    axes.set_yticks(
        heights, [f"{one.data_set.item()}: {one.variant.item()}" for _, one in found.groupby("row")], fontsize=8
    )
    axes.set(xlim=(-0.6, 1.02), ylim=(len(heights) - 0.5, -0.7), xlabel="correlation of calibration and held-out J")
    style.legend_below(figure, axes, 3)
    return attach(figure, found)


def correlations_table(found: xr.Dataset) -> tables.Frame:
    """Tabulate :func:`correlations_data`."""
    lines = []
    for at in (found.isel(row=i) for i in range(found.sizes["row"])):
        both = {"r [over seeds]": ("r", ""), "within bits [over seeds]": ("within", "within_")}
        cells = {
            title: tables.interval(Ends(*(at[part].item() for part in (name, f"{ends}low", f"{ends}high"))), ".3f")
            for title, (name, ends) in both.items()
        }
        lines.append(
            (
                at.data_set.item(),
                {"variant": at.variant.item(), "seeds": tables.number(at.seeds, ".0f")} | cells,
            )
        )
    return tables.frame(lines, "data set")


def predictors_table(sets: dict[str, xr.Dataset]) -> tables.Frame:
    """
    Tabulate how well each calibration measure predicts held-out flips of PTQ-W, on each data set the best first.

    The last columns are the difference of Fisher's z to that of J, with its interval over seeds.
    """
    lines = []
    for title, many in sets.items():
        for measure, (_, by_seed, within, *gains) in correlations.rank_predictors(many).items():
            line = {"measure": correlations.PREDICTORS[measure], "r [over seeds]": tables.interval(by_seed, ".3f")}
            line["within bits [over seeds]"] = tables.interval(within, ".3f")
            for gain, name in zip(gains, ("z less J's", "within bits, z less J's")):
                line[name] = tables.interval(gain, ".2f", write=signed) if measure != "boundary_jaccard" else ""
            lines.append((title, line))
    return tables.frame(lines, "data set")


def best_predictors(stopping: dict[str, xr.Dataset]) -> str:
    """Say which calibration measure is best on which data set, and which are better than J beyond chance."""
    ranked = {name: correlations.rank_predictors(many) for name, many in stopping.items()}

    def where(holds: Callable[[dict, str], bool]) -> list[str]:
        """Name the measures of which something holds, with the data sets on which it does."""
        sets = {name: [key for key, rows in ranked.items() if holds(rows, name)] for name in correlations.PREDICTORS}
        said = {name: "every data set" if len(on) == len(ranked) > 1 else listed(on) for name, on in sets.items() if on}
        return [f"{correlations.PREDICTORS[name]} on {on}" for name, on in said.items()]

    best = where(lambda rows, name: next(iter(rows)) == name)
    overall, within = (where(lambda rows, name, i=i: rows[name][i].low > 0) for i in (3, 4))  # gains over J
    return (
        f"- The calibration measure that correlates best with held-out flips is {'; '.join(best)}.\n"
        f"- Better than J beyond chance (95 %, each by itself), over all bit-widths: {listed(overall)}. Within "
        f"bit-widths: {listed(within)}."
    )
