"""
Two-dimensional slices of a decision boundary: the plane, its label grid, boundary masks, junctions.

A slice is the plane x = origin + a · axis_1 + b · axis_2 over a box, with n × n nodes. Label grids have shape (n, n):
rows run along b, columns along a. Cells lie between four nodes, so cell arrays have shape (n − 1, n − 1). Labels are
those of float64.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from sklearn.decomposition import PCA
from torch import nn

from .checks import check_finite, check_integer, check_labels, check_same_shape, check_share, to_numpy

_LEAST = 16  # nodes at a time at least: fewer leave a convolution idle
_CACHED = 2**17  # values of the first layer at a time: 1 MB stays in a core's cache
# float32 logits are off by some 1e-6 of the largest one; a top-2 gap below this share of it is a close call.
_CLOSE = 1e-3
_FULL = 1000  # values or inputs, whichever are fewer, up to which the full singular value decomposition is quick


@dataclass(frozen=True, eq=False)
class Plane:
    """A box on a plane in input space; the axes are orthonormal, so its coordinates are input units."""

    origin: np.ndarray  # (D,)
    axes: np.ndarray  # (2, D)
    low: np.ndarray  # (2,) smallest a and b
    high: np.ndarray  # (2,) largest a and b
    explained: np.ndarray  # (2,) share of the variance along each axis
    shape: tuple[int, ...]  # of one input

    def nodes(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Give the n coordinates along each axis, ends included.

        The nodes of n are exactly every other node of 2n − 1, so that resolutions nest.
        """
        n = check_integer("Nodes a side", n, 2)
        t = np.arange(n) / (n - 1)
        return tuple((1 - t) * low + t * high for low, high in zip(self.low, self.high))

    def steps(self, n: int) -> tuple[float, float]:
        """Give the grid steps (h_a, h_b) for n nodes a side, in input units."""
        n = check_integer("Nodes a side", n, 2)
        return tuple(float(d) / (n - 1) for d in self.high - self.low)

    def points(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Give the inputs at the coordinates *a* and *b* (broadcast together), shape (..., D)."""
        a, b = np.broadcast_arrays(a, b)
        return self.origin + a[..., None] * self.axes[0] + b[..., None] * self.axes[1]

    def project(self, inputs) -> np.ndarray:
        """Give the slice coordinates (N, 2) of *inputs* (N, ...)."""
        return (to_numpy(inputs).reshape(len(inputs), -1) - self.origin) @ self.axes.T


class Jaccard(NamedTuple):
    """Boundary-mask Jaccard distance; ``both_empty`` says that there was no boundary to compare."""

    distance: float
    both_empty: bool


class Transition(NamedTuple):
    """
    Cells of a path of label grids between two quantization levels.

    Changed cells, visited cells and their neighbourhoods are taken from one step to the next and pooled over the steps.
    """

    junctions: np.ndarray  # (S,) junction cells at each step
    union: int  # cells that are a junction cell at some step
    union_changed: int  # of these, the ones inside the changed region
    changed: int  # the changed region: cells with a corner whose label changes at some step
    share_changed: float  # share of the cells that the boundary visits that change
    share_near: float  # share of the changed cells within one cell of a junction; NaN if nothing changed
    chance_boundary: float  # the same share of all cells that the boundary visits: chance along the boundary
    chance_slice: float  # the same share of all cells: chance anywhere on the slice
    rearranged: int  # cells, summed over the steps, that stay on the boundary while the set of classes there changes
    share_rearranged_near: float  # share of these within one cell of a junction; NaN if there is none


def pca_plane(inputs, *, padding: float = 0.0) -> Plane:
    """
    Span the slice by the first two principal components of *inputs*, over the range of their scores.

    Parameters
    ----------
    inputs : array or tensor, shape (N, ...), N >= 3
        The split that the slice is fitted on.
    padding : float
        Share of the range added on each side, 0 to 1.

    Returns
    -------
    Plane
        Axes by singular value decomposition in float64, signs fixed by scikit-learn's rule.

    Raises
    ------
    ValueError
        If inputs are not finite, fewer than three, or vary in fewer than two directions.
    """
    padding = check_share("Padding", padding)
    array = to_numpy(inputs)
    if array.ndim < 2 or len(array) < 3 or array[0].size < 2:
        raise ValueError(f"Inputs have shape {array.shape}: a PCA slice needs at least 3 samples of at least 2 values.")
    flat = array.reshape(len(array), -1).astype(np.float64)
    check_finite("Inputs", flat, "clean the data before fitting a slice", ("sample", "value"))
    flatness = f"The {len(flat)} inputs vary in fewer than two directions: they span no plane."
    if (flat == flat[0]).all():
        raise ValueError(flatness)
    # Where a full decomposition takes minutes, an iterative one gives the first two to the same accuracy in a second.
    solver = "full" if min(flat.shape) <= _FULL else "arpack"
    pca = PCA(2, svd_solver=solver, random_state=0).fit(flat)
    first, second = pca.singular_values_
    if second <= first * max(flat.shape) * np.finfo(float).eps:  # the rank is 1, as numpy has it
        raise ValueError(flatness)
    scores = pca.transform(flat)
    low, high = scores.min(0), scores.max(0)
    margin = padding * (high - low)
    return Plane(
        pca.mean_, np.ascontiguousarray(pca.components_), low - margin, high + margin, pca.explained_variance_ratio_,
        array.shape[1:],
    )  # fmt: skip


def data_region(plane: Plane, inputs) -> np.ndarray:
    """
    Give the part of a slice where every value lies in the range that it has in *inputs*: a convex polygon.

    Outside of it lie points that no input is like: pixels darker than black, for instance.

    Parameters
    ----------
    plane : Plane
    inputs : array or tensor, shape (N, ...)
        The data: for instance those that the slice is fitted on.

    Returns
    -------
    corners : float array, shape (V, 2)
        In slice coordinates, counter-clockwise; V = 0 if there is no such part. A value may be beyond its range by
        1e-9 of all values' range, which is far above what rounding does.

    Raises
    ------
    ValueError
        If the inputs are not finite or not of the plane's shape.
    """
    flat = to_numpy(inputs).reshape(len(inputs), -1)
    if flat.shape[1] != len(plane.origin):
        raise ValueError(
            f"Inputs have {flat.shape[1]} values and the plane {len(plane.origin)}: give inputs like its own."
        )
    check_finite("Inputs", flat, "clean the data", ("sample", "value"))
    low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
    slack = 1e-9 * (high.max() - low.min())
    normals = np.concatenate([plane.axes.T, -plane.axes.T, np.eye(2), -np.eye(2)])
    limits = np.concatenate([high - plane.origin + slack, plane.origin - low + slack, plane.high, -plane.low])
    # The largest circle in it has the point inside that the intersection needs.
    sides = np.column_stack([normals, np.linalg.norm(normals, axis=1)])
    circle = linprog([0, 0, -1], A_ub=sides, b_ub=limits, bounds=[(None, None), (None, None), (0, None)])
    if circle.x is None or circle.x[2] <= 2 * slack:  # thinner than rounding is
        return np.empty((0, 2))
    corners = HalfspaceIntersection(np.column_stack([normals, -limits]), circle.x[:2]).intersections
    return corners[ConvexHull(corners).vertices]


def share_outside(plane: Plane, inputs) -> float:
    """Give the share of a slice's area that lies outside the :func:`data_region` of *inputs*, in [0, 1]."""
    corners = data_region(plane, inputs)
    if len(corners) == 0:
        return 1.0
    return max(0.0, 1.0 - float(ConvexHull(corners).volume / (plane.high - plane.low).prod()))


def slice_labels(classifier: Callable, plane: Plane, n: int, *, batch_size: int | None = None) -> np.ndarray:
    """
    Label every node of an n × n grid on *plane*.

    A torch module is evaluated in a float64 copy on the CPU; where it is an nn.Sequential that starts with a linear
    layer (after flattening) or a convolution, that layer is folded onto the plane: its output is affine in the two
    coordinates. If it starts with a convolution, it is evaluated in float32 first, and in float64 where that is a close
    call. Any other callable gets float64 arrays.

    Parameters
    ----------
    classifier : torch module in eval mode, or callable
        Inputs (N, ...) to logits (N, K) or to integer labels (N,).
    plane : Plane
    n : int
        Nodes a side, at least 2.
    batch_size : int, optional
        Nodes that go through the classifier at once; it bounds the memory. By default as many as a core's cache takes.

    Returns
    -------
    labels : int16 array, shape (n, n)

    Raises
    ------
    ValueError
        If the classifier's output is neither finite logits nor labels from 0 to 32767, or it takes other inputs.
    """
    n = check_integer("Nodes a side", n, 2)
    batch_size = None if batch_size is None else check_integer("Batch size", batch_size, 1)
    out = np.empty((n, n), dtype=np.int16)
    with torch.inference_mode():
        evaluate, values = _evaluator(classifier, plane, *plane.nodes(n))
        batch_size = batch_size or max(_LEAST, _CACHED // values)
        height, width = max(1, batch_size // n), min(n, batch_size)
        for top in range(0, n, height):
            for left in range(0, n, width):
                block = slice(top, top + height), slice(left, left + width)
                out[block] = _labels_of(evaluate(*block), out[block].shape, (top, left))
    return out


def _evaluator(classifier: Callable, plane: Plane, a: np.ndarray, b: np.ndarray) -> tuple[Callable, int]:
    """Turn *classifier* into a function of a block of the grid a × b, and give the values a node has there at first."""

    def points(rows: slice, columns: slice) -> np.ndarray:
        return plane.points(a[columns], b[rows, None]).reshape(-1, *plane.shape)

    if not isinstance(classifier, nn.Module):
        return lambda rows, columns: classifier(points(rows, columns)), len(plane.origin)
    model = copy.deepcopy(classifier).to("cpu", torch.float64)
    # A subclass or a hook may do more than its layers say.
    plain = type(model) is nn.Sequential and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    layers = list(model) if plain else []
    shape = plane.shape
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers, shape = layers[1:], (len(plane.origin),)
    kind = {1: nn.Linear, 3: nn.Conv2d}.get(len(shape))
    if not layers or type(layers[0]) is not kind:
        return lambda rows, columns: model(torch.from_numpy(points(rows, columns))), len(plane.origin)
    first, rest = layers[0], nn.Sequential(*layers[1:])
    taken = first.in_features if kind is nn.Linear else first.in_channels
    if taken != shape[0]:
        raise ValueError(
            f"The classifier takes {taken} {'values' if kind is nn.Linear else 'channels'} and the plane lies in "
            f"{'×'.join(map(str, plane.shape))}: span the plane by the classifier's own inputs."
        )
    for layer in rest:
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # its input below is fresh
    offset = first(torch.from_numpy(plane.origin).view(1, *shape))
    first.bias = None
    slope_a, slope_b = first(torch.from_numpy(plane.axes).view(2, *shape))
    if kind is nn.Conv2d:  # channels last, as convolutions in float32 are quicker
        offset, slope_a, slope_b = (values.movedim(-3, -1) for values in (offset, slope_a, slope_b))
    form, offset = offset.shape[1:], offset.ravel()
    along_b = torch.from_numpy(b)[:, None] * slope_b.ravel() + offset
    along_a = torch.from_numpy(a)[:, None] * slope_a.ravel()
    if kind is nn.Conv2d:
        quick = copy.deepcopy(rest).to(torch.float32, memory_format=torch.channels_last)
        values = len(offset) // 4  # the layers behind the first gain from more nodes at a time
        return partial(_close_calls_in_float64, rest, quick, along_a, along_b, form), values
    buffer = torch.empty(0, dtype=torch.float64)  # fresh memory a block would take half the time

    def sums(in_a: torch.Tensor, in_b: torch.Tensor) -> torch.Tensor:
        shape = np.broadcast_shapes(in_a.shape, in_b.shape)  # torch's own takes longer than the sum
        if buffer.numel() < math.prod(shape):
            buffer.resize_(math.prod(shape))
        return torch.add(in_a, in_b, out=buffer[: math.prod(shape)].view(shape))

    def folded(rows: slice, columns: slice) -> torch.Tensor:
        return rest(sums(along_a[columns], along_b[rows, None]).view(-1, *form))

    if not all(type(layer) is nn.ReLU or type(layer) is nn.Linear and layer.bias is not None for layer in rest):
        return folded, len(offset)
    # Products that give few classes, and maxima over these, take less time where nodes, not classes, lie side by side.
    turned_a, turned_b = along_a.T.contiguous(), along_b.T.contiguous()

    def folded_and_turned(rows: slice, columns: slice) -> torch.Tensor:
        hidden = sums(turned_a[:, None, columns], turned_b[:, rows, None]).flatten(1)
        for layer in rest:
            hidden = hidden.relu_() if type(layer) is nn.ReLU else layer.bias[:, None].addmm(layer.weight, hidden)
        return hidden.T

    return folded_and_turned, len(offset)


def _close_calls_in_float64(
    exact: nn.Module, quick: nn.Module, along_a, along_b, form: tuple[int, ...], rows: slice, columns: slice
) -> torch.Tensor:
    """
    Give logits of a block of the grid whose largest one is that of *exact*, which is called where *quick* is not sure.

    Convolutions take four to five times as long in float64. The nodes that both see tell how far *quick* is off; if
    that is anywhere near what counts as close, *exact* does it all.
    """
    in_a, in_b = along_a[columns], along_b[rows, None]
    hidden = (in_a + in_b).view(-1, *form).movedim(-1, 1)
    logits = quick(hidden.float()).double()
    if logits.ndim != 2 or logits.shape[1] < 2:
        return logits  # refused by its shape later
    top, close = logits.topk(2).values, _CLOSE * logits.abs().amax(1)
    again = ~(top[:, 0] - top[:, 1] > close)  # also where it is not finite
    again[0] = True
    found = exact(hidden[again].contiguous())
    if not ((found - logits[again]).abs().amax(1) < close[again] / 30).all():
        return exact(hidden.contiguous())
    logits[again] = found
    return logits


def _labels_of(output, shape: tuple[int, int], start: tuple[int, int]) -> np.ndarray:
    """Turn *output* at a block of nodes, of *shape* and beginning at the row and column *start*, into labels."""
    count = shape[0] * shape[1]
    array = to_numpy(output)
    if array.ndim == 1 and array.dtype.kind in "iu" and len(array) == count:
        if array.min() < 0 or array.max() > np.iinfo(np.int16).max:
            raise ValueError(f"The classifier's labels run from {array.min()} to {array.max()}: give 0 to 32767.")
        return array.reshape(shape)
    if array.ndim != 2 or len(array) != count or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"The classifier gave shape {array.shape} of {array.dtype} for {count} nodes: "
            "expected logits (N, K >= 2) or integer labels (N,)."
        )
    place = ("row", "column", "class")
    check_finite("Logits on the slice", array.reshape(*shape, -1), "the model diverged there", place, start)
    if isinstance(output, torch.Tensor):
        return output.max(dim=1).indices.numpy().reshape(shape)  # as argmax, ties included, in a third of the time
    return array.argmax(axis=1).reshape(shape)


def corner_classes(labels: np.ndarray) -> np.ndarray:
    """
    Count the distinct labels on the four corners of each grid cell.

    Parameters
    ----------
    labels : int array, shape (n, m), n and m >= 2
        Predicted class at each node.

    Returns
    -------
    counts : uint8 array, shape (n - 1, m - 1), from 1 to 4

    Raises
    ------
    ValueError
        If *labels* is not two-dimensional or has fewer than two nodes along an axis.

    Examples
    --------
    >>> corner_classes(np.array([[0, 0, 1], [0, 2, 1]]))
    array([[2, 3]], dtype=uint8)
    """
    labels = check_labels(labels, "Grid labels", ndim=2)
    if min(labels.shape) < 2:
        raise ValueError(f"Grid labels have shape {labels.shape}: a cell needs two nodes along each axis.")
    p, q, r, s = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    counts = 1 + (q != p).astype(np.uint8)
    counts += (r != p) & (r != q)
    counts += (s != p) & (s != q) & (s != r)
    return counts


def boundary_mask(labels: np.ndarray) -> np.ndarray:
    """
    Mark the grid cells that a decision boundary crosses: those whose four corners do not share one label.

    The mask is one cell thick, so any measure made from it depends on the grid step: report the step with it.

    Parameters
    ----------
    labels : int array, shape (n, m)

    Returns
    -------
    mask : bool array, shape (n - 1, m - 1)

    Examples
    --------
    >>> boundary_mask(np.array([[0, 0, 1], [0, 0, 1]]))
    array([[False,  True]])
    """
    return corner_classes(labels) > 1


def junction_cells(labels: np.ndarray) -> np.ndarray:
    """
    Mark the multiclass junctions: the triple-junction cells, with at least three distinct labels on their corners.

    Parameters
    ----------
    labels : int array, shape (n, m)

    Returns
    -------
    junctions : bool array, shape (n - 1, m - 1)

    Examples
    --------
    >>> junction_cells(np.array([[0, 0, 1], [0, 2, 1]]))
    array([[False,  True]])
    """
    return corner_classes(labels) >= 3


def thickened(mask: np.ndarray, cells: int = 1) -> np.ndarray:
    """
    Thicken a boundary mask by *cells* on every side, diagonals included: a coarser ruler on the same grid.

    Examples
    --------
    >>> thickened(np.array([[False, False, False, True]]))
    array([[False, False,  True,  True]])
    """
    cells = check_integer("Cells", cells, 1)
    return ndimage.maximum_filter(np.asarray(mask, dtype=bool), 2 * cells + 1, mode="constant")


def boundary_jaccard(mask_a: np.ndarray, mask_b: np.ndarray) -> Jaccard:
    """
    Give the boundary-mask Jaccard distance 1 − |A ∩ B| / |A ∪ B|: 0 for equal masks, 1 for disjoint ones.

    Parameters
    ----------
    mask_a, mask_b : bool arrays of one shape, on the same grid

    Returns
    -------
    Jaccard
        Distance 0 with ``both_empty`` set if neither mask has a cell; 1 if just one is empty.

    Examples
    --------
    >>> boundary_jaccard(np.array([[True, True]]), np.array([[True, False]]))
    Jaccard(distance=0.5, both_empty=False)
    """
    a, b = (np.asarray(mask, dtype=bool) for mask in (mask_a, mask_b))
    check_same_shape("The first mask", a, "the second", b)
    union = int(np.count_nonzero(a | b))
    if union == 0:
        return Jaccard(0.0, True)
    return Jaccard(1.0 - int(np.count_nonzero(a & b)) / union, False)


def effective_displacement(distance, steps: tuple[float, float]):
    """
    Turn a boundary-mask Jaccard distance into the straight-line shift that would cause it, d_eff = w J / (2 − J).

    w = 2 (h_a + h_b) / π is the mean width of a one-cell mask over all directions (4h/π on square cells). Unlike J,
    d_eff does not depend on the grid step, as long as the shift is below it.

    Parameters
    ----------
    distance : float or array in [0, 1]
    steps : (h_a, h_b) in input units

    Returns
    -------
    d_eff : float or array, input units
    """
    width = 2.0 * (steps[0] + steps[1]) / np.pi
    return width * distance / (2.0 - distance)


def grid_change(labels_a: np.ndarray, labels_b: np.ndarray) -> float:
    """
    Give the grid prediction change: the share of nodes whose label differs, in [0, 1].

    Parameters
    ----------
    labels_a, labels_b : int arrays of one shape (n, m)
    """
    a, b = (check_labels(labels, "Grid labels", ndim=2) for labels in (labels_a, labels_b))
    check_same_shape("The first grid's labels", a, "the second's", b)
    return float((a != b).mean())


def transition(path: np.ndarray) -> Transition:
    """
    Say where a slice reconfigures along a path of label grids between two quantization levels.

    If visible reconfigurations sit at multiclass junctions, ``share_near`` exceeds ``chance_boundary``, the share to
    expect if changes fell anywhere along the boundary.

    Parameters
    ----------
    path : int array, shape (S, n, n), S >= 2
        Labels at successive interpolation steps, both ends included.

    Returns
    -------
    Transition
    """
    path = np.asarray(path)
    if path.ndim != 3 or len(path) < 2:
        raise ValueError(f"The path of label grids has shape {path.shape}: give (S, n, n) with S >= 2.")
    counts = np.stack([corner_classes(labels) for labels in path])
    junctions, masks = counts >= 3, counts > 1
    moved = path[1:] != path[:-1]
    changed = moved[:, :-1, :-1] | moved[:, :-1, 1:] | moved[:, 1:, :-1] | moved[:, 1:, 1:]
    visited = masks[1:] | masks[:-1] | changed
    either = junctions[1:] | junctions[:-1]
    near = ndimage.maximum_filter(either, (1, 3, 3), mode="constant")
    union, union_changed = junctions.any(axis=0), changed.any(axis=0)
    rearranged = _rearranged(path, masks)
    share = [float(near[cells].mean()) if cells.any() else np.nan for cells in (changed, visited, rearranged)]
    return Transition(
        junctions=junctions.sum(axis=(1, 2)),
        union=int(union.sum()),
        union_changed=int((union & union_changed).sum()),
        changed=int(union_changed.sum()),
        share_changed=float(changed.sum() / visited.sum()) if visited.any() else 0.0,
        share_near=share[0],
        chance_boundary=share[1],
        chance_slice=float(near.mean()),
        rearranged=int(rearranged.sum()),
        share_rearranged_near=share[2],
    )


def _rearranged(path: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mark, from each step to the next, the cells on both boundaries whose corners hold another set of classes."""
    out = masks[1:] & masks[:-1]
    step, row, column = np.nonzero(out)
    before, after = (
        np.stack([path[step + later, row + i, column + j] for i in (0, 1) for j in (0, 1)], axis=1) for later in (0, 1)
    )
    same = before[:, :, None] == after[:, None, :]
    out[step, row, column] = ~(same.any(axis=2).all(axis=1) & same.any(axis=1).all(axis=1))
    return out
