"""
Cells of a label grid: boundary masks, multiclass junctions, and what changes on the way between two label grids.

Label grids have shape (n, n) on a slice: rows run along b, columns along a. Cells lie between four nodes, so arrays of
cells have shape (n − 1, n − 1).
"""

from typing import NamedTuple

import numpy as np

from .._checks import check_integer, check_labels, check_same_shape


class Jaccard(NamedTuple):
    """Boundary-mask Jaccard distance; ``both_empty`` says that there was no boundary to compare."""

    distance: float
    both_empty: bool


class Transition(NamedTuple):
    """
    Count cells of a path of label grids between two bit-widths.

    Changed cells, visited cells and their neighbourhoods are taken from one step to the next and pooled over the steps.
    """

    junctions: np.ndarray  # (S,) junction cells at each step
    union: int  # cells that are a junction cell at some step
    union_changed: int  # of these, the ones inside the changed region
    changed: int  # the changed region: cells with a corner whose label changes at some step
    share_changed: float  # fraction of the cells that the boundary visits that change
    share_near: float  # fraction of the changed cells within one cell of a junction; NaN if nothing changed
    chance_boundary: float  # the same fraction of all cells that the boundary visits: chance along the boundary
    chance_slice: float  # the same fraction of all cells: chance anywhere on the slice
    rearranged: int  # cells, summed over the steps, that stay on the boundary while the set of classes there changes
    share_rearranged_near: float  # fraction of these within one cell of a junction; NaN if there is none


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
    >>> import numpy as np
    >>> corner_classes(np.array([[0, 0, 1], [0, 2, 1]]))
    array([[2, 3]], dtype=uint8)
    """
    labels = check_labels(labels, "Grid labels", ndim=2)
    if min(labels.shape) < 2:
        raise ValueError(f"Grid labels have shape {labels.shape}: a cell needs two nodes along each axis.")
    # As one long row, the corners p q / r s of its cells side by side, which takes a third of the time; behind a row's
    # last cell comes one across the edge, which is left out in the end.
    row, width = labels.ravel(), labels.shape[1]
    across, down = row[1:] != row[:-1], row[width:] != row[:-width]
    counts = np.ones((len(labels) - 1, width), dtype=np.uint8)
    cells = counts.ravel()[:-1]
    cells += across[:-width]  # q is not p
    cells += down[:-1] & (row[width:-1] != row[1:-width])  # r is neither
    cells += (row[width + 1 :] != row[: -width - 1]) & down[1:] & across[width:]  # s is none of them
    return np.ascontiguousarray(counts[:, :-1])


def boundary_mask(labels: np.ndarray) -> np.ndarray:
    """
    Mark the grid cells that a decision boundary crosses: those whose four corners do not share one label.

    The mask is one cell thick, so any measure made from it depends on the grid step: report the step with it.

    Parameters
    ----------
    labels : int array, shape (n, m), n and m >= 2
        Predicted class at each node.

    Returns
    -------
    mask : bool array, shape (n - 1, m - 1)

    Raises
    ------
    ValueError
        As :func:`corner_classes`.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> bq.boundary_mask(np.array([[0, 0, 1], [0, 0, 1]]))
    array([[False,  True]])
    """
    return corner_classes(labels) > 1


def junction_cells(labels: np.ndarray) -> np.ndarray:
    """
    Mark the multiclass junctions: the triple-junction cells, with at least three distinct labels on their corners.

    Parameters
    ----------
    labels : int array, shape (n, m), n and m >= 2
        Predicted class at each node.

    Returns
    -------
    junctions : bool array, shape (n - 1, m - 1)

    Raises
    ------
    ValueError
        As :func:`corner_classes`.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> bq.junction_cells(np.array([[0, 0, 1], [0, 2, 1]]))
    array([[False,  True]])
    """
    return corner_classes(labels) >= 3


def thickened(mask: np.ndarray, cells: int = 1) -> np.ndarray:
    """
    Thicken a boundary mask by *cells* on every side, diagonals included: a coarser ruler on the same grid.

    Examples
    --------
    >>> import numpy as np
    >>> thickened(np.array([[False, False, False, True]]))
    array([[False, False,  True,  True]])
    """
    cells = check_integer("Cells", cells, 1)
    out = np.asarray(mask, dtype=bool)
    for _ in range(cells):
        out = _grown(out)
    return out


def _grown(masks: np.ndarray) -> np.ndarray:
    """Thicken masks (..., n, m) by a cell on every side; scipy's maximum filter takes six times as long."""
    along_b = masks.copy()
    along_b[..., 1:, :] |= masks[..., :-1, :]
    along_b[..., :-1, :] |= masks[..., 1:, :]
    out = along_b.copy()
    out[..., 1:] |= along_b[..., :-1]
    out[..., :-1] |= along_b[..., 1:]
    return out


def boundary_jaccard(mask_a: np.ndarray, mask_b: np.ndarray) -> Jaccard:
    """
    Measure the boundary-mask Jaccard distance 1 − |A ∩ B| / |A ∪ B|: 0 for equal masks, 1 for disjoint ones.

    Parameters
    ----------
    mask_a, mask_b : bool arrays of one shape, on the same grid
        For instance of :func:`boundary_mask`.

    Returns
    -------
    Jaccard
        Distance 0 with ``both_empty`` set if neither mask has a cell; 1 if just one is empty. It grows towards 1 as the
        grid gets finer: report the grid step with it.

    Raises
    ------
    ValueError
        If the masks differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> bq.boundary_jaccard(np.array([[True, True]]), np.array([[True, False]]))
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
    Return the straight-line shift that would cause a boundary-mask Jaccard distance, d_eff = w J / (2 − J).

    w = 2 (h_a + h_b) / π is the mean width of a one-cell mask over all directions (4h/π on square cells). Unlike J,
    d_eff does not depend on the grid step, as long as the shift is below it. It inverts the law of
    :mod:`bqcore.metrics.finite_scale` there; :func:`bqcore.metrics.finite_scale.implied_displacement` does everywhere.

    Parameters
    ----------
    distance : float or array, 0 to 1
    steps : (h_a, h_b)
        Grid steps, in input units, above 0; neither is checked.

    Returns
    -------
    d_eff : float or array
        In input units, from 0 to w.

    Examples
    --------
    >>> import bqcore as bq
    >>> round(bq.effective_displacement(0.5, (0.03, 0.03)), 4)
    0.0127
    """
    width = 2.0 * (steps[0] + steps[1]) / np.pi
    return width * distance / (2.0 - distance)


def transition(path: np.ndarray) -> Transition:
    """
    Measure where a slice reconfigures along a path of label grids between two bit-widths.

    If visible reconfigurations sit at multiclass junctions, ``share_near`` exceeds ``chance_boundary``, the fraction to
    expect if changes fell anywhere along the boundary.

    Parameters
    ----------
    path : int array, shape (S, n, m), S, n and m >= 2
        Labels at successive interpolation steps, both ends included.

    Returns
    -------
    Transition
        Counts of cells, and fractions from 0 to 1.

    Raises
    ------
    ValueError
        If *path* has another shape or no integer labels.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> before, after = np.zeros((3, 3), int), np.array([[0, 0, 0], [0, 0, 0], [0, 1, 2]])
    >>> found = bq.transition(np.stack([before, after]))
    >>> found.junctions, found.changed, found.share_near
    (array([0, 1]), 2, 1.0)
    """
    return transition_with_junctions(path)[0]


def transition_with_junctions(path: np.ndarray) -> tuple[Transition, np.ndarray]:
    """Return :func:`transition` of *path*, and where the junction cells are at each step, (S, n - 1, m - 1)."""
    path = np.asarray(path)
    if path.ndim != 3 or len(path) < 2:
        raise ValueError(f"The path of label grids has shape {path.shape}: give (S, n, n) with S >= 2.")
    counts = np.stack([corner_classes(labels) for labels in path])
    junctions, masks = counts >= 3, counts > 1
    moved = path[1:] != path[:-1]
    beside = moved[..., :-1] | moved[..., 1:]
    changed = beside[:, :-1] | beside[:, 1:]
    visited = masks[1:] | masks[:-1] | changed
    near = _grown(junctions[1:] | junctions[:-1])
    union, union_changed = (np.logical_or.reduce(cells) for cells in (junctions, changed))
    rearranged = _rearranged(path, masks[1:] & masks[:-1] & changed)
    nearby = [_fraction(near & cells, cells) if cells.any() else np.nan for cells in (changed, visited, rearranged)]
    found = Transition(
        junctions=np.count_nonzero(junctions, axis=(1, 2)),
        union=_count(union),
        union_changed=_count(union & union_changed),
        changed=_count(union_changed),
        share_changed=_fraction(changed, visited) if visited.any() else 0.0,
        share_near=nearby[0],
        chance_boundary=nearby[1],
        chance_slice=_count(near) / near.size,
        rearranged=_count(rearranged),
        share_rearranged_near=nearby[2],
    )
    return found, junctions


def _count(cells: np.ndarray) -> int:
    return int(np.count_nonzero(cells))


def _fraction(some: np.ndarray, cells: np.ndarray) -> float:
    return _count(some) / _count(cells)


def _rearranged(path: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Mark, from each step to the next, those of *cells* whose corners hold another set of classes then."""
    out, found = np.zeros_like(cells), np.flatnonzero(cells)
    step, row, column = np.unravel_index(found, cells.shape)  # np.nonzero takes ten times as long
    corners = [(row + i, column + j) for i in (0, 1) for j in (0, 1)]
    before, after = ([path[step + later, *corner] for corner in corners] for later in (0, 1))
    same = np.ones(len(step), dtype=bool)
    for some, others in ((before, after), (after, before)):
        for one in some:
            same &= (one == others[0]) | (one == others[1]) | (one == others[2]) | (one == others[3])
    out.ravel()[found] = ~same
    return out
