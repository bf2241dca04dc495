"""The paper's Table 3 beside ours, the answer of the chapter on stopping, its limits, and its supplement."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import stopping
from ..formats import listed, short
from ..specs import FLOAT
from . import style, tables, tolerance
from .source_data import attach
from .stopping import LABELS, RULES, first_of, limits_table, stopping_table, variants_table
from .style import DATASETS, INK


def answer(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Markdown:
    """Say in two sentences whether a limit on J keeps more decisions than accuracy, and whether at equal bits, too."""
    if any(many.sizes["seed"] < 2 for many in sets.values()):
        return Markdown(
            "**Answer.** One run has no interval, so that nothing can be said of a difference between rules."
        )
    fewer, spared, names = [], [], [DATASETS.get(title, title) for title in sets]
    for name, many, choices in zip(names, sets.values(), chosen.values()):
        held_out = choices.sel(split="held-out").flip_rate
        first, second = (int(np.flatnonzero(choices.rule.values == rule)[0]) for rule in ("accuracy", "jaccard"))
        equal = stopping.at_equal_bits(many, choices, "flip_rate").isel(choice=second).values
        by_accuracy, by_limit = (held_out.isel(choice=i).values for i in (first, second))
        fewer += [name] if statistics.paired_difference(by_accuracy, by_limit).low > 0 else []
        spared += [name] if statistics.paired_difference(equal, by_limit).low > 0 else []
    where = listed(names) if fewer == names else f"{listed(fewer)} of {listed(names)}" if fewer else "no data set here"
    return Markdown(
        "**Answer.** A limit on the Jaccard distance of the calibration boundary changes fewer held-out decisions than "
        f"a choice by accuracy on {where}. It keeps more bits for that: it is shown to change fewer decisions than a "
        f"uniform bit-width of the same average size on {listed(spared) if spared else 'no data set'}."
    )


def fewest_that_keep(many: xr.Dataset) -> xr.Dataset:
    """Return the choice by accuracy in its other reading: the fewest bits of all that keep calibration accuracy."""
    accuracy = many.accuracy.sel(split="calibration", drop=True)
    order = sorted(bits for bits in many.bits.values.tolist() if bits != FLOAT)
    keeps = accuracy.sel(bits=order) >= accuracy.sel(bits=FLOAT) - 1e-12
    bits = xr.where(keeps.any("bits"), keeps.bits[keeps.argmax("bits")], order[-1]).drop_vars("bits", errors="ignore")
    return many.sel(bits=bits).drop_vars("bits").assign(chosen_bits=bits)


def paper_table(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset], reported: dict[str, float]) -> tables.Table:
    """Tabulate the paper's Table 3: its flips and Jaccard distances beside ours, by data set and rule."""
    theirs = {("digits", "accuracy"): ("S1", "S3"), ("digits", "jaccard"): ("S2", "S4")}
    lines = []
    for title, many in sets.items():
        rules = {
            "accuracy, first drop": ("accuracy", first_of(chosen[title], "accuracy")),
            "accuracy, fewest bits": ("accuracy", fewest_that_keep(many)),
            "boundary-aware": ("jaccard", first_of(chosen[title], "jaccard")),
        }
        for said, (rule, choice) in rules.items():
            at = choice.sel(split="held-out").isel(nodes=0)
            line: dict = {"rule": said, "bits": tables.mean(at.chosen_bits, ".2f")}
            names = theirs.get((title, rule), ("", ""))
            for name, (head, values) in zip(names, {"flips": at.flip_rate, "J": at.boundary_jaccard}.items()):
                line[f"{head}, the paper"] = tables.number(reported[name], "g") if name else ""
                line[f"{head}, ours"] = _of_four(values)
            lines.append((DATASETS.get(title, title), line))
    counts = listed([f"{many.sizes['seed']} runs on {DATASETS.get(title, title)}" for title, many in sets.items()])
    caption = (
        "The paper's Table 3 as we read it: its held-out flip rate and boundary Jaccard distance J beside ours, for "
        "the bits chosen by accuracy, in two readings, and by a limit on calibration J. Ours are means with the "
        f"interval that holds 95 % of means of four runs, from {counts}. Compare each rule's interval with the "
        "paper's number, and with the other rules."
    )
    return tables.Table(tables.frame(lines, "data set"), caption, "table-p3")


def _of_four(values: xr.DataArray) -> tables.Cell:
    if values.size < 2:
        return tables.mean(values)
    found = statistics.prediction_interval(values.values, 4)
    return tables.interval(found._replace(low=max(found.low, 0), high=min(found.high, 1)), write=short, of=values)


def supplement(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset], limits: dict, reported: dict) -> None:
    """Show the tables of the supplement: every rule on every data set, and every limit against the paper's digits."""
    names = {title: DATASETS.get(title, title) for title in sets}
    found = [
        (stopping_table(many, chosen[title]),
         f"What each rule chooses on {names[title]}, means over {many.sizes['seed']} seeds; arrows lead from "
         "calibration to held-out values. Fewer than uniform: how many fewer held-out flips than a uniform "
         "bit-width of the same average size. Beyond τ: the fraction of both boundaries' length farther than τ from "
         "the other one.",
         f"supplement-stopping-{title}")
        for title, many in sets.items()
    ]  # fmt: skip
    theirs = {"flip_rate": reported["S2"], "boundary_jaccard": reported["S4"]}
    for kind, crossed in (("one", False), ("two", True)):
        table = limits_table(
            sets["digits"],
            stopping.choose(sets["digits"], limits),
            4,
            theirs,
            int(sets["digits"].nodes[0]),
            crossed=crossed,
        )
        caption = (
            f"Digits, every rule with {kind} limit{'s'[:crossed]}: held-out values with the interval that holds 95 % "
            "of means of four runs. A tick marks an interval that holds the paper's number."
        )
        found.append((table, caption, f"supplement-stopping-limits-{kind}"))
    tables.show_tables(found)


def variants_shown(variants: xr.Dataset, spare: float, limits: dict, reported: dict[str, float]) -> None:
    """Show what each rule gives on digits when one open choice is changed, below the paper's numbers."""
    theirs = {
        "flips by accuracy": reported["S1"], "J by accuracy": reported["S3"],
        "flips after stopping": reported["S2"], "J after stopping": reported["S4"],
    }  # fmt: skip
    caption = (
        f"Digits: held-out means over {variants.sizes['seed']} seeds when one open choice is changed, by accuracy and "
        "after stopping by a limit on J; the paper's numbers come first."
    )
    tables.show_tables([(variants_table(variants, spare, limits, theirs), caption, "supplement-stopping-variants")])


def without_grid(sets: dict[str, xr.Dataset], convolutional: dict[str, xr.Dataset]) -> Markdown:
    """Show the boundaries' distances with and without a grid, of MLPs and of small CNNs; return the lines below."""
    shown = {DATASETS.get(name, name): many for name, many in sets.items()}
    shown |= {f"{DATASETS[name]}, small CNN": many for name, many in convolutional.items()}
    return tolerance.without_ruler(shown, "supplement-stopping-tolerance")


@style.styled
def limits_figure(many: xr.Dataset, choices: xr.Dataset, reported: dict[str, float]) -> Figure:
    """Draw held-out flips against held-out J for every limit of every rule, beside the paper's two points."""
    at = choices.sel(split="held-out").isel(nodes=0)[["flip_rate", "boundary_jaccard", "chosen_bits"]]
    one = at.isel(choice=np.flatnonzero([len(stopping.parts(rule)) == 1 for rule in at.rule.values]))
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    for rule in dict.fromkeys(one.rule.values.tolist()):
        here = one.isel(choice=(one.rule == rule).values)
        colour, mark = RULES[rule]
        x, y = here.flip_rate.mean("seed"), here.boundary_jaccard.mean("seed")
        axes.plot(x, y, mark, color=colour, ms=6, alpha=0.85, label=LABELS.get(rule, "accuracy, going down"))
    other = fewest_that_keep(many).sel(split="held-out").isel(nodes=0)
    axes.plot(other.flip_rate.mean(), other.boundary_jaccard.mean(), "s", mfc="white", mec=INK, ms=8,
              label="accuracy, fewest bits that keep all of it")  # fmt: skip
    for keys, says, aside in ((("S1", "S3"), "by accuracy", (10, -4)), (("S2", "S4"), "boundary-aware", (10, -6))):
        place = [reported[name] for name in keys]
        axes.plot(*place, "*", color=style.PAPER_COLOUR, mec="white", ms=17)
        axes.annotate(f"the paper, {says}", place, aside, textcoords="offset points", color=style.PAPER_COLOUR)
    axes.set(xlabel="held-out flip rate", ylabel="held-out boundary-mask Jaccard distance", xscale="log")
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    means = one.mean("seed", keep_attrs=True)
    theirs = {
        "flip_rate_reported": ("claim", [reported["S1"], reported["S2"]]),
        "boundary_jaccard_reported": ("claim", [reported["S3"], reported["S4"]]),
    }
    return attach(figure, means.assign(theirs))
