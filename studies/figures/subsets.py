"""Figures and table of the CIFAR-10 subset: bit-widths on two rulers, what rules choose, what other choices change."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..formats import number, span
from ..multiverse import judging
from ..specs import FLOAT
from . import stopping as shown
from . import style, tables
from .source_data import attach
from .style import FLOAT_COLOUR, GREEN, PAPER_COLOUR

PAPER = {"marker": "D", "ls": "", "color": PAPER_COLOUR, "ms": 7, "zorder": 5, "label": "the paper"}
_COARSE = 21  # nodes a side of the coarse ruler, with masks thickened by a cell
_RULES = {"by accuracy": (FLOAT_COLOUR, "s"), "after stopping": (GREEN, "o")}


def rulers(many: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the held-out Jaccard distances by the baseline's ruler and by the coarse, thick one."""
    here, fine = many.sel(split="held-out"), int(many.nodes[0])
    return {
        f"J, thin mask, {fine} nodes": here.boundary_jaccard.sel(nodes=fine),
        f"J, thick mask, {_COARSE} nodes": here.thick_boundary_jaccard.sel(nodes=_COARSE),
    }


def draw_seeds(
    axes: Axes, values: xr.DataArray, colour: str, label: str = "", mark: str = "o", shift: float = 0
) -> None:
    """Draw a measure by bit-width: a pale dot a seed, and the mean over the seeds as a line."""
    places = np.arange(values.sizes["bits"]) + shift
    each = values.transpose("seed", "bits").values
    axes.plot(
        np.broadcast_to(places, each.shape).ravel(),
        each.ravel(),
        mark,
        color=colour,
        ms=3,
        alpha=0.25,
        mew=0,
        rasterized=True,
    )
    axes.plot(places, each.mean(axis=0), f"{mark}-", color=colour, ms=4.5, lw=1.2, label=label)
    axes.set(xticks=np.arange(values.sizes["bits"]), xticklabels=values.bits.values)


@style.styled
def levels_figure(many: xr.Dataset, flips: dict[int, float], distances: dict[int, float]) -> Figure:
    """Draw held-out flips and the Jaccard distance on two rulers by bit-width, with the paper's values by bits."""
    bits = [b for b in many.bits.values.tolist() if b != FLOAT]
    of = {"flips": many.flip_rate.sel(split="held-out")} | rulers(many)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.1))
    looks = ((panels[0], FLOAT_COLOUR, "o"), (panels[1], FLOAT_COLOUR, "o"), (panels[1], GREEN, "s"))
    for (title, values), (axes, colour, mark) in zip(of.items(), looks):
        draw_seeds(axes, values.sel(bits=bits), colour, title, mark)
    for axes, theirs in zip(panels, (flips, distances)):
        axes.plot([bits.index(b) for b in theirs], list(theirs.values()), **PAPER)
        axes.set(xlabel="bits")
        axes.legend(frameon=False, fontsize=8)
    panels[0].set(ylabel="held-out decisions changed", yscale="log")
    panels[1].set(ylabel="Jaccard distance of the masks", ylim=(0, 1))
    data = xr.Dataset({name: values.sel(bits=bits, drop=True).reset_coords(drop=True) for name, values in
                       zip(("flip_rate", "jaccard_thin", "jaccard_thick"), of.values())})  # fmt: skip
    stated = {name: ("reported_bits", list(one.values())) for name, one in
              (("reported_flip_rate", flips), ("reported_jaccard", distances))}  # fmt: skip
    return attach(figure, data.assign_coords(reported_bits=list(flips)).assign(stated))


def fewest_bits(many: xr.Dataset) -> xr.Dataset:
    """Return each run at the fewest bits of all that keep its calibration accuracy, wherever accuracy first drops."""
    order = [bits for bits in many.bits.values.tolist() if bits != FLOAT]
    accuracy = many.accuracy.sel(split="calibration").transpose("seed", "bits")
    lost = accuracy.sel(bits=FLOAT) - accuracy.sel(bits=order)
    bits = np.array(order)[judging.chosen([lost.values], [0.0], "any level")]
    levels = xr.DataArray(bits, {"seed": many.seed}, ("seed",))
    return many.sel(bits=levels).drop_vars("bits").assign(chosen_bits=levels)


def choices_table(many: xr.Dataset, chosen: xr.Dataset, paper: dict[str, float]) -> tables.Frame:
    """Tabulate what each rule gives, held out (Table P4): the paper's rows, then means ± deviations over seeds."""
    lines = {}
    for said, names in (("by accuracy", ("C1", "C2", "C3")), ("boundary-aware", ("C4", "C5", "C6"))):
        bits, flips, distance = (tables.number(paper[name], "g") for name in names)
        lines[f"the paper: {said}"] = {"bits": bits, "kB": "", "flips": flips, "band flips": ""}
        lines[f"the paper: {said}"] |= dict.fromkeys(rulers(many), distance)
    found = {shown.rule_name(at): at for at in shown.each(chosen)}
    first, *others = found
    rows = {f"{first} (first drop)": found[first], "fewest bits that keep accuracy": fewest_bits(many)}
    for name, at in (rows | {name: found[name] for name in others}).items():
        held_out = at.sel(split="held-out")
        lines[name] = {
            "bits": tables.mean_deviation(at.chosen_bits, ".1f"),
            "kB": tables.mean((at.model_bytes / 1000).assign_attrs(units="kB"), ".0f"),
            "flips": tables.mean_deviation(held_out.flip_rate, ".3f"),
            "band flips": tables.mean_deviation(held_out.band_flip_rate, ".3f"),
            **{title: tables.mean_deviation(values, ".2f") for title, values in rulers(at).items()},
        }  # fmt: skip
    return tables.frame(lines, "rule")


def answer(many: xr.Dataset, chosen: xr.Dataset, claims: dict[str, dict]) -> Markdown:
    """Say in two sentences what agrees with the paper, on which ruler, and what stopping does."""
    ours = [number(values.sel(bits=6).mean(), ".2f") for values in rulers(many).values()]
    bits = [number(shown.first_of(chosen, rule).chosen_bits.mean(), ".1f") for rule in ("accuracy", "jaccard")]
    agree = all(claims[name]["verdict"] != "not reproduced" for name in ("C1", "C2", "C4", "C5"))
    return Markdown(
        f"**Answer.** The paper's bits and flips are {'among' if agree else 'not all among'} ours. Its Jaccard "
        f"distances come out only on a coarse grid with thick masks, which gives {ours[1]} at 6 bits where our ruler "
        f"gives {ours[0]}. Boundary-aware stopping changes fewer decisions because it keeps more bits: {bits[1]} in "
        f"the mean where the choice by accuracy keeps {bits[0]}."
    )


def variants_data(variants: xr.Dataset, spare: float, limits: dict) -> xr.Dataset:
    """Return what both rules give, held out, along ``variant``, ``choice``, ``seed``."""
    out = []
    for name in variants.variant.values.tolist():
        choices = shown.usual_choices(variants.sel(variant=name), spare, limits).sel(split="held-out").isel(nodes=0)
        both = [shown.first_of(choices, rule) for rule in ("accuracy", "jaccard")]
        kept = [at[["chosen_bits", "flip_rate", "boundary_jaccard"]].reset_coords(drop=True) for at in both]
        out.append(xr.concat(kept, xr.Variable("choice", list(_RULES))))
    return xr.concat(out, xr.Variable("variant", variants.variant.values.tolist()))


@style.styled
def variants_figure(found: xr.Dataset, reported: dict[str, dict[str, float]]) -> Figure:
    """
    Draw what both rules give when one open choice is changed, a row a variant: dots are seeds, large marks means.

    *reported* has the paper's values, drawn as lines, by measure and rule; *found* is of :func:`variants_data`.
    """
    titles = {"chosen_bits": "bits", "flip_rate": "flips", "boundary_jaccard": "Jaccard distance"}
    names = found.variant.values.tolist()
    figure, panels = plt.subplots(1, 3, figsize=(9, 0.34 * len(names) + 1.3), sharey=True)
    for axes, (measure, title) in zip(panels, titles.items()):
        for shift, (rule, (colour, mark)) in zip((-0.16, 0.16), _RULES.items()):
            heights = np.arange(len(names)) + shift
            values = found[measure].sel(choice=rule).transpose("seed", "variant").values
            axes.plot(
                values.ravel(),
                np.broadcast_to(heights, values.shape).ravel(),
                ".",
                color=colour,
                ms=4,
                alpha=0.3,
            )
            axes.plot(values.mean(axis=0), heights, mark, color=colour, ms=5, label=rule)
            if rule in reported.get(measure, {}):
                look = {"color": colour, "ls": "--", "lw": 1, "label": f"the paper, {rule}"}
                axes.axvline(reported[measure][rule], **look)
        axes.set(xlabel=title, ylim=(len(names) - 0.5, -0.5))
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    style.legend_below(figure, panels[1], 4)
    return attach(figure, found)


def summary(many: xr.Dataset, variants: xr.Dataset) -> Markdown:
    """Say in words how far the two rulers and the variants lie apart."""
    thin, thick = (values.sel(bits=8).mean() for values in rulers(many).values())
    flips = variants.flip_rate.sel(choice="by accuracy").mean("seed")
    return Markdown(
        f"- At 8 bits the ruler alone changes the Jaccard distance from {number(thin, '.2f')} to "
        f"{number(thick, '.2f')}, for the same networks.\n- When one open choice is changed, the choice by accuracy "
        f"flips {span(flips.min(), flips.max(), '.3f')} of the held-out decisions."
    )
