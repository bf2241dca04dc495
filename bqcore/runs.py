"""One run: a spec in, one xarray.Dataset out. A sweep: many seeds, one file each, resumed where it was stopped."""

import copy
import difflib
import hashlib
import json
import shlex
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from . import boundary, data, decisions, models, quantize, slices, train
from .checks import check_choice, check_integer, check_share
from .results import load_dataset, save_dataset

FRESH = Path("data/runs")
FLOAT = 32  # the bit-width that stands for the float classifier itself
SEEDS = 100
GRID_DIMS = {"a", "b", "cell_a", "cell_b", "sample"}
_MODULES = ("checks", "quantize", "boundary", "slices", "decisions", "data", "models", "train", "results", "runs")
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "xarray")


def _of(default, says: str):
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True)
class Spec:
    """Everything that a run depends on; the defaults are the baseline that is judged. See :func:`parameters`."""

    dataset: str = _of("digits", "data set")
    seed: int = _of(0, "seed of the split, the initial weights and the order of the batches")
    bits: tuple[int, ...] = _of((8, 7, 6, 5, 4, 3, 2), "PTQ-W levels, 2 to 16; transitions lead from each to the next")
    width: int = _of(64, "hidden units")
    epochs: int = _of(60, "epochs of training")
    nodes: tuple[int, ...] = _of(
        (201, 101, 401), "nodes a side of the slice grids; the first is drawn and interpolated on"
    )
    scheme: str = _of("narrow", "step of the quantizer: narrow (2^b - 1 levels) or full (2^b)")
    granularity: str = _of("tensor", "one step for each weight tensor, or for each output channel")
    steps: int = _of(11, "interpolation steps of a transition, both ends included")
    share: float = _of(0.2, "share of the inputs in the low-margin boundary band")

    def __post_init__(self):
        check_choice("dataset", self.dataset, ("digits",))
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_integer("width", self.width, 1)
        check_integer("epochs", self.epochs, 1)
        check_integer("steps", self.steps, 2)
        check_choice("scheme", self.scheme, quantize.SCHEMES)
        check_choice("granularity", self.granularity, quantize.GRANULARITIES)
        if check_share("share", self.share) == 0:
            raise ValueError("share is 0: the boundary band would be empty.")
        for name, low, high in (("bits", 2, 16), ("nodes", 2, None)):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not values:
                raise ValueError(f"{name} is {values!r}: give a list of integers, such as [8, 4].")
            object.__setattr__(self, name, tuple(check_integer(name, value, low, high) for value in values))
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}: give each value once.")
        object.__setattr__(self, "share", float(self.share))

    def folder(self) -> Path:
        """Give the folder of the fresh runs of this spec, whatever the seed; other code or packages, another folder."""
        content = {"spec": asdict(replace(self, seed=0)), **provenance()}
        return FRESH / f"{self.dataset}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"

    def file(self) -> Path:
        """Give the file of this run."""
        return self.folder() / f"seed-{self.seed:03d}.nc"

    def command(self, seeds: int = 1) -> str:
        """Give the command that makes this run, or *seeds* of them from this seed on."""
        given = [setting for setting in settings_of(self, seeds) if setting not in settings_of(Spec())]
        return shlex.join(["python", "-m", "bqcore", "run", self.dataset, *given])


def settings_of(spec: Spec, seeds: int = SEEDS) -> list[str]:
    """Give *spec* as the ``name=value`` settings that :func:`parse` reads."""
    values = {name: value for name, value in asdict(spec).items() if name != "dataset"} | {"seeds": seeds}
    return [f"{name}={text(value)}" for name, value in values.items()]


def parameters() -> list[tuple[str, str, str, str]]:
    """Give name, type, default and meaning of every ``name=value`` setting of a run."""
    known = [(f.name, f.default, f.metadata["says"]) for f in fields(Spec) if f.name != "dataset"]
    known.insert(1, ("seeds", SEEDS, "number of runs, one seed each, from `seed` on"))
    kinds = {tuple: "list of integers", int: "integer", float: "number", str: "word"}
    return [(name, kinds[type(default)], text(default), says) for name, default, says in known]


def parse(settings: list[str]) -> dict:
    """
    Read ``name=value`` settings of a run: the fields of :class:`Spec`, and ``seeds``, the number of runs.

    Raises
    ------
    ValueError
        If a name is unknown (the nearest known one is named), given twice, or its value is of the wrong type.

    Examples
    --------
    >>> parse(["seed=3", "bits=[8,5]"])
    {'seed': 3, 'bits': [8, 5]}
    """
    known = {f.name: f.default for f in fields(Spec) if f.name != "dataset"} | {"seeds": SEEDS}
    out = {}
    for setting in settings:
        name, equals, given = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is no setting: write name=value, such as seed=3.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"There is no parameter {name!r}: "
                + (f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}.")
            )
        if name in out:
            raise ValueError(f"{name} is given twice: give it once.")
        try:
            value = json.loads(given)
        except json.JSONDecodeError:
            value = given
        kind = list if isinstance(known[name], tuple) else type(known[name])
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            raise ValueError(f"{name} is {given!r}: give a value of type {kind.__name__}, such as {text(known[name])}.")
        out[name] = value
    if "seeds" in out:
        check_integer("seeds", out["seeds"], 1)
    Spec(**{name: value for name, value in out.items() if name != "seeds"})
    return out


@cache
def provenance() -> dict:
    """Give what a result depends on beside its spec: a digest of the measuring code, and the packages' versions."""
    here = Path(__file__).parent
    code = hashlib.sha256(b"".join((here / f"{name}.py").read_bytes() for name in _MODULES)).hexdigest()[:12]
    return {"code": code, "versions": {name: version(name).partition("+")[0] for name in _PACKAGES}}


def run(spec: Spec) -> xr.Dataset:
    """
    Train, quantize and measure once, or load the result if this very run was made before.

    Parameters
    ----------
    spec : Spec

    Returns
    -------
    xarray.Dataset
        Dimensions ``bits`` (32 is the float classifier), ``nodes``, ``quantile``, ``transition``, ``t``, and for the
        pictures ``b``, ``a``, ``cell_b``, ``cell_a``, ``sample``. Units and long names in the attributes. Also written
        to ``spec.file()``, whole or not at all.
    """
    path = spec.file()
    found = _kept(path, spec)
    if found is None:
        _make(spec, path)
        found = load_dataset(path)
    return found


def _make(spec: Spec, path: Path) -> None:
    save_dataset(measure(spec), path)  # its result is read from the file: sending it between processes would cost more


def _kept(path: Path, spec: Spec) -> xr.Dataset | None:
    try:
        found = load_dataset(path)
    except (FileNotFoundError, ValueError):
        return None  # none yet, or damaged from outside: made again and replaced
    return found if found.attrs.get("spec") == _spec_text(spec) else None


def measure(spec: Spec) -> xr.Dataset:
    """Train, quantize and measure once, in memory, on one thread; see :func:`run`."""
    with train.one_thread():
        return _measure(spec)


def _measure(spec: Spec) -> xr.Dataset:
    split = data.digits(spec.seed)
    reference = models.mlp((split.train_inputs.shape[1], spec.width, 10), spec.seed)
    train.fit(reference, split.train_inputs, split.train_classes, epochs=spec.epochs, seed=spec.seed)
    levels = {FLOAT: reference} | {
        bits: quantize.quantize_model(reference, bits, scheme=spec.scheme, granularity=spec.granularity)
        for bits in spec.bits
    }
    plane = slices.pca_plane(split.train_inputs)
    labels = {n: {bits: slices.slice_labels(model, plane, n) for bits, model in levels.items()} for n in spec.nodes}
    out = xr.merge([
        _decisions(levels, split, spec.share),
        _geometry(levels, split.test_inputs),
        _slices(labels, plane),
        _transitions(levels, labels[spec.nodes[0]], plane, spec),
        _picture(labels[spec.nodes[0]], plane, split),
    ])  # fmt: skip
    out = out.assign_coords(seed=spec.seed)
    _describe(out)
    out.attrs = {
        "title": f"Boundary-aware quantization: {spec.dataset}, one run",
        "spec": _spec_text(spec),
        "command": spec.command(),
        **{name: json.dumps(value, sort_keys=True) for name, value in provenance().items()},
    }
    return out


def _decisions(levels: dict, split: data.Split, share: float) -> xr.Dataset:
    with torch.no_grad():
        logits = {bits: model(split.test_inputs) for bits, model in levels.items()}
    z, y = logits[FLOAT], split.test_classes
    band = decisions.boundary_band(z, share)
    rows = []
    for q in logits.values():
        flips = decisions.flips(z, q, y)
        rows.append({
            "accuracy": float((decisions.decide(q) == y.numpy()).mean()),
            "flip_rate": flips.rate, "right_to_wrong": flips.right_to_wrong,
            "wrong_to_right": flips.wrong_to_right, "wrong_to_other": flips.wrong_to_other,
            "band_flip_rate": decisions.flips(z[band], q[band]).rate,
            "pair_order_flip_rate": decisions.pair_order_flip_rate(z, q),
            "band_pair_order_flip_rate": decisions.pair_order_flip_rate(z[band], q[band]),
            "near_ties": int((decisions.margin(q) < 1e-6).sum()),
        })  # fmt: skip
    return _by("bits", list(levels), rows)


def _geometry(levels: dict, inputs: torch.Tensor) -> xr.Dataset:
    doubles = {bits: copy.deepcopy(model).double() for bits, model in levels.items()}
    inputs = inputs.double()
    quantiles = [0.5, 0.95]
    rows = []
    for model in doubles.values():
        r = boundary.radius(model, inputs)
        change = boundary.local_change(doubles[FLOAT], model, inputs)
        rows.append({
            "radius": ("quantile", np.quantile(r.radius, quantiles)),
            "displacement": ("quantile", np.nanquantile(np.abs(change.displacement), quantiles)),
            "normal_variation": ("quantile", np.nanquantile(change.normal_variation, quantiles)),
            "third_class": float(change.third_class.mean()),
            "flat_pairs": r.flat, "flat_margins": change.flat_candidate,
        })  # fmt: skip
    return _by("bits", list(levels), rows).assign_coords(quantile=quantiles)


def _slices(labels: dict, plane: slices.Plane) -> xr.Dataset:
    per_grid = []
    for n, grids in labels.items():
        steps = plane.steps(n)
        counts = {bits: slices.corner_classes(grid) for bits, grid in grids.items()}
        rows = []
        for bits, grid in grids.items():
            jaccard = slices.boundary_jaccard(counts[FLOAT] > 1, counts[bits] > 1)
            rows.append({
                "boundary_jaccard": jaccard.distance, "no_boundary": jaccard.both_empty,
                "effective_displacement": slices.effective_displacement(jaccard.distance, steps),
                "grid_change": slices.grid_change(grids[FLOAT], grid),
                "junctions": int((counts[bits] >= 3).sum()), "four_class_cells": int((counts[bits] == 4).sum()),
            })  # fmt: skip
        per_grid.append(_by("bits", list(grids), rows).assign(step_a=steps[0], step_b=steps[1]))
    out = xr.concat(per_grid, xr.Variable("nodes", list(labels)), coords="minimal", compat="override")
    return out.assign(explained=("axis", plane.explained)).assign_coords(axis=["a", "b"])


def _transitions(levels: dict, labels: dict, plane: slices.Plane, spec: Spec) -> xr.Dataset:
    t = np.arange(spec.steps) / (spec.steps - 1)
    rows, names = [], []
    for first, second in zip(spec.bits, spec.bits[1:]):
        inner = [
            slices.slice_labels(quantize.interpolate(levels[first], levels[second], x), plane, spec.nodes[0])
            for x in t[1:-1]
        ]
        path = np.stack([labels[first], *inner, labels[second]])
        found = slices.transition(path)
        names.append(f"{first}→{second}")
        rows.append({
            "junction_steps": ("t", found.junctions), "junction_union": found.union,
            "junction_union_changed": found.union_changed, "changed_cells": found.changed,
            "share_changed": found.share_changed, "share_near": found.share_near,
            "chance_boundary": found.chance_boundary, "chance_slice": found.chance_slice,
            "rearranged_cells": found.rearranged, "share_rearranged_near": found.share_rearranged_near,
            "junction_map": (("t", "cell_b", "cell_a"), np.stack([slices.junction_cells(grid) for grid in path])),
        })  # fmt: skip
    if not rows:
        return xr.Dataset()
    return _by("transition", names, rows).assign_coords(t=t)


def _picture(labels: dict, plane: slices.Plane, split: data.Split) -> xr.Dataset:
    a, b = plane.nodes(len(next(iter(labels.values()))))
    return xr.Dataset(
        {
            "labels": (("bits", "b", "a"), np.stack(list(labels.values())).astype(np.int8)),
            "score": (("sample", "axis"), plane.project(split.test_inputs)),
            "target": ("sample", split.test_classes.numpy().astype(np.int8)),
        },
        {"bits": list(labels), "a": a, "b": b, "cell_a": (a[1:] + a[:-1]) / 2, "cell_b": (b[1:] + b[:-1]) / 2},
    )


def _by(dim: str, values: list, rows: list[dict]) -> xr.Dataset:
    return xr.concat([xr.Dataset(row) for row in rows], xr.Variable(dim, values))


def sweep(spec: Spec, seeds: int = SEEDS, *, workers: int | None = None, progress: bool = True) -> xr.Dataset:
    """
    Run *seeds* seeds from ``spec.seed`` on, on the cores there are, and join their measures along ``seed``.

    Each run is kept as soon as it is done, so a sweep that was stopped goes on where it stopped.

    Parameters
    ----------
    spec : Spec
    seeds : int
        Number of runs, at least 1.
    workers : int, optional
        Processes; by default one for each core this process may use.
    progress : bool
        Show a bar with the time left, on standard error.

    Returns
    -------
    xarray.Dataset
        Of :func:`run`, without the arrays that only pictures need.
    """
    seeds = check_integer("seeds", seeds, 1)
    workers = check_integer("workers", cpu_count() if workers is None else workers, 1)
    joined = spec.folder() / f"seeds-{spec.seed:03d}-{spec.seed + seeds - 1:03d}.nc"
    found = _kept(joined, spec)
    if found is not None:
        return found
    specs = [replace(spec, seed=spec.seed + i) for i in range(seeds)]
    missing = [s for s in specs if not s.file().exists()]
    bar = tqdm(
        total=seeds,
        initial=seeds - len(missing),
        desc=f"{spec.dataset}: runs",
        unit="run",
        disable=not progress or not missing,
    )
    with bar:
        # joblib's processes start afresh (a forked copy of torch's threads can hang) and need no guard in a script.
        pool = Parallel(min(workers, max(1, len(missing))), return_as="generator_unordered")
        try:
            with _deaf():
                done = pool(delayed(_make)(s, s.file().absolute()) for s in missing)
            for _ in done:
                bar.update()
        except TerminatedWorkerError:
            raise RuntimeError(
                "A worker was ended from outside (out of memory?): finished runs are kept, the same command goes on."
            ) from None
    save_dataset(combine([run(s) for s in specs], spec, seeds), joined)
    return load_dataset(joined)


@contextmanager
def _deaf():
    """Start processes in this block that never hear Ctrl-C: their parent does, and ends them without tracebacks."""
    if threading.current_thread() is not threading.main_thread():  # others can set no handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def combine(runs: list[xr.Dataset], spec: Spec, seeds: int) -> xr.Dataset:
    """Join single runs along ``seed``, without what only pictures need."""
    slim = [ds.drop_dims([dim for dim in GRID_DIMS if dim in ds.dims]) for ds in runs]
    out = xr.concat(slim, "seed", data_vars="all", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    out.attrs |= {
        "title": f"Boundary-aware quantization: {spec.dataset}, {seeds} runs",
        "spec": _spec_text(spec),
        "seeds": seeds,
        "command": spec.command(seeds),
    }
    return out


def _spec_text(spec: Spec) -> str:
    return json.dumps(asdict(spec), sort_keys=True)


def text(value) -> str:
    """Write a parameter's value as it stands in ``name=value``."""
    return json.dumps(value, separators=(",", ":")) if not isinstance(value, str) else value


_UNITS = "input units (pixel / 16)"
_LONG_NAMES = {
    "accuracy": ("test accuracy", "share"),
    "flip_rate": ("flip rate", "share"),
    "right_to_wrong": ("flips from right to wrong", "share"),
    "wrong_to_right": ("flips from wrong to right", "share"),
    "wrong_to_other": ("flips from wrong to another wrong class", "share"),
    "band_flip_rate": ("low-margin boundary-band flips", "share of the band"),
    "pair_order_flip_rate": ("pair-order flips", "share"),
    "band_pair_order_flip_rate": ("boundary-band pair-order flips", "share of the band"),
    "near_ties": ("inputs whose top-2 margin is below 1e-6", "count"),
    "radius": ("local logit-margin radius", _UNITS),
    "displacement": ("first-order boundary displacement, magnitude", _UNITS),
    "normal_variation": ("normal variation, 1 - cos", "1"),
    "third_class": ("inputs decided for a class outside the float top-2 pair", "share"),
    "flat_pairs": ("pairs whose margin has no gradient", "count"),
    "flat_margins": ("top-2 margins without a gradient", "count"),
    "boundary_jaccard": ("boundary-mask Jaccard distance", "1"),
    "no_boundary": ("no boundary on either slice", "flag"),
    "effective_displacement": ("shift that explains the Jaccard distance, d_eff", _UNITS),
    "grid_change": ("grid prediction change", "share of nodes"),
    "junctions": ("triple-junction cells", "count"),
    "four_class_cells": ("cells with four classes", "count"),
    "step_a": ("grid step along a", _UNITS),
    "step_b": ("grid step along b", _UNITS),
    "explained": ("variance explained by the slice's axis", "share"),
    "junction_steps": ("triple-junction cells at each interpolation step", "count"),
    "junction_union": ("triple-junction cells at some interpolation step", "count"),
    "junction_union_changed": ("of these, inside the changed region", "count"),
    "changed_cells": ("cells that change at some interpolation step", "count"),
    "share_changed": ("share of the visited boundary cells that change in a step", "share"),
    "share_near": ("changed cells within one cell of a junction", "share"),
    "chance_boundary": ("the same share of all boundary cells: chance along the boundary", "share"),
    "chance_slice": ("the same share of all cells: chance anywhere on the slice", "share"),
    "rearranged_cells": ("boundary cells whose set of classes changes in a step, summed over steps", "count"),
    "share_rearranged_near": ("of these, within one cell of a junction", "share"),
    "junction_map": ("triple-junction cells", "flag"),
    "labels": ("predicted class at each node", "class"),
    "score": ("test inputs projected onto the slice", _UNITS),
    "target": ("true class", "class"),
    "axis": ("axis of the slice", "1"),
    "transition": ("from one bit-width to the next", "bit"),
    "bits": ("bit-width of the weights; 32 is the float classifier", "bit"),
    "nodes": ("nodes a side of the slice grid", "count"),
    "quantile": ("quantile over the test inputs", "1"),
    "t": ("interpolation between the two levels", "1"),
    "a": ("first principal component", _UNITS),
    "b": ("second principal component", _UNITS),
    "cell_a": ("cell centre along a", _UNITS),
    "cell_b": ("cell centre along b", _UNITS),
    "seed": ("seed of split, initial weights and batches", "1"),
}


def _describe(dataset: xr.Dataset) -> None:
    for name, (long_name, units) in _LONG_NAMES.items():
        if name in dataset.variables:
            dataset[name].attrs = {"long_name": long_name, "units": units}
