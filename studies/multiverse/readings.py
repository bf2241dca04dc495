"""
Other readings of the paper's words than the baseline's: masks, junction counts, planes, displacements.

Each is defensible from the abstract; :mod:`studies.multiverse.sweep` crosses them. Grids, planes and masks are those of
:mod:`bqcore.metrics.masks`; classifiers are callables as in :mod:`bqcore.metrics.margins`.
"""

from collections.abc import Callable
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from bqcore._checks import (
    check_choice,
    check_finite,
    check_labels,
    check_logits,
    check_same_shape,
    check_share,
    to_numpy,
)
from bqcore.metrics import masks, planes

MOST_CLASSES = 11  # the pairs of 11 classes are 55 bits of a cell's word
GRADIENTS = ("float gradient", "quantized gradient", "in-plane gradient", "change of radius")
PAIRS = ("top-2 pair", "nearest pair")
COUNTS = ("corner cells", "3×3 windows", "components")
SUMMARIES = ("later level", "most in a step", "union", "union where it changes")


def node_mask(labels: np.ndarray, *, sides: str) -> np.ndarray:
    """
    Mark the nodes of a label grid (n, m) that have another label than a 4-neighbour: bool, of the same shape.

    "two" *sides* marks both nodes of each differing pair (scikit-image's "thick"), "one" only that of lower indices.

    >>> node_mask(np.array([[0, 0, 1], [0, 0, 1]]), sides="one").astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    """
    labels = check_labels(labels, "Grid labels", ndim=2)
    check_choice("Sides", sides, ("one", "two"))
    right, up = labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:]
    mask = np.zeros(labels.shape, bool)
    mask[:, :-1] |= right
    mask[:-1] |= up
    if sides == "two":
        mask[:, 1:] |= right
        mask[1:] |= up
    return mask


def pair_mask(labels: np.ndarray) -> np.ndarray:
    """
    Mark, for each pair of the classes 0 to 10, the cells of a label grid (n, m) that have both on their corners.

    Bit i + j (j − 1) / 2 of a cell, uint64 (n - 1, m - 1), is set where the classes i < j are.

    >>> pair_mask(np.array([[0, 0, 1], [0, 2, 1]])).tolist()
    [[2, 7]]
    """
    labels = check_labels(labels, "Grid labels", ndim=2)
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise ValueError(f"Grid labels run from {labels.min()} to {labels.max()}: give 0 to {MOST_CLASSES - 1}.")
    boundary = masks.boundary_mask(labels)
    row, column = np.nonzero(boundary)  # the other cells, most of them, have no pair
    corners = labels[row, column], labels[row, column + 1], labels[row + 1, column], labels[row + 1, column + 1]
    mask = np.zeros(boundary.shape, np.uint64)
    mask[boundary] = reduce(np.bitwise_or, (_BITS[pair] for pair in combinations(corners, 2)))
    return mask


def _pair_bits() -> np.ndarray:
    i, j = np.indices((MOST_CLASSES, MOST_CLASSES))
    low, high = np.minimum(i, j), np.maximum(i, j)
    return np.where(i == j, np.uint64(0), np.uint64(1) << (low + high * (high - 1) // 2).astype(np.uint64))


_BITS = _pair_bits()
MASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cells": masks.boundary_mask,
    "one-sided nodes": lambda labels: node_mask(labels, sides="one"),
    "two-sided nodes": lambda labels: node_mask(labels, sides="two"),
    "thick cells": lambda labels: masks.thickened(masks.boundary_mask(labels)),
    "cells by class pair": pair_mask,
}


def mask_jaccard(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """
    Return the Jaccard distance of two masks of one kind of :data:`MASKS`: 0 if both are empty.

    Of two of :func:`pair_mask`, a cell counts once for each pair of classes.

    >>> mask_jaccard(np.array([[7]], np.uint64), np.array([[1]], np.uint64)) == 1 - 1 / 3
    True
    """
    a, b = np.asarray(mask_a), np.asarray(mask_b)
    if a.dtype != np.uint64 and b.dtype != np.uint64:
        return masks.boundary_jaccard(a, b).distance
    if a.dtype != b.dtype:
        raise ValueError(f"The masks are of {a.dtype} and {b.dtype}: compare two of one kind.")
    check_same_shape("The first mask", a, "the second", b)
    union = int(np.bitwise_count(a | b).sum(dtype=np.int64))
    return 1.0 - int(np.bitwise_count(a & b).sum(dtype=np.int64)) / union if union else 0.0


def junction_counts(path: np.ndarray) -> np.ndarray:
    """
    Count the junctions of a transition in every way of :data:`COUNTS` and :data:`SUMMARIES`.

    *path* (S, n, n) are label grids, 0 to 62, both ends included. Cells with three labels or more on their corners;
    windows of 3 × 3 nodes with three or more; groups of such cells that touch, diagonals included. In each way: at the
    end of the path; the most at a step; at some step; at some step and where a label changes at some step.
    """
    path = check_labels(path, "The path of label grids", ndim=3)
    if len(path) < 2 or min(path.shape[1:]) < 3:
        raise ValueError(f"The path of label grids has shape {path.shape}: give (S, n, n) with S >= 2 and n >= 3.")
    if path.min() < 0 or path.max() > 62:
        raise ValueError(f"The path's labels run from {path.min()} to {path.max()}: give 0 to 62.")
    word = np.uint16 if path.max() < 16 else np.uint64
    present = np.left_shift(word(1), path.astype(word))
    moved = (path[1:] != path[:-1]).any(axis=0)
    corners, windows = ((np.bitwise_count(_pooled(present, size)) >= 3, _pooled(moved, size)) for size in (2, 3))
    groups = _summaries(*corners, lambda one: ndimage.label(one, np.ones((3, 3)))[1])
    return np.array([_summaries(*corners, np.count_nonzero), _summaries(*windows, np.count_nonzero), groups])


def _pooled(grids: np.ndarray, size: int) -> np.ndarray:
    """Join each window of *size* nodes a side by bitwise or, along the last two axes."""
    for axis in (-2, -1):
        length = grids.shape[axis] - size + 1
        grids = reduce(np.bitwise_or, (grids.take(range(i, i + length), axis) for i in range(size)))
    return grids


def _summaries(where: np.ndarray, changed: np.ndarray, count: Callable[[np.ndarray], int]) -> list[int]:
    union = where.any(axis=0)
    return [count(where[-1]), max(count(one) for one in where), count(union), count(union & changed)]


def plane_through(points, *, padding: float = 0.0) -> planes.Plane:
    """
    Span the slice by three images (3, ...), over the box that holds them, and *padding* times its sides on each side;
    the first axis leads from the first image to the second.
    """
    padding = check_share("Padding", padding)
    array = to_numpy(points)
    if array.ndim < 2 or len(array) != 3 or array[0].size < 2:
        raise ValueError(f"The points have shape {array.shape}: give three of at least two values.")
    flat = array.reshape(3, -1).astype(np.float64)
    check_finite("The points", flat, "take other images", ("point", "value"))
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    length = np.linalg.norm(first)
    along = first / length if length else first
    across = second - (second @ along) * along
    height = np.linalg.norm(across)
    if not length or height <= 1e-9 * np.linalg.norm(second):
        raise ValueError("The three points lie on a line: they span no plane.")
    axes = np.stack([along, across / height])
    scores = (flat - flat[0]) @ axes.T
    low, high = scores.min(0), scores.max(0)
    margin = padding * (high - low)
    return planes.Plane(flat[0], axes, low - margin, high + margin, np.full(2, np.nan), array.shape[1:])


class Linearized(NamedTuple):
    """Logits (N, K) at some inputs, and their gradients (N, K, D)."""

    logits: np.ndarray
    gradients: np.ndarray


def linearize(classifier: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Linearized:
    """Return the logits and all their gradients at *inputs* (N, ...)."""
    leaf = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier(leaf)
        check_logits(logits)
        weights = torch.eye(logits.shape[1], dtype=logits.dtype)[:, None].expand(-1, *logits.shape)
        gradients = torch.autograd.grad(logits, leaf, weights, is_grads_batched=True)[0]
    return Linearized(logits.detach().numpy(), gradients.flatten(2).transpose(0, 1).numpy())


def displacements(reference: Linearized, candidate: Linearized, axes: np.ndarray) -> np.ndarray:
    """
    Return the magnitude of the local boundary shift in every way of :data:`GRADIENTS` and :data:`PAIRS`: (4, 2, N).

    The change of the margin of the float classifier's pair over the norm of that margin's gradient: of the float
    classifier; of the quantized one; of the float one within the plane of the orthonormal *axes* (2, D). Or the change
    of the local radius, each classifier with its own pair. The pair is the decision with the runner-up, or with the
    rival whose boundary is nearest to first order. In input units; NaN or infinite where a gradient vanishes.
    """
    check_same_shape("Reference gradients", reference.gradients, "candidate gradients", candidate.gradients)
    axes = np.asarray(axes, dtype=np.float64)
    if axes.shape != (2, reference.gradients.shape[2]):
        raise ValueError(f"The axes have shape {axes.shape} for {reference.gradients.shape[2]} inputs: give (2, D).")
    out = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for kind in PAIRS:
            pair = _pair(reference, kind)
            (m_f, g_f), (m_q, g_q) = _margin(reference, pair), _margin(candidate, pair)
            change, length = np.abs(m_q - m_f), np.linalg.norm(g_f, axis=1)
            own, own_gradient = _margin(candidate, _pair(candidate, kind))
            radius_change = np.abs(own / np.linalg.norm(own_gradient, axis=1) - m_f / length)
            lengths = (length, np.linalg.norm(g_q, axis=1), np.linalg.norm(g_f @ axes.T, axis=1))
            out.append([*(change / one for one in lengths), radius_change])
    return np.array(out).swapaxes(0, 1)


def _margin(at: Linearized, pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows, (a, b) = np.arange(len(at.logits)), pair
    return at.logits[rows, a] - at.logits[rows, b], at.gradients[rows, a] - at.gradients[rows, b]


def _pair(at: Linearized, kind: str) -> tuple[np.ndarray, np.ndarray]:
    rows, first = np.arange(len(at.logits)), at.logits.argmax(axis=1)
    gaps = at.logits[rows, first][:, None] - at.logits
    if kind == PAIRS[1]:
        gaps = gaps / np.linalg.norm(at.gradients[rows, first][:, None] - at.gradients, axis=2)
        gaps[np.isnan(gaps)] = np.inf
    gaps[rows, first] = np.inf
    return first, gaps.argmin(axis=1)
