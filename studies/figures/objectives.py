"""Tables, figure and words of the study of rounding objectives; every number comes from its joined runs."""

from collections import Counter

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from .. import objectives
from ..formats import interval, listed, number, signed
from . import style, tables
from .source_data import attach, rows
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
    "nearest": ("#999999", "s"), "gptq": ("#999999", "D"), "step": ("#999999", "v"), "layers": ("#999999", "^"),
    "mse": ("#1a1a1a", "o"), "gap": ("#d55e00", "o"), "hinge": ("#d55e00", "^"), "weighted": ("#56b4e9", "o"),
    "kl": ("#009e73", "o"), "band kl": ("#009e73", "^"), "boundary": ("#cc79a7", "o"),
    "mse, step": ("#1a1a1a", "v"), "kl, step": ("#009e73", "v"),
}  # fmt: skip
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
    return [(name, beyond.get(name, title), form) for name, title, form in MEASURES]


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
    values = held_out(picked, measure)
    return objectives.compare(picked, family, lambda of: values.sel(family=of.family))


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
    """Draw accuracy against band flips, held out, less those of plain rounding, paired by seed, with 95 % intervals."""
    figure, panels = style.panels(len(sets), 2, (4.4, 3.6), (0, 1))
    names, drawn = ("band_flip_rate", "accuracy"), []
    for axes, (title, picked) in zip(panels, sets.items()):
        axes.axhline(0, color="#cccccc", lw=0.8)
        axes.axvline(0, color="#cccccc", lw=0.8)
        for family, (colour, mark) in MARKS.items():
            x, y = found = [compared(picked, family, name).difference for name in names]
            bars = [[[one.estimate - one.low], [one.high - one.estimate]] for one in found]
            axes.errorbar(
                x.estimate, y.estimate, xerr=bars[0], yerr=bars[1], fmt=mark, color=colour, ms=6, lw=0.7, alpha=0.85,
                mfc="white" if family in objectives.BASELINES_OF else colour, label=NAMES[family],
            )  # fmt: skip
            drawn.append({"data_set": title, "family": family})
            for name, one in zip(names, found):
                drawn[-1] |= {name: one.estimate, f"{name}_low": one.low, f"{name}_high": one.high}
        axes.set(title=title, xlabel="band flips, less those of plain", ylabel="accuracy, less that of plain")
        axes.margins(0.08)
    style.legend_below(figure, panels[0], 3)
    units = {name: {"units": picked[name].attrs.get("units", "")} for name in drawn[0] if name in picked}
    return attach(figure, rows(pd.DataFrame(drawn), **units))


def summary(sets: dict[str, xr.Dataset]) -> Markdown:
    """Say which objectives beat plain optimized rounding, and how small a change the seeds would have seen."""
    lines, winners = [], []
    for title, picked in sets.items():
        families = _others(picked)
        winners.append([family for family in families if beats_plain(picked, family)["beats"]])
        won = "; ".join(f"{NAMES[family]} ({_said(picked, family)})" for family in winners[-1])
        flips = {family: compared(picked, family, "band_flip_rate") for family in families}
        fewest = min(families, key=lambda family: flips[family].difference.estimate)
        lines.append(
            f"- **{title}** ({picked.sizes['seed']} seeds): "
            + (f"plain optimized rounding is beaten by {won}" if won else "nothing beats plain optimized rounding")
            + f". Taken alone (95 %), fewer band flips: {_lower(picked, families, 'band_flip_rate')}; a lower J: "
            f"{_lower(picked, families, 'boundary_jaccard')}; a lower accuracy: "
            f"{_lower(picked, families, 'accuracy')}. Fewest band flips has {NAMES[fewest]} ({_said(picked, fewest)}). "
            f"The paper's term: {_said(picked, 'gap')}; of its band flips, a change by "
            f"{number(flips['gap'].detectable)} would have been seen four times in five."
        )
    if len(sets) > 1:
        everywhere = ", ".join(name for family, name in NAMES.items() if all(family in won for won in winners))
        lines.append(f"- {everywhere or 'Nothing'} beats plain optimized rounding on every data set.")
    return Markdown("\n".join(lines))


def _lower(picked: xr.Dataset, families: list[str], measure: str) -> str:
    """Name the families whose interval of the difference in a measure lies below 0."""
    return listed([NAMES[name] for name in families if compared(picked, name, measure).difference.high < 0])


def _said(picked: xr.Dataset, family: str) -> str:
    return ", ".join(
        f"{title} {interval(compared(picked, family, name).difference, form, signed)}" for name, title, form in _JUDGED
    )
