"""
Convex cells that tile the box of a slice: cut along the zero lines of values that are linear along every edge.

What :mod:`bqcore.metrics.exact_slices` works on. Everything is float64, and nothing depends on a grid.
"""

import numpy as np

from .planes import Plane

_MOST_VALUES = 1 << 28  # numbers at the corners, 2 GB: convolutions have many units, and small boxes suit them


class Mesh:
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
        """Set the *values* of a layer at every corner, 0 where they are within *tolerance* of it."""
        values[np.abs(values) <= tolerance] = 0.0
        # Room for the corners of the cuts to come, which is not taken before they come.
        longer = np.empty((2 * self.vertices, 2 + values.shape[1]))
        longer[: self.vertices, :2], longer[: self.vertices, 2:] = self.values[: self.vertices, :2], values
        self.values = longer
        self.tolerance = np.concatenate([[0.0, 0.0], tolerance])

    def cut(self, column: int) -> np.ndarray:
        """Cut the cells along a value's zero line; return which had a positive corner (that part keeps its place)."""
        sign = np.sign(self.values[: self.vertices, column]).astype(np.int8)
        around = sign.take(self.rings[:, : self.cells], mode="clip")
        positive = around.max(axis=0) > 0
        cut = np.flatnonzero(positive & (around.min(axis=0) < 0))
        if len(cut):
            self._cut(cut, column, sign)
        return positive

    def _cut(self, cut: np.ndarray, column: int, sign: np.ndarray) -> None:
        """
        Cut cells in two. A ring is turned so that its positive corners come first, and crosses the line twice:

                 1 ── 0              0, 1          positive: plus = 2 of count = 5 corners
                 │     ╲             2, 3, 4       negative or on the line
            ── leave ── enter ──     leave         where the ring leaves the positive side, between 1 and 2
                 │        ╲          enter         where it comes back, between 4 and 0
                 2 ── 3 ── 4

            positive ring: 0, 1, leave, enter, 0, …           keeps the cell's place
            negative ring: leave, 2, 3, 4, enter, leave, …    is appended
        """
        ring, count = self.rings[:, cut].T, self.corners[cut, None]
        self.history.append((cut, self.cells, ring, count[:, 0]))
        ring, plus = _turned(ring, count, sign)
        row, count = np.arange(len(cut)), count[:, 0]
        # A corner that is on the line already is where the ring leaves or enters: no new one, and none to list twice.
        after, before = ring[row, plus], ring[row, count - 1]
        inside, outside = np.concatenate([ring[row, plus - 1], ring[:, 0]]), np.concatenate([after, before])
        leave, enter = self._crossings(inside, outside, column, sign).reshape(2, -1)
        skip = plus + (after == leave) - 1
        below = count - plus - (after == leave) - (before == enter)  # corners besides the two on the line
        self._reserve(len(cut), max(plus.max(), below.max()) + 3)
        slot = np.arange(len(self.rings))[:, None]
        turned = np.concatenate([ring, np.repeat(ring[:, :1], len(self.rings) - ring.shape[1], axis=1)], axis=1)
        closing = np.where(slot == plus, leave, np.where(slot == plus + 1, enter, ring[:, 0]))
        positive = np.where(slot < plus, turned.T, closing)
        rest = turned[row, np.minimum(slot + skip, turned.shape[1] - 1)]
        negative = np.where((slot > 0) & (slot <= below), rest, np.where(slot == below + 1, enter, leave))
        new = slice(self.cells, self.cells + len(cut))
        self.rings[:, cut], self.corners[cut] = positive, plus + 2
        self.rings[:, new], self.corners[new], self.labels[:, new] = negative, below + 2, self.labels[:, cut]
        self.cells += len(cut)

    def _crossings(self, inside: np.ndarray, outside: np.ndarray, column: int, sign: np.ndarray) -> np.ndarray:
        """Return the corner on the line of edges from a positive corner: the other end if it is there, or a new one."""
        found, low, high = outside.copy(), np.minimum(inside, outside), np.maximum(inside, outside)
        crossed = sign[outside] < 0
        # The two cells beside an edge get one and the same corner.
        edge, which = np.unique(low[crossed] * self.vertices + high[crossed], return_inverse=True)
        low, high = self.values[edge // self.vertices], self.values[edge % self.vertices]
        way = low[:, column] / (low[:, column] - high[:, column])
        rows = low + way[:, None] * (high - low)
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
        """Return the area of each cell."""
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


def _turned(ring: np.ndarray, count: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn rings (C, W) of *count* corners so that the positive corners come first; return how many these are, too."""
    slot, row = np.arange(ring.shape[1]), np.arange(len(ring))[:, None]
    above = (sign[ring] > 0) & (slot < count)
    entry = above & ~above[row, (slot - 1) % count]
    if (entry.sum(axis=1) > 1).any():
        raise ValueError(
            "Lines on the slice lie closer than float64 can tell apart: move the plane or scale the weights."
        )
    return ring[row, (slot + entry.argmax(axis=1)[:, None]) % count], above.sum(axis=1)


def _longer(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Copy *array* into one at least twice as long along *axis*."""
    shape = list(array.shape)
    shape[axis] = max(length, 2 * shape[axis])
    out = np.zeros(shape, dtype=array.dtype)
    out[tuple(map(slice, array.shape))] = array
    return out


def box(plane: Plane, most: int) -> Mesh:
    """Return the box of *plane* as a mesh of one cell, which may be cut into *most* at most."""
    (left, bottom), (right, top) = np.asarray(plane.low, float), np.asarray(plane.high, float)
    if not (right > left and top > bottom and np.isfinite([left, bottom, right, top]).all()):
        raise ValueError(f"The box runs from {(left, bottom)} to {(right, top)}: give one of finite, positive area.")
    corners = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
    return Mesh(corners, np.array([[0, 1, 2, 3, 0]]).T, np.array([4]), np.zeros((2, 1), np.int16), most)


def envelope(mesh: Mesh, row: int) -> None:
    """
    Cut the cells where another logit becomes the largest; write the winning classes into a row of labels.

    The first class wins a tie, as only a positive difference counts.
    """
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


def boundary(mesh: Mesh, plane: Plane, winner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges between cells of different classes, (M, 2) corners, and their classes left and right."""
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


def junctions(edges: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners where three classes or more meet, with these classes."""
    ends, classes = np.repeat(edges.ravel(), 2), np.repeat(pairs, 2, axis=0).ravel()
    met = np.unique(np.stack([ends, classes], axis=1), axis=0)
    points, first, count = np.unique(met[:, 0], return_index=True, return_counts=True)
    points, first, count = points[count > 2], first[count > 2], count[count > 2]
    slot = np.arange(max(3, count.max(initial=3)))
    meeting = met[np.minimum(first[:, None] + slot, len(met) - 1), 1] if len(met) else np.empty((0, 3), int)
    return points, np.where(slot < count[:, None], meeting, -1)
