"""Figures, table and sentence on the finite-scale law: what J says of a shift, and the paper's J read backwards."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bqcore.metrics import finite_scale
from bqcore.quantizers.uniform import level_range

from ..formats import level, span
from . import style, tables
from .source_data import attach
from .style import BOTH_COLOUR, FLOAT_COLOUR, GREY, INK, level_colour

ROUNDING = 0.0005  # the paper's Jaccard distances have three decimals
_READ = {"D2": 8, "D4": 4, "C6": 8, "C3": 6, "R1": 4}  # claims that are read backwards, with their bits


@style.styled
def convergence_figure(data: xr.Dataset, bits: list[int]) -> Figure:
    """Draw what grid measures do as the grid is refined, beside what they stand for: two converge, two do not."""
    shown = _ratios(data.sel(bits=bits))
    h = shown.step
    figure, ((change, length), (jaccard, shift)) = plt.subplots(2, 2, figsize=(9, 6.6), sharex=True)

    def draw(axes: Axes, values: xr.DataArray, colour: str, label: str | None = None) -> None:
        style.draw_range(axes, h.values, values, "place", fmt="o", ms=3, color=colour, label=label)

    for one in bits:
        here, colour = shown.sel(bits=one), level_colour(one)
        draw(change, here.change_ratio, colour, level(one))
        draw(jaccard, here.boundary_jaccard, colour)
        jaccard.plot(shown.law_step, here.law_curve, color=colour, lw=1)
        draw(shift, here.displacement_ratio, colour)
    draw(length, shown.length_ratio_by_direction, FLOAT_COLOUR, "by w of each direction")
    draw(length, shown.length_ratio, BOTH_COLOUR, "by w of all directions")
    change.set(xscale="log", ylabel="grid prediction change / changed area")
    length.set(xscale="log", ylabel="length by mask cells / true length")
    reach = (0.8 * float(h.min()), 1.25 * float(h.max()))
    bottom = {"xscale": "log", "xlabel": "grid step h, input units"}
    jaccard.set(ylabel="boundary-mask Jaccard distance", xlim=reach, ylim=(0, 1.02), **bottom)
    for axes in (change, length, shift):
        axes.axhline(1, color=INK, lw=0.8, ls=":")
    shift.set(ylabel="d_eff / mean distance", ylim=(0, None), **bottom)
    for axes in (change, length):
        axes.legend(frameon=False)
    return attach(figure, shown)


def _ratios(data: xr.Dataset) -> xr.Dataset:
    """Return each grid measure over what it stands for, by grid step, and the law of J."""
    width = 2 * (data.step_a + data.step_b) / np.pi
    by_direction = [
        np.average(finite_scale.mask_width(data.piece_angle, steps), weights=data.piece_length)
        for steps in zip(data.step_a.values, data.step_b.values)
    ]
    length = data.mask_cells_float * data.step_a * data.step_b / data.length_float
    d_eff = width * data.boundary_jaccard / (2 - data.boundary_jaccard)
    return xr.Dataset(
        {
            "change_ratio": data.grid_change / data.changed_area, "boundary_jaccard": data.boundary_jaccard,
            "displacement_ratio": d_eff / data.mean_distance, "length_ratio": length / width,
            "length_ratio_by_direction": length / xr.DataArray(by_direction, dims="nodes"),
            "law_curve": data.law_curve,
        },
        {"step": np.maximum(data.step_a, data.step_b), "law_step": data.law_step},
    )  # fmt: skip


@style.styled
def law_figure(data: xr.Dataset) -> Figure:
    """Draw the finite-scale law against measured J at all levels and resolutions, and J against shift over step."""
    shown = data[["law_jaccard", "pooled_jaccard", "mean_distance"]]
    shown = shown.assign(shift_over_step=data.mean_distance / ((data.step_a + data.step_b) / 2))
    marks = dict(zip(data.nodes.values, "os^Dv<>ph*"))
    colours = [level_colour(bits) for bits in data.bits.values]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2))
    for nodes, mark in marks.items():
        here = shown.sel(nodes=nodes)
        for axes, x in zip(panels, (here.law_jaccard, here.shift_over_step)):
            axes.scatter(x, here.pooled_jaccard, c=colours, marker=mark, s=22)
    panels[0].plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
    panels[0].set(xlabel="J by the law, from exact distances", ylabel="J measured", aspect="equal")
    ratio = np.geomspace(1e-2, 1e2, 200)
    law = finite_scale.isotropic_jaccard(ratio, (1.0, 1.0))
    panels[1].plot(ratio, law, color=INK, lw=1, ls=":")
    panels[1].set(xscale="log", xlabel="mean distance between the boundaries / grid step", ylabel="J measured")
    names = [Line2D([], [], ls="", marker="o", color=c, label=level(b)) for b, c in zip(data.bits.values, colours)]
    names += [Line2D([], [], ls="", marker=m, color=GREY, label=f"{n} nodes") for n, m in marks.items()]
    panels[1].legend(handles=names, frameon=False, fontsize=7, ncols=2)
    return attach(figure, shown.assign(law_of_all_directions=("law_shift_over_step", law), law_shift_over_step=ratio))


def implied_table(claims: list[dict], data: xr.Dataset, *, shifts: dict[str, tuple] | None = None) -> tables.Frame:
    """
    Read the paper's Jaccard distances backwards: shift over grid step, and for digits the grid that it asks for.

    A reported value stands for an interval half a unit of its last digit either way. For digits the law of this
    network's own boundaries at those bits is inverted; elsewhere the ratio is for a boundary in all directions, and
    *shifts*, by claim an interval in input units from runs of one's own, give the step.
    """
    known, lines = {claim["id"]: claim for claim in claims}, {}
    for name, bits in _READ.items():
        if name not in known or not isinstance(known[name]["reported"], float):
            continue
        reported, dataset = known[name]["reported"], known[name]["dataset"]
        low, high = _implied_shifts(reported)
        lines[name] = {
            "data set": dataset, "bits": tables.number(bits, ".0f"), "J": tables.number(reported, ".3f"),
            "shift / step": tables.span(low, high),
            "step, input units": "", "nodes a side": "",
        }  # fmt: skip
        if name in (shifts or {}):
            step = finite_scale.implied_step(reported, shifts[name], rounding=ROUNDING)
            lines[name]["step, input units"] = tables.span(*step, units="input units")
        if dataset == "digits" and bits in data.bits:
            law = data.law_curve.sel(bits=bits).values, data.law_step.values
            steps = np.interp([reported + ROUNDING, reported - ROUNDING], *law)
            reach = float((data.nodes[0] - 1) * max(data.step_a[0], data.step_b[0]))
            lines[name]["step, input units"] = tables.span(*steps, units="input units")
            lines[name]["nodes a side"] = tables.span(*sorted(reach / steps + 1), ".0f")
    return tables.frame(lines, "claim")


def _implied_shifts(reported: float) -> list[float]:
    """Return the smallest and the largest shift over step that a reported distance can stand for."""
    return [finite_scale.implied_displacement(reported + side, (1.0, 1.0)) for side in (-ROUNDING, ROUNDING)]


def implied_ratio(claims: list[dict]) -> tuple[finite_scale.Range, float]:
    """Return the ratio of shifts at 6 and 8 bits that the paper's CIFAR-10 subset implies, and that of weight steps."""
    value = {claim["id"]: claim["reported"] for claim in claims}
    eight, six = (_implied_shifts(value[name]) for name in ("C6", "C3"))
    return finite_scale.Range(six[0] / eight[1], six[1] / eight[0]), level_range(8)[1] / level_range(6)[1]


def implied_line(claims: list[dict]) -> str:
    """Say in words what :func:`implied_ratio` shows."""
    ratio, steps = implied_ratio(claims)
    return (
        "- **The paper's CIFAR-10 subset values** are what the law gives if the shift grows with the weights' steps: "
        f"from 8 to 6 bits they imply a factor of {span(ratio.low, ratio.high, '.2f')}; the steps grow by {steps:.2f}."
    )
