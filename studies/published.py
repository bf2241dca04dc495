"""Published results: what data/results and data/checkpoints hold, and how far a fresh run is from them."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from bqcore._store import digest, largest_difference, load_dataset, save_bytes, save_dataset

from . import specs, stopping, sweeps, times
from .catalogue import study_of
from .specs import Spec

PUBLISHED = Path("data/results")
HEADLINE = Path("book/_static/levels.png")
MULTIVERSES = {spec.dataset: f"{spec.dataset}_multiverse.nc" for spec in specs.BEYOND if spec.study == "multiverse"}
# What judges the claims of CIFAR-10 in every reading; those of digits serve the page of gaps alone.
READINGS = ("cifar-10_readings.nc", "full-cifar-10_readings.nc", "full-cifar-10_roundings.nc")
QUANTIZERS = "quantizers.nc"
FIRST_ORDER = "digits_first_order.nc"
TIMES, GROWTH = "times.nc", "growth.nc"
SETS = {
    "digits": "the digits set of scikit-learn", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST",
    "cifar-10": "CIFAR-10", "full-cifar-10": "CIFAR-10",
}  # fmt: skip
_COMPARED = ("1", "fraction", "fraction of nodes", "fraction of the band")  # units of shares and distances


def name_of(spec: Spec, variants: bool = False) -> str:
    """Return the name of a baseline's result file: data set, model and granularity unless its first has them, study."""
    if spec.study == "vendors":
        return QUANTIZERS
    first = specs.baseline(spec.study, spec.dataset)
    names = [name for name in ("model", "granularity") if hasattr(spec, name)]
    own = [getattr(spec, name) for name in names if getattr(spec, name) != getattr(first, name)]
    parts = [spec.dataset, *own, spec.study.replace("-", "_"), *(["variants"] if variants else [])]
    return "_".join(parts) + ".nc"


def publications() -> dict[str, Callable[[], xr.Dataset]]:
    """Return the names of all published result files, each with a function that loads its fresh counterpart."""
    out: dict[str, Callable[[], xr.Dataset]] = {}
    for spec, seeds in specs.BASELINES.items():
        out[name_of(spec)] = partial(_kept, spec, seeds)
        if spec.study == "levels":
            out[f"{spec.dataset}_slice.nc"] = lambda spec=spec: load_dataset(study_of(spec).file(spec))
    for dataset in specs.VARIANT_SEEDS:
        spec = specs.baseline("stopping", dataset)
        out[name_of(spec, variants=True)] = partial(_kept_variants, dataset)
    out |= {name_of(spec): partial(_kept, spec, seeds) for spec, seeds in specs.BEYOND.items()}
    out |= {name: partial(load_dataset, kept) for name, kept in ((TIMES, times.KEPT), (GROWTH, times.GROWTH))}
    return out


def _kept(spec: Spec, seeds: int) -> xr.Dataset:
    return load_dataset(study_of(spec).joined_file(spec, seeds))


def _kept_variants(dataset: str) -> xr.Dataset:
    for spec in specs.variants(dataset):
        _kept(spec, specs.VARIANT_SEEDS[dataset])  # or else it would be run now
    return stopping.sweep_variants(dataset)


def load_published(name: str, folder: str | Path = PUBLISHED) -> xr.Dataset:
    """Read a published result file after comparing it with the manifest beside it, if there is one."""
    path, manifest = Path(folder) / name, Path(folder) / "manifest.json"
    dataset = load_dataset(path)
    if manifest.exists():
        stated = json.loads(manifest.read_text()).get(name, {}).get("sha256")
        if stated != digest(path):
            raise ValueError(
                f"{path} is not the file that {manifest} describes: restore it from git, or `make publish`."
            )
    return dataset


def shown(dataset: xr.Dataset, published: str | None, folder: str | Path = PUBLISHED) -> str:
    """Say in one line of Markdown where fresh runs come from, and how far the *published* result file differs."""
    spec = json.loads(dataset.attrs["spec"])
    line = f"Fresh, {_made(spec, dataset.attrs['command'])}, in `{sweeps.FRESH}`."
    if published is None or not (Path(folder) / published).exists():
        return line + " Nothing is published yet."
    theirs = load_published(published, folder)
    path = Path(folder) / published
    if _parameters(spec) != _parameters(json.loads(theirs.attrs["spec"])):
        return line + f" These parameters are not those of the published `{path}`: nothing to compare."
    ours = dataset if "seed" in dataset.dims else dataset.expand_dims("seed")
    theirs = theirs if "seed" in theirs.dims else theirs.expand_dims("seed")
    shares = [n for n in ours.data_vars if n in theirs and ours[n].attrs.get("units") in _COMPARED]
    common = np.intersect1d(ours.seed, theirs.seed)
    if not len(common):
        return line + f" The published `{path}` holds other seeds: nothing to compare."
    gap, where = largest_difference(ours[shares], theirs[shares])
    both = f"Published: `{path}`; over the {len(common)} seed{'s'[: len(common) - 1]} in both"
    how = (
        f"shares and distances differ by at most {gap:.2g} (`{where}`)" if gap else "all shares and distances are equal"
    )
    return f"{line} {both}, {how}."


def origin(many: xr.Dataset, folder: str | Path = PUBLISHED) -> str:
    """
    Say in one line of Markdown how a result was made and where it is kept; of a fresh one, how the published differs.
    """
    spec, command = json.loads(many.attrs["spec"]), many.attrs["command"]
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    for name, entry in manifest.items():
        if entry["command"] == command and load_dataset(Path(folder) / name).identical(many):
            return f"Published: `{Path(folder) / name}`, {_made(spec, command)}."
    like = [
        name for name, entry in manifest.items()
        if _parameters(entry["spec"]) == _parameters(spec) and name.endswith("_variants.nc") == ("variant" in many.dims)
    ]  # fmt: skip
    like.sort(key=lambda name: manifest[name]["command"] != command)  # of one run, the one
    return shown(many, like[0] if like else None, folder)


def _made(spec: dict, command: str) -> str:
    return f"by `{command}`" + (f", from {SETS[spec['dataset']]}" if "dataset" in spec else "")


def _parameters(spec: dict) -> dict:
    """Return what a run's measures depend on, but for what it may hold more or fewer of."""
    kept = {key: value for key, value in spec.items() if key not in ("seed", "seeds", "bits", "nodes")}
    return kept | {"study": "vendors"} if kept["study"] == "quantizers" else kept  # which was published by that name


def publish(headline: Callable[[xr.Dataset], bytes]) -> list[str]:
    """
    Make the fresh baseline runs the published ones, with the manifest and checkpoints; return a line for each file.

    *headline* draws the picture that README opens with, as a PNG file, from a run of the levels study. What has not
    been run with the code as it is stays as it was published before; uncommitted changes of the code are refused.
    """
    fresh, missing = {}, []
    for name, load in publications().items():
        try:
            fresh[name] = load()
        except FileNotFoundError:
            missing.append(name)
    if not fresh:
        raise ValueError(f"No baseline has been run with this code: `{specs.Levels().command(100)}` first.")
    changed = _git("status", "--porcelain", "--", "bqcore", "studies", "pyproject.toml", "data/claims.yml")
    if changed:
        raise ValueError(
            f"Uncommitted changes ({changed.splitlines()[0].strip()}): commit first, so that the manifest can name one."
        )
    path = PUBLISHED / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    lines = []
    for name, dataset in fresh.items():
        save_dataset(dataset, PUBLISHED / name)
        manifest[name] = {
            "sha256": digest(PUBLISHED / name), "command": dataset.attrs["command"],
            "spec": json.loads(dataset.attrs["spec"]), "commit": _git("rev-parse", "HEAD"),
        }  # fmt: skip
        lines.append(f"wrote {PUBLISHED / name}")
    save_bytes((json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode(), path)
    lines.append(f"wrote {path}")
    # A classifier goes with the study that trains it: others take theirs from there, and may have been run elsewhere.
    trained = [spec for spec in specs.BASELINES if name_of(spec) in fresh and spec.study == spec.trained_by]
    kept_files = {sweeps.published_checkpoint(spec): sweeps.checkpoint_file(spec) for spec in trained}
    for published, kept in kept_files.items():
        if kept.exists():
            save_bytes(kept.read_bytes(), published)
            lines.append(f"wrote {published}")
    if "digits_slice.nc" in fresh:
        save_bytes(headline(fresh["digits_slice.nc"]), HEADLINE)
        lines.append(f"wrote {HEADLINE}")
    return lines + [f"left {PUBLISHED / name} as it was: not run with this code" for name in missing]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed ({done.stderr.strip()}): publish from a clone.")
    return done.stdout.strip()
