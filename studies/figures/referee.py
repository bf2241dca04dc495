"""Figures and tables for a referee: reported numbers among our runs, implied grids, power, transfer, first order."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure

from bqcore.metrics import finite_scale, statistics

from .. import stopping
from .style import BOTH_COLOUR, DATASETS, FLOAT_COLOUR, QUANTIZED_COLOUR, STYLE, listed

_ROUNDING = 0.0005  # the paper's Jaccard distances have three decimals
_REACH = 3  # half-widths of an interval that the figure of positions shows
_VERDICTS = {
    "reproduced": ("#009e73", "o"),
    "inconclusive": ("#777777", "s"),
    "not reproduced": (QUANTIZED_COLOUR, "D"),
}


def positions(rows: list[dict]) -> pd.DataFrame:
    """
    Give where each reported number lies among our runs: 0 is their middle, ±1 the ends of the 95 % interval.

    Parameters
    ----------
    rows : list of dict
        Of :func:`studies.ledger.ledger`; those with a reported number and an interval are kept.

    Returns
    -------
    pandas.DataFrame
        By claim: reported, estimate, low, high, position, runs, verdict. The position is infinite where the interval
        has no width on that side.
    """
    kept = {}
    for row in rows:
        if isinstance(row["reported"], int | float) and row["low"] is not None:
            off = row["reported"] - row["estimate"]
            side = row["high"] - row["estimate"] if off > 0 else row["estimate"] - row["low"]
            position = 0.0 if off == 0 else off / side if side > 0 else np.copysign(np.inf, off)
            names = ("dataset", "reported", "estimate", "low", "high", "runs", "verdict")
            kept[row["id"]] = {name: row[name] for name in names} | {"position": position}
    return pd.DataFrame.from_dict(kept, orient="index").rename_axis("claim")


def positions_figure(rows: list[dict]) -> Figure:
    """Draw the positions of the reported numbers, with each one and our interval in words."""
    table = positions(rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 0.3 * len(table) + 1.3))
        axes.axvspan(-1, 1, color="#e6eef4", lw=0)
        axes.axvline(0, color=FLOAT_COLOUR, lw=1)
        for height, row in enumerate(table.iloc[::-1].to_dict("records")):
            colour, mark = _VERDICTS[row["verdict"]]
            axes.plot(np.clip(row["position"], -_REACH, _REACH), height, mark, color=colour, ms=7, clip_on=False)
            words = f"{row['reported']:g} among {row['low']:.3g} to {row['high']:.3g}, {row['runs']} runs"
            axes.text(_REACH + 0.2, height, words, va="center", fontsize=8)
        names = [f"{name}, {row['dataset']}" for name, row in table.iloc[::-1].iterrows()]
        axes.set_yticks(range(len(table)), names)
        axes.set(xlim=(-_REACH, _REACH), xlabel="position among our runs: 0 their middle, ±1 the ends of the interval")
        for verdict, (colour, mark) in _VERDICTS.items():
            axes.plot([], [], mark, color=colour, label=verdict)
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    plt.close(figure)
    return figure


def implied_steps(many: xr.Dataset, reported: dict[int, float]) -> pd.DataFrame:
    """
    Give the grid step that reported Jaccard distances imply, with an interval, if the networks were like ours.

    Shifts come from our own distances on the coarsest grid, where the law can be read backwards, seed by seed; the next
    seed's shift falls into a 95 % interval, taken of its logarithm since a shift is above 0. The law turns shift and
    reported distance into a step.

    Parameters
    ----------
    many : xarray.Dataset
        Joined runs of the stopping study.
    reported : dict
        The paper's held-out Jaccard distance by bits.

    Returns
    -------
    pandas.DataFrame
        By bits: reported, nodes (of the coarsest grid), ours (median distance there), the shift and the step with their
        ends, and the nodes a side that a slice of the median size would have at that step, fewest and most.
    """
    rows = {}
    for bits, value in reported.items():
        here = many.sel(split="held-out", bits=bits, nodes=int(many.nodes.min()))
        steps = np.broadcast_arrays(here.step_a, here.step_b, here.boundary_jaccard)[:2]
        shifts = np.array([
            finite_scale.implied_displacement(float(j), (float(a), float(b)))
            for j, a, b in zip(here.boundary_jaccard.values, *steps)
        ])  # fmt: skip
        if not (shifts > 0).all():
            raise ValueError(f"{int((shifts == 0).sum())} of {len(shifts)} runs do not move at {bits} bits: no step.")
        shift = statistics.Interval(*np.exp(statistics.prediction_interval(np.log(shifts))))
        step = finite_scale.implied_step(value, (shift.low, shift.high), rounding=_ROUNDING)
        side = float(np.median(np.maximum(*steps)) * (int(here.nodes) - 1))
        rows[f"{bits} bits"] = {
            "reported": value, "nodes": int(here.nodes), "ours": float(here.boundary_jaccard.median()),
            "shift": shift.estimate, "shift_low": shift.low, "shift_high": shift.high,
            "step_low": step.low, "step_high": step.high, "fewest": side / step.high + 1, "most": side / step.low + 1,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("level")


def implied_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Write :func:`implied_steps` as the chapter shows it."""
    return pd.DataFrame({
        "J, the paper": steps.reported.map("{:.3f}".format),
        "J, ours (coarsest grid)": [f"{j:.3f} ({n} nodes)" for j, n in zip(steps.ours, steps.nodes)],
        "shift, ours": [
            f"{x:.4f} [{low:.4f}, {high:.4f}]"
            for x, low, high in zip(steps["shift"], steps.shift_low, steps.shift_high)
        ],
        "step implied": [f"{low:.3f} to {high:.3f}" for low, high in zip(steps.step_low, steps.step_high)],
        "nodes a side implied": [f"{low:.0f} to {high:.0f}" for low, high in zip(steps.fewest, steps.most)],
    })  # fmt: skip


def steps_figure(many: xr.Dataset, steps: pd.DataFrame) -> Figure:
    """
    Draw J against the grid step by the law, our measured medians, and where the reported values meet the law.

    Parameters
    ----------
    many : xarray.Dataset
        As in :func:`implied_steps`.
    steps : pandas.DataFrame
        Of it.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.2))
        for (name, row), colour in zip(steps.iterrows(), (FLOAT_COLOUR, QUANTIZED_COLOUR, BOTH_COLOUR)):
            here = many.sel(split="held-out", bits=int(name.split()[0]))
            h = np.maximum(here.step_a, here.step_b)
            h = (h.median([dim for dim in h.dims if dim != "nodes"])).values
            j = here.boundary_jaccard.transpose("nodes", ...)
            middle = j.median("seed").values
            ends = np.abs(np.stack([j.min("seed").values, j.max("seed").values]) - middle)
            axes.errorbar(h, middle, ends, fmt="o", ms=4, lw=1, capsize=2, color=colour, label=f"{name}, ours")
            grid = np.geomspace(h.min() / 2, 1.5 * row.step_high, 200)
            law = [
                [finite_scale.isotropic_jaccard(shift, (x, x)) for x in grid]
                for shift in (row["shift"], row.shift_low, row.shift_high)
            ]
            axes.plot(grid, law[0], color=colour, lw=1)
            axes.fill_between(grid, law[1], law[2], color=colour, alpha=0.12, lw=0)
            axes.plot(
                [row.step_low, row.step_high], [row.reported] * 2, color=colour, lw=3.5, solid_capstyle="butt",
                label=f"{name}, steps that the paper's {row.reported:g} implies",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="grid step h, input units", ylabel="boundary-mask Jaccard distance", ylim=(0, 1))
        axes.legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def power_table(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset], *, rng: int) -> pd.DataFrame:
    """
    Tabulate what boundary-aware stopping saves over accuracy, and the smallest saving that so many seeds could see.

    Parameters
    ----------
    sets, chosen : dict of xarray.Dataset
        Joined runs and their usual choices, by title.
    rng : int
        Seed of the paired bootstrap.
    """
    rows = {}
    for name, many in sets.items():
        rules = chosen[name].rule.values.tolist()
        first, second = (chosen[name].isel(choice=rules.index(rule)) for rule in ("accuracy", "jaccard"))
        held_out = [at.flip_rate.sel(split="held-out").values for at in (first, second)]
        equal = stopping.at_equal_bits(many, second, "flip_rate").values
        saved, drawn = statistics.paired_difference(*held_out), statistics.paired_bootstrap(*held_out, rng=rng)
        priced = statistics.paired_difference(equal, held_out[1])
        least = [statistics.detectable_difference(*held_out, seeds=n) for n in (len(equal), 3)]
        rows[name] = {
            "seeds": str(len(equal)),
            "flips saved": f"{saved.estimate:+.4f} [{saved.low:+.4f}, {saved.high:+.4f}]",
            "by bootstrap": f"[{drawn.low:+.4f}, {drawn.high:+.4f}]",
            "at equal bits": f"{priced.estimate:+.4f} [{priced.low:+.4f}, {priced.high:+.4f}]"
            if second.chosen_bits.min() < second.chosen_bits.max()
            else f"nothing to compare: all at {float(second.chosen_bits.mean()):g} bits",
            "seen with these seeds": f"{least[0]:.4f}", "seen with 3": f"{least[1]:.4f}",
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=DATASETS).rename_axis("data set")


def correlation_table(sets: dict[str, xr.Dataset], *, quantized: list[int]) -> pd.DataFrame:
    """
    Tabulate the correlation of calibration and held-out Jaccard in three readings, and that of d_eff within levels.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Joined runs by title.
    quantized : list of int
        The levels that count.
    """

    def words(found: statistics.Interval) -> str:
        return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"

    rows = {}
    for name, many in sets.items():
        at = many.sel(bits=quantized).isel(nodes=0).transpose("split", "seed", "bits", ...)
        j = at.boundary_jaccard.values
        rows[name] = {
            "seeds": str(many.sizes["seed"]), "all points independent": words(statistics.correlation(*j)),
            "seeds as clusters": words(statistics.seed_correlation(*j)),
            "within a level": words(statistics.within_level_correlation(*j)),
            "within a level, d_eff": words(statistics.within_level_correlation(*at.effective_displacement.values)),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=DATASETS).rename_axis("data set")


def outside_table(sets: dict[str, xr.Dataset]) -> pd.DataFrame:
    """
    Tabulate what the slices show: variance, the share outside the data, and levels with fewer than three classes.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Joined runs of the stopping study by title.
    """
    rows = {}
    for name, many in sets.items():
        few = many.few_classes.isel(nodes=0).any("split").sum("seed")
        rows[name] = {
            "seeds": str(many.sizes["seed"]), "variance held": _range(many.explained.sum("axis").values, ".0%"),
            **{f"outside, {split}": _range(many.outside.sel(split=split).values, ".0%") for split in many.split.values},
            "fewer than three classes": listed(
                [f"{int(bits)} bits ({int(few.sel(bits=bits))})" for bits in many.bits.values if few.sel(bits=bits)]
            ) or "none",
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=DATASETS).rename_axis("data set")


def spread_table(study: xr.Dataset) -> pd.DataFrame:
    """Tabulate by level J and d_eff on one grid beside the measures without one: median and range over the seeds."""
    columns = {"J": (study.boundary_jaccard, ".3f"), "d_eff": (study.effective_displacement, ".4f")}
    columns |= {f"beyond {tau:g}": (study.tolerance_jaccard.sel(tau=tau), ".3f") for tau in study.tau.values}
    columns |= {"mean distance": (study.mean_distance, ".4f"), "changed area": (study.changed_area, ".4f")}
    cells = {
        title: [_range(values.sel(bits=bits).values, form) for bits in study.bits.values]
        for title, (values, form) in columns.items()
    }
    return pd.DataFrame(cells, index=pd.Index([f"{b} bits" for b in study.bits.values], name="level"))


def first_order_table(study: xr.Dataset, where: str) -> pd.DataFrame:
    """Tabulate by level how far first order holds at one kind of points: median and range over the seeds."""
    here = study.sel(where=where)
    columns = {
        "true displacement": (here.true, ".4f"), "first order / true": (here.ratio, ".3f"),
        "error": (here.error, ".3f"), "within a tenth": (here.within, ".2f"), "same sign": (here.same_sign, ".3f"),
        "no float crossing": (here.no_float, ".3f"), "no quantized crossing": (here.no_quantized, ".3f"),
    }  # fmt: skip
    cells = {
        title: [_range(values.sel(bits=bits).values, form) for bits in study.bits.values]
        for title, (values, form) in columns.items()
    }
    return pd.DataFrame(cells, index=pd.Index([f"{b} bits" for b in study.bits.values], name="level"))


def first_order_figure(study: xr.Dataset) -> Figure:
    """Draw by level the share of points where first order is within a tenth of the truth, and its median error."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
        order = np.arange(study.sizes["bits"])
        marks = dict(
            zip(study["where"].values, (("#0072b2", "o"), ("#56b4e9", "v"), ("#009e73", "s"), ("#d55e00", "D")))
        )
        for axes, name in zip(panels, ("within", "error")):
            for i, (where, (colour, mark)) in enumerate(marks.items()):
                values = study[name].sel(where=where).transpose("seed", "bits").values
                middle = np.median(values, axis=0)
                ends = np.abs(np.stack([values.min(axis=0), values.max(axis=0)]) - middle)
                axes.errorbar(
                    order + 0.12 * (i - 1.5), middle, ends, fmt=mark, color=colour, ms=4, lw=1, capsize=2, label=where
                )
            axes.set_xticks(order, [str(b) for b in study.bits.values])
            axes.set_xlabel("bits")
        panels[0].set(ylabel="share within a tenth of the truth", ylim=(-0.02, 1.02))
        panels[1].set(ylabel="median relative error", yscale="log")
        panels[1].legend(frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def summary(rows: list[dict], steps: pd.DataFrame, study: xr.Dataset) -> Markdown:
    """Say in words what a referee needs to know; every number comes from the arguments."""
    table = positions(rows)
    inside = table[table.position.abs() <= 1]
    together = inside.index[inside.verdict.eq("not reproduced")].tolist()
    whole = table[table.estimate != 0]
    width = (whole.high - whole.low) / whole.estimate.abs()
    bits = int(study.bits.values[0])
    here = study.sel(bits=bits)
    far = study.sel(where="outside the band", bits=bits)
    lines = [
        f"- Of {len(table)} reported numbers that our runs can be held against, {len(inside)} lie where the next run "
        f"could{f', {listed(together)} among them, which fail only together with others' if together else ''}; the "
        f"median interval is {width.median():.1f} times as wide as its estimate is large.",
        f"- At {bits} bits the median network of the exact study has J = {float(here.boundary_jaccard.median()):.2f} "
        f"while its boundaries lie a mean distance of {float(here.mean_distance.median()):.4f} input units apart and "
        f"{float(here.changed_area.median()):.2%} of the slice changes class.",
        *(
            f"- A Jaccard distance of {row.reported:g} at {name} asks for a grid step of {row.step_low:.3g} to "
            f"{row.step_high:.3g} input units if shifts are like ours: {row.fewest:.0f} to {row.most:.0f} nodes a side."
            for name, row in steps.iterrows()
        ),
        f"- The first-order displacement at {bits} bits is within a tenth of the truth at "
        f"{float(study.sel(where='at the boundary', bits=bits).within.median()):.0%} of boundary points and at "
        f"{float(far.within.median()):.0%} of inputs outside the band, in the median network.",
    ]  # fmt: skip
    return Markdown("\n".join(lines))


def _range(values: np.ndarray, form: str) -> str:
    found = values[np.isfinite(values)]
    if not len(found):
        return "none"
    middle, low, high = (format(float(f(found)), form) for f in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} [{low}, {high}]"
