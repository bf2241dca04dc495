"""
The plane of a two-dimensional slice: its box, coordinates and principal axes, and how much of it lies in the data.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from sklearn.decomposition import PCA

from .._checks import check_finite, check_integer, check_share, to_numpy

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
        h_a, h_b = (float(d) / (n - 1) for d in self.high - self.low)
        return h_a, h_b

    def points(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Give the inputs at the coordinates *a* and *b* (broadcast together), shape (..., D)."""
        a, b = np.broadcast_arrays(a, b)
        return self.origin + a[..., None] * self.axes[0] + b[..., None] * self.axes[1]

    def project(self, inputs) -> np.ndarray:
        """Give the slice coordinates (N, 2) of *inputs* (N, ...)."""
        return (to_numpy(inputs).reshape(len(inputs), -1) - self.origin) @ self.axes.T


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
