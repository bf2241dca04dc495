"""Tables, figures and words of the full CIFAR-10 and of rounding at fixed bits."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import correlations, rounding
from ..formats import level, listed, number, span
from ..multiverse.cifar import PLANES, STEPS
from ..specs import FLOAT
from . import style, tables
from .correlations import best_predictors
from .source_data import attach, joined
from .style import FLOAT_COLOUR, GREEN, GREY, QUANTIZED_COLOUR, SKY
from .subsets import PAPER, draw_seeds
from .tables import mean_deviation

# Measures that tables show, with titles and forms; of masks on the first grid, of boundaries at the usual tolerance.
_SHOWN = (
    ("flip_rate", "flips", ".3f"), ("band_flip_rate", "band flips", ".3f"),
    ("band_pair_order_flip_rate", "band pair-order flips", ".3f"), ("boundary_jaccard", "J", ".3f"),
)  # fmt: skip
_FOLDED = {
    "accuracy lost": "accuracy_lost", "flips": "flip_rate", "band flips": "band_flip_rate",
    "band pair-order flips": "band_pair_order_flip_rate",
}  # fmt: skip
_ACCURACY = ("accuracy", "accuracy", ".3f")
NAMES = {"nearest": "nearest", "layers": "optimized by layer", "logits": "optimized on the logits"}
_BITS = {4: (FLOAT_COLOUR, "o"), 3: (QUANTIZED_COLOUR, "s")}  # colour and mark
_SWEPT = {"boundary_jaccard": "boundary Jaccard"}
_SWEPT |= {name: title for name, title, _ in (*_SHOWN[1:3], _ACCURACY)}


def method_name(method: str) -> str:
    """Name a rounding for readers."""
    return NAMES.get(method) or f"with the gap term, η = {rounding.eta_of(method):g}"


def full_table(sets: dict[str, xr.Dataset], folded: xr.Dataset, paper: dict[str, float]) -> tables.Frame:
    """
    Tabulate what each bit-width moves, held out (Table P5): the paper's row first, then means ± deviations over seeds.

    *sets* are runs by granularity; *folded*, of :func:`folded_runs`, adds a row at the paper's 6 bits.
    """
    stated = {"accuracy lost": paper["F1"], "flips": paper["F2"], "band flips": paper["F3"]}
    lines = {"the paper, 6 bits": {title: tables.number(value, "g") for title, value in stated.items()}}
    held_out = {title: _measured(many) for title, many in sets.items()}
    for title, found in held_out.items():
        bits_of = [bits for bits in found["accuracy"].bits.values.tolist() if bits != FLOAT]
        found["accuracy lost"] = found["accuracy"].sel(bits=FLOAT, drop=True) - found.pop("accuracy")
        found["accuracy lost"].attrs["units"] = "fraction"
        for bits in bits_of:
            lines[f"{level(bits)}, a {title}"] = {
                t: mean_deviation(of.sel(bits=bits), _form(t)) for t, of in found.items()
            }
            if bits == 6 and title == "tensor":
                lines["6 bits, a tensor, folded"] = {
                    t: mean_deviation(folded[m].sel(bits=bits), _form(t)) for t, m in _FOLDED.items()
                }
    order = ["accuracy lost", *(title for title in next(iter(held_out.values())) if title != "accuracy lost")]
    return tables.frame({name: {t: line.get(t, "") for t in order} for name, line in lines.items()}, "one step for")


def rounding_table(many: xr.Dataset, paper: dict[str, float]) -> tables.Frame:
    """
    Tabulate every rounding at both bit-widths on the held-out split (Table P6): the paper's rows first.

    Means ± deviations over seeds; the gap term has the η that calibration data pick.
    """
    found = _measured(many)
    reported = {"optimized": ("R3", "R1"), "optimized + gap": ("R4", "R2")}
    lines = {
        f"the paper, 4 bits: {name}": {
            "band pair-order flips": tables.number(paper[flips], "g"), "J": tables.number(paper[distance], "g"),
        }
        for name, (flips, distance) in reported.items()
    }  # fmt: skip
    for bits in many.bits.values.tolist():
        chosen = correlations.chosen_gap(many, bits)
        for name in (*NAMES, chosen):
            at = {"bits": bits, "method": name}
            named = f"{level(bits)}: {method_name(name)}"
            lines[named] = {title: mean_deviation(of.sel(at), _form(title)) for title, of in found.items()}
    return tables.frame({name: {t: line.get(t, "") for t in found} for name, line in lines.items()}, "rounding")


def folded_runs(readings: xr.Dataset) -> xr.Dataset:
    """Return the readings of the judged network with its batch norms folded, by the baseline's other choices."""
    usual = {"split": "held-out", "nearness": "margin", "share": 0.2, "plane": PLANES[0], "extent": "range"}
    at = {"trained": readings.trained.values[0], "step": STEPS[1], "scheme": "narrow", "thickness": 0} | usual
    return readings.sel(at)


def _with_loss(held_out: xr.Dataset) -> xr.Dataset:
    lost = held_out.accuracy.sel(bits=FLOAT, drop=True) - held_out.accuracy
    return held_out.assign(accuracy_lost=lost.assign_attrs(units="fraction"))


def _held_out(many: xr.Dataset) -> xr.Dataset:
    return many.sel(split="held-out", quantile=0.5).isel(nodes=0)


def _measured(many: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the held-out measures that tables show, by title, each at its own place."""
    return {
        title: many[measure].sel(split="held-out").isel(nodes=0, missing_dims="ignore")
        for measure, title, _ in (_ACCURACY, *_SHOWN)
    }


def _form(title: str) -> str:
    return ".4f" if title == "accuracy lost" else ".3f"


@style.styled
def levels_figure(sets: dict[str, xr.Dataset], folded: xr.Dataset, paper: dict[str, float]) -> Figure:
    """Draw what each bit-width moves, held out: a panel a measure, a line a quantizer, with the paper's values."""
    titles = {
        "accuracy_lost": "accuracy lost", "flip_rate": "decisions changed", "band_flip_rate": "changed in the band",
        "boundary_jaccard": f"Jaccard distance, {int(folded.nodes.max())} nodes",
    }  # fmt: skip
    nodes = int(folded.nodes.max())
    many = {name: _with_loss(one.sel(split="held-out").sel(nodes=nodes)) for name, one in sets.items()}
    many["a tensor, folded"] = folded.sel(nodes=nodes)
    bits = folded.bits.values.tolist()
    shown = {name: one[list(titles)].sel(bits=bits).reset_coords(drop=True) for name, one in many.items()}
    looks = ((FLOAT_COLOUR, "o"), (SKY, "s"), (GREEN, "^"))
    figure, panels = plt.subplots(2, 2, figsize=(9, 4.7), sharex=True)
    stated = dict(zip(titles, (paper["F1"], paper["F2"], paper["F3"])))
    for axes, (measure, title) in zip(panels.flat, titles.items()):
        for shift, ((name, one), (colour, mark)) in zip((-0.12, 0, 0.12), zip(shown.items(), looks)):
            draw_seeds(axes, one[measure], colour, name, mark, shift)
        if measure in stated:
            axes.plot(bits.index(6), stated[measure], **PAPER)
            axes.set(yscale="symlog" if measure == "accuracy_lost" else "log")
        axes.set_title(title, fontsize=9)
    panels[0, 0].set_yscale("symlog", linthresh=0.002)
    for axes in panels[1]:
        axes.set_xlabel("bits")
    style.legend_below(figure, panels[0, 0], 4)
    return attach(figure, joined(shown, "quantizer"))


@style.styled
def rounding_figure(many: xr.Dataset, channel: xr.Dataset, paper: dict[str, float]) -> Figure:
    """
    Draw what each rounding moves, held out: bit-widths across, measures down, a row a rounding; the paper's values.

    *channel* are runs that round to nearest with one step a channel.
    """
    titles = {
        "accuracy": "accuracy", "flip_rate": "decisions changed", "band_pair_order_flip_rate": "band pair-order flips",
        "boundary_jaccard": "Jaccard distance",
    }  # fmt: skip
    names = ["nearest, a step a channel", *NAMES.values(), "with the gap term"]
    stated = {"band_pair_order_flip_rate": ("R3", "R4"), "boundary_jaccard": ("R1", "R2")}
    usual, columns = {"split": "held-out"}, many.bits.values.tolist()
    found = {}
    for bits in columns:
        runs = [channel.sel(usual | {"bits": bits})]
        runs += [
            many.sel(usual | {"bits": bits, "method": name}) for name in (*NAMES, correlations.chosen_gap(many, bits))
        ]
        kept = [one.isel(nodes=0)[list(titles)].reset_coords(drop=True) for one in runs]
        found[bits] = xr.concat(kept, xr.Variable("rounding", names), coords="minimal", compat="override")
    figure, panels = plt.subplots(len(titles), len(columns), figsize=(9, 6.2), sharey=True, sharex="row", squeeze=False)
    for row, (measure, title) in zip(panels, titles.items()):
        for axes, bits in zip(row, columns):
            colour, mark = _BITS.get(bits, (GREY, "^"))
            values = found[bits][measure].transpose("seed", "rounding").values
            heights = np.arange(len(names))
            axes.plot(
                values.ravel(),
                np.broadcast_to(heights, values.shape).ravel(),
                mark,
                color=colour,
                ms=3,
                alpha=0.3,
                rasterized=True,
                mew=0,
            )
            axes.plot(np.nanmean(values, axis=0), heights, "|", color=colour, ms=12, mew=2)
            if bits == 4 and measure in stated:
                axes.plot([paper[name] for name in stated[measure]], heights[3:], **PAPER)
            axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=title)
        row[0].set_yticks(range(len(names)), names, fontsize=8)
    for axes, bits in zip(panels[0], columns):
        axes.set_title(level(bits))
    return attach(figure, xr.concat(list(found.values()), xr.Variable("bits", columns)))


@style.styled
def sweep_figure(many: xr.Dataset) -> Figure:
    """Draw what each η does against none, dashed on the calibration split: thin lines are seeds, thick ones means."""
    gaps = rounding.gap_methods(many)
    shown = many[list(_SWEPT)].isel(nodes=0)
    change = (shown.sel({"method": list(gaps)}) - shown.sel({"method": "logits"}, drop=True)).rename(method="eta")
    change = change.assign_coords(eta=("eta", list(gaps.values()), {"long_name": "weight of the gap term, η"}))
    figure, panels = plt.subplots(1, len(_SWEPT), figsize=(12.5, 3.2))
    for axes, (name, title) in zip(panels, _SWEPT.items()):
        about = many[name].attrs
        change[name].attrs = about | {"long_name": f"{about.get('long_name', name)}, less at η = 0"}
        for bits in change.bits.values.tolist():
            colour, mark = _BITS.get(bits, (GREY, "^"))
            for split, line in (("calibration", "--"), ("held-out", "-")):
                here = change[name].sel(bits=bits, split=split).transpose("eta", "seed")
                if split == "held-out":
                    axes.plot(here.eta, here, line, color=colour, alpha=0.3, lw=0.8)
                look = {"marker": mark, "ms": 4, "color": colour, "label": f"{bits} bits, {split}"}
                axes.plot(here.eta, here.mean("seed"), line, **look)
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set(title=title, xlabel="η", xscale="log")
    panels[0].set_ylabel("change against η = 0")
    style.legend_below(figure, panels[0], 4)
    return attach(figure, change)


def detectable_table(many: xr.Dataset, power: float = 0.8) -> tables.Frame:
    """Tabulate what the gap term changes at each bit-width, and the least change that the seeds would have seen."""
    lines = {}
    for measure, name, form in (_ACCURACY, *_SHOWN):
        lines[name] = {}
        for bits in many.bits.values.tolist():
            held_out, chosen = _held_out(many).sel(bits=bits), correlations.chosen_gap(many, bits)
            gap, without = (held_out[measure].sel({"method": method}) for method in (chosen, "logits"))
            least = statistics.detectable_difference(gap.values, without.values, power=power)
            lines[name][f"{level(bits)}: change"] = tables.difference(gap, without, form)
            lines[name][f"{level(bits)}: would be seen"] = tables.number(least, form)
    return tables.frame(lines, "measure")


def gap_summary(many: xr.Dataset) -> Markdown:
    """Say in words which measures the boundary-gap term changes beyond chance at each bit-width."""
    lines = []
    for bits in many.bits.values.tolist():
        held_out, chosen = _held_out(many).sel(bits=bits), correlations.chosen_gap(many, bits)
        found: dict[str, list[str]] = {"raises": [], "lowers": []}
        for measure, name, _ in (_ACCURACY, *_SHOWN):
            pair = [held_out[measure].sel({"method": method}).values for method in (chosen, "logits")]
            change = statistics.paired_difference(*pair)
            found["raises"] += [name] if change.low > 0 else []
            found["lowers"] += [name] if change.high < 0 else []
        said = " and ".join(f"{verb} {listed(names)}" for verb, names in found.items() if names)
        lines.append(
            f"- At **{level(bits)}** the boundary-gap term {said or 'changes no measure'} beyond chance (95 %, each "
            "measure by itself)."
        )
    return Markdown("\n".join(lines))


def answer(tensor: xr.Dataset, folded: xr.Dataset, rounded: xr.Dataset, paper: dict[str, float]) -> Markdown:
    """Say in three sentences what 6 bits and the gap term do, beside the paper."""
    plain = [number(one.flip_rate.sel(bits=6).mean(), ".3f") for one in (tensor.sel(split="held-out"), folded)]
    held_out = _held_out(rounded).sel(bits=4)
    chosen, lower = correlations.chosen_gap(rounded, 4), []
    for measure, name in (
        ("boundary_jaccard", "the Jaccard distance"),
        ("band_pair_order_flip_rate", "pair-order flips"),
    ):
        pair = [held_out[measure].sel({"method": one}).values for one in (chosen, "logits")]
        lower += [name] if statistics.paired_difference(*pair).high < 0 else []
    says = f"lowers {listed(lower)} beyond chance" if lower else "lowers neither measure of the boundary beyond chance"
    return Markdown(
        f"**Answer.** At 6 bits our networks change {plain[0]} of the held-out decisions, and {plain[1]} if batch "
        f"norms are folded first. The paper has {paper['F2']:g}. At 4 bits our optimized rounding keeps more pairs in "
        f"order than the paper's, and the boundary-gap term {says}."
    )


def full_summary(tensor: xr.Dataset, rounded: xr.Dataset, everywhere: dict, stopping: dict) -> Markdown:
    """Say in words what the full CIFAR-10 and the correlations show; every number comes from the runs."""
    six = tensor[["flip_rate", "band_flip_rate"]].sel(split="held-out", bits=6).mean("seed")
    lines = [
        "- At **6 bits** most decisions that change lie in the boundary band: they are "
        f"{number(six.band_flip_rate, '.3f')} of the band and {number(six.flip_rate, '.3f')} of all images."
    ]
    for bits in rounded.bits.values.tolist():
        at = rounded.flip_rate.sel(split="held-out", bits=bits).mean("seed")
        nearest, layers = (number(at.sel({"method": name}), ".3f") for name in ("nearest", "layers"))
        lines.append(
            f"- At **{level(bits)}** rounding to nearest changes {nearest} of the decisions, and optimized rounding "
            f"{layers}."
        )
    found = [three for many in everywhere.values() for three in correlations.correlations(many).values()]
    overall, within = ([one.estimate for one in column] for column in list(zip(*found))[::2])
    lines.append(
        f"- Over the variants, calibration and held-out Jaccard distances correlate from "
        f"{span(min(overall), max(overall), '.3f')}. Within a bit-width the lowest correlation is "
        f"{number(min(within), '.2f')}."
    )
    return Markdown("\n".join([*lines, best_predictors(stopping)]))
