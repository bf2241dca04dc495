"""Figures of the ledger: reported numbers among our runs and their neighbours, and directions against their bounds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import verdicts
from ..formats import Ends, interval, signed, span
from . import style
from .source_data import attach, rows
from .style import FLOAT_COLOUR, INK

_REACH = 3  # half-widths of an interval, or bounds, that a figure shows
_TICK = {"marker": "|", "ls": "", "color": INK, "ms": 9}


def positions(claims: list[dict]) -> pd.DataFrame:
    """
    Return where each reported number lies among our runs: 0 is their middle, ±1 the ends of the 95 % interval.

    Rows of the ledger with a reported number and an interval are kept. The position is infinite where the interval has
    no width on that side.
    """
    names, kept = ["dataset", "reported", "estimate", "low", "high", "runs", "verdict"], {}
    for row in claims:
        if isinstance(row["reported"], int | float) and row["low"] is not None:
            kept[row["id"]] = {name: row[name] for name in names} | {"position": _position(row, row["reported"])}
    return pd.DataFrame.from_dict(kept, orient="index").rename_axis("claim")


def neighbours(claims: list[dict]) -> pd.DataFrame:
    """Return where the means of the neighbours lie, on the scale of :func:`positions`, with their claims and names."""
    found = []
    for row in claims:
        for name, mean in ((row["held"] or {}) | (row["excluded"] or {})).items():
            if mean is not None and row["low"] is not None:
                found.append({"of": row["id"], "neighbour": name, "mean": mean, "at": _position(row, mean)})
    return pd.DataFrame(found, columns=["of", "neighbour", "mean", "at"])


def _position(row: dict, value: float) -> float:
    off = value - row["estimate"]
    side = row["high"] - row["estimate"] if off > 0 else row["estimate"] - row["low"]
    return 0.0 if off == 0 else off / side if side > 0 else np.copysign(np.inf, off)


@style.styled
def positions_figure(claims: list[dict]) -> Figure:
    """Draw the reported numbers among our runs and their neighbours, with each one and our interval in words."""
    table, others = positions(claims), neighbours(claims)
    words = [f"{row.reported:g} among {span(row.low, row.high, '.3g')}, {row.runs} runs" for row in table.itertuples()]
    figure, axes = _frame(table, words, "position among our runs: 0 their middle, ±1 the ends of the interval")
    for height, row in enumerate(table.iloc[::-1].itertuples()):
        near = others[(others["of"] == row.Index) & (others["at"].abs() <= _REACH)]
        if len(near):  # an empty line takes room at the figure's corner
            axes.plot(near["at"], [height] * len(near), clip_on=False, **_TICK)
        at = np.clip(row.position, -_REACH, _REACH)
        axes.plot(at, height, clip_on=False, **style.verdict_mark(row.verdict))
    _legend(axes, verdicts.NUMBERS[::-1], "neighbours")
    return attach(figure, rows(table.reset_index()).merge(rows(others).rename(row="neighbour_row")))


@style.styled
def directions_figure(claims: list[dict]) -> Figure:
    """Draw differences paired by seed in units of each one's bound, with what the seeds could have seen."""
    kept = [row for row in claims if row["detectable"] is not None and row["kind"] != "reduction"]
    names = ["dataset", "estimate", "low", "high", "detectable", "bound", "verdict"]
    table = pd.DataFrame([{name: row[name] for name in names} for row in kept], [row["id"] for row in kept])
    found = [Ends(row.estimate, row.low, row.high) for row in table.itertuples()]
    words = [f"{interval(one, '.2g', signed)}, bound {bound:.2g}" for one, bound in zip(found, table.bound)]
    figure, axes = _frame(table, words, "difference paired by seed, in units of its bound; beyond the axis at its edge")
    for height, row in enumerate(table.iloc[::-1].itertuples()):
        look = style.verdict_mark(row.verdict)
        low, middle, high, seen = (
            np.clip(value / row.bound, -_REACH, _REACH) for value in (row.low, row.estimate, row.high, row.detectable)
        )
        axes.plot([low, high], [height] * 2, color=look["color"], lw=2, solid_capstyle="butt")
        axes.plot(middle, height, clip_on=False, **look)
        axes.plot([-seen, seen], [height] * 2, clip_on=False, **_TICK)
    _legend(axes, verdicts.DIRECTIONS[::-1], "smallest difference seen")
    return attach(figure, table.rename_axis("claim").reset_index())


def _frame(table: pd.DataFrame, words: list[str], title: str) -> tuple[Figure, Axes]:
    """Return axes with a line for each row of a table, from the top, the band from −1 to 1, and words at the right."""
    figure, axes = plt.subplots(figsize=(8.4, 0.3 * len(table) + 1.4))
    axes.axvspan(-1, 1, color="#e6eef4", lw=0)
    axes.axvline(0, color=FLOAT_COLOUR, lw=1)
    heights = range(len(table))[::-1]
    for height, text in zip(heights, words):
        axes.text(_REACH + 0.2, height, text, va="center", fontsize=8)
    axes.set_yticks(heights, [f"{name}, {dataset}" for name, dataset in table.dataset.items()])
    axes.set(xlim=(-_REACH, _REACH), ylim=(-0.7, len(table) - 0.3), xlabel=title)
    return figure, axes


def _legend(axes: Axes, names: tuple[str, ...], ticks: str) -> None:
    for name in names:
        axes.plot([], [], label=name, **style.verdict_mark(name))
    axes.plot([], [], label=ticks, **_TICK)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
