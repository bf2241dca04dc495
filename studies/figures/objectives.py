"""Tables, figure and words of the study of rounding objectives; every number comes from its joined runs."""

from collections import Counter

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from .. import objectives
from ..formats import listed, number, signed
from . import style, tables
from .source_data import attach, rows
from .style import FAINT, GREEN, GREY, INK, PINK, QUANTIZED_COLOUR, SKY
from .tables import Cell

# Measure, its title, the form of its numbers; of masks on the first grid, of boundaries at the usual tolerance.
MEASURES = (
    ("accuracy", "accuracy", ".4f"), ("flip_rate", "flips", ".4f"), ("band_flip_rate", "band flips", ".4f"),
    ("band_pair_order_flip_rate", "band pair-order flips", ".4f"), ("boundary_jaccard", "J", ".3f"),
    ("effective_displacement", "d_eff", ".4f"), ("tolerance_jaccard", "beyond τ", ".3f"),
    ("displacement", "displacement, median", ".4f"),
)  # fmt: skip
NAMES = {
    "nearest": "rounding to nearest", "gptq": "GPTQ", "step": "nearest on learned steps",
    "layers": "optimized layer by layer", "mse": "optimized on the logits (plain)", "gap": "boundary gap (the paper's)",
    "hinge": "hinge on the gap", "weighted": "margin weights", "kl": "KL", "band kl": "KL on the band",
    "boundary": "boundary points", "mse, step": "plain with learned steps", "kl, step": "KL with learned steps",
}  # fmt: skip
# Told apart by mark as well as by colour: beside the study's objectives, plain, terms, learned steps.
MARKS = {
    "nearest": (GREY, "s"), "gptq": (GREY, "D"), "step": (GREY, "v"), "layers": (GREY, "^"),
    "mse": (INK, "o"), "gap": (QUANTIZED_COLOUR, "o"), "hinge": (QUANTIZED_COLOUR, "^"), "weighted": (SKY, "o"),
    "kl": (GREEN, "o"), "band kl": (GREEN, "^"), "boundary": (PINK, "o"),
    "mse, step": (INK, "v"), "kl, step": (GREEN, "v"),
}  # fmt: skip
_TABLED = ("accuracy", "band_flip_rate", "boundary_jaccard", "tolerance_jaccard")  # what a table has room for
_JUDGED = (("accuracy", "accuracy", ".4f"), ("band_flip_rate", "band flips", ".4f"), ("boundary_jaccard", "J", ".3f"))


def held_out(picked: xr.Dataset, measure: str) -> xr.DataArray:
    """Return a held-out measure: of masks on the first grid, boundaries at the usual tolerance, shifts in median."""
    at = {"split": "held-out", "quantile": 0.5, "tau": _beyond(picked)[1]}
    values = picked[measure].isel(nodes=0, missing_dims="ignore")
    return values.sel({dim: place for dim, place in at.items() if dim in values.dims})


def means_table(picked: xr.Dataset) -> tables.Frame:
    """Tabulate the held-out means of every family over the seeds."""
    shown, lines = [(held_out(picked, name), title, form) for name, title, form in _columns(picked)], {}
    for family in picked.family.values.tolist():
        undecided = tables.mean(picked.undecided_gates.sel(family=family), ".2%")
        line = {"strengths": _strengths(picked.strength.sel(family=family))}
        line |= {title: tables.mean(values.sel(family=family), form) for values, title, form in shown}
        lines[NAMES[family]] = line | {"undecided": "" if family in objectives.BASELINES_OF else undecided}
    return tables.frame(lines, "objective")


def _columns(picked: xr.Dataset) -> list[tuple[str, str, str]]:
    """Return :data:`MEASURES` with the tolerance in the title of the tolerance Jaccard distance."""
    beyond = {"tolerance_jaccard": _beyond(picked)[0]}
    return [(name, beyond.get(name, title), form) for name, title, form in MEASURES if name in _TABLED]


def _strengths(values: xr.DataArray) -> Cell:
    """Write how often each strength was chosen."""
    seen = sorted(Counter(values.values[np.isfinite(values)].tolist()).items())
    text = ", ".join(f"{strength:g} ({count})" for strength, count in seen)
    return Cell(text, {f"networks at {strength:g}": count for strength, count in seen})


def differences_table(picked: xr.Dataset) -> tables.Frame:
    """
    Tabulate each family less plain optimized rounding, over at least two seeds: mean of paired differences, its 95 %
    interval, and in brackets the smallest difference that the seeds would have seen four times in five.
    """

    def cell(family: str, measure: str, form: str) -> Cell:
        found, of = compared(picked, family, measure), held_out(picked, measure).sel(family=family)
        made = tables.interval(found.difference, form, write=signed, of=of)
        text = f"{made.text} ({number(found.detectable, form)})"
        return made._replace(text=text, numbers=made.numbers | {"detectable": found.detectable})

    columns, families = _columns(picked), _others(picked)
    lines = {NAMES[one]: {title: cell(one, name, form) for name, title, form in columns} for one in families}
    return tables.frame(lines, "objective")


def _others(picked: xr.Dataset) -> list[str]:
    return [family for family in picked.family.values.tolist() if family != objectives.PLAIN]


def compared(picked: xr.Dataset, family: str, measure: str) -> objectives.Comparison:
    """Compare a family's held-out measure with that of plain optimized rounding."""
    return objectives.compare(held_out(picked, measure), family)


def _beyond(picked: xr.Dataset) -> tuple[str, float]:
    """Return the title of the column of tolerance Jaccard distances, and their tolerance."""
    return tables.beyond_column(picked.tolerance_jaccard.sel(family="nearest"))


def beats_plain(picked: xr.Dataset, family: str) -> dict[str, bool]:
    """
    Say what a family does against plain optimized rounding, by the rule written before the runs.

    "band flips" and "J": fewer, sure for all families at once (Bonferroni's 95 %); "accuracy kept": the 95 % interval
    of the difference does not lie below 0; "beats": all three.
    """
    fewer = {title: compared(picked, family, name).strict.high < 0 for name, title, _ in _JUDGED[1:]}
    kept = compared(picked, family, "accuracy").difference.high >= 0
    return fewer | {"accuracy kept": kept, "beats": all(fewer.values()) and kept}


@style.styled
def front_figure(sets: dict[str, xr.Dataset]) -> Figure:
    """
    Draw accuracy against band flips, held out, less those of plain optimized rounding, paired, with 95 % intervals.

    Rounding to nearest, with learned steps or without, lies so far out that it would hide what the others differ in.
    """
    figure, panels = style.panels(len(sets), 3, (3.1, 2.55), (0, 0.9))
    names, drawn = ("band_flip_rate", "accuracy"), []
    for axes, (title, picked) in zip(panels, sets.items()):
        axes.axhline(0, color=FAINT, lw=0.8)
        axes.axvline(0, color=FAINT, lw=0.8)
        for family, (colour, mark) in MARKS.items():
            if family in ("nearest", "step"):
                continue
            x, y = found = [compared(picked, family, name).difference for name in names]
            bars = [[[one.estimate - one.low], [one.high - one.estimate]] for one in found]
            axes.errorbar(
                x.estimate, y.estimate, xerr=bars[0], yerr=bars[1], fmt=mark, color=colour, ms=6, lw=0.7, alpha=0.85,
                mfc="white" if family in objectives.BASELINES_OF else colour, label=NAMES[family],
            )  # fmt: skip
            drawn.append({"data_set": title, "family": family})
            for name, one in zip(names, found):
                drawn[-1] |= {name: one.estimate, f"{name}_low": one.low, f"{name}_high": one.high}
        axes.set(title=title, xlabel="band flips, less plain's")
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=8)
        axes.margins(0.08)
    panels[0].set_ylabel("accuracy, less plain's")
    style.legend_below(figure, panels[0], 4)
    units = {name: {"units": picked[name].attrs.get("units", "")} for name in drawn[0] if name in picked}
    return attach(figure, rows(pd.DataFrame(drawn), **units))


def answer(sets: dict[str, xr.Dataset]) -> Markdown:
    """Say on how many data sets plain optimized rounding is beaten, by any objective and by the paper's term."""
    beaten = {title: [one for one in _others(of) if beats_plain(of, one)["beats"]] for title, of in sets.items()}
    by_any, by_gap = sum(map(bool, beaten.values())), sum("gap" in won for won in beaten.values())
    everywhere = [name for family, name in NAMES.items() if all(family in won for won in beaten.values())]
    return Markdown(
        f"**Answer.** On {by_any} of {len(sets)} data sets some objective changes fewer decisions near the boundary "
        f"than plain optimized rounding at no cost in accuracy; {listed(everywhere) if everywhere else 'no objective'} "
        f"does on all of them. The paper's boundary-gap term does on {by_gap or 'none'}."
    )


def winners_table(sets: dict[str, xr.Dataset]) -> tables.Frame:
    """Tabulate by data set what beats plain rounding, what has fewest band flips, and what the paper's term does."""
    lines = {}
    for title, picked in sets.items():
        families = _others(picked)
        flips = {family: compared(picked, family, "band_flip_rate") for family in families}
        fewest = min(families, key=lambda family: flips[family].difference.estimate)
        won = [NAMES[family] for family in families if beats_plain(picked, family)["beats"]]
        of = held_out(picked, "band_flip_rate").sel(family="gap")
        lines[title] = {
            "networks": tables.number(picked.sizes["seed"], ".0f"), "beats plain": listed(won),
            "fewest band flips": NAMES[fewest],
            "band flips, the paper's term": tables.interval(flips["gap"].difference, ".4f", write=signed, of=of),
            "would be seen": tables.number(flips["gap"].detectable),
        }  # fmt: skip
    return tables.frame(lines, "data set")
