"""Tables and figures of the full CIFAR-10 and of rounding at fixed bits, and the correlations over all variants."""

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from bqcore.metrics import statistics

from .. import correlations
from ..specs import FLOAT
from .style import STYLE
from .tables import beyond_column

# Measures that tables show, with their titles and forms; of masks on the first grid, of boundaries at the usual
# tolerance.
_SHOWN = (
    ("flip_rate", "flips", ".4f"), ("band_flip_rate", "band flips", ".3f"),
    ("band_pair_order_flip_rate", "band pair-order flips", ".3f"), ("boundary_jaccard", "J", ".3f"),
    ("effective_displacement", "d_eff", ".3f"), ("tolerance_jaccard", "beyond τ", ".3f"),
    ("displacement", "displacement, median", ".4f"),
)  # fmt: skip
NAMES = {"nearest": "nearest", "layers": "optimized, layer by layer", "logits": "optimized, on the logits"}
_BITS = {4: ("#0072b2", "o"), 3: ("#d55e00", "s")}  # colour and mark


def method_name(method: str) -> str:
    """Name a rounding for readers."""
    return NAMES.get(method) or f"optimized + {method.replace('gap ', 'gap, η = ')}"


def full_table(sets: dict[str, xr.Dataset]) -> pd.DataFrame:
    """
    Tabulate what each bit-width moves on the held-out split (Table 5): means over seeds, with the lowest and highest.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Joined runs of the stopping study by granularity.
    """
    rows, (beyond, tau) = [], beyond_column(next(iter(sets.values())).tolerance_jaccard)
    for title, many in sets.items():
        held_out = _of_split(many).sel(tau=tau)
        for bits in many.bits.values[many.bits.values != FLOAT]:
            at = held_out.sel(bits=bits)
            lost = held_out.accuracy.sel(bits=FLOAT) - at.accuracy
            row = {"levels": f"{bits} bits, per {title}", "accuracy lost": _spread(lost, ".4f")}
            rows.append(row | {name: _spread(at[measure], form) for measure, name, form in _SHOWN})
    return pd.DataFrame(rows).set_index("levels").rename(columns={"beyond τ": beyond})


def rounding_table(many: xr.Dataset, bits: int) -> pd.DataFrame:
    """
    Tabulate every rounding at one bit-width on the held-out split (Table 6), and the gap term's effect in pairs.

    The last row is what the gap term that calibration data pick changes against none, with the 95 % interval of the
    mean difference over the seeds.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs of the rounding study.
    bits : int
    """
    beyond, tau = beyond_column(many.tolerance_jaccard)
    held_out = _of_split(many).sel(bits=bits, tau=tau)
    shown = (("accuracy", "accuracy", ".4f"), *_SHOWN, ("logit_error", "logit error", ".3g"))
    rows = []
    for method in held_out.method.values:
        if method != "float":
            at = held_out.sel({"method": method})
            rows.append({"rounding": method_name(str(method))} | {n: _spread(at[m], form) for m, n, form in shown})
    if many.sizes["seed"] > 1:
        chosen = correlations.chosen_gap(many, bits)
        gap, without = held_out.sel({"method": chosen}), held_out.sel({"method": "logits"})
        row = {"rounding": f"gap, η = {chosen.removeprefix('gap ')}, less none"}
        for measure, name, form in shown:
            found = statistics.paired_difference(gap[measure].values, without[measure].values)
            row[name] = f"{found.estimate:+{form}} [{found.low:+{form}},\u00a0{found.high:+{form}}]"
        rows.append(row)
    return pd.DataFrame(rows).set_index("rounding").rename(columns={"beyond τ": beyond})


def _of_split(many: xr.Dataset, split: str = "held-out") -> xr.Dataset:
    return many.sel(split=split).isel(nodes=0).sel(quantile=0.5)


def _spread(values: xr.DataArray, form: str) -> str:
    """Write a mean over seeds, with the lowest and the highest if there are several."""
    mean = f"{float(values.mean()):{form}}"
    return (
        mean if values.size < 2 else f"{mean} ({float(values.min()):{form}}\u00a0–\u00a0{float(values.max()):{form}})"
    )


def sweep_figure(many: xr.Dataset) -> Figure:
    """Draw what each η does against none, dashed on the calibration split: thin lines are seeds, thick ones means."""
    gaps = [name for name in many.method.values.tolist() if name.startswith("gap ")]
    etas = [float(name.removeprefix("gap ")) for name in gaps]
    titles = {
        "boundary_jaccard": "boundary Jaccard", "band_flip_rate": "band flips",
        "band_pair_order_flip_rate": "band pair-order flips", "accuracy": "accuracy",
    }  # fmt: skip
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 4, figsize=(12.5, 3.2))
        for axes, (measure, title) in zip(panels, titles.items()):
            for bits in many.bits.values.tolist():
                colour, mark = _BITS.get(bits, ("#666666", "^"))
                for split, style in (("calibration", "--"), ("held-out", "-")):
                    here = _of_split(many, split)[measure].sel(bits=bits)
                    change = (here.sel({"method": gaps}) - here.sel({"method": "logits"})).transpose("seed", "method")
                    if split == "held-out":
                        axes.plot(etas, change.values.T, style, color=colour, alpha=0.3, lw=0.8)
                    axes.plot(
                        etas, change.mean("seed"), style, marker=mark, ms=4, color=colour, label=f"{bits} bits, {split}"
                    )
            axes.axhline(0, color="#999999", lw=0.8)
            axes.set(title=title, xlabel="η", xscale="log")
        panels[0].set_ylabel("change against η = 0")
        figure.legend(
            *panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4, loc="outside lower center"
        )
    plt.close(figure)
    return figure


def correlations_table(sets: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Tabulate the correlation of calibration and held-out Jaccard of every variant on every data set."""
    rows = []
    for title, many in sets.items():
        for variant, found in correlations.correlations(many).items():
            name = {"gap": "optimized + gap, η by calibration"}.get(variant, NAMES.get(variant, variant))
            rows.append({"variant": f"{title}: {name}", "seeds": many.sizes["seed"]} | _three(found))
    return pd.DataFrame(rows).set_index("variant")


def predictors_table(sets: dict[str, xr.Dataset]) -> pd.DataFrame:
    """
    Tabulate how well each calibration measure predicts held-out flips of PTQ-W, on each data set the best first.

    The last columns are the difference of Fisher's z to that of J, with its interval over seeds.
    """
    rows = []
    for title, many in sets.items():
        for rank, (measure, found) in enumerate(correlations.rank_predictors(many).items(), 1):
            row = {"predictor": f"{title}: {correlations.PREDICTORS[measure]}", "rank": rank} | _three(found)
            for gain, name in zip(found[3:], ("z less J's", "within bits, z less J's")):
                row[name] = _gain(gain) if measure != "boundary_jaccard" else ""
            rows.append(row)
    return pd.DataFrame(rows).set_index("predictor")


def _gain(gain: statistics.Interval) -> str:
    return f"{gain.estimate:+.2f} [{gain.low:+.2f},\u00a0{gain.high:+.2f}]"


def _three(found: tuple) -> dict[str, str]:
    titles = ("r [Fisher's interval]", "[over seeds]", "within bits [over seeds]")
    texts = [f"[{one.low:.3f},\u00a0{one.high:.3f}]" for one in found[:3]]
    return {
        titles[0]: f"{found[0].estimate:.3f} {texts[0]}", titles[1]: texts[1],
        titles[2]: f"{found[2].estimate:.3f} {texts[2]}",
    }  # fmt: skip


def seen_changes(many: xr.Dataset, bits: int, power: float = 0.8) -> list[str]:
    """
    Say measure by measure what the gap term changed and how small a change these seeds would have seen.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs of the rounding study, at least two seeds.
    bits : int
    power : float
        The chance of seeing it.
    """
    held_out, chosen = _of_split(many).sel(bits=bits), correlations.chosen_gap(many, bits)
    lines = []
    for measure, name, form in (("accuracy", "accuracy", ".4f"), *_SHOWN[:4]):
        pair = [held_out[measure].sel({"method": method}).values for method in (chosen, "logits")]
        found = statistics.paired_difference(*pair)
        least = statistics.detectable_difference(*pair, power=power)
        lines.append(
            f"{name} {found.estimate:+{form}} [{found.low:+{form}}, {found.high:+{form}}], where {least:{form}} would "
            f"have been seen with a chance of {power:.0%}"
        )
    return lines
