"""What the chapter that measures an audit runs, with tables, figure and words; all numbers come from what was run."""

import contextlib
import io
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bqcore._checks import check_integer
from bqcore.auditing import bit_plan, bit_sweep, comparison, loading, vendors
from bqcore.auditing.limits import TITLES, judge, word_of
from bqcore.metrics import statistics
from bqcore.quantizers import mixed_precision

from .. import networks, training
from ..data import splits
from ..formats import interval, listed, number, percent
from . import quantizers, style, tables
from .source_data import attach
from .style import INK, QUANTIZED_COLOUR

# Quantizers of as many bits that the summary compares over the networks measured here.
_PAIRS = (
    ["torchao, int4, a step per channel", "PTQ-W, 4 bits, a step per channel"],
    ["ONNX Runtime static, int8", "PTQ-W, 8 bits, a step per tensor"],
)
_SHELF_COLUMNS = {
    "bytes": ("bytes", ".0f"), "loss": ("accuracy lost", ".4f"), "flips": ("flips", ".4f"),
    "band": ("band flips", ".4f"), "displacement": ("displacement, median", ".4f"),
}  # fmt: skip
_WIDTH = 5.2  # inches, so that words are legible on a phone
_UNSEEN = 0.005  # of accuracy: what an evaluation of a thousand inputs would hardly show
OUTCOME_LOOKS = {"kept": (style.FLOAT_COLOUR, "o"), "open": (style.GREY, "s"), "exceeded": (QUANTIZED_COLOUR, "D")}


class Case(NamedTuple):
    """A float classifier with its two splits, each as :func:`bqcore.audit` takes it."""

    model: object
    calibration: object
    heldout: object


def cases(
    reference: str, weights: str, calibration: str, heldout: str, *, seed: int, seeds: int, width: int, epochs: int
) -> list[Case]:
    """
    Return the classifier that a reader names, with its files as ``python -m bqcore audit`` takes them.

    Where *reference* is empty, it returns *seeds* digits networks of *width* hidden units, which are trained here. A
    file that cannot be read, or no network at all, raises ValueError.
    """
    if reference:
        splits = (loading.read_split(given) for given in (calibration, heldout))
        return [Case(loading.read_classifier(reference, weights or None), *splits)]
    return [_digits(seed + i, width, epochs) for i in range(check_integer("Seeds", seeds, 1))]


def _digits(seed: int, width: int, epochs: int) -> Case:
    """Train on half of the digits; a quarter is for calibration and a quarter held out."""
    split = splits.digits(seed)
    (x, y), half = split[:2], len(split.train_inputs) * 2 // 3
    model = training.fit(networks.mlp((64, width, 10), seed), x[:half], y[:half], epochs=epochs, seed=seed)
    return Case(model, (x[half:], y[half:]), (split.test_inputs, split.test_classes))


@style.styled
def verdict_figure(found: bit_sweep.Sweep, limits: Mapping[str, float]) -> Figure:
    """Draw what every bit-width changes of the held-out split, with the bounds and limits that its verdict goes by."""
    held = found.dataset.sel(split="heldout")
    bits = held.bits.values.tolist()
    judged = {b: judge(held.sel(bits=b), limits) for b in bits}
    figure, panels = plt.subplots(1, len(limits), figsize=(_WIDTH, 0.26 * len(bits) + 0.9), sharey=True, squeeze=False)
    rows = {"bits": bits, "verdict": ("bits", [word_of(one) for one in judged.values()])}
    for axes, (k, (name, limit)) in zip(panels[0], enumerate(limits.items())):
        for row, one in enumerate(found[k] for found in judged.values()):
            look = {"color": OUTCOME_LOOKS[one.outcome][0], "marker": OUTCOME_LOOKS[one.outcome][1]}
            axes.plot([one.low, one.high], [row, row], color=look["color"], lw=2)
            axes.plot(one.estimate, row, ms=6, clip_on=False, **look)
        axes.axvline(limit, color=INK, lw=1, ls="--")
        axes.set_title(f"{TITLES[name]}\nlimit {percent(limit, 1)}", fontsize=9, loc="left")
        if limit > 0:  # linear up to the limit, a logarithm from there, so that both ends are seen
            axes.set_xscale("symlog", linthresh=limit)
            axes.set_xticks([0, limit, 10 * limit])
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        parts = ("estimate", "low", "high")
        rows |= {f"{name}_{part}": ("bits", [getattr(of[k], part) for of in judged.values()]) for part in parts}
    words = [f"{b} bits: {word}" for b, word in zip(bits, rows["verdict"][1])]
    panels[0][0].set(yticks=range(len(bits)), yticklabels=words, ylim=(len(bits) - 0.5, -0.5))
    return attach(figure, xr.Dataset(rows))


@style.styled
def margins_figure(found: comparison.Audit) -> Figure:
    """Draw the held-out flips of one candidate in groups of equal size by growing float margin."""
    flips = found.dataset.group_flips
    groups = list(range(1, flips.size + 1))
    figure, axes = plt.subplots(figsize=(_WIDTH, 2.6))
    axes.bar(groups, flips, color=QUANTIZED_COLOUR)
    axes.set(xlabel="group of samples, by growing float margin", ylabel="flips", xticks=groups)
    return attach(figure, flips.to_dataset().assign_coords(group=groups))


@style.styled
def layers_figure(found: xr.Dataset) -> Figure:
    """Draw what each layer does alone to the boundary band, the worst at the top, with 95 % intervals."""
    rates = found.band_flip_rate
    figure, axes = plt.subplots(figsize=(_WIDTH, 0.35 * rates.size + 0.9))
    ends = np.abs(np.stack([found.band_flip_rate_low, found.band_flip_rate_high]) - rates.values)
    axes.barh(range(rates.size), rates, xerr=ends, color=QUANTIZED_COLOUR, ecolor=INK, capsize=3, height=0.6)
    axes.set(yticks=range(rates.size), yticklabels=[f"layer {name!r}" for name in rates.layer.values.tolist()])
    axes.set(ylim=(rates.size - 0.5, -0.5), xlabel=f"band flips with this layer alone at {found.bits} bits")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    names = ["weights", "bytes", "flip_rate", "band_flip_rate", "band_flip_rate_low", "band_flip_rate_high"]
    return attach(figure, found[names])


def plans(of: list[Case], levels: tuple[int, ...], *, share: float) -> xr.DataArray:
    """
    Return held-out band flip rates along ``bits``, ``network`` and ``way`` ("plan", "uniform").

    Bits by layer have the bytes of uniform ones, *levels*; networks are torch modules.
    """
    ways, rates = ["plan", "uniform"], []
    for level in levels:
        budgets = (mixed_precision.model_bytes(one.model, level) for one in of)
        made = (bit_plan.plan_bits(*one, budget=budget, fraction=share) for one, budget in zip(of, budgets))
        rates.append([one.dataset.band_flip_rate.sel(split="heldout", way=ways).values for one in made])
    return xr.DataArray(rates, {"bits": list(levels), "way": ways}, ("bits", "network", "way"), "band_flip_rate")


def plan_gaps(rates: xr.DataArray) -> dict[int, statistics.Interval]:
    """Return uniform less plan of :func:`plans` by bits, paired, with 95 % intervals; of one network there are none."""
    if rates.sizes["network"] < 2:
        return {}
    pairs = rates.sel(way=["uniform", "plan"]).transpose("bits", "way", "network")
    return {bits: statistics.paired_difference(*pair) for bits, pair in zip(rates.bits.values.tolist(), pairs.values)}


@style.styled
def plans_figure(rates: xr.DataArray) -> Figure:
    """Draw by how much fewer of the band :func:`plans` flip than uniform bits do, network by network, and the mean."""
    gaps, bits = plan_gaps(rates), rates.bits.values.tolist()
    differences = (rates.sel(way="uniform") - rates.sel(way="plan")).transpose("bits", "network")
    figure, axes = plt.subplots(figsize=(_WIDTH, 2.6))
    for place, (level, values) in enumerate(zip(bits, differences.values)):
        aside = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + aside, values, "o", color=style.FLOAT_COLOUR, alpha=0.5, ms=4)
        if level in gaps:
            mean = gaps[level]
            axes.errorbar(place + 0.32, mean.estimate, [[mean.estimate - mean.low], [mean.high - mean.estimate]],
                          fmt="s", color=INK, capsize=3)  # fmt: skip
    axes.axhline(0, color=style.GREY, lw=1)
    axes.set(xticks=range(len(bits)), xticklabels=[f"{b} bits" for b in bits], ylabel="band flips: uniform less plan")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return attach(figure, rates.to_dataset())


def shelf(of: list[Case], *, share: float) -> tuple[pd.DataFrame, dict[str, str]]:
    """
    Audit every quantizer of :data:`bqcore.auditing.vendors.QUANTIZERS` on networks; *share* of the inputs is the band.

    Return a row for each network (a count) and quantizer, with bytes and what is held out: loss (of accuracy), flips,
    band (flips in it) and displacement (median, input units); and by name of a quantizer that some network is without,
    why.
    """
    rows, absent = [], {}
    # torch prints the traceback of any error inside a converted model, also of one that the audit expects and tells of.
    with contextlib.redirect_stderr(io.StringIO()):
        for network, (model, calibration, heldout) in enumerate(of):
            given = calibration if isinstance(calibration, tuple) else (calibration,)
            for name, other in vendors.shelf(model, *given).items():
                if isinstance(other, str):
                    absent[name] = other
                    continue
                found = comparison.audit(model, other.model, None, heldout, nodes=0, fraction=share)
                d = found.dataset.sel(split="heldout")
                rows.append({
                    "network": network, "quantizer": name, "bytes": other.bytes,
                    "loss": float(d.accuracy_reference - d.accuracy), "flips": float(d.flip_rate),
                    "band": float(d.band_flip_rate), "displacement": float(d.displacement.sel(quantile=0.5)),
                })  # fmt: skip
    return pd.DataFrame(rows), absent


def shelf_table(found: pd.DataFrame) -> tables.Frame:
    """Tabulate the means of :func:`shelf` over networks, by growing bytes."""
    means, lines = found.groupby("quantizer").mean().sort_values(["bytes", "band"]), {}
    for name, row in means.iterrows():
        lines[name] = {title: tables.number(row[key], form) for key, (title, form) in _SHELF_COLUMNS.items()}
    return tables.frame(lines, "quantizer")


def absent_lines(absent: dict[str, str]) -> Markdown:
    """Say which quantizers :func:`shelf` left out, and why."""
    lines = [f"- Left out: {name}. {reason}" for name, reason in absent.items()]
    return Markdown("\n".join(lines) or "None is left out.")


def answer(found: bit_sweep.Sweep, limits: Mapping[str, float], kept: xr.Dataset) -> Markdown:
    """Say in two sentences which bit-widths a verdict lets ship, and what it finds of the published quantizers."""
    held = found.dataset.sel(split="heldout").sortby("bits", ascending=False)
    words = {int(b): word_of(judge(held.sel(bits=b), limits)) for b in held.bits}
    said = {word: [b for b, of in words.items() if of == word] for word in ("ship", "look", "do not ship")}
    parts = [f"*{word}* at {listed([str(b) for b in bits])} bits" for word, bits in said.items() if bits]
    four = kept.isel(quantizer=kept.weight_bits.values[0] == 4)
    lost = (four.float_accuracy - four.accuracy).where(four.missing == "")
    quiet = int((lost <= _UNSEEN).sum())
    flips = four.band_flip_rate.where(lost <= _UNSEEN)
    return Markdown(
        f"**Answer.** By the limits that are stated below, the audit of a digits network says {', '.join(parts)}. Of "
        f"the {int(lost.notnull().sum())} published 4-bit models, {quiet} lose at most {percent(_UNSEEN, 1)} of "
        f"accuracy, and yet these change {percent(flips.min(), 1)} to {percent(flips.max(), 0)} of the decisions in "
        "their boundary band."
    )


def summary(
    found: comparison.Audit, sweep: bit_sweep.Sweep, rates: xr.DataArray, shelves: pd.DataFrame, kept: xr.Dataset
) -> Markdown:
    """Say what was seen in an audit, a sweep, :func:`plans`, :func:`shelf` and the published quantizers, *kept*."""
    lines = [found.conclusion, sweep.conclusion, *_shelf_lines(shelves), *_plan_lines(plan_gaps(rates))]
    return Markdown("\n".join(f"- {line}" for line in [*lines, *quantizers.lines(kept)]))


def _shelf_lines(shelves: pd.DataFrame) -> list[str]:
    """Compare two pairs of quantizers over the networks that have both; one network has no interval."""
    band, size = (shelves.pivot_table(index="network", columns="quantizer", values=name) for name in ("band", "bytes"))
    pairs = [band.reindex(columns=pair).dropna() for pair in _PAIRS]
    return [
        f"{other}, changes {number(both[other].mean())} of the band in {number(size[other].mean(), '.0f')} bytes, "
        f"{ours}, {number(both[ours].mean())} in {number(size[ours].mean(), '.0f')}: a difference of "
        f"{interval(statistics.paired_difference(both[other].values, both[ours].values))} over {len(both)} networks."
        for (other, ours), both in zip(_PAIRS, pairs)
        if len(both) > 1
    ]


def _plan_lines(gaps: dict[int, statistics.Interval]) -> list[str]:
    told = ", ".join(str(bits) for bits, gap in gaps.items() if gap.low > 0)
    said = f"Bits by layer keep more of the band than uniform bits do at {told} bits."
    none = "With these networks bits by layer cannot be told from uniform bits at equal bytes: every interval holds 0."
    return [said if told else none] if gaps else []
