"""Where boundaries lie in input space, for two classifiers of any kind: slices, and what needs gradients."""

import functools
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from .._checks import is_module, is_tensor, one_line, to_numpy
from ..metrics import boundary_distances, exact_slices, label_grids, margins, masks, planes
from . import adapters, batching, estimators
from .streaming import QUANTILES, quantiles

# Points at a time: what convolutions make of many leaves a core's cache, and takes twice the time and memory.
_VALUES, _LEAST = 1 << 18, 16
# Tolerances as fractions of the slice's longer side, which need no knowledge of the inputs' units.
TOLERANCES = (0.001, 0.01, 0.1)
_RADIUS_PAIRS = 20_000  # (sample, class) pairs that the radius is taken on: each costs a backward pass


def _or_note(measure: Callable) -> Callable:
    """Return what *measure* does, or in one line why it fails: decisions are measured by then, and must not be lost."""

    @functools.wraps(measure)
    def measured(*given, **options):
        try:
            return measure(*given, **options)
        except ValueError as error:
            return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        except Exception as error:  # between and beyond the data, and to gradients, a classifier may do anything
            return one_line(error)

    return measured


@_or_note
def slice_measures(
    models: Mapping, functions: Mapping, heads: Mapping, nodes: int, *, probabilities: bool = False
) -> xr.Dataset | str:
    """
    Measure the slice of each split at three resolutions, or say why there is none (nothing if *nodes* is 0).

    *functions* are those of *models*, of log-probabilities if *probabilities*.
    """
    if nodes == 0:
        return ""
    head = heads["heldout"]
    if isinstance(head, Mapping):
        return "the inputs are a dictionary, and a slice needs one array"
    arrays = [isinstance(part, np.ndarray) or is_tensor(part) for part in heads.values()]
    if not all(arrays) or any(to_numpy(part[:1]).dtype.kind != "f" for part in heads.values()):
        says = "the inputs are no array of floating-point numbers, between which a slice would lie"
        return f"{says}; .to_numpy() makes one of a data frame" if hasattr(head, "to_numpy") else says
    per_split = []
    for inputs in heads.values():
        plane = planes.pca_plane(inputs)
        size = max(_LEAST, min(2048, _VALUES // max(1, batching.width(inputs))))
        points = {key: _on_points(model, functions[key], inputs, probabilities) for key, model in models.items()}
        grids = {key: label_grids.label_grid(given, plane, nodes, batch_size=size) for key, given in points.items()}
        strides = [stride for stride in (1, 2, 4) if (nodes - 1) % stride == 0 and (nodes - 1) // stride >= 1]
        counts = [(nodes - 1) // s + 1 for s in strides]
        rows = [_slice({key: grid[::s, ::s] for key, grid in grids.items()}, plane, n) for s, n in zip(strides, counts)]
        part = xr.concat(rows, xr.Variable("nodes", counts))
        side = float((plane.high - plane.low).max())
        # Half the nodes a side: interpolated between them, a boundary is off by a fraction of the step's square.
        exact = functools.partial(exact_slices.interpolated_slice, plane=plane, n=counts[:2][-1], batch_size=size)
        segments = [exact(given).segments for given in points.values()]
        beyond = boundary_distances.tolerance_jaccard(*segments, [tolerance * side for tolerance in TOLERANCES])
        outside = planes.fraction_outside(plane, inputs)
        per_split.append(part.assign(tolerance_jaccard=("tau", beyond), side=side, outside=outside))
    a, b = plane.nodes(nodes)
    shown = xr.Dataset(
        {"labels": (("model", "b", "a"), np.stack(list(grids.values())))}, {"model": list(grids), "a": a, "b": b}
    )
    out = xr.concat(per_split, xr.Variable("split", list(heads))).assign_coords(tau=list(TOLERANCES))
    return out.merge(shown).assign(slice_samples=("split", [len(inputs) for inputs in heads.values()]))


def _on_points(model, function, inputs, probabilities: bool) -> Callable:
    """Return a classifier as a slice's grid wants it: points in float64 to logits, both NumPy's."""
    if is_module(model) or is_tensor(inputs):
        import torch
    twin = adapters.double(model, inputs[:64])
    if twin is not None and all(value.device.type == "cpu" for value in twin.parameters()):
        if type(twin) is torch.nn.Sequential and not probabilities:
            return twin  # its first layer is folded onto the plane
        return lambda points: to_numpy(_logits(twin(torch.from_numpy(points)), probabilities))
    if is_tensor(inputs):
        return lambda points: to_numpy(function(torch.from_numpy(points).to(inputs)))
    return lambda points: to_numpy(function(points.astype(inputs.dtype)))


def _logits(output, probabilities: bool):
    """Return the logits in an output as the functions of a stream do, with gradients."""
    z = adapters.opened(output)
    return z.double().clamp_min(estimators.TINY).log() if probabilities else z


def _slice(grids: Mapping, plane: planes.Plane, nodes: int) -> xr.Dataset:
    counts = {key: masks.corner_classes(grid) for key, grid in grids.items()}
    jaccard = masks.boundary_jaccard(*(count > 1 for count in counts.values()))
    steps = plane.steps(nodes)
    return xr.Dataset({
        "boundary_jaccard": jaccard.distance, "no_boundary": jaccard.both_empty,
        "effective_displacement": masks.effective_displacement(jaccard.distance, steps),
        "grid_change": label_grids.grid_change(*grids.values()),
        "junctions": ("model", [int((count >= 3).sum()) for count in counts.values()]),
        "step_a": steps[0], "step_b": steps[1],
    }).assign_coords(model=list(grids))  # fmt: skip


@_or_note
def gradient_measures(
    models: Mapping, functions: Mapping, head, wanted: int, classes: int, *, radii: bool = True,
    probabilities: bool = False, known: dict | None = None,
) -> xr.Dataset | str:  # fmt: skip
    """
    Measure radius, displacement, distance change and normal variation on *wanted* held-out samples, or say why not.

    *functions* are those of *models*, of log-probabilities if *probabilities*. What is found of the reference is kept
    in *known* for other candidates, which are then :class:`bqcore.quantizers.mixed_precision.Mixed` of it.
    """
    if wanted == 0:
        return ""
    if isinstance(head, Mapping):
        return "the inputs are a dictionary, and gradients are taken of one array"
    inputs, kept = head[:wanted], {} if known is None else known
    if "reference" not in kept:
        kept["reference"] = _differentiable(models["reference"], inputs, probabilities)
    if kept["reference"] is None:
        return "the reference has no gradient with respect to these inputs"
    reference, x, twin = kept["reference"]
    candidate = _differentiable(models["candidate"], inputs, probabilities, twin if known is not None else None)
    if known is not None and "remembered" not in known:
        from ..metrics._gradients import Remembered

        known["remembered"] = Remembered(reference)
    after = candidate[0] if candidate else _constant(functions["candidate"], inputs)
    few, size = x[: max(1, _RADIUS_PAIRS // classes)], max(_LEAST, min(4096, _VALUES // batching.width(x)))
    change = margins.local_change(kept.get("remembered", reference), after, x, batch_size=size)
    given = {"reference": reference, **({"candidate": candidate[0]} if candidate else {})} if radii else {}
    lengths = {key: margins.radius(logits, few, batch_size=size) for key, logits in given.items()}
    none = margins.Radius(*[np.array([])] * 3, -1)
    return xr.Dataset(
        {
            "radius": (("model", "quantile"), [quantiles(lengths.get(key, none).radius) for key in models]),
            "displacement": ("quantile", quantiles(np.abs(change.displacement))),
            "signed_distance_change": ("quantile", quantiles(np.abs(change.signed_distance_change))),
            "normal_variation": ("quantile", quantiles(change.normal_variation)),
            "third_class": float(change.third_class.mean()),
            "flat_pairs": ("model", [lengths.get(key, none).flat for key in models]),
            "flat_margins": ("model", [change.flat_reference, change.flat_candidate if candidate else -1]),
            "gradient_samples": len(x), "radius_samples": len(few),
        },
        {"model": list(models), "quantile": QUANTILES},
    )  # fmt: skip


def _differentiable(model, inputs, probabilities: bool, twin=None):
    """
    Return a classifier, its inputs as tensors, and its float64 twin, or None if its logits have no gradients there.

    A model whose weights stand in the place of another's takes the *twin* of that one.
    """
    x = adapters.tensors(inputs, model) if is_module(model) else inputs
    if not is_tensor(x) or not x.is_floating_point() or x.ndim < 2 or not callable(model):
        return None
    import torch

    twin = adapters.double(model, inputs[:64]) if twin is None else model.on(twin)
    call, own = (model, x.dtype) if twin is None else (twin, torch.float64)
    x = x.double() if x.device.type == "cpu" else x.float()

    def logits(batch):
        # The batch is the reference's, and a candidate may lie on another device.
        return _logits(call(batch.to(x.device, own).clone()), probabilities).to(batch)  # it may work in place

    leaf = x[:2].detach().requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kernels without gradients warn before they fail
            torch.autograd.grad(logits(leaf).sum(), leaf)
    except Exception:
        return None  # whatever a foreign classifier says to a gradient: it has none, which the audit notes
    return logits, x, twin


def _constant(function, inputs):
    """Return a classifier without gradients as one whose gradient is zero, so that its margins can be compared."""
    import torch

    def logits(x):
        given = x.detach().to(inputs) if is_tensor(inputs) else to_numpy(x).astype(inputs.dtype)
        z = torch.from_numpy(np.array(to_numpy(function(given)))).to(x)
        return z + 0.0 * x.flatten(1).sum(1, keepdim=True)

    return logits
