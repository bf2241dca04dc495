"""Tables, figure and words of the study of rounding objectives; every number comes from its joined runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from .. import objectives
from .style import STYLE, listed
from .tables import beyond_column

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
    "hinge": "hinge on the gap", "weighted": "margin weights",
    "kl": "KL", "band kl": "KL on the band", "boundary": "boundary points", "mse, step": "plain with learned steps",
    "kl, step": "KL with learned steps",
}  # fmt: skip
# Told apart by mark as well as by colour: beside the study's objectives, plain, terms, learned steps.
_MARKS = {
    "nearest": ("#999999", "s"), "gptq": ("#999999", "D"), "step": ("#999999", "v"), "layers": ("#999999", "^"),
    "mse": ("#1a1a1a", "o"),
    "gap": ("#d55e00", "o"), "hinge": ("#d55e00", "^"), "weighted": ("#56b4e9", "o"), "kl": ("#009e73", "o"),
    "band kl": ("#009e73", "^"), "boundary": ("#cc79a7", "o"), "mse, step": ("#1a1a1a", "v"),
    "kl, step": ("#009e73", "v"),
}  # fmt: skip


def held_out(picked: xr.Dataset, measure: str) -> xr.DataArray:
    """Give a held-out measure: of masks on the first grid, of boundaries at the usual tolerance, of shifts a median."""
    values = picked[measure].sel(split="held-out")
    if "tau" in values.dims:
        values = values.sel(tau=_beyond(picked)[1])
    values = values.isel(nodes=0) if "nodes" in values.dims else values
    return values.sel(quantile=0.5) if "quantile" in values.dims else values


def means_table(picked: xr.Dataset) -> pd.DataFrame:
    """
    Tabulate the held-out means of every family over the seeds.

    Parameters
    ----------
    picked : xarray.Dataset
        Of :func:`studies.objectives.chosen`.
    """
    rows = []
    for family in picked.family.values:
        at = picked.sel(family=family)
        row = {"objective": NAMES[str(family)], "strengths": _strengths(at.strength.values)}
        row |= {
            title: f"{float(held_out(picked, name).sel(family=family).mean()):{form}}" for name, title, form in MEASURES
        }
        undecided = f"{float(at.undecided_gates.mean()):.2%}".replace("%", "\u00a0%")
        rows.append(row | {"undecided": "" if family in objectives.BASELINES_OF else undecided})
    return pd.DataFrame(rows).set_index("objective").rename(columns={"beyond τ": _beyond(picked)[0]})


def _strengths(values: np.ndarray) -> str:
    """Write how often each strength was chosen."""
    seen, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return ", ".join(f"{strength:g}\u00a0({count})" for strength, count in zip(seen, counts))


def differences_table(picked: xr.Dataset) -> pd.DataFrame:
    """
    Tabulate each family less plain optimized rounding: mean of paired differences, its 95 % interval, and in brackets
    the smallest difference that the seeds would have seen four times in five.

    Parameters
    ----------
    picked : xarray.Dataset
        Of :func:`studies.objectives.chosen`, at least two seeds.
    """
    rows = []
    for family in map(str, picked.family.values):
        if family == objectives.PLAIN:
            continue
        row = {"objective": NAMES[family]}
        for name, title, form in MEASURES:
            found = _compared(picked, family, name)
            d = found.difference
            ends = f"[{_signed(d.low, form)},\u00a0{_signed(d.high, form)}]"
            row[title] = f"{_signed(d.estimate, form)} {ends} ({found.detectable:{form}})"
        rows.append(row)
    return pd.DataFrame(rows).set_index("objective").rename(columns={"beyond τ": _beyond(picked)[0]})


def _compared(picked: xr.Dataset, family: str, measure: str) -> objectives.Comparison:
    values = held_out(picked, measure)
    return objectives.compare(picked, family, lambda of: values.sel(family=of.family))


def _beyond(picked: xr.Dataset) -> tuple[str, float]:
    """Give the title of the column of tolerance Jaccard distances, and their tolerance."""
    return beyond_column(picked.tolerance_jaccard.sel(family="nearest"))


def beats_plain(picked: xr.Dataset, family: str) -> dict[str, bool]:
    """
    Say what a family does against plain optimized rounding, by the rule written before the runs.

    Returns
    -------
    dict
        "band flips" and "J": fewer, sure for all families at once (Bonferroni's 95 %); "accuracy kept": the 95 %
        interval of the difference does not lie below 0; "beats": all three.
    """
    fewer = {
        title: _compared(picked, family, name).strict.high < 0
        for name, title, _ in MEASURES
        if title in ("band flips", "J")
    }
    kept = _compared(picked, family, "accuracy").difference.high >= 0
    return fewer | {"accuracy kept": kept, "beats": all(fewer.values()) and kept}


def front_figure(sets: dict[str, xr.Dataset]) -> Figure:
    """
    Draw the change of accuracy against that of band flips, held out, relative to plain optimized rounding by seed.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Of :func:`studies.objectives.chosen`, by title. Bars are 95 % intervals of the paired means.
    """
    columns = min(len(sets), 2)
    rows = -(-len(sets) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(rows, columns, figsize=(4.4 * columns, 3.6 * rows + 1), squeeze=False)
        for axes, (title, picked) in zip(panels.flat, sets.items()):
            axes.axhline(0, color="#cccccc", lw=0.8)
            axes.axvline(0, color="#cccccc", lw=0.8)
            for family, (colour, mark) in _MARKS.items():
                x, y = (_compared(picked, family, name).difference for name in ("band_flip_rate", "accuracy"))
                bars = {
                    "xerr": [[x.estimate - x.low], [x.high - x.estimate]],
                    "yerr": [[y.estimate - y.low], [y.high - y.estimate]],
                }
                axes.errorbar(
                    x.estimate, y.estimate, **bars, fmt=mark, color=colour, ms=6, lw=0.7, alpha=0.85,
                    mfc="white" if family in objectives.BASELINES_OF else colour, label=NAMES[family],
                )  # fmt: skip
            axes.set(title=title, xlabel="band flips, less those of plain", ylabel="accuracy, less that of plain")
            axes.margins(0.08)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
        for axes in panels.flat[len(sets) :]:
            axes.set_axis_off()
    plt.close(figure)
    return figure


def summary(sets: dict[str, xr.Dataset]) -> str:
    """
    Say in Markdown which objectives beat plain optimized rounding on each data set and by how much, what comes nearest
    to it, what the paper's term does, and how small a change the seeds would have seen.
    """
    lines, everywhere = [], None
    for title, picked in sets.items():
        families = [str(family) for family in picked.family.values if family != objectives.PLAIN]
        found = {family: beats_plain(picked, family) for family in families}
        winners = [family for family in families if found[family]["beats"]]
        everywhere = set(winners) if everywhere is None else everywhere & set(winners)
        texts = [f"{NAMES[family]} ({_said(picked, family)})" for family in winners]
        flips = {family: _compared(picked, family, "band_flip_rate") for family in families}
        fewest = min(families, key=lambda family: flips[family].difference.estimate)
        lines.append(
            f"- **{title}** ({picked.sizes['seed']} seeds): "
            + (
                "plain optimized rounding is beaten by " + "; ".join(texts)
                if winners
                else "nothing beats plain optimized rounding"
            )
            + f". Taken alone (95 %), fewer band flips: {_lower(picked, families, 'band_flip_rate')}; a lower J: "
            f"{_lower(picked, families, 'boundary_jaccard')}; a lower accuracy: "
            f"{_lower(picked, families, 'accuracy')}. "
            f"Fewest band flips has {NAMES[fewest]} ({_said(picked, fewest)}). The paper's term: "
            f"{_said(picked, 'gap')}; of its band flips, a change by {flips['gap'].detectable:.4f} would have been "
            "seen four times in five."
        )
    if len(sets) > 1:
        both = ", ".join(NAMES[family] for family in _MARKS if family in everywhere)
        lines.append(f"- {both or 'Nothing'} beats plain optimized rounding on every data set.")
    return "\n".join(lines)


def _lower(picked: xr.Dataset, families: list[str], measure: str) -> str:
    """Name the families whose interval of the difference in a measure lies below 0."""
    found = [NAMES[name] for name in families if _compared(picked, name, measure).difference.high < 0]
    return listed(found or ["none"])


def _said(picked: xr.Dataset, family: str) -> str:
    out = []
    for name, title, form in MEASURES:
        if title in ("band flips", "J", "accuracy"):
            d = _compared(picked, family, name).difference
            estimate, low, high = (_signed(value, form) for value in d)
            out.append(f"{title} {estimate} [{low}, {high}]")
    return ", ".join(out)


def _signed(value: float, form: str) -> str:
    """Write a number with its sign, and zero without one."""
    text = f"{value:+{form}}"
    return text if float(text) else text[1:]
