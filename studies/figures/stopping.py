"""Tables, figures and words of calibration-to-test stopping: what each rule chooses, and what that costs and saves."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import stopping
from ..formats import ends, listed, number
from ..specs import FLOAT
from . import style, tables
from .source_data import attach, joined
from .style import DATASETS, FLOAT_COLOUR, GREEN, GREY, INK, PINK, QUANTIZED_COLOUR, SKY, level_colour
from .tables import arrow, beyond_column, difference, frame, mean

# One colour and one mark for each rule, everywhere; told apart without colour too.
RULES = {
    "accuracy": (INK, "s"), "flips": (SKY, "v"), "band flips": (GREEN, "^"),
    "jaccard": (QUANTIZED_COLOUR, "o"), "jaccard and band flips": (PINK, "D"), "beyond τ": (FLOAT_COLOUR, "P"),
}  # fmt: skip


# As figures name the rules.
LABELS = {
    "flips": "limit on flips", "band flips": "limit on band flips", "jaccard": "limit on J",
    "jaccard and band flips": "limits on J and band flips", "beyond τ": "limit on tolerance Jaccard",
}  # fmt: skip


_MEASURES = {"jaccard": "J", "beyond τ": "tolerance J"}  # what a rule's limit is on, in tables


def label(choice: xr.Dataset) -> str:
    """Return the short name of a choice's rule."""
    rule = choice.rule.item()
    return LABELS.get(rule, "accuracy" if choice.limit == 0 else f"accuracy drop ≤ {choice.limit.item():g}")


def rule_name(choice: xr.Dataset) -> str:
    """Write a choice's rule with its limits; an accuracy drop of 0 is "chosen by accuracy"."""
    rule, limit = choice.rule.item(), choice.limit.item()
    if rule == "accuracy":
        return "chosen by accuracy" if limit == 0 else f"accuracy drop ≤ {limit:g}"
    limits = zip(stopping.parts(rule), (limit, choice.second_limit.item()))
    return " and ".join(f"{_MEASURES.get(part, part)} ≤ {value:g}" for part, value in limits)


def usual_choices(many: xr.Dataset, spare: float = 0.5, limits: dict = stopping.LIMITS) -> xr.Dataset:
    """
    Return the choices that tables show: by accuracy, within NNCF's drop of 0.01, and by each other rule at one limit.

    That limit is the loosest of the grid at which calibration flips are at most *spare* times those chosen by accuracy.
    """
    choices = stopping.choose(many, limits)
    kept = [choices.isel(choice=((choices.rule == "accuracy") & (choices.limit == at)).values) for at in (0.0, 0.01)]
    others = [rule for rule in RULES if rule != "accuracy"]
    picked = [stopping.usual_limit(choices, rule, spare).expand_dims("choice") for rule in others]
    return xr.concat([*kept, *picked], "choice", data_vars="all", coords="minimal", compat="override")


def each(choices: xr.Dataset) -> list[xr.Dataset]:
    """Return choices one by one."""
    return [choices.isel(choice=i) for i in range(choices.sizes["choice"])]


def first_of(choices: xr.Dataset, rule: str) -> xr.Dataset:
    """Return the first choice by a rule."""
    return choices.isel(choice=int(np.flatnonzero(choices.rule.values == rule)[0]))


def stopping_table(many: xr.Dataset, choices: xr.Dataset, nodes: int | None = None) -> tables.Frame:
    """
    Tabulate what each choice gives: bits, flips, band flips, Jaccard and tolerance Jaccard distance on both splits.

    Means over the seeds, calibration → held-out, Jaccard at *nodes* or else the first; the last column is the tolerance
    Jaccard distance. "Fewer than uniform" compares held-out flips with those of a uniform bit-width of the same average
    size, paired by seed, with the 95 % interval of the mean difference.
    """
    beyond, tau = beyond_column(many.tolerance_jaccard)
    equal = stopping.at_equal_bits(many, choices, "flip_rate")
    nodes, lines = many.nodes.values[0] if nodes is None else nodes, {}
    for i, at in enumerate(each(choices)):
        here = at.sel(nodes=nodes, tau=tau)
        lines[rule_name(at)] = {
            "bits": mean(at.chosen_bits, ".2f"), "flips": arrow(at.flip_rate),
            "fewer than uniform": difference(equal.isel(choice=i), at.flip_rate.sel(split="held-out")),
            "band flips": arrow(at.band_flip_rate, ".3f"), "J": arrow(here.boundary_jaccard, ".3f"),
            beyond: arrow(here.tolerance_jaccard, ".3f"),
        }  # fmt: skip
    return frame(lines, "rule")


def limits_table(
    many: xr.Dataset, choices: xr.Dataset, means_of: int, reported: dict[str, float], nodes: int, *, crossed: bool
) -> tables.Frame:
    """
    Tabulate every limit of the boundary-aware rules, with prediction intervals where the paper has a number.

    The paper's values, *reported* by measure, are a mean of *means_of* runs; *crossed* shows limits on two measures at
    once.
    """
    columns = {"chosen_bits": ("bits", ".1f"), "flip_rate": ("flips", ".4f"), "boundary_jaccard": ("J", ".3f")}
    lines = {}
    kept = [rule for rule in stopping.BOUNDARY_AWARE if (len(stopping.parts(rule)) > 1) == crossed]
    at_one_place = choices.sel(split="held-out", nodes=nodes)
    for at in each(at_one_place.isel(choice=choices.rule.isin(kept).values)):
        line, agree = {"fell back to the most bits": tables.number(float(at.fallback.mean()), ".0%")}, True
        for name, value in reported.items():
            (title, form), found = columns[name], statistics.prediction_interval(at[name].values, means_of)
            cell, inside = tables.interval(found, form, of=at[name]), found.low <= value <= found.high
            agree &= inside
            line[f"{title} (paper {value:g})"] = cell._replace(text=cell.text + " ✓") if inside else cell
        lines[rule_name(at)] = line | {"all agree": "yes" if agree else ""}
    return frame(lines, "limit")


def variants_table(variants: xr.Dataset, spare: float, limits: dict, reported: dict[str, float]) -> tables.Frame:
    """Tabulate what choices by accuracy and by Jaccard give, held out, by variant; the paper's numbers make row one."""
    lines = {"the paper": {title: tables.number(value, "g") for title, value in reported.items()}}
    for name in variants.variant.values.tolist():
        many, line = variants.sel(variant=name), {}
        choices = usual_choices(many, spare, limits)
        for rule, said in (("accuracy", "by accuracy"), ("jaccard", "after stopping")):
            at = first_of(choices, rule).sel(split="held-out").isel(nodes=0)
            line |= {
                f"bits {said}": mean(at.chosen_bits, ".1f"), f"flips {said}": mean(at.flip_rate),
                f"J {said}": mean(at.boundary_jaccard, ".3f"),
            }  # fmt: skip
        lines[name] = line
    return frame(lines, "variant")


@style.styled
def price_figure(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Figure:
    """Draw how many held-out flips each rule saves against a uniform bit-width of the same average size."""
    figure, panels = plt.subplots(1, len(sets), figsize=(3.1 * len(sets) + 1.2, 3.2), sharey=True, squeeze=False)
    shown = {}
    for axes, (title, many) in zip(panels[0], sets.items()):
        choices = chosen[title]
        saved = stopping.at_equal_bits(many, choices, "flip_rate") - choices.flip_rate.sel(split="held-out")
        found = np.array([_gain(values) for values in saved.transpose("choice", "seed").values]).T
        names = [label(choice) for choice in each(choices)]
        axes.axvline(0, color=INK, lw=0.8, ls=":")
        for place, (middle, low, high) in enumerate(found.T):
            colour, mark = RULES[choices.rule.values[place]]
            axes.errorbar(
                middle, place, xerr=[[middle - low], [high - middle]], fmt=mark, color=colour, ms=6, capsize=3
            )
        axes.set_yticks(range(len(names)), names)
        axes.set(title=DATASETS.get(title, title), ylim=(len(names) - 0.5, -0.5))
        axes.set_xlabel("costs flips  ←  0  →  saves flips", fontsize=9)
        axes.locator_params(axis="x", nbins=3)
        shown[title] = xr.Dataset(
            dict(zip(("saved", "low", "high"), ((("choice",), ends) for ends in found))), {"rule": ("choice", names)}
        )
    return attach(figure, joined(shown))


def _gain(saved: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of what is saved with its 95 % interval, which one run has not."""
    if len(saved) < 2:
        return (saved.mean(),) * 3
    return tuple(statistics.paired_difference(saved, np.zeros_like(saved)))


@style.styled
def transfer_figure(sets: dict[str, xr.Dataset]) -> Figure:
    """Draw calibration against held-out boundary Jaccard, a dot for every seed and level, a panel for each data set."""
    figure, panels = style.panels(len(sets), 3, (3.2, 3.4))
    shown = {}
    for axes, (title, many) in zip(panels, sets.items()):
        jaccard = many.boundary_jaccard.isel(nodes=0).sel(bits=many.bits != FLOAT).transpose("seed", "bits", "split")
        shown[title] = jaccard.to_dataset()
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        for bits in jaccard.bits.values.tolist():
            look = {"ms": 3.5, "alpha": 0.6, "mec": "none", "color": level_colour(bits), "label": f"{bits}"}
            axes.plot(*jaccard.sel(bits=bits).values.T, "o", rasterized=True, **look)
        text = f"r = {number(np.corrcoef(jaccard.values.reshape(-1, 2).T)[0, 1], '.3f')}"
        if many.sizes["seed"] > 2:
            within = [np.corrcoef(jaccard.sel(bits=bits).values.T)[0, 1] for bits in jaccard.bits]
            text += f"\nwithin a level {number(np.median(within), '.2f')} (median)"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5)
        axes.set(
            title=DATASETS.get(title, title), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
            xlabel="J, calibration slice", ylabel="J, held-out slice",
        )  # fmt: skip
    panels[0].legend(title="bits", frameon=False, fontsize=7.5, title_fontsize=8, loc="lower right", labelspacing=0.2)
    return attach(figure, joined(shown))


@style.styled
def front_figure(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Figure:
    """Draw held-out flips against model bytes: the same bits for all networks as a line, each rule as a mark."""
    figure, panels = style.panels(len(sets), 3, (3.3, 3.4))
    shown = {}
    for axes, (title, many) in zip(panels, sets.items()):
        equal = _front(many.sel(bits=[bits for bits in many.bits.values if bits not in (FLOAT, 2)]))
        rules = _front(chosen[title])
        shown[title] = equal.merge(rules.rename(flip_rate="rule_flip_rate", model_bytes="rule_model_bytes"))
        axes.plot(equal.model_bytes / 1000, equal.flip_rate, ".-", color=GREY, lw=1, label="uniform bit-width")
        for at in (equal.sel(bits=bits) for bits in equal.bits):
            look = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": 7.5, "color": GREY}
            axes.annotate(str(at.bits.item()), (at.model_bytes / 1000, at.flip_rate), **look)
        _draw_rules(axes, each(rules))
        axes.set_yscale("symlog", linthresh=0.002)
        axes.set_ylim(bottom=-0.0002)
        axes.set(title=DATASETS.get(title, title), xlabel="model size, kB", ylabel="held-out flip rate")
    legend = style.legend_below(figure, panels[0], 3)
    plt.setp(legend.legend_handles[1:], markersize=7)
    return attach(figure, joined(shown))


def _front(many: xr.Dataset) -> xr.Dataset:
    """Return the means over seeds of bytes and held-out flips."""
    return many[["model_bytes", "flip_rate"]].sel(split="held-out", drop=True).mean("seed", keep_attrs=True)


def _draw_rules(axes, rules: list[xr.Dataset]) -> None:
    places = [(at.model_bytes.item() / 1000, at.flip_rate.item()) for at in rules]
    for i, (at, place) in enumerate(zip(rules, places)):
        rule = at.rule.item()
        (colour, mark), full = RULES[rule], rule != "accuracy" or at.limit == 0
        size = 7 + 4 * places[i + 1 :].count(place)  # so that it shows below the later ones at its place
        axes.plot(
            *place, mark, color=colour, mfc=colour if full else "white", ms=size, mew=1.2, alpha=0.9,
            label=label(at),
            zorder=3 - size / 100,  # the larger ones below those of other places, too
        )  # fmt: skip


@style.styled
def ruler_figure(many: xr.Dataset, reported: dict[int, float]) -> Figure:
    """Draw held-out boundary Jaccard against the grid, thin masks and thick ones, beside the paper's values by bits."""
    names = {"boundary_jaccard": "one-cell mask", "thick_boundary_jaccard": "thickened by a cell on every side"}
    shown = many[list(names)].sel(bits=list(reported), split="held-out").sortby("nodes")
    nodes = shown.nodes.values.tolist()
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True)
    for axes, (name, title) in zip(panels, names.items()):
        for bits, value in reported.items():
            colour, here = level_colour(bits), shown[name].sel(bits=bits).transpose("nodes", "seed")
            axes.plot(nodes, here, "-", color=colour, alpha=0.25, lw=0.8)
            axes.plot(nodes, here.median("seed"), "o-", color=colour, label=f"{bits} bits, median")
            axes.axhline(value, color=colour, ls=":", lw=1.4, label=f"{bits} bits, the paper")
        axes.set(title=title, xlabel="nodes a side", xscale="log", xticks=nodes, xticklabels=nodes, ylim=(0, 1))
        axes.minorticks_off()
    panels[0].set_ylabel("boundary-mask Jaccard distance")
    panels[0].legend(frameon=False, fontsize=8)
    theirs = ("bits", list(reported.values()), {"long_name": "boundary-mask Jaccard distance that the paper reports"})
    return attach(figure, shown.assign(reported=theirs))


def summary(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Markdown:
    """Say in words what the stopping rules gained and cost; every number comes from the runs."""
    lines = []
    for title, many in sets.items():
        choices = chosen[title]
        first, second = (first_of(choices.sel(split="held-out"), rule) for rule in ("accuracy", "jaccard"))
        bits = [number(at.chosen_bits.mean(), ".2f") for at in (first, second)]
        text = (
            f"- **{DATASETS.get(title, title)}.** The choice by accuracy has {bits[0]} bits, and stopping at Jaccard ≤ "
            f"{second.limit.item():g} has {bits[1]} bits."
        )
        if many.sizes["seed"] > 1:
            fewer = statistics.paired_difference(first.flip_rate.values, second.flip_rate.values)
            text += f" Stopping changes {number(fewer.estimate)} fewer {ends(fewer)} of the held-out decisions."
            text += _at_equal_bits(many, choices)
        lines.append(text)
    return Markdown("\n".join(lines))


def _at_equal_bits(many: xr.Dataset, choices: xr.Dataset) -> str:
    """Say which rules save or cost flips against a uniform bit-width, as far as their intervals tell."""
    if choices.chosen_bits.min() == choices.chosen_bits.max():
        return " Every rule gives all networks the same bits, so that a uniform bit-width is all there is."
    equal = stopping.at_equal_bits(many, choices, "flip_rate").transpose("choice", "seed")
    held_out = each(choices.sel(split="held-out"))
    gains = [statistics.paired_difference(same, at.flip_rate.values) for at, same in zip(held_out, equal.values)]
    fewer = [f"“{rule_name(at)}”" for at, gain in zip(held_out, gains) if gain.low > 0]
    more = [f"“{rule_name(at)}”" for at, gain in zip(held_out, gains) if gain.high < 0]
    text = f" Rules shown to change fewer than a uniform bit-width of the same size: {listed(fewer) or 'none'}."
    return text + (f" Rules shown to change more: {listed(more)}." if more else "")
