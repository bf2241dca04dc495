"""One network and its quantized levels on one slice: exact measures, grid measures, the finite-scale law."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._checks import check_integer
from bqcore._store import along
from bqcore._threads import one_thread
from bqcore.metrics import boundary_distances, exact_slices, finite_scale, label_grids, margins, masks, planes

from . import measures, networks

TOLERANCES = (0.01, 0.02, 0.05, 0.1)


def compare(
    reference: nn.Sequential, levels: dict[int, nn.Sequential], plane: planes.Plane, nodes: tuple[int, ...], *,
    tolerances: tuple[float, ...] = TOLERANCES, step: float = 0.02, places: int = 6,
) -> xr.Dataset:  # fmt: skip
    """
    Measure quantized *levels*, by bit-width, against *reference* on *plane*, exactly and on grids of *nodes* a side.

    Tolerances are in input units, and so is *step*, the longest piece that the boundaries are divided into (a tenth of
    it for the mean distance). *places* are the grids of each size: the slice's own, then moved by parts of a cell, for
    the law is about grids at a random place. Beside ``bits``, ``nodes``, ``place`` and ``tau`` there are ``piece``,
    along the float boundary, and ``law_step``, a finer row of grid steps for drawing the law.
    """
    nodes = [check_integer("Nodes a side", n, 2) for n in nodes]
    places = check_integer("Places", places, 1)
    if not levels:
        raise ValueError("There are no levels to compare: give at least one network by its bit-width.")
    with one_thread():
        exact = exact_slices.exact_slice(reference, plane)
        rows = [_exact(reference, model, exact, plane, nodes, tolerances, step) for model in levels.values()]
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
    measures.describe(out)
    return out


def _law_steps(plane: planes.Plane) -> np.ndarray:
    return (plane.high - plane.low).max() / np.geomspace(10, 2000, 60)


def _exact(reference, model, exact, plane, nodes, tolerances, step) -> dict:
    other = exact_slices.exact_slice(model, plane)
    ways = [
        boundary_distances.shifts(one.segments, one.pairs, two.segments, two.pairs, step=step)
        for one, two in ((exact, other), (other, exact))
    ]
    names = ("distance", "angles", "lengths")
    distance, angles, weights = (np.concatenate([getattr(way, name) for way in ways]) for name in names)
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
        "tolerance_jaccard":
            ("tau", [boundary_distances.tolerance_jaccard(exact.segments, other.segments, t) for t in tolerances]),
        "junctions": len(other.junctions), "junctions_matched": len(met.matched),
        "junctions_vanished": len(met.vanished), "junctions_appeared": len(met.appeared),
        "law_jaccard": ("nodes", [law(plane.steps(n)) for n in nodes]),
        "law_curve": ("law_step", [law(h * shape) for h in _law_steps(plane)]),
        "piece_displacement": ("piece", ways[0].displacement), "piece_distance": ("piece", ways[0].distance),
        "piece_first_order": ("piece", first_order_on_plane(reference, model, plane, exact, step=step)),
    }  # fmt: skip


def first_order_on_plane(
    reference: nn.Module, candidate: nn.Module, plane: planes.Plane, exact: exact_slices.ExactSlice, *, step: float
) -> np.ndarray:
    """
    Return the first-order displacement, with the gradient in the plane, at the middle of each piece of a boundary.

    *exact* is the slice of *reference*; pieces and sign are those of :func:`bqcore.metrics.boundary_distances.shifts`.
    In input units; NaN where the float margin has no gradient in the plane.
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
    double = networks.doubled(model)
    origin, axes = torch.from_numpy(plane.origin), torch.from_numpy(plane.axes)
    return lambda u: double((origin + u @ axes).reshape(-1, *plane.shape))


def _grids(reference, levels, plane, nodes, places) -> xr.Dataset:
    per_grid = []
    for n in nodes:
        steps, per_place = np.array(plane.steps(n)), []
        for place in range(places):
            # Multiples of two irrational numbers fill a cell evenly (Roberts' R2 sequence); the first is no move.
            shift = (place * np.array([0.7548776662466927, 0.5698402909980532]) % 1) * steps
            there = replace(plane, low=plane.low + shift, high=plane.high + shift)
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
            per_place.append(along("bits", list(levels), rows).assign(mask_cells_float=int(mask.sum())))
        per_grid.append(xr.concat(per_place, "place"))
    out = xr.concat(per_grid, "nodes")
    shared, covered = out.shared_cells.sum("place"), out.covered_cells.sum("place")
    out["pooled_jaccard"] = (1 - shared / covered.clip(min=1)).where(covered > 0, 0.0)
    own = out.boundary_jaccard.isel(place=0)
    d_eff = [masks.effective_displacement(own.isel(nodes=i), plane.steps(n)) for i, n in enumerate(nodes)]
    out["effective_displacement"] = xr.concat(d_eff, "nodes")
    return out
