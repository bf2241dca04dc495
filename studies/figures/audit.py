"""
What the chapter that measures an audit runs, and its tables, figures and words; every number comes from what was run.

The published file of quantizers, here *kept*, is the joined dataset of :func:`studies.vendors.sweep`.
"""

import contextlib
import io
import json
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from bqcore._checks import check_integer
from bqcore.auditing import bit_plan, bit_sweep, comparison, loading, vendors
from bqcore.auditing.streaming import RATES
from bqcore.metrics import statistics
from bqcore.quantizers import mixed_precision

from .. import networks, published, training
from .. import vendors as vendor_study
from ..data import splits
from .style import QUANTIZED_COLOUR, STYLE

RULER = "PTQ-W, {} bits, a step per channel"  # at equal bytes is what takes at most _SLACK of this one's
_SLACK, _CHANCE = 1.1, 0.05
_MARKERS = "osD^v<>"
# Quantizers of as many bits that the summary compares over the networks measured here.
_PAIRS = (
    ("torchao, int4, a step per channel", "PTQ-W, 4 bits, a step per channel"),
    ("ONNX Runtime static, int8", "PTQ-W, 8 bits, a step per tensor"),
)
_SHELF_COLUMNS = {
    "bytes": ("bytes", "{:.0f}"), "loss": ("accuracy lost", "{:.4f}"), "flips": ("flips", "{:.4f}"),
    "band": ("band flips", "{:.4f}"), "displacement": ("displacement, median", "{:.4f}"),
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
    Give the classifier that a reader names or, where none is, digits networks that are trained here.

    Parameters
    ----------
    reference, weights, calibration, heldout : str
        A classifier and its files, as ``python -m bqcore audit`` takes them. Without *reference* the others are unused.
    seed, seeds : int
        First seed, and number of digits networks.
    width, epochs : int
        Hidden units of a digits network, and passes over its training set.

    Raises
    ------
    ValueError
        If there is to be no network, or a file cannot be read.
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


def decisions_table(found: comparison.Audit) -> pd.DataFrame:
    """Tabulate the rates of one candidate on both splits, with their intervals and counts."""
    rows = {}
    for name, says in RATES.items():
        parts = (found.dataset.sel(split=split) for split in comparison.SPLITS)
        rows[says] = [
            "{:.4f} [{:.4f}, {:.4f}] ({})".format(
                *(float(part[key]) for key in (name, f"{name}_low", f"{name}_high")), int(part[f"{name}_events"])
            )
            for part in parts
        ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["calibration", "held-out"]).rename_axis("measure")


def margins_figure(found: comparison.Audit) -> Figure:
    """Draw the held-out flips of one candidate in groups of equal size by growing float margin."""
    flips = found.dataset.group_flips.values
    groups = range(1, len(flips) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 2.8))
        axes.bar(groups, flips, color=QUANTIZED_COLOUR)
        axes.set(xlabel="group of samples, by growing float margin", ylabel="flips", xticks=groups)
    plt.close(figure)
    return figure


def sweep_table(found: bit_sweep.Sweep) -> pd.DataFrame:
    """Tabulate bytes, accuracy, flips and band flips by bits, on both splits."""
    ds = found.dataset
    columns = {
        f"{title}, {where}": [f"{v:.4f}" for v in ds[name].sel(split=split).values]
        for name, title in (("accuracy", "accuracy"), ("flip_rate", "flips"), ("band_flip_rate", "band flips"))
        for split, where in (("calibration", "calibration"), ("heldout", "held-out"))
    }
    return pd.DataFrame({"bytes": ds.bytes.values} | columns, index=pd.Index(ds.bits.values, name="bits"))


def blame_table(found: xr.Dataset) -> pd.DataFrame:
    """Tabulate what each layer does alone, in the order of :func:`bqcore.blame_layers`, the worst first."""
    return pd.DataFrame(
        {
            "weights": found.weights.values,
            "flips": [f"{v:.4f}" for v in found.flip_rate.values],
            "band flips": [f"{v:.4f}" for v in found.band_flip_rate.values],
            "margin change, median": [f"{v:.3f}" for v in found.margin_change.sel(quantile=0.5).values],
            "displacement, median": [f"{v:.4f}" for v in found.displacement.sel(quantile=0.5).values],
        },
        index=pd.Index(found.layer.values, name="layer"),
    )


def plans(of: list[Case], levels: tuple[int, ...], *, share: float) -> xr.DataArray:
    """
    Measure bits by layer against uniform bits within the same bytes.

    Parameters
    ----------
    of : list of Case
        Networks, of torch modules.
    levels : tuple of int
        Uniform bits whose bytes are the budgets.
    share : float
        Of the inputs in the boundary band.

    Returns
    -------
    xarray.DataArray
        Held-out band flip rate along ``bits``, ``network`` and ``way`` ("plan", "uniform").
    """
    ways = ["plan", "uniform"]
    rates = []
    for level in levels:
        made = (
            bit_plan.plan_bits(*one, budget=mixed_precision.model_bytes(one.model, level), fraction=share) for one in of
        )
        rates.append([one.dataset.band_flip_rate.sel(split="heldout", way=ways).values for one in made])
    return xr.DataArray(rates, {"bits": list(levels), "way": ways}, ("bits", "network", "way"), "band_flip_rate")


def plan_gaps(rates: xr.DataArray) -> dict[int, statistics.Interval]:
    """Give uniform less plan of :func:`plans` by bits: paired differences with 95 % intervals; of one network none."""
    if rates.sizes["network"] < 2:
        return {}
    return {
        bits: statistics.paired_difference(rates.sel(bits=bits, way="uniform"), rates.sel(bits=bits, way="plan"))
        for bits in rates.bits.values.tolist()
    }


def plans_table(rates: xr.DataArray) -> pd.DataFrame:
    """Tabulate :func:`plans`: means over networks, and their difference with its interval if there are several."""
    gaps, rows = plan_gaps(rates), {}
    for bits in rates.bits.values.tolist():
        uniform, plan = (rates.sel(bits=bits, way=way).values.tolist() for way in ("uniform", "plan"))
        gap = "{:.4f} [{:.4f}, {:.4f}]".format(*gaps[bits]) if gaps else f"{uniform[0] - plan[0]:.4f}"
        rows[bits] = [f"{sum(values) / len(values):.4f}" for values in (uniform, plan)] + [gap]
    columns = ["uniform", "plan", "uniform less plan"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("bits")


def shelf(of: list[Case], *, share: float) -> tuple[pd.DataFrame, dict[str, str]]:
    """
    Audit every quantizer of :data:`bqcore.auditing.vendors.QUANTIZERS` on networks.

    Parameters
    ----------
    of : list of Case
    share : float
        Of the inputs in the boundary band.

    Returns
    -------
    found : pandas.DataFrame
        A row for each network and quantizer: network (a count), quantizer, bytes, and held-out loss (of accuracy),
        flips, band (flips in the band) and displacement (median, input units).
    absent : dict of str
        By name of a quantizer that some network is without, the reason.
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
                found = comparison.audit(model, other.model, None, heldout, nodes=0, fraction=share).dataset
                d = found.sel(split="heldout")
                rows.append({
                    "network": network, "quantizer": name, "bytes": other.bytes,
                    "loss": float(d.accuracy_reference - d.accuracy), "flips": float(d.flip_rate),
                    "band": float(d.band_flip_rate), "displacement": float(d.displacement.sel(quantile=0.5)),
                })  # fmt: skip
    return pd.DataFrame(rows), absent


def shelf_table(found: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the means of :func:`shelf` over networks, by growing bytes."""
    means = found.groupby("quantizer").mean().sort_values(["bytes", "band"])
    return pd.DataFrame({title: means[name].map(form.format) for name, (title, form) in _SHELF_COLUMNS.items()})


def absent_lines(absent: dict[str, str]) -> str:
    """Say in Markdown which quantizers :func:`shelf` left out, and why."""
    return "\n".join(f"- Left out: {name}. {reason}" for name, reason in absent.items()) or "None is left out."


def at_equal_bytes(kept: xr.Dataset) -> xr.Dataset:
    """
    Say, among quantizers of as many bits, which are at equal bytes on a network and which of these flip fewest.

    At equal bytes is what takes at most a tenth more than PTQ-W with a step per channel. Fewest is the one of fewest
    flips, and every one that the same held-out inputs cannot tell from it: McNemar's exact test at 5 %, pair by pair.

    Parameters
    ----------
    kept : xarray.Dataset
        Of :func:`studies.vendors.sweep`.

    Returns
    -------
    xarray.Dataset
        ``equal`` and ``fewest``, bool along ``quantizer`` and ``network``. What is missing is neither.
    """
    dims = ("quantizer", "network")
    none = np.zeros([kept.sizes[dim] for dim in dims], bool)
    out = xr.Dataset({name: (dims, none.copy()) for name in ("equal", "fewest")}, {dim: kept[dim] for dim in dims})
    for network in kept.network.values:
        for level, names in _by_bits(kept).items():
            part = kept.sel(network=network, quantizer=names)
            most = _SLACK * float(part.bytes.sel(quantizer=RULER.format(level)))
            equal = ((part.missing == "") & (part.bytes <= most)).values
            flipped = part.flipped.values
            best = flipped[np.where(equal, part.flip_rate, np.inf).argmin()]
            inputs = best >= 0  # the others fill up a shorter split
            found = [statistics.mcnemar(own[inputs] == 1, best[inputs] == 1).p_value for own in flipped]
            at = {"quantizer": names, "network": network}
            out.equal.loc[at], out.fewest.loc[at] = equal, equal & (np.array(found) >= _CHANCE)
    return out


def _by_bits(kept: xr.Dataset) -> dict[int, list[str]]:
    """Give the names of the quantizers by the bits of their weights, most bits first."""
    bits = kept.weight_bits.isel(network=0)
    return {
        level: kept.quantizer.values[bits.values == level].tolist()
        for level in sorted(set(bits.values.tolist()), reverse=True)
    }


def published_flips_table(kept: xr.Dataset) -> pd.DataFrame:
    """Tabulate flips and band flips: an asterisk is among the fewest, what is not at equal bytes is in brackets."""
    marks = at_equal_bytes(kept)

    def cell(part: xr.Dataset) -> str:
        text = f"{float(part.flip_rate):.4f}, {float(part.band_flip_rate):.3f}"
        at = marks.sel(quantizer=part.quantizer, network=part.network)
        return f"{text} *" if at.fewest else text if at.equal else f"({text})"

    inputs = [str(int((kept.flipped.sel(network=name)[0] >= 0).sum())) for name in kept.network.values]
    return _by_network(kept, cell, "held-out inputs", inputs)


def _by_network(kept: xr.Dataset, cell, title: str, last: list[str]) -> pd.DataFrame:
    """Fill a table of quantizers by networks with what *cell* makes of each present one; *last* is its last row."""
    columns = {}
    for network in kept.network.values.tolist():
        parts = (kept.sel(network=network, quantizer=name) for name in kept.quantizer.values)
        columns[network] = ["–" if part.missing.item() else cell(part) for part in parts]
    frame = pd.DataFrame(columns, index=pd.Index(kept.quantizer.values, name="quantizer"))
    frame.loc[title] = last
    return frame


def published_figure(kept: xr.Dataset) -> Figure:
    """Draw band flips, a panel for each bit-width, a mark for each network, hollow where it is not at equal bytes."""
    equal, levels, networks = at_equal_bytes(kept).equal, _by_bits(kept), kept.network.values.tolist()
    ratios = {"height_ratios": [len(names) for names in levels.values()], "squeeze": False}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(len(levels), 1, figsize=(7.5, 7.5), **ratios)
        for axes, (level, names) in zip(panels.flat, levels.items()):
            for k, network in enumerate(networks):
                look = {
                    "marker": _MARKERS[k % len(_MARKERS)],
                    "color": plt.cm.viridis(0.9 * k / max(1, len(networks) - 1)),
                }
                moved = kept.band_flip_rate.sel(network=network, quantizer=names).values
                full = equal.sel(network=network, quantizer=names).values
                rows = np.arange(len(names)) + 0.09 * (k - (len(networks) - 1) / 2)
                axes.plot(moved[full], rows[full], linestyle="none", label=network, **look)
                axes.plot(moved[~full], rows[~full], linestyle="none", markerfacecolor="none", **look)
            axes.set(yticks=range(len(names)), yticklabels=names, xlabel=f"band flips at {level} bits")
            axes.set_xscale("symlog", linthresh=0.01)  # a logarithm that has a place for 0
            ticks = [0, 0.01, 0.03, 0.1, 0.3]
            axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.001, 1), xticks=ticks, xticklabels=ticks)
            axes.minorticks_off()
            for row in range(1, len(names)):
                axes.axhline(row - 0.5, color="#cccccc", linewidth=0.6)
        figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plt.close(figure)
    return figure


def bytes_table(kept: xr.Dataset) -> pd.DataFrame:
    """Tabulate thousands of bytes: the packed model, and the file that the quantizer's own package writes."""

    def cell(part: xr.Dataset) -> str:
        return f"{int(part.bytes) / 1000:.1f}, {int(part.stored) / 1000:.1f}"

    return _by_network(kept, cell, "float32", [f"{int(size) / 1000:.1f}" for size in kept.float_bytes.values])


def rankings_table(kept: xr.Dataset) -> pd.DataFrame:
    """Tabulate held-out band flips of plans of bits by layer: by network and budget, and by the ranking of layers."""
    rows = {
        f"{network}, {budget} bits": [
            "–" if np.isnan(value) else f"{value:.4f}"
            for value in kept.plan_band_flip_rate.sel(network=network, budget=budget).values
        ]
        for network in kept.network.values
        for budget in kept.budget.values
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=kept.ranking.values.tolist()).rename_axis("bytes of")


def source(kept: xr.Dataset) -> str:
    """Say in Markdown which published result *kept* is, with which packages it was made, and what it lacks."""
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(kept.versions).items() if version)
    lines = [published.origin(kept), "", f"Packages: {versions}.", ""]
    return "\n".join(lines + [f"- {line}" for line in vendor_study.left_out(kept)])


def summary(
    found: comparison.Audit, sweep: bit_sweep.Sweep, rates: xr.DataArray, shelves: pd.DataFrame, kept: xr.Dataset
) -> str:
    """
    Say in Markdown what was seen.

    Parameters
    ----------
    found, sweep
        Of :func:`bqcore.audit` and :func:`bqcore.sweep`: their conclusions.
    rates, shelves
        Of :func:`plans` and :func:`shelf`: what several networks tell; of one there is nothing to say.
    kept : xarray.Dataset
        Of :func:`studies.vendors.sweep`.
    """
    lines = [found.conclusion, sweep.conclusion, *_shelf_lines(shelves), *_plan_lines(plan_gaps(rates))]
    lines += [*_fewest_lines(kept), *(_ranking_line(kept, name) for name in kept.ranking.values[1:])]
    return "\n".join(f"- {line}" for line in lines)


def _shelf_lines(shelves: pd.DataFrame) -> list[str]:
    """Compare two pairs of quantizers over the networks that have both; one network has no interval."""
    band, size = (shelves.pivot_table(index="network", columns="quantizer", values=name) for name in ("band", "bytes"))
    lines = []
    for other, ours in _PAIRS:
        both = band.reindex(columns=[other, ours]).dropna()
        if len(both) < 2:
            continue
        gap = statistics.paired_difference(both[other].values, both[ours].values)
        lines.append(
            f"{other}, changes {both[other].mean():.4f} of the band in {size[other].mean():.0f} bytes, {ours}, "
            f"{both[ours].mean():.4f} in {size[ours].mean():.0f}: a difference of {gap.estimate:.4f} "
            f"[{gap.low:.4f}, {gap.high:.4f}] over {len(both)} networks."
        )
    return lines


def _plan_lines(gaps: dict[int, statistics.Interval]) -> list[str]:
    if not gaps:
        return []
    told = ", ".join(str(bits) for bits, gap in gaps.items() if gap.low > 0)
    if told:
        return [f"Bits by layer keep more of the band than uniform bits do at {told} bits."]
    line = "With these networks bits by layer cannot be told from uniform bits at equal bytes: every interval holds 0."
    return [line]


def _fewest_lines(kept: xr.Dataset) -> list[str]:
    """Count, of the networks on which a quantizer is at equal bytes, those on which it is among the fewest flips."""
    counted, lines = at_equal_bytes(kept).sum("network"), []
    for level, names in _by_bits(kept).items():
        at = {name: counted.sel(quantizer=name) for name in names}
        counts = {name: (int(one.fewest), int(one.equal)) for name, one in at.items() if one.equal}
        best = sorted(counts, key=lambda name: (-counts[name][0] / counts[name][1], -counts[name][1]))
        lines.append(
            f"Fewest flips at {level} bits, or not to be told from them, by published networks on which they are at "
            "equal bytes: " + "; ".join(f"{name}: {counts[name][0]} of {counts[name][1]}" for name in best) + "."
        )
    return lines


def _ranking_line(kept: xr.Dataset, name: str) -> str:
    """Compare the plans by one ranking of the layers with uniform bits, network by network and budget by budget."""
    fewer = more = differ = 0
    for network in kept.network.values:
        for budget in kept.budget.values:
            plan = kept.sel(network=network, budget=budget)
            uniform, own = (plan.plan_flipped.sel(ranking=way).values for way in ("uniform", name))
            inputs = own >= 0
            if not inputs.any():  # there is no such plan
                continue
            told = statistics.mcnemar(own[inputs] == 1, uniform[inputs] == 1)
            differ += plan.plan_bits.sel(ranking=name).item() != plan.plan_bits.sel(ranking="uniform").item()
            fewer += told.p_value < _CHANCE and told.only_first < told.only_second
            more += told.p_value < _CHANCE and told.only_first > told.only_second
    return (
        f"Bits by {name} differ from uniform ones at {differ} of {kept.sizes['network'] * kept.sizes['budget']} "
        "budgets of published networks; beyond chance (McNemar), they flip fewer decisions at "
        f"{fewer} and more at {more}."
    )
