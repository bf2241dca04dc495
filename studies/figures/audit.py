"""What the chapter that measures an audit runs, with tables, figure and words; all numbers come from what was run."""

import contextlib
import io
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore._checks import check_integer
from bqcore.auditing import bit_plan, bit_sweep, comparison, loading, vendors
from bqcore.auditing.streaming import RATES
from bqcore.metrics import statistics
from bqcore.quantizers import mixed_precision

from .. import networks, training
from ..data import splits
from ..formats import interval, number
from . import quantizers, style, tables
from .source_data import attach
from .style import QUANTIZED_COLOUR

# Quantizers of as many bits that the summary compares over the networks measured here.
_PAIRS = (
    ["torchao, int4, a step per channel", "PTQ-W, 4 bits, a step per channel"],
    ["ONNX Runtime static, int8", "PTQ-W, 8 bits, a step per tensor"],
)
_SHELF_COLUMNS = {
    "bytes": ("bytes", ".0f"), "loss": ("accuracy lost", ".4f"), "flips": ("flips", ".4f"),
    "band": ("band flips", ".4f"), "displacement": ("displacement, median", ".4f"),
}  # fmt: skip


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


def decisions_table(found: comparison.Audit) -> tables.Frame:
    """Tabulate the rates of one candidate on both splits, with their intervals and counts."""
    lines = {}
    for name, says in RATES.items():
        lines[says] = line = {}
        for split, title in zip(comparison.SPLITS, ("calibration", "held-out")):
            part = found.dataset.sel(split=split)
            rate = statistics.Interval(*(float(part[key]) for key in (name, f"{name}_low", f"{name}_high")))
            cell, events = tables.interval(rate, of=part[name]), int(part[f"{name}_events"])
            line[title] = cell._replace(text=f"{cell.text} ({events})", numbers=cell.numbers | {"events": events})
    return tables.frame(lines, "measure")


@style.styled
def margins_figure(found: comparison.Audit) -> Figure:
    """Draw the held-out flips of one candidate in groups of equal size by growing float margin."""
    flips = found.dataset.group_flips
    groups = list(range(1, flips.size + 1))
    figure, axes = plt.subplots(figsize=(7, 2.8))
    axes.bar(groups, flips, color=QUANTIZED_COLOUR)
    axes.set(xlabel="group of samples, by growing float margin", ylabel="flips", xticks=groups)
    return attach(figure, flips.to_dataset().assign_coords(group=groups))


def sweep_table(found: bit_sweep.Sweep) -> tables.Frame:
    """Tabulate bytes, accuracy, flips and band flips by bits, on both splits."""
    columns = {"bytes": (found.dataset.bytes, ".0f")}
    for name, title in (("accuracy", "accuracy"), ("flip_rate", "flips"), ("band_flip_rate", "band flips")):
        for split, where in zip(comparison.SPLITS, ("calibration", "held-out")):
            columns[f"{title}, {where}"] = found.dataset[name].sel(split=split), ".4f"
    return tables.along("bits", columns, index="bits", name=str)


def blame_table(found: xr.Dataset) -> tables.Frame:
    """Tabulate what each layer does alone, in the order of :func:`bqcore.blame_layers`, the worst first."""
    middle = found.sel(quantile=0.5)
    columns = {
        "weights": (found.weights, ".0f"),
        "flips": (found.flip_rate, ".4f"), "band flips": (found.band_flip_rate, ".4f"),
        "margin change, median": (middle.margin_change, ".3f"), "displacement, median": (middle.displacement, ".4f"),
        "signed distance change, median": (middle.signed_distance_change, ".4f"),
    }  # fmt: skip
    return tables.along("layer", columns, index="layer", name=str)


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


def plans_table(rates: xr.DataArray) -> tables.Frame:
    """Tabulate :func:`plans`: means over networks, and their difference with its interval if there are several."""
    gaps, lines = plan_gaps(rates), {}
    for bits in rates.bits.values.tolist():
        uniform, plan = (rates.sel(bits=bits, way=way) for way in ("uniform", "plan"))
        gap = tables.interval(gaps[bits]) if gaps else tables.number((uniform - plan).item())
        lines[str(bits)] = {"uniform": tables.mean(uniform), "plan": tables.mean(plan), "uniform less plan": gap}
    return tables.frame(lines, "bits")


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
