"""
The plane of a two-dimensional slice: its box, coordinates and principal axes, and how much of it lies in the data.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported when first used
from numpy.random import RandomState

from .._checks import check_finite, check_integer, check_share, to_numpy

_FULL = 1000  # values or inputs, whichever are fewer, up to which the full singular value decomposition is quick


@dataclass(frozen=True, eq=False)
class Plane:
    """
    Describe a slice: a box on the plane x = origin + a · axis_1 + b · axis_2 in input space.

    The axes are orthonormal, so that lengths on the slice are input units.

    Examples
    --------
    >>> import numpy as np
    >>> import bqcore as bq
    >>> plane = bq.Plane(np.zeros(3), np.eye(3)[:2], np.zeros(2), np.ones(2), np.ones(2) / 2, (3,))
    >>> plane.steps(5)
    (0.25, 0.25)
    >>> plane.points(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    array([[0. , 0.5, 0. ],
           [1. , 0.5, 0. ]])
    """

    origin: np.ndarray  # (D,)
    axes: np.ndarray  # (2, D)
    low: np.ndarray  # (2,) smallest a and b
    high: np.ndarray  # (2,) largest a and b
    explained: np.ndarray  # (2,) fraction of the variance along each axis
    shape: tuple[int, ...]  # of one input

    def nodes(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the n coordinates along each axis, ends included.

        The nodes of n are exactly every other node of 2n − 1, so that resolutions nest.
        """
        n = check_integer("Nodes a side", n, 2)
        t = np.arange(n) / (n - 1)
        return tuple((1 - t) * low + t * high for low, high in zip(self.low, self.high))

    def steps(self, n: int) -> tuple[float, float]:
        """Return the grid steps (h_a, h_b) for n nodes a side, in input units."""
        n = check_integer("Nodes a side", n, 2)
        h_a, h_b = (float(d) / (n - 1) for d in self.high - self.low)
        return h_a, h_b

    def points(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the inputs at the coordinates *a* and *b* (broadcast together), shape (..., D)."""
        a, b = np.broadcast_arrays(a, b)
        return self.origin + a[..., None] * self.axes[0] + b[..., None] * self.axes[1]

    def project(self, inputs) -> np.ndarray:
        """Return the slice coordinates (N, 2) of *inputs* (N, ...)."""
        return (to_numpy(inputs).reshape(len(inputs), -1) - self.origin) @ self.axes.T


def pca_plane(inputs, *, padding: float = 0.0) -> Plane:
    """
    Span the slice by the first two principal components of *inputs*, over the range of their scores.

    Parameters
    ----------
    inputs : array or tensor, shape (N, ...), N >= 3
        The split that the slice is fitted on.
    padding : float
        Fraction of the range added on each side, 0 to 1.

    Returns
    -------
    Plane
        Lengths in input units. The axes come from a singular value decomposition in float64 and have the signs that
        scikit-learn's PCA gives them; all is equal to its results to the last bit.

    Raises
    ------
    ValueError
        If inputs are not finite, fewer than three, or vary in fewer than two directions.

    Examples
    --------
    >>> import bqcore as bq
    >>> plane = bq.pca_plane([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [2.0, 1.0, 1.0], [2.0, -1.0, 1.0]])
    >>> plane.origin, plane.low, plane.high, plane.explained
    (array([2., 0., 1.]), array([-2., -1.]), array([2., 1.]), array([0.8, 0.2]))
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
    mean = flat.mean(axis=0)
    (first, second), axes, explained = _components(flat - mean)
    if second <= first * max(flat.shape) * np.finfo(float).eps:  # the rank is 1, as numpy has it
        raise ValueError(flatness)
    scores = flat @ axes.T - mean[None] @ axes.T
    low, high = scores.min(0), scores.max(0)
    margin = padding * (high - low)
    return Plane(mean, np.ascontiguousarray(axes), low - margin, high + margin, explained, array.shape[1:])


def _components(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return the first two singular values, components (2, D) and fractions of the variance, as scikit-learn's PCA does.

    Its steps and its layout of arrays in memory, in which sums are taken in the same order.
    """
    if min(centred.shape) <= _FULL:
        _, singular, rows = scipy.linalg.svd(centred, full_matrices=False)
        variance = singular**2 / (len(centred) - 1)
        singular, rows, explained = singular[:2], rows[:2].copy(order="K"), (variance / variance.sum())[:2]
    else:
        # A full decomposition would take minutes; this one gives the first two to the same accuracy in a second.
        start = RandomState(0).uniform(-1, 1, min(centred.shape))
        _, singular, rows = scipy.sparse.linalg.svds(centred, k=2, v0=start)
        singular, rows = singular[::-1], rows[::-1]
        spread = len(centred) - 1
        explained = singular**2 / spread / ((centred**2).sum() / spread)
    rows *= np.sign(rows[[0, 1], np.abs(rows).argmax(axis=1)])[:, None]  # the largest entry of each is positive
    return singular, rows, explained


def data_region(plane: Plane, inputs) -> np.ndarray:
    """
    Return the part of a slice where every value lies in the range that it has in *inputs*: a convex polygon.

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
    circle = scipy.optimize.linprog([0, 0, -1], A_ub=sides, b_ub=limits, bounds=[(None, None), (None, None), (0, None)])
    if circle.x is None or circle.x[2] <= 2 * slack:  # thinner than rounding is
        return np.empty((0, 2))
    corners = scipy.spatial.HalfspaceIntersection(np.column_stack([normals, -limits]), circle.x[:2]).intersections
    return corners[scipy.spatial.ConvexHull(corners).vertices]


def fraction_outside(plane: Plane, inputs) -> float:
    """Return the fraction of a slice's area that lies outside the :func:`data_region` of *inputs*, in [0, 1]."""
    corners = data_region(plane, inputs)
    if len(corners) == 0:
        return 1.0
    return max(0.0, 1.0 - float(scipy.spatial.ConvexHull(corners).volume / (plane.high - plane.low).prod()))
