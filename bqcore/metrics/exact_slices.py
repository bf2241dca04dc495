"""
Exact slices of ReLU networks: the decision boundary on a plane as segments, true junctions, exact areas.

On a plane every unit's pre-activation is affine between the zero lines of the units before it. So the box is cut into
convex cells, unit by unit and layer by layer, and then by the logits: max(z_0, …, z_k) = m + ReLU(z_k − m), m being the
maximum of those before, so that the upper envelope is K − 1 more cuts. Cells share their corners; each corner carries
the values of one layer, which are linear along every edge. Nothing depends on a grid, and everything is float64.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .._checks import check_finite, check_integer, check_logits
from .planes import Plane

# A value counts as 0 below this share of the terms that it is the sum of. Rounding leaves 1e-15 of them at a corner
# that lies on a line; a margin may be wrong by as much as is cut off here.
_ROUNDING = 1e-13
_MOST_VALUES = 1 << 28  # numbers at the corners, 2 GB: convolutions have many units, and small boxes suit them
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
           nn.Flatten, nn.Unflatten, nn.Identity)  # fmt: skip
_AFFINE_IN_EVAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


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


def exact_slice(model: nn.Sequential, plane: Plane, *, most_cells: int = 1_000_000) -> ExactSlice:
    """
    Give the exact decision boundary, junctions and areas of *model* on *plane*.

    Parameters
    ----------
    model : nn.Sequential in eval mode
        ReLU between layers that are affine: linear, convolution, average pooling, batch normalization, flattening.
        Its logits are compared as they come, the first class winning ties, also on a whole region.
    plane : Plane
        The slice; its box is cut, nothing outside of it is looked at.
    most_cells : int
        Give up beyond so many cells; time and memory grow with them.

    Returns
    -------
    ExactSlice
        Exact up to rounding: the margin on the segments is below 1e-12 of the terms that the logits are sums of,
        through all layers, and the areas add up to the box within 1e-12 of it.

    Raises
    ------
    ValueError
        If a layer is neither affine nor ReLU (it is named), values are not finite, the box is empty, there are more
        than *most_cells*, or lines lie so close that float64 cannot tell them apart.

    Examples
    --------
    >>> line = nn.Linear(2, 2)
    >>> _ = line.load_state_dict({"weight": torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "bias": torch.zeros(2)})
    >>> unit = Plane(np.zeros(2), np.eye(2), np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2) / 2, (2,))
    >>> exact = exact_slice(nn.Sequential(line), unit)
    >>> exact.segments.tolist(), exact.areas.tolist()
    ([[[1.0, -1.0], [-1.0, 1.0]]], [2.0, 2.0])
    """
    mesh = _box(plane, check_integer("Most cells", most_cells, 1))
    return _result(mesh, plane, _follow(mesh, model, plane, 0))


def interpolated_slice(classifier: Callable, plane: Plane, n: int, *, batch_size: int = 2048) -> ExactSlice:
    """
    Give boundary, junctions and areas of any classifier from its logits at n × n nodes, interpolated between them.

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
    """Give the logits at n × n nodes, float64 (n, n, K), rows along b; all else as in :func:`interpolated_slice`."""
    n, batch_size = check_integer("Nodes a side", n, 2), check_integer("Batch size", batch_size, 1)
    _box(plane, 1)
    xy = _nodes(plane, n)
    module = copy.deepcopy(classifier).double() if isinstance(classifier, nn.Module) else None
    parts = []
    with torch.inference_mode():
        for start in range(0, len(xy), batch_size):
            part = xy[start : start + batch_size]
            inputs = plane.points(part[:, 0], part[:, 1]).reshape(-1, *plane.shape)
            logits = classifier(inputs) if module is None else module(torch.from_numpy(inputs))
            parts.append(check_logits(logits, "Logits on the slice", start))
            if len(parts[-1]) != len(part):
                raise ValueError(
                    f"The classifier gave {len(parts[-1])} rows for {len(part)} nodes: it must give one row of logits "
                    "a node."
                )
    return np.concatenate(parts).astype(np.float64).reshape(n, n, -1)


def interpolate(logits: np.ndarray, plane: Plane) -> ExactSlice:
    """Give :func:`interpolated_slice` of *logits* (n, n, K) as :func:`logits_on` gives them."""
    n = len(logits)
    xy, logits = _nodes(plane, n), logits.reshape(n * n, -1)
    corner = np.arange(n * n).reshape(n, n)
    p, q, r, s = (x.ravel() for x in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    rings = np.concatenate([np.stack([p, q, r, p]), np.stack([p, r, s, p])], axis=1)
    cells = rings.shape[1]
    mesh = _Mesh(xy, rings, np.full(cells, 3), np.zeros((2, cells), np.int16), 1 << 62)
    mesh.set_values(logits, np.full(logits.shape[1], _ROUNDING * np.abs(logits).max()))
    _envelope(mesh, 0)
    return _result(mesh, plane, logits.shape[1])


def _nodes(plane: Plane, n: int) -> np.ndarray:
    return np.stack([x.ravel() for x in np.meshgrid(*plane.nodes(n))], axis=1)


def _result(mesh: "_Mesh", plane: Plane, classes: int) -> ExactSlice:
    winner = mesh.labels[0, : mesh.cells]
    edges, pairs = _boundary(mesh, plane, winner)
    areas = np.bincount(winner, mesh.areas(), minlength=classes)
    points, meeting = _junctions(edges, pairs)
    xy, cells = mesh.values[:, :2], mesh.cells
    segments, junctions = xy[edges], xy[points]
    mesh.merge()
    rings = mesh.rings[: mesh.corners.max(initial=0), : mesh.cells].T
    return ExactSlice(
        segments, pairs, junctions, meeting, areas, cells, mesh.values[rings, :2], mesh.labels[0, : mesh.cells].copy()
    )


def shared_areas(
    first: nn.Sequential, second: nn.Sequential, plane: Plane, *, most_cells: int = 1_000_000
) -> np.ndarray:
    """
    Give the exact area on which *first* decides for class c and *second* for class d, for every c and d.

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
    mesh = _box(plane, check_integer("Most cells", most_cells, 1))
    classes = _follow(mesh, first, plane, 0)
    mesh.merge()  # only the first boundary matters from here on, and far fewer cells show it
    others = _follow(mesh, second, plane, 1)
    if others != classes:
        raise ValueError(f"The first network has K = {classes} classes and the second {others}: compare equal tasks.")
    labels = mesh.labels[:, : mesh.cells].astype(np.intp)
    return np.bincount(labels[0] * classes + labels[1], mesh.areas(), classes**2).reshape(classes, classes)


def changed_area(areas: np.ndarray) -> float:
    """
    Give the changed area, as a share of the box, from :func:`shared_areas`: what grid prediction change tends to.

    Examples
    --------
    >>> changed_area(np.array([[3.0, 0.5], [0.5, 0.0]]))
    0.25
    """
    areas = np.asarray(areas, dtype=np.float64)
    return float(areas[~np.eye(len(areas), dtype=bool)].sum() / areas.sum())


class _Mesh:
    """
    Convex cells that share corners.

    A ring lists a cell's corners counter-clockwise down a column, then repeats the first one to the end of the column.
    Rows of ``values`` are corners: two coordinates, then the values of one layer.
    """

    def __init__(self, values: np.ndarray, rings: np.ndarray, corners: np.ndarray, labels: np.ndarray, most: int):
        self.values, self.rings, self.corners, self.labels, self.most = values, rings, corners, labels, most
        self.vertices, self.cells = len(values), len(corners)
        self.tolerance = np.zeros(values.shape[1])
        self.history = []  # (cells cut, first cell appended, their rings and corners before)

    def set_values(self, values: np.ndarray, tolerance: np.ndarray) -> None:
        """Give every corner the *values* of a layer, 0 where they are within *tolerance* of it."""
        values[np.abs(values) <= tolerance] = 0.0
        self.values = np.concatenate([self.values[: self.vertices, :2], values], axis=1)
        self.tolerance = np.concatenate([[0.0, 0.0], tolerance])

    def cut(self, column: int) -> np.ndarray:
        """Cut the cells along the zero line of a value; say which had a positive corner (that part keeps the place)."""
        sign = np.sign(self.values[: self.vertices, column]).astype(np.int8)
        around = sign.take(self.rings[:, : self.cells], mode="clip")
        positive = around.max(axis=0) > 0
        cut = np.flatnonzero(positive & (around.min(axis=0) < 0))
        if len(cut):
            self._cut(cut, column, sign)
        return positive

    def _cut(self, cut: np.ndarray, column: int, sign: np.ndarray) -> None:
        ring, count = self.rings[:, cut].T, self.corners[cut, None]
        self.history.append((cut, self.cells, ring, count[:, 0]))
        slot = np.arange(ring.shape[1])
        above = (sign[ring] > 0) & (slot < count)
        entry = above & ~np.take_along_axis(above, (slot - 1) % count, axis=1)
        if (entry.sum(axis=1) > 1).any():
            raise ValueError(
                "Lines on the slice lie closer than float64 can tell apart: move the plane or scale the weights."
            )
        # Turn each ring so that its positive corners come first: slots 0 to plus − 1.
        ring = np.take_along_axis(ring, (slot + entry.argmax(axis=1)[:, None]) % count, axis=1)
        plus, row, count = above.sum(axis=1), np.arange(len(cut)), count[:, 0]
        after, before = ring[row, plus], ring[row, count - 1]
        leave, enter = np.split(
            self._crossings(np.r_[ring[row, plus - 1], ring[:, 0]], np.r_[after, before], column, sign), 2
        )
        skip = plus + (after == leave) - 1
        below = count - plus - (after == leave) - (before == enter)  # corners besides the two on the line
        self._reserve(len(cut), max(plus.max(), below.max()) + 3)
        slot = np.arange(len(self.rings))[:, None]
        turned = np.concatenate([ring, np.repeat(ring[:, :1], len(self.rings) - ring.shape[1], axis=1)], axis=1)
        closing = np.where(slot == plus, leave, np.where(slot == plus + 1, enter, ring[:, 0]))
        positive = np.where(slot < plus, turned.T, closing)
        rest = turned[row, np.clip(slot + skip, 0, turned.shape[1] - 1)]
        negative = np.where((slot > 0) & (slot <= below), rest, np.where(slot == below + 1, enter, leave))
        new = slice(self.cells, self.cells + len(cut))
        self.rings[:, cut], self.corners[cut] = positive, plus + 2
        self.rings[:, new], self.corners[new], self.labels[:, new] = negative, below + 2, self.labels[:, cut]
        self.cells += len(cut)

    def _crossings(self, inside: np.ndarray, outside: np.ndarray, column: int, sign: np.ndarray) -> np.ndarray:
        """Give the corner on the line for edges from a positive corner: the other end if it is on it, or a new one."""
        found, low, high = outside.copy(), np.minimum(inside, outside), np.maximum(inside, outside)
        crossed = sign[outside] < 0
        # The two cells beside an edge get one and the same corner.
        edge, which = np.unique(low[crossed] * self.vertices + high[crossed], return_inverse=True)
        low, high = self.values[edge // self.vertices], self.values[edge % self.vertices]
        share = low[:, column] / (low[:, column] - high[:, column])
        rows = low + share[:, None] * (high - low)
        rows[:, column] = 0.0
        rows[np.abs(rows) <= self.tolerance] = 0.0
        found[crossed] = self.vertices + which
        if self.vertices + len(rows) > len(self.values):
            self.values = _longer(self.values, self.vertices + len(rows), 0)
        self.values[self.vertices : self.vertices + len(rows)] = rows
        self.vertices += len(rows)
        return found

    def _reserve(self, cells: int, corners: int) -> None:
        if self.cells + cells > self.most:
            raise ValueError(f"The slice has more than {self.most} cells: raise most_cells or shrink the box.")
        if self.vertices * self.values.shape[1] > _MOST_VALUES:
            raise ValueError(
                f"{self.values.shape[1] - 2} units of a layer at {self.vertices} corners of cells take over 2 GB: "
                "shrink the box or the network."
            )
        if corners > len(self.rings):
            more = np.broadcast_to(self.rings[:1], (corners - len(self.rings), self.rings.shape[1]))
            self.rings = np.concatenate([self.rings, more])
        if self.cells + cells > self.rings.shape[1]:
            self.rings = _longer(self.rings, self.cells + cells, 1)
            self.labels = _longer(self.labels, self.cells + cells, 1)
            self.corners = _longer(self.corners, self.cells + cells, 0)

    def areas(self) -> np.ndarray:
        """Give the area of each cell."""
        xy = self.values[: self.vertices, :2]
        corner = (xy - xy[0])[self.rings[:, : self.cells]]
        x, y = corner[..., 0] - corner[0, :, 0], corner[..., 1] - corner[0, :, 1]
        return 0.5 * (x[:-1] * y[1:] - x[1:] * y[:-1]).sum(axis=0)

    def merge(self) -> None:
        """Undo, from the last one on, every cut whose two parts are whole and have equal labels."""
        whole, kept = np.ones((2, self.cells), dtype=bool)
        for cut, start, rings, corners in reversed(self.history):
            new = np.arange(start, start + len(cut))
            same = whole[cut] & whole[new] & (self.labels[:, cut] == self.labels[:, new]).all(axis=0)
            back = cut[same]
            self.rings[:, back] = rings[same, 0]
            self.rings[: rings.shape[1], back] = rings[same].T
            self.corners[back] = corners[same]
            kept[new[same]] = False
            whole[cut[~same]] = False
        kept = np.flatnonzero(kept)
        used, rings = np.unique(self.rings[:, kept], return_inverse=True)
        self.rings, self.corners, self.labels = rings.reshape(-1, len(kept)), self.corners[kept], self.labels[:, kept]
        self.values, self.vertices, self.cells, self.history = self.values[used], len(used), len(kept), []


def _longer(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Copy *array* into one at least twice as long along *axis*."""
    shape = list(array.shape)
    shape[axis] = max(length, 2 * shape[axis])
    out = np.zeros(shape, dtype=array.dtype)
    out[tuple(map(slice, array.shape))] = array
    return out


def _box(plane: Plane, most: int) -> _Mesh:
    (left, bottom), (right, top) = np.asarray(plane.low, float), np.asarray(plane.high, float)
    if not (right > left and top > bottom and np.isfinite([left, bottom, right, top]).all()):
        raise ValueError(f"The box runs from {(left, bottom)} to {(right, top)}: give one of finite, positive area.")
    corners = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
    return _Mesh(corners, np.array([[0, 1, 2, 3, 0]]).T, np.array([4]), np.zeros((2, 1), np.int16), most)


def _follow(mesh: _Mesh, model: nn.Sequential, plane: Plane, row: int) -> int:
    """Cut *mesh* by the units and the logits of *model*, write the winning classes into a row of labels; return K."""
    xy = mesh.values[: mesh.vertices, :2]
    values, shape = plane.points(xy[:, 0], xy[:, 1]), plane.shape
    stages = list(_stages(model))
    for depth, (affine, magnitude) in enumerate(stages):
        hidden = torch.from_numpy(values).reshape(-1, *shape)
        try:
            with torch.inference_mode():
                result = affine(hidden)
                scale = magnitude(hidden.abs().amax(0, keepdim=True))
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
    _envelope(mesh, row)
    return shape[0]


def _envelope(mesh: _Mesh, row: int) -> None:
    logits = mesh.values[: mesh.vertices, 2:]
    classes, tolerance = logits.shape[1], mesh.tolerance[2:].max()
    mesh.labels[row] = 0
    best, ahead = classes, classes + 1
    columns = np.concatenate([logits, logits[:, :1], logits[:, :1]], axis=1)
    mesh.set_values(columns, np.append(np.zeros(classes + 1), tolerance))
    for k in range(1, classes):
        values = mesh.values[: mesh.vertices, 2:]
        values[:, ahead] = values[:, k] - values[:, best]
        values[np.abs(values[:, ahead]) <= tolerance, ahead] = 0.0
        wins = mesh.cut(2 + ahead)
        mesh.labels[row, : len(wins)][wins] = k
        values = mesh.values[: mesh.vertices, 2:]
        np.maximum(values[:, best], values[:, k], out=values[:, best])


def _stages(model: nn.Module) -> Iterator[tuple[Callable, Callable]]:
    """Give, from ReLU to ReLU, the affine map and the same map of magnitudes, whose result bounds every sum's terms."""
    affine, magnitude = nn.Sequential(), nn.Sequential()
    for name, layer in _layers(model, ""):
        if type(layer) is nn.ReLU:
            yield affine, magnitude
            affine, magnitude = nn.Sequential(), nn.Sequential()
            continue
        kind = type(layer).__name__
        if type(layer) in _AFFINE_IN_EVAL and (layer.training or getattr(layer, "running_mean", 0) is None):
            raise ValueError(f"Layer {name!r} ({kind}) depends on the batch or on chance: put the model in eval mode.")
        if type(layer) not in _AFFINE + _AFFINE_IN_EVAL:
            raise ValueError(
                f"Layer {name!r} ({kind}) is neither affine nor ReLU: exact slices follow linear, convolution, average "
                "pooling, batch normalization and flattening layers in an nn.Sequential."
            )
        layer = copy.deepcopy(layer).double().requires_grad_(False)
        affine.append(layer)
        magnitude.append(_magnitude(layer))
    yield affine, magnitude


def _layers(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    if model._forward_hooks or model._forward_pre_hooks:
        raise ValueError(f"Layer {prefix or 'model'!r} has a hook, which may do anything: remove it.")
    if type(model) is not nn.Sequential:
        yield prefix or "model", model
        return
    for name, layer in model.named_children():
        yield from _layers(layer, f"{prefix}.{name}" if prefix else name)


def _magnitude(layer: nn.Module) -> nn.Module:
    layer = copy.deepcopy(layer)
    for parameter in layer.parameters():
        parameter.abs_()
    if getattr(layer, "running_mean", None) is not None:
        layer.running_mean.abs_().neg_()
    return layer


def _boundary(mesh: _Mesh, plane: Plane, winner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the edges between cells of different classes, (M, 2) corners, and their classes left and right."""
    rings = mesh.rings[:, : mesh.cells]
    start, end = rings[:-1].ravel(), rings[1:].ravel()
    cell = np.tile(np.arange(mesh.cells), len(rings) - 1)
    real = start != end
    start, end, cell = start[real], end[real], cell[real]
    key = np.minimum(start, end) * mesh.vertices + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    twin = key[order[1:]] == key[order[:-1]]
    one, two = order[:-1][twin], order[1:][twin]
    alone = np.ones(len(key), dtype=bool)
    alone[one] = alone[two] = False
    ends = mesh.values[np.stack([start[alone], end[alone]], axis=1), :2]
    if not ((ends == plane.low) | (ends == plane.high)).all(axis=1).any(axis=1).all():
        raise ValueError("Cells of the slice do not fit together: move the plane or scale the weights.")
    apart = winner[cell[one]] != winner[cell[two]]
    one, two = one[apart], two[apart]
    left = np.where(winner[cell[one]] < winner[cell[two]], one, two)
    edges = np.stack([start[left], end[left]], axis=1)
    return edges, np.sort(np.stack([winner[cell[one]], winner[cell[two]]], axis=1), axis=1)


def _junctions(edges: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the corners where three classes or more meet, with these classes."""
    ends, classes = np.repeat(edges.ravel(), 2), np.repeat(pairs, 2, axis=0).ravel()
    met = np.unique(np.stack([ends, classes], axis=1), axis=0)
    points, first, count = np.unique(met[:, 0], return_index=True, return_counts=True)
    points, first, count = points[count > 2], first[count > 2], count[count > 2]
    slot = np.arange(max(3, count.max(initial=3)))
    meeting = met[np.minimum(first[:, None] + slot, len(met) - 1), 1] if len(met) else np.empty((0, 3), int)
    return points, np.where(slot < count[:, None], meeting, -1)
