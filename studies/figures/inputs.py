"""What a notebook begins with: its parameters, checked before anything runs, and the runs that it shows."""

import difflib
import re
from typing import NamedTuple

import xarray as xr
from IPython import get_ipython

from bqcore._checks import check_choice, check_integer, check_share

from .. import catalogue, published, specs, stopping
from .style import DATASETS

_INJECTED = (bool, int, float, str, list, dict, type(None))  # what papermill can inject
# By stopping rule, the parameter that holds its limits.
_LIMITS = {"accuracy": "accuracy_drops", "flips": "flip_limits", "band flips": "band_limits"}
_LIMITS |= dict.fromkeys(("jaccard", "beyond τ"), "jaccard_limits")


class Settings(NamedTuple):
    """Checked parameters of a notebook: a spec, and the number of seeds."""

    spec: specs.Spec
    seeds: int


def check_names() -> None:
    """Refuse a parameter that papermill put into this notebook and that the notebook's own cell does not have."""
    cells = get_ipython().user_ns["In"]
    injected = next((i for i, cell in enumerate(cells) if cell.startswith("# Parameters\n")), None)
    if injected is None:
        return
    own, given = (re.findall(r"^(\w+) *=", cells[i], re.MULTILINE) for i in (injected - 1, injected))
    for name in given:
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(own)}."
            raise ValueError(f"This notebook has no parameter {name}: {advice}")


def settings(declared: str, study: str = "levels", dataset: str = "digits") -> Settings:
    """
    Return a notebook's parameters, *declared* as names with blanks between, from its namespace.

    Raise ValueError, before anything runs, for a value that is ill-typed or out of range, or an injected name that is
    not declared.
    """
    names, space = declared.split(), checked_names(declared)
    return Settings(*specs.parse([f"{name}={specs.text(space[name])}" for name in names], study, dataset))


def checked_names(declared: str) -> dict:
    """Return the notebook's namespace, after refusing injected names that are not *declared*."""
    shell, names = get_ipython(), declared.split()
    for name, value in shell.user_ns.items():
        hidden = name in shell.user_ns_hidden or name.startswith("_") or name in ("In", "Out")
        if not hidden and name not in names and isinstance(value, _INJECTED):
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}."
            raise ValueError(f"This notebook has no parameter {name!r}: {advice}")
    return shell.user_ns


def check_runs(declared: str, share: str) -> None:
    """Check the parameters of a notebook that shows runs, published or fresh; *share* is one that is a fraction."""
    space = checked_names(declared)
    check_choice("results", space["results"], ("published", "fresh"))
    check_integer("seeds", space["seeds"], 0)
    check_share(share, space[share])


def check_limits(results: str, seeds: int, spare: float, limits: dict[str, list[float]]) -> None:
    """Refuse parameters of a chapter on stopping that are out of range: fractions, a count, published or fresh."""
    check_choice("results", results, ("published", "fresh"))
    check_integer("seeds", seeds, 0)
    check_share("spare", spare)
    for rule, values in limits.items():
        for limit in values:
            check_share(f"A limit on {rule}", limit)


def limits(declared: str) -> dict[str, tuple[float, ...]]:
    """Collect the limits of the stopping rules from a notebook's namespace, after checking all of its parameters."""
    check_runs(declared, "spare")
    space = checked_names(declared)
    return {rule: tuple(check_share(name, limit) for limit in space[name]) for rule, name in _LIMITS.items()}


def runs(spec: specs.Spec, results: str, seeds: int) -> xr.Dataset:
    """Return the runs of a baseline, "published" or "fresh", which are run if missing; 0 seeds are its own number."""
    if results == "published":
        return published.load_published(published.name_of(spec))
    return catalogue.sweep(spec, seeds or specs.seeds_of(spec))


def stopping_runs(datasets: list[str], results: str, seeds: int, model: str | None = None) -> dict[str, xr.Dataset]:
    """Return :func:`runs` of the stopping study by data set; *model* is by default the data set's first."""
    return {name: runs(specs.baseline("stopping", name, model), results, seeds) for name in datasets}


def variants(dataset: str, results: str, seeds: int = 0) -> xr.Dataset:
    """Return the joined runs of the stopping study's variants on a data set, published or fresh of so many seeds."""
    if results == "published":
        return published.load_published(published.name_of(specs.baseline("stopping", dataset), variants=True))
    return stopping.sweep_variants(dataset, seeds or None)


def by_channel(dataset: str) -> specs.Spec:
    """Return the baseline of the stopping study on a data set that quantizes by channel."""
    wanted = ("stopping", dataset, "channel")
    return next(spec for spec in specs.BASELINES if (spec.study, spec.dataset, spec.granularity) == wanted)


def published_runs(study: str, datasets: list[str]) -> dict[str, xr.Dataset]:
    """Return the published runs of a study by the data set's name for readers, without what is not published yet."""
    names = {DATASETS.get(name, name): published.name_of(specs.baseline(study, name)) for name in datasets}
    there = {title: name for title, name in names.items() if (published.PUBLISHED / name).exists()}
    return {title: published.load_published(name) for title, name in there.items()}
