"""Why the numbers differ: the table of gaps, and one figure for each explanation with what it predicted."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import explanations, ledger
from ..formats import Ends, brief, listed
from ..multiverse import judging
from ..multiverse.cifar import PLANES, STEPS
from ..multiverse.cifar_claims import split_by_gap
from . import style, tables
from .source_data import attach, joined, rows
from .style import FAINT, FLOAT_COLOUR, GREEN, GREY, INK, PINK, QUANTIZED_COLOUR

GROUPS = {
    "D": "digits by bit-width", "J": "junctions between adjacent bit-widths", "S": "stopping on digits and MNIST",
    "C": "stopping on the CIFAR-10 subset", "F": "6 bits on full CIFAR-10", "R": "optimized rounding and the gap term",
    "K": "calibration against held-out",
}  # fmt: skip
OUTCOME_COLOURS = {"held": GREEN, "open": GREY, "failed": QUANTIZED_COLOUR}
_SHAPES = {"held": "o", "open": "s", "failed": "D"}
_MARKS = {"held": "✓", "open": "?", "failed": "✗"}
_HELD_OUT = {"split": "held-out"}
_BAND = {"share": 0.2, "nearness": "margin"}
MEASURES = {
    "accuracy_lost": "accuracy lost", "flip_rate": "flips", "band_flip_rate": "band flips", "chosen_bits": "bits",
    "boundary_jaccard": "J", "band_pair_order_flip_rate": "band pair-order flips",
}  # fmt: skip


def answer(ledger_rows: list[dict], found: list[dict]) -> Markdown:
    """Say how many explanations survive, and how many claims stay unexplained."""
    survive = [entry["id"] for entry in found if entry["survives"]]
    fail = [entry["id"] for entry in found if not entry["survives"]]
    left = sum(row["explanation"] == "unexplained" for row in ledger_rows)
    who = f" ({listed(survive)})" if survive else ""
    return Markdown(
        f"**Answer.** Of {len(found)} explanations, {len(survive)}{who} survived a test on other numbers, and "
        f"{len(fail)} did not ({listed(fail)}). Of {len(ledger_rows)} rows of the ledger, {left} stay unexplained; "
        "those that are compatible need no explanation."
    )


def gaps_table(ledger_rows: list[dict], found: list[dict]) -> tables.Frame:
    """Tabulate each group of claims: how many have which verdict, what explains them, and what is left."""
    tried, lines = {name: entry["id"] for entry in found for name in entry["suggested_by"]}, {}
    for letter, title in GROUPS.items():
        here = [row for row in ledger_rows if row["id"].startswith(letter) and row["verdict"] != "not attempted"]
        verdicts = Counter(row["verdict"] for row in here)
        by: dict[str, list[str]] = {}
        for row in here:
            by.setdefault(row["explanation"], []).append(row["id"])
        left = by.pop("unexplained", [])
        failed = sorted({tried[name] for name in left if name in tried})
        explained = [f"{why}: {', '.join(names)}" for why, names in by.items() if why]
        tried_too = f" (tried: {', '.join(failed)})" if failed else ""
        lines[f"{title} ({letter})"] = {
            "verdicts": ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common()),
            "explained by": ("; ".join(explained) or "nothing that survived") + tried_too,
            "unexplained": ", ".join(left) or "none",
        }  # fmt: skip
    return tables.frame(lines, "claims about")


@style.styled
def overview_figure(found: list[dict]) -> Figure:
    """Draw the outcome of every prediction, a row for each explanation, with the claim that it is of."""
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(found) + 0.9))
    lines = []
    for height, entry in enumerate(found):
        for place, test in enumerate(entry["tests"]):
            colour, mark = OUTCOME_COLOURS[test["outcome"]], _SHAPES[test["outcome"]]
            axes.plot(place, height, mark, color=colour, ms=15)
            axes.text(place, height, test["against"], ha="center", va="center", fontsize=7.5, color="white")
            lines.append({"explanation": entry["id"], "claim": test["against"], "outcome": test["outcome"]})
    names = [f"{entry['id']}\n{'survives' if entry['survives'] else 'does not survive'}" for entry in found]
    axes.set_yticks(range(len(found)), names)
    most = max(len(entry["tests"]) for entry in found)
    axes.set(xlim=(-0.5, most - 0.5), ylim=(len(found) - 0.5, -0.5), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for outcome, mark in _SHAPES.items():
        axes.plot([], [], mark, color=OUTCOME_COLOURS[outcome], ms=8, label=outcome)
    style.legend_below(figure, axes, 3)
    return attach(figure, pd.DataFrame(lines))


def outcomes_table(entry: dict) -> tables.Frame:
    """Tabulate what an explanation predicted: the paper's number, ours at its setting, the baseline's, the outcome."""
    lines = []
    for test in entry["tests"]:
        network = test["trained"] + (" (seen before)" if test.get("seen") else "")
        paper = "above 0" if "direction" in test else brief(test["reported"])
        lines.append((test["against"], {
            "network": network, "what": what(test), "the paper": paper,
            "ours": tables.interval(Ends(test["estimate"], test["low"], test["high"]), ".3g"),
            "baseline": brief(test["baseline"]) if test["baseline"] is not None else "–", "outcome": test["outcome"],
        }))  # fmt: skip
    return tables.frame(lines, "claim")


def what(test: dict) -> str:
    """Say in words what a test measures."""
    text = MEASURES[test["measure"]]
    if test["measure"] != "chosen_bits":
        text += f", {test['bits']} bits" if "bits" in test else ", at the bits chosen by accuracy"
    if "direction" in test:
        return f"{text}: {test['direction'].replace('logits', 'without').replace('gap', 'with')} the gap term"
    return text + {"gap": ", with the gap term", "logits": ", without the gap term"}.get(test.get("method"), "")


def _draw_outcomes(figure: Figure, entry: dict) -> xr.Dataset:
    """Draw each prediction in a panel of its own: the paper's line, our interval, and the baseline's mean."""
    panels = figure.subplots(len(entry["tests"]), 1, squeeze=False)[:, 0]
    for axes, test in zip(panels, entry["tests"]):
        colour, direction = OUTCOME_COLOURS[test["outcome"]], "direction" in test
        paper = 0.0 if direction else test["reported"]
        axes.axvline(paper, color=GREY if direction else QUANTIZED_COLOUR, ls=":" if direction else "--", lw=1.3)
        axes.plot([test["low"], test["high"]], [0, 0], color=colour, lw=3, solid_capstyle="butt", alpha=0.45)
        axes.plot(test["estimate"], 0, "o", color=colour, ms=6)
        if test["baseline"] is not None and not direction:
            axes.plot(test["baseline"], 0, "o", mfc="white", color=INK, ms=5)
        axes.set(yticks=[], ylim=(-1, 1))
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelsize=7.5)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(
            f"{_MARKS[test['outcome']]} {test['against']}: {what(test)}; {test['trained']}",
            fontsize=8,
            loc="left",
            color=colour,
        )
    shown = [{key: test[key] for key in ("against", "estimate", "low", "high", "outcome")} for test in entry["tests"]]
    return rows(pd.DataFrame(shown)).rename(row="prediction")


@style.styled
def figure(entry: dict, load) -> Figure:
    """Draw an explanation: on the left what suggested it, on the right what it predicted and what came."""
    whole = plt.figure(figsize=(9.2, max(3.2, 0.2 + 0.56 * len(entry["tests"]))))
    left, right = whole.subfigures(1, 2, width_ratios=(1.0, 1.15))
    axes = left.subplots()
    draw = {"folding": _draw_folding, "ruler": _draw_rulers, "accuracy rule": _draw_bits, "weak rounding": _draw_steps}
    suggested = draw[entry["id"]](axes, entry, load)
    axes.set_title("What suggested it", fontsize=10)
    predicted = _draw_outcomes(right, entry)
    right.suptitle("What it predicts: the paper (dashed), ours, the baseline (white)", fontsize=9)
    return attach(whole, joined({"suggested": suggested, "predicted": predicted}, "part"))


def _draw_folding(axes: Axes, entry: dict, load) -> xr.Dataset:
    """Draw flips in the band against all flips, with batch norms in float and folded, network by network."""
    many = load("full-cifar-10").sel(_HELD_OUT | _BAND | {"bits": 6, "scheme": "narrow"}).dropna("step", how="all")
    for trained, mark in zip(many.trained.values.tolist(), "osD"):
        here = many.sel(trained=trained)
        for seed in here.seed.values:
            pair = here.sel(seed=seed, step=list(STEPS[:2]))
            axes.plot(pair.flip_rate, pair.band_flip_rate, color=FAINT, lw=1, zorder=1)
        for step, colour in zip(STEPS, (FLOAT_COLOUR, OUTCOME_COLOURS["held"], GREY)):
            one = here.sel(step=step)
            axes.plot(one.flip_rate, one.band_flip_rate, mark, color=colour, ms=5)
            axes.plot([], [], "o", color=colour, ms=5, label=f"step for {step}" * (mark == "o"))
        axes.plot([], [], mark, mfc="none", color=INK, ms=5, label=trained)
    stated = ledger.reported()
    axes.plot(stated["F2"], stated["F3"], "*", ms=14, color=QUANTIZED_COLOUR, label="the paper")
    axes.set(xlabel="decisions changed at 6 bits", ylabel="decisions changed in the band")
    axes.legend(frameon=False, fontsize=6.5, loc="upper left")
    return many[["flip_rate", "band_flip_rate"]]


def _draw_rulers(axes: Axes, entry: dict, load) -> xr.Dataset:
    """Draw the Jaccard distance at 6 bits against that at 8, a dot for each ruler, and the one that is frozen."""
    chosen_on = entry["chosen_on"]
    where = {name: chosen_on[name] for name in ("trained", "step", "scheme")}
    mean = load(chosen_on["data"]).boundary_jaccard.sel(where).mean("seed")
    for cells, colour in zip(mean.thickness.values, (FLOAT_COLOUR, OUTCOME_COLOURS["held"], PINK)):
        here = mean.sel(thickness=cells)
        axes.plot(here.sel(bits=8).values.ravel(), here.sel(bits=6).values.ravel(), ".", color=colour, ms=5,
                  label=f"thickened by {cells}" if cells else "thin masks")  # fmt: skip
    frozen = mean.sel(entry["frozen"])
    axes.plot(frozen.sel(bits=8), frozen.sel(bits=6), "o", mfc="none", color=INK, ms=10, label="frozen")
    stated = ledger.reported()
    axes.plot(stated["C6"], stated["C3"], "*", ms=14, color=QUANTIZED_COLOUR, label="the paper")
    axes.set(xlabel="J at 8 bits", ylabel="J at 6 bits")
    axes.legend(frameon=False, fontsize=7)
    return mean.sel(bits=[8, 6]).to_dataset(name="boundary_jaccard")


def _draw_bits(axes: Axes, entry: dict, load) -> xr.Dataset:
    """Draw how many networks of the subset each choice by accuracy gives which bits."""
    out, width = {}, 0.4
    for i, (path, colour) in enumerate((("going down", FLOAT_COLOUR), ("any level", OUTCOME_COLOURS["held"]))):
        test = next(one for one in entry["tests"] if one["measure"] == "chosen_bits")
        bits = explanations.bits_by_accuracy(
            load(test["data"]).sel(trained=test["trained"]), test | {"path": path, "drop": 0.0}
        )
        levels, counts = np.unique(bits.values, return_counts=True)
        label = {"going down": "last before the first drop", "any level": "fewest that keep it"}[path]
        axes.bar(levels + (i - 0.5) * width, counts, width, color=colour, label=label)
        out[path] = bits.to_dataset(name="chosen_bits")
    axes.axvline(ledger.reported()["C1"], color=QUANTIZED_COLOUR, ls="--", label="the paper")
    axes.set(xlabel="bits chosen by accuracy", ylabel="networks of the subset")
    axes.invert_xaxis()
    axes.legend(frameon=False, fontsize=7)
    return joined(out, "path")


def _draw_steps(axes: Axes, entry: dict, load) -> xr.Dataset:
    """Draw the pair-order flips in the band at 4 bits by steps and inputs of the optimized rounding."""
    many = load("roundings").sel(_HELD_OUT | _BAND | {"bits": 4}).isel(trained=0)
    order = many.band_pair_order_flip_rate
    for examples, mark in zip(order.examples.values, "osD"):
        for method, colour in (("layers", FLOAT_COLOUR), ("logits", OUTCOME_COLOURS["held"])):
            line = order.sel({"examples": examples, "method": method}).mean("seed").dropna("optimization_steps")
            if line.size:
                label = f"{method}, {examples:,} inputs"
                axes.plot(line.optimization_steps, line, f"{mark}-", color=colour, ms=4, lw=1, label=label)
    nearest = many.nearest_band_pair_order_flip_rate.mean("seed")
    for granularity, look in (("tensor", ":"), ("channel", "-.")):
        value = float(nearest.sel(granularity=granularity))
        axes.axhline(value, color=GREY, lw=1, ls=look, label=f"nearest, a {granularity}")
    axes.axhline(ledger.reported()["R3"], color=QUANTIZED_COLOUR, ls="--", label="the paper")
    axes.set(xscale="log", xlabel="steps of optimized rounding", ylabel="pair-order flips in the band", ylim=(0, None))
    axes.legend(frameon=False, fontsize=6.5, ncols=2)
    return many[["band_pair_order_flip_rate", "nearest_band_pair_order_flip_rate"]]


def summary(entry: dict) -> Markdown:
    """Say in words how the predictions of an explanation came out."""
    by_outcome = Counter(test["outcome"] for test in entry["tests"])
    counts = [f"{by_outcome[outcome]} {outcome}" for outcome in explanations.OUTCOMES if by_outcome[outcome]]
    verdict = (
        "**It survives:** no prediction failed." if entry["survives"]
        else "**It does not survive:** a prediction failed." if by_outcome["failed"]
        else "**It is not shown:** nothing that it predicted came nearer to the paper."
    )  # fmt: skip
    where = ", ".join(f"{key} {value}" for key, value in entry["frozen"].items())
    held = [t for t in entry["tests"] if t["outcome"] == "held" and "direction" not in t and t["baseline"] is not None]
    both = [t for t in held if t["low"] <= t["baseline"] <= t["high"]]
    if both:
        verdict += (
            f" In {len(both)} of the {len(held)} predictions that held, our interval also holds the baseline's mean: "
            "these are weak evidence."
        )
    return Markdown(
        f"{entry['says']} Suggested by {listed(entry['suggested_by'])} ({entry['looked_at']}). "
        f"Frozen setting: {where}.\n\n{verdict} Of {len(entry['tests'])} predictions: {listed(counts)}."
    )


# What the gap term changes, against the same rounding without it.

_GAINS = {
    "boundary_jaccard": "J, held out", "band_pair_order_flip_rate": "band pair-order flips",
    "band_flip_rate": "band flips", "accuracy_lost": "accuracy lost",
}  # fmt: skip


def gains(many: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """
    Return what the gap term adds to each measure: ``estimate``, ``low``, ``high`` of the mean difference.

    Along ``measure``, ``bits``, ``eta``, ``optimization_steps`` and ``examples``, paired by network; by the baseline's
    ruler on the finest grid.
    """
    usual = _HELD_OUT | _BAND | {"plane": PLANES[0], "extent": "range", "nodes": int(many.nodes.max()), "thickness": 0}
    here = many.sel(usual).isel(trained=0, drop=True)
    plain, with_term = split_by_gap(here)
    differences = with_term - plain.sel({"method": "logits"}, drop=True)
    found = [judging.interval(differences[name], np.inf, level) for name in _GAINS]
    return xr.concat(found, xr.Variable("measure", list(_GAINS)), coords="minimal", compat="override")


@style.styled
def gain_figure(many: xr.Dataset) -> Figure:
    """Draw what the gap term changes, by its weight: a row for each measure, a column for each bit-width."""
    found = gains(many)
    whole, panels = plt.subplots(
        len(_GAINS), found.sizes["bits"], figsize=(7.6, 1.75 * len(_GAINS)), sharex=True, sharey="row", squeeze=False
    )
    kept = [
        (steps, examples)
        for steps in found.optimization_steps.values.tolist()
        for examples in found.examples.values.tolist()
        if bool(found.estimate.sel(optimization_steps=steps, examples=examples).notnull().any())
    ]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(kept)))
    shifts = np.linspace(-0.1, 0.1, len(kept))
    for row, (measure, title) in zip(panels, _GAINS.items()):
        for axes, bits in zip(row, found.bits.values.tolist()):
            axes.axhline(0, color=GREY, lw=1, ls=":")
            for (steps, examples), colour, shift in zip(kept, colours, shifts):
                one = found.sel(measure=measure, bits=bits, optimization_steps=steps, examples=examples)
                ends = np.abs(np.stack([one.low, one.high]) - one.estimate.values)
                x = np.arange(one.sizes["eta"]) + shift
                label = f"{steps} steps, {examples:,} inputs"
                axes.errorbar(x, one.estimate, ends, fmt="o", ms=3.5, lw=1, color=colour, label=label)
            axes.set_title(f"{title}, {bits} bits", fontsize=9)
            axes.set_xticks(range(found.sizes["eta"]), [f"η = {eta:g}" for eta in found.eta.values])
            axes.tick_params(labelsize=8)
    style.legend_below(whole, panels[0, 0], 3)
    return attach(whole, found)


def gain_table(many: xr.Dataset) -> tables.Frame:
    """Tabulate in how many of the roundings the gap term lowers or raises each measure beyond chance, by bit-width."""
    found, lines = gains(many), {}
    for measure, title in _GAINS.items():
        lines[title] = {}
        for bits in found.bits.values.tolist():
            one = found.sel(measure=measure, bits=bits)
            counts = {"lower": (one.high < 0).sum(), "higher": (one.low > 0).sum(), "of": one.estimate.notnull().sum()}
            lines[title] |= {f"{bits} bits: {name}": tables.number(count, ".0f") for name, count in counts.items()}
    return tables.frame(lines, "measure")
