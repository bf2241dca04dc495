"""One run: a spec in, one xarray.Dataset out. A sweep: many seeds, one file each, resumed where it was stopped."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import xarray as xr
from torch import nn

from bqcore._checks import check_integer
from bqcore._store import load_dataset, save_dataset
from bqcore._threads import one_thread

from . import levels, measures, networks, rounding, stopping, training
from .data import splits
from .provenance import code_digest, key, of
from .specs import VARIANTS, Spec, seeds_of, text, variants
from .workers import each

FRESH = Path("data/runs")
CHECKPOINTS = Path("data/checkpoints")
CLASSES = 10
_STUDIES = {"levels": levels, "stopping": stopping, "rounding": rounding}
_TRAINING = "studies.training", "studies.networks", "studies.data.splits"  # what a trained classifier depends on
UNITS = {"digits": "input units (pixel / 16)", "full-cifar-10": "input units (deviation of the channel)"}


def folder(spec: Spec) -> Path:
    """Give the folder of the fresh runs of *spec*, whatever the seed; other code or packages, another folder."""
    content = {"spec": replace(spec, seed=0).text(), **provenance()}
    return FRESH / f"{spec.study}-{spec.dataset}-{spec.model}-{key(content)}"


def file(spec: Spec) -> Path:
    """Give the file of one run."""
    return folder(spec) / f"seed-{spec.seed:03d}.nc"


def joined_file(spec: Spec, seeds: int) -> Path:
    """Give the file of the joined runs of *seeds* seeds from the spec's own on."""
    return folder(spec) / f"seeds-{spec.seed:03d}-{spec.seed + seeds - 1:03d}.nc"


def checkpoint_file(spec: Spec) -> Path:
    """Give the file of the classifier that *spec* trains, in the folder of fresh runs."""
    training = spec.training()
    made_by = key({**training, "seed": 0, "code": code_digest(*_TRAINING), "torch": provenance()["versions"]["torch"]})
    return FRESH / "checkpoints" / f"{spec.dataset}-{spec.model}-{made_by}" / f"seed-{spec.seed:03d}.safetensors"


@cache
def provenance() -> dict:
    """Return what a result depends on beside its spec: a digest of the measuring code, and the packages' versions."""
    return of("studies.sweeps")


def run(spec: Spec) -> xr.Dataset:
    """
    Train, quantize and measure once, or load the result if this very run was made before.

    Parameters
    ----------
    spec : Spec

    Returns
    -------
    xarray.Dataset
        Of the study's own ``measure``. Units and long names in the attributes. Also written to ``file(spec)``, whole or
        not at all.
    """
    path = file(spec)
    found = kept(path, spec)
    if found is None:
        _make(spec, path, checkpoint_file(spec))
        found = load_dataset(path)
    return found


def _make(spec: Spec, path: Path, checkpoint: Path) -> None:
    # The result is read from its file: sending it between processes would cost more.
    save_dataset(measure(spec, checkpoint=checkpoint), path)


def kept(path: Path, spec: Spec) -> xr.Dataset | None:
    try:
        found = load_dataset(path)
    except (FileNotFoundError, ValueError):
        return None  # none yet, or damaged from outside: made again and replaced
    return found if found.attrs.get("spec") == spec.text() else None


def measure(spec: Spec, *, checkpoint: Path | None = None) -> xr.Dataset:
    """
    Train, quantize and measure once, on one thread; see :func:`run`.

    Parameters
    ----------
    spec : Spec
    checkpoint : file, optional
        The trained classifier is taken from here, or put here if it is not there yet.
    """
    with one_thread():
        split = split_of(spec)
        out = _STUDIES[spec.study].measure(spec, split, trained(spec, split, checkpoint))
    out = out.assign_coords(seed=spec.seed)
    measures.describe(out, UNITS.get(spec.dataset, "input units (pixel / 255)"))
    out.attrs = {
        "title": f"Boundary-aware quantization: {spec.study} on {spec.dataset}, one run",
        "spec": spec.text(),
        "command": spec.command(),
        **{name: json.dumps(value, sort_keys=True) for name, value in provenance().items()},
    }
    return out


def split_of(spec: Spec) -> splits.Split | splits.StoppingSplit:
    """Give the inputs and classes of a run."""
    if spec.study == "levels":
        return splits.digits(spec.seed)
    train_size, calibration_size, held_out = spec.sizes
    return splits.stopping_split(
        spec.dataset, spec.seed, train=train_size, calibration=calibration_size, held_out=held_out
    )


def published_checkpoint(spec: Spec) -> Path:
    """Give the file of the published classifier of the baseline of *spec*."""
    return CHECKPOINTS / f"{spec.trained_by}-{spec.dataset}-{spec.model}.safetensors"


def classifier(spec: Spec) -> nn.Module:
    """Give the trained classifier of a run: the published one, one that a run kept, or one trained now and kept."""
    try:
        return training.load_checkpoint(_untrained(spec), published_checkpoint(spec), spec.training())
    except (FileNotFoundError, ValueError):  # none, or of other training
        return trained(spec, split_of(spec), checkpoint_file(spec), progress="Training")


def keep_classifier(spec: Spec, progress: str = "") -> Path:
    """Train the classifier of a run and keep it for its runs, if it is not there yet; give its file."""
    path = checkpoint_file(spec)
    with one_thread():
        trained(spec, split_of(spec), path, progress)
    return path


def _untrained(spec: Spec) -> nn.Module:
    return networks.build(spec.model, splits.SHAPES[spec.dataset], CLASSES, width=spec.width, seed=spec.seed)


def trained(
    spec: Spec, split: splits.Split | splits.StoppingSplit, checkpoint: Path | None, progress: str = ""
) -> nn.Module:
    model = _untrained(spec)
    if checkpoint is not None:
        try:
            return training.load_checkpoint(model, checkpoint, spec.training())
        except (FileNotFoundError, ValueError):
            model = _untrained(spec)  # none yet, or damaged from outside, and perhaps loaded in part
    inputs, classes = split.train_inputs, split.train_classes
    how = {"epochs": spec.epochs, "seed": spec.seed, "batch_size": spec.batch_size, "progress": progress}
    if spec.dataset == "full-cifar-10":
        training.fit_cifar(model, inputs, classes, threads=1, **how)
    else:
        training.fit(model, inputs, classes, **how)
    if checkpoint is not None:
        training.save_checkpoint(model, checkpoint, spec.training())
    return model


def sweep(spec: Spec, seeds: int | None = None, *, workers: int | None = None, progress: bool = True) -> xr.Dataset:
    """
    Run *seeds* seeds from ``spec.seed`` on, on the cores there are, and join their measures along ``seed``.

    Each run is kept as soon as it is done, so a sweep that was stopped goes on where it stopped.

    Parameters
    ----------
    spec : Spec
    seeds : int, optional
        Number of runs, at least 1; by default that of the data set's baseline.
    workers : int, optional
        Processes; by default one for each core this process may use.
    progress : bool
        Show a bar with the time left, on standard error.

    Returns
    -------
    xarray.Dataset
        Of :func:`run`, without the arrays that only pictures need.
    """
    seeds = check_integer("seeds", seeds_of(spec) if seeds is None else seeds, 1)
    joined = joined_file(spec, seeds)
    found = kept(joined, spec)
    if found is not None:
        return found
    specs = [replace(spec, seed=spec.seed + i) for i in range(seeds)]
    missing = [s for s in specs if not file(s).exists()]
    each(
        _make, [(s, file(s).absolute(), checkpoint_file(s).absolute()) for s in missing], total=seeds,
        desc=f"{spec.study}, {spec.dataset}, {spec.model}: runs", unit="run", workers=workers, progress=progress,
    )  # fmt: skip
    save_dataset(combine([run(s) for s in specs], spec, seeds), joined)
    return load_dataset(joined)


def sweep_variants(dataset: str, seeds: int, *, workers: int | None = None) -> xr.Dataset:
    """Sweep the stopping study's baseline on a data set and each of its variants, joined along ``variant``."""
    specs = variants(dataset)
    usual = specs[0]
    names = ["baseline", *(f"{k}={text(v)}" for changed in VARIANTS[dataset] for k, v in changed.items())]
    out = xr.concat(
        [sweep(spec, seeds, workers=workers) for spec in specs],
        xr.Variable("variant", names), data_vars="all", coords="minimal", compat="override",
        combine_attrs="drop_conflicts",
    )  # fmt: skip
    out.attrs |= {"title": f"Boundary-aware quantization: variants of stopping on {dataset}", "spec": usual.text()}
    return out


def combine(runs: list[xr.Dataset], spec: Spec, seeds: int) -> xr.Dataset:
    """Join single runs along ``seed``, without what only pictures need."""
    slim = [ds.drop_dims([dim for dim in _STUDIES[spec.study].GRID_DIMS if dim in ds.dims]) for ds in runs]
    out = xr.concat(slim, "seed", data_vars="all", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    out.attrs |= {
        "title": f"Boundary-aware quantization: {spec.study} on {spec.dataset}, {seeds} runs",
        "spec": spec.text(),
        "seeds": seeds,
        "command": spec.command(seeds),
    }
    return out
