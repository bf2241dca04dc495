"""One network and its quantized levels on one slice: exact measures, grid measures, finite-scale law, first order."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import check_integer
from bqcore._store import along
from bqcore._threads import one_thread
from bqcore.metrics import boundary_distances, exact_slices, finite_scale, label_grids, margins, masks, planes

TOLERANCES = (0.01, 0.02, 0.05, 0.1)
WHERE = ("in the plane", "at the boundary", "at the inputs")  # the latter two in full space
_HALVINGS = 50  # of a bracket: down to the last bits


def compare(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, nodes: tuple[int, ...], *,
    tolerances: tuple[float, ...] = TOLERANCES, step: float = 0.02, places: int = 6,
) -> xr.Dataset:  # fmt: skip
    """
    Measure quantized *levels* against *reference* on *plane*, exactly and on grids.

    Parameters
    ----------
    reference : nn.Sequential
        The float network.
    levels : dict
        Networks by bit-width.
    plane : slices.Plane
    nodes : tuple of int
        Nodes a side of the grids.
    tolerances : tuple of float
        Of the tolerance Jaccard distance, in input units.
    step : float
        Longest piece that the boundaries are divided into, in input units; a tenth of it for the mean distance.
    places : int
        Grids of each size: the slice's own, then moved by parts of a cell. The law is about grids at a random place.

    Returns
    -------
    xarray.Dataset
        Dimensions ``bits``, ``nodes``, ``place``, ``tau``, the tolerances; ``piece`` along the float boundary;
        ``law_step``, a finer row of grid steps for drawing the law. Units and long names in the attributes.
    """
    nodes = [check_integer("Nodes a side", n, 2) for n in nodes]
    places = check_integer("Places", places, 1)
    if not levels:
        raise ValueError("There are no levels to compare: give at least one network by its bit-width.")
    with one_thread():
        exact = exact_slices.exact_slice(reference, plane)
        rows = []
        for model in levels.values():
            rows.append(_exact(reference, model, exact, plane, nodes, tolerances, step))
        out = along("bits", list(levels), rows)
        grids = _grids(reference, levels, plane, nodes, places)
    pieces = boundary_distances.shifts(exact.segments, exact.pairs, exact.segments, exact.pairs, step=step)
    out = xr.merge([out, grids]).assign(
        length_float=float(boundary_distances.lengths(exact.segments).sum()), junctions_float=len(exact.junctions),
        piece_length=("piece", pieces.lengths), piece_angle=("piece", pieces.angles),
    )  # fmt: skip
    out = out.assign_coords(
        nodes=nodes, tau=list(tolerances), law_step=_law_steps(plane), place=np.arange(places),
        step_a=("nodes", [plane.steps(n)[0] for n in nodes]), step_b=("nodes", [plane.steps(n)[1] for n in nodes]),
    )  # fmt: skip
    for name, (long_name, units) in _LONG_NAMES.items():
        out[name].attrs = {"long_name": long_name, "units": units}
    return out


def _law_steps(plane: planes.Plane) -> np.ndarray:
    return (plane.high - plane.low).max() / np.geomspace(10, 2000, 60)


def _exact(reference, model, exact, plane, nodes, tolerances, step) -> dict:
    other = exact_slices.exact_slice(model, plane)
    ways = [
        boundary_distances.shifts(one.segments, one.pairs, two.segments, two.pairs, step=step)
        for one, two in ((exact, other), (other, exact))
    ]
    distance, angles, weights = (
        np.concatenate([getattr(way, name) for way in ways]) for name in ("distance", "angles", "lengths")
    )
    shape = (plane.high - plane.low) / (plane.high - plane.low).max()

    def law(steps) -> float:
        return finite_scale.expected_jaccard(distance, angles, tuple(steps), weights=weights) if len(weights) else 0.0

    apart = boundary_distances.boundary_distances(exact.segments, other.segments, step=step / 10)
    met = boundary_distances.match_junctions(
        exact.junctions, exact.junction_classes, other.junctions, other.junction_classes, radius=max(tolerances)
    )
    return {
        "length": float(boundary_distances.lengths(other.segments).sum()),
        "changed_area": exact_slices.changed_area(exact_slices.shared_areas(reference, model, plane)),
        "nearest": apart.nearest, "mean_distance": apart.mean, "mean_distance_error": apart.mean_error,
        "hausdorff": apart.hausdorff,
        "tolerance_jaccard": (
            "tau", [boundary_distances.tolerance_jaccard(exact.segments, other.segments, t) for t in tolerances],
        ),
        "junctions": len(other.junctions), "junctions_matched": len(met.matched),
        "junctions_vanished": len(met.vanished), "junctions_appeared": len(met.appeared),
        "law_jaccard": ("nodes", [law(plane.steps(n)) for n in nodes]),
        "law_curve": ("law_step", [law(h * shape) for h in _law_steps(plane)]),
        "piece_displacement": ("piece", ways[0].displacement), "piece_distance": ("piece", ways[0].distance),
        "piece_first_order": ("piece", first_order_on_plane(reference, model, plane, exact, step=step)),
    }  # fmt: skip


def first_order(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, inputs: torch.Tensor, *,
    step: float = 0.02, reach: float = 2.0,
) -> xr.Dataset:  # fmt: skip
    """
    Compare the first-order displacement with the true one: at the boundary and away from it, in the plane and beyond.

    Parameters
    ----------
    reference, levels, plane, step
        As in :func:`compare`.
    inputs : float tensor, shape (N, ...)
        Points away from the boundary, such as the test inputs.
    reach : float
        How far along the normal the boundary is looked for, in input units.

    Returns
    -------
    xarray.Dataset
        Dimensions ``bits`` and ``where``: median of the true magnitude, median ratio of first order to true, share
        within a tenth of it, share of equal sign, and share of the points at which there is a true one. Points on the
        boundary are the middles of its pieces.
    """
    exact = exact_slices.exact_slice(reference, plane)
    pieces = boundary_distances.shifts(exact.segments, exact.pairs, exact.segments, exact.pairs, step=step)
    on = torch.from_numpy(plane.points(*pieces.points.T).reshape(-1, *plane.shape))
    rows = []
    with one_thread():
        for model in levels.values():
            other = exact_slices.exact_slice(model, plane)
            true = boundary_distances.shifts(
                exact.segments, exact.pairs, other.segments, other.pairs, step=step
            ).displacement
            kinds = [(first_order_on_plane(reference, model, plane, exact, step=step), true)]
            for points in (on, inputs.double()):
                double = [doubled(one) for one in (reference, model)]
                linear = margins.local_change(*double, points).displacement
                kinds.append((linear, true_displacement(reference, model, points, reach=reach)))
            rows.append(xr.concat([_agreement(*kind) for kind in kinds], xr.Variable("where", list(WHERE))))
    return xr.concat(rows, xr.Variable("bits", list(levels)))


def _agreement(linear: np.ndarray, true: np.ndarray) -> xr.Dataset:
    met = np.isfinite(linear) & np.isfinite(true) & (true != 0)
    linear, true = linear[met], true[met]
    if not len(true):
        return xr.Dataset(dict.fromkeys(("true", "ratio", "within", "same_sign"), np.nan) | {"met": 0.0})
    return xr.Dataset({
        "true": float(np.median(np.abs(true))), "ratio": float(np.median(np.abs(linear / true))),
        "within": float((np.abs(linear - true) <= 0.1 * np.abs(true)).mean()),
        "same_sign": float((np.sign(linear) == np.sign(true)).mean()), "met": float(met.mean()),
    })  # fmt: skip


def first_order_on_plane(
    reference: nn.Module, candidate: nn.Module, plane: planes.Plane, exact: exact_slices.ExactSlice, *, step: float
) -> np.ndarray:
    """
    Give the first-order displacement, with the gradient in the plane, at the middle of each piece of a boundary.

    Parameters
    ----------
    reference, candidate : torch modules
    plane : slices.Plane
    exact : arrangement.ExactSlice
        Of *reference* on *plane*.
    step : float
        Longest piece: as in :func:`bqcore.metrics.boundary_distances.shifts`, whose pieces and whose sign these are.

    Returns
    -------
    displacement : float array, shape (N,), input units; NaN where the float margin has no gradient in the plane
    """
    pieces = boundary_distances.shifts(exact.segments, exact.pairs, exact.segments, exact.pairs, step=step)
    if not len(pieces.points):
        return np.empty(0)
    normal = torch.from_numpy(np.stack([np.cos(pieces.angles), np.sin(pieces.angles)], axis=1))
    points = torch.from_numpy(pieces.points)
    one, two = _on_plane(reference, plane), _on_plane(candidate, plane)
    change = margins.local_change(one, two, points)
    # Away from the point means towards the rival; the normal leads to the right class. A step along it says which wins.
    after = one(points + 1e-6 * normal).detach().numpy()
    row = np.arange(len(after))
    return np.where(after[row, change.winner] < after[row, change.runner_up], 1, -1) * change.displacement


def _on_plane(model: nn.Module, plane: planes.Plane) -> Callable:
    double = doubled(model)
    origin, axes = torch.from_numpy(plane.origin), torch.from_numpy(plane.axes)
    return lambda u: double((origin + u @ axes).reshape(-1, *plane.shape))


def doubled(model: nn.Module) -> nn.Module:
    """Give a copy of a network in float64."""
    return copy.deepcopy(model).double()


def true_displacement(
    reference: nn.Module, candidate: nn.Module, inputs: torch.Tensor, *, reach: float, samples: int = 201
) -> np.ndarray:
    """
    Give how far the boundary of each input's float top-2 pair moves along the float margin's normal, in full space.

    On the line from x along its normal both margins are followed for *reach* either way; the crossing of each that is
    nearest to x is enclosed between samples and halved down to rounding. What
    :func:`bqcore.metrics.margins.local_change` calls displacement is its first-order reading, with the same sign.

    Parameters
    ----------
    reference, candidate : torch modules, inputs (N, ...) -> logits (N, K)
    inputs : float tensor, shape (N, ...)
    reach : float
        In input units, above 0.
    samples : int
        Points on each line: two crossings closer than 2 reach / (samples − 1) may be missed.

    Returns
    -------
    displacement : float array, shape (N,); NaN where a boundary is not met within *reach*
    """
    ways = crossings(reference, candidate, inputs, reach=reach, samples=samples)
    return ways[1] - ways[0]


def crossings(
    reference: nn.Module, candidate: nn.Module, inputs: torch.Tensor, *, reach: float, samples: int = 201
) -> tuple[np.ndarray, np.ndarray]:
    """
    Give the way from each input along the float margin's normal to the float and to the quantized boundary of its pair.

    Parameters
    ----------
    reference, candidate, inputs, reach, samples
        As of :func:`true_displacement`, which is the difference of the two.

    Returns
    -------
    reference, candidate : float arrays, shape (N,)
        Signed, in input units; positive towards the runner-up, NaN where a boundary is not met within *reach*.
    """
    samples = check_integer("Samples", samples, 3)
    if not 0 < reach < np.inf:
        raise ValueError(f"Reach is {reach!r}: give a length in input units.")
    models = [doubled(model) for model in (reference, candidate)]
    x = inputs.detach().double()
    change = margins.local_change(*models, x)
    pair = change.winner, change.runner_up
    _, gradient = margins.margin_gradient(models[0], x, *pair)
    flat = gradient.flatten(1)
    normal = (flat / flat.norm(dim=1, keepdim=True)).reshape(x.shape)
    first, second = (_crossing(model, x, -normal, pair, reach, samples) for model in models)
    return first, second


def _crossing(model, x, direction, pair, reach, samples) -> np.ndarray:
    """Give the way from each input to the nearest sign change of its pair's margin, either way along *direction*."""

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


def _grids(reference, levels, plane, nodes, places) -> xr.Dataset:
    per_grid = []
    for n in nodes:
        steps, per_place = np.array(plane.steps(n)), []
        for place in range(places):
            # Multiples of two irrational numbers fill a cell evenly (Roberts' R2 sequence); the first is no move.
            shift = (place * np.array([0.7548776662466927, 0.5698402909980532]) % 1) * steps
            there = planes.Plane(
                plane.origin, plane.axes, plane.low + shift, plane.high + shift, plane.explained, plane.shape
            )
            float_labels = label_grids.label_grid(reference, there, n)
            mask, rows = masks.boundary_mask(float_labels), []
            for model in levels.values():
                labels = label_grids.label_grid(model, there, n)
                other = masks.boundary_mask(labels)
                rows.append({
                    "boundary_jaccard": masks.boundary_jaccard(mask, other).distance,
                    "shared_cells": int((mask & other).sum()), "covered_cells": int((mask | other).sum()),
                    "grid_change": label_grids.grid_change(float_labels, labels),
                    "junction_cells": int(masks.junction_cells(labels).sum()),
                })  # fmt: skip
            here = along("bits", list(levels), rows)
            per_place.append(here.assign(mask_cells_float=int(mask.sum())))
        per_grid.append(xr.concat(per_place, "place"))
    out = xr.concat(per_grid, "nodes")
    out["pooled_jaccard"] = 1 - out.shared_cells.sum("place") / out.covered_cells.sum("place").clip(min=1)
    out["pooled_jaccard"] = out.pooled_jaccard.where(out.covered_cells.sum("place") > 0, 0.0)
    own = out.boundary_jaccard.isel(place=0)
    d_eff = [masks.effective_displacement(own.isel(nodes=i), plane.steps(n)) for i, n in enumerate(nodes)]
    out["effective_displacement"] = xr.concat(d_eff, "nodes")
    return out


_UNITS = "input units"
_LONG_NAMES = {
    "length": ("length of the quantized boundary on the slice", _UNITS),
    "length_float": ("length of the float boundary on the slice", _UNITS),
    "changed_area": ("changed area of the slice", "share"),
    "nearest": ("nearest distance between the two boundaries", _UNITS),
    "mean_distance": ("mean distance between the two boundaries", _UNITS),
    "mean_distance_error": ("bound on the error of the mean distance", _UNITS),
    "hausdorff": ("Hausdorff distance between the two boundaries", _UNITS),
    "tolerance_jaccard": ("tolerance Jaccard distance", "share of the boundaries' length"),
    "junctions": ("junctions of the quantized boundary", "count"),
    "junctions_float": ("junctions of the float boundary", "count"),
    "junctions_matched": ("junctions of both within the largest tolerance", "count"),
    "junctions_vanished": ("junctions of the float boundary alone", "count"),
    "junctions_appeared": ("junctions of the quantized boundary alone", "count"),
    "law_jaccard": ("boundary-mask Jaccard distance by the finite-scale law", "1"),
    "law_curve": ("boundary-mask Jaccard distance by the finite-scale law", "1"),
    "piece_displacement": ("displacement along the normal in the plane", _UNITS),
    "piece_distance": ("distance to the quantized boundary in the plane", _UNITS),
    "piece_first_order": ("first-order boundary displacement in the plane", _UNITS),
    "piece_length": ("length of the piece", _UNITS),
    "piece_angle": ("direction of the piece's normal", "rad"),
    "boundary_jaccard": ("boundary-mask Jaccard distance", "1"),
    "pooled_jaccard": ("boundary-mask Jaccard distance, cells pooled over places of the grid", "1"),
    "effective_displacement": ("shift that explains the Jaccard distance, d_eff", _UNITS),
    "shared_cells": ("cells on both boundary masks", "count"),
    "covered_cells": ("cells on either boundary mask", "count"),
    "grid_change": ("grid prediction change", "share of nodes"),
    "junction_cells": ("triple-junction cells", "count"),
    "mask_cells_float": ("cells on the float boundary mask", "count"),
    "bits": ("bit-width of the weights", "bit"),
    "nodes": ("nodes a side of the slice grid", "count"),
    "place": ("place of the grid; 0 is the slice's own", "1"),
    "tau": ("tolerance", _UNITS),
    "law_step": ("larger grid step", _UNITS),
    "step_a": ("grid step along a", _UNITS),
    "step_b": ("grid step along b", _UNITS),
}
