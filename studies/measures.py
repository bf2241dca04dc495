"""What is measured at each level, as xarray.Datasets with long names and units; both studies call it."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore._store import along
from bqcore.metrics import boundary_distances, decisions, exact_slices, label_grids, margins, masks, planes

from . import training
from .specs import FLOAT


def logits_of(levels: dict[int, nn.Module], inputs: torch.Tensor) -> dict[int, torch.Tensor]:
    """Give the logits (N, K) of each of *levels*, models by bits, at *inputs*."""
    with torch.no_grad():
        return {bits: torch.cat([model(x) for x in inputs.split(_BATCH)]) for bits, model in levels.items()}


def of_decisions(logits: dict[int, torch.Tensor], classes: torch.Tensor, share: float) -> xr.Dataset:
    """
    Measure accuracy, flips, boundary band and pair order of each level.

    Parameters
    ----------
    logits : dict of tensors (N, K) by bits
        32 bits is the float classifier, which the others are compared with.
    classes : tensor (N,)
    share : float
        Of the inputs in the boundary band.

    Returns
    -------
    xarray.Dataset
        Along ``bits``.
    """
    z, y = logits[FLOAT], classes
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
    return along("bits", list(logits), rows)


def of_shifts(model: nn.Module, inputs: torch.Tensor, logits: dict[int, torch.Tensor]) -> xr.Dataset:
    """
    Measure the displacement of each level, median and 95th percentile, and how far its logits are off.

    Parameters
    ----------
    model : torch module
        The float classifier.
    inputs : tensor (N, ...)
    logits : dict of tensors (N, K) by bits

    Returns
    -------
    xarray.Dataset
        Along ``bits`` and ``quantile``.
    """
    known = margins.top_margins(model, inputs)
    rows = []
    for q in logits.values():
        shift = np.abs(known.displacement(q))
        rows.append({
            "displacement": ("quantile", np.nanquantile(shift, _QUANTILES)),
            "logit_error": float((q - logits[FLOAT]).double().square().sum(1).mean()),
        })  # fmt: skip
    return along("bits", list(logits), rows).assign_coords(quantile=_QUANTILES)


def of_geometry(levels: dict[int, nn.Module], inputs: torch.Tensor) -> xr.Dataset:
    """Measure radius, displacement and normal variation of each level in float64: median and 95th percentile."""
    doubles = {bits: copy.deepcopy(model).double() for bits, model in levels.items()}
    inputs = inputs.double()
    rows = []
    for model in doubles.values():
        r = margins.radius(model, inputs)
        change = margins.local_change(doubles[FLOAT], model, inputs)
        rows.append({
            "radius": ("quantile", np.quantile(r.radius, _QUANTILES)),
            "displacement": ("quantile", np.nanquantile(np.abs(change.displacement), _QUANTILES)),
            "normal_variation": ("quantile", np.nanquantile(change.normal_variation, _QUANTILES)),
            "third_class": float(change.third_class.mean()),
            "flat_pairs": r.flat, "flat_margins": change.flat_candidate,
        })  # fmt: skip
    return along("bits", list(levels), rows).assign_coords(quantile=_QUANTILES)


def labels_of(levels: dict[int, nn.Module], plane: planes.Plane, nodes: tuple[int, ...]) -> dict[int, dict]:
    """
    Label the slice's grids: for each number of nodes a side, the labels by bits.

    A grid whose nodes are some of the finest one's is taken from it.
    """
    finest = max(nodes)
    grids = {bits: label_grids.label_grid(model, plane, finest) for bits, model in levels.items()}
    out = {}
    for n in nodes:
        stride, rest = divmod(finest - 1, n - 1)
        out[n] = {
            bits: grids[bits][::stride, ::stride] if rest == 0 else label_grids.label_grid(model, plane, n)
            for bits, model in levels.items()
        }
    return out


def of_slices(labels: dict[int, dict[int, np.ndarray]], plane: planes.Plane, inputs: torch.Tensor) -> xr.Dataset:
    """
    Compare each level's slice with the float one at each resolution: along ``nodes`` and ``bits``.

    *inputs* are those that the slice is fitted on; how much of it lies outside their range is measured too.
    """
    per_grid = []
    for n, grids in labels.items():
        steps = plane.steps(n)
        counts = {bits: masks.corner_classes(grid) for bits, grid in grids.items()}
        thick = {bits: masks.thickened(count > 1) for bits, count in counts.items()}
        rows = []
        for bits, grid in grids.items():
            jaccard = masks.boundary_jaccard(counts[FLOAT] > 1, counts[bits] > 1)
            rows.append({
                "boundary_jaccard": jaccard.distance, "no_boundary": jaccard.both_empty,
                "thick_boundary_jaccard": masks.boundary_jaccard(thick[FLOAT], thick[bits]).distance,
                "effective_displacement": masks.effective_displacement(jaccard.distance, steps),
                "grid_change": label_grids.grid_change(grids[FLOAT], grid),
                "junctions": int((counts[bits] >= 3).sum()), "four_class_cells": int((counts[bits] == 4).sum()),
                "few_classes": len(np.unique(grid)) < 3,
            })  # fmt: skip
        per_grid.append(along("bits", list(grids), rows).assign(step_a=steps[0], step_b=steps[1]))
    out = xr.concat(per_grid, xr.Variable("nodes", list(labels)), coords="minimal", compat="override")
    shown = {"explained": ("axis", plane.explained), "outside": planes.fraction_outside(plane, inputs)}
    return out.assign(shown).assign_coords(axis=["a", "b"])


def of_boundaries(levels: dict[int, nn.Module], plane: planes.Plane) -> xr.Dataset:
    """
    Compare each level's boundary on a slice with the float one by lengths, which know no grid.

    Returns
    -------
    xarray.Dataset
        Along ``bits`` and ``tau``: ``tolerance_jaccard`` of the exact boundaries of ReLU MLPs, and of others from
        logits interpolated between 41 nodes a side; ``coarse_tolerance_jaccard`` from 21 nodes a side, which tells how
        much of it is the grid's.
    """
    fine = _exact_boundaries(levels, plane)
    logits = {
        bits: exact_slices.logits_on(_float32(model), plane, _COARSE if fine else _FINE, batch_size=_BATCH)
        for bits, model in levels.items()
    }
    fine = fine or {bits: exact_slices.interpolate(z, plane).segments for bits, z in logits.items()}
    stride = (len(logits[FLOAT]) - 1) // (_COARSE - 1)
    coarse = {bits: exact_slices.interpolate(z[::stride, ::stride], plane).segments for bits, z in logits.items()}
    rows = [
        {
            name: ("tau", boundary_distances.tolerance_jaccard(found[FLOAT], found[bits], TOLERANCES))
            for name, found in (("tolerance_jaccard", fine), ("coarse_tolerance_jaccard", coarse))
        }
        for bits in levels
    ]
    out = along("bits", list(levels), rows).assign_coords(tau=list(TOLERANCES))
    return out.assign(exact_boundaries=stride == 1)


def _exact_boundaries(levels: dict[int, nn.Module], plane: planes.Plane) -> dict[int, np.ndarray]:
    """Give each level's exact boundary as segments, or nothing if not all have one."""
    parts = [part for model in levels.values() for part in list(model.modules())[1:]]
    if not all(isinstance(part, (nn.Flatten, nn.Linear, nn.ReLU)) for part in parts):
        return {}
    try:
        return {bits: exact_slices.exact_slice(model, plane).segments for bits, model in levels.items()}
    except ValueError:  # too many units, or lines too close to each other
        return {}


def usual_tolerance(distances: xr.DataArray) -> float:
    """
    Give the tolerance that tables show: the one that at 4 bits tells most, where about half of the boundary has moved.

    Parameters
    ----------
    distances : xarray.DataArray
        ``tolerance_jaccard`` along ``bits`` and ``tau``, and any others; of two splits the calibration one decides, of
        several roundings that to nearest, and of bits those next to 4.
    """
    if "split" in distances.dims:
        distances = distances.sel(split="calibration")
    if "method" in distances.dims:
        distances = distances.sel({"method": "nearest"})
    if "bits" in distances.dims:
        distances = distances.isel(bits=int(np.abs(distances.bits.values - 4).argmin()))
    means = distances.mean([dim for dim in distances.dims if dim != "tau"])
    return float(means.tau[int(np.abs(means.values - 0.5).argmin())])


def _float32(model: nn.Module) -> Callable:
    """Give *model* for float64 arrays. Its rounding to float32 is far below what interpolation leaves out."""
    layout = training.memory_layout(model)
    model = copy.deepcopy(model).to(memory_format=layout)

    def logits(points: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(points).float()
        return model(inputs.to(memory_format=layout) if inputs.ndim == 4 else inputs).double().numpy()

    return logits


def describe(dataset: xr.Dataset, units: str) -> None:
    """Write long names and units into *dataset*; *units* are the model's input units."""
    for name, (long_name, unit) in LONG_NAMES.items():
        if name in dataset.variables:
            dataset[name].attrs = {"long_name": long_name, "units": unit.replace(_UNITS, units)}


# Input units. Chosen after a look at 4 bits, so that each data set has some that tell its levels apart; no claim is
# judged by them.
TOLERANCES = (0.02, 0.1, 0.5, 2.0, 10.0)
_FINE, _COARSE = 41, 21  # nodes a side; the second grid's are every other one of the first's
_BATCH = 125  # inputs through a classifier at once: what convolutions make of more leaves a core's cache
_QUANTILES = [0.5, 0.95]
_UNITS = "input units"
LONG_NAMES = {
    "accuracy": ("accuracy", "share"),
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
    "logit_error": ("squared logit difference from the float classifier, mean over the inputs", "1"),
    "normal_variation": ("normal variation, 1 - cos", "1"),
    "third_class": ("inputs decided for a class outside the float top-2 pair", "share"),
    "flat_pairs": ("pairs whose margin has no gradient", "count"),
    "flat_margins": ("top-2 margins without a gradient", "count"),
    "boundary_jaccard": ("boundary-mask Jaccard distance", "1"),
    "no_boundary": ("no boundary on either slice", "flag"),
    "effective_displacement": ("shift that explains the Jaccard distance, d_eff", _UNITS),
    "thick_boundary_jaccard": ("boundary-mask Jaccard distance of masks thickened by a cell on every side", "1"),
    "tolerance_jaccard": ("tolerance Jaccard distance", "share of the boundaries' length"),
    "coarse_tolerance_jaccard": (
        "tolerance Jaccard distance from 21 nodes a side, interpolated",
        "share of the boundaries' length",
    ),
    "exact_boundaries": ("tolerance Jaccard distance from exact boundaries, not from interpolated ones", "flag"),
    "grid_change": ("grid prediction change", "share of nodes"),
    "junctions": ("triple-junction cells", "count"),
    "four_class_cells": ("cells with four classes", "count"),
    "few_classes": ("fewer than three classes on the slice: no junction can be", "flag"),
    "outside": ("share of the slice where some value is outside its range in the data", "share of the slice"),
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
    "tau": ("tolerance", _UNITS),
    "quantile": ("quantile over the inputs", "1"),
    "method": ("how the weights were rounded", "1"),
    "changed_weights": ("weights not rounded to the nearest grid point", "share of those between two"),
    "undecided_gates": ("gates between 0.01 and 0.99 at the last step", "share of those between two"),
    "t": ("interpolation between the two levels", "1"),
    "a": ("first principal component", _UNITS),
    "b": ("second principal component", _UNITS),
    "cell_a": ("cell centre along a", _UNITS),
    "cell_b": ("cell centre along b", _UNITS),
    "split": ("calibration inputs, and held-out ones", "1"),
    "model_bytes": ("size of the quantized model", "byte"),
    "seed": ("seed of split, initial weights and batches", "1"),
}
