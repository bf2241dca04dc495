"""
Two-dimensional slices of a decision boundary: the plane, its label grid, boundary masks, junctions.

A slice is the plane x = origin + a · axis_1 + b · axis_2 over a box, with n × n nodes. Label grids have shape (n, n):
rows run along b, columns along a. Cells lie between four nodes, so cell arrays have shape (n − 1, n − 1). Labels are
those of float64.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .._checks import check_integer, check_labels, check_same_shape


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
