"""What the notebooks call around a run: checked parameters, the line below each figure, what was seen in words."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from IPython import get_ipython
from IPython.display import Markdown, display

from bqcore._checks import check_choice, check_integer, check_share
from bqcore.metrics import statistics

from .. import catalogue, correlations, published, specs, stopping
from ..published import shown
from . import rounding, style, tables
from . import stopping as stopping_figures

_INJECTED = (bool, int, float, str, list, dict, type(None))  # what papermill can inject


class Settings(NamedTuple):
    """Checked parameters of a notebook: a spec, and the number of seeds."""

    spec: specs.Spec
    seeds: int


def settings(declared: str, study: str = "levels", dataset: str = "digits") -> Settings:
    """
    Collect a notebook's parameters from its namespace and check them before anything runs.

    Parameters
    ----------
    declared : str
        Names of the notebook's parameters, separated by spaces.
    study, dataset : str
        Whose parameters they are.

    Raises
    ------
    ValueError
        If a value is ill-typed or out of range, or a name was injected that the notebook does not declare.
    """
    names, space = declared.split(), checked_names(declared)
    return Settings(*specs.parse([f"{name}={specs.text(space[name])}" for name in names], study, dataset))


def checked_names(declared: str) -> dict:
    """Give the notebook's namespace, after refusing injected names that are not *declared*."""
    shell, names = get_ipython(), declared.split()
    for name, value in shell.user_ns.items():
        hidden = name in shell.user_ns_hidden or name.startswith("_") or name in ("In", "Out")
        if not hidden and name not in names and isinstance(value, _INJECTED):
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}."
            raise ValueError(f"This notebook has no parameter {name!r}: {advice}")
    return shell.user_ns


def source(dataset: xr.Dataset, published: str) -> Markdown:
    """Give the line that stands below a figure or table: command, data, result file, distance from the published."""
    return Markdown(shown(dataset, published))


def limits(declared: str) -> dict[str, tuple[float, ...]]:
    """Collect the limits of the stopping rules from a notebook's namespace, after checking its parameters' names."""
    space = checked_names(declared)
    check_choice("results", space["results"], ("published", "fresh"))
    check_integer("seeds", space["seeds"], 0)
    check_share("spare", space["spare"])
    names = {
        "accuracy": "accuracy_drops", "flips": "flip_limits", "band flips": "band_limits", "jaccard": "jaccard_limits",
        "beyond τ": "jaccard_limits",
    }  # fmt: skip
    return {rule: tuple(check_share(name, limit) for limit in space[name]) for rule, name in names.items()}


def stopping_runs(datasets: list[str], results: str, seeds: int, model: str | None = None) -> dict[str, xr.Dataset]:
    """
    Give the joined runs of the stopping study by data set: the published ones, or fresh ones, which are run if missing.

    Parameters
    ----------
    datasets : list of str
    results : "published" or "fresh"
    seeds : int
        Of fresh runs; 0 stands for the baseline's own number.
    model : str, optional
        By default the data set's first.
    """
    out = {}
    for dataset in datasets:
        spec = specs.baseline("stopping", dataset, model)
        if results == "published":
            out[dataset] = published.load_published(published.name_of(spec))
        else:
            out[dataset] = catalogue.sweep(spec, seeds or specs.seeds_of(spec))
    return out


def rounding_settings(declared: str) -> None:
    """Check the parameters of the notebook on the full CIFAR-10."""
    space = checked_names(declared)
    check_choice("results", space["results"], ("published", "fresh"))
    check_integer("seeds", space["seeds"], 0)
    check_share("power", space["power"])


def published_or_fresh(spec: specs.Spec, results: str, seeds: int) -> xr.Dataset:
    """Give the published runs of a baseline, or fresh ones, which are run if missing; 0 seeds are its own number."""
    if results == "published":
        return published.load_published(published.name_of(spec))
    return catalogue.sweep(spec, seeds or specs.seeds_of(spec))


def by_channel(dataset: str) -> specs.Spec:
    """Give the baseline of the stopping study on a data set that quantizes by channel."""
    return next(
        spec
        for spec in specs.BASELINES
        if (spec.study, spec.dataset, spec.granularity) == ("stopping", dataset, "channel")
    )


def published_runs(study: str, datasets: list[str]) -> dict[str, xr.Dataset]:
    """Give the published runs of a study by the data set's name for readers; what is not published yet is left out."""
    names = {dataset: published.name_of(specs.baseline(study, dataset)) for dataset in datasets}
    return {
        style.DATASETS.get(dataset, dataset): published.load_published(name)
        for dataset, name in names.items()
        if (published.PUBLISHED / name).exists()
    }


def gap_summary(many: xr.Dataset, power: float) -> str:
    """Say in words what the boundary-gap term changes at each bit-width; every number comes from *many*."""
    lines = []
    for bits in many.bits.values.tolist():
        changes = "; ".join(rounding.seen_changes(many, bits, power))
        lines.append(
            f"- **{bits} bits**, η = {correlations.chosen_gap(many, bits).removeprefix('gap ')} by calibration, "
            "against "
            f"none, in pairs over {many.sizes['seed']} seeds: {changes}."
        )
    return "\n".join(lines)


def full_summary(tensor: xr.Dataset, rounded: xr.Dataset, everywhere: dict, stopping: dict) -> str:
    """Say in words what the full CIFAR-10 and the correlations show; every number comes from the runs."""
    held_out = tensor.sel(split="held-out").mean("seed")
    six, whole = held_out.sel(bits=6), held_out.sel(bits=specs.FLOAT)
    lines = [
        f"- Float, the network decides {float(whole.accuracy):.4f} of the test images right. At **6 bits** it loses "
        f"{float(whole.accuracy - six.accuracy):.4f} of that and changes {float(six.flip_rate):.4f} of all decisions, "
        f"{float(six.band_flip_rate):.3f} of those in the boundary band."
    ]
    for bits in rounded.bits.values.tolist():
        at = rounded.sel(split="held-out", bits=bits).isel(nodes=0).mean("seed")
        nearest, layers, logits = (at.sel({"method": name}) for name in ("nearest", "layers", "logits"))
        lines.append(
            f"- At **{bits} bits** optimized rounding changes {float(layers.flip_rate):.4f} of the decisions layer by "
            f"layer and {float(logits.flip_rate):.4f} from there on the logits, where rounding to nearest changes "
            f"{float(nearest.flip_rate):.4f}; the Jaccard distances are {float(layers.boundary_jaccard):.3f}, "
            f"{float(logits.boundary_jaccard):.3f} and {float(nearest.boundary_jaccard):.3f}."
        )
    found = [
        (three[0].estimate, three[2].estimate) for many in everywhere.values()
        for three in correlations.correlations(many).values()
    ]  # fmt: skip
    overall, within = zip(*found)
    lines.append(
        f"- Over {len(found)} variants, calibration and held-out Jaccard correlate from {min(overall):.3f} to "
        f"{max(overall):.3f}; within a bit-width, from {min(within):.2f} to {max(within):.2f}."
    )
    ranked = {name: correlations.rank_predictors(many) for name, many in stopping.items()}
    first = {
        title: [found for found, rows in ranked.items() if next(iter(rows)) == name]
        for name, title in correlations.PREDICTORS.items()
    }
    lines.append(
        "- The calibration measure that correlates best with held-out flips is "
        + "; ".join(f"{title} on {_sets(found, ranked)}" for title, found in first.items() if found)
        + ". Surely better than J (95 %, each by itself), "
        + "; ".join(_surely_better(ranked, i, where) for i, where in ((3, "over all bit-widths"), (4, "within them")))
        + "."
    )
    return "\n".join(lines)


def _sets(found: list[str], ranked: dict) -> str:
    return "every data set" if len(found) == len(ranked) > 1 else style.listed(found)


def _surely_better(ranked: dict[str, dict], i: int, where: str) -> str:
    """Name the measures whose *i*-th gain over J lies above 0, with their data sets."""
    better = {
        title: [found for found, rows in ranked.items() if rows[name][i].low > 0]
        for name, title in correlations.PREDICTORS.items()
    }
    words = [f"{title} on {_sets(found, ranked)}" for title, found in better.items() if found]
    return f"{where}: {style.listed(words) if words else 'none'}"


def variants(dataset: str, results: str) -> xr.Dataset:
    """Give the joined runs of the stopping study's variants on a data set, published or fresh."""
    if results == "published":
        return published.load_published(published.name_of(specs.baseline("stopping", dataset), variants=True))
    return stopping.sweep_variants(dataset)


def without_ruler(sets: dict[str, xr.Dataset], name: str) -> Markdown:
    """
    Show for each of some joined runs its boundaries' distances with and without a grid, and give the lines below.

    Parameters
    ----------
    sets : dict of xarray.Dataset
        Joined runs by title; of the rounding study, a table for each bit-width.
    name : str
        What the tables' names begin with.
    """
    of = []
    sets = {title[:1].upper() + title[1:]: many for title, many in sets.items()}
    for i, (title, many) in enumerate(sets.items()):
        says = (
            f"held-out slice, means over {many.sizes['seed']} seeds: Jaccard distance of the masks and d_eff on two "
            "grids, and *beyond τ*, the tolerance Jaccard distance: the share of the two boundaries' length without a "
            "counterpart within τ input units."
        )
        if "method" in many.dims:
            for bits in many.bits.values:
                frame = stopping_figures.tolerance_table(many.sel(bits=bits), method_name=rounding.method_name)
                of.append((frame, f"{title}, {bits} bits, {says}", f"{name}-{i}-{bits}"))
        else:
            of.append((stopping_figures.tolerance_table(many), f"{title}, {says}", f"{name}-{i}"))
    show_tables(of)
    return Markdown("\n".join(f"- {title}: {stopping_figures.tolerance_summary(many)}" for title, many in sets.items()))


def show_tables(of: Iterable[tuple[pd.DataFrame, str, str]]) -> None:
    """Show several numbered tables in one cell: of each, the frame, the caption and the name."""
    for frame, caption, name in of:
        display(tables.Table(frame, caption, name))


def sources(*results: xr.Dataset) -> Markdown:
    """Say of what figures and tables are made: the command, the data and the file of each result."""
    lines = [f"- {published.origin(many)}" for many in results]
    head = "<details><summary>Of what the figures and tables of this page are made</summary>"  # in JupyterLab too
    return Markdown("\n".join([head, "", *lines, "", "</details>"]))


def stopping_summary(sets: dict[str, xr.Dataset], chosen: dict[str, xr.Dataset]) -> Markdown:
    """Say in words what the stopping rules gained and cost; every number comes from the runs."""
    lines = []
    for name, many in sets.items():
        choices = chosen[name]
        held_out = choices.flip_rate.sel(split="held-out").transpose("choice", "seed")
        equal = stopping.at_equal_bits(many, choices, "flip_rate").transpose("choice", "seed")
        index = {str(rule): i for i, rule in reversed(list(enumerate(choices.rule.values)))}
        first, second = index["accuracy"], index["jaccard"]
        bits = choices.chosen_bits.mean("seed")
        text = (
            f"- **{style.DATASETS.get(name, name)}**: chosen by accuracy, {float(bits[first]):.2f} bits and "
            f"{float(held_out[first].mean()):.4f} of the held-out decisions changed; after stopping at Jaccard ≤ "
            f"{float(choices.limit[second]):g}, {float(bits[second]):.2f} bits and {float(held_out[second].mean()):.4f}"
        )
        if many.sizes["seed"] > 1:
            fewer = statistics.paired_difference(held_out[first].values, held_out[second].values)
            text += f", {fewer.estimate:.4f} fewer [{fewer.low:.4f}, {fewer.high:.4f}]"
            fewer, more = [], []
            for i in range(choices.sizes["choice"]):
                gain = statistics.paired_difference(equal[i].values, held_out[i].values)
                rule = stopping_figures.rule_name(
                    str(choices.rule.values[i]), float(choices.limit[i]), float(choices.second_limit[i])
                )
                said = f"{rule} ({gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])"
                (fewer if gain.low > 0 else more if gain.high < 0 else []).append(said)
            if choices.chosen_bits.min() == choices.chosen_bits.max():
                text += ". All networks have the same bits by every rule: nothing can be saved at equal bits"
            else:
                text += ". Against the same bits for all, surely fewer flips: " + (
                    style.listed(fewer) if fewer else "none, so that what is saved is bought with bits"
                )
                text += f"; surely more: {style.listed(more)}" if more else ""
        lines.append(text + ".")
    return Markdown("\n".join(lines))


def levels_summary(many: xr.Dataset) -> Markdown:
    """Say in words what the levels of a sweep show; every number comes from *many*."""
    nodes = [int(n) for n in many.nodes.values]
    levels = [int(b) for b in many.bits.values if b != specs.FLOAT]
    lines = []
    for bits in (levels[0], levels[len(levels) // 2], levels[-1]):
        here = many.sel(bits=bits)
        jaccard = stats_of(here.boundary_jaccard.sel(nodes=nodes[0]))
        loss = many.accuracy.sel(bits=specs.FLOAT) - here.accuracy
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
    few = many.few_classes.isel(nodes=0).sel(bits=levels)
    lines.append(
        f"- In the median run {float(many.outside.median()):.0%} of the slice lies "
        "[outside the data](outside-the-data): some pixel there is out of the range that it has in training. Slices "
        "that show fewer than three classes, where no junction can be: "
        f"{int(few.sum())} of {many.sizes['seed'] * len(levels)}."
    )
    return Markdown("\n".join(lines))


def transitions_summary(many: xr.Dataset) -> Markdown:
    """Say in words what the transitions of a sweep show; every number comes from *many*."""
    near, chance = many.share_near.mean("transition"), many.chance_boundary.mean("transition")
    lines = []
    if many.sizes["seed"] > 1:
        excess = statistics.paired_difference(near.values, chance.values)
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
    interval = statistics.prediction_interval(values.values)
    return f"{float(values.median()):{form}} [{interval.low:{form}}, {interval.high:{form}}]"
