"""
Exact slices of ReLU networks: the decision boundary on a plane as segments, true junctions, exact areas.

On a plane every unit's pre-activation is affine between the zero lines of the units before it. So the box is cut into
convex cells, unit by unit and layer by layer, and then by the logits: max(z_0, …, z_k) = m + ReLU(z_k − m), m being the
maximum of those before, so that the upper envelope is K − 1 more cuts. Cells share their corners; each corner carries
the values of one layer, which are linear along every edge. Nothing depends on a grid, and everything is float64.

Networks need torch; :func:`interpolate`, of logits that are there already, does not.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .._checks import check_finite, check_integer, check_logits, is_module, needed, without_gradients
from . import _mesh
from .planes import Plane

# A value counts as 0 below this fraction of the terms that it is the sum of. Rounding leaves 1e-15 of them at a corner
# that lies on a line; a margin may be wrong by as much as is cut off here.
_ROUNDING = 1e-13
# Classes of torch.nn.
_AFFINE = ("Linear", "Conv1d", "Conv2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "Flatten",
           "Unflatten", "Identity")  # fmt: skip
_AFFINE_IN_EVAL = ("BatchNorm1d", "BatchNorm2d", "Dropout", "Dropout1d", "Dropout2d")


class ExactSlice(NamedTuple):
    """
    Decision regions of a piecewise linear classifier on a plane, and the boundary between them; lengths in input units.

    ``polygons`` are convex pieces of the regions, padded by repeating the first corner; they fill the box and do not
    overlap.
    """

    segments: np.ndarray  # (M, 2, 2) ends of the boundary's segments in slice coordinates
    pairs: np.ndarray  # (M, 2) classes on the left and the right of each segment, the smaller one on the left
    junctions: np.ndarray  # (J, 2) points where three regions or more meet
    junction_classes: np.ndarray  # (J, 3) their classes, ascending; more columns, filled with −1, if more than 3 meet
    areas: np.ndarray  # (K,) area of each class
    cells: int  # convex cells on each of which the network is linear and one class wins
    polygons: np.ndarray  # (P, W, 2) corners, counter-clockwise
    classes: np.ndarray  # (P,) class of each polygon


def exact_slice(model, plane: Plane, *, most_cells: int = 1_000_000) -> ExactSlice:
    """
    Return the exact decision boundary, junctions and areas of a ReLU network on a plane.

    Parameters
    ----------
    model : torch.nn.Sequential in eval mode
        ReLU between layers that are affine: linear, convolution, average pooling, batch normalization, flattening.
        Its logits are compared as they come, the first class winning ties, also on a whole region.
    plane : Plane
        The slice; its box is cut, nothing outside of it is looked at.
    most_cells : int
        Convex cells to cut the box into at most; time and memory grow with them.

    Returns
    -------
    ExactSlice
        Exact up to rounding: the margin on the segments is below 1e-12 of the terms that the logits are sums of,
        through all layers, and the areas add up to the box within 1e-12 of it. Lengths are in input units.

    Raises
    ------
    ValueError
        If a layer is neither affine nor ReLU (it is named), values are not finite, the box is empty, there are more
        than *most_cells*, or lines lie so close that float64 cannot tell them apart.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import bqcore as bq
    >>> line = torch.nn.Linear(2, 2)
    >>> _ = line.load_state_dict({"weight": torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "bias": torch.zeros(2)})
    >>> box = bq.Plane(np.zeros(2), np.eye(2), np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2) / 2, (2,))
    >>> exact = bq.exact_slice(torch.nn.Sequential(line), box)
    >>> exact.segments.tolist(), exact.areas.tolist()
    ([[[1.0, -1.0], [-1.0, 1.0]]], [2.0, 2.0])
    """
    mesh = _mesh.box(plane, check_integer("Most cells", most_cells, 1))
    return _result(mesh, plane, _follow(mesh, model, plane, 0))


def exact_segments(model, plane: Plane) -> np.ndarray:
    """Return the segments of :func:`exact_slice` alone, in less time."""
    mesh = _mesh.box(plane, 1_000_000)
    _follow(mesh, model, plane, 0)
    return _segments(mesh, plane)


def interpolated_slice(classifier: Callable, plane: Plane, n: int, *, batch_size: int = 2048) -> ExactSlice:
    """
    Return boundary, junctions and areas of any classifier from its logits at n × n nodes, interpolated between them.

    Each grid cell is halved into two triangles, on which the logits are taken to be affine; from there on everything is
    as in :func:`exact_slice`. For classifiers that are not piecewise linear, or have too many units for it. The
    boundary's error falls with the square of the grid step, where a mask's is the step itself.

    Parameters
    ----------
    classifier : torch module in eval mode, or callable
        Inputs (N, ...) to logits (N, K). A module is evaluated in a float64 copy, a callable gets float64 arrays.
    plane : Plane
    n : int
        Nodes a side, at least 2.
    batch_size : int
        Nodes that go through the classifier at once.

    Returns
    -------
    ExactSlice
        Of the interpolated logits.

    Raises
    ------
    ValueError
        If the logits are not finite, or not one row a node, or the box is empty.
    """
    return interpolate(logits_on(classifier, plane, n, batch_size=batch_size), plane)


def logits_on(classifier: Callable, plane: Plane, n: int, *, batch_size: int = 2048) -> np.ndarray:
    """Return the logits at n × n nodes, float64 (n, n, K), rows along b; all else as in :func:`interpolated_slice`."""
    n, batch_size = check_integer("Nodes a side", n, 2), check_integer("Batch size", batch_size, 1)
    _mesh.box(plane, 1)
    xy = _nodes(plane, n)
    call = _for_arrays(classifier) if is_module(classifier) else classifier
    parts = []
    with without_gradients():
        for start in range(0, len(xy), batch_size):
            part = xy[start : start + batch_size]
            inputs = plane.points(part[:, 0], part[:, 1]).reshape(-1, *plane.shape)
            parts.append(check_logits(call(inputs), "Logits on the slice", start))
            if len(parts[-1]) != len(part):
                raise ValueError(
                    f"The classifier gave {len(parts[-1])} rows for {len(part)} nodes: it must give one row of logits "
                    "a node."
                )
    return np.concatenate(parts).astype(np.float64).reshape(n, n, -1)


def interpolate(logits: np.ndarray, plane: Plane) -> ExactSlice:
    """
    Return :func:`interpolated_slice` of logits (n, n, K) at the nodes of *plane*, rows along b.

    Examples
    --------
    >>> import numpy as np
    >>> plane = Plane(np.zeros(2), np.eye(2), np.zeros(2), np.ones(2), np.ones(2) / 2, (2,))
    >>> a, b = np.meshgrid(*plane.nodes(3))
    >>> interpolate(np.stack([a, b], axis=2), plane).areas
    array([0.5, 0.5])
    """
    return _result(_interpolated(logits, plane), plane, logits.shape[2])


def interpolated_segments(logits: np.ndarray, plane: Plane) -> np.ndarray:
    """Return the segments of :func:`interpolate` alone, in less time."""
    return _segments(_interpolated(logits, plane), plane)


def _interpolated(logits: np.ndarray, plane: Plane) -> _mesh.Mesh:
    n = len(logits)
    xy, logits = _nodes(plane, n), logits.reshape(n * n, -1).copy()  # what counts as 0 becomes 0
    corner = np.arange(n * n).reshape(n, n)
    p, q, r, s = (x.ravel() for x in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    rings = np.concatenate([np.stack([p, q, r, p]), np.stack([p, r, s, p])], axis=1)
    cells = rings.shape[1]
    mesh = _mesh.Mesh(xy, rings, np.full(cells, 3), np.zeros((2, cells), np.int16), 1 << 62)
    mesh.set_values(logits, np.full(logits.shape[1], _ROUNDING * np.abs(logits).max()))
    _mesh.envelope(mesh, 0)
    return mesh


def _for_arrays(module) -> Callable:
    """Return a float64 copy of a torch module that takes arrays."""
    import torch

    double = copy.deepcopy(module).double()
    return lambda inputs: double(torch.from_numpy(inputs))


def _nodes(plane: Plane, n: int) -> np.ndarray:
    """Return the slice coordinates (n · n, 2) of the nodes, rows along b."""
    return np.stack([x.ravel() for x in np.meshgrid(*plane.nodes(n))], axis=1)


def _segments(mesh: _mesh.Mesh, plane: Plane) -> np.ndarray:
    edges, _ = _mesh.boundary(mesh, plane, mesh.labels[0, : mesh.cells])
    return mesh.values[:, :2][edges]


def _result(mesh: _mesh.Mesh, plane: Plane, classes: int) -> ExactSlice:
    """Read boundary, junctions and areas off a mesh that is cut and labelled, and merge cells of one class."""
    winner = mesh.labels[0, : mesh.cells]
    edges, pairs = _mesh.boundary(mesh, plane, winner)
    areas = np.bincount(winner, mesh.areas(), minlength=classes)
    points, meeting = _mesh.junctions(edges, pairs)
    xy, cells = mesh.values[:, :2], mesh.cells
    segments, junctions = xy[edges], xy[points]
    mesh.merge()
    rings = mesh.rings[: mesh.corners.max(initial=0), : mesh.cells].T
    return ExactSlice(
        segments, pairs, junctions, meeting, areas, cells, mesh.values[rings, :2], mesh.labels[0, : mesh.cells].copy()
    )


def shared_areas(first, second, plane: Plane, *, most_cells: int = 1_000_000) -> np.ndarray:
    """
    Return the exact area on which *first* decides for class c and *second* for class d, for every c and d.

    What lies off the diagonal is the changed area; :func:`changed_area` adds it up.

    Parameters
    ----------
    first, second, plane, most_cells
        As in :func:`exact_slice`; the two networks need not share a width or depth, only the plane and the classes.

    Returns
    -------
    areas : float array, shape (K, K)

    Raises
    ------
    ValueError
        As :func:`exact_slice`, or if the networks differ in K.
    """
    mesh = _mesh.box(plane, check_integer("Most cells", most_cells, 1))
    classes = _follow(mesh, first, plane, 0)
    mesh.merge()  # only the first boundary matters from here on, and far fewer cells show it
    others = _follow(mesh, second, plane, 1)
    if others != classes:
        raise ValueError(f"The first network has K = {classes} classes and the second {others}: compare equal tasks.")
    labels = mesh.labels[:, : mesh.cells].astype(np.intp)
    return np.bincount(labels[0] * classes + labels[1], mesh.areas(), classes**2).reshape(classes, classes)


def changed_area(areas: np.ndarray) -> float:
    """
    Return the changed area, as a fraction of the box, from :func:`shared_areas`: what grid prediction change tends to.

    Examples
    --------
    >>> import numpy as np
    >>> changed_area(np.array([[3.0, 0.5], [0.5, 0.0]]))
    0.25
    """
    areas = np.asarray(areas, dtype=np.float64)
    return float(areas[~np.eye(len(areas), dtype=bool)].sum() / areas.sum())


def _follow(mesh: _mesh.Mesh, model, plane: Plane, row: int) -> int:
    """Cut *mesh* by the units and the logits of *model*, write the winning classes into a row of labels; return K."""
    torch = needed("torch", "An exact slice of a network")
    xy = mesh.values[: mesh.vertices, :2]
    values, shape = plane.points(xy[:, 0], xy[:, 1]), plane.shape
    stages = list(_stages(model))
    for depth, (affine, magnitude) in enumerate(stages):
        hidden = torch.from_numpy(values).reshape(-1, *shape)
        try:
            with torch.inference_mode():
                result = affine(hidden)
                scale = magnitude(torch.maximum(hidden.amax(0, keepdim=True), -hidden.amin(0, keepdim=True)))
        except RuntimeError as error:
            raise ValueError(f"The classifier does not take inputs of shape {plane.shape}: {error}") from None
        shape, values = result.shape[1:], result.flatten(1).numpy()
        check_finite("Values on the slice", values, "the model diverged there", ("corner", "unit"))
        mesh.set_values(values, _ROUNDING * scale.flatten().numpy())
        if depth < len(stages) - 1:
            # A unit whose sign is the same at all corners cuts nothing.
            for unit in np.flatnonzero((values.min(axis=0) < 0) & (values.max(axis=0) > 0)):
                mesh.cut(2 + unit)
            values = np.maximum(mesh.values[: mesh.vertices, 2:], 0.0)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"The classifier gives shape {tuple(shape)} for an input: expected K >= 2 logits.")
    _mesh.envelope(mesh, row)
    return shape[0]


def _stages(model) -> Iterator[tuple[Callable, Callable]]:
    """Return, from ReLU to ReLU, the affine map and that of magnitudes, whose result bounds every sum's terms."""
    from torch import nn

    affine, magnitude = nn.Sequential(), nn.Sequential()
    for name, layer in _layers(model, ""):
        if type(layer) is nn.ReLU:
            yield affine, magnitude
            affine, magnitude = nn.Sequential(), nn.Sequential()
            continue
        kind = type(layer).__name__
        own = type(layer) is getattr(nn, kind, None)  # a subclass may do more
        if own and kind in _AFFINE_IN_EVAL and (layer.training or getattr(layer, "running_mean", 0) is None):
            raise ValueError(f"Layer {name!r} ({kind}) depends on the batch or on chance: put the model in eval mode.")
        if not own or kind not in _AFFINE + _AFFINE_IN_EVAL:
            raise ValueError(
                f"Layer {name!r} ({kind}) is neither affine nor ReLU: exact slices follow linear, convolution, average "
                "pooling, batch normalization and flattening layers in an nn.Sequential."
            )
        affine.append(_changed(layer, lambda name, values: values))
        magnitude.append(_changed(layer, lambda name, values: values.abs() * (-1 if name == "running_mean" else 1)))
    yield affine, magnitude


def _layers(model, prefix: str) -> Iterator[tuple]:
    """Return the names and the layers of a network whose parts may be networks themselves."""
    from torch import nn

    if model._forward_hooks or model._forward_pre_hooks:
        raise ValueError(f"Layer {prefix or 'model'!r} has a hook, which may do anything: remove it.")
    if type(model) is not nn.Sequential:
        yield prefix or "model", model
        return
    for name, layer in model._modules.items():  # named_children() would leave out the second place of a shared layer
        yield from _layers(layer, f"{prefix}.{name}" if prefix else name)


def _changed(layer, change: Callable):
    """Return a copy of a layer with what *change* makes of its float64 tensors; deepcopy takes ten times as long."""
    out = copy.copy(layer)
    for kind in ("_parameters", "_buffers"):
        own = {name: change(name, t.detach().double()) for name, t in getattr(layer, kind).items() if t is not None}
        setattr(out, kind, getattr(layer, kind) | own)
    return out
