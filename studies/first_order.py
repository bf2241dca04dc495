"""The study of first order: how far the linear reading of a displacement holds, and exact measures, over networks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from bqcore._checks import check_integer
from bqcore._store import load_dataset, save_dataset
from bqcore._threads import one_thread
from bqcore.metrics import boundary_distances, decisions, exact_slices, margins, planes
from bqcore.quantizers import uniform

from . import exact, specs, sweeps
from .provenance import key, of

PUBLISHED = "digits_first_order.nc"
SEEDS = 10
REACH = 2.0  # input units, far beyond where a test input has its boundary: the result counts who has none
STEP = 0.02  # longest piece of a slice's boundary
NODES = 201  # of the grid whose J stands beside the measures without one
_EXACT = (
    "tolerance_jaccard", "mean_distance", "hausdorff", "changed_area", "boundary_jaccard", "effective_displacement",
    "grid_change",
)  # fmt: skip
WHERE = ("in the plane", "at the boundary", "in the band", "outside the band")  # the last three in full space


def sweep(spec: specs.Levels | None = None, seeds: int = SEEDS, *, progress: bool = True) -> xr.Dataset:
    """
    Compare first-order with true displacement on *seeds* networks of the levels study, one after the other.

    Each network is kept as soon as it is done, so a sweep that was stopped goes on where it stopped.

    Parameters
    ----------
    spec : specs.Levels, optional
        The baseline by default. Of its slices only the plane is used, and its interpolation steps are not.
    seeds : int
        From the spec's own on.
    progress : bool
        Show a bar with the time left, on standard error.

    Returns
    -------
    xarray.Dataset
        Of :func:`measure`, along ``seed``.
    """
    spec, seeds = spec or specs.Levels(), check_integer("seeds", seeds, 1)
    here, joined = folder(spec), joined_file(spec, seeds)
    if joined.exists():
        return load_dataset(joined)
    for i in tqdm(range(seeds), desc="first-order, digits: runs", unit="run", disable=not progress):
        one = replace(spec, seed=spec.seed + i)
        if not (here / f"seed-{one.seed:03d}.nc").exists():
            save_dataset(measure(one), here / f"seed-{one.seed:03d}.nc")
    found = [load_dataset(here / f"seed-{spec.seed + i:03d}.nc") for i in range(seeds)]
    out = xr.concat(found, "seed", data_vars="all", coords="minimal", compat="override", combine_attrs="override")
    out.attrs |= {"seeds": seeds, "command": command(spec, seeds)}
    save_dataset(out, joined)
    return load_dataset(joined)


def command(spec: specs.Levels, seeds: int) -> str:
    """Give the command that makes this study."""
    words = spec.command(seeds).replace(" run levels ", " run first-order ")
    return words.removesuffix(f" seeds={SEEDS}")


def folder(spec: specs.Levels) -> Path:
    """Give the folder of the fresh networks of *spec*, whatever the seed; other code or packages, another folder."""
    content = {"spec": replace(spec, seed=0).text(), **of("studies.first_order")}
    return sweeps.FRESH / f"first-order-digits-{key(content)}"


def joined_file(spec: specs.Levels, seeds: int) -> Path:
    """Give the file of the joined networks."""
    return folder(spec) / f"seeds-{spec.seed:03d}-{spec.seed + seeds - 1:03d}.nc"


def measure(spec: specs.Levels, *, reach: float = REACH, step: float = STEP) -> xr.Dataset:
    """
    Compare first-order with true displacement on one network, at the boundary and away from it.

    At the middles of the pieces of the exact boundary on the slice, in the plane and in full space; at the test inputs
    in the low-margin boundary band, and at the others. In full space both margins are followed along the float margin's
    normal, in float64, and their crossings halved down to rounding (:func:`studies.exact.crossings`). Beside that stand
    the measures of :func:`studies.exact.compare` that need no grid, and the Jaccard distance on one grid.

    Parameters
    ----------
    spec : specs.Levels
    reach : float
        How far along the normal a crossing is looked for, in input units; points without one are counted.
    step : float
        Longest piece of the slice's boundary, in input units.

    Returns
    -------
    xarray.Dataset
        Dimensions ``bits``, ``where`` and ``tau``, the tolerances; units and long names in the attributes.
    """
    model, split = sweeps.classifier(spec), sweeps.split_of(spec)
    levels = uniform.levels_of(model, spec.bits, scheme=spec.scheme, granularity=spec.granularity)
    with one_thread():
        plane = planes.pca_plane(split.train_inputs)
        found = exact_slices.exact_slice(model, plane)
        pieces = boundary_distances.shifts(found.segments, found.pairs, found.segments, found.pairs, step=step)
        on = torch.from_numpy(plane.points(*pieces.points.T).reshape(-1, *plane.shape))
        inputs = split.test_inputs.double()
        band = np.zeros(len(inputs), bool)
        with torch.inference_mode():
            band[decisions.boundary_band(model(split.test_inputs), spec.share)] = True
        rows = []
        for level in levels.values():
            other = exact_slices.exact_slice(level, plane)
            true = boundary_distances.shifts(
                found.segments, found.pairs, other.segments, other.pairs, step=step
            ).displacement
            linear = exact.first_order_on_plane(model, level, plane, found, step=step)
            parts = [agreement(linear, np.zeros(len(true)), true)]
            for points in (on, inputs[band], inputs[~band]):
                parts.append(agreement(*_along_normals(model, level, points, reach)))
            rows.append(xr.concat(parts, xr.Variable("where", list(WHERE))))
    out = xr.concat(rows, xr.Variable("bits", list(levels))).assign_coords(seed=spec.seed)
    whole = exact.compare(model, levels, plane, (NODES,), places=1).isel(nodes=0, place=0)
    out = out.merge(whole[list(_EXACT)].reset_coords(drop=True).assign_coords(tau=whole.tau))
    for name, (long_name, units) in _LONG_NAMES.items():
        out[name].attrs = {"long_name": long_name, "units": units}
    settings = json.loads(replace(spec, seed=0).text()) | {"study": "first-order", "reach": reach, "step": step}
    out.attrs = {
        "title": "Boundary-aware quantization: first order against true displacement on digits",
        "spec": json.dumps(settings, sort_keys=True),
        "command": command(spec, 1),
        **{name: json.dumps(value, sort_keys=True) for name, value in of("studies.first_order").items()},
    }  # fmt: skip
    return out


def _along_normals(reference, candidate, points: torch.Tensor, reach: float):
    """Give the first-order displacement at *points*, and the way from each to either boundary."""
    linear = margins.local_change(*(exact.doubled(model) for model in (reference, candidate)), points).displacement
    return linear, *exact.crossings(reference, candidate, points, reach=reach)


def agreement(linear: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> xr.Dataset:
    """
    Say how far first order agrees with the truth over many points, and at how many there is no truth to agree with.

    Parameters
    ----------
    linear : float array, shape (N,)
        First-order displacement; NaN where the margin is flat.
    reference, candidate : float arrays, shape (N,)
        Signed way along the normal to each boundary; NaN where it was not met. Their difference is the displacement.

    Returns
    -------
    xarray.Dataset
        Medians over the points that have both; shares of all points. What did not move at all agrees if *linear* is 0.
    """
    true = candidate - reference
    met = np.isfinite(linear) & np.isfinite(true)
    off = np.abs(linear - true)[met]
    size = np.abs(true)[met]
    moved = size > 0

    def median(values: np.ndarray) -> float:
        return float(np.median(values)) if len(values) else np.nan

    return xr.Dataset({
        "points": len(linear),
        "no_float": float(np.isnan(reference).mean()) if len(linear) else np.nan,
        "no_quantized": float((np.isfinite(reference) & np.isnan(candidate)).mean()) if len(linear) else np.nan,
        "flat": float(np.isnan(linear).mean()) if len(linear) else np.nan,
        "distance": median(np.abs(reference[met])), "true": median(size),
        "ratio": median(np.abs(linear[met][moved]) / size[moved]), "error": median(off[moved] / size[moved]),
        "within": float((off <= 0.1 * size).mean()) if len(off) else np.nan,
        "same_sign": float((np.sign(linear[met]) == np.sign(true[met])).mean()) if len(off) else np.nan,
    })  # fmt: skip


_LONG_NAMES = {
    "points": ("points compared", "count"),
    "no_float": ("points without a float boundary within reach", "share"),
    "no_quantized": ("points with a float boundary and no quantized one within reach", "share"),
    "flat": ("points where the float margin has no gradient", "share"),
    "distance": ("distance to the float boundary along the normal, median", "input units (pixel / 16)"),
    "true": ("true displacement along the normal, median magnitude", "input units (pixel / 16)"),
    "ratio": ("first-order over true displacement, median of magnitudes", "1"),
    "error": ("error of the first-order displacement over the true one, median", "1"),
    "within": ("points where first order is within a tenth of the truth", "share"),
    "same_sign": ("points where first order has the sign of the truth", "share"),
    "bits": ("bit-width of the weights", "bit"),
    "seed": ("seed of split, initial weights and order of batches", "1"),
}
