"""
The engine of all studies: a spec in, one xarray.Dataset out; many jobs, one file each, resumed where they were stopped.

A study is a :class:`Study`: how one of its jobs is measured, and how what was measured is joined. The engine trains or
loads classifiers, shares jobs out among processes, keeps every result in a file of its own, and makes again what is
damaged from outside or of another spec.
"""

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from bqcore._checks import check_integer
from bqcore._store import load_dataset, save_dataset
from bqcore._threads import one_thread

from . import measures, networks, provenance, training
from .data import splits
from .specs import Levels, Spec, Trained, seeds_of
from .workers import each

FRESH = Path("data/runs")
CHECKPOINTS = Path("data/checkpoints")
CLASSES = 10
_BLOCK = 5  # networks trained at once: more are hardly quicker, and fewer blocks leave a core without work
JOINED = {"data_vars": "all", "coords": "minimal", "compat": "override", "combine_attrs": "drop_conflicts"}
_TRAINING = "studies.training", "studies.networks", "studies.data.splits"  # what a trained classifier depends on


def along_seed(found: dict[Hashable, xr.Dataset], spec: Spec) -> xr.Dataset:
    """Join the results of runs along ``seed``."""
    return xr.concat(list(found.values()), "seed", **JOINED)


def by_seed(spec: Spec, seeds: int) -> list[Spec]:
    """Return the runs of *seeds* seeds from the spec's own on."""
    return [replace(spec, seed=spec.seed + i) for i in range(seeds)]


@dataclass(frozen=True, eq=False)
class Study:
    """
    What the engine has to know of a study.

    *measure* takes a job: a spec, or what *jobs* makes of one and of a number of seeds; hashable, with ``text``,
    ``stem``, ``attrs`` and ``units`` as :class:`studies.specs.Spec` has them. Of a :class:`studies.specs.Trained` it
    takes the split and the trained classifier too. It is called on one thread. *join* takes Datasets by job, and the
    spec. *depends* returns what results depend on beside the spec, the code and the packages of all studies; *notes*,
    lines for a reader at a terminal.
    """

    measure: Callable[..., xr.Dataset]
    join: Callable[[dict, Spec], xr.Dataset] = along_seed
    jobs: Callable[[Spec, int], list] = by_seed
    depends: Callable[[], dict] = dict
    notes: Callable[[xr.Dataset], list[str]] | None = None

    def provenance(self) -> dict:
        """Return what a result depends on beside its spec: a digest of the code, and the packages' versions."""
        return provenance.of(self.measure.__module__, self.join.__module__) | self.depends()

    def folder(self, spec: Spec) -> Path:
        """Return the folder of the fresh results of *spec*, whatever the seed; other code or packages, another one."""
        content = {"spec": spec.shared(), **self.provenance()}
        return FRESH / "-".join([*spec.words, provenance.key(content)])

    def file(self, spec: Spec, job: Hashable | None = None) -> Path:
        """Return the file of one job of *spec*; by default the spec itself is the job."""
        return self.folder(spec) / f"{(job or spec).stem()}.nc"

    def joined_file(self, spec: Spec, seeds: int) -> Path:
        """Return the file of all jobs of *seeds* seeds from the spec's own on."""
        return self.folder(spec) / f"{spec.stem(seeds)}.nc"

    def run(self, spec: Spec) -> xr.Dataset:
        """Measure one job, or load the result if this very one was made before; it is written whole or not at all."""
        path = self.file(spec)
        found = _kept(path, spec)
        if found is None:
            self._make(spec, path, checkpoint_file(spec) if isinstance(spec, Trained) else None)
            found = load_dataset(path)
        return found

    def measured(self, job: Any, *, checkpoint: Path | None = None, made_by: dict | None = None) -> xr.Dataset:
        """
        Measure one job now; take the trained classifier from *checkpoint*, or put it there if it is not there yet.

        *made_by* is the provenance where that is known, which takes a process half a second to find.
        """
        with one_thread():
            if isinstance(job, Trained):
                split = split_of(job)
                out = self.measure(job, split, trained(job, split, checkpoint)).assign_coords(seed=job.seed)
            else:
                out = self.measure(job)
        return self._described(out, job.units, job.attrs(), made_by)

    def _described(self, out: xr.Dataset, units: str, attrs: dict, made_by: dict | None = None) -> xr.Dataset:
        measures.describe(out, units)
        made_by = made_by or self.provenance()
        out.attrs = attrs | {name: json.dumps(value, sort_keys=True) for name, value in made_by.items()}
        return out

    def _make(
        self, job: Hashable, path: Path, checkpoint: Path | None, made_by: dict | None = None
    ) -> tuple[Hashable, xr.Dataset]:
        """Measure one job, write its result and return it with the job."""
        found = self.measured(job, checkpoint=checkpoint, made_by=made_by)
        save_dataset(found, path)
        return job, found

    def sweep(
        self, spec: Spec, seeds: int | None = None, *, workers: int | None = None, progress: bool = True
    ) -> xr.Dataset:
        """
        Measure all jobs of *seeds* seeds from ``spec.seed`` on, on the cores there are, and join them.

        Each result is kept as soon as it is done, so a sweep that was stopped goes on where it stopped. By default
        there are as many seeds as the data set's baseline has, and a process for each core.
        """
        seeds = check_integer("seeds", seeds_of(spec) if seeds is None else seeds, 1)
        joined = self.joined_file(spec, seeds)
        found = _kept(joined, spec)
        if found is not None:
            return found
        files = {job: self.file(spec, job) for job in self.jobs(spec, seeds)}
        kept = {job: _kept(path, job) for job, path in files.items()}
        missing = [job for job, one in kept.items() if one is None]
        _train_together(missing, workers=workers, progress=progress)
        networks_of = {job: checkpoint_file(job).absolute() for job in missing if isinstance(job, Trained)}
        made_by = self.provenance()
        kept |= each(
            self._make, [(job, files[job].absolute(), networks_of.get(job), made_by) for job in missing],
            total=len(files), desc=f"{', '.join(spec.words)}: {spec.unit}s", unit=spec.unit, workers=workers,
            progress=progress,
        )  # fmt: skip
        save_dataset(self.joined(kept, spec, seeds), joined)
        return load_dataset(joined)

    def joined(self, found: dict[Hashable, xr.Dataset], spec: Spec, seeds: int) -> xr.Dataset:
        """Join the results of jobs, by job, and say what they are together."""
        return self._described(self.join(found, spec), spec.units, spec.attrs(seeds, len(found)))


def _kept(path: Path, job) -> xr.Dataset | None:
    """Return the result in a file, None if there is none, it is damaged, or it is of another spec: it is made again."""
    try:
        found = load_dataset(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if found.attrs.get("spec") == job.text() else None


# The classifiers of runs


def split_of(spec: Trained) -> splits.Split | splits.StoppingSplit:
    """Return the inputs and classes of a run."""
    if isinstance(spec, Levels):
        return splits.digits(spec.seed)
    sizes = dict(zip(("train", "calibration", "held_out"), spec.sizes))
    return splits.stopping_split(spec.dataset, spec.seed, **sizes)


def checkpoint_file(spec: Trained) -> Path:
    """Return the file of the classifier that *spec* trains, in the folder of fresh runs."""
    made_by = provenance.of(*_TRAINING)
    content = {**spec.training(), "seed": 0, "code": made_by["code"], "torch": made_by["versions"]["torch"]}
    name = f"{spec.dataset}-{spec.model}-{provenance.key(content)}"
    return FRESH / "checkpoints" / name / f"seed-{spec.seed:03d}.safetensors"


def published_checkpoint(spec: Trained) -> Path:
    """Return the file of the published classifier of the baseline of *spec*."""
    return CHECKPOINTS / f"{spec.trained_by}-{spec.dataset}-{spec.model}.safetensors"


def classifier(spec: Trained, progress: str = "Training") -> nn.Module:
    """
    Return the trained classifier of a run: the published one, one that a run kept, or one trained now and kept, with a
    bar of the name *progress*.
    """
    try:
        return training.load_checkpoint(_untrained(spec), published_checkpoint(spec), spec.training())
    except (FileNotFoundError, ValueError):  # none, or of other training
        return trained(spec, split_of(spec), checkpoint_file(spec), progress)


def keep_classifier(spec: Trained, progress: str = "") -> Path:
    """Train the classifier of a run and keep it for its runs, if it is not there yet; return its file."""
    path = checkpoint_file(spec)
    with one_thread():
        trained(spec, split_of(spec), path, progress)
    return path


def _train_together(jobs: list, *, workers: int | None, progress: bool) -> None:
    """
    Train the small perceptrons that *jobs* need and have no file yet, several seeds at once, which is much quicker.

    Those of larger inputs gain nothing: their products keep a core busy one by one.
    """
    small = [job for job in jobs if isinstance(job, Trained) and (job.dataset, job.model) == ("digits", "mlp")]
    files = [(job, path.absolute()) for job in small if not (path := checkpoint_file(job)).exists()]
    if len(files) < 2 or not training.stackable(_untrained(small[0])):
        return  # each is trained where it is measured
    blocks = [(files[i : i + _BLOCK],) for i in range(0, len(files), _BLOCK)]
    desc = f"{', '.join(small[0].words)}: training"
    list(each(_keep_block, blocks, total=len(blocks), desc=desc, unit="block", workers=workers, progress=progress))


def _keep_block(files: list[tuple[Trained, Path]]) -> None:
    """Train the perceptrons of runs that differ in their seeds alone, and put each in its file."""
    block = [spec for spec, _ in files]
    parts = [split_of(spec) for spec in block]
    models = training.fit_together(
        [_untrained(spec) for spec in block], [part.train_inputs for part in parts],
        [part.train_classes for part in parts], seeds=[spec.seed for spec in block],
        epochs=block[0].epochs, batch_size=block[0].batch_size,
    )  # fmt: skip
    for model, (spec, path) in zip(models, files):
        training.save_checkpoint(model, path, spec.training())


def _untrained(spec: Trained) -> nn.Module:
    return networks.build(spec.model, splits.SHAPES[spec.dataset], CLASSES, width=spec.width, seed=spec.seed)


def trained(
    spec: Trained, split: splits.Split | splits.StoppingSplit, checkpoint: Path | None, progress: str = ""
) -> nn.Module:
    """
    Return the classifier of a run, loaded from *checkpoint* if that is whole and of this training; else trained, with a
    bar if *progress* names it, and put there.
    """
    model = _untrained(spec)
    if checkpoint is not None:
        try:
            return training.load_checkpoint(model, checkpoint, spec.training())
        except (FileNotFoundError, ValueError):
            model = _untrained(spec)  # none yet, or damaged from outside, and perhaps loaded in part
    # Without batch norms, as the small convolutional network is, a network diverges at the rate of the former.
    full = spec.dataset == "full-cifar-10" and spec.model != "cnn"
    fit = partial(training.fit_cifar, threads=1) if full else training.fit
    how = {"epochs": spec.epochs, "seed": spec.seed, "batch_size": spec.batch_size, "progress": progress}
    fit(model, split.train_inputs, split.train_classes, **how)
    if checkpoint is not None:
        training.save_checkpoint(model, checkpoint, spec.training())
    return model
