"""What the notebooks call around a run: checked parameters, the line below each figure, what was seen in words."""

import difflib
from typing import NamedTuple

import numpy as np
import xarray as xr
from IPython import get_ipython
from IPython.display import Markdown

from . import claims, runs, stats

_INJECTED = (bool, int, float, str, list, dict, type(None))  # what papermill can inject


class Settings(NamedTuple):
    """Checked parameters of a notebook: the fields of :class:`bqcore.runs.Spec`, and the number of seeds."""

    spec: dict
    seeds: int


def settings(declared: str) -> Settings:
    """
    Collect a notebook's parameters from its namespace and check them before anything runs.

    Parameters
    ----------
    declared : str
        Names of the notebook's parameters, separated by spaces.

    Raises
    ------
    ValueError
        If a value is ill-typed or out of range, or a name was injected that the notebook does not declare.
    """
    shell, names = get_ipython(), declared.split()
    for name, value in shell.user_ns.items():
        hidden = name in shell.user_ns_hidden or name.startswith("_") or name in ("In", "Out")
        if not hidden and name not in names and isinstance(value, _INJECTED):
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}."
            raise ValueError(f"This notebook has no parameter {name!r}: {advice}")
    given = runs.parse([f"{name}={runs.text(shell.user_ns[name])}" for name in names])
    seeds = given.pop("seeds")
    return Settings(given, seeds)


def source(dataset: xr.Dataset, published: str) -> Markdown:
    """Give the line that stands below a figure or table: command, data, result file, distance from the published."""
    return Markdown(claims.shown(dataset, published))


def levels_summary(many: xr.Dataset) -> Markdown:
    """Say in words what the levels of a sweep show; every number comes from *many*."""
    nodes = [int(n) for n in many.nodes.values]
    levels = [int(b) for b in many.bits.values if b != runs.FLOAT]
    lines = []
    for bits in (levels[0], levels[len(levels) // 2], levels[-1]):
        here = many.sel(bits=bits)
        jaccard = stats_of(here.boundary_jaccard.sel(nodes=nodes[0]))
        loss = many.accuracy.sel(bits=runs.FLOAT) - here.accuracy
        lines.append(
            f"- At **{bits} bits** {float((here.flip_rate == 0).mean()):.0%} of the {many.sizes['seed']} runs keep "
            f"every test decision; the median run loses {float(loss.median()):.4f} of accuracy, changes "
            f"{float(here.flip_rate.median()):.4f} of the decisions ({float(here.band_flip_rate.median()):.3f} in the "
            f"boundary band), and its boundary-mask Jaccard distance is {jaccard} on {nodes[0]} nodes a side."
        )
    if len(nodes) > 1:
        for bits in dict.fromkeys((levels[0], levels[len(levels) // 2])):
            coarse, fine = min(nodes), max(nodes)
            j, d = (many[name].sel(bits=bits).median("seed") for name in ("boundary_jaccard", "effective_displacement"))
            lines.append(
                f"- From {coarse} to {fine} nodes the same {bits}-bit boundaries go from "
                f"J = {float(j.sel(nodes=coarse)):.2f} to {float(j.sel(nodes=fine)):.2f}, while d_eff goes from "
                f"{float(d.sel(nodes=coarse)):.4f} to {float(d.sel(nodes=fine)):.4f} input units."
            )
    return Markdown("\n".join(lines))


def transitions_summary(many: xr.Dataset) -> Markdown:
    """Say in words what the transitions of a sweep show; every number comes from *many*."""
    near, chance = many.share_near.mean("transition"), many.chance_boundary.mean("transition")
    lines = []
    if many.sizes["seed"] > 1:
        excess = stats.paired_difference(near.values, chance.values)
        lines.append(
            f"- Over {many.sizes['seed']} runs, {float(near.mean()):.3f} of the changed cells lie within one cell of a "
            f"junction, {float(chance.mean()):.3f} of all boundary cells do: an excess of {excess.estimate:.4f} "
            f"[{excess.low:.4f}, {excess.high:.4f}], paired by seed. Most changes are a boundary that shifts along its "
            "whole length."
        )
    for name in many.transition.values:
        here = many.sel(transition=name)
        share = here.share_rearranged_near.values
        share = share[np.isfinite(share)]
        if len(share):
            lines.append(
                f"- {name} bits: the set of classes changes in {float(here.rearranged_cells.median()):.0f} cells of "
                f"the median run, and {np.median(share):.0%} of these lie at a junction; "
                f"{float(here.share_changed.median()):.0%} of the boundary cells change in a step."
            )
    return Markdown("\n".join(lines))


def stats_of(values: xr.DataArray, form: str = ".2f") -> str:
    """Write the median of *values* over seeds with the 95 % prediction interval of a single run."""
    if values.size < 2:
        return f"{float(values.median()):{form}}"
    interval = stats.prediction_interval(values.values)
    return f"{float(values.median()):{form}} [{interval.low:{form}}, {interval.high:{form}}]"
