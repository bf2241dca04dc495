"""Tables, figure and words of the full CIFAR-10, of rounding at fixed bits, and of correlations over all variants."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import correlations, rounding
from ..formats import ends, interval, level, listed, number, percent, signed, span
from ..specs import FLOAT
from . import style, tables
from .source_data import attach
from .tables import Cell, beyond_column, mean_range

# Measures that tables show, with titles and forms; of masks on the first grid, of boundaries at the usual tolerance.
_SHOWN = (
    ("flip_rate", "flips", ".4f"), ("band_flip_rate", "band flips", ".3f"),
    ("band_pair_order_flip_rate", "band pair-order flips", ".3f"), ("boundary_jaccard", "J", ".3f"),
    ("effective_displacement", "d_eff", ".3f"), ("tolerance_jaccard", None, ".3f"),
    ("displacement", "displacement, median", ".4f"),
)  # fmt: skip
_ACCURACY = ("accuracy", "accuracy", ".4f")
NAMES = {"nearest": "nearest", "layers": "optimized, layer by layer", "logits": "optimized, on the logits"}
_BITS = {4: ("#0072b2", "o"), 3: ("#d55e00", "s")}  # colour and mark
_SWEPT = {"boundary_jaccard": "boundary Jaccard"}
_SWEPT |= {name: title for name, title, _ in (*_SHOWN[1:3], _ACCURACY)}


def method_name(method: str) -> str:
    """Name a rounding for readers."""
    return NAMES.get(method) or f"optimized + gap, η = {rounding.eta_of(method):g}"


def full_table(sets: dict[str, xr.Dataset]) -> tables.Frame:
    """Tabulate what each bit-width moves, held out (Table 5), by granularity: means over seeds, lowest and highest."""
    lines, (beyond, tau) = {}, beyond_column(next(iter(sets.values())).tolerance_jaccard)
    for title, many in sets.items():
        held_out = _held_out(many).sel(tau=tau)
        for bits in many.bits.values[many.bits.values != FLOAT]:
            at = held_out.sel(bits=bits)
            lost = (held_out.accuracy.sel(bits=FLOAT, drop=True) - at.accuracy).assign_attrs(units="share")
            cells = {name or beyond: mean_range(at[measure], form) for measure, name, form in _SHOWN}
            lines[f"{level(bits)}, per {title}"] = {"accuracy lost": mean_range(lost)} | cells
    return tables.frame(lines, "levels")


def rounding_table(many: xr.Dataset, bits: int) -> tables.Frame:
    """
    Tabulate every rounding at one bit-width on the held-out split (Table 6), and the gap term's effect in pairs.

    The last row is what the gap term that calibration data pick changes against none, with the 95 % interval of the
    mean difference over the seeds.
    """
    beyond, tau = beyond_column(many.tolerance_jaccard)
    held_out = _held_out(many).sel(bits=bits, tau=tau)
    shown = [(m, name or beyond, form) for m, name, form in (_ACCURACY, *_SHOWN, ("logit_error", "logit error", ".3g"))]
    each = {name: held_out.sel({"method": name}) for name in held_out["method"].values.tolist() if name != "float"}
    lines = {
        method_name(method): {title: mean_range(at[name], form) for name, title, form in shown}
        for method, at in each.items()
    }
    if many.sizes["seed"] > 1:
        chosen = correlations.chosen_gap(many, bits)
        gap, without = each[chosen], each["logits"]
        last = {title: tables.difference(gap[name], without[name], form) for name, title, form in shown}
        lines[f"gap, η = {rounding.eta_of(chosen):g}, less none"] = last
    return tables.frame(lines, "rounding")


def _held_out(many: xr.Dataset) -> xr.Dataset:
    return many.sel(split="held-out", quantile=0.5).isel(nodes=0)


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
            colour, mark = _BITS.get(bits, ("#666666", "^"))
            for split, line in (("calibration", "--"), ("held-out", "-")):
                here = change[name].sel(bits=bits, split=split).transpose("eta", "seed")
                if split == "held-out":
                    axes.plot(here.eta, here, line, color=colour, alpha=0.3, lw=0.8)
                look = {"marker": mark, "ms": 4, "color": colour, "label": f"{bits} bits, {split}"}
                axes.plot(here.eta, here.mean("seed"), line, **look)
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set(title=title, xlabel="η", xscale="log")
    panels[0].set_ylabel("change against η = 0")
    style.legend_below(figure, panels[0], 4)
    return attach(figure, change)


def correlations_table(sets: dict[str, xr.Dataset]) -> tables.Frame:
    """Tabulate the correlation of calibration and held-out Jaccard of every variant on every data set."""
    lines, names = {}, NAMES | {"gap": "optimized + gap, η by calibration"}
    for title, many in sets.items():
        seeds = {"seeds": tables.number(many.sizes["seed"], ".0f")}
        for variant, found in correlations.correlations(many).items():
            lines[f"{title}: {names.get(variant, variant)}"] = seeds | _three(found)
    return tables.frame(lines, "variant")


def predictors_table(sets: dict[str, xr.Dataset]) -> tables.Frame:
    """
    Tabulate how well each calibration measure predicts held-out flips of PTQ-W, on each data set the best first.

    The last columns are the difference of Fisher's z to that of J, with its interval over seeds.
    """
    lines = {}
    for title, many in sets.items():
        for rank, (measure, found) in enumerate(correlations.rank_predictors(many).items(), 1):
            line = {"rank": tables.number(rank, ".0f")} | _three(found)
            for gain, name in zip(found[3:], ("z less J's", "within bits, z less J's")):
                line[name] = tables.interval(gain, ".2f", write=signed) if measure != "boundary_jaccard" else ""
            lines[f"{title}: {correlations.PREDICTORS[measure]}"] = line
    return tables.frame(lines, "predictor")


def _three(found: tuple) -> dict[str, Cell]:
    overall, by_seed, within = found[:3]
    return {
        "r [Fisher's interval]": tables.interval(overall, ".3f"),
        "[over seeds]": Cell(ends(by_seed, ".3f"), {"low": by_seed.low, "high": by_seed.high}),
        "within bits [over seeds]": tables.interval(within, ".3f"),
    }


def seen_changes(many: xr.Dataset, bits: int, power: float = 0.8) -> list[str]:
    """Say, of at least two seeds, what the gap term changed and how small a change they would have seen."""
    held_out, chosen = _held_out(many).sel(bits=bits), correlations.chosen_gap(many, bits)
    lines = []
    for measure, name, form in (_ACCURACY, *_SHOWN[:4]):
        pair = [held_out[measure].sel({"method": method}).values for method in (chosen, "logits")]
        found, least = statistics.paired_difference(*pair), statistics.detectable_difference(*pair, power=power)
        seen = f"{number(least, form)} would have been seen with a chance of {percent(power)}"
        lines.append(f"{name} {interval(found, form, signed)}, where {seen}")
    return lines


def gap_summary(many: xr.Dataset, power: float) -> Markdown:
    """Say in words what the boundary-gap term changes at each bit-width; every number comes from *many*."""
    return Markdown("\n".join(
        f"- **{level(bits)}**, η = {rounding.eta_of(correlations.chosen_gap(many, bits)):g} by calibration, against "
        f"none, in pairs over {many.sizes['seed']} seeds: {'; '.join(seen_changes(many, bits, power))}."
        for bits in many.bits.values.tolist()
    ))  # fmt: skip


def full_summary(tensor: xr.Dataset, rounded: xr.Dataset, everywhere: dict, stopping: dict) -> Markdown:
    """Say in words what the full CIFAR-10 and the correlations show; every number comes from the runs."""
    held_out = tensor[["accuracy", "flip_rate", "band_flip_rate"]].sel(split="held-out").mean("seed")
    six, whole = held_out.sel(bits=6), held_out.sel(bits=FLOAT)
    lines = [
        f"- Float, the network decides {number(whole.accuracy)} of the test images right. At **6 bits** it loses "
        f"{number(whole.accuracy - six.accuracy)} of that and changes {number(six.flip_rate)} of all decisions, "
        f"{number(six.band_flip_rate, '.3f')} of those in the boundary band."
    ]
    for bits in rounded.bits.values.tolist():
        at = rounded.sel(split="held-out", bits=bits).isel(nodes=0).mean("seed")
        nearest, layers, logits = (at.sel({"method": name}) for name in ("nearest", "layers", "logits"))
        distances = [number(one.boundary_jaccard, ".3f") for one in (layers, logits, nearest)]
        lines.append(
            f"- At **{level(bits)}** optimized rounding changes {number(layers.flip_rate)} of the decisions layer by "
            f"layer and {number(logits.flip_rate)} from there on the logits, where rounding to nearest changes "
            f"{number(nearest.flip_rate)}; the Jaccard distances are {listed(distances)}."
        )
    found = [three for many in everywhere.values() for three in correlations.correlations(many).values()]
    overall, within = ([one.estimate for one in column] for column in list(zip(*found))[::2])
    lines.append(
        f"- Over {len(found)} variants, calibration and held-out Jaccard correlate from "
        f"{span(min(overall), max(overall), '.3f')}; within a bit-width, from {span(min(within), max(within), '.2f')}."
    )
    return Markdown("\n".join([*lines, _best_predictors(stopping)]))


def _best_predictors(stopping: dict[str, xr.Dataset]) -> str:
    """Say which calibration measure is best on which data set, and which are certainly better than J."""
    ranked = {name: correlations.rank_predictors(many) for name, many in stopping.items()}

    def where(holds: Callable[[dict, str], bool]) -> list[str]:
        """Name the measures of which something holds, with the data sets on which it does."""
        sets = {name: [key for key, rows in ranked.items() if holds(rows, name)] for name in correlations.PREDICTORS}
        said = {name: "every data set" if len(on) == len(ranked) > 1 else listed(on) for name, on in sets.items() if on}
        return [f"{correlations.PREDICTORS[name]} on {on}" for name, on in said.items()]

    best = where(lambda rows, name: next(iter(rows)) == name)
    overall, within = (where(lambda rows, name, i=i: rows[name][i].low > 0) for i in (3, 4))  # gains over J
    return (
        f"- The calibration measure that correlates best with held-out flips is {'; '.join(best)}. Surely better than "
        f"J (95 %, each by itself), over all bit-widths: {listed(overall)}; within them: {listed(within)}."
    )
