"""What a notebook begins with: its parameters, checked before anything runs, and the runs that it shows."""

import difflib
import re

import xarray as xr
from IPython import get_ipython

from bqcore._checks import check_choice, check_integer, check_share

from .. import catalogue, published, specs, stopping
from .style import DATASETS


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


def check_runs(results: str, seeds: int, **shares: float) -> None:
    """Refuse parameters of a chapter that shows runs, published or fresh, that are out of range; *shares* by name."""
    check_choice("results", results, ("published", "fresh"))
    check_integer("seeds", seeds, 0)
    for name, share in shares.items():
        check_share(name, share)


def check_limits(results: str, seeds: int, spare: float, limits: dict[str, list[float]]) -> None:
    """Refuse parameters of a chapter on stopping that are out of range; *limits* are those of each rule."""
    check_runs(results, seeds, spare=spare)
    for rule, values in limits.items():
        for limit in values:
            check_share(f"A limit on {rule}", limit)


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
