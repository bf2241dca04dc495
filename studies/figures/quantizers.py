"""
Tables, figure and words of the published quantizers, which the chapter that measures an audit shows.

*kept* is the published file of quantizers, the joined dataset of :func:`studies.catalogue.sweep`.
"""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import published, vendors
from . import style, tables
from .source_data import attach
from .style import FAINT

RULER = "PTQ-W, {} bits, a step per channel"  # at equal bytes is what takes at most _SLACK of this one's
_SLACK, _CHANCE = 1.1, 0.05
_MARKERS = "osD^v<>"


def at_equal_bytes(kept: xr.Dataset) -> xr.Dataset:
    """
    Return ``equal`` and ``fewest``, bool along ``quantizer`` and ``network``; what is missing is neither.

    At equal bytes is what takes at most a tenth more than PTQ-W of as many bits with a step per channel. Fewest is the
    one of fewest flips among these, and every one that the same held-out inputs cannot tell from it: McNemar's exact
    test at 5 %, pair by pair.
    """
    dims = ("quantizer", "network")
    none = np.zeros([kept.sizes[dim] for dim in dims], bool)
    out = xr.Dataset({name: (dims, none.copy()) for name in ("equal", "fewest")}, {dim: kept[dim] for dim in dims})
    for network, (level, names) in itertools.product(kept.network.values, _by_bits(kept).items()):
        at = {"quantizer": names, "network": network}
        part = kept.sel(at)
        most = _SLACK * float(part.bytes.sel(quantizer=RULER.format(level)))
        equal = ((part.missing == "") & (part.bytes <= most)).values
        flipped = part.flipped.values
        best = flipped[np.where(equal, part.flip_rate, np.inf).argmin()]
        inputs = best >= 0  # the others fill up a shorter split
        found = [statistics.mcnemar(own[inputs] == 1, best[inputs] == 1).p_value for own in flipped]
        out.equal.loc[at], out.fewest.loc[at] = equal, equal & (np.array(found) >= _CHANCE)
    return out


def _by_bits(kept: xr.Dataset) -> dict[int, list[str]]:
    """Return the names of the quantizers by the bits of their weights, most bits first."""
    bits = kept.weight_bits.isel(network=0).values
    return {level: kept.quantizer.values[bits == level].tolist() for level in np.unique(bits)[::-1].tolist()}


def quantizers_table(kept: xr.Dataset) -> tables.Frame:
    """
    Tabulate quantizers over the published networks: on how many each is at equal bytes, and there among the fewest.

    Flips and bytes are medians over the networks that have it; bytes, packed and of the file that the quantizer's own
    package writes, are fractions of the float32 model.
    """
    counted, there = at_equal_bytes(kept).sum("network"), kept.missing == ""
    size = kept.where(there)[["bytes", "stored"]] / kept.float_bytes
    middle = kept.where(there)[["flip_rate", "band_flip_rate"]].merge(size).median("network")
    lines = {}
    for name in kept.quantizer.values.tolist():
        one, at = middle.sel(quantizer=name), counted.sel(quantizer=name)
        lines[name] = {
            "at equal bytes": tables.number(at.equal, ".0f"), "fewest flips": tables.number(at.fewest, ".0f"),
            "flips": tables.number(one.flip_rate), "band flips": tables.number(one.band_flip_rate, ".3f"),
            "packed": tables.number(one.bytes, ".3f"), "file": tables.number(one.stored, ".3f"),
        }  # fmt: skip
    return tables.frame(lines, "quantizer")


@style.styled
def flips_figure(kept: xr.Dataset) -> Figure:
    """Draw band flips, a panel for each bit-width, a mark for each network, hollow where it is not at equal bytes."""
    equal, levels, networks = at_equal_bytes(kept).equal, _by_bits(kept), kept.network.values.tolist()
    heights = [len(names) for names in levels.values()]
    figure, panels = plt.subplots(len(levels), 1, figsize=(7.5, 7.5), height_ratios=heights, squeeze=False)
    for axes, (level, names) in zip(panels.flat, levels.items()):
        for k, network in enumerate(networks):
            colour = plt.cm.viridis(0.9 * k / max(1, len(networks) - 1))
            look = {"marker": _MARKERS[k % len(_MARKERS)], "color": colour, "linestyle": "none"}
            moved, full = (of.sel(network=network, quantizer=names).values for of in (kept.band_flip_rate, equal))
            rows = np.arange(len(names)) + 0.09 * (k - (len(networks) - 1) / 2)
            axes.plot(moved[full], rows[full], label=network, **look)
            axes.plot(moved[~full], rows[~full], markerfacecolor="none", **look)
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel=f"band flips at {level} bits")
        axes.set_xscale("symlog", linthresh=0.01)  # a logarithm that has a place for 0
        ticks = [0, 0.01, 0.03, 0.1, 0.3]
        axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.001, 1), xticks=ticks, xticklabels=ticks)
        axes.minorticks_off()
        for row in range(1, len(names)):
            axes.axhline(row - 0.5, color=FAINT, linewidth=0.6)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    names = ["flip_rate", "band_flip_rate", "weight_bits", "bytes", "stored", "float_bytes"]
    return attach(figure, kept[names].assign(at_equal_bytes=equal.astype(int)))


def rankings_table(kept: xr.Dataset) -> tables.Frame:
    """Tabulate held-out band flips of plans of bits by layer: by network and budget, and by the ranking of layers."""
    lines = {}
    for network, budget in itertools.product(kept.network.values.tolist(), kept.budget.values):
        rates = kept.plan_band_flip_rate.sel(network=network, budget=budget)
        made = {name: rates.sel(ranking=name) for name in kept.ranking.values.tolist()}
        line = {name: "–" if np.isnan(rate) else tables.number(rate) for name, rate in made.items()}
        lines[f"{network}, {budget} bits"] = line
    return tables.frame(lines, "bytes of")


def source(kept: xr.Dataset) -> Markdown:
    """Say which published result *kept* is, with which packages it was made, and what it lacks."""
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(kept.versions).items() if version)
    lines = [published.origin(kept), "", f"Packages: {versions}.", ""]
    return Markdown("\n".join(lines + [f"- {line}" for line in vendors.left_out(kept)]))


def lines(kept: xr.Dataset) -> list[str]:
    """Say in lines which quantizers flip fewest at equal bytes, and what each ranking of layers is worth."""
    return [*_fewest_lines(kept), *(_ranking_line(kept, name) for name in kept.ranking.values[1:])]


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
    for network, budget in itertools.product(kept.network.values, kept.budget.values):
        plan = kept.sel(network=network, budget=budget)
        uniform, own = (plan.sel(ranking=way) for way in ("uniform", name))
        inputs = own.plan_flipped.values >= 0
        if inputs.any():  # or there is no such plan
            told = statistics.mcnemar(*(one.plan_flipped.values[inputs] == 1 for one in (own, uniform)))
            differ += own.plan_bits.item() != uniform.plan_bits.item()
            fewer += told.p_value < _CHANCE and told.only_first < told.only_second
            more += told.p_value < _CHANCE and told.only_first > told.only_second
    return (
        f"Bits by {name} differ from uniform ones at {differ} of {kept.sizes['network'] * kept.sizes['budget']} "
        f"budgets of published networks; beyond chance (McNemar), they flip fewer decisions at {fewer} and more at "
        f"{more}."
    )
