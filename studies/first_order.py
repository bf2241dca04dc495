"""The study of first order: how far the linear reading of a displacement holds, and exact measures, over networks."""

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import check_integer
from bqcore._threads import one_thread
from bqcore.metrics import boundary_distances, decisions, exact_slices, margins, planes
from bqcore.quantizers import uniform

from . import exact, networks
from .data import splits
from .specs import FirstOrder
from .sweeps import Study

NODES = 201  # of the grid whose J stands beside the measures without one
_EXACT = (
    "tolerance_jaccard", "mean_distance", "hausdorff", "changed_area", "boundary_jaccard", "effective_displacement",
    "grid_change",
)  # fmt: skip
WHERE = ("in the plane", "at the boundary", "in the band", "outside the band")  # the last three in full space
_HALVINGS = 50  # of a bracket: down to the last bits


def measure(spec: FirstOrder, split: splits.Split, model: nn.Module) -> xr.Dataset:
    """
    Compare first-order with true displacement on one network, at the boundary and away from it.

    Beside what :func:`compare` gives at the boundary, at the test inputs in the low-margin boundary band and at the
    others, there are the measures of :func:`studies.exact.compare` that need no grid, and the Jaccard distance on one.
    """
    levels = uniform.levels_of(model, spec.bits, scheme=spec.scheme, granularity=spec.granularity)
    plane = planes.pca_plane(split.train_inputs)
    band = np.zeros(len(split.test_inputs), bool)
    with torch.inference_mode():
        band[decisions.boundary_band(model(split.test_inputs), spec.share)] = True
    places = {where: split.test_inputs[rows] for where, rows in zip(WHERE[2:], (band, ~band))}
    out = compare(model, levels, plane, places, step=spec.step, reach=spec.reach)
    whole = exact.compare(model, levels, plane, (NODES,), places=1).isel(nodes=0, place=0)
    return out.merge(whole[list(_EXACT)].reset_coords(drop=True).assign_coords(tau=whole.tau))


STUDY = Study(measure)


def compare(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, places: dict[str, torch.Tensor], *,
    step: float = 0.02, reach: float = 2.0,
) -> xr.Dataset:  # fmt: skip
    """
    Compare the first-order displacement with the true one, along ``bits`` and ``where``, by :func:`agreement`.

    At the middles of the pieces of the exact boundary on the slice, in the plane and in full space, and at *places*,
    points (N, ...) by name. In full space both margins are followed along the float margin's normal, in float64, as far
    as *reach*, and their crossings halved down to rounding (:func:`crossings`). Lengths are in input units.
    """
    rows = []
    with one_thread():
        found = exact_slices.exact_slice(reference, plane)
        pieces = boundary_distances.shifts(found.segments, found.pairs, found.segments, found.pairs, step=step)
        on = torch.from_numpy(plane.points(*pieces.points.T).reshape(-1, *plane.shape))
        for level in levels.values():
            other = exact_slices.exact_slice(level, plane)
            true = boundary_distances.shifts(found.segments, found.pairs, other.segments, other.pairs, step=step)
            linear = exact.first_order_on_plane(reference, level, plane, found, step=step)
            parts = [agreement(linear, np.zeros(len(linear)), true.displacement)]
            for points in (on, *places.values()):
                parts.append(agreement(*_along_normals(reference, level, points.double(), reach)))
            rows.append(xr.concat(parts, xr.Variable("where", [*WHERE[:2], *places])))
    return xr.concat(rows, xr.Variable("bits", list(levels)))


def _along_normals(reference, candidate, points: torch.Tensor, reach: float):
    """Return the first-order displacement at *points*, and the way from each to either boundary."""
    linear = margins.local_change(*(networks.doubled(model) for model in (reference, candidate)), points).displacement
    return linear, *crossings(reference, candidate, points, reach=reach)


def agreement(linear: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> xr.Dataset:
    """
    Say how far first order agrees with the truth over many points, and at how many there is no truth to agree with.

    *linear* is the first-order displacement (N,), NaN where the margin is flat; *reference* and *candidate* are the
    signed ways along the normal to each boundary, NaN where it was not met. Medians are over the points that have both,
    shares of all. What did not move at all agrees if *linear* is 0.
    """
    true = candidate - reference
    met = np.isfinite(linear) & np.isfinite(true)
    off, size = np.abs(linear - true)[met], np.abs(true)[met]
    moved = size > 0

    def over(values: np.ndarray, of=np.mean) -> float:
        return float(of(values)) if len(values) else np.nan

    return xr.Dataset({
        "points": len(linear), "no_float": over(np.isnan(reference)),
        "no_quantized": over(np.isfinite(reference) & np.isnan(candidate)), "flat": over(np.isnan(linear)),
        "distance": over(np.abs(reference[met]), np.median), "true": over(size, np.median),
        "ratio": over(np.abs(linear[met][moved]) / size[moved], np.median),
        "error": over(off[moved] / size[moved], np.median), "within": over(off <= 0.1 * size),
        "same_sign": over(np.sign(linear[met]) == np.sign(true[met])),
    })  # fmt: skip


def crossings(
    reference: nn.Module, candidate: nn.Module, inputs: torch.Tensor, *, reach: float, samples: int = 201
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the way from each input, along the normal, to the float and to the quantized boundary of its pair.

    The pair is the float top-2 pair of the input, the normal that of its float margin, in full space. On this line both
    margins are followed for *reach* either way; the crossing of each that is nearest to the input is enclosed between
    *samples* and halved down to rounding (two closer than 2 reach / (samples − 1) may be missed). Ways (N,) are in
    input units, positive towards the runner-up, NaN where a boundary is not met. Their difference is the true
    displacement, of which :func:`bqcore.metrics.margins.local_change` has the first-order reading, with the same sign.
    """
    samples = check_integer("Samples", samples, 3)
    if not 0 < reach < np.inf:
        raise ValueError(f"Reach is {reach!r}: give a length in input units.")
    models = [networks.doubled(model) for model in (reference, candidate)]
    x = inputs.detach().double()
    change = margins.local_change(*models, x)
    pair = change.winner, change.runner_up
    _, gradient = margins.margin_gradient(models[0], x, *pair)
    flat = gradient.flatten(1)
    normal = (flat / flat.norm(dim=1, keepdim=True)).reshape(x.shape)
    first, second = (_crossing(model, x, -normal, pair, reach, samples) for model in models)
    return first, second


def _crossing(model, x, direction, pair, reach, samples) -> np.ndarray:
    """Return the way from each input to the nearest sign change of its pair's margin, either way along *direction*."""

    def margin(way: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(way).reshape(-1, *[1] * (x.ndim - 1))
        with torch.inference_mode():
            z = model(x + along * direction).numpy()
        row = np.arange(len(z))
        return z[row, pair[0]] - z[row, pair[1]]

    ways = np.linspace(-reach, reach, samples)
    sign = np.stack([margin(np.full(len(x), way)) > 0 for way in ways])
    changes = sign[1:] != sign[:-1]
    middle = (ways[1:] + ways[:-1]) / 2
    nearest = np.where(changes, np.abs(middle)[:, None], np.inf).argmin(axis=0)
    found, row = changes.any(axis=0), np.arange(len(x))
    low, high, below = ways[nearest], ways[nearest + 1], sign[nearest, row]
    for _ in range(_HALVINGS):
        half = (low + high) / 2
        same = (margin(half) > 0) == below
        low, high = np.where(same, half, low), np.where(same, high, half)
    return np.where(found, (low + high) / 2, np.nan)
