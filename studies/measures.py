"""What is measured at each level, as xarray.Datasets, for all studies; and what it is called, in which units."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import nn

from bqcore import _vocabulary
from bqcore._store import along
from bqcore._vocabulary import RATE, UNITS
from bqcore.metrics import boundary_distances, decisions, exact_slices, label_grids, margins, masks, planes
from bqcore.metrics._gradients import Remembered

from . import networks, training
from .data import splits
from .specs import FLOAT, Stopping


def logits_of(levels: dict[int, nn.Module], inputs: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the logits (N, K) of each of *levels*, models by bits, at *inputs*."""
    with torch.no_grad():
        return {bits: torch.cat([model(x) for x in inputs.split(_BATCH)]) for bits, model in levels.items()}


def of_decisions(logits: dict[int, torch.Tensor], classes: torch.Tensor, share: float) -> xr.Dataset:
    """
    Measure accuracy, flips, boundary band and pair order of each level along ``bits``, of which 32 is the float one.
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
    """Measure each level's displacement, median and 95th percentile, and logit error against *model*, the float one."""
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
    """Measure radius, displacement with and without scale, and normal variation in float64: median, 95th percentile."""
    doubles = {bits: networks.doubled(model) for bits, model in levels.items()}
    inputs, reference = inputs.double(), Remembered(doubles[FLOAT])
    rows = []
    for model in doubles.values():
        r = margins.radius(model, inputs)
        change = margins.local_change(reference, model, inputs)
        rows.append({
            "radius": ("quantile", np.quantile(r.radius, _QUANTILES)),
            "displacement": ("quantile", np.nanquantile(np.abs(change.displacement), _QUANTILES)),
            "signed_distance_change": ("quantile", np.nanquantile(np.abs(change.signed_distance_change), _QUANTILES)),
            "normal_variation": ("quantile", np.nanquantile(change.normal_variation, _QUANTILES)),
            "third_class": float(change.third_class.mean()),
            "flat_pairs": r.flat, "flat_margins": change.flat_candidate,
        })  # fmt: skip
    return along("bits", list(levels), rows).assign_coords(quantile=_QUANTILES)


def labels_of(levels: dict[int, nn.Module], plane: planes.Plane, nodes: tuple[int, ...]) -> dict[int, dict]:
    """Label the slice's grids, by nodes a side and by bits; a grid of nodes that the finest has is taken from it."""
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
    """Compare each level's slice with the float one along ``nodes`` and ``bits``; *inputs* are what it is fitted on."""
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
                "few_classes": not (counts[bits] >= 3).any() and len(np.unique(grid)) < 3,
            })  # fmt: skip
        per_grid.append(along("bits", list(grids), rows).assign(step_a=steps[0], step_b=steps[1]))
    out = xr.concat(per_grid, xr.Variable("nodes", list(labels)), coords="minimal", compat="override")
    shown = {"explained": ("axis", plane.explained), "outside": planes.fraction_outside(plane, inputs)}
    return out.assign(shown).assign_coords(axis=["a", "b"])


def of_boundaries(levels: dict[int, nn.Module], plane: planes.Plane) -> xr.Dataset:
    """
    Compare each level's boundary on a slice with the float one by lengths, which know no grid.

    Along ``bits`` and ``tau``: ``tolerance_jaccard`` of the exact boundaries of ReLU MLPs, and of others from logits
    interpolated between 41 nodes a side; ``coarse_tolerance_jaccard`` from 21, which tells how much of it is the
    grid's.
    """
    fine = _exact_boundaries(levels, plane)
    logits = {
        bits: exact_slices.logits_on(_float32(model), plane, _COARSE if fine else _FINE, batch_size=_BATCH)
        for bits, model in levels.items()
    }
    fine = fine or {bits: exact_slices.interpolated_segments(z, plane) for bits, z in logits.items()}
    stride = (len(logits[FLOAT]) - 1) // (_COARSE - 1)
    coarse = {bits: exact_slices.interpolated_segments(z[::stride, ::stride], plane) for bits, z in logits.items()}
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
    """Return each level's exact boundary as segments, or nothing if not all have one."""
    parts = [part for model in levels.values() for part in list(model.modules())[1:]]
    if not all(isinstance(part, (nn.Flatten, nn.Linear, nn.ReLU)) for part in parts):
        return {}
    try:
        return {bits: exact_slices.exact_segments(model, plane) for bits, model in levels.items()}
    except ValueError:  # too many units, or lines too close to each other
        return {}


def on_both_splits(levels: dict[int, nn.Module], split: splits.StoppingSplit, spec: Stopping) -> xr.Dataset:
    """Measure *levels*, by bits, along ``split``, calibration and held-out, each with the slice fitted on itself."""
    parts = []
    for inputs, classes in (split[2:4], split[4:6]):
        plane, logits = planes.pca_plane(inputs), logits_of(levels, inputs)
        parts.append(xr.merge([
            of_decisions(logits, classes, spec.share), of_shifts(levels[FLOAT], inputs, logits),
            of_slices(labels_of(levels, plane, spec.nodes), plane, inputs), of_boundaries(levels, plane),
        ]))  # fmt: skip
    return xr.concat(parts, xr.Variable("split", list(SPLITS)))


def usual_tolerance(distances: xr.DataArray) -> float:
    """
    Return the tolerance that tables show: the one that tells most at 4 bits, where half of the boundary has moved.

    *distances* is ``tolerance_jaccard``: of two splits the calibration one decides, of several roundings that to
    nearest, and of bits those next to 4.
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
    """Return *model* for float64 arrays. Its rounding to float32 is far below what interpolation leaves out."""
    layout = training.memory_layout(model)
    if any(parameter.ndim == 4 for parameter in model.parameters()):
        model = copy.deepcopy(model).to(memory_format=layout)

    def logits(points: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(points).float()
        return model(inputs.to(memory_format=layout) if inputs.ndim == 4 else inputs).double().numpy()

    return logits


def describe(dataset: xr.Dataset, units: str = UNITS) -> None:
    """Write long names and units into *dataset*; *units* are the model's input units."""
    _vocabulary.describe(dataset, LONG_NAMES, units)


SPLITS = ("calibration", "held-out")
# Input units. Chosen after a look at 4 bits, so that each data set has some that tell its levels apart; no claim is
# judged by them.
TOLERANCES = (0.02, 0.1, 0.5, 2.0, 10.0)
_FINE, _COARSE = 41, 21  # nodes a side; the second grid's are every other one of the first's
_BATCH = 125  # inputs through a classifier at once: what convolutions make of more leaves a core's cache
_QUANTILES = [0.5, 0.95]
# What the studies measure beside the library, and what they mean otherwise.
_OWN = {
    # decisions, and distances around inputs
    "accuracy": ("accuracy", RATE),
    "logit_error": ("squared logit difference from the float classifier, mean over the inputs", "1"),
    "target": ("true class", "class"), "model_bytes": ("size of the quantized model", "byte"),
    # slices
    "thick_boundary_jaccard": ("boundary-mask Jaccard distance of masks thickened by a cell on every side", "1"),
    "coarse_tolerance_jaccard":
        ("tolerance Jaccard distance from 21 nodes a side, interpolated", "fraction of the boundaries' length"),
    "exact_boundaries": ("tolerance Jaccard distance from exact boundaries, not from interpolated ones", "flag"),
    "four_class_cells": ("cells with four classes", "count"),
    "few_classes": ("fewer than three classes on the slice: no junction can be", "flag"),
    "explained": ("variance explained by the slice's axis", RATE),
    "score": ("test inputs projected onto the slice", UNITS), "axis": ("axis of the slice", "1"),
    "tau": ("tolerance", UNITS), "cell_a": ("cell centre along a", UNITS), "cell_b": ("cell centre along b", UNITS),
    # transitions
    "transition": ("from one bit-width to the next", "bit"), "t": ("interpolation between the two levels", "1"),
    "junction_steps": ("triple-junction cells at each interpolation step", "count"),
    "junction_union": ("triple-junction cells at some interpolation step", "count"),
    "junction_union_changed": ("of these, inside the changed region", "count"),
    "junction_map": ("triple-junction cells", "flag"),
    "changed_cells": ("cells that change at some interpolation step", "count"),
    "share_changed": ("fraction of the visited boundary cells that change in a step", RATE),
    "share_near": ("changed cells within one cell of a junction", RATE),
    "chance_boundary": ("the same fraction of all boundary cells: chance along the boundary", RATE),
    "chance_slice": ("the same fraction of all cells: chance anywhere on the slice", RATE),
    "rearranged_cells": ("boundary cells whose set of classes changes in a step, summed over steps", "count"),
    "share_rearranged_near": ("of these, within one cell of a junction", RATE),
    # roundings
    "method": ("how the weights were rounded", "1"),
    "changed_weights": ("weights not rounded to the nearest grid point", "fraction of those between two"),
    "undecided_gates": ("gates between 0.01 and 0.99 at the last step", "fraction of those between two"),
    "choosing_band_flips":
        ("low-margin boundary-band flips on calibration inputs not learned from", "fraction of the band"),
    "term_weight": ("weight of the objective's term, η", "1"),
    "fell_back": ("learned gates ended above nearest, which was taken", "flag"),
    # runs
    "bits": ("bit-width of the weights; 32 is the float classifier", "bit"),
    "split": ("calibration inputs, and held-out ones", "1"),
    "seed": ("seed of split, initial weights and batches", "1"),
    # exact boundaries
    "length": ("length of the quantized boundary on the slice", UNITS),
    "length_float": ("length of the float boundary on the slice", UNITS),
    "changed_area": ("changed area of the slice", RATE),
    "nearest": ("nearest distance between the two boundaries", UNITS),
    "mean_distance": ("mean distance between the two boundaries", UNITS),
    "mean_distance_error": ("bound on the error of the mean distance", UNITS),
    "hausdorff": ("Hausdorff distance between the two boundaries", UNITS),
    "junctions_float": ("junctions of the float boundary", "count"),
    "junctions_matched": ("junctions of both within the largest tolerance", "count"),
    "junctions_vanished": ("junctions of the float boundary alone", "count"),
    "junctions_appeared": ("junctions of the quantized boundary alone", "count"),
    "law_jaccard": ("boundary-mask Jaccard distance by the finite-scale law", "1"),
    "law_curve": ("boundary-mask Jaccard distance by the finite-scale law", "1"),
    "law_step": ("larger grid step", UNITS),
    "piece_displacement": ("displacement along the normal in the plane", UNITS),
    "piece_distance": ("distance to the quantized boundary in the plane", UNITS),
    "piece_first_order": ("first-order boundary displacement in the plane", UNITS),
    "piece_length": ("length of the piece", UNITS), "piece_angle": ("direction of the piece's normal", "rad"),
    "pooled_jaccard": ("boundary-mask Jaccard distance, cells pooled over places of the grid", "1"),
    "shared_cells": ("cells on both boundary masks", "count"),
    "covered_cells": ("cells on either boundary mask", "count"), "junction_cells": ("triple-junction cells", "count"),
    "mask_cells_float": ("cells on the float boundary mask", "count"),
    "place": ("place: of the grid, 0 being the slice's own, or of the points", "1"),
    # first order against the truth
    "where": ("which points", "1"), "points": ("points compared", "count"),
    "no_float": ("points without a float boundary within reach", RATE),
    "no_quantized": ("points with a float boundary and no quantized one within reach", RATE),
    "flat": ("points where the float margin has no gradient", RATE),
    "distance": ("distance to the float boundary along the normal, median", UNITS),
    "true": ("true displacement along the normal, median magnitude", UNITS),
    "ratio": ("first-order over true displacement, median of magnitudes", "1"),
    "error": ("error of the first-order displacement over the true one, median", "1"),
    "within": ("points where first order is within a tenth of the truth", RATE),
    "same_sign": ("points where first order has the sign of the truth", RATE),
    # the multiverse
    "stopping_loss": ("accuracy lost against float", RATE), "stopping_flip_rate": ("flip rate", RATE),
    "stopping_band_flip_rate": ("flip rate in the boundary band", "fraction of the band"),
    "stopping_jaccard": ("boundary-mask Jaccard distance on the part's own slice", "1"),
    "width": ("hidden units", "count"), "epochs": ("epochs of training", "count"),
    "scale": ("scale of the inputs", "1"),
    "scheme": ("step of the quantizer: narrow (2^b - 1 levels) or full (2^b)", "1"),
    "granularity": ("one step for each weight tensor, or for each output channel", "1"),
    "plane": ("what spans the slice, and its box", "1"), "mask": ("what is marked as boundary", "1"),
    "gradient": ("what the margin's change is divided by", "1"), "pair": ("the classes of the margin", "1"),
    "grid": ("nodes of the grid and steps of the interpolation", "1"), "count": ("what is counted as a junction", "1"),
    "summary": ("which junctions of a transition are counted", "1"), "kind": ("which cells reconfigure", "1"),
    "part": ("calibration inputs, and held-out ones", "1"), "share": ("inputs in the low-margin boundary band", RATE),
    "slice_bits": ("bit-width of the weights", "bit"), "shift_bits": ("bit-width of the weights", "bit"),
    "stopping_nodes": ("nodes a side of the slice grid", "count"),
    "accuracy_lost": ("accuracy lost against float", RATE),
    "trained": ("model, width and epochs of training", "1"),
    "step": ("one step for each weight tensor, batch norms in float or folded, or for each output channel", "1"),
    "extent": ("how much of the plane the slice shows", "1"),
    "thickness": ("cells by which a boundary mask is thickened on every side", "count"),
    "nearness": ("what the inputs of the boundary band are lowest in", "1"),
    "optimization_steps": ("steps of the optimized rounding", "count"),
    "examples": ("calibration inputs that the rounding learns from", "count"),
    **{
        f"nearest_{name}": (f"{says}, of rounding to nearest", unit)
        for name, (says, unit) in {
            **_vocabulary.LONG_NAMES, "accuracy_lost": ("accuracy lost against float", RATE)
        }.items()
        if name in ("accuracy_lost", "flip_rate", "band_flip_rate", "band_pair_order_flip_rate", "boundary_jaccard")
    },
    # vendors' quantizers and plans
    "network": ("data set and model of the published network", "1"),
    "quantizer": ("quantizer, its bits and its steps", "1"),
    "budget": ("bit-width whose bytes a plan may spend", "bit"), "ranking": ("how layers are ranked", "1"),
    "float_accuracy": ("accuracy of the float classifier", RATE), "float_bytes": ("size of the float model", "byte"),
    "stored": ("size of the file that the quantizer's own package writes", "byte"),
    "weight_bits": ("bits of the quantized weights", "bit"), "missing": ("why there is no such candidate", "1"),
    "flipped": ("whether the decision on a held-out input flips; -1: there is none", "flag"),
    "plan_missing": ("why there is no such plan", "1"), "plan_bits": ("bits by layer", "bit"),
    "plan_bytes": ("size of the model by the plan, packed", "byte"),
    "plan_flipped": ("whether the decision on a held-out input flips; -1: there is none", "flag"),
    "plan_flip_rate": ("flip rate, of a plan", RATE),
    "plan_right_to_wrong": ("flips from right to wrong, of a plan", RATE),
    "plan_band_flip_rate": ("low-margin boundary-band flips, of a plan", "fraction of the band"),
    "plan_accuracy": ("accuracy, of a plan", RATE),
    # what studies took
    "minutes": ("time", "min"), "cpu_minutes": ("processor time", "min"),
    "peak_mb": ("peak memory of the largest job; of all, of those that ran at a time", "MB"),
    "given": ("how many of these a function is given", "count"), "counts": ("what is counted", "name"),
    "seconds": ("processor time of a call on one thread", "s"),
    "exponent": ("exponent by which the time grows with what is given", "1"),
}  # fmt: skip
LONG_NAMES = _vocabulary.LONG_NAMES | _OWN
