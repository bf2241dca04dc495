"""A strip for each claim: our runs, their interval, the paper's number, and what its neighbours give."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..formats import Ends, brief, interval, number, signed
from ..ledger import SIGNED, kept, named, paper_says
from . import style
from .source_data import attach, rows
from .style import FLOAT_COLOUR, GREY, PAPER_COLOUR, VERDICT_LOOKS

WIDTH = 4.8  # inches: a phone shows it whole, in letters that can be read
_TEXT, _SMALL, _PAD = 8.5, 7.5, 15  # points
LETTER = 0.0142  # of an axis, that a small letter takes
_RUNS, _BAR, _LINE, _NAMES = (0.52, 0.98), 0.38, 0.23, 0.12  # heights: three lanes, and where lines end
_SHORT = {
    "boundary-aware stopping": "stopping", "rounding to nearest": "nearest", "optimized by layer": "by layer",
    "optimized on the logits": "on the logits", "with the gap term": "gap term",
}  # fmt: skip


@style.styled
def strips(ids: Iterable[str], claims: list[dict] | None = None) -> Figure:
    """
    Draw a strip for each claim, such as ``strips(["D1", "D2"])``, in this order.

    Dots are our runs, one a seed (of a correlation one a variant), and the bar is the interval that the ledger judges
    by. Grey lines are means of neighbours, as far as the axis goes: other bit-widths, roundings, rules or transitions.
    A claim without a number has its side of 0 shaded; claims that are judged together have a line of words. *claims*
    are rows of the ledger, by default of that of the published results.
    """
    ids = list(ids)
    known = {row["id"]: row for row in (kept() if claims is None else claims)}
    if strange := [name for name in ids if name not in known]:
        raise ValueError(f"There is no claim {strange[0]}; the claims are {', '.join(known)}.")
    claims = [known[name] for name in ids]
    heights = [1.0 if row["values"] is not None else 0.42 for row in claims]
    figure = plt.figure(figsize=(WIDTH, 0.93 * sum(heights) + 0.3))
    panels = figure.subplots(len(claims), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, row in zip(panels, claims):
        _head(axes, row, known)
        if row["values"] is None:
            axes.set_axis_off()
        else:
            _draw(axes, row)
    _legend(figure)
    return attach(figure, _data(claims))


def _head(axes: Axes, row: dict, known: dict[str, dict]) -> None:
    """Write above a strip its claim and verdict, and the paper's number beside ours."""
    name = axes.set_title(row["id"], loc="left", fontsize=_TEXT, pad=_PAD, weight="bold")
    axes.set_title(row["verdict"], loc="right", fontsize=_TEXT, pad=_PAD, weight="bold",
                   color=VERDICT_LOOKS[row["verdict"]][0])  # fmt: skip
    axes.annotate(row["short"], (1, 0), (5, 0), name, "offset points", fontsize=_TEXT, va="bottom")
    paper, ours = (words.replace("-", "−") for words in _words(row, known))
    for words, x, side, colour in ((paper, 0, "left", VERDICT_LOOKS["opposite"][0]), (ours, 1, "right", FLOAT_COLOUR)):
        axes.annotate(words, (x, 1), (0, 4), "axes fraction", "offset points", color=colour, fontsize=_SMALL, ha=side)


def in_words(row: dict, known: dict[str, dict]) -> str:
    """Return what a strip shows in words, for whoever does not see it; *known* are rows of the ledger by id."""
    return f"{', '.join(_words(row, known))}; {row['verdict']}"


def _words(row: dict, known: dict[str, dict]) -> tuple[str, str]:
    """Return what the paper says and what we find, in words."""
    paper = paper_says(row)
    if row["values"] is None:
        parts = {name: ours for name, ours in (row["together"] or {}).items() if ours is not None}
        paper = ", ".join(brief(known[name]["reported"]) for name in parts if name in known) or paper
        ours = ", ".join(number(value, ".3g") for value in parts.values()) or (
            "the worst of its parts" if row["together"] else "none"
        )
        return f"the paper: {paper}", f"ours: {ours}"
    found = interval(Ends(row["estimate"], row["low"], row["high"]), ".3g", signed if row["kind"] in SIGNED else number)
    return f"the paper: {paper}", f"ours: {found}"


def _draw(axes: Axes, row: dict) -> None:
    """Draw one strip: from above dots, the bar and the names of neighbours, with the paper's line through all."""
    values = np.sort(np.asarray(row["values"], dtype=np.float64))
    reported = row["reported"] if isinstance(row["reported"], int | float) else 0.0
    core = [*values, row["estimate"], row["low"], row["high"], reported]
    low, high = min(core), max(core)
    room = 0.16 * ((high - low) or abs(high) or 1.0)
    axes.set(xlim=(low - room, high + room), ylim=(0, 1), yticks=[])
    near = _neighbours(axes, row)
    if isinstance(row["reported"], int | float):
        axes.axvline(reported, _LINE, color=PAPER_COLOUR, ls="--", lw=1.6, zorder=3)
    else:  # a side of 0
        side = axes.get_xlim()[row["kind"] == "direction"]
        axes.axvspan(0, side, color=PAPER_COLOUR, alpha=0.13, lw=0)
        axes.axvline(0, _LINE, color=PAPER_COLOUR, lw=1)
    spread = np.modf(np.arange(len(values)) * 0.618)[0]  # even, and the same each time
    heights = _RUNS[0] + (_RUNS[1] - _RUNS[0]) * (0.1 + 0.8 * spread)
    axes.plot(values, heights, "o", color=FLOAT_COLOUR, ms=3.2, alpha=0.45, mew=0)
    axes.plot([row["low"], row["high"]], [_BAR] * 2, "|-", color=FLOAT_COLOUR, lw=2.4, ms=6, mew=1.4)
    axes.plot(row["estimate"], _BAR, "o", color=FLOAT_COLOUR, mec="white", ms=6)
    for names, place in near:
        axes.text(place, _NAMES, names, transform=axes.transAxes, ha="center", va="center", fontsize=_SMALL, color=GREY)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=_SMALL, length=2, pad=1.5)
    axes.spines["left"].set_visible(False)


def _neighbours(axes: Axes, row: dict) -> list[tuple[str, float]]:
    """Draw the means of neighbours that the axis holds; return their names, close ones as one text, with places."""
    means = {_SHORT.get(name, name): mean for name, mean in _means(row).items()}
    if row["kind"] == "correlation":  # these are the dots themselves
        return []
    low, high = axes.get_xlim()
    places = {name: (mean - low) / (high - low) for name, mean in means.items()}
    for name, place in places.items():
        if 0 <= place <= 1:
            axes.axvline(means[name], _LINE, color=GREY, lw=1.3, alpha=0.5, zorder=0)
    inside = sorted((name for name in places if 0 <= places[name] <= 1), key=places.get)
    return labels([([name], places[name]) for name in inside])


def labels(groups: list[tuple[list[str], float]]) -> list[tuple[str, float]]:
    """Merge the names of groups, sorted by place, until no two texts overlap; return texts and their middles."""
    while True:
        texts = [named(names) for names, _ in groups]
        halves = [LETTER * (len(text) + 1) / 2 for text in texts]
        found = [min(max(place, half), 1 - half) for (_, place), half in zip(groups, halves)]
        clash = next((i for i in range(len(groups) - 1) if found[i] + halves[i] > found[i + 1] - halves[i + 1]), None)
        if clash is None:
            return list(zip(texts, found))
        (names, place), (others, other) = groups[clash : clash + 2]
        groups = [*groups[:clash], (names + others, (place + other) / 2), *groups[clash + 2 :]]


def _legend(figure: Figure) -> None:
    """Say once, below all strips, what the marks are."""
    marks = [
        Line2D([], [], ls="", marker="o", color=FLOAT_COLOUR, alpha=0.5, ms=4, label="our runs"),
        Line2D([], [], color=FLOAT_COLOUR, lw=2.4, marker="o", mec="white", label="ours, 95 %"),
        Line2D([], [], color=PAPER_COLOUR, ls="--", label="the paper"),
        Line2D([], [], color=GREY, label="neighbours, mean"),
    ]
    figure.legend(handles=marks, ncols=4, frameon=False, fontsize=_SMALL, loc="outside lower center",
                  handlelength=2.2, columnspacing=1.2)  # fmt: skip


def _data(claims: list[dict]):
    """Return what the strips show: a row for each claim, one for each run, and one for each neighbour."""
    names = ("id", "short", "estimate", "low", "high", "verdict")
    table = pd.DataFrame([{name: row[name] for name in names} | {"paper": _number(row["reported"])} for row in claims])
    numbers = {"estimate", "low", "high"}
    table = table.astype({name: float for name in numbers})
    runs = [(row["id"], value) for row in claims for value in row["values"] or ()]
    others = [
        (row["id"], name, _number(mean)) for row in claims for name, mean in _means(row).items()
    ]  # fmt: skip
    return (
        rows(table)
        .merge(
            rows(pd.DataFrame(runs, columns=["run_of", "run"])).rename(row="run_row"),
        )
        .merge(rows(pd.DataFrame(others, columns=["neighbour_of", "neighbour", "mean"])).rename(row="neighbour_row"))
    )


def _means(row: dict) -> dict[str, float]:
    return (row["held"] or {}) | (row["excluded"] or {})


def _number(value) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
